"""Evaluation of molecule files: anybody's SDF, SMILES, XYZ, prepared or plain NPZ.

What a file holds decides what can be said about it: SDF and prepared files have bonds and usually coordinates (all
protocols), SMILES have bonds (no geometry), XYZ and plain NPZ have coordinates only (the ``edm`` protocol). Hydrogens
of SMILES are made explicit, their bonds kekulised, before anything is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from rdkit import Chem, rdBase

from molecules.assessment import PROTOCOLS, evaluate
from molecules.chemistry import MoleculeRecord, judge, record_of
from molecules.io import Entry, read_sdf, read_smiles, read_xyz
from molecules.report import Report
from molecules.validity import canonical_set
from scidiff.arrays import npz_keys, read_npz
from scidiff.files import check_writable

__all__ = ["MoleculeFile", "evaluate_file", "read_molecules"]

_SDF, _SMILES, _XYZ = (".sdf", ".sd", ".mol"), (".smi", ".smiles", ".txt", ".csv"), (".xyz", ".extxyz")
_SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class MoleculeFile:
    """Molecules of a file; an entry that could not be read is a record without atoms.

    Args:
        records: The molecules.
        has_bonds: Whether the format carries bonds.
        has_pos: Whether every molecule has coordinates.
        smiles: Known canonical SMILES of the file's molecules for novelty, or None.
    """

    records: Sequence[MoleculeRecord]
    has_bonds: bool
    has_pos: bool
    smiles: Sequence[str] | None = None


def evaluate_file(
    path: str | Path,
    *,
    reference: str | Path | None = None,
    training: str | Path | None = None,
    protocols: str | Sequence[str] = ("corrected",),
    out: str | Path | None = None,
    split: str = "test",
    hydrogens: Literal["explicit", "implicit"] | None = None,
    descriptors: bool = True,
    energy: bool = False,
    geometry_checks: bool = False,
    max_reference: int = 10_000,
    seed: int = 0,
) -> Report:
    """Evaluate the molecules of a file.

    Args:
        path: SDF, SMILES, XYZ or NPZ file, gzip allowed for text.
        reference: File of real molecules; of a prepared file with a split, the part ``split`` is used.
        training: File whose molecules are not novel; by default the reference (its training part if it has a split).
        protocols: Names, or one string separated by commas. Protocols that the file cannot serve are left out with a
            note as long as one is left.
        out: JSON file for the report; checked before any work.
        split: Part of a prepared reference: ``"train"``, ``"valid"`` or ``"test"``.
        hydrogens: Overrides what the file says or shows about hydrogens.
        descriptors: See `molecules.metrics.evaluate`, as the options below.
        energy: Whether to relax the valid molecules with MMFF94.
        geometry_checks: Whether to run the checks of `molecules.pb_lite`.
        max_reference: Number of reference molecules used.
        seed: Seed of the random parts.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file cannot be understood or serves none of the protocols.
    """
    if out is not None:
        check_writable(out)
    names = [name.strip() for name in (protocols.split(",") if isinstance(protocols, str) else protocols)]
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown or not names:
        raise ValueError(f"protocols must be among {', '.join(PROTOCOLS)}, got {', '.join(names)}.")
    for other in (reference, training):
        if other is not None and not Path(other).is_file():
            raise FileNotFoundError(f"there is no file {other}: check the name.")
    generated = read_molecules(path)
    served = [name for name in names if (generated.has_pos if name == "edm" else generated.has_bonds)]
    if not served:
        lacking = "coordinates" if names == ["edm"] else "bonds"
        raise ValueError(f"{path} has no {lacking}, which {', '.join(names)} needs. {_advice(generated)}")
    records = generated.records
    if hydrogens is not None:
        records = [replace(record, explicit_h=hydrogens == "explicit") for record in records]
    target = None if reference is None else read_molecules(reference, split=split, limit=max_reference, seed=seed)
    known = _training_smiles(training, reference)
    report = evaluate(
        records,
        reference=None if target is None else target.records,
        training_smiles=known,
        protocols=served,
        descriptors=descriptors and generated.has_bonds,
        energy=energy and generated.has_bonds and generated.has_pos,
        geometry_checks=geometry_checks and generated.has_bonds and generated.has_pos,
        max_reference=max_reference,
        seed=seed,
    )
    left_out = [name for name in names if name not in served]
    notes = [*report.notes, *(f"{name} cannot be computed from this kind of file." for name in left_out)]
    files = {"molecules": str(path), "reference": _text(reference), "training": _text(training)}
    report = replace(report, notes=notes, files={key: value for key, value in files.items() if value})
    if out is not None:
        report.to_json(out)
    return report


def read_molecules(
    path: str | Path, *, split: str | None = None, limit: int | None = None, seed: int = 0
) -> MoleculeFile:
    """Molecules of a file by its ending: .sdf .sd .mol, .smi .smiles .txt .csv, .xyz .extxyz (also .gz), .npz.

    Args:
        path: The file.
        split: Part of a prepared file that has a split; other files are read whole.
        limit: Draw at most this many molecules at random.
        seed: Seed of the drawing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the ending is unknown or the content does not fit it.
    """
    path, suffix = Path(path), _suffix(path)
    if suffix in _SDF:
        records = _drawn([_record(entry) for entry in read_sdf(path)], limit, seed)
        return MoleculeFile(records, True, all(record.pos is not None for record in records))
    if suffix in _SMILES:
        lines = _drawn(read_smiles(path), limit, seed)
        records = [_from_smiles(text) for text in lines]
        if not any(len(record) for record in records):
            raise ValueError(f"{path} holds no SMILES that RDKit can read: expected one a line in the first column.")
        return MoleculeFile(records, True, False)
    if suffix in _XYZ:
        return MoleculeFile(_drawn([_record(entry) for entry in read_xyz(path)], limit, seed), False, True)
    if suffix == ".npz":
        return _read_npz(path, split, limit, seed)
    raise ValueError(f"{path} has the unknown ending {suffix!r}: expected .sdf, .smi, .xyz or .npz.")


def _read_npz(path: Path, split: str | None, limit: int | None, seed: int) -> MoleculeFile:
    """A prepared file, or flat geometries with the keys num_atoms, charges (atomic numbers) and positions."""
    keys = npz_keys(path)
    if {"num_atoms", "numbers", "bonds"} <= keys:
        return _read_prepared(path, split, limit, seed)
    if not {"num_atoms", "charges", "positions"} <= keys:
        raise ValueError(
            f"{path} has the keys {', '.join(sorted(keys))}: expected a prepared file, or num_atoms, charges "
            "(atomic numbers) and positions. Run `scidiff molecules prepare` on the original data."
        )
    data = read_npz(path, ("num_atoms", "charges", "positions"))
    counts, numbers, pos = data["num_atoms"].astype(np.int64), data["charges"], data["positions"]
    offset = np.concatenate([[0], np.cumsum(counts)])
    if offset[-1] != len(numbers) or pos.shape != (len(numbers), 3):
        raise ValueError(f"{path} is inconsistent: {offset[-1]} atoms counted, {len(numbers)} listed, pos {pos.shape}.")
    chosen = _drawn(range(len(counts)), limit, seed)
    records = [_cloud(numbers[offset[i] : offset[i + 1]], pos[offset[i] : offset[i + 1]]) for i in chosen]
    return MoleculeFile(records, False, True)


def _read_prepared(path: Path, split: str | None, limit: int | None, seed: int) -> MoleculeFile:
    """Records and SMILES of a prepared file or of one part of it."""
    from molecules.data.dataset import MoleculeDataset

    dataset = MoleculeDataset.from_npz(path)
    index = np.arange(len(dataset))
    if split is not None and dataset.split is not None:
        if split not in _SPLITS:
            raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}.")
        index = np.flatnonzero(dataset.split == _SPLITS.index(split))
        if not len(index):
            raise ValueError(f"{path} has no molecule in its {split} part.")
    smiles = None if dataset.smiles is None else [dataset.smiles[i] for i in index]
    records = [dataset.record(i) for i in _drawn(index.tolist(), limit, seed)]
    return MoleculeFile(records, True, True, smiles)


def _training_smiles(training: str | Path | None, reference: str | Path | None) -> frozenset[str] | None:
    """Canonical SMILES of the training file, else of the reference; None if neither can give them."""
    path = training if training is not None else reference
    if path is None:
        return None
    if _suffix(path) in _SMILES:
        return canonical_set(read_smiles(path))
    found = read_molecules(path, split="train")
    if found.smiles is not None:
        return frozenset(found.smiles)
    if not found.has_bonds:
        return None
    return frozenset(smiles for record in found.records if (smiles := judge(record).smiles) is not None)


def _suffix(path: str | Path) -> str:
    """Ending of a file name in lower case, that before .gz if compressed."""
    path = Path(path)
    return (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()


def _record(entry: Entry) -> MoleculeRecord:
    """The record of an entry, without atoms if it could not be read."""
    return _cloud(np.zeros(0), np.zeros((0, 3))) if entry.record is None else entry.record


def _cloud(numbers: np.ndarray, pos: np.ndarray) -> MoleculeRecord:
    """Atoms without bonds."""
    n = len(numbers)
    return MoleculeRecord(numbers, np.zeros(n), np.zeros((n, n)), pos)


def _from_smiles(text: str) -> MoleculeRecord:
    """Record of a SMILES with its hydrogens, without atoms if RDKit cannot read it."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text)
        if mol is not None and mol.GetNumAtoms() and all(atom.GetAtomicNum() for atom in mol.GetAtoms()):
            try:
                mol = Chem.AddHs(mol)
                Chem.Kekulize(mol, clearAromaticFlags=True)
                return record_of(mol, explicit_h=True)
            except (ValueError, Chem.KekulizeException):
                pass
    return replace(_cloud(np.zeros(0), np.zeros((0, 3))), pos=None)


def _drawn(items: Sequence, limit: int | None, seed: int) -> Sequence:
    """At most ``limit`` items in their order, drawn at random."""
    if limit is None or len(items) <= limit:
        return items
    chosen = np.sort(np.random.default_rng(seed).choice(len(items), limit, replace=False))
    return [items[i] for i in chosen]


def _advice(found: MoleculeFile) -> str:
    return "Use the edm protocol." if found.has_pos else "Use the corrected protocol, or a file with coordinates."


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
