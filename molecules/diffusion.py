"""`MoleculeDiffusion`: joint training of positions, atom types, charges and bonds through the common core."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from molecules.data.spec import MoleculeSpec
from molecules.networks.pairformer import PairFormer
from scidiff import random
from scidiff.configurable import build
from scidiff.couplings import Coupling, EquivariantOT, Independent
from scidiff.denoiser import Denoiser
from scidiff.discrete import Categorical
from scidiff.losses import DenoisingLoss, TimeLaw
from scidiff.noise import Symmetric, ZeroMean
from scidiff.process import Component, Process
from scidiff.schedules import Linear
from scidiff.training import CONFIG_KEY, DiffusionModule, StepLoss

__all__ = ["LOSS_WEIGHTS", "MoleculeDiffusion", "flow_process"]

LOSS_WEIGHTS = {"pos": 1.0, "atom": 0.4, "charge": 1.0, "bond": 2.0}


def flow_process(spec: MoleculeSpec) -> Process:
    """Straight path of unit-scale positions; classes stay with probability 1 - t, else come from the marginals."""
    return Process(
        {
            "pos": Component(Linear(), space=ZeroMean()),
            "atom": Categorical(spec.atom_marginal),
            "charge": Categorical(spec.charge_marginal),
            "bond": Categorical(spec.bond_marginal, space=Symmetric()),
        }
    )


class MoleculeDiffusion(DiffusionModule):
    """Generative model of 3D molecules with explicit bonds and formal charges.

    The state is ``{"pos", "atom", "charge", "bond"}``; positions are divided by the standard deviation of the training
    data and predicted with EDM preconditioning, whose loss is the velocity-like error at every noise level, so that
    bond lengths are learnt where they are decided, at small t. Classes are predicted as logits.

    Args:
        network: Only its arguments are used: the class counts come from the data, and weights start anew. `PairFormer`
            by default.
        spec: Vocabulary and statistics; taken from the data module when training starts, if absent.
        loss_weights: Weight of each component; default ``LOSS_WEIGHTS``.
        coupling: ``"equivariant_ot"`` pairs noise and molecule by assignment and rotation; or ``"independent"``.
        self_conditioning: Probability of a training step with the network's own earlier prediction as input; 0 turns
            self-conditioning off.
        time_law: Distribution of the training time; density 2 (1 - t) by default.
        lr: Peak learning rate.
        warmup_steps: Steps of the linear warm-up.
        lr_end: Final learning rate as a fraction of ``lr``.
        ema: Decay of the weight average; None for none.
        noise_seed: Seed of training and validation noise.
        compile: Run the network through ``torch.compile`` in training.

    Raises:
        ValueError: If an argument is outside its range; when training starts, if the data has another vocabulary.

    References: Le et al. 2024 (EQGAT-diff), section 3 (joint generation, x0 prediction); Irwin et al. 2024 (SemlaFlow),
    section 3 (flow matching, self-conditioning); Karras et al. 2022, eq. 7-8 (preconditioning).
    """

    def __init__(
        self,
        network: PairFormer | None = None,
        *,
        spec: MoleculeSpec | None = None,
        loss_weights: Mapping[str, float] | None = None,
        coupling: Literal["equivariant_ot", "independent"] = "equivariant_ot",
        self_conditioning: float = 0.5,
        time_law: TimeLaw | None = None,
        lr: float = 1e-3,
        warmup_steps: int = 300,
        lr_end: float = 0.02,
        ema: float | None = 0.999,
        noise_seed: int = 0,
        compile: bool = False,
    ) -> None:
        weights = {**LOSS_WEIGHTS, **(loss_weights or {})}
        super().__init__(
            loss=DenoisingLoss(weights, weighting={"pos": "edm"}),
            time_law=time_law if time_law is not None else TimeLaw("beta"),
            lr=lr,
            warmup_steps=warmup_steps,
            lr_end=lr_end,
            ema=ema,
            noise_seed=noise_seed,
            compile=compile,
        )
        if set(weights) != set(LOSS_WEIGHTS):
            raise ValueError(f"loss_weights has the keys {sorted(LOSS_WEIGHTS)}, got {sorted(weights)}.")
        if not 0 <= self_conditioning <= 1:
            raise ValueError(f"self_conditioning is a probability, got {self_conditioning}.")
        if coupling not in ("equivariant_ot", "independent"):
            raise ValueError(f"coupling must be 'equivariant_ot' or 'independent', got {coupling!r}.")
        self.self_conditioning = self_conditioning
        self.coupling: Coupling = EquivariantOT() if coupling == "equivariant_ot" else Independent()
        self._template = (network if network is not None else PairFormer()).to_config()
        self.spec: MoleculeSpec | None = None
        if spec is not None:
            self._adopt(spec)

    def configure_model(self) -> None:
        """Take the vocabulary from the data module, once; later data must have the same one."""
        spec = getattr(getattr(self.trainer, "datamodule", None), "spec", None)
        if self.spec is None:
            if not isinstance(spec, MoleculeSpec):
                raise ValueError("no vocabulary: fit with a MoleculeDataModule, or build the module with spec=.")
            self._adopt(spec)
        elif isinstance(spec, MoleculeSpec):
            _check_vocabulary(self.spec, spec)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another vocabulary, whose classes would silently change their meaning."""
        config = json.loads(checkpoint.get(CONFIG_KEY, "{}")).get("init_args", {}).get("spec")
        if config is not None and self.spec is not None:
            _check_vocabulary(build(config), self.spec)

    def prepare(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], None, dict[str, Any]]:
        """State in unit scale, no endpoint, and the node mask."""
        assert self.spec is not None
        state = {name: batch[name] for name in ("atom", "charge", "bond")}
        return {"pos": batch["pos"] / self.spec.pos_std, **state}, None, {"node_mask": batch["node_mask"]}

    def training_loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> StepLoss:
        """Coupled noise, optional self-conditioning, loss per molecule."""
        state, _, cond = self.prepare(batch)
        process: Process = self.denoiser.process
        pos = state["pos"]
        t = self.sample_time(len(pos), generator)
        z = random.drawn(torch.randn, pos.shape, generator=generator, device=pos.device, dtype=pos.dtype)
        noise = self.coupling.couple(pos, process.continuous["pos"].space.project(z, cond), cond)
        x_t, _ = process.perturb(state, t, {"pos": noise}, generator=generator, cond=cond)
        chance = torch.rand((), generator=generator, device=generator.device)
        if self.self_conditioning > 0 and bool(chance < self.self_conditioning):
            with torch.no_grad():
                cond = {**cond, "self_cond": self.denoiser(x_t, t, cond).x0}
        result = self.loss(self.denoiser, state, t, x_t=x_t, cond=cond)
        return StepLoss(result.total, result.parts, t)

    def _adopt(self, spec: MoleculeSpec) -> None:
        """Build the network for the classes of ``spec``, and remember both as constructor arguments."""
        network = _with_classes(self._template, spec)
        prediction = {"pos": "edm"}
        self.spec = spec
        self.denoiser = Denoiser(
            network, flow_process(spec), prediction=prediction, self_conditioning=self.self_conditioning > 0
        )
        self._remember(spec=spec, network=network)


def _check_vocabulary(model: MoleculeSpec, data: MoleculeSpec) -> None:
    if not model.has_vocabulary_of(data):
        raise ValueError(
            f"the model was built for {model}, but the data is {data}: elements, charges, hydrogens and bond classes "
            "must be the same. Prepare the data with the elements of the model, or train a new one."
        )


def _with_classes(template: Mapping[str, Any], spec: MoleculeSpec) -> Any:
    """The network of a configuration, with the class counts of ``spec``."""
    counts = {
        "atom_classes": spec.num_atom_classes,
        "charge_classes": spec.num_charge_classes,
        "bond_classes": spec.num_bond_classes,
    }
    return build({**template, "init_args": {**template["init_args"], **counts}})
