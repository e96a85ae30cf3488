"""Files of trajectories: npz, npy, extended XYZ and multi-model PDB, in and out.

=============  =======================================================================================================
ending         what is in it
=============  =======================================================================================================
.npz           ``pos`` (B, F, N, D) or (F, N, D) with what else a `TrajectoryBatch` holds; archives of MD17 and MMFF94
               runs (``R``, ``z``); or one array of that shape under any name
.npy           one array (F, N, D) or (B, F, N, D), D = 2 or 3
.xyz .extxyz   one frame after the other; ``time`` and ``trajectory`` in the comment say which
.pdb           one trajectory, a MODEL a frame
=============  =======================================================================================================

XYZ and PDB hold three dimensions, in angstrom; nodes that are no atoms get the symbol X. A molecule of the elements H
to F gets the features of `trajectories.data.md.molecule_features`, with bonds by its mean distances.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rdkit import Chem

from scidiff.arrays import read_npz
from scidiff.files import atomic_path
from trajectories.batch import TrajectoryBatch
from trajectories.data.md import bond_hops, molecule_features, read_md

__all__ = ["READABLE", "WRITABLE", "read_trajectories", "with_molecule_features", "write_trajectories"]

WRITABLE = (".npz", ".xyz", ".extxyz", ".pdb")
READABLE = (*WRITABLE, ".npy")
_INFO = re.compile(r'(\w+)=("[^"]*"|\S+)')
_TABLE = Chem.GetPeriodicTable()
_MOST_ATOMS, _FARTHEST = 99_999, 999.0  # of the columns of a PDB file
_REMARK = "REMARK 250 FRAMES {:.10g} FS APART"


class _Frame(NamedTuple):
    """Atomic numbers (N,), positions (N, 3), and the comment's trajectory and time, if there."""

    z: np.ndarray
    pos: np.ndarray
    trajectory: str = ""
    time: float | None = None


def read_trajectories(path: str | os.PathLike[str]) -> TrajectoryBatch:
    """Read trajectories by the ending of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the ending is unknown, the content is damaged, or trajectories differ in length.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in READABLE:
        raise ValueError(f"{path} has the unknown ending {suffix!r}: expected {', '.join(READABLE)}.")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: check the name.")
    if suffix == ".npz":
        return _read_npz(path)
    if suffix == ".npy":
        return _plain(path, np.load(path, allow_pickle=False))
    text = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    if suffix == ".pdb":
        frames, dt = _pdb_frames(path, text)
    else:
        frames, dt = list(_xyz_frames(path, text)), None
    return with_molecule_features(_assembled(path, frames, dt))


def write_trajectories(batch: TrajectoryBatch, path: str | os.PathLike[str]) -> Path:
    """Write trajectories by the ending of the file.

    Args:
        batch: What to write; padding is left out of XYZ and PDB.
        path: File to write, .npz, .xyz, .extxyz or .pdb.

    Raises:
        ValueError: If the ending is unknown, or the file cannot hold this (two dimensions; several trajectories or
            large coordinates in PDB).
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(f"{path} has the unknown ending {suffix!r}: expected {', '.join(WRITABLE)}.")
    if suffix == ".npz":
        return batch.save(path)
    if batch.pos.shape[-1] != 3:
        raise ValueError(f"{suffix} files hold three dimensions, got {batch.pos.shape[-1]}; write .npz instead.")
    if suffix == ".pdb":
        _check_pdb(batch)
    lines = _pdb_lines(batch) if suffix == ".pdb" else _xyz_lines(batch)
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Path(path)


def with_molecule_features(batch: TrajectoryBatch) -> TrajectoryBatch:
    """The batch with features of molecules, if it has atomic numbers of H to F and no features yet."""
    z = batch.z
    if z is None or batch.h is not None or batch.edge_attr is not None or batch.pos.shape[-1] != 3:
        return batch
    real = batch.node_mask if batch.node_mask is not None else torch.ones_like(z, dtype=torch.bool)
    if not bool(((z >= 1) & (z <= 9))[real].all()):
        return batch
    rows = []
    for numbers, frames, mask in zip(z.numpy(), batch.frames, real.numpy(), strict=True):
        h, edges = molecule_features(numbers[mask], frames[:, mask])
        size, count = len(mask), int(mask.sum())
        wide, pairs = h.new_zeros(size, h.shape[-1]), edges.new_zeros(size, size, edges.shape[-1])
        wide[:count], pairs[:count, :count] = h, edges
        rows.append((wide, pairs))
    h, edge_attr = (torch.stack(column) for column in zip(*rows, strict=True))
    return replace(batch, h=h, edge_attr=edge_attr)


# npz and npy


def _read_npz(path: str | os.PathLike[str]) -> TrajectoryBatch:
    arrays = read_npz(path)
    if "R" in arrays and "z" in arrays:
        run = read_md(path)
        if run.dt is None:
            raise ValueError(f"{path} holds single frames of revised MD17, no trajectory.")
        frames = TrajectoryBatch.of(run.pos, z=run.z[None], dt=run.dt, unit="angstrom")
        return with_molecule_features(frames)
    if "pos" in arrays and arrays["pos"].ndim == 4:
        return with_molecule_features(TrajectoryBatch.load(path))
    found = {name: array for name, array in arrays.items() if array.ndim in (3, 4) and array.dtype.kind in "fiu"}
    if "pos" in found:
        found = {"pos": found["pos"]}
    if len(found) != 1:
        raise ValueError(
            f"{path} must hold positions pos (B, F, N, D) or (F, N, D), or one array of that shape; "
            f"got the arrays {', '.join(sorted(arrays))}."
        )
    (array,) = found.values()
    scalars = {"dt": float(arrays["dt"])} if "dt" in arrays else {}
    unit = str(arrays["unit"]) if "unit" in arrays else None
    features = {name: arrays[name] for name in ("h", "edge_attr", "node_mask", "z") if name in arrays}
    return with_molecule_features(TrajectoryBatch.of(_plain(path, array), unit=unit, **scalars, **features))


def _plain(path: str | os.PathLike[str], array: np.ndarray) -> TrajectoryBatch:
    """A batch of an array of frames."""
    if array.ndim not in (3, 4) or array.shape[-1] not in (2, 3) or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} must hold frames (F, N, D) or (B, F, N, D) with D = 2 or 3 numbers, got {array.dtype} of shape "
            f"{array.shape}."
        )
    return TrajectoryBatch.of(array.astype(np.float32 if array.dtype.kind in "iu" else array.dtype))


# Extended XYZ


def _xyz_lines(batch: TrajectoryBatch) -> Iterator[str]:
    for b, (frames, z, kept) in enumerate(_systems(batch)):
        symbols = [_symbol(number) for number in z[kept]]
        for f, pos in enumerate(frames):
            yield str(len(symbols))
            time = "" if batch.dt is None else f" time={f * batch.dt:.10g}"
            yield f"Properties=species:S:1:pos:R:3 trajectory={b} frame={f}{time}"
            for symbol, (x, y, w) in zip(symbols, pos[kept], strict=True):
                yield f"{symbol:2s} {x:16.8f} {y:16.8f} {w:16.8f}"


def _xyz_frames(path: str | os.PathLike[str], lines: Sequence[str]) -> Iterator[_Frame]:
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        try:
            count = int(lines[start])
            info = {key: value.strip('"') for key, value in _INFO.findall(lines[start + 1])}
            species, first = _columns(info.get("Properties", "species:S:1:pos:R:3"))
            rows = [line.split() for line in lines[start + 2 : start + 2 + count]]
            if len(rows) != count:
                raise ValueError("the last frame is incomplete")
            pos = np.array([row[first : first + 3] for row in rows], dtype=np.float64).reshape(count, 3)
            z = np.array([_number(row[species]) for row in rows], dtype=np.int64)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path} is no XYZ file at line {start + 1}: {error}.") from error
        time = float(info["time"]) if "time" in info else None
        yield _Frame(z, pos, info.get("trajectory", ""), time)
        start += 2 + count


def _columns(properties: str) -> tuple[int, int]:
    """Columns of the symbol and of x."""
    parts = properties.split(":")
    places, column = {}, 0
    for name, width in zip(parts[::3], parts[2::3], strict=True):
        places[name] = column
        column += int(width)
    if not {"species", "pos"} <= set(places):
        raise ValueError(f"Properties names no species and pos but {properties}")
    return places["species"], places["pos"]


# PDB


def _pdb_lines(batch: TrajectoryBatch) -> Iterator[str]:
    ((frames, z, kept),) = _systems(batch)
    symbols = [_symbol(number) for number in z[kept]]
    counts: dict[str, int] = {}
    names = []
    for symbol in symbols:
        counts[symbol] = counts.get(symbol, 0) + 1
        names.append(f"{symbol.upper():>2s}{counts[symbol]:<2d}"[:4])
    if batch.dt is not None:
        yield _REMARK.format(batch.dt)
    for f, pos in enumerate(frames):
        yield f"MODEL     {f + 1:4d}"
        for i, (symbol, name, (x, y, w)) in enumerate(zip(symbols, names, pos[kept], strict=True)):
            yield (
                f"HETATM{i + 1:5d} {name:4s} UNL A   1    {x:8.3f}{y:8.3f}{w:8.3f}  1.00  0.00          "
                f"{symbol.upper():>2s}"
            )
        yield "ENDMDL"
    if all(0 < number <= 9 for number in z[kept]):
        bonded = bond_hops(frames[:, kept]) == 1
        for i, row in enumerate(bonded):
            for others in np.split(np.flatnonzero(row), range(4, int(row.sum()), 4)):
                if len(others):
                    yield "CONECT" + "".join(f"{j + 1:5d}" for j in (i, *others))
    yield "END"


def _pdb_frames(path: str | os.PathLike[str], lines: Sequence[str]) -> tuple[list[_Frame], float | None]:
    frames: list[_Frame] = []
    atoms: list[tuple[int, float, float, float]] = []
    dt = None
    for number, line in enumerate([*lines, "END"], 1):
        if line.startswith(("ATOM  ", "HETATM")):
            try:
                element = line[76:78].strip() or re.sub(r"[^A-Za-z]", "", line[12:14])
                x, y, w = (float(line[k : k + 8]) for k in (30, 38, 46))
                atoms.append((_number(element.capitalize()), x, y, w))
            except ValueError as error:
                raise ValueError(f"{path} is no PDB file at line {number}: {error}.") from error
        elif line.startswith(("ENDMDL", "END")) and atoms:
            table = np.array(atoms)
            frames.append(_Frame(table[:, 0].astype(np.int64), table[:, 1:]))
            atoms = []
        elif line.startswith("REMARK 250 FRAMES"):
            dt = float(line.split()[3])
    return frames, dt


def _check_pdb(batch: TrajectoryBatch) -> None:
    if len(batch) != 1:
        raise ValueError(f"a PDB file holds one trajectory, got {len(batch)}; write .xyz or .npz instead.")
    if batch.pos.shape[1] > _MOST_ATOMS or float(batch.pos.abs().max()) > _FARTHEST:
        raise ValueError(f"a PDB file holds {_MOST_ATOMS} atoms within {_FARTHEST:g} angstrom; write .xyz instead.")


# Both


def _systems(batch: TrajectoryBatch) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Frames (F, N, 3), atomic numbers (N,) and real nodes (N,) of each system."""
    b, n = batch.pos.shape[:2]
    z = np.zeros((b, n), np.int64) if batch.z is None else batch.z.cpu().numpy()
    kept = np.ones((b, n), bool) if batch.node_mask is None else batch.node_mask.cpu().numpy()
    yield from zip(batch.frames, z, kept, strict=True)


def _assembled(path: str | os.PathLike[str], frames: list[_Frame], dt: float | None) -> TrajectoryBatch:
    """A batch of the frames of a file, one system a trajectory, padded to the largest."""
    if not frames:
        raise ValueError(f"{path} holds no frame.")
    groups: dict[str, list[_Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.trajectory, []).append(frame)
    systems = list(groups.values())
    for system in systems:
        if len(system) != len(systems[0]) or any(not np.array_equal(f.z, system[0].z) for f in system):
            raise ValueError(f"{path} must hold trajectories of equal length, and the same atoms in all their frames.")
    size = max(len(system[0].z) for system in systems)
    pos = torch.zeros(len(systems), size, len(systems[0]), 3)
    z, mask = torch.zeros(len(systems), size, dtype=torch.int64), torch.zeros(len(systems), size, dtype=torch.bool)
    for b, system in enumerate(systems):
        n = len(system[0].z)
        pos[b, :n] = torch.from_numpy(np.stack([f.pos for f in system], 1)).float()
        z[b, :n], mask[b, :n] = torch.from_numpy(system[0].z), True
    times = [frame.time for frame in systems[0]]
    if len(times) > 1 and times[0] is not None and times[-1] is not None:
        dt = (times[-1] - times[0]) / (len(times) - 1)
    return TrajectoryBatch(
        pos,
        node_mask=None if bool(mask.all()) else mask,
        z=z if bool(z.any()) else None,
        dt=dt,
        unit="angstrom" if bool(z.any()) else None,
    )


def _symbol(number: int) -> str:
    return _TABLE.GetElementSymbol(int(number)) if number else "X"


def _number(symbol: str) -> int:
    if symbol in ("X", "x"):
        return 0
    try:
        return int(symbol) if symbol.isdigit() else _TABLE.GetAtomicNumber(symbol)
    except RuntimeError as error:
        raise ValueError(f"{symbol!r} is no element") from error
