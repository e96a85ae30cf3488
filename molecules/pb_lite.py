"""Plausibility checks of single conformers with RDKit alone, in the spirit of PoseBusters (this is not PoseBusters).

Heavy atoms only. Lengths and 1,3 distances are held against RDKit's distance-geometry bounds widened by 25 %,
contacts of atoms four or more bonds apart against 70 % of the lower bound; aromatic rings and C=C bonds must be flat,
saturated six-rings must not be. Strained rings in real molecules fail the flat C=C test now and then (about 1 % of
QM9).

Reference: Buttenschoen et al. 2024, "PoseBusters" (the tests that need no protein).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdinchi

__all__ = ["PB_TESTS", "pb_lite", "pb_lite_summary"]

PB_TESTS = ("inchi", "bond_lengths", "bond_angles", "clashes", "flat_aromatic", "non_flat_rings", "flat_double_bonds")
"""Names of the tests; a molecule has to be strictly valid (sanitised, one fragment) to be tested at all."""

_WIDENING = 0.25
_CLASH = 0.30
_FLAT = 0.25
_NOT_FLAT = 0.05
_FAR = 4
_TRIGONAL = "[C;X3;^2](*)(*)=[C;X3;^2](*)(*)"


def pb_lite(mol: Chem.Mol) -> dict[str, bool]:
    """The tests of a sanitised molecule with a conformer, True = passed.

    Raises:
        ValueError: If the molecule has no conformer.
    """
    if not mol.GetNumConformers():
        raise ValueError("mol has no conformer: the checks look at coordinates.")
    with rdBase.BlockLogs():
        heavy = Chem.RemoveHs(mol)
        pos = heavy.GetConformer().GetPositions()
        lengths, angles, clashes = _distance_tests(heavy, pos)
        aromatic, puckered = _ring_tests(heavy, pos)
        inchi = bool(rdinchi.MolToInchi(mol)[0])
        passed = (inchi, lengths, angles, clashes, aromatic, puckered, _flat_double(mol))
        return dict(zip(PB_TESTS, passed))


def pb_lite_summary(mols: Sequence[Chem.Mol | None]) -> dict[str, float]:
    """Share passing each test among the valid molecules, and ``pb_valid``: all tests, among all molecules given.

    None stands for a molecule that is not valid; it counts against ``pb_valid`` only.
    """
    rows = [pb_lite(mol) for mol in mols if mol is not None and mol.GetNumConformers()]
    result = {"pb_valid": sum(all(row.values()) for row in rows) / len(mols) if len(mols) else float("nan")}
    for name in PB_TESTS:
        result[f"pb_{name}"] = sum(row[name] for row in rows) / len(rows) if rows else float("nan")
    return result


def _distance_tests(mol: Chem.Mol, pos: np.ndarray) -> tuple[bool, bool, bool]:
    """Bond lengths, 1,3 distances and clashes against the bounds matrix (upper triangle maxima, lower minima)."""
    if mol.GetNumAtoms() < 2:
        return True, True, True
    try:
        matrix = rdDistGeom.GetMoleculeBoundsMatrix(mol, set15bounds=True, scaleVDW=True)
    except (RuntimeError, ValueError):
        return False, False, False
    upper, lower = np.triu(matrix, k=1), np.tril(matrix, k=-1).T
    distance = np.linalg.norm(pos[:, None] - pos[None], axis=-1)
    steps = Chem.GetDistanceMatrix(mol)
    inside = (distance >= (1.0 - _WIDENING) * lower) & (distance <= (1.0 + _WIDENING) * upper)
    pair = np.triu(np.ones_like(distance, dtype=bool), k=1)
    apart = distance >= (1.0 - _CLASH) * lower
    return (
        bool(inside[pair & (steps == 1)].all()),
        bool(inside[pair & (steps == 2)].all()),
        bool(apart[pair & (steps >= _FAR)].all()),
    )


def _ring_tests(mol: Chem.Mol, pos: np.ndarray) -> tuple[bool, bool]:
    """Aromatic rings of 5 or 6 are flat; all-sp3 rings of 6 are not."""
    flat, puckered = True, True
    for ring in mol.GetRingInfo().AtomRings():
        atoms = [mol.GetAtomWithIdx(i) for i in ring]
        if len(ring) in (5, 6) and all(atom.GetIsAromatic() for atom in atoms):
            flat &= _out_of_plane(pos[list(ring)]) <= _FLAT
        if len(ring) == 6 and all(atom.GetHybridization() == Chem.HybridizationType.SP3 for atom in atoms):
            puckered &= _out_of_plane(pos[list(ring)]) >= _NOT_FLAT
    return flat, puckered


def _flat_double(mol: Chem.Mol) -> bool:
    """Trigonal C=C bonds lie in one plane with their four neighbours, hydrogens included where they are atoms."""
    pos = mol.GetConformer().GetPositions()
    return all(_out_of_plane(pos[list(match)]) <= _FLAT for match in mol.GetSubstructMatches(_pattern()))


@cache
def _pattern() -> Chem.Mol:
    return Chem.MolFromSmarts(_TRIGONAL)


def _out_of_plane(points: np.ndarray) -> float:
    """Largest distance in angstrom from the least-squares plane of (k, 3) points."""
    centred = points - points.mean(axis=0)
    normal = np.linalg.svd(centred)[2][-1]
    return float(np.abs(centred @ normal).max())
