"""The strict verdict on a molecule: would a chemist accept it, and if not, why.

No valence outside the table, one fragment, sanitised by RDKit, no hydrogen added by RDKit, no radical, no bond order
changed on the way. RDKit messages are silenced around each call, never globally.

References: Nikitin et al. 2025, "GEOM-Drugs Revisited" (corrected stability; its list of evaluation errors).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from rdkit import Chem, rdBase

from molecules.elements import CHEMIST_VALENCES, SYMBOLS, ValenceTable, number_of
from molecules.records import AROMATIC, MoleculeRecord, assemble, canonical_smiles, kekulise, record_of

__all__ = ["Verdict", "Vocabulary", "judge", "judge_mol"]


class Vocabulary(Protocol):
    """What a model can express; a `molecules.data.MoleculeSpec` is one."""

    @property
    def elements(self) -> Sequence[str]:
        """Element symbols."""
        ...

    @property
    def charges(self) -> Sequence[int]:
        """Formal charges."""
        ...


@dataclass(frozen=True)
class Verdict:
    """Whether a record is a molecule, and if not, why.

    ``reason`` is None or one of ``vocabulary``, ``valence:<El><charge>=<v>``, ``fragments:<k>``,
    ``sanitize:<exception>``, ``implicit_h``, ``radical``, ``bond_change``; ``detail`` is a sentence for people;
    ``atoms`` are the offending atoms (0-based). ``smiles`` (canonical, without hydrogens and stereo) and ``mol``
    (sanitised, with its conformer) are None if invalid. ``net_charge`` is reported, not judged.
    """

    valid: bool
    reason: str | None = None
    detail: str | None = None
    atoms: tuple[int, ...] = ()
    smiles: str | None = None
    mol: Chem.Mol | None = None
    net_charge: int = 0


def judge(
    record: MoleculeRecord,
    vocabulary: Vocabulary | None = None,
    *,
    valences: ValenceTable = CHEMIST_VALENCES,
    largest_fragment: bool = False,
) -> Verdict:
    """Strict validity of a record; the first failing test, in the order of `Verdict.reason`, is the reason.

    With explicit hydrogens every atom must have exactly a listed valence; with implicit ones at most the largest listed
    one, and RDKit fills the rest. Aromatic bonds (code 4) are kekulised first; where that is impossible the reason is
    ``sanitize:KekulizeException``.

    Args:
        record: The molecule; it is not changed.
        vocabulary: Elements and charges that are allowed at all; None allows every element.
        valences: Allowed valences by element and charge, on kekulised bonds.
        largest_fragment: Judge only the largest fragment (``atoms`` then still number the whole record).
    """
    failure = _check_vocabulary(record, vocabulary)
    if failure is not None:
        return failure
    with rdBase.BlockLogs():
        mol = assemble(record)
        if largest_fragment and len(record):
            keep = max(Chem.GetMolFrags(mol), key=len)
            if len(keep) < len(record):
                verdict = judge(record.take(keep), vocabulary, valences=valences)
                return replace(verdict, atoms=tuple(keep[i] for i in verdict.atoms))
        orders = record.bonds
        if (orders == AROMATIC).any():
            try:
                orders = kekulise(record).bonds
            except Exception as error:
                return _failed(record, f"sanitize:{type(error).__name__}", str(error).strip())
        failure = _check_valences(record, orders.sum(axis=1), valences, exact=record.explicit_h)
        return failure or _check_mol(mol, record)


def judge_mol(
    mol: Chem.Mol,
    vocabulary: Vocabulary | None = None,
    *,
    explicit_h: bool = True,
    valences: ValenceTable = CHEMIST_VALENCES,
) -> Verdict:
    """Strict validity of an RDKit molecule as a file or a SMILES gave it (sanitised or not).

    Here hydrogens that RDKit adds count for the valence; with ``explicit_h`` they then fail as ``implicit_h``: a
    SMILES without its hydrogens is not taken for a broken molecule, and not for a complete one either.

    Raises:
        ValueError: If a bond is of another kind than single, double, triple or aromatic.
    """
    record = record_of(mol, explicit_h=explicit_h)
    failure = _check_vocabulary(record, vocabulary)
    if failure is not None:
        return failure
    with rdBase.BlockLogs():
        mol = Chem.Mol(mol)
        mol.UpdatePropertyCache(strict=False)
        try:
            orders = _kekulised_orders(mol) if (record.bonds == AROMATIC).any() else record.bonds
        except Exception as error:
            return _failed(record, f"sanitize:{type(error).__name__}", str(error).strip())
        filled = orders.sum(axis=1) + [atom.GetTotalNumHs() for atom in mol.GetAtoms()]
        failure = _check_valences(record, filled, valences, exact=explicit_h)
        return failure or _check_mol(mol, record)


def _failed(record: MoleculeRecord, reason: str, detail: str, atoms: Sequence[int] | np.ndarray = ()) -> Verdict:
    charge = int(record.formal_charge.sum())
    return Verdict(False, reason, detail, tuple(int(i) for i in atoms), net_charge=charge)


def _check_vocabulary(record: MoleculeRecord, vocabulary: Vocabulary | None) -> Verdict | None:
    """Atoms and bonds must be of classes that exist; an empty record has none."""
    if len(record) == 0:
        return _failed(record, "vocabulary", "the record has no atoms.")
    if record.bonds.min() < 0 or record.bonds.max() > AROMATIC:
        atoms = np.flatnonzero(((record.bonds < 0) | (record.bonds > AROMATIC)).any(axis=1))
        return _failed(record, "vocabulary", f"bond codes lie in 0..{AROMATIC}.", atoms)
    known = (record.numbers >= 1) & (record.numbers < len(SYMBOLS))
    if vocabulary is not None:
        known &= np.isin(record.numbers, [number_of(symbol) for symbol in vocabulary.elements])
        known &= np.isin(record.formal_charge, np.asarray(vocabulary.charges, dtype=np.int64))
    if known.all():
        return None
    atoms = np.flatnonzero(~known)
    shown = ", ".join(sorted({f"{record.numbers[i]} with charge {record.formal_charge[i]}" for i in atoms}))
    return _failed(record, "vocabulary", f"atomic numbers outside the vocabulary: {shown}.", atoms)


def _check_valences(record: MoleculeRecord, filled: np.ndarray, valences: ValenceTable, exact: bool) -> Verdict | None:
    """Every atom's sum of bond orders must be listed, or with implicit hydrogens not exceed the largest listed one."""
    reasons: dict[int, str] = {}
    rows = zip(record.numbers.tolist(), record.formal_charge.tolist(), filled.tolist())
    for i, (number, charge, valence) in enumerate(rows):
        allowed = valences.get(SYMBOLS[number], {}).get(charge, ())
        if valence in allowed or (not exact and allowed and valence <= max(allowed)):
            continue
        reasons[i] = (
            f"valence:{SYMBOLS[number]}{charge:+d}={valence}" if charge else f"valence:{SYMBOLS[number]}0={valence}"
        )
    if not reasons:
        return None
    first = min(reasons)
    allowed = valences.get(SYMBOLS[record.numbers[first]], {}).get(int(record.formal_charge[first]), ())
    wanted = " or ".join(map(str, allowed)) or "not listed at this charge"
    rule = "allowed" if exact else "allowed at most"
    return _failed(record, reasons[first], f"atom {first}: {reasons[first][8:]}, {rule} {wanted}.", list(reasons))


def _check_mol(mol: Chem.Mol, record: MoleculeRecord) -> Verdict:
    """The tests that need RDKit: fragments, sanitising, hydrogens, radicals, changed bonds."""
    fragments = Chem.GetMolFrags(mol)
    if len(fragments) > 1:
        largest = max(fragments, key=len)
        rest = [i for part in fragments if part is not largest for i in part]
        return _failed(record, f"fragments:{len(fragments)}", f"sizes {sorted(map(len, fragments))[::-1]}.", rest)
    before = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), bond.GetBondTypeAsDouble()) for bond in mol.GetBonds()]
    try:
        Chem.SanitizeMol(mol)
        smiles = canonical_smiles(mol)
    except Exception as error:
        cause = getattr(error, "cause", None)  # set by RDKit on errors that belong to one atom
        atoms = [cause.GetAtomIdx()] if cause is not None else []
        return _failed(record, f"sanitize:{type(error).__name__}", str(error).strip(), atoms)
    if record.explicit_h:
        atoms = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetTotalNumHs()]
        if atoms:
            return _failed(record, "implicit_h", "RDKit added hydrogens to atoms of a complete molecule.", atoms)
    atoms = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetNumRadicalElectrons()]
    if atoms:
        return _failed(record, "radical", "atoms with unpaired electrons.", atoms)
    changed = [
        (i, j) for i, j, order in before if abs(mol.GetBondBetweenAtoms(i, j).GetBondTypeAsDouble() - order) >= 1.0
    ]
    if changed:
        return _failed(
            record, "bond_change", "sanitising changed bond orders.", sorted({i for ij in changed for i in ij})
        )
    return Verdict(True, smiles=smiles, mol=mol, net_charge=int(record.formal_charge.sum()))


def _kekulised_orders(mol: Chem.Mol) -> np.ndarray:
    """(n, n) bond orders 0..3; ``mol`` keeps its aromatic bonds and the hydrogens it was read with."""
    mol = Chem.Mol(mol)
    Chem.FastFindRings(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return record_of(mol, explicit_h=True).bonds
