"""Molecule files: SDF (V2000), extended XYZ and SMILES, written atomically and read without repairing anything.

Writers put the whole file beside its final name and rename it, so an interrupted run leaves no half-written file.
Readers keep molecules that make no sense (that is what the metrics count); an entry that cannot be read at all stays
in the list with its error instead of disappearing. Names ending in ``.gz`` are compressed. Coordinates are in
angstrom, SDF keeps four decimals of them and XYZ six.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from rdkit import Chem, rdBase

from molecules.chemistry import CHEMIST_VALENCES, MoleculeRecord, number_of, record_of, symbol_of
from scidiff.files import atomic_path

__all__ = [
    "Entry",
    "read_sdf",
    "read_smiles",
    "read_xyz",
    "write_sdf",
    "write_smiles",
    "write_trajectory_xyz",
    "write_xyz",
]

_MAX_V2000 = 999
_MAX_COORDINATE = 9999.0
_ZERO_VALENCE = 15
_INFO = re.compile(r'(\w+)=("[^"]*"|\S+)')


class Entry(NamedTuple):
    """One entry of a molecule file; ``record`` is None and ``error`` a sentence if it cannot be read."""

    record: MoleculeRecord | None
    title: str = ""
    properties: Mapping[str, str] = {}
    error: str | None = None


def write_sdf(
    path: str | Path,
    records: Sequence[MoleculeRecord],
    *,
    titles: Sequence[str] | None = None,
    properties: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write an SDF (V2000) with coordinates, bond orders and formal charges.

    Each molecule gets the data field ``hydrogens`` (explicit or implicit), so that reading restores the record. Atoms
    of explicit-hydrogen records with an unusual valence carry it in the valence column: other readers then add no
    hydrogens to them. Coordinates that are not finite, or too large for the format, are written as 0 and the molecule
    gets a field ``note``.

    Args:
        path: Output file.
        records: Molecules of at most 999 atoms and bonds each.
        titles: Names, ``molecule_<i>`` by default.
        properties: Data fields of each molecule; None values are left out.

    Raises:
        ValueError: If a molecule is too large for V2000 or an argument has another length than ``records``.
    """
    titles, properties = _labels(len(records), titles, properties)
    blocks = [_sdf_block(*row) for row in zip(records, titles, properties)]
    _write_text(path, blocks)


def sdf_text(record: MoleculeRecord, title: str = "") -> str:
    """One record as the text of an SDF entry."""
    return _sdf_block(record, title, {})


def read_sdf(path: str | Path) -> list[Entry]:
    """Read an SDF (V2000 or V3000) without sanitising; drawings in two dimensions have no coordinates.

    A molecule counts as explicit-hydrogen by its ``hydrogens`` field, else if any molecule of the file has a hydrogen
    atom.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If no molecule can be read.
    """
    entries = []
    with _open(path, "rb") as handle, rdBase.BlockLogs():
        for mol in Chem.ForwardSDMolSupplier(handle, sanitize=False, removeHs=False, strictParsing=False):
            entries.append(_sdf_entry(mol))
    if not any(entry.record is not None for entry in entries):
        raise ValueError(
            f"{path} holds no readable molecule: expected an SDF (V2000 or V3000, entries ended by $$$$). "
            "Check that the file is complete and really is an SDF."
        )
    explicit = any((entry.record.numbers == 1).any() for entry in entries if entry.record is not None)
    return [_with_hydrogens(entry, explicit) for entry in entries]


def write_xyz(
    path: str | Path,
    records: Sequence[MoleculeRecord],
    *,
    titles: Sequence[str] | None = None,
    properties: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write extended XYZ, one frame a molecule, with a formal-charge column (bonds are not part of the format).

    Args:
        path: Output file.
        records: Molecules with coordinates.
        titles: Names, ``molecule_<i>`` by default, written as ``title=``.
        properties: Key-value pairs of each comment line; None values are left out.

    Raises:
        ValueError: If a molecule has no coordinates or an argument has another length than ``records``.
    """
    titles, properties = _labels(len(records), titles, properties)
    frames = []
    for record, title, fields in zip(records, titles, properties):
        if record.pos is None:
            raise ValueError(f"{title} has no coordinates: XYZ needs them. Write SMILES or SDF instead.")
        frames.append(_xyz_frame(record.numbers, record.pos, record.formal_charge, {"title": title, **fields}))
    _write_text(path, frames)


def write_trajectory_xyz(
    path: str | Path, numbers: np.ndarray, pos: np.ndarray, times: Sequence[float] | np.ndarray | None = None
) -> None:
    """Write one molecule as an extended-XYZ movie, one frame a sampler step.

    Args:
        path: Output file.
        numbers: (n,) or (F, n) int, atomic numbers; frames may differ, as types are sampled too.
        pos: (F, n, 3) float, angstrom.
        times: (F,) diffusion times, written as ``t=``.

    Raises:
        ValueError: If the shapes disagree.
    """
    numbers, pos = np.asarray(numbers), np.asarray(pos)
    if pos.ndim != 3 or pos.shape[-1] != 3 or numbers.shape not in (pos.shape[1:2], pos.shape[:2]):
        raise ValueError(
            f"pos must have shape (F, n, 3) and numbers (n,) or (F, n), got {pos.shape} and {numbers.shape}."
        )
    numbers = np.broadcast_to(numbers, pos.shape[:2])
    steps = [{"frame": i} if times is None else {"frame": i, "t": f"{float(times[i]):.6f}"} for i in range(len(pos))]
    _write_text(path, [_xyz_frame(z, x, None, info) for z, x, info in zip(numbers, pos, steps)])


def read_xyz(path: str | Path) -> list[Entry]:
    """Read XYZ or extended XYZ of one or more frames; records have no bonds, charges only if the file has the column.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file breaks the format, with the line number.
    """
    with _open(path, "rt") as handle:
        lines = handle.read().splitlines()
    entries, row = [], 0
    while row < len(lines):
        if not lines[row].strip():
            row += 1
            continue
        count = lines[row].strip()
        if not count.isdigit() or row + 2 + int(count) > len(lines):
            raise ValueError(
                f"{path}, line {row + 1}: expected the number of atoms of a frame and that many lines after "
                f"the comment, got {count[:40]!r}. Check that the file is complete XYZ."
            )
        stop = row + 2 + int(count)
        info = {key: value.strip('"') for key, value in _INFO.findall(lines[row + 1])}
        try:
            record = _xyz_record([line.split() for line in lines[row + 2 : stop]], info.pop("Properties", ""))
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}, frame at line {row + 1}: expected lines 'element x y z' ({error}).") from error
        entries.append(Entry(record, info.get("title", ""), info))
        row = stop
    if not entries:
        raise ValueError(f"{path} holds no frame: expected XYZ (number of atoms, comment, one line an atom).")
    return entries


def write_smiles(path: str | Path, smiles: Sequence[str], names: Sequence[str] | None = None) -> None:
    """Write one SMILES a line, followed by its name if there are names."""
    names = [""] * len(smiles) if names is None else names
    _write_text(path, [f"{text} {name}".rstrip() + "\n" for text, name in zip(smiles, names, strict=True)])


def read_smiles(path: str | Path) -> list[str]:
    """First column of a SMILES file (blank, tab or comma separated); a header ``smiles`` and empty lines are skipped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file has no line.
    """
    with _open(path, "rt") as handle:
        rows = [re.split(r"[\s,]", line.strip(), maxsplit=1)[0] for line in handle]
    smiles = [text for i, text in enumerate(rows) if text and not (i == 0 and text.lower() == "smiles")]
    if not smiles:
        raise ValueError(f"{path} holds no SMILES: expected one a line.")
    return smiles


def _labels(
    n: int, titles: Sequence[str] | None, properties: Sequence[Mapping[str, Any]] | None
) -> tuple[Sequence[str], Sequence[Mapping[str, Any]]]:
    """Default titles and properties, and a check of their number."""
    titles = [f"molecule_{i}" for i in range(n)] if titles is None else titles
    properties = [{}] * n if properties is None else properties
    if len(titles) != n or len(properties) != n:
        raise ValueError(
            f"titles and properties must have one entry a record ({n}), got {len(titles)}, {len(properties)}."
        )
    return titles, properties


def _sdf_block(record: MoleculeRecord, title: str, properties: Mapping[str, Any]) -> str:
    """One SDF entry, from the title to the four dollars."""
    first, second = np.nonzero(np.triu(record.bonds))
    if max(len(record), len(first)) > _MAX_V2000:
        raise ValueError(f"{title} has {len(record)} atoms and {len(first)} bonds; V2000 holds at most {_MAX_V2000}.")
    fields = {**properties, "hydrogens": "explicit" if record.explicit_h else "implicit"}
    pos = np.zeros((len(record), 3)) if record.pos is None else record.pos
    broken = ~(np.abs(pos) < _MAX_COORDINATE)
    if broken.any():
        pos = np.where(broken, 0.0, pos)
        fields["note"] = "coordinates that do not fit the format were written as 0"
    dimension = "2D" if record.pos is None else "3D"
    lines = [_one_line(title), f"  scidiff {'':10s}{dimension}", ""]
    lines.append(f"{len(record):3d}{len(first):3d}  0  0  0  0  0  0  0  0999 V2000")
    for number, (x, y, z), valence in zip(record.numbers.tolist(), pos.tolist(), _marked_valences(record)):
        lines.append(f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol_of(number):<3s} 0  0  0  0  0{valence:3d}  0  0  0  0  0  0")
    for i, j, order in zip(first.tolist(), second.tolist(), record.bonds[first, second].tolist()):
        lines.append(f"{i + 1:3d}{j + 1:3d}{order:3d}  0")
    charged = np.flatnonzero(record.formal_charge)
    for start in range(0, len(charged), 8):
        part = charged[start : start + 8].tolist()
        lines.append(f"M  CHG{len(part):3d}" + "".join(f"{i + 1:4d}{record.formal_charge[i]:4d}" for i in part))
    lines.append("M  END")
    for key, value in fields.items():
        if value is not None and _one_line(value):
            lines += [f">  <{key}>", _one_line(value), ""]
    return "\n".join([*lines, "$$$$\n"])


def _marked_valences(record: MoleculeRecord) -> list[int]:
    """Valence column: 0 where a reader would add no hydrogens anyway, else the valence (15 stands for none)."""
    marks = [0] * len(record)
    if not record.explicit_h:
        return marks
    valences = record.bonds.sum(axis=1).tolist()
    aromatic = (record.bonds == 4).any(axis=1).tolist()
    for i, (number, charge) in enumerate(zip(record.numbers.tolist(), record.formal_charge.tolist())):
        usual = CHEMIST_VALENCES.get(symbol_of(number), {}).get(charge, ())
        if not aromatic[i] and valences[i] not in usual and valences[i] < _ZERO_VALENCE:
            marks[i] = valences[i] or _ZERO_VALENCE
    return marks


def _sdf_entry(mol: Chem.Mol | None) -> Entry:
    """Record, title and data fields of a molecule as RDKit read it."""
    if mol is None:
        return Entry(None, error="RDKit cannot read the entry")
    title = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    properties = {key: str(value) for key, value in mol.GetPropsAsDict(autoConvertStrings=False).items()}
    try:
        record = record_of(mol, explicit_h=True)
    except ValueError as error:
        return Entry(None, title, properties, str(error))
    if len(record) == 0 or record.numbers.min() < 1:
        return Entry(None, title, properties, "the entry has no atoms or atoms that are no element")
    if not mol.GetConformer().Is3D():
        record = replace(record, pos=None)
    return Entry(record, title, properties)


def _with_hydrogens(entry: Entry, explicit: bool) -> Entry:
    """Set ``explicit_h`` from the entry's own field, else from what the whole file looks like."""
    if entry.record is None:
        return entry
    stated = entry.properties.get("hydrogens")
    explicit = explicit if stated is None else stated.strip() == "explicit"
    return entry._replace(record=replace(entry.record, explicit_h=explicit))


def _xyz_frame(numbers: np.ndarray, pos: np.ndarray, formal_charge: np.ndarray | None, info: Mapping[str, Any]) -> str:
    """One extended-XYZ frame."""
    columns = "species:S:1:pos:R:3" + ("" if formal_charge is None else ":formal_charge:I:1")
    pairs = [f"Properties={columns}"] + [f"{key}={_quoted(value)}" for key, value in info.items() if value is not None]
    lines = [str(len(numbers)), " ".join(pairs)]
    charges = [""] * len(numbers) if formal_charge is None else [f" {charge:3d}" for charge in formal_charge.tolist()]
    for number, (x, y, z), charge in zip(np.asarray(numbers).tolist(), np.asarray(pos).tolist(), charges):
        lines.append(f"{symbol_of(number):<2s} {x:14.6f} {y:14.6f} {z:14.6f}{charge}")
    return "\n".join(lines) + "\n"


def _xyz_record(rows: list[list[str]], columns: str) -> MoleculeRecord:
    """Record of the atom lines; ``columns`` is the extended-XYZ ``Properties`` string or empty."""
    parts = columns.split(":") if columns else ["species", "S", "1", "pos", "R", "3"]
    starts, place = {}, 0
    for name, width in zip(parts[::3], parts[2::3]):
        starts[name], place = place, place + int(width)
    species, where = starts.get("species", 0), starts.get("pos", 1)
    numbers = [int(row[species]) if row[species].isdigit() else number_of(row[species]) for row in rows]
    # Some published files write exponents as 1.5*^-6.
    pos = [[float(value.replace("*^", "e")) for value in row[where : where + 3]] for row in rows]
    charge = [int(row[starts["formal_charge"]]) for row in rows] if "formal_charge" in starts else [0] * len(rows)
    n = len(rows)
    return MoleculeRecord(np.array(numbers), np.array(charge), np.zeros((n, n)), np.array(pos).reshape(n, 3))


def _quoted(value: Any) -> str:
    """A value of an extended-XYZ comment line; booleans are T and F there."""
    if isinstance(value, (bool, np.bool_)):
        return "T" if value else "F"
    text = _one_line(value).replace('"', "'")
    return f'"{text}"' if not text or re.search(r"[\s=]", text) else text


def _one_line(value: Any) -> str:
    """Text without line breaks."""
    return " ".join(str(value).split())


def _open(path: str | Path, mode: str) -> IO[Any]:
    """Open a plain or gzip file for reading."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: check the name.")
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    return opener(path, mode) if "b" in mode else opener(path, mode, encoding="utf-8", errors="replace")


def _write_text(path: str | Path, parts: Sequence[str]) -> None:
    """Write text atomically, compressed if the name ends in .gz."""
    with atomic_path(path) as temporary:
        text = "".join(parts)
        if temporary.suffix == ".gz":
            temporary.write_bytes(gzip.compress(text.encode(), mtime=0))
        else:
            temporary.write_text(text, encoding="utf-8")
