"""Readers of unprepared molecules: QM9 in its two forms, SDF, XYZ and npz files.

Every reader gives `RawMolecule` objects and decides nothing: cleaning is the business of `molecules.data.prepare`.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from molecules.elements import number_of
from molecules.io import read_smiles
from molecules.records import MoleculeRecord, record_of
from scidiff.arrays import read_npz as read_arrays

__all__ = ["RawMolecule", "read_gdb9", "read_npz", "read_qm9_npz", "read_sdf", "read_smi", "read_xyz", "sha256_of"]

_GDB9_NAME = re.compile(r"dsgdb9nsd_(\d+)\.xyz$")
_CHARGE = re.compile(r"\b(?:total_)?charge\s*=\s*\"?([+-]?\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class RawMolecule:
    """A molecule as its source gives it; ``numbers`` is empty if the source could not be parsed.

    ``smiles`` or ``record`` (with bonds) say how it is bonded; without both, bonds are perceived with net ``charge``.
    ``properties`` are named numbers. ``needs_geometry`` says that there is only a SMILES, to be embedded.
    """

    id: int
    numbers: np.ndarray
    pos: np.ndarray
    smiles: str | None = None
    record: MoleculeRecord | None = None
    charge: int = 0
    split: int | None = None
    properties: Mapping[str, float] = field(default_factory=dict)
    needs_geometry: bool = False


def read_qm9_npz(geometries: Path, smiles: Path) -> Iterator[RawMolecule]:
    """QM9 packed as geometries (``gdb_id``, ``num_atoms``, ``charges``, ``positions``) and SMILES by GDB id.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the geometries lack an array.
    """
    for path in (geometries, smiles):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist. Set SCIDIFF_DATA or pass the folder of the QM9 files.")
    with gzip.open(smiles, "rt", encoding="ascii") as file:
        lines = file.read().split()
    data = read_arrays(geometries)
    missing = {"gdb_id", "num_atoms", "charges", "positions"} - set(data)
    if missing:
        raise ValueError(f"{geometries} lacks the arrays {sorted(missing)} of packed QM9 geometries.")
    ids, sizes, numbers, pos = data["gdb_id"], data["num_atoms"].astype(np.int64), data["charges"], data["positions"]
    split, table = data.get("split"), _property_rows(geometries.parent)
    stops = np.cumsum(sizes)
    for k, (gdb_id, stop, size) in enumerate(zip(ids.tolist(), stops.tolist(), sizes.tolist())):
        rows = slice(stop - size, stop)
        code = None if split is None else int(split[k])
        known = table.get(gdb_id, {})
        yield RawMolecule(gdb_id, numbers[rows], pos[rows], smiles=lines[gdb_id - 1], split=code, properties=known)


def read_gdb9(source: Path) -> Iterator[RawMolecule]:
    """The original files ``dsgdb9nsd_<id>.xyz``, from a folder or from the (compressed) tar archive, by ascending id.

    Numbers like ``1.23*^-6`` (Mathematica's exponent) are understood. The GDB SMILES is the first one of its line.

    Raises:
        FileNotFoundError: If nothing is there or no file has such a name.
        ValueError: If a file has not the layout of the original.
    """
    texts: dict[int, str] = {}
    if source.is_dir():
        for path in source.rglob("*.xyz"):
            if match := _GDB9_NAME.search(path.name):
                texts[int(match[1])] = path.read_text(encoding="ascii")
    elif source.is_file():
        with tarfile.open(source) as archive:
            for member in archive:
                match, file = _GDB9_NAME.search(member.name), archive.extractfile(member) if member.isfile() else None
                if match and file is not None:
                    texts[int(match[1])] = file.read().decode("ascii")
    if not texts:
        raise FileNotFoundError(f"{source} holds no file dsgdb9nsd_<id>.xyz. Expected the QM9 archive or its folder.")
    for gdb_id in sorted(texts):
        yield _parse_gdb9(gdb_id, texts[gdb_id])


def read_sdf(path: Path) -> Iterator[RawMolecule]:
    """Molecules of an SDF with bonds and charges as in the file, not sanitised, and its data fields of numbers."""
    with rdBase.BlockLogs():
        for index, mol in enumerate(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)):
            try:
                record = None if mol is None or not mol.GetNumConformers() else record_of(mol)
            except ValueError:
                record = None
            yield _from_record(index, record, {} if mol is None else _numbers(mol))


def read_smi(path: Path) -> Iterator[RawMolecule]:
    """SMILES, the first word of each line; geometries are made when a molecule is cleaned."""
    for index, text in enumerate(read_smiles(path)):
        yield RawMolecule(index, np.zeros(0, dtype=np.int64), np.zeros((0, 3)), smiles=text, needs_geometry=True)


def read_xyz(path: Path, charge: int = 0) -> Iterator[RawMolecule]:
    """Frames of an XYZ or extended XYZ file; ``charge=`` in a comment line wins over the argument.

    Raises:
        ValueError: If a count line or an atom line is malformed.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    start, index = 0, 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        try:
            count = int(lines[start].split()[0])
            atoms = [line.split() for line in lines[start + 2 : start + 2 + count]]
            numbers = np.array([_number(row[0]) for row in atoms], dtype=np.int64)
            pos = np.array([[_decimal(value) for value in row[1:4]] for row in atoms], dtype=np.float64)
            if pos.shape != (count, 3):
                raise ValueError(f"{len(atoms)} complete atom lines instead of {count}")
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{path}, frame {index} at line {start + 1}: expected a count, a comment, lines 'El x y z' ({error})."
            ) from error
        comment = lines[start + 1] if start + 1 < len(lines) else ""
        found = _CHARGE.search(comment)
        yield RawMolecule(index, numbers, pos, charge=int(found[1]) if found else charge)
        start, index = start + 2 + count, index + 1


def read_npz(path: Path, charge: int = 0) -> Iterator[RawMolecule]:
    """Flat arrays: ``num_atoms``, ``positions``, atomic numbers as ``numbers``, ``z`` or ``charges``.

    With ``num_bonds``, ``bonds`` (rows i, j, order) and ``formal_charge`` the bonds are taken as they are, else
    they are perceived.

    Raises:
        ValueError: If the file is damaged or an array is missing.
    """
    arrays = read_arrays(path)
    number_key = next((key for key in ("numbers", "z", "charges") if key in arrays), None)
    if number_key is None or not {"num_atoms", "positions"} <= arrays.keys():
        raise ValueError(
            f"{path} must hold num_atoms, positions and atomic numbers (numbers, z or charges), got {sorted(arrays)}."
        )
    bonded = {"num_bonds", "bonds", "formal_charge"} <= arrays.keys()
    atom_stop = np.cumsum(arrays["num_atoms"].astype(np.int64)).tolist()
    bond_stop = np.cumsum(arrays["num_bonds"].astype(np.int64)).tolist() if bonded else [0] * len(atom_stop)
    ids = next((arrays[key] for key in ("ids", "gdb_id") if key in arrays), np.arange(len(atom_stop))).tolist()
    for k, (first, last) in enumerate(zip([0, *atom_stop], atom_stop)):
        numbers, pos = arrays[number_key][first:last].astype(np.int64), arrays["positions"][first:last]
        if not bonded:
            yield RawMolecule(ids[k], numbers, pos, charge=charge)
            continue
        i, j, order = arrays["bonds"][([0, *bond_stop])[k] : bond_stop[k]].astype(np.int64).T
        matrix = np.zeros((last - first, last - first), dtype=np.int64)
        matrix[i, j] = matrix[j, i] = order
        record = MoleculeRecord(numbers, arrays["formal_charge"][first:last], matrix, pos)
        yield _from_record(ids[k], record)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_record(
    index: int, record: MoleculeRecord | None, properties: Mapping[str, float] | None = None
) -> RawMolecule:
    if record is None or record.pos is None:
        return RawMolecule(index, np.zeros(0, dtype=np.int64), np.zeros((0, 3)))
    return RawMolecule(index, record.numbers, record.pos, record=record, properties=properties or {})


def _numbers(mol: Chem.Mol) -> dict[str, float]:
    """Data fields of an SDF entry whose text is a finite number."""
    found = {}
    for name in mol.GetPropNames():
        try:
            value = float(mol.GetProp(name))
        except ValueError:
            continue
        if math.isfinite(value):
            found[name] = value
    return found


def _property_rows(folder: Path) -> dict[int, dict[str, float]]:
    """Columns of ``qm9*properties.npz`` beside the geometries by GDB id; empty without such a file."""
    rows: dict[int, dict[str, float]] = {}
    for path in sorted(folder.glob("qm9*properties.npz")):
        columns = read_arrays(path)
        ids = columns.pop("gdb_id").tolist()
        table = np.column_stack([columns[name] for name in columns]).tolist()
        for gdb_id, values in zip(ids, table):
            rows.setdefault(gdb_id, {}).update(zip(columns, values))
    return rows


def _parse_gdb9(gdb_id: int, text: str) -> RawMolecule:
    lines = text.splitlines()
    try:
        count = int(lines[0])
        atoms = [line.split() for line in lines[2 : 2 + count]]
        numbers = np.array([_number(row[0]) for row in atoms], dtype=np.int64)
        pos = np.array([[_decimal(value) for value in row[1:4]] for row in atoms], dtype=np.float64).reshape(count, 3)
        return RawMolecule(gdb_id, numbers, pos, smiles=lines[3 + count].split()[0])
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"dsgdb9nsd_{gdb_id:06d}.xyz has not the layout of the original QM9 files ({error})."
        ) from error


def _decimal(text: str) -> float:
    return float(text.replace("*^", "e"))


def _number(text: str) -> int:
    return int(text) if text.isdigit() else number_of(text)
