r"""Distances between the distributions of a generated and a reference set: atoms, bonds, charges, valencies, geometry.

With p a histogram and F its cumulative sum, TV = sum |p_g - p_r| (no factor 1/2, as published) and W1 = h sum |F_g -
F_r| on bins of width h. `collect` counts once a set; `compare` turns two counts into the table. The weights follow
MiDi and are those of the reference. An element or bond class that one of the two sets lacks has no distance and is
left out of weighted sums (the total variations show that it is missing); nothing is written to the input.

References: Vignac et al. 2023 (MiDi), appendix on metrics; Le et al. 2024 (EQGAT-diff), dihedral distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from molecules.batches import padded_batches
from molecules.chemistry import BOND_CLASSES, MoleculeRecord
from molecules.geometry import measure

__all__ = ["SetStatistics", "collect", "compare", "total_variation", "wasserstein"]

_NUMBERS = 119
_CHARGE_OFFSET = 8
_HALF_VALENCES = 33
_LENGTH_BIN = 0.01
_LENGTH_BINS = 1001
_ANGLE_BIN = 0.1
_ANGLE_BINS = 1801
_MAX_SIZE = 1000
_NORM_SHIFT = 1e-5
_AROMATIC = 4


@dataclass(frozen=True, eq=False)
class SetStatistics:
    """Histograms of a set of molecules; two of them add up to those of the union.

    Args:
        atoms: (119,) counts by atomic number.
        bonds: (5,) counts of unordered pairs by bond class, pairs without a bond included.
        charges: (119, 16) counts by element and formal charge + 8.
        valencies: (119, 33) counts by element and twice the sum of bond orders (aromatic 1.5).
        lengths: (5, 1001) counts by bond class and length in bins of 0.01 A, the last one open.
        angles: (119, 1801) counts by centre element and angle in bins of 0.1 degree.
        dihedrals: (5, 1801) counts by class of the centre bond and absolute dihedral in bins of 0.1 degree.
        sizes: (1001,) counts by number of atoms, the last one open.
    """

    atoms: np.ndarray
    bonds: np.ndarray
    charges: np.ndarray
    valencies: np.ndarray
    lengths: np.ndarray
    angles: np.ndarray
    dihedrals: np.ndarray
    sizes: np.ndarray

    def __add__(self, other: SetStatistics) -> SetStatistics:
        return SetStatistics(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def collect(records: Sequence[MoleculeRecord]) -> SetStatistics:
    """Histograms of a set of records; geometry is counted where there are coordinates."""
    total = _empty()
    for batch in padded_batches(records):
        mask, bonds = batch.mask, batch.bonds
        numbers = np.minimum(batch.numbers[mask], _NUMBERS - 1)
        np.add.at(total.atoms, numbers, 1)
        charge = np.clip(batch.formal_charge[mask] + _CHARGE_OFFSET, 0, 2 * _CHARGE_OFFSET - 1)
        np.add.at(total.charges, (numbers, charge), 1)
        half = np.where(bonds == _AROMATIC, 3, 2 * bonds.astype(np.int64)).sum(-1)[mask]
        np.add.at(total.valencies, (numbers, np.minimum(half, _HALF_VALENCES - 1)), 1)
        np.add.at(total.sizes, np.minimum(mask.sum(-1), _MAX_SIZE), 1)
        pairs = np.triu(mask[:, :, None] & mask[:, None, :], k=1)
        total.bonds[:] += np.bincount(bonds[pairs], minlength=len(BOND_CLASSES))[: len(BOND_CLASSES)]
        geometry = measure(batch)
        bins = np.minimum(np.rint(geometry.length / _LENGTH_BIN), _LENGTH_BINS - 1).astype(np.int64)
        np.add.at(total.lengths, (geometry.length_type[:, 1], bins), 1)
        bins = np.rint(geometry.angle / _ANGLE_BIN).astype(np.int64)
        np.add.at(total.angles, (np.minimum(geometry.angle_type[:, 2], _NUMBERS - 1), bins), 1)
        bins = np.rint(geometry.dihedral / _ANGLE_BIN).astype(np.int64)
        np.add.at(total.dihedrals, (geometry.dihedral_type[:, 3], bins), 1)
    return total


def compare(generated: SetStatistics, reference: SetStatistics) -> dict[str, float]:
    """Distances of two sets; a distance that is not defined is NaN.

    Returns:
        ``atom_tv``, ``bond_tv``, ``charge_w1``, ``valency_w1``, ``bond_length_w1`` (angstrom; the published weights
        contain the share of pairs without a bond, so the total is small), ``bond_length_w1_<class>``, ``angle_w1`` and
        ``dihedral_w1`` (degree), ``dihedral_w1_<class>``, ``size_w1`` (atoms).
    """
    atoms, bonds = _share(reference.atoms), _share(reference.bonds)
    result = {
        "atom_tv": total_variation(generated.atoms, reference.atoms),
        "bond_tv": total_variation(generated.bonds, reference.bonds),
        "charge_w1": _weighted(_rows(generated.charges, reference.charges, 1.0), atoms),
        "valency_w1": _weighted(_rows(generated.valencies, reference.valencies, 0.5), atoms),
    }
    lengths = _rows(generated.lengths, reference.lengths, _LENGTH_BIN)
    result["bond_length_w1"] = _weighted(lengths, np.where(np.arange(len(bonds)) > 0, bonds, 0.0))
    result.update(_by_class("bond_length_w1", lengths))
    angles = _rows(generated.angles, reference.angles, _ANGLE_BIN)
    few = _share(reference.valencies, axis=1)[:, :3].sum(axis=1)
    weights = atoms * np.clip(1.0 - np.nan_to_num(few, nan=1.0), 0.0, 1.0)
    result["angle_w1"] = _weighted(angles, weights / (weights.sum() + _NORM_SHIFT))
    dihedrals = _rows(generated.dihedrals, reference.dihedrals, _ANGLE_BIN)
    result["dihedral_w1"] = _weighted(dihedrals, _share(reference.dihedrals.sum(axis=1)))
    result.update(_by_class("dihedral_w1", dihedrals))
    result["size_w1"] = wasserstein(generated.sizes, reference.sizes, 1.0)
    return result


def total_variation(generated: np.ndarray, reference: np.ndarray) -> float:
    """sum |p_g - p_r| of two histograms of counts, in [0, 2]; NaN if one is empty."""
    return float(np.abs(_share(generated) - _share(reference)).sum())


def wasserstein(generated: np.ndarray, reference: np.ndarray, width: float) -> float:
    """W1 of two histograms of counts on the same bins of the given width; NaN if one is empty."""
    return float(width * np.abs(np.cumsum(_share(generated)) - np.cumsum(_share(reference))).sum())


def _empty() -> SetStatistics:
    shapes = (
        (_NUMBERS,),
        (len(BOND_CLASSES),),
        (_NUMBERS, 2 * _CHARGE_OFFSET),
        (_NUMBERS, _HALF_VALENCES),
        (len(BOND_CLASSES), _LENGTH_BINS),
        (_NUMBERS, _ANGLE_BINS),
        (len(BOND_CLASSES), _ANGLE_BINS),
        (_MAX_SIZE + 1,),
    )
    return SetStatistics(*(np.zeros(shape, dtype=np.int64) for shape in shapes))


def _share(counts: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Counts divided by their sum, NaN where the sum is 0."""
    total = counts.sum(axis=axis, keepdims=axis is not None)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def _rows(generated: np.ndarray, reference: np.ndarray, width: float) -> np.ndarray:
    """W1 of each row of two tables of counts, NaN where a row is empty in one of them."""
    first, second = np.cumsum(_share(generated, axis=1), axis=1), np.cumsum(_share(reference, axis=1), axis=1)
    return width * np.abs(first - second).sum(axis=1)


def _weighted(distances: np.ndarray, weights: np.ndarray) -> float:
    """Sum of weight times distance over the defined distances, NaN if there is none."""
    defined = np.isfinite(distances) & (weights > 0)
    return float((distances[defined] * weights[defined]).sum()) if defined.any() else float("nan")


def _by_class(name: str, distances: np.ndarray) -> dict[str, float]:
    """The defined distances by bond class."""
    return {f"{name}_{BOND_CLASSES[k]}": float(distances[k]) for k in range(1, len(distances)) if distances[k] >= 0}
