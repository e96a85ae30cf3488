"""`MoleculeGenerator`: a trained model, ready to draw molecules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from molecules.anchors import Anchored, centred_on_fixed
from molecules.chemistry import MoleculeRecord
from molecules.data.spec import MoleculeSpec
from molecules.fragments import Fixed, fixed_parts, fixed_state, laid_onto, observations
from molecules.molecule_list import MoleculeList
from molecules.recipes import Flow, Recipe
from molecules.steering import Temperature
from scidiff import random
from scidiff.checkpoint import Pretrained
from scidiff.denoiser import Denoiser
from scidiff.guidance import ClassifierFree, Replace
from scidiff.noise import NoiseSource
from scidiff.progress import Bar
from scidiff.samplers import get_solver, sample
from scidiff.samplers.engine import StepInfo

__all__ = ["MoleculeGenerator"]

_AFTER_START = 2**40  # added to a seed: streams of the steps after a start that was drawn here
_SIZE_STREAM, _FAKE_STREAM = random.stream_id("n_atoms"), random.stream_id("fake_atoms")


class MoleculeGenerator(Pretrained):
    """Draws 3D molecules with bonds and formal charges.

    Args:
        denoiser: Trained denoiser of the components of ``recipe``; or a trained `MoleculeDiffusion`, whose averaged
            weights and recipe are then used.
        spec: Vocabulary, sizes and scale of the training data; from the module if that is given.
        steps: Default number of solver steps; that of the recipe if None.
        solver: Default solver of the positions; that of the recipe if None. Classes move by their exact posterior
            between the same times.
        recipe: What the components are; `molecules.recipes.Flow` by default.

    Raises:
        ValueError: If ``spec`` is missing or is not that of the denoiser, or a default is out of range.

    Example:
        >>> mols = MoleculeGenerator.from_pretrained("qm9_implicit").sample(100, seed=0)
        >>> mols.valid_fraction, mols.failures()
    """

    def __init__(
        self,
        denoiser: Denoiser | Any,
        spec: MoleculeSpec | None = None,
        steps: int | None = None,
        solver: str | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        if not isinstance(denoiser, Denoiser):
            recipe = getattr(denoiser, "recipe", recipe)
            denoiser, spec = _trained(denoiser)
            self._remember(denoiser=denoiser, spec=spec, recipe=recipe)
        if spec is None:
            raise ValueError("a MoleculeGenerator needs the MoleculeSpec of its training data beside the denoiser.")
        self.recipe = recipe if recipe is not None else Flow()
        steps = self.recipe.steps if steps is None else steps
        solver = self.recipe.solver if solver is None else solver
        self._remember(steps=steps, solver=solver)
        _check_fit(denoiser, spec, self.recipe)
        _check_counts(steps=steps)
        get_solver(solver)
        self.denoiser = denoiser.eval()
        self.spec = spec
        self.steps, self.solver = steps, solver

    def sample(
        self,
        n: int,
        *,
        n_atoms: int | Sequence[int] | None = None,
        steps: int | None = None,
        solver: Any = None,
        solver_options: dict[str, Any] | None = None,
        condition: Mapping[str, Any] | None = None,
        guidance_scale: float = 1.0,
        guidance: Any = None,
        fixed: Fixed | Sequence[Fixed] | None = None,
        fixed_atoms: Sequence[int] | None = None,
        seed: random.Seeds = 0,
        device: str | torch.device | None = None,
        batch_size: int = 500,
        temperature: float = 1.0,
        keep: Literal["all", "valid"] = "all",
        watch: Callable[[list[MoleculeRecord]], None] | None = None,
        progress: bool | Callable[[], None] = False,
    ) -> MoleculeList:
        """Draw ``n`` molecules.

        Args:
            n: How many.
            n_atoms: Number of atoms (heavy atoms for a model without hydrogens): one for all, one per molecule, or None
                for the sizes of the training data. A model with fake atoms takes it as the most.
            steps: Solver steps. ``nfe`` of the result counts the evaluations: those of the solver and a final one.
            solver: Name or object, see `scidiff.samplers.solver_names`.
            solver_options: Options of the solver.
            condition: Wished properties by name, as one number for all molecules or one for each; only names in
                ``spec.properties``, in their units. Properties that are not named are left open.
            guidance_scale: 1 follows the condition as learnt, above 1 more than that (two evaluations a step), 0 not at
                all.
            guidance: Guidance objects of the core, in the units of the state (positions over ``spec.pos_std``).
            fixed: A part that every molecule contains, with its atoms (first), charges, inner bonds and geometry: an
                RDKit molecule with a conformer or a record, for all or one per molecule. Two fragments in their
                relative pose (``Chem.CombineMols(a, b)``) are linked; bonds to new atoms are sampled. A model trained
                with ``fixed_share`` completes parts as it learnt; with others the part is only put back after every
                step: of the molecules around a ring or a fragment 12 to 91 % are then valid.
                ``keep="valid"`` keeps those.
            fixed_atoms: Atoms of ``fixed`` to hold, by index; default all (a model without hydrogens drops those).
            seed: An int, or one per molecule; a molecule depends on its own seed only, not on ``batch_size``.
            device: Where to compute; default: where the weights are.
            batch_size: Molecules at a time.
            temperature: Of the class probabilities, see `molecules.steering.Temperature`; goals for the geometry are
                there, too, for ``guidance``.
            keep: ``"all"``, or ``"valid"`` to leave failed ones out (they are counted in ``discarded``).
            watch: Function that is told the state of a batch after each step, as records in the frame of the model.
            progress: Show a bar; or a function, called after each step.

        Returns:
            The molecules in order; failed ones keep their reason.

        Raises:
            ValueError: If a number is out of range or a name is unknown.
        """
        steps = self.steps if steps is None else steps
        _check_counts(n=n, batch_size=batch_size, steps=steps)
        if fixed is None and fixed_atoms is not None:
            raise ValueError("fixed_atoms belongs to fixed=: which molecule should be held?")
        if keep not in ("all", "valid"):
            raise ValueError(f"keep must be 'all' or 'valid', got {keep!r}.")
        if device is not None:
            self.denoiser.to(device)
        seeds = random.seed_pairs(seed, n)
        wishes = self._wishes(condition, n)
        if wishes is not None and guidance_scale != 1:
            guidance = [ClassifierFree(guidance_scale, keys=["property"]), *_listed(guidance)]
        if temperature != 1:
            guidance = [*_listed(guidance), Temperature(temperature)]
        parts = None if fixed is None else fixed_parts(fixed, fixed_atoms, n, self.spec)
        least = None if parts is None else np.array([len(part) for part in parts])
        sizes = self._sizes(n, n_atoms, random.seed_table(seeds, n), least)
        order = np.argsort(sizes, kind="stable")
        records: list[MoleculeRecord | None] = [None] * n
        nfe = 0
        chunks = [order[start : start + batch_size] for start in range(0, n, batch_size)]
        with Bar(len(chunks) * steps, progress) as bar:
            for chunk in chunks:
                state, nfe = self._draw(
                    sizes[chunk],
                    [seeds[k] for k in chunk],
                    None if parts is None else [parts[k] for k in chunk],
                    None if wishes is None else wishes[chunk],
                    grid=self.recipe.grid(steps),
                    steps=steps,
                    solver=self.solver if solver is None else solver,
                    solver_options={"final_denoise": self.recipe.is_denoised, **(solver_options or {})},
                    guidance=guidance,
                    callback=lambda info: self._step(info, sizes[chunk], bar, watch),  # noqa: B023
                )
                for k, record in zip(chunk, self._records(state, sizes[chunk])):
                    records[k] = record if parts is None else laid_onto(record, parts[k])
        names = [f"{number}/{index}" for number, index in seeds]
        complete = [record for record in records if record is not None]
        return MoleculeList(complete, vocabulary=self.spec, seeds=names, keep=keep, nfe=nfe)

    def _sizes(
        self, n: int, n_atoms: int | Sequence[int] | None, keys: Tensor, least: np.ndarray | None = None
    ) -> np.ndarray:
        """Atoms of each molecule: given, or from the histogram of the training data, above the fixed part."""
        if n_atoms is None:
            known = np.array(sorted(self.spec.sizes))
            share = np.cumsum([self.spec.sizes[int(k)] for k in known], dtype=np.float64)
            u = random.uniform(keys, _SIZE_STREAM, 0, 1)[:, 0].numpy()
            below = np.concatenate([[0.0], share])[0 if least is None else np.searchsorted(known, least, side="right")]
            if (below >= share[-1]).any():
                raise ValueError(
                    f"the fixed part has {least.max() if least is not None else 0} atoms, the largest molecules of "
                    f"the training data {known[-1]}: pass n_atoms, or fix fewer atoms."
                )
            sizes = known[np.searchsorted(share, below + u * (share[-1] - below))]
            return self.recipe.places(sizes, random.uniform(keys, _FAKE_STREAM, 0, 1)[:, 0].numpy())
        sizes = np.full(n, int(n_atoms)) if isinstance(n_atoms, Integral) else np.asarray(n_atoms)
        if sizes.shape != (n,) or sizes.dtype.kind not in "iu" or sizes.min() < 1:
            raise ValueError(
                f"n_atoms must be an integer of at least 1, or one for each of the {n} molecules, got {n_atoms}."
            )
        if least is not None and (sizes < least).any():
            raise ValueError(
                f"n_atoms must leave room for the {least.max()} atoms of the fixed part, got {sizes.min()}."
            )
        return sizes

    def _wishes(self, condition: Mapping[str, Any] | None, n: int) -> Tensor | None:
        """Normalised properties (n, P), NaN where nothing is wished."""
        if condition is None:
            return None
        known = list(self.spec.properties)
        if unknown := [name for name in condition if name not in known]:
            told = ", ".join(known) if known else "none, as it was trained without properties"
            raise ValueError(f"the model cannot be conditioned on {', '.join(map(repr, unknown))}; it knows {told}.")
        wishes = torch.full((n, len(known)), torch.nan)
        for name, value in condition.items():
            values = torch.as_tensor(np.asarray(value, dtype=np.float64))
            if values.shape not in ((), (n,)) or not bool(torch.isfinite(values).all()):
                raise ValueError(f"condition {name!r} must be a finite number, or one for each of the {n} molecules.")
            wishes[:, known.index(name)] = values.float()
        return self.spec.normalised(wishes)

    def _draw(
        self,
        sizes: np.ndarray,
        seeds: list[tuple[int, int]],
        parts: Sequence[MoleculeRecord] | None,
        wishes: Tensor | None,
        guidance: Any = None,
        **options: Any,
    ) -> tuple[dict[str, Tensor], int]:
        """State of one padded batch, and the number of evaluations it took."""
        b, n = len(sizes), int(sizes.max())
        device = next(self.denoiser.parameters()).device
        mask = torch.arange(n, device=device) < torch.as_tensor(sizes, device=device)[:, None]
        cond: dict[str, Tensor] = {"node_mask": mask}
        if wishes is not None:
            cond["property"] = wishes.to(device)
        start: Any = self.recipe.shapes(b, n, self.spec)
        if parts is not None and self._is_anchored:
            start, fixed = self._start(parts, n, seeds, cond)
            cond |= fixed
            seeds = [(number + _AFTER_START, index) for number, index in seeds]
        elif parts is not None:
            replace = Replace(observations(parts, n, self.spec), rotate=True, redraw=False)
            guidance = [*_listed(guidance), replace]
        state, info = sample(self.denoiser, start, seed=seeds, cond=cond, guidance=guidance, save="none", **options)
        return state, info.nfe

    def _step(self, info: StepInfo, sizes: np.ndarray, bar: Bar, watch: Any) -> None:
        bar.advance()
        if watch is not None:
            assert isinstance(info.x, dict)
            watch(self._records(info.x, sizes))

    @property
    def _is_anchored(self) -> bool:
        """Whether the model was trained with fixed parts."""
        return isinstance(self.denoiser.process.continuous["pos"].space, Anchored)

    def _start(
        self, parts: Sequence[MoleculeRecord], n: int, seeds: list[tuple[int, int]], cond: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Noise around the given parts, in the frame of their atoms, and the masks of what is given."""
        reference = next(self.denoiser.parameters())
        like, fixed = fixed_state(parts, n, self.spec, self.recipe.scale(self.spec))
        fixed = {name: value.to(reference.device) for name, value in fixed.items()}
        like = {name: value.to(reference.device) for name, value in like.items()}
        like["pos"] = centred_on_fixed(like["pos"], fixed["fixed"]).to(reference.dtype)
        source = NoiseSource(seeds, len(seeds), device=reference.device)
        return self.denoiser.process.prior(like, source, {**cond, **fixed}), fixed  # type: ignore[return-value]

    def _records(self, state: dict[str, Tensor], sizes: np.ndarray) -> list[MoleculeRecord]:
        arrays = self.recipe.decode(state, self.spec)
        numbers, charges = np.array(self.spec.numbers), np.array(self.spec.charges)
        records = []
        for k, n in enumerate(sizes.tolist()):
            real = np.flatnonzero(arrays["atom"][k, :n] < len(numbers))  # fake atoms have the class after the elements
            atom, charge, bond = (
                arrays["atom"][k, real],
                arrays["charge"][k, real],
                arrays["bond"][k][np.ix_(real, real)],
            )
            pos = arrays["pos"][k, real]
            pos = pos if len(real) == n else pos - pos.mean(0)
            records.append(MoleculeRecord(numbers[atom], charges[charge], bond, pos, explicit_h=self.spec.explicit_h))
        return records


def _listed(guidance: Any) -> list[Any]:
    return list(guidance) if isinstance(guidance, list | tuple) else [] if guidance is None else [guidance]


def _trained(module: Any) -> tuple[Denoiser, MoleculeSpec]:
    """A copy of the denoiser of a trained module, with averaged weights."""
    if getattr(module, "spec", None) is None:
        raise ValueError("the module has not seen any data yet: fit it, or build it with spec=.")
    with module.averaged():
        denoiser = Denoiser.from_config(module.denoiser.to_config())
        denoiser.load_state_dict(module.denoiser.state_dict())
    return denoiser, module.spec


def _check_fit(denoiser: Denoiser, spec: MoleculeSpec, recipe: Recipe) -> None:
    """The classes of the denoiser must be those of the spec, else molecules would be read with a wrong vocabulary."""
    process, wanted = denoiser.process, recipe.process(spec)
    given = {name: component.num_classes for name, component in process.discrete.items()}
    classes = {name: component.num_classes for name, component in wanted.discrete.items()}
    if given != classes or set(process.components) != set(wanted.components):
        raise ValueError(
            f"the denoiser must have the components {', '.join(wanted.components)} with the classes of the spec "
            f"{classes}, got {', '.join(process.components)} with {given}. Was the spec made from other data, or is it "
            "another recipe?"
        )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {count!r}.")
