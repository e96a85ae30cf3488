"""Molecular dynamics from files: continuous trajectories (original MD17, MMFF94 runs) and the frames of revised MD17.

Positions in angstrom, energies in kcal/mol, forces in kcal/mol/angstrom, times in femtoseconds.

References: Chmiela et al. 2017 (MD17); Christensen and von Lilienfeld 2020 (revised MD17); Han et al. 2024, "Geometric
Trajectory Diffusion Models", appendix C (windows and features).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from scidiff.arrays import read_npz
from scidiff.assets import data_folder
from trajectories.data.datamodule import FrameWindows, Part, TrajectoryDataModule

__all__ = ["BOND_LENGTH", "MDFrames", "MDTrajectoryDataModule", "bond_hops", "molecule_features", "read_md"]

BOND_LENGTH = 1.6
_MD17_DT, _MMFF_DT = 0.5, 5.0


@dataclass(frozen=True)
class MDFrames:
    """Frames of one molecule.

    Attributes:
        pos: Positions (F, N, 3), angstrom, float32.
        z: Atomic numbers (N,).
        dt: Femtoseconds between frames; None if the frames are no trajectory.
        vel: Velocities (F, N, 3), angstrom/fs, or None.
        energy: Energies (F,), kcal/mol, or None.
        force: Forces (F, N, 3), kcal/mol/angstrom, or None.
        splits: Rows of named parts, such as ``idx_train1``.
    """

    pos: np.ndarray
    z: np.ndarray
    dt: float | None
    vel: np.ndarray | None
    energy: np.ndarray | None
    force: np.ndarray | None
    splits: dict[str, np.ndarray]


def read_md(path: str | os.PathLike[str]) -> MDFrames:
    """Read an npz archive of MD17 (0.5 fs a frame), of revised MD17 (no trajectory) or of an MMFF94 run (5 fs).

    A name such as ``ethanol`` stands for the MMFF94 run of that molecule in the data folder.

    The kinds are told apart by their arrays: ``old_index`` marks revised MD17, ``V`` an MMFF94 run. The last frame of
    original MD17 is left out, as in the published protocol.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the archive lacks positions ``R`` (F, N, 3) or atomic numbers ``z`` (N,).
    """
    arrays = read_npz(_archive(path))
    pos, z = arrays.get("R"), arrays.get("z")
    if pos is None or z is None or pos.ndim != 3 or pos.shape[1:] != (len(z), 3):
        raise ValueError(f"{path} must hold R (F, N, 3) and z (N,), got the arrays {', '.join(sorted(arrays))}.")
    is_revised, is_mmff = "old_index" in arrays, "V" in arrays
    kept = slice(None) if is_revised or is_mmff else slice(-1)
    energy = arrays.get("E")
    return MDFrames(
        pos=pos[kept].astype(np.float32),
        z=z.astype(np.int64),
        dt=None if is_revised else _MMFF_DT if is_mmff else _MD17_DT,
        vel=arrays["V"].astype(np.float32) if is_mmff else None,
        energy=None if energy is None else energy.reshape(-1)[kept],
        force=None if "F" not in arrays else arrays["F"][kept],
        splits={name: value.astype(np.int64) for name, value in arrays.items() if name.startswith("idx_")},
    )


def _archive(path: str | os.PathLike[str]) -> Path:
    """The file itself, or the packaged run of that name in the data folder."""
    folder = data_folder()
    named = None if folder is None else folder / "trajectories" / "mmff_md" / f"{os.fspath(path)}.npz"
    is_name = Path(path).suffix == "" and not Path(path).exists()
    return named if is_name and named is not None and named.exists() else Path(path)


def bond_hops(frame: np.ndarray, bond_length: float = BOND_LENGTH) -> np.ndarray:
    """Bonds on the shortest way between atoms, int (N, N), -1 where there is none; bonds are pairs up to 1.6 angstrom.

    Args:
        frame: Positions (N, 3), angstrom; or several frames (F, N, 3), whose mean distances count.
        bond_length: Longest bond, angstrom.
    """
    frames = frame.reshape(-1, *frame.shape[-2:])
    distance = np.mean([np.linalg.norm(x[:, None] - x, axis=-1) for x in frames], axis=0)
    bonded = (distance <= bond_length) & ~np.eye(len(distance), dtype=bool)
    hops = shortest_path(bonded, unweighted=True)
    return np.where(np.isfinite(hops), hops, -1).astype(np.int64)


def molecule_features(z: np.ndarray, frame: np.ndarray) -> tuple[Tensor, Tensor]:
    """Node features (N, 30) and pair features (N, N, 4) of a molecule, on the complete graph.

    Nodes: one-hot of z (10) times (z / 10)^{0, 1, 2}, flattened as (type, power). Pairs: one-hot of the bonds between
    them, 1, 2, 3, or more (class 0); the diagonal is 0.

    Args:
        z: Atomic numbers (N,).
        frame: One or several frames, as for `bond_hops`.

    Raises:
        ValueError: If an atom is heavier than fluorine.
    """
    if z.min() < 1 or z.max() > 9:
        raise ValueError(f"molecule_features knows the elements H to F, got atomic numbers up to {z.max()}.")
    numbers = torch.from_numpy(z)
    powers = (numbers[:, None] / 10.0) ** torch.arange(3)
    h = (torch.nn.functional.one_hot(numbers, 10)[..., None] * powers[:, None]).flatten(1)
    hops = bond_hops(frame)
    kind = torch.from_numpy(np.where((hops >= 1) & (hops <= 3), hops, 0))
    edges = torch.nn.functional.one_hot(kind, 4) * (1 - torch.eye(len(z), dtype=torch.int64))[..., None]
    return h.float(), edges.float()


class MDTrajectoryDataModule(TrajectoryDataModule):
    """Windows of one long trajectory of a molecule, cut in time: 60 % training, 20 % validation, 20 % test.

    Training takes every window; validation and test take ``num_val`` and ``num_test`` windows, a fixed stride apart.

    Args:
        path: An archive that `read_md` reads, of a trajectory, or the name of a molecule.
        every: Keep every so many-th frame (10 for MD17, which makes 5 fs a frame).
        num_frames: Frames of a window.
        num_train: Training windows, a fixed stride apart; None for all.
        num_val: Validation windows.
        num_test: Test windows.
        batch_size: Most windows in a batch.
        seed: Seed of the order of batches.
        num_workers: Worker processes of the loaders.

    Raises:
        ValueError: If a number is out of its range; at set-up, if the file is no trajectory or too short.
    """

    unit = "angstrom"

    def __init__(
        self,
        path: str,
        *,
        every: int = 1,
        num_frames: int = 30,
        num_train: int | None = None,
        num_val: int = 256,
        num_test: int = 1000,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        if min(every, num_frames, num_val, num_test, 1 if num_train is None else num_train) < 1:
            raise ValueError(
                "every, num_frames, num_train, num_val and num_test must be positive, "
                f"got {every}, {num_frames}, {num_train}, {num_val} and {num_test}."
            )
        self.path, self.every, self.num_frames = path, every, num_frames
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        self._frames: MDFrames | None = None

    @property
    def frames(self) -> MDFrames:
        """The whole trajectory, read at the first call."""
        if self._frames is None:
            self._frames = read_md(self.path)
            if self._frames.dt is None:
                raise ValueError(
                    f"{self.path} holds single frames of revised MD17, no trajectory: windows of it mean nothing. "
                    "Use an original MD17 file or an MMFF94 run."
                )
        return self._frames

    @property
    def dt(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Femtoseconds between the frames that are kept."""
        assert self.frames.dt is not None
        return self.frames.dt * self.every

    def load(self, name: Part) -> FrameWindows:
        """Windows of one part."""
        pos = torch.from_numpy(self.frames.pos[:: self.every])
        ends = [0, int(0.6 * len(pos)), int(0.8 * len(pos)), len(pos)]
        place = ("train", "val", "test").index(name)
        first, room = ends[place], ends[place + 1] - ends[place] - self.num_frames + 1
        wanted = self.sizes[name]
        if room < (wanted or 1):
            raise ValueError(
                f"the {name} part of {self.path} has {max(room, 0)} windows of {self.num_frames} frames, "
                f"fewer than the {wanted or 1} asked for."
            )
        count = room if wanted is None else wanted
        starts = first + torch.arange(count) * (room // count)
        h, edge_attr = molecule_features(self.frames.z, self.frames.pos[0])
        return FrameWindows(pos, starts, self.num_frames, h, edge_attr)
