"""Padded batches of molecule records, the shape in which the vectorised metrics read a set of molecules.

Records are sorted by size and cut so that a batch holds at most ``max_pairs`` atom pairs; a batch is a copy,
therefore no metric can change the records it was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from molecules.chemistry import MoleculeRecord

__all__ = ["PaddedBatch", "pad_records", "padded_batches"]


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Some records padded to the size of the largest one.

    Args:
        index: (B,) int, positions of the molecules in the set they come from.
        numbers: (B, n) int, atomic numbers, 0 where there is no atom.
        formal_charge: (B, n) int.
        bonds: (B, n, n) int, codes 0 to 4.
        pos: (B, n, 3) float64 angstrom, NaN for molecules without coordinates, 0 at padding.
    """

    index: np.ndarray
    numbers: np.ndarray
    formal_charge: np.ndarray
    bonds: np.ndarray
    pos: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """(B, n) bool, True = real atom."""
        return self.numbers > 0


def pad_records(records: Sequence[MoleculeRecord], index: Sequence[int] | np.ndarray | None = None) -> PaddedBatch:
    """One padded batch of the records, or of those named by ``index``."""
    index = np.arange(len(records)) if index is None else np.asarray(index, dtype=np.int64)
    chosen = [records[int(i)] for i in index]
    n = max((len(record.numbers) for record in chosen), default=0)
    numbers = np.zeros((len(chosen), n), dtype=np.int64)
    charge = np.zeros((len(chosen), n), dtype=np.int64)
    bonds = np.zeros((len(chosen), n, n), dtype=np.int8)
    pos = np.zeros((len(chosen), n, 3))
    for row, record in enumerate(chosen):
        k = len(record.numbers)
        numbers[row, :k] = record.numbers
        charge[row, :k] = record.formal_charge
        bonds[row, :k, :k] = record.bonds
        pos[row, :k] = np.nan if record.pos is None else record.pos
    return PaddedBatch(index, numbers, charge, bonds, pos)


def padded_batches(records: Sequence[MoleculeRecord], *, max_pairs: int = 400_000) -> Iterator[PaddedBatch]:
    """Batches of similar size that cover all records once, smallest molecules first.

    Args:
        records: Any number of records.
        max_pairs: Largest sum of n^2 over a padded batch; a molecule that exceeds it alone is a batch of its own.
    """
    order = np.argsort([len(record.numbers) for record in records], kind="stable")
    start = 0
    for stop in range(1, len(order) + 1):
        largest = len(records[int(order[stop])].numbers) if stop < len(order) else 0
        if stop == len(order) or (stop + 1 - start) * largest**2 > max_pairs:
            yield pad_records(records, order[start:stop])
            start = stop
