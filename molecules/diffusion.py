"""`MoleculeDiffusion`: joint training of positions, atom types, charges and bonds through the common core."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from molecules.anchors import AnchoredOT, centred_on_fixed, random_parts
from molecules.data.spec import MoleculeSpec
from molecules.fine_tuning import adapted_weights, matched_classes, new_classes
from molecules.networks import MessagePassing, PairFormer
from molecules.recipes import Flow, Recipe
from scidiff import random
from scidiff.configurable import build
from scidiff.couplings import Coupling, EquivariantOT, Independent
from scidiff.losses import DenoisingLoss, TimeLaw
from scidiff.process import Process
from scidiff.training import CONFIG_KEY, DiffusionModule, StepLoss

__all__ = ["MoleculeDiffusion"]

_PUSH, _PUSHED_BELOW = 0.5, 0.5  # angstrom and time (Dunn and Koes 2025)


class MoleculeDiffusion(DiffusionModule):
    """Generative model of 3D molecules, with explicit bonds and formal charges unless the recipe has none.

    What is noise, what is predicted and how errors are weighed over time is the recipe's: `molecules.recipes.Flow`
    (flow matching, PFGM++), `EQGATDiff`, `EDMPoints`. If the data has properties, the network is conditioned on them
    and learns the unconditional model, too; with ``fixed_share`` it learns to complete given parts.

    Args:
        network: Only its arguments are used: the class counts come from the data, and weights start anew. `PairFormer`
            by default.
        recipe: Noise and prediction; ``Flow()`` by default.
        spec: Vocabulary and statistics; taken from the data module when training starts, if absent.
        loss_weights: Weight of each component; those of the recipe by default.
        coupling: ``"equivariant_ot"`` pairs noise and molecule by assignment and rotation; or ``"independent"``.
        self_conditioning: Probability of a training step with the network's own earlier prediction as input; 0 turns
            self-conditioning off.
        fixed_share: Share of the training molecules in which a random part is given, see
            `molecules.anchors.random_parts`; 0 trains none.
        property_dropout: Share of the training molecules that are shown without properties. Of several properties the
            others are shown in random subsets of at least one.
        distortion: Share of the atoms that are pushed by N(0, (0.5 angstrom)^2) where t < 0.5, after the noise: the
            network learns to mend geometries that samplers spoil; 0 for none.
        time_law: Distribution of the training time; that of the recipe by default.
        lr: Peak learning rate.
        warmup_steps: Steps of the linear warm-up.
        lr_end: Final learning rate as a fraction of ``lr``.
        ema: Decay of the weight average; None for none.
        noise_seed: Seed of training and validation noise.
        compile: Run the network through ``torch.compile`` in training.

    Raises:
        ValueError: If an argument is outside its range; when training starts, if the data has another vocabulary.

    References: Le et al. 2024 (EQGAT-diff), section 3 (joint generation, x0 prediction); Irwin et al. 2024 (SemlaFlow),
    section 3 (flow matching, self-conditioning); Ho and Salimans 2022 (null condition); Igashov et al. 2024
    (DiffLinker: given fragments); Dunn and Koes 2025 (FlowMol3: distortion).
    """

    def __init__(
        self,
        network: PairFormer | MessagePassing | None = None,
        *,
        recipe: Recipe | None = None,
        spec: MoleculeSpec | None = None,
        loss_weights: Mapping[str, float] | None = None,
        coupling: Literal["equivariant_ot", "independent"] = "equivariant_ot",
        self_conditioning: float = 0.5,
        fixed_share: float = 0.0,
        property_dropout: float = 0.15,
        distortion: float = 0.0,
        time_law: TimeLaw | None = None,
        lr: float = 1e-3,
        warmup_steps: int = 300,
        lr_end: float = 0.02,
        ema: float | None = 0.999,
        noise_seed: int = 0,
        compile: bool = False,
    ) -> None:
        recipe = recipe if recipe is not None else Flow()
        weights = {**recipe.loss_weights, **(loss_weights or {})}
        super().__init__(
            loss=DenoisingLoss(weights, weighting=dict(recipe.weighting), reduction=recipe.reduction),
            time_law=time_law if time_law is not None else recipe.time_law(),
            lr=lr,
            warmup_steps=warmup_steps,
            lr_end=lr_end,
            ema=ema,
            noise_seed=noise_seed,
            compile=compile,
        )
        if set(weights) != set(recipe.loss_weights):
            raise ValueError(f"loss_weights has the keys {sorted(recipe.loss_weights)}, got {sorted(weights)}.")
        shares = {"self_conditioning": self_conditioning, "fixed_share": fixed_share, "distortion": distortion}
        for name, share in {**shares, "property_dropout": property_dropout}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a probability, got {share}.")
        if coupling not in ("equivariant_ot", "independent"):
            raise ValueError(f"coupling must be 'equivariant_ot' or 'independent', got {coupling!r}.")
        self.recipe, self.self_conditioning = recipe, self_conditioning
        self.fixed_share, self.property_dropout = fixed_share, property_dropout
        self.distortion = distortion
        transport = AnchoredOT() if fixed_share > 0 else EquivariantOT()
        self.coupling: Coupling = transport if coupling == "equivariant_ot" else Independent()
        network = network if network is not None else PairFormer()
        if isinstance(network, PairFormer) and not recipe.is_discrete:
            raise ValueError("PairFormer takes categorical types; for Gaussian types use MessagePassing.")
        if isinstance(network, PairFormer) and recipe.atom_features:
            raise ValueError("PairFormer has no labels of atoms: for atom_features use MessagePassing.")
        if isinstance(network, MessagePassing) and self_conditioning > 0:
            raise ValueError("MessagePassing takes no earlier prediction: set self_conditioning to 0.")
        self._template = network.to_config()
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

    def adapt_start(
        self, config: Mapping[str, Any], weights: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], list[str]]:
        """Weights of a checkpoint with the classes of this module, and the names of its new ones.

        Elements, charges and bonds are matched by name (`molecules.fine_tuning`); the module takes the checkpoint's
        unit of length, in which distances were learnt. Conditions that only the checkpoint has are left out such that
        the start is its unconditional model. See `scidiff.warm_start.WarmStart`.
        """
        start = config.get("init_args", {}).get("spec")
        if start is None or self.spec is None:
            return weights, []
        given = build(start)
        own, network = self.spec, self.denoiser.network
        if isinstance(network, PairFormer):
            weights = _on_network(network.folded, weights)
        counts = (own.num_atom_classes, own.num_bond_classes)
        is_plain = hasattr(network, "class_axes") and counts == (network.classes["atom"], network.classes["bond"])
        if not is_plain:  # another network, or classes of a mask or of fake atoms
            _check_classes(given, own)
        matched = matched_classes(own, given)
        self.spec = dataclasses.replace(own, pos_std=given.pos_std)
        self._remember(spec=self.spec)
        if given.has_vocabulary_of(own):
            return weights, []
        axes = {f"denoiser.network.{name}": value for name, value in network.class_axes().items()}
        return adapted_weights(self.state_dict(), weights, axes, matched), new_classes(own, given)

    def prepare(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], None, dict[str, Any]]:
        """State in the units of the recipe, no endpoint, and ``cond``: node mask, normalised properties."""
        assert self.spec is not None
        cond = {"node_mask": batch["node_mask"]}
        if self.spec.properties:
            cond["property"] = self.spec.normalised(batch["property"])
        return self.recipe.encode(batch, self.spec), None, cond

    def training_loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> StepLoss:
        """Coupled noise, optional fixed parts and self-conditioning, loss per molecule."""
        assert self.spec is not None
        batch = self.recipe.augment(batch, self.spec, generator)
        state, _, cond = self.prepare(batch)
        process: Process = self.denoiser.process
        t = self.sample_time(len(state["pos"]), generator)
        if "property" in cond:
            cond["property"] = drop_properties(cond["property"], self.property_dropout, generator)
        if self.fixed_share > 0:
            cond |= random_parts(batch["bond"], batch["node_mask"], self.fixed_share, generator)
            state["pos"] = centred_on_fixed(state["pos"], cond["fixed"])
        noise = self._noise(state["pos"], cond, generator)
        x_t, _ = process.perturb(state, t, {"pos": noise}, generator=generator, cond=cond)
        assert isinstance(x_t, dict)
        if self.distortion > 0:
            x_t["pos"] = x_t["pos"] + self._push(x_t["pos"], t, cond, generator)
        chance = torch.rand((), generator=generator, device=generator.device)
        if self.self_conditioning > 0 and bool(chance < self.self_conditioning):
            with torch.no_grad():
                cond = {**cond, "self_cond": self.denoiser(x_t, t, cond).x0}
        result = self.loss(self.denoiser, state, t, x_t=x_t, cond=cond)
        weight = self.recipe.time_weight(t)
        return StepLoss(result.total if weight is None else weight * result.total, result.parts, t)

    def _noise(self, pos: Tensor, cond: Mapping[str, Any], generator: torch.Generator) -> Tensor:
        """Unit noise of the positions, paired with the molecules."""
        component = self.denoiser.process.continuous["pos"]
        z = random.drawn(torch.randn, pos.shape, generator=generator, device=pos.device, dtype=pos.dtype)
        live = component.space.live(z, cond)
        noise = component.shape(z if live is None else torch.where(live, z, 0), cond, generator=generator)
        return self.coupling.couple(pos, noise, cond)

    def _push(self, pos: Tensor, t: Tensor, cond: Mapping[str, Any], generator: torch.Generator) -> Tensor:
        """Distortion of some atoms near the data, in the space of the positions."""
        assert self.spec is not None
        space = self.denoiser.process.continuous["pos"].space
        kind = {"generator": generator, "device": pos.device}
        is_pushed = random.drawn(torch.rand, pos.shape[:2], **kind) < self.distortion
        is_pushed = is_pushed & (t < _PUSHED_BELOW)[:, None]
        push = _PUSH / self.recipe.scale(self.spec) * random.drawn(torch.randn, pos.shape, dtype=pos.dtype, **kind)
        live = space.live(push, cond)
        push = torch.where(is_pushed[..., None], push, 0)
        return space.project(push if live is None else torch.where(live, push, 0), cond)

    def _adopt(self, spec: MoleculeSpec) -> None:
        """Build the network for the classes of ``spec``, and remember both as constructor arguments."""
        counts: dict[str, Any] = {f"{name}_classes": n for name, n in self.recipe.class_counts(spec).items()}
        counts |= {"num_properties": len(spec.properties), "fixed": self.fixed_share > 0}
        network = build({**self._template, "init_args": {**self._template["init_args"], **counts}})
        self.spec = spec
        self.denoiser = self.recipe.denoiser(
            network, spec, anchored=self.fixed_share > 0, self_conditioning=self.self_conditioning > 0
        )
        self._remember(spec=spec, network=network)


def drop_properties(values: Tensor, dropout: float, generator: torch.Generator | None = None) -> Tensor:
    """Properties (B, P) with NaN for what is not shown: all with probability ``dropout``, else a random subset.

    The number of those shown is uniform over 1..P, so a single property is always shown.
    """
    b, count = values.shape
    u = random.drawn(torch.rand, (b, count + 2), generator=generator, device=values.device)
    shown = 1 + (u[:, 0] * count).long().clamp(max=count - 1)
    rank = u[:, 2:].argsort(1).argsort(1)
    is_shown = (rank < shown[:, None]) & (u[:, 1] >= dropout)[:, None]
    return torch.where(is_shown, values, torch.nan)


def _on_network(
    function: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """``weights`` of a module with a function of those of its network applied."""
    prefix = "denoiser.network."
    inner = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return {**weights, **{prefix + name: value for name, value in function(inner).items()}}


def _check_classes(model: MoleculeSpec, data: MoleculeSpec) -> None:
    if not model.has_vocabulary_of(data):
        raise ValueError(
            f"the model was built for {model}, but the data is {data}: elements, charges, hydrogens, bond classes and "
            "atom features must be the same. Prepare the data with the elements of the model, or train a new one."
        )


def _check_vocabulary(model: MoleculeSpec, data: MoleculeSpec) -> None:
    _check_classes(model, data)
    if list(model.properties) != list(data.properties):
        raise ValueError(
            f"the model is conditioned on {list(model.properties)}, but the data has {list(data.properties)}: name the "
            "same properties in the data module."
        )
