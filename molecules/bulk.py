"""Molecules in bulk: `MoleculeGenerator.sample` cut into chunks for several devices and for interrupted runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from molecules.batches import pad_records
from molecules.chemistry import MoleculeRecord
from molecules.fragments import fixed_parts
from molecules.generator import MoleculeGenerator
from molecules.molecule_list import MoleculeList
from scidiff import random
from scidiff.chunks import Chunks
from scidiff.generation import generate

__all__ = ["sample_in_chunks"]


def sample_in_chunks(
    generator: MoleculeGenerator,
    n: int,
    folder: str | os.PathLike[str],
    *,
    origin: str,
    n_atoms: int | Sequence[int] | None = None,
    steps: int | None = None,
    solver: str | None = None,
    condition: Mapping[str, float] | None = None,
    guidance_scale: float = 1.0,
    fixed: MoleculeRecord | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[MoleculeList, Chunks] | None:
    """Draw the molecules of ``generator.sample(n, ...)`` chunk by chunk, on the devices that Lightning is told to use.

    Args:
        generator: Trained generator.
        n: How many.
        folder: Working folder, see `scidiff.chunks.Chunks`; an interrupted run goes on from it.
        origin: What tells the generator from others, for example the `fingerprint` of its checkpoint.
        n_atoms: Number of atoms: one for all, one per molecule, or None for the sizes of the training data.
        steps: Solver steps.
        solver: Name of the solver.
        condition: Wished properties, the same for all.
        guidance_scale: How strongly they are followed.
        fixed: A part that every molecule contains.
        seed: Molecule i has the seed (seed, i).
        options: Further options of `scidiff.generation.generate`: ``batch_size``, ``devices``, ...

    Returns:
        The molecules, and the chunks to be removed when they are in their final file; None in the processes that have
        no more to do.
    """
    generator._wishes(condition, 1)
    part = None if fixed is None else fixed_parts(fixed, None, 1, generator.spec)[0]
    least = None if part is None else np.full(n, len(part))
    sizes = generator._sizes(n, n_atoms, random.seed_table(seed, n), least)
    draw = _Draw(generator, seed, sizes, steps, solver)
    draw.control = {"condition": condition, "guidance_scale": guidance_scale, "fixed": part}
    asked = n_atoms if n_atoms is None or isinstance(n_atoms, int) else [int(k) for k in n_atoms]
    control = {"condition": condition, "guidance_scale": guidance_scale, "fixed": _plain(part)}
    request = {"samples": "molecules", "origin": origin, "n": n, "n_atoms": asked, "seed": seed}
    wished = control if condition is not None or part is not None else {}
    chunks = Chunks(folder, {**request, "steps": draw.steps, "solver": draw.solver, **wished})
    order = np.argsort(sizes, kind="stable")
    if not generate(draw, generator.denoiser, order, chunks, steps=draw.steps, **options):
        return None
    return draw.collect(chunks, n), chunks


class _Draw:
    """Molecules of some indices as arrays, and back; picklable, as some strategies need."""

    def __init__(
        self, generator: MoleculeGenerator, seed: int, sizes: np.ndarray, steps: int | None, solver: str | None
    ) -> None:
        self.generator, self.seed, self.sizes = generator, seed, sizes
        self.steps = generator.steps if steps is None else steps
        self.solver = generator.solver if solver is None else solver
        self.control: dict[str, Any] = {}

    def __call__(self, index: np.ndarray, advance: Callable[[], None]) -> dict[str, np.ndarray]:
        mols = self.generator.sample(
            len(index),
            n_atoms=self.sizes[index].tolist(),
            steps=self.steps,
            solver=self.solver,
            seed=[(self.seed, int(i)) for i in index],
            batch_size=len(index),
            progress=advance,
            **self.control,
        )
        batch = pad_records(mols.records)
        arrays = {"numbers": batch.numbers, "formal_charge": batch.formal_charge, "bonds": batch.bonds}
        return {**arrays, "pos": batch.pos, "nfe": np.array(mols.nfe)}

    def collect(self, chunks: Chunks, n: int) -> MoleculeList:
        """The molecules of all chunks in order."""
        records: dict[int, MoleculeRecord] = {}
        nfe = 0
        for index, arrays in chunks:
            nfe = int(arrays["nfe"])
            for row, i in enumerate(index.tolist()):
                k = int((arrays["numbers"][row] > 0).sum())
                records[i] = MoleculeRecord(
                    arrays["numbers"][row, :k],
                    arrays["formal_charge"][row, :k],
                    arrays["bonds"][row, :k, :k],
                    arrays["pos"][row, :k],
                    explicit_h=self.generator.spec.explicit_h,
                )
        complete = [records[i] for i in range(n)]
        seeds = [f"{self.seed}/{i}" for i in range(n)]
        return MoleculeList(complete, vocabulary=self.generator.spec, seeds=seeds, nfe=nfe)


def _plain(part: MoleculeRecord | None) -> dict[str, Any] | None:
    """What tells one fixed part from another."""
    if part is None or part.pos is None:
        return None
    pos = np.round(part.pos, 6).tolist()
    return {"numbers": part.numbers.tolist(), "charge": part.formal_charge.tolist(), "pos": pos}
