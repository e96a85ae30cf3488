"""Two sets in one representation, so that a distance between them measures molecules and not notation.

Explicit hydrogens in one set only would move every histogram, and so would aromatic bonds in one set only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rdkit import Chem, rdBase

from molecules.chemistry import AROMATIC, MoleculeRecord, assemble, record_of

__all__ = ["harmonize", "kekulize"]


def harmonize(
    generated: Sequence[MoleculeRecord], reference: Sequence[MoleculeRecord]
) -> tuple[Sequence[MoleculeRecord], Sequence[MoleculeRecord], list[str]]:
    """Bring two sets to heavy atoms if their hydrogens differ, and to kekulised bonds if only one is aromatic.

    Returns:
        Both sets (new records where something had to change) and a sentence for each change.
    """
    notes = []
    if len({record.explicit_h for record in [*generated, *reference]}) > 1:
        notes.append("hydrogens are explicit in one set only: distributions are compared on heavy atoms.")
        generated = [record.without_hydrogens() for record in generated]
        reference = [record.without_hydrogens() for record in reference]
    aromatic = [any((record.bonds == AROMATIC).any() for record in group) for group in (generated, reference)]
    if aromatic[0] != aromatic[1]:
        notes.append("aromatic bonds stand in one set only: distributions are compared on kekulised bonds.")
        generated, reference = ([kekulize(record) for record in group] for group in (generated, reference))
    return generated, reference, notes


def kekulize(record: MoleculeRecord) -> MoleculeRecord:
    """The record with aromatic bonds made single and double, or the record itself if that is impossible."""
    if not (record.bonds == AROMATIC).any():
        return record
    with rdBase.BlockLogs():
        mol = assemble(record)
        try:
            mol.UpdatePropertyCache(strict=False)
            Chem.FastFindRings(mol)
            Chem.Kekulize(mol, clearAromaticFlags=True)
        except Exception:
            return record
    bonds = record_of(mol, explicit_h=record.explicit_h).bonds
    return MoleculeRecord(record.numbers, record.formal_charge, np.asarray(bonds), record.pos, record.explicit_h)
