"""`MoleculeGenerator`: a trained model, ready to draw molecules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from molecules.chemistry import MoleculeRecord
from molecules.data.spec import MoleculeSpec
from molecules.fragments import Fixed, fixed_parts, laid_onto, observations
from molecules.molecule_list import MoleculeList
from scidiff import random
from scidiff.checkpoint import Pretrained
from scidiff.denoiser import Denoiser
from scidiff.guidance import Replace
from scidiff.samplers import get_solver, sample

__all__ = ["MoleculeGenerator"]

_COMPONENTS = ("pos", "atom", "charge", "bond")
_SIZE_STREAM = random.stream_id("n_atoms")


class MoleculeGenerator(Pretrained):
    """Draws 3D molecules with bonds and formal charges.

    Args:
        denoiser: Trained denoiser of the components pos, atom, charge, bond; or a trained `MoleculeDiffusion`, whose
            averaged weights are then used.
        spec: Vocabulary, sizes and scale of the training data; from the module if that is given.
        steps: Default number of solver steps; the final prediction costs one evaluation more.
        solver: Default solver of the positions; classes move by their exact posterior between the same times.

    Raises:
        ValueError: If ``spec`` is missing or is not that of the denoiser, or a default is out of range.

    Example:
        >>> mols = MoleculeGenerator.from_pretrained("qm9_implicit").sample(100, seed=0)
        >>> mols.valid_fraction, mols.failures()
    """

    def __init__(
        self, denoiser: Denoiser | Any, spec: MoleculeSpec | None = None, steps: int = 50, solver: str = "ddim"
    ) -> None:
        if not isinstance(denoiser, Denoiser):
            denoiser, spec = _trained(denoiser)
            self._remember(denoiser=denoiser, spec=spec)
        if spec is None:
            raise ValueError("a MoleculeGenerator needs the MoleculeSpec of its training data beside the denoiser.")
        _check_fit(denoiser, spec)
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
        guidance: Any = None,
        fixed: Fixed | Sequence[Fixed] | None = None,
        fixed_atoms: Sequence[int] | None = None,
        seed: random.Seeds = 0,
        device: str | torch.device | None = None,
        batch_size: int = 500,
        keep: Literal["all", "valid"] = "all",
        progress: bool | Callable[[], None] = False,
    ) -> MoleculeList:
        """Draw ``n`` molecules.

        Args:
            n: How many.
            n_atoms: Number of atoms (heavy atoms for a model without hydrogens): one for all, one per molecule, or None
                for the sizes of the training data.
            steps: Solver steps. ``nfe`` of the result counts the evaluations: those of the solver and a final one.
            solver: Name or object, see `scidiff.samplers.solver_names`.
            solver_options: Options of the solver.
            guidance: Guidance objects of the core, in the units of the state (positions over ``spec.pos_std``).
            fixed: A part that every molecule contains, with its atoms (first), charges, inner bonds and geometry: an
                RDKit molecule with a conformer or a record, for all or one per molecule. Two fragments in their
                relative pose (``Chem.CombineMols(a, b)``) are linked; bonds to new atoms are sampled. The packaged
                model was not trained for this: of its molecules around a given ring 25 to 80 % are valid, around
                small polar fragments fewer; ``keep="valid"`` keeps those.
            fixed_atoms: Atoms of ``fixed`` to hold, by index; default all (a model without hydrogens drops those).
            seed: An int, or one per molecule; a molecule depends on its own seed only, not on ``batch_size``.
            device: Where to compute; default: where the weights are.
            batch_size: Molecules at a time.
            keep: ``"all"``, or ``"valid"`` to leave failed ones out (they are counted in ``discarded``).
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
        parts = None if fixed is None else fixed_parts(fixed, fixed_atoms, n, self.spec)
        least = None if parts is None else np.array([len(part) for part in parts])
        sizes = self._sizes(n, n_atoms, random.seed_table(seeds, n), least)
        order = np.argsort(sizes, kind="stable")
        records: list[MoleculeRecord | None] = [None] * n
        nfe = 0
        chunks = [order[start : start + batch_size] for start in range(0, n, batch_size)]
        with _Bar(len(chunks) * steps, progress) as bar:
            for chunk in chunks:
                given = None if parts is None else [parts[k] for k in chunk]
                state, nfe = self._draw(
                    sizes[chunk],
                    [seeds[k] for k in chunk],
                    grid="log",  # geometric from 1 to 0.01, as SemlaFlow's (Irwin et al. 2024)
                    steps=steps,
                    solver=self.solver if solver is None else solver,
                    solver_options={"final_denoise": True, **(solver_options or {})},
                    guidance=_all_guidance(guidance, given, int(sizes[chunk].max()), self.spec),
                    callback=lambda info: bar.advance(),
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
            return known[np.searchsorted(share, below + u * (share[-1] - below))]
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

    def _draw(self, sizes: np.ndarray, seeds: list[tuple[int, int]], **options: Any) -> tuple[dict[str, Tensor], int]:
        """State of one padded batch, and the number of evaluations it took."""
        b, n = len(sizes), int(sizes.max())
        device = next(self.denoiser.parameters()).device
        mask = torch.arange(n, device=device) < torch.as_tensor(sizes, device=device)[:, None]
        shapes = {"pos": (b, n, 3), "atom": (b, n), "charge": (b, n), "bond": (b, n, n)}
        state, info = sample(self.denoiser, shapes, seed=seeds, cond={"node_mask": mask}, save="none", **options)
        return state, info.nfe

    def _records(self, state: dict[str, Tensor], sizes: np.ndarray) -> list[MoleculeRecord]:
        arrays = {name: value.cpu().numpy() for name, value in state.items()}
        pos = arrays["pos"].astype(np.float64) * self.spec.pos_std
        numbers, charges = np.array(self.spec.numbers), np.array(self.spec.charges)
        return [
            MoleculeRecord(
                numbers[arrays["atom"][k, :n]],
                charges[arrays["charge"][k, :n]],
                arrays["bond"][k, :n, :n],
                pos[k, :n],
                explicit_h=self.spec.explicit_h,
            )
            for k, n in enumerate(sizes.tolist())
        ]


def _all_guidance(guidance: Any, parts: Sequence[MoleculeRecord] | None, width: int, spec: MoleculeSpec) -> Any:
    """The user's guidance, then the replacement of the fixed parts."""
    if parts is None:
        return guidance
    given = list(guidance) if isinstance(guidance, (list, tuple)) else [] if guidance is None else [guidance]
    return [*given, Replace(observations(parts, width, spec), rotate=True, redraw=False)]


class _Bar:
    """A tqdm bar, somebody else's, or nothing."""

    def __init__(self, total: int, progress: bool | Callable[[], None]) -> None:
        self.bar: Any = None
        self.told = progress if callable(progress) else None
        if progress and self.told is None:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, desc="sampling", unit="step", delay=0.5)  # silent before a quick error

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def advance(self) -> None:
        """One step more."""
        if self.bar is not None:
            self.bar.update()
        if self.told is not None:
            self.told()


def _trained(module: Any) -> tuple[Denoiser, MoleculeSpec]:
    """A copy of the denoiser of a trained module, with averaged weights."""
    if getattr(module, "spec", None) is None:
        raise ValueError("the module has not seen any data yet: fit it, or build it with spec=.")
    with module.averaged():
        denoiser = Denoiser.from_config(module.denoiser.to_config())
        denoiser.load_state_dict(module.denoiser.state_dict())
    return denoiser, module.spec


def _check_fit(denoiser: Denoiser, spec: MoleculeSpec) -> None:
    """The classes of the denoiser must be those of the spec, else molecules would be read with a wrong vocabulary."""
    process = denoiser.process
    given = {name: component.num_classes for name, component in process.discrete.items()}
    wanted = {"atom": spec.num_atom_classes, "charge": spec.num_charge_classes, "bond": spec.num_bond_classes}
    if given != wanted or set(process.components) != set(_COMPONENTS):
        raise ValueError(
            f"the denoiser must have the components {', '.join(_COMPONENTS)} with the classes of the spec {wanted}, "
            f"got {', '.join(process.components)} with {given}. Was the spec made from other data?"
        )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {count!r}.")
