"""Molecules as plain arrays: the record, its RDKit molecule and its geometry.

A `MoleculeRecord` holds what a generator samples: elements, formal charges, bond orders and coordinates. `assemble`
makes it an RDKit molecule without repairing anything, `record_of` goes back, `good_geometry` looks at distances alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from rdkit import Chem

from molecules.elements import SYMBOLS, covalent_radii

__all__ = [
    "AROMATIC",
    "MoleculeRecord",
    "assemble",
    "bond_ratios",
    "canonical_smiles",
    "good_geometry",
    "kekulise",
    "record_of",
    "within_bond_band",
]

AROMATIC = 4
"""Bond code of an aromatic bond; 0 none, 1 single, 2 double, 3 triple."""

_BOND_TYPES = (
    None,
    Chem.BondType.SINGLE,
    Chem.BondType.DOUBLE,
    Chem.BondType.TRIPLE,
    Chem.BondType.AROMATIC,
)
_CODE_OF_TYPE = {kind: code for code, kind in enumerate(_BOND_TYPES) if kind is not None}


@dataclass(frozen=True, eq=False)
class MoleculeRecord:
    """One molecule as plain arrays.

    Args:
        numbers: (n,) int, atomic numbers.
        formal_charge: (n,) int.
        bonds: (n, n) symmetric int with zero diagonal, 0 none, 1 single, 2 double, 3 triple, 4 aromatic.
        pos: (n, 3) float, angstrom, or None without coordinates.
        explicit_h: Whether every hydrogen is an atom of the record; if False RDKit completes the valences.

    Raises:
        ValueError: If the shapes disagree or ``bonds`` is not symmetric with a zero diagonal.
    """

    numbers: np.ndarray
    formal_charge: np.ndarray
    bonds: np.ndarray
    pos: np.ndarray | None = None
    explicit_h: bool = True

    def __post_init__(self) -> None:
        for name in ("numbers", "formal_charge", "bonds"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))
        n = len(self.numbers)
        if self.formal_charge.shape != (n,) or self.bonds.shape != (n, n):
            raise ValueError(
                f"formal_charge and bonds must have shapes ({n},) and ({n}, {n}) like numbers, "
                f"got {self.formal_charge.shape} and {self.bonds.shape}."
            )
        if self.bonds.diagonal().any() or not np.array_equal(self.bonds, self.bonds.T):
            raise ValueError("bonds must be symmetric with a zero diagonal. Were only the pairs i < j filled?")
        if self.pos is not None:
            object.__setattr__(self, "pos", np.asarray(self.pos, dtype=np.float64))
            if self.pos.shape != (n, 3):
                raise ValueError(f"pos must have shape ({n}, 3) in angstrom, got {self.pos.shape}.")

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, atoms: Sequence[int] | np.ndarray) -> MoleculeRecord:
        """The record of some atoms, in the given order; ``explicit_h`` stays as it is."""
        atoms = np.asarray(atoms, dtype=np.int64)
        pos = None if self.pos is None else self.pos[atoms]
        bonds = self.bonds[np.ix_(atoms, atoms)]
        return MoleculeRecord(self.numbers[atoms], self.formal_charge[atoms], bonds, pos, self.explicit_h)

    def without_hydrogens(self) -> MoleculeRecord:
        """The heavy atoms alone with their charges, as an implicit-hydrogen record; nothing is centred."""
        return replace(self.take(np.flatnonzero(self.numbers > 1)), explicit_h=False)


def assemble(record: MoleculeRecord) -> Chem.Mol:
    """RDKit molecule of a record, with a conformer if it has coordinates; not sanitised, nothing repaired.

    With explicit hydrogens every atom gets ``SetNoImplicit(True)``: a missing hydrogen then shows as an open valence,
    and RDKit does not make methane of a bare carbon.

    Raises:
        ValueError: If an atomic number is outside 1..118 or a bond code outside 0..4.
    """
    if len(record) and (record.numbers.min() < 1 or record.numbers.max() >= len(SYMBOLS)):
        raise ValueError(f"atomic numbers lie in 1..{len(SYMBOLS) - 1}, got {record.numbers.tolist()}.")
    if len(record) and (record.bonds.min() < 0 or record.bonds.max() > AROMATIC):
        raise ValueError(f"bond codes lie in 0..{AROMATIC}, got up to {record.bonds.max()}.")
    mol = Chem.RWMol()
    for number, charge in zip(record.numbers.tolist(), record.formal_charge.tolist()):
        atom = Chem.Atom(number)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(record.explicit_h)
        mol.AddAtom(atom)
    first, second = np.nonzero(np.triu(record.bonds))
    for i, j, code in zip(first.tolist(), second.tolist(), record.bonds[first, second].tolist()):
        mol.AddBond(i, j, _BOND_TYPES[code])
        if code == AROMATIC:
            mol.GetBondBetweenAtoms(i, j).SetIsAromatic(True)
            mol.GetAtomWithIdx(i).SetIsAromatic(True)
            mol.GetAtomWithIdx(j).SetIsAromatic(True)
    if record.pos is not None:
        conformer = Chem.Conformer(len(record))
        conformer.SetPositions(np.ascontiguousarray(record.pos))
        mol.AddConformer(conformer, assignId=True)
    return mol.GetMol()


def record_of(mol: Chem.Mol, explicit_h: bool | None = None) -> MoleculeRecord:
    """Record of an RDKit molecule; aromatic bonds keep code 4 (kekulise first for orders 1 to 3).

    Args:
        mol: Any molecule; its first conformer, if any, gives the coordinates.
        explicit_h: Whether all hydrogens are atoms of ``mol``; None looks for hydrogens that are not.

    Raises:
        ValueError: If a bond is of another kind than single, double, triple or aromatic.
    """
    n = mol.GetNumAtoms()
    bonds = np.zeros((n, n), dtype=np.int64)
    for bond in mol.GetBonds():
        code = _CODE_OF_TYPE.get(bond.GetBondType())
        if code is None:
            raise ValueError(f"bonds must be single, double, triple or aromatic, got {bond.GetBondType()}.")
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        bonds[i, j] = bonds[j, i] = code
    if explicit_h is None:
        mol = Chem.Mol(mol)
        mol.UpdatePropertyCache(strict=False)
        explicit_h = not any(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    return MoleculeRecord(
        numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64),
        formal_charge=np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], dtype=np.int64),
        bonds=bonds,
        pos=mol.GetConformer().GetPositions() if mol.GetNumConformers() else None,
        explicit_h=explicit_h,
    )


def kekulise(record: MoleculeRecord) -> MoleculeRecord:
    """The record with its aromatic bonds made single and double; everything else as it is.

    Raises:
        ValueError: If no such assignment exists (RDKit's KekulizeException is one).
    """
    mol = assemble(record)
    mol.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return replace(record, bonds=record_of(mol, explicit_h=record.explicit_h).bonds)


def canonical_smiles(mol: Chem.Mol) -> str:
    """Canonical SMILES of a sanitised molecule without hydrogens and stereo; the key of unique and novel."""
    return Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)


def bond_ratios(record: MoleculeRecord) -> np.ndarray:
    """(n, n) distances divided by the sum of covalent radii; the diagonal is infinite.

    Raises:
        ValueError: If the record has no coordinates.
    """
    if record.pos is None:
        raise ValueError("the record has no coordinates: geometry cannot be judged. Give pos of shape (n, 3).")
    distance = np.linalg.norm(record.pos[:, None] - record.pos[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    radii = covalent_radii(record.numbers)
    return distance / (radii[:, None] + radii[None])


def good_geometry(record: MoleculeRecord, low: float = 0.75, high: float = 1.30, contact: float = 1.0) -> bool:
    """Whether every bond lies in [low, high] and every other pair at ``contact`` or more, in sums of covalent radii.

    A molecule is ``valid_3d`` if it is strictly valid and this holds. Bonds of real molecules (QM9) lie at 0.784 to
    1.291, other pairs above 1.159. Coordinates that are not finite are never good.
    """
    ratios = bond_ratios(record)
    bonded = record.bonds > 0
    return bool(np.where(bonded, (ratios >= low) & (ratios <= high), ratios >= contact).all())


def within_bond_band(record: MoleculeRecord, tolerance: float = 0.25) -> bool:
    """Whether every bond lies within +- ``tolerance`` of the sum of covalent radii (0.40 when cleaning user data)."""
    return good_geometry(record, low=1.0 - tolerance, high=1.0 + tolerance, contact=0.0)
