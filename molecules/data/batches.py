"""Dense padded batches of molecules: everything is padded once by bucket of sizes, a batch is an index.

A bucket holds molecules of similar size, padded to its largest. Batches are drawn within buckets so that the sum of
N^2, which is what a pair network pays for, stays under a limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from molecules.data.dataset import MoleculeDataset
from molecules.data.spec import MoleculeSpec
from scidiff.buckets import bucket_bounds

__all__ = ["Batch", "DenseMolecules"]

Batch = dict[str, Tensor]
"""``pos`` (B, N, 3) float32 angstrom, centred; ``atom``, ``charge`` (B, N) and ``bond`` (B, N, N) int64 class indices;
``node_mask`` (B, N) bool, True = real; ``property`` (B, P) float32, NaN = unknown, if the spec has properties; labels
of the atoms (B, N) int64 by name, if it has some. Padding is 0 everywhere."""


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
    labels: dict[str, Tensor]

    def batch(self, index: Tensor) -> Batch:
        sizes = self.sizes.index_select(0, index)
        known = {"property": self.properties.index_select(0, index)} if self.properties.shape[1] else {}
        labels = {name: values.index_select(0, index).long() for name, values in self.labels.items()}
        return {
            **known,
            **labels,
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
        bounds = bucket_bounds(dataset.sizes, lambda size: batch_pairs // size**2)
        which = np.searchsorted(bounds, dataset.sizes)
        self.buckets = [_pad(dataset, spec, np.flatnonzero(which == k), int(n)) for k, n in enumerate(bounds)]
        self.counts = [len(bucket.sizes) for bucket in self.buckets]
        self.batch_sizes = [batch_pairs // int(n) ** 2 for n in bounds]

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, item: tuple[int, Tensor]) -> Batch:
        bucket, index = item
        return self.buckets[bucket].batch(index)

    def rows(self, item: tuple[int, Tensor]) -> Tensor:
        """(B,) indices in the dataset of the molecules of a batch."""
        bucket, index = item
        return self.buckets[bucket].rows.index_select(0, index)


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
    sites = {"atom": spec.atom_index(part.numbers), "charge": spec.charge_index(part.formal_charge)}
    sites |= {name: part.atom_features[name] for name in spec.atom_features}
    padded = {name: torch.zeros(count, size, dtype=torch.uint8) for name in sites}
    for name, classes in sites.items():
        padded[name].numpy()[molecule, place] = classes
    bond = np.zeros((count, size, size), dtype=np.uint8)
    owner = part.bond_owners()
    i, j, order = part.bonds.T
    bond[owner, i, j] = bond[owner, j, i] = order
    known = np.zeros((count, len(spec.properties)), dtype=np.float32)
    for k, name in enumerate(spec.properties):
        known[:, k] = part.properties[name]
    atom, charge = padded.pop("atom"), padded.pop("charge")
    tensors = (torch.from_numpy(array) for array in (bond, part.sizes, rows, known))
    return _Bucket(torch.from_numpy(pos), atom, charge, *tensors, labels=padded)
