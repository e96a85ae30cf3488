r"""Recipes: how a molecule becomes noise, what the network predicts, and how the end of the way is read.

A recipe turns the `MoleculeSpec` of some data into a `Process`, a padded batch into its state and a state back into
classes, and carries the choices that belong to the noise: weights over time, distribution of the training time, solver.

* `Flow`: straight path, classes kept with probability 1 - t; with Student-t noise PFGM++ on the positions.
* `EQGATDiff`: tables of noise levels of their own for positions, types and bonds; categorical or all-Gaussian, with
  labels of the atoms if wished.
* `EDMPoints`: positions and types as one Gaussian cloud, bonds from distances.

References: Irwin et al. 2024 (SemlaFlow); Xu et al. 2023 (PFGM++); Le et al. 2024 (EQGAT-diff), section 3; Hoogeboom et
al. 2022 (EDM), section 3 and appendix B.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from molecules.anchors import Anchored, MoleculeDenoiser, held_pairs, held_sites
from molecules.atom_features import ATOM_FEATURES, checked_features
from molecules.data.spec import MoleculeSpec
from molecules.fake_atoms import drawn_counts, extended_marginals, with_fake_atoms
from molecules.stability import edm_bond_orders
from scidiff.configurable import Configurable
from scidiff.discrete import Categorical
from scidiff.laws import NoiseLaw
from scidiff.losses import TimeLaw
from scidiff.noise import Free, Space, Symmetric, ZeroMean
from scidiff.process import Component, Process
from scidiff.schedules import DiscreteVP, Linear, Schedule

__all__ = ["EDMPoints", "EQGATDiff", "Flow", "Prior", "Recipe"]

Prior = Literal["marginal", "uniform", "mask"]
_GRID_POWER = 1.5
_CLASSES = ("atom", "charge", "bond")
_FEATURE_WEIGHTS = {"ring": 0.5, "aromatic": 0.7, "hybridisation": 1.0}
_PAIR_SCALE = math.sqrt(2)  # see `EQGATDiff`


class Recipe(Configurable):
    """Base class; a subclass says what the components are.

    Attributes:
        prediction: What the network says about each continuous component.
        weighting: Weight over time of each continuous component, as for `scidiff.losses.DenoisingLoss`.
        loss_weights: Default weights of the components.
        reduction: Mean or sum over the numbers of a molecule.
        has_bonds: Whether bonds and charges are generated (else bonds come from distances).
        is_discrete: Whether types are categorical.
        atom_features: Labels of the atoms that are generated, too, see `molecules.atom_features`.
        solver: Default solver of the positions.
        steps: Default number of steps.
        is_denoised: Whether the last prediction is returned rather than the last state.
    """

    prediction: Mapping[str, str] = {"pos": "edm"}
    weighting: Mapping[str, str] = {"pos": "edm"}
    loss_weights: Mapping[str, float]
    reduction: Literal["mean", "sum"] = "mean"
    has_bonds: bool = True
    is_discrete: bool = True
    atom_features: tuple[str, ...] = ()
    solver: str = "ddim"
    steps: int = 50
    is_denoised: bool = True

    @abstractmethod
    def process(self, spec: MoleculeSpec, *, anchored: bool = False) -> Process:
        """Schedules, laws and spaces; ``anchored`` leaves the atoms in ``cond["fixed"]`` as they are."""

    def denoiser(
        self, network: Any, spec: MoleculeSpec, *, anchored: bool = False, self_conditioning: bool = False
    ) -> MoleculeDenoiser:
        """The network with the process of this recipe."""
        return MoleculeDenoiser(
            network,
            self.process(spec, anchored=anchored),
            prediction=dict(self.prediction),
            self_conditioning=self_conditioning,
            masked=self.masked(),
        )

    def masked(self) -> tuple[str, ...]:
        """Components whose last class is the mask, which no prediction may name."""
        return ()

    def scale(self, spec: MoleculeSpec) -> float:
        """Length of one unit of the positions in angstrom."""
        return 1.0

    def class_counts(self, spec: MoleculeSpec) -> dict[str, int]:
        """Channels of the network's inputs by component, 0 for those that are not there."""
        return {
            "atom": spec.num_atom_classes,
            "charge": spec.num_charge_classes,
            "bond": spec.num_bond_classes,
            **{name: len(ATOM_FEATURES[name]) for name in self.atom_features},
        }

    def time_law(self) -> TimeLaw:
        """Default distribution of the training time."""
        return TimeLaw("beta")

    def time_weight(self, t: Tensor) -> Tensor | None:
        """Weight (B,) of a molecule's whole loss; None for 1."""
        return None

    def augment(
        self, batch: Mapping[str, Tensor], spec: MoleculeSpec, generator: torch.Generator | None = None
    ) -> Mapping[str, Tensor]:
        """The batch a training step sees."""
        return batch

    def places(self, sizes: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Places of molecules of ``sizes`` atoms that are drawn, from numbers ``u`` in [0, 1)."""
        return sizes

    def grid(self, steps: int) -> Tensor:
        """Times of a sampler with ``steps`` steps: (1 - k/steps)^1.5.

        SemlaFlow's (Irwin et al. 2024) fall geometrically from 1 to 0.01; its long first steps leave wrong valences.
        """
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** _GRID_POWER

    def encode(self, batch: Mapping[str, Tensor], spec: MoleculeSpec) -> dict[str, Tensor]:
        """State of a padded batch (see `molecules.data.batches.Batch`)."""
        return {"pos": batch["pos"] / self.scale(spec), **{name: batch[name] for name in self._discrete()}}

    def decode(self, state: Mapping[str, Tensor], spec: MoleculeSpec) -> dict[str, np.ndarray]:
        """``pos`` in angstrom, ``atom``, ``charge`` and ``bond`` as class indices."""
        arrays = {name: state[name].cpu().numpy() for name in _CLASSES}
        return {"pos": _lengths(state["pos"], self.scale(spec)), **arrays}

    def shapes(self, b: int, n: int, spec: MoleculeSpec) -> dict[str, tuple[int, ...]]:
        """Shape of the state of ``b`` molecules padded to ``n`` atoms."""
        return {"pos": (b, n, 3), **{name: (b, n, n) if name == "bond" else (b, n) for name in self._discrete()}}

    def _discrete(self) -> tuple[str, ...]:
        """Components that are classes in the data."""
        return (*_CLASSES, *self.atom_features)


class Flow(Recipe):
    """Straight path of unit-scale positions; classes stay with probability 1 - t, else come from their prior.

    Positions are predicted with EDM preconditioning, whose loss is the velocity-like error at every noise level. A
    Student-t law with D degrees of freedom makes the positions a Poisson flow: x_t/(1 - t) = x_0 + sigma eps with
    sigma = t/(1 - t) = r/sqrt(D) is the perturbation of PFGM++ in the 3 (n - 1) dimensions of the centred molecule.

    Args:
        law: Law of the noise of the positions; normal by default.
        prior: Classes at t = 1: shares of the training data, equal shares, or one more class that stands for "unknown".
        fake_atoms: Largest number of spare places as a share of the atoms, see `molecules.fake_atoms`; 0 for none. With
            some, ``n_atoms`` of a sample is the number of places, of which the model leaves some empty.

    Raises:
        ValueError: If ``prior`` is unknown, or ``fake_atoms`` outside [0, 1] or beside fixed parts.

    References: Lipman et al. 2023; Irwin et al. 2024; Xu et al. 2023, eq. 4; Dunn and Koes 2025 (fake atoms).
    """

    loss_weights: Mapping[str, float] = {"pos": 1.0, "atom": 0.4, "charge": 1.0, "bond": 2.0}

    def __init__(self, law: NoiseLaw | None = None, prior: Prior = "marginal", fake_atoms: float = 0.0) -> None:
        self.law = law
        self.prior: Prior = _checked(prior)
        if not 0 <= fake_atoms <= 1:
            raise ValueError(f"fake_atoms is a share in [0, 1], got {fake_atoms}.")
        self.fake_atoms = fake_atoms

    def process(self, spec: MoleculeSpec, *, anchored: bool = False) -> Process:
        """One time for all components."""
        if anchored and self.fake_atoms:
            raise ValueError("fake atoms and training with fixed parts exclude each other: choose one.")
        shares = extended_marginals(spec, self.fake_atoms) if self.fake_atoms else _marginals(spec)
        return _joint(shares, Linear(), dict.fromkeys(_CLASSES, Linear()), self.law, self.prior, anchored)

    def masked(self) -> tuple[str, ...]:
        return _CLASSES if self.prior == "mask" else ()

    def scale(self, spec: MoleculeSpec) -> float:
        """The standard deviation of the training data."""
        return spec.pos_std

    def class_counts(self, spec: MoleculeSpec) -> dict[str, int]:
        counts = super().class_counts(spec)
        return _with_masks({**counts, "atom": counts["atom"] + int(self.fake_atoms > 0)}, self.prior)

    def augment(
        self, batch: Mapping[str, Tensor], spec: MoleculeSpec, generator: torch.Generator | None = None
    ) -> Mapping[str, Tensor]:
        return with_fake_atoms(batch, spec, self.fake_atoms, generator) if self.fake_atoms else batch

    def places(self, sizes: np.ndarray, u: np.ndarray) -> np.ndarray:
        return sizes + drawn_counts(sizes, self.fake_atoms, u) if self.fake_atoms else sizes


class EQGATDiff(Recipe):
    r"""EQGAT-diff: a table of T noise levels for each component, x0 prediction, weights clamped to [0.05, 1.5].

    With u_k = (k + 1)/(T + 1) every component has abar_k = cos^2(pi/2 (u_k^nu + s)/(1 + s)), divided by its value at
    u = 0. For positions abar is the signal coefficient itself, sigma^2 = 1 - abar^2; for classes the keep probability.
    Positions are in angstrom. A molecule's loss has the weight clamp(abar/(1 - abar), 0.05, 1.5) with the abar of nu =
    1. The published loss halves the mean over bonds: its weight 2 is 1 here. Times are continuous, uniform over [1/T,
    1], where the paper draws k from 1..T; between the levels log abar is linear.

    With ``types="gaussian"`` one-hot vectors get normal noise and are predicted with a squared error. There the noise
    of bonds is (E + E^T)/2, of variance 1/2 off the diagonal; ours has variance 1, and one-hot vectors of bonds are
    multiplied by sqrt(2) instead.

    With ``atom_features`` labels of the atoms are generated, too, on the table of the atoms, with the weights 0.5, 0.7
    and 1 of the published code for ring, aromaticity and hybridisation. The ratio above is then that of the table of
    bonds, clamped to [0.05, 5]. The data module has to compute the same labels.

    Args:
        num_levels: T.
        nu: Exponent of each component; 2.5, 1, 1, 1.5 for pos, atom, charge, bond (all-Gaussian: bond 1), 1 for labels.
        prior: Classes at t = 1 (categorical types): training shares, equal shares, or the absorbing mask.
        types: ``"categorical"`` or ``"gaussian"``.
        atom_features: Labels, any of ``"ring"``, ``"aromatic"``, ``"hybridisation"``.

    Raises:
        ValueError: If an argument is unknown; later, if the data has no such labels.

    References: Le et al. 2024, section 3 and appendix (schedules, weights, absorbing and continuous variants), and its
    published code (labels of the atoms).
    """

    prediction: Mapping[str, str] = {"pos": "x0"}
    weighting: Mapping[str, str] = {"pos": "x0"}
    loss_weights: Mapping[str, float] = {"pos": 3.0, "atom": 0.4, "charge": 1.0, "bond": 1.0}
    solver = "ancestral"
    steps = 500
    is_denoised = False

    def __init__(
        self,
        num_levels: int = 500,
        nu: Mapping[str, float] | None = None,
        prior: Prior = "marginal",
        types: Literal["categorical", "gaussian"] = "categorical",
        atom_features: Sequence[str] = (),
    ) -> None:
        if types not in ("categorical", "gaussian"):
            raise ValueError(f"types must be 'categorical' or 'gaussian', got {types!r}.")
        self.atom_features = checked_features(atom_features)
        self.loss_weights = {**self.loss_weights, **{name: _FEATURE_WEIGHTS[name] for name in self.atom_features}}
        defaults = {"pos": 2.5, "atom": 1.0, "charge": 1.0, "bond": 1.5 if types == "categorical" else 1.0}
        defaults |= dict.fromkeys(self.atom_features, 1.0)
        if unknown := set(nu or {}) - set(defaults):
            raise ValueError(f"nu has the keys {sorted(defaults)}, got {sorted(unknown)}.")
        self.num_levels = num_levels
        self.prior: Prior = _checked(prior)
        self.is_discrete = types == "categorical"
        if not self.is_discrete:
            self.prediction = self.weighting = dict.fromkeys(defaults, "x0")
        self.tables = {
            name: DiscreteVP.cosine_adaptive(value, num_levels) for name, value in {**defaults, **(nu or {})}.items()
        }
        self._weights = self.tables["bond"] if self.atom_features else DiscreteVP.cosine_adaptive(1.0, num_levels)
        self._largest_weight = 5.0 if self.atom_features else 1.5

    def process(self, spec: MoleculeSpec, *, anchored: bool = False) -> Process:
        """Categorical classes with their keep probabilities, or one-hot vectors with normal noise."""
        if lacking := [name for name in self.atom_features if name not in spec.atom_features]:
            raise ValueError(
                f"the recipe generates {', '.join(lacking)} of the atoms, which the data lacks: give the data module "
                f"atom_features={list(self.atom_features)}."
            )
        if anchored and self.atom_features:
            raise ValueError("atom features and training with fixed parts exclude each other: choose one.")
        if self.is_discrete:
            shares = _marginals(spec) | {name: spec.atom_features[name] for name in self.atom_features}
            return _joint(shares, self.tables["pos"], self.tables, None, self.prior, anchored)
        _refuse_anchors(anchored)
        spaces: dict[str, Space] = {"pos": ZeroMean(), **dict.fromkeys(self._discrete(), Free()), "bond": Symmetric()}
        return Process({name: Component(self.tables[name], space=space) for name, space in spaces.items()})

    def masked(self) -> tuple[str, ...]:
        return self._discrete() if self.prior == "mask" and self.is_discrete else ()

    def class_counts(self, spec: MoleculeSpec) -> dict[str, int]:
        counts = super().class_counts(spec)
        return _with_masks(counts, self.prior) if self.is_discrete else counts

    def time_law(self) -> TimeLaw:
        return TimeLaw("uniform", t_min=1 / self.num_levels)

    def time_weight(self, t: Tensor) -> Tensor:
        """clamp(abar/(1 - abar), 0.05, 1.5), see the class."""
        kept = self._weights.alpha(t.double())
        return (kept / (1 - kept)).clamp(0.05, self._largest_weight).to(t.dtype)

    def grid(self, steps: int) -> Tensor:
        """Equal steps from level T to level 0, whose state is the molecule."""
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)

    def encode(self, batch: Mapping[str, Tensor], spec: MoleculeSpec) -> dict[str, Tensor]:
        state = super().encode(batch, spec)
        if self.is_discrete:
            return state
        mask = batch["node_mask"]
        counts, dtype = self.class_counts(spec), batch["pos"].dtype
        names = [name for name in self._discrete() if name != "bond"]
        sites = {name: one_hot(state[name], counts[name]).to(dtype) * mask[..., None] for name in names}
        pairs = mask[:, :, None] & mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        bonds = _PAIR_SCALE * one_hot(state["bond"], counts["bond"]).to(dtype) * pairs[..., None]
        return {**sites, "pos": state["pos"], "bond": bonds}

    def decode(self, state: Mapping[str, Tensor], spec: MoleculeSpec) -> dict[str, np.ndarray]:
        if self.is_discrete:
            return super().decode(state, spec)
        classes = {name: state[name].argmax(-1) for name in _CLASSES}
        return super().decode({"pos": state["pos"], **classes}, spec)

    def shapes(self, b: int, n: int, spec: MoleculeSpec) -> dict[str, tuple[int, ...]]:
        shapes = super().shapes(b, n, spec)
        if self.is_discrete:
            return shapes
        counts = self.class_counts(spec)
        return {name: shape if name == "pos" else (*shape, counts[name]) for name, shape in shapes.items()}


class EDMPoints(Recipe):
    """EDM: one Gaussian cloud of positions, one-hot types over 4 and atomic numbers over 10; the noise is predicted.

    alpha^2 = (1 - (k/T)^2)^2 with step ratios clipped at 0.001 and precision s = 1e-5. Bonds of a sample come from
    distances and types by the lookup table of the EDM protocol, formal charges are 0. The loss is half the squared
    error of the noise, summed over a molecule. Where the paper draws p(x, h | z_0) at the end, the prediction at level
    0 is returned (the difference is noise of 0.003 units).

    Args:
        num_levels: T.
        type_scale: Factor of the one-hot vectors.
        number_scale: Factor of the atomic numbers.

    References: Hoogeboom et al. 2022, appendix B and C (schedule, scales), and its published configuration of QM9.
    """

    prediction: Mapping[str, str] = dict.fromkeys(("pos", "atom", "number"), "eps")
    weighting: Mapping[str, str] = prediction
    loss_weights: Mapping[str, float] = dict.fromkeys(("pos", "atom", "number"), 0.5)
    reduction = "sum"
    has_bonds = False
    is_discrete = False
    solver = "ancestral"
    steps = 1000

    def __init__(self, num_levels: int = 1000, type_scale: float = 0.25, number_scale: float = 0.1) -> None:
        self.num_levels, self.type_scale, self.number_scale = num_levels, type_scale, number_scale
        self.table = DiscreteVP.polynomial(num_levels)

    def process(self, spec: MoleculeSpec, *, anchored: bool = False) -> Process:
        """The same schedule for all components."""
        _refuse_anchors(anchored)
        spaces: dict[str, Space] = {"pos": ZeroMean(), "atom": Free(), "number": Free()}
        return Process({name: Component(self.table, space=space) for name, space in spaces.items()})

    def class_counts(self, spec: MoleculeSpec) -> dict[str, int]:
        return {"atom": spec.num_atom_classes, "charge": 0, "bond": 0, "number": 1}

    def time_law(self) -> TimeLaw:
        return TimeLaw("uniform", t_min=1 / self.num_levels)

    def grid(self, steps: int) -> Tensor:
        """Equal steps from level T to level 0."""
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)

    def encode(self, batch: Mapping[str, Tensor], spec: MoleculeSpec) -> dict[str, Tensor]:
        pos, live = batch["pos"], batch["node_mask"][..., None].to(batch["pos"].dtype)
        numbers = torch.tensor(spec.numbers, dtype=pos.dtype, device=pos.device)[batch["atom"]][..., None]
        types = one_hot(batch["atom"], spec.num_atom_classes).to(pos.dtype)
        return {"pos": pos, "atom": self.type_scale * types * live, "number": self.number_scale * numbers * live}

    def decode(self, state: Mapping[str, Tensor], spec: MoleculeSpec) -> dict[str, np.ndarray]:
        atom, pos = state["atom"].argmax(-1).cpu().numpy(), _lengths(state["pos"], 1.0)
        neutral = int(np.argmin(np.abs(np.array(spec.charges))))
        bonds = edm_bond_orders(np.array(spec.numbers)[atom], pos)
        return {"pos": pos, "atom": atom, "charge": np.full_like(atom, neutral), "bond": bonds}

    def shapes(self, b: int, n: int, spec: MoleculeSpec) -> dict[str, tuple[int, ...]]:
        return {"pos": (b, n, 3), "atom": (b, n, spec.num_atom_classes), "number": (b, n, 1)}


def _marginals(spec: MoleculeSpec) -> dict[str, tuple[float, ...]]:
    return {"atom": spec.atom_marginal, "charge": spec.charge_marginal, "bond": spec.bond_marginal}


def _joint(
    shares: Mapping[str, tuple[float, ...]],
    schedule: Schedule,
    keep: Mapping[str, Schedule],
    law: NoiseLaw | None,
    prior: Prior,
    anchored: bool,
) -> Process:
    """Positions with a schedule, categorical atoms, charges and bonds."""
    sites, pairs = (held_sites(), held_pairs()) if anchored else (Free(), Symmetric())
    classes = {
        name: Categorical(_prior(share, prior), keep[name], pairs if name == "bond" else sites)
        for name, share in shares.items()
    }
    return Process({"pos": Component(schedule, law, Anchored() if anchored else ZeroMean()), **classes})


def _prior(shares: tuple[float, ...], prior: Prior) -> list[float]:
    if prior == "uniform":
        return [1.0] * len(shares)
    return [*shares] if prior == "marginal" else [*([0.0] * len(shares)), 1.0]


def _with_masks(counts: dict[str, int], prior: Prior) -> dict[str, int]:
    return {name: count + int(prior == "mask") for name, count in counts.items()}


def _checked(prior: Prior) -> Prior:
    if prior not in ("marginal", "uniform", "mask"):
        raise ValueError(f"prior must be 'marginal', 'uniform' or 'mask', got {prior!r}.")
    return prior


def _refuse_anchors(anchored: bool) -> None:
    if anchored:
        raise ValueError("training with fixed parts needs categorical types: use Flow or a categorical EQGATDiff.")


def _lengths(pos: Tensor, scale: float) -> np.ndarray:
    return pos.cpu().numpy().astype(np.float64) * scale
