"""Kekulised bonds and formal charges for coordinates.

Two ways. With a SMILES of the same molecule nothing has to be perceived: its bonds are carried over atom by atom
(`bonds_from_smiles`), after geometry has proved that the order of the atoms is that of the SMILES; if it is not, a
graph isomorphism finds it. Without a SMILES `perceive_bonds` scans contact distances downwards with RDKit's
DetermineBonds.

References: Kim & Kim 2015, "Universal structure conversion method for organic molecules" (behind DetermineBonds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from molecules.elements import COVALENT_RADII, covalent_radii, symbol_of
from molecules.records import MoleculeRecord, record_of

__all__ = [
    "COVALENT_FACTORS",
    "BondError",
    "bonds_from_smiles",
    "match_bonds",
    "perceive_bonds",
    "transfer_bonds",
]

COVALENT_FACTORS = (1.30, 1.25, 1.20, 1.15)
"""Factors on the contact distances that `perceive_bonds` tries, in this order."""

_BOND_LIMIT = 1.30  # longest bond of a SMILES, in sums of covalent radii; the longest real one is 1.291
_CONTACT_LIMIT = 1.35  # longest heavy-atom contact of the isomorphism search
_MAX_MATCHES = 100_000


class BondError(ValueError):
    """Bonds could not be found.

    ``reason`` is one of ``parse``, ``element_order``, ``bond_length``, ``loose_hydrogen``, ``hydrogen_count``,
    ``perception``; the message says more.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class _Template:
    """Heavy-atom graph of a SMILES: elements, charges and hydrogen counts (m,), bonds as (i, j, order) rows."""

    numbers: np.ndarray
    formal_charge: np.ndarray
    hydrogens: np.ndarray
    bonds: np.ndarray


def bonds_from_smiles(numbers: np.ndarray, pos: np.ndarray, smiles: str) -> tuple[MoleculeRecord, str]:
    """Bonds and charges of a molecule from its SMILES: by atom order, else by graph isomorphism.

    Args:
        numbers: (n,) atomic numbers, all hydrogens present, anywhere in the order.
        pos: (n, 3) coordinates in angstrom.
        smiles: SMILES of the heavy atoms.

    Returns:
        The record in the order of ``numbers`` and how it was found, ``"order"`` or ``"isomorphism"``.

    Raises:
        BondError: If neither way fits the coordinates; the reason is that of the way by order.
    """
    template = _parse(smiles)
    try:
        return _transfer(numbers, pos, template), "order"
    except BondError as error:
        record = _match(numbers, pos, template)
        if record is None:
            raise error
        return record, "isomorphism"


def transfer_bonds(numbers: np.ndarray, pos: np.ndarray, smiles: str) -> MoleculeRecord:
    """Bonds of the SMILES carried over to atoms whose heavy atoms are in SMILES order, checked against the geometry.

    Raises:
        BondError: ``element_order`` if the elements differ, ``bond_length`` if a bond is longer than 1.30 sums of
            covalent radii, ``loose_hydrogen`` if a hydrogen is that far from every heavy atom, ``hydrogen_count`` if
            an atom has not the hydrogens that the SMILES says, ``parse`` if the SMILES is none.
    """
    return _transfer(numbers, pos, _parse(smiles))


def match_bonds(numbers: np.ndarray, pos: np.ndarray, smiles: str) -> MoleculeRecord | None:
    """Bonds of the SMILES carried over by graph isomorphism on contacts; None if the graphs do not fit.

    Atoms match by element and number of hydrogens. Among the matches the one with the smallest sum of bond order times
    relative distance wins, so that double bonds land on short contacts.
    """
    return _match(numbers, pos, _parse(smiles))


def perceive_bonds(
    numbers: np.ndarray, pos: np.ndarray, charge: int = 0, factors: Sequence[float] = COVALENT_FACTORS
) -> tuple[MoleculeRecord, float]:
    """Bonds and charges from coordinates alone, hydrogens present.

    RDKit's DetermineBonds with van der Waals contacts is tried with each factor; the first result that does not raise,
    sanitises and is one fragment is taken. Scanning downwards is right for 99.8 % of QM9, a fixed factor of 1.30 (the
    default) for 94 %: in small cages a 1,3 contact is taken for a bond.

    Args:
        numbers: (n,) atomic numbers.
        pos: (n, 3) coordinates in angstrom.
        charge: Net charge of the molecule.
        factors: Factors on the contact distances, tried in order.

    Returns:
        The record and the factor that served.

    Raises:
        BondError: ``perception`` if no factor gives a molecule.
    """
    numbers, pos = _checked(numbers, pos)
    message = "no factor was given"
    with rdBase.BlockLogs():
        for factor in factors:
            mol = _points(numbers, pos)
            try:
                rdDetermineBonds.DetermineBonds(mol, useVdw=True, covFactor=factor, charge=charge)
                Chem.SanitizeMol(mol)
                if len(Chem.GetMolFrags(mol)) > 1:
                    message = f"{len(Chem.GetMolFrags(mol))} fragments at factor {factor}"
                    continue
                Chem.Kekulize(mol, clearAromaticFlags=True)
            except Exception as error:
                message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                continue
            return record_of(mol, explicit_h=True), factor
    raise BondError(
        "perception",
        f"no bonds fit {len(numbers)} atoms with net charge {charge} ({message}). "
        "Are hydrogens missing, or is the charge another one?",
    )


def _transfer(numbers: np.ndarray, pos: np.ndarray, template: _Template) -> MoleculeRecord:
    """Steps by order: same elements, short bonds, every hydrogen at its atom."""
    numbers, pos = _checked(numbers, pos)
    heavy = np.flatnonzero(numbers > 1)
    if not np.array_equal(numbers[heavy], template.numbers):
        raise BondError("element_order", "the heavy atoms are not in the order of the SMILES.")
    i, j = heavy[template.bonds[:, 0]], heavy[template.bonds[:, 1]]
    radii = covalent_radii(numbers)
    length = np.sqrt(((pos[i] - pos[j]) ** 2).sum(axis=1))
    limit = _BOND_LIMIT * (radii[i] + radii[j])
    if (length > limit).any():
        k = int(np.argmax(length / limit))
        raise BondError("bond_length", f"bond {i[k]}-{j[k]} of the SMILES is {length[k]:.2f} angstrom long.")
    owner = _owners(numbers, pos, heavy)
    counts = np.bincount(owner, minlength=len(heavy))
    if not np.array_equal(counts, template.hydrogens):
        k = int(np.flatnonzero(counts != template.hydrogens)[0])
        raise BondError(
            "hydrogen_count",
            f"atom {heavy[k]} ({symbol_of(int(numbers[heavy[k]]))}) has {counts[k]} hydrogens, "
            f"the SMILES says {template.hydrogens[k]}.",
        )
    return _record(numbers, pos, heavy, owner, template)


def _match(numbers: np.ndarray, pos: np.ndarray, template: _Template) -> MoleculeRecord | None:
    """Graph isomorphism between the contacts of the heavy atoms and the SMILES graph."""
    numbers, pos = _checked(numbers, pos)
    heavy = np.flatnonzero(numbers > 1)
    if len(heavy) != len(template.numbers):
        return None
    try:
        owner = _owners(numbers, pos, heavy)
    except BondError:
        return None
    radii = covalent_radii(numbers[heavy])
    ratio = np.linalg.norm(pos[heavy][:, None] - pos[heavy][None], axis=-1) / (radii[:, None] + radii[None])
    contacts = np.argwhere(np.triu(ratio < _CONTACT_LIMIT, k=1))
    target = _labelled_graph(numbers[heavy], np.bincount(owner, minlength=len(heavy)), contacts)
    pattern = _labelled_graph(template.numbers, template.hydrogens, template.bonds[:, :2])
    matches = np.array(target.GetSubstructMatches(pattern, uniquify=False, maxMatches=_MAX_MATCHES), dtype=np.int64)
    if not len(matches):
        return None
    i, j, order = template.bonds.T
    best = matches[np.argmin((ratio[matches[:, i], matches[:, j]] * order).sum(axis=1))]
    place = np.empty_like(best)
    place[best] = np.arange(len(best))  # SMILES atom of each heavy atom
    return _record(numbers, pos, heavy[best], place[owner], template)


def _record(
    numbers: np.ndarray, pos: np.ndarray, heavy: np.ndarray, owner: np.ndarray, template: _Template
) -> MoleculeRecord:
    """Assemble the record; SMILES atom k is atom ``heavy[k]``, hydrogen h belongs to SMILES atom ``owner[h]``."""
    n = len(numbers)
    bonds = np.zeros((n, n), dtype=np.int64)
    i, j = heavy[template.bonds[:, 0]], heavy[template.bonds[:, 1]]
    bonds[i, j] = bonds[j, i] = template.bonds[:, 2]
    hydrogen = np.flatnonzero(numbers == 1)
    bonds[hydrogen, heavy[owner]] = bonds[heavy[owner], hydrogen] = 1
    charges = np.zeros(n, dtype=np.int64)
    charges[heavy] = template.formal_charge
    return MoleculeRecord(numbers, charges, bonds, pos, explicit_h=True)


def _owners(numbers: np.ndarray, pos: np.ndarray, heavy: np.ndarray) -> np.ndarray:
    """Position in ``heavy`` of the nearest heavy atom of each hydrogen, in the order of the hydrogens."""
    hydrogen = np.flatnonzero(numbers == 1)
    if not len(hydrogen):
        return np.zeros(0, dtype=np.int64)
    if not len(heavy):
        raise BondError("loose_hydrogen", "there is no heavy atom for the hydrogens.")
    distance = np.sqrt(((pos[hydrogen][:, None] - pos[heavy][None]) ** 2).sum(axis=-1))
    owner = distance.argmin(axis=1)
    nearest = distance.min(axis=1)
    limit = _BOND_LIMIT * (COVALENT_RADII["H"] + covalent_radii(numbers[heavy[owner]]))
    if (nearest > limit).any():
        k = int(np.argmax(nearest / limit))
        raise BondError("loose_hydrogen", f"hydrogen {hydrogen[k]} is {nearest[k]:.2f} angstrom from any heavy atom.")
    return owner


def _parse(smiles: str) -> _Template:
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            raise BondError("parse", f"{smiles!r} is not a SMILES that RDKit accepts.")
        Chem.Kekulize(mol, clearAromaticFlags=True)
    atoms = [(a.GetAtomicNum(), a.GetFormalCharge(), a.GetTotalNumHs()) for a in mol.GetAtoms()]
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in mol.GetBonds()]
    columns = np.array(atoms, dtype=np.int64).reshape(-1, 3)
    return _Template(columns[:, 0], columns[:, 1], columns[:, 2], np.array(bonds, dtype=np.int64).reshape(-1, 3))


def _labelled_graph(numbers: np.ndarray, hydrogens: np.ndarray, bonds: np.ndarray) -> Chem.Mol:
    """Graph of single bonds whose atoms carry their number of hydrogens as isotope, which matching compares."""
    mol = Chem.RWMol()
    for number, count in zip(numbers.tolist(), hydrogens.tolist()):
        atom = Chem.Atom(number)
        atom.SetIsotope(count + 1)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j in bonds.tolist():
        mol.AddBond(i, j, Chem.BondType.SINGLE)
    return mol.GetMol()


def _points(numbers: np.ndarray, pos: np.ndarray) -> Chem.Mol:
    mol = Chem.RWMol()
    for number in numbers.tolist():
        mol.AddAtom(Chem.Atom(number))
    conformer = Chem.Conformer(len(numbers))
    conformer.SetPositions(np.ascontiguousarray(pos))
    mol.AddConformer(conformer)
    return mol.GetMol()


def _checked(numbers: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    numbers, pos = np.asarray(numbers, dtype=np.int64), np.asarray(pos, dtype=np.float64)
    if pos.shape != (len(numbers), 3):
        raise ValueError(f"pos must have shape ({len(numbers)}, 3) in angstrom, got {pos.shape}.")
    return numbers, pos
