"""Validity of a set of molecules: strict and published variants, uniqueness, novelty, connectedness, reasons.

Strict validity is that of `molecules.chemistry.judge`. Unique = distinct canonical SMILES / valid molecules; novel =
share of the distinct ones that are not in the training set; V&U and V&U&N are shares of all molecules. A novel QM9
molecule is not a better one: QM9 enumerates its chemical space, so novelty there measures distance from the training
distribution.

References: Hoogeboom et al. 2022 (EDM validity); Vignac et al. 2023 (MiDi); Le et al. 2024 (EQGAT-diff); Nikitin et al.
2025, "GEOM-Drugs Revisited" (list of evaluation errors).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from rdkit import Chem, rdBase

from molecules.batches import padded_batches
from molecules.chemistry import (
    MoleculeRecord,
    Verdict,
    assemble,
    canonical_smiles,
    good_geometry,
    judge,
    within_bond_band,
)
from molecules.stability import edm_bond_orders

__all__ = [
    "LegacyValidity",
    "SetValidity",
    "canonical_set",
    "edm_validity",
    "fragment_sizes",
    "legacy_set_validity",
    "legacy_validity",
    "set_validity",
]


@dataclass(frozen=True, eq=False)
class SetValidity:
    """Per-molecule findings of one protocol; `counts` and `shares` look at any part of the set.

    Args:
        smiles: Canonical SMILES of the valid molecules, None for the others.
        flags: (N,) bool arrays by name (``valid``, ``valid_3d``, ``connected``, ``good_bonds``...).
        largest_fragment: (N,) atoms of the largest fragment / atoms.
        reasons: Number of molecules by reason of failure; sums to N - valid.
    """

    smiles: Sequence[str | None]
    flags: dict[str, np.ndarray]
    largest_fragment: np.ndarray
    reasons: Counter[str]

    def counts(
        self, training_smiles: frozenset[str] | None = None, index: np.ndarray | None = None
    ) -> dict[str, tuple[int, int]]:
        """Part and whole of each share, over the molecules of ``index`` (all by default).

        ``good_bonds`` is a share of the valid molecules, ``unique`` of the valid, ``novel`` of the distinct ones; all
        others are shares of all molecules. Uniqueness falls with the number of molecules: compare equal numbers only.
        """
        index = np.arange(len(self.smiles)) if index is None else index
        total, valid = len(index), self.flags["valid"][index]
        result = {name: (int(flag[index].sum()), total) for name, flag in self.flags.items()}
        if "good_bonds" in self.flags:
            result["good_bonds"] = (int((self.flags["good_bonds"][index] & valid).sum()), int(valid.sum()))
        distinct = {smiles for i in index if (smiles := self.smiles[i]) is not None}
        result["unique"] = (len(distinct), int(valid.sum()))
        result["valid_unique"] = (len(distinct), total)
        if training_smiles is not None:
            novel = len(distinct - training_smiles)
            result["novel"] = (novel, len(distinct))
            result["valid_unique_novel"] = (novel, total)
        return result

    def shares(
        self, training_smiles: frozenset[str] | None = None, index: np.ndarray | None = None
    ) -> dict[str, float]:
        """The `counts` as shares, a share of nothing being NaN, and the mean ``largest_fragment``."""
        counts = self.counts(training_smiles, index)
        result = {name: part / whole if whole else float("nan") for name, (part, whole) in counts.items()}
        chosen = self.largest_fragment if index is None else self.largest_fragment[index]
        result["largest_fragment"] = float(chosen.mean()) if len(chosen) else float("nan")
        return result


class LegacyValidity(NamedTuple):
    """The validity variants of published code; each lets RDKit add hydrogens."""

    largest_sanitizes: bool
    """MiDi: the largest fragment sanitises, whatever else there is."""
    sanitizes: bool
    """SemlaFlow: the whole record sanitises, fragments allowed."""
    connected: bool
    """EQGAT-diff and SemlaFlow's ``fc``: sanitises and is one fragment."""
    strict: bool
    """EQGAT-diff ``analyze_strict``: also no added hydrogen, no radical, no bond order changed by 1 or more."""
    smiles: str | None
    """Canonical SMILES of the largest fragment, None if it does not sanitise."""


def set_validity(
    records: Sequence[MoleculeRecord], verdicts: Sequence[Verdict] | None = None, **options: object
) -> SetValidity:
    """Strict validity of a set.

    Args:
        records: The molecules; geometry is judged where they have coordinates.
        verdicts: Their verdicts if known, else `judge` is called with ``options``.
        options: Passed to `molecules.chemistry.judge`.
    """
    if verdicts is None:
        verdicts = [judge(record, **options) for record in records]  # type: ignore[arg-type]
    valid = np.array([verdict.valid for verdict in verdicts], dtype=bool)
    largest, number = fragment_sizes(records)
    flags = {"valid": valid, "connected": number == 1}
    if any(record.pos is not None for record in records):
        has_pos = [record.pos is not None for record in records]
        geometry = [known and good_geometry(record) for known, record in zip(has_pos, records)]
        band = [known and within_bond_band(record) for known, record in zip(has_pos, records)]
        flags["valid_3d"] = valid & np.array(geometry, dtype=bool)
        flags["good_bonds"] = np.array(band, dtype=bool)
    reasons = Counter(verdict.reason or "unknown" for verdict in verdicts if not verdict.valid)
    return SetValidity([verdict.smiles for verdict in verdicts], flags, largest, reasons)


def fragment_sizes(records: Sequence[MoleculeRecord]) -> tuple[np.ndarray, np.ndarray]:
    """Share of atoms in the largest fragment and number of fragments, two arrays (N,); 0 for a record without atoms."""
    largest, number = np.zeros(len(records)), np.zeros(len(records), dtype=np.int64)
    for batch in padded_batches(records):
        n = batch.numbers.shape[1]
        reach = (batch.bonds > 0) | (np.eye(n, dtype=bool) & batch.mask[:, None])
        for _ in range(int(np.ceil(np.log2(max(n, 2))))):
            reach = np.matmul(reach.astype(np.float32), reach.astype(np.float32)) > 0
        sizes = reach.sum(-1)
        atoms = batch.mask.sum(-1)
        largest[batch.index] = sizes.max(-1, initial=0) / np.maximum(atoms, 1)
        inverse = np.where(batch.mask, 1.0 / np.maximum(sizes, 1), 0.0).sum(-1)
        number[batch.index] = np.rint(inverse).astype(np.int64)
    return largest, number


def edm_validity(records: Sequence[MoleculeRecord]) -> SetValidity:
    """Validity of point clouds as EDM computes it: bonds from distances, charges ignored, largest fragment.

    RDKit completes hydrogens, so a bare carbon is valid methane here: report it beside other people's numbers only.
    """
    bonded = list(records)
    for batch in padded_batches(records):
        orders = edm_bond_orders(batch.numbers, batch.pos)
        for row, i in enumerate(batch.index):
            n = len(records[i])
            neutral = np.zeros(n, dtype=np.int64)
            bonded[i] = MoleculeRecord(records[i].numbers, neutral, orders[row, :n, :n], explicit_h=False)
    smiles, reasons = [], Counter()
    with rdBase.BlockLogs():
        for record in bonded:
            found, reason = _whole_smiles(record)
            smiles.append(found)
            if reason is not None:
                reasons[reason] += 1
    largest, number = fragment_sizes(bonded)
    valid = np.array([item is not None for item in smiles], dtype=bool)
    return SetValidity(smiles, {"valid": valid, "connected": number == 1}, largest, reasons)


def legacy_validity(record: MoleculeRecord) -> LegacyValidity:
    """The published validity variants of one record with explicit bonds (see `LegacyValidity`)."""
    with rdBase.BlockLogs():
        try:
            mol = assemble(replace(record, explicit_h=False))
        except ValueError:
            return LegacyValidity(False, False, False, False, None)
        parts = Chem.GetMolFrags(mol)
        if not parts:
            return LegacyValidity(False, False, False, False, None)
        smiles, _ = _sanitized_smiles(assemble(replace(record.take(max(parts, key=len)), explicit_h=False)))
        before = {bond.GetIdx(): bond.GetBondTypeAsDouble() for bond in mol.GetBonds()}
        whole, _ = _sanitized_smiles(mol)
        connected = whole is not None and len(parts) == 1
        strict = connected and all(
            abs(bond.GetBondTypeAsDouble() - before[bond.GetIdx()]) < 1.0 for bond in mol.GetBonds()
        )
        strict = strict and not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
        if record.explicit_h:
            strict = strict and not any(atom.GetTotalNumHs() for atom in mol.GetAtoms())
        return LegacyValidity(smiles is not None, whole is not None, connected, strict, smiles)


def legacy_set_validity(records: Sequence[MoleculeRecord]) -> SetValidity:
    """The published validity variants of a set.

    ``valid`` is MiDi's (largest fragment), ``valid_whole`` SemlaFlow's, ``valid_connected`` and ``valid_strict`` are
    EQGAT-diff's; ``unique`` is taken over MiDi's SMILES.
    """
    found = [legacy_validity(record) for record in records]
    largest, number = fragment_sizes(records)
    flags = {
        "valid": np.array([row.largest_sanitizes for row in found], dtype=bool),
        "valid_whole": np.array([row.sanitizes for row in found], dtype=bool),
        "valid_connected": np.array([row.connected for row in found], dtype=bool),
        "valid_strict": np.array([row.strict for row in found], dtype=bool),
        "connected": number == 1,
    }
    reasons = Counter({"sanitize": int((~flags["valid"]).sum())})
    return SetValidity([row.smiles for row in found], flags, largest, +reasons)


def canonical_set(smiles: Iterable[str]) -> frozenset[str]:
    """Distinct canonical SMILES without hydrogens and stereo; what RDKit cannot read is left out.

    Use it for the training side of novelty, so that both sides obey one rule.
    """
    result = set()
    with rdBase.BlockLogs():
        for text in smiles:
            mol = Chem.MolFromSmiles(text)
            if mol is not None and mol.GetNumAtoms():
                result.add(canonical_smiles(mol))
    return frozenset(result)


def _whole_smiles(record: MoleculeRecord) -> tuple[str | None, str | None]:
    """SMILES of the largest fragment if the whole record sanitises, else None and the exception's name."""
    try:
        mol = assemble(record)
    except ValueError:
        return None, "vocabulary"
    if mol.GetNumAtoms() == 0:
        return None, "vocabulary"
    whole, reason = _sanitized_smiles(mol)
    if whole is None or "." not in whole:
        return whole, reason
    largest = max(Chem.GetMolFrags(mol, asMols=True), key=lambda part: part.GetNumAtoms())
    return _sanitized_smiles(largest)


def _sanitized_smiles(mol: Chem.Mol) -> tuple[str | None, str | None]:
    """Sanitise ``mol`` in place and give its canonical SMILES; on failure None and ``sanitize:<exception>``."""
    try:
        Chem.SanitizeMol(mol)
        return canonical_smiles(mol), None
    except Exception as error:
        return None, f"sanitize:{type(error).__name__}"
