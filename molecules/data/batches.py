"""Dense padded batches of molecules: everything is padded once by bucket of sizes, a batch is an index.

A bucket holds molecules of similar size, padded to its largest. Batches are drawn within buckets so that the sum of
N^2, which is what a pair network pays for, stays under a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from molecules.data.dataset import MoleculeDataset
from molecules.data.spec import MoleculeSpec

__all__ = ["Batch", "BucketSampler", "DenseMolecules", "bucket_bounds"]

Batch = dict[str, Tensor]
"""``pos`` (B, N, 3) float32 angstrom, centred; ``atom``, ``charge`` (B, N) and ``bond`` (B, N, N) int64 class indices;
``node_mask`` (B, N) bool, True = real; ``property`` (B, P) float32, NaN = unknown, if the spec has properties. Padding
is 0 everywhere."""

_RATIO = 0.9  # smallest size of a bucket in units of its largest: pairs waste at most 1 - 0.9^2


@dataclass(frozen=True)
class _Bucket:
    """Molecules padded to one size N; class indices as uint8 until they are batched."""

    pos: Tensor
    atom: Tensor
    charge: Tensor
    bond: Tensor
    sizes: Tensor
    rows: Tensor
    properties: Tensor

    def batch(self, index: Tensor) -> Batch:
        sizes = self.sizes.index_select(0, index)
        known = {"property": self.properties.index_select(0, index)} if self.properties.shape[1] else {}
        return {
            **known,
            "pos": self.pos.index_select(0, index),
            "atom": self.atom.index_select(0, index).long(),
            "charge": self.charge.index_select(0, index).long(),
            "bond": self.bond.index_select(0, index).long(),
            "node_mask": torch.arange(self.pos.shape[1]) < sizes[:, None],
        }


class DenseMolecules(Dataset[Batch]):
    """A dataset as padded tensors by bucket; an item is a whole batch, asked for as (bucket, (B,) indices).

    Memory is N^2 + 15 N bytes a molecule (45 MB for the bonds of QM9 with hydrogens).

    Args:
        dataset: Molecules, all within the vocabulary.
        spec: Vocabulary.
        batch_pairs: Upper limit of the sum of N^2 over a batch.

    Raises:
        ValueError: If the dataset is empty or leaves the vocabulary, or one molecule alone exceeds ``batch_pairs``.
    """

    def __init__(self, dataset: MoleculeDataset, spec: MoleculeSpec, batch_pairs: int) -> None:
        if not len(dataset):
            raise ValueError("no molecule is left for this part of the data. Is the split empty?")
        largest = int(dataset.sizes.max())
        if largest**2 > batch_pairs:
            raise ValueError(
                f"batch_pairs={batch_pairs} has no room for one molecule of {largest} atoms ({largest**2} pairs). "
                "Raise it or prepare the data with max_atoms."
            )
        if not spec.covers(dataset).all():
            raise ValueError("the dataset has atoms outside the vocabulary of the spec. Select with spec.covers first.")
        bounds = bucket_bounds(dataset.sizes, batch_pairs)
        which = np.searchsorted(bounds, dataset.sizes)
        self.buckets = [_pad(dataset, spec, np.flatnonzero(which == k), int(n)) for k, n in enumerate(bounds)]
        self.batch_sizes = [batch_pairs // int(n) ** 2 for n in bounds]

    def __len__(self) -> int:
        return sum(len(bucket.sizes) for bucket in self.buckets)

    def __getitem__(self, item: tuple[int, Tensor]) -> Batch:
        bucket, index = item
        return self.buckets[bucket].batch(index)

    def rows(self, item: tuple[int, Tensor]) -> Tensor:
        """(B,) indices in the dataset of the molecules of a batch."""
        bucket, index = item
        return self.buckets[bucket].rows.index_select(0, index)


class BucketSampler(Sampler[tuple[int, Tensor]]):
    """Batches of `DenseMolecules`, every molecule once an epoch, the same for the same seed and epoch.

    A bucket is cut into batches of nearly equal length, so that no epoch ends with a batch of one. With ``shuffle`` the
    molecules of a bucket and the order of all batches are permuted.

    Args:
        data: Padded molecules.
        shuffle: Whether epochs differ; else buckets come by size and molecules in order.
        seed: Seed of the permutations.
        epoch: Function that tells the current epoch; None leaves it to `set_epoch`.
    """

    def __init__(
        self, data: DenseMolecules, *, shuffle: bool, seed: int = 0, epoch: Callable[[], int | None] | None = None
    ) -> None:
        self.counts = [len(bucket.sizes) for bucket in data.buckets]
        self.batches = [-(-count // size) for count, size in zip(self.counts, data.batch_sizes)]
        self.shuffle = shuffle
        self.seed = seed
        self._epoch_of = epoch
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; a function given as ``epoch`` goes before."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(self.batches)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        told = self._epoch_of() if self._epoch_of is not None else None
        rng = np.random.default_rng((self.seed, self._epoch if told is None else told))
        plan: list[tuple[int, Tensor]] = []
        for bucket, (count, batches) in enumerate(zip(self.counts, self.batches)):
            order = rng.permutation(count) if self.shuffle else np.arange(count)
            plan += [(bucket, torch.from_numpy(part)) for part in np.array_split(order, batches)]
        if self.shuffle:
            plan = [plan[k] for k in rng.permutation(len(plan))]
        yield from plan


def bucket_bounds(sizes: np.ndarray, batch_pairs: int) -> np.ndarray:
    """Largest size of each bucket, ascending.

    From the largest size down, a bucket takes sizes down to 0.9 of its largest, and further ones as long as it holds
    less than one full batch.
    """
    present, counts = np.unique(sizes, return_counts=True)
    bounds: list[int] = []
    held = 0
    for size, count in zip(present[::-1].tolist(), counts[::-1].tolist()):
        if not bounds or (size < _RATIO * bounds[-1] and held >= batch_pairs // bounds[-1] ** 2):
            bounds.append(size)
            held = 0
        held += count
    return np.array(bounds[::-1], dtype=np.int64)


def _pad(dataset: MoleculeDataset, spec: MoleculeSpec, rows: np.ndarray, size: int) -> _Bucket:
    """Padded tensors of the molecules ``rows``; centred in float64."""
    part = dataset.subset(rows)
    count = len(part)
    molecule = np.repeat(np.arange(count), part.sizes)
    place = np.arange(len(molecule)) - np.repeat(part.offsets[:-1], part.sizes)
    points = part.positions.astype(np.float64)
    centre = np.add.reduceat(points, part.offsets[:-1], axis=0) / part.sizes[:, None]
    pos = np.zeros((count, size, 3), dtype=np.float32)
    pos[molecule, place] = points - centre[molecule]
    atom = np.zeros((count, size), dtype=np.uint8)
    atom[molecule, place] = spec.atom_index(part.numbers)
    charge = np.zeros((count, size), dtype=np.uint8)
    charge[molecule, place] = spec.charge_index(part.formal_charge)
    bond = np.zeros((count, size, size), dtype=np.uint8)
    owner = part.bond_owners()
    i, j, order = part.bonds.T
    bond[owner, i, j] = bond[owner, j, i] = order
    known = np.zeros((count, len(spec.properties)), dtype=np.float32)
    for k, name in enumerate(spec.properties):
        known[:, k] = part.properties[name]
    tensors = (torch.from_numpy(array) for array in (pos, atom, charge, bond, part.sizes, rows, known))
    return _Bucket(*tensors)
