"""Bond lengths, bond angles and dihedral angles of many molecules at once.

Everything is read from a padded batch with index arithmetic, no loop over molecules. Angles are in degrees, lengths in
angstrom. Values from coordinates that are not finite are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from molecules.batches import PaddedBatch

__all__ = ["Geometry", "measure"]

_AROMATIC = 4
_TINY = 1e-12


class Geometry(NamedTuple):
    """Internal coordinates with their types; atomic numbers stand in the order of the atoms along the path.

    Args:
        length: (E,) bond lengths.
        length_type: (E, 3) int, number, order, number.
        angle: (A,) bond angles in [0, 180].
        angle_type: (A, 5) int, number, order, number of the centre, order, number.
        dihedral: (D,) absolute dihedral angles in [0, 180].
        dihedral_type: (D, 7) int, numbers and orders along the path; column 3 is the order of the centre bond.
    """

    length: np.ndarray
    length_type: np.ndarray
    angle: np.ndarray
    angle_type: np.ndarray
    dihedral: np.ndarray
    dihedral_type: np.ndarray


class _Edges(NamedTuple):
    """Directed bonds sorted by source; atoms are numbered through the batch."""

    source: np.ndarray
    target: np.ndarray
    order: np.ndarray
    degree: np.ndarray
    start: np.ndarray
    numbers: np.ndarray
    pos: np.ndarray


def measure(batch: PaddedBatch) -> Geometry:
    """Internal coordinates of all molecules of a batch.

    Dihedrals i-j-k-l run over heavy outer atoms, so that molecules with explicit and implicit hydrogens give the same
    values; the centre atoms must be bonded to something else, not to a triple bond and not linear (the SMARTS
    ``[!$(*#*)&!D1]~[!$(*#*)&!D1]`` with sp2 or sp3 centres); a path that closes a ring of three is left out.
    """
    edges = _directed_edges(batch)
    forward = edges.source < edges.target
    length = np.linalg.norm(edges.pos[edges.source] - edges.pos[edges.target], axis=-1)[forward]
    length_type = np.stack([edges.numbers[edges.source], edges.order, edges.numbers[edges.target]], axis=1)[forward]
    angle, angle_type = _angles(edges)
    dihedral, dihedral_type = _dihedrals(edges)
    parts = []
    for value, kind in ((length, length_type), (angle, angle_type), (dihedral, dihedral_type)):
        finite = np.isfinite(value)
        parts += [value[finite], _oriented(kind[finite])]
    return Geometry(*parts)


def _directed_edges(batch: PaddedBatch) -> _Edges:
    """Both directions of every bond, as indices into the flattened batch."""
    size = batch.numbers.shape[1]
    molecule, i, j = np.nonzero(batch.bonds)
    source, target = molecule * size + i, molecule * size + j
    degree = np.bincount(source, minlength=batch.numbers.size)
    start = np.cumsum(degree) - degree
    order = batch.bonds[molecule, i, j].astype(np.int64)
    return _Edges(source, target, order, degree, start, batch.numbers.reshape(-1), batch.pos.reshape(-1, 3))


def _expand(count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row k repeated count[k] times, and the running number within each row."""
    row = np.repeat(np.arange(len(count)), count)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)


def _angles(edges: _Edges) -> tuple[np.ndarray, np.ndarray]:
    """Angles between any two bonds of an atom."""
    first, offset = _expand(edges.degree[edges.source])
    second = edges.start[edges.source[first]] + offset
    first, second = first[first < second], second[first < second]
    centre, i, j = edges.source[first], edges.target[first], edges.target[second]
    u, v = edges.pos[i] - edges.pos[centre], edges.pos[j] - edges.pos[centre]
    norms = np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1)
    cosine = np.clip((u * v).sum(-1) / np.maximum(norms, _TINY), -1.0, 1.0)
    numbers = edges.numbers
    kind = np.stack([numbers[i], edges.order[first], numbers[centre], edges.order[second], numbers[j]], axis=1)
    return np.degrees(np.arccos(cosine)), kind


def _dihedrals(edges: _Edges) -> tuple[np.ndarray, np.ndarray]:
    """Absolute dihedral angles around the bonds that `measure` names."""
    eligible = _eligible_centres(edges)
    keep = (edges.source < edges.target) & eligible[edges.source] & eligible[edges.target]
    bond = np.flatnonzero(keep)
    inner = edges.degree[edges.target[bond]]
    row, offset = _expand(edges.degree[edges.source[bond]] * inner)
    bond, inner = bond[row], inner[row]
    j, k = edges.source[bond], edges.target[bond]
    before, after = edges.start[j] + offset // np.maximum(inner, 1), edges.start[k] + offset % np.maximum(inner, 1)
    i, end = edges.target[before], edges.target[after]
    path = (i != k) & (end != j) & (i != end) & (edges.numbers[i] > 1) & (edges.numbers[end] > 1)
    i, j, k, end, bond, before, after = (array[path] for array in (i, j, k, end, bond, before, after))
    axis, numbers, order = edges.pos[k] - edges.pos[j], edges.numbers, edges.order
    left, right = np.cross(edges.pos[j] - edges.pos[i], axis), np.cross(axis, edges.pos[end] - edges.pos[k])
    sine = np.linalg.norm(np.cross(left, right), axis=-1)
    columns = (numbers[i], order[before], numbers[j], order[bond], numbers[k], order[after], numbers[end])
    return np.degrees(np.arctan2(sine, (left * right).sum(-1))), np.stack(columns, axis=1)


def _eligible_centres(edges: _Edges) -> np.ndarray:
    """Atoms that are no terminal atom, not in a triple bond and not linear (two double bonds on C or N)."""
    size = len(edges.numbers)
    triple = np.bincount(edges.source[edges.order == 3], minlength=size)
    double = np.bincount(edges.source[edges.order == 2], minlength=size)
    linear = (double >= 2) & np.isin(edges.numbers, (6, 7))
    return (edges.degree > 1) & (triple == 0) & ~linear


def _oriented(kind: np.ndarray) -> np.ndarray:
    """Types read from the end that gives the smaller row, so that A-B-C and C-B-A are one type."""
    if not len(kind):
        return kind
    backward = kind[:, ::-1]
    differs = kind != backward
    column = differs.argmax(axis=1)
    rows = np.arange(len(kind))
    swap = differs.any(axis=1) & (backward[rows, column] < kind[rows, column])
    return np.where(swap[:, None], backward, kind)
