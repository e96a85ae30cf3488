"""Pedestrians of the ETH and UCY recordings: 8 observed and 12 predicted frames, 0.4 s apart, one scene left out.

A window is 20 consecutive recorded frames; an agent counts in it when it is there in all of them. Test agents come from
whole recordings of the scene that is left out, training and validation agents from parts 1 and 2 of all others.

References: Pellegrini et al. 2009 (ETH); Lerner et al. 2007 (UCY); Gupta et al. 2018, "Social GAN" (protocol).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scidiff.arrays import read_npz
from scidiff.assets import suggestion
from trajectories.data.datamodule import TrajectoryDataModule

__all__ = ["DT", "SCENES", "ETHUCYDataModule", "Recording", "Windows", "read_recordings", "scene_windows", "windows"]

DT = 0.4
SCENES = {
    "eth": ("biwi_eth",),
    "hotel": ("biwi_hotel",),
    "univ": ("students001", "students003"),
    "zara1": ("crowds_zara01",),
    "zara2": ("crowds_zara02",),
}
_PARTS = {"train": 1, "val": 2}


class Recording(NamedTuple):
    """Rows of one recording: frame number (n,), pedestrian (n,), position (n, 2) in metres, part (n,), 1 or 2."""

    frame: np.ndarray
    ped: np.ndarray
    xy: np.ndarray
    part: np.ndarray

    def rows(self, kept: np.ndarray) -> Recording:
        """The rows of a bool mask (n,)."""
        return Recording(*(column[kept] for column in self))


class Windows(NamedTuple):
    """Agents in windows: positions (A, F, 2) in metres and the window of each, (A,), rising from 0 without gaps."""

    pos: np.ndarray
    window: np.ndarray


def read_recordings(path: str | os.PathLike[str] | None = None) -> dict[str, Recording]:
    """All recordings by name.

    Args:
        path: The folder of the published text files (``datasets`` of Social GAN), which hold frame, pedestrian, x and y
            in each row and are called NAME_train.txt and NAME_val.txt, whatever folders they are in; or an archive with
            the arrays NAME_frame, NAME_ped, NAME_xy, NAME_part. Default: ``eth_ucy.npz`` under ``$SCIDIFF_DATA``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an array or a file is missing, or a file has other columns.
    """
    if path is None:
        root = os.environ.get("SCIDIFF_DATA")
        if not root:
            raise FileNotFoundError("the recordings need a file: set SCIDIFF_DATA to the data folder, or pass path=.")
        path = Path(root) / "trajectories" / "eth_ucy" / "eth_ucy.npz"
    if Path(path).is_dir():
        return _read_folder(Path(path))
    arrays = read_npz(path)
    names = [key.removesuffix("_xy") for key in arrays if key.endswith("_xy")]
    missing = sorted({f"{n}_{column}" for n in names for column in Recording._fields} - set(arrays))
    if missing or not names:
        raise ValueError(f"{path} lacks the arrays {', '.join(missing) or 'NAME_frame, NAME_ped, NAME_xy, NAME_part'}.")
    return {name: Recording(*(arrays[f"{name}_{column}"] for column in Recording._fields)) for name in names}


def windows(recording: Recording, num_frames: int = 20) -> Windows:
    """Every agent that is present in all ``num_frames`` frames of a window, for windows that start at each frame."""
    frames, row_frame = np.unique(recording.frame, return_inverse=True)
    peds, row_ped = np.unique(recording.ped, return_inverse=True)
    table = np.full((len(frames), len(peds)), -1)
    table[row_frame, row_ped] = np.arange(len(recording.frame))
    count = np.zeros((len(frames) + 1, len(peds)), dtype=np.int64)
    np.cumsum(table >= 0, axis=0, out=count[1:])
    if len(frames) < num_frames:
        return Windows(np.zeros((0, num_frames, 2), np.float32), np.zeros(0, np.int64))
    start, agent = np.nonzero(count[num_frames:] - count[:-num_frames] == num_frames)
    rows = table[start[:, None] + np.arange(num_frames), agent[:, None]]
    return Windows(recording.xy[rows], np.unique(start, return_inverse=True)[1])


def scene_windows(
    recordings: Mapping[str, Recording], test: str, part: Literal["train", "val", "test"], num_frames: int = 20
) -> Windows:
    """Windows of one part when the scene ``test`` is left out.

    Raises:
        ValueError: If the scene or the part is unknown.
    """
    if test not in SCENES:
        raise ValueError(f"no scene {test!r}{suggestion(test, list(SCENES))}.")
    if part == "test":
        chosen = [recordings[name] for name in SCENES[test]]
    elif part in _PARTS:
        others = [recording for name, recording in recordings.items() if name not in SCENES[test]]
        chosen = [recording.rows(recording.part == _PARTS[part]) for recording in others]
    else:
        raise ValueError(f"part must be 'train', 'val' or 'test', got {part!r}.")
    found = [windows(recording, num_frames) for recording in chosen]
    firsts = np.cumsum([0, *(int(w.window.max(initial=-1)) + 1 for w in found)])
    return Windows(
        np.concatenate([w.pos for w in found]),
        np.concatenate([w.window + first for w, first in zip(found, firsts[:-1], strict=True)]),
    )


class ETHUCYDataModule(TrajectoryDataModule):
    """Pedestrians with one scene left out for the test; choose models on the validation part.

    A system is a target agent (node 0) and its nearest neighbours at the last observed frame, relative to where the
    target is then; loss and scores look at the target (``target_mask``).

    Args:
        test: Scene that is left out: eth, hotel, univ, zara1, zara2.
        max_agents: Most agents of a system, the target included; 1 for no neighbours.
        radius: Neighbours are at most this far from the target at the last observed frame, metres.
        num_frames: Frames of a window.
        cond_frames: Observed frames of a window.
        scale_augmentation: Training systems are scaled by a factor between 1 / (1 + s) and 1 + s, for s this number.
        path: Recordings, see `read_recordings`; default: those under ``$SCIDIFF_DATA``.
        batch_size: Most systems in a batch.
        seed: Seed of the order of batches and of the scales.
        num_workers: Worker processes of the loaders.

    Raises:
        ValueError: If the scene is unknown or a number is out of its range.
    """

    dt, unit = DT, "metre"

    def __init__(
        self,
        test: str = "eth",
        *,
        max_agents: int = 3,
        radius: float = 5.0,
        num_frames: int = 20,
        cond_frames: int = 8,
        scale_augmentation: float = 0.0,
        path: str | None = None,
        batch_size: int = 100,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        if test not in SCENES:
            raise ValueError(f"no scene {test!r}{suggestion(test, list(SCENES))}.")
        if max_agents < 1 or radius <= 0 or not 1 <= cond_frames < num_frames or scale_augmentation < 0:
            raise ValueError(
                "expected max_agents >= 1, radius > 0, 1 <= cond_frames < num_frames and scale_augmentation >= 0, "
                f"got {max_agents}, {radius}, {cond_frames}, {num_frames} and {scale_augmentation}."
            )
        self.test, self.max_agents, self.radius = test, max_agents, radius
        self.num_frames, self.cond_frames = num_frames, cond_frames
        self.scale_augmentation, self.path = scale_augmentation, path

    def load(self, name: Literal["train", "val", "test"]) -> dict[str, Tensor]:
        """Systems of one part."""
        found = scene_windows(read_recordings(self.path), self.test, name, self.num_frames)
        pos, mask = _neighbourhoods(found, self.max_agents, self.radius, self.cond_frames)
        target = np.zeros_like(mask)
        target[:, 0] = True
        count = mask.shape[1]
        return {
            "pos": torch.from_numpy(pos),
            "h": torch.from_numpy(target[..., None].astype(np.float32)),
            "edge_attr": torch.zeros(len(pos), count, count, 0),
            "node_mask": torch.from_numpy(mask),
            "target_mask": torch.from_numpy(target),
        }

    def augment(self, batch: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Random sizes, log-uniform, one a system."""
        if self.scale_augmentation == 0:
            return batch
        width = np.log1p(self.scale_augmentation)
        scale = np.exp(rng.uniform(-width, width, size=(len(batch["pos"]), 1, 1, 1)))
        return {**batch, "pos": batch["pos"] * torch.from_numpy(scale).to(batch["pos"])}


def _read_folder(folder: Path) -> dict[str, Recording]:
    """Recordings of the published text files, each of which is there once for every scene that it trains."""
    files: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.rglob("*.txt")):
        for word, part in _PARTS.items():
            if file.stem.endswith(f"_{word}"):
                files.setdefault(file.stem.removesuffix(f"_{word}"), {}).setdefault(part, file)
    missing = sorted(name for scene in SCENES.values() for name in scene if len(files.get(name, {})) < len(_PARTS))
    if missing:
        raise ValueError(
            f"{folder} lacks the files NAME_train.txt and NAME_val.txt of {', '.join(missing)}: give the whole folder "
            "of the published recordings."
        )
    return {
        name: _joined([_read_rows(file, part) for part, file in sorted(own.items())]) for name, own in files.items()
    }


def _joined(parts: list[Recording]) -> Recording:
    return Recording(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _read_rows(file: Path, part: int) -> Recording:
    """One text file."""
    try:
        rows = np.loadtxt(file, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{file} must hold rows of four numbers, frame, pedestrian, x and y: {error}.") from error
    if rows.shape[1] != 4:
        raise ValueError(f"{file} must hold rows of frame, pedestrian, x and y, got {rows.shape[1]} columns.")
    frame, ped = rows[:, :2].round().astype(np.int64).T
    return Recording(frame, ped, rows[:, 2:].astype(np.float32), np.full(len(rows), part, np.uint8))


def _neighbourhoods(found: Windows, most: int, radius: float, cond_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (A, most, F, 2) with the target first, about its last observed position; and which nodes are real."""
    last = found.pos[:, cond_frames - 1]
    pos = np.zeros((len(last), most, *found.pos.shape[1:]), np.float32)
    mask = np.zeros((len(last), most), bool)
    ends = np.searchsorted(found.window, np.arange(found.window.max(initial=-1) + 2))
    for first, end in itertools.pairwise(ends):
        here = last[first:end]
        distance = np.linalg.norm(here[:, None] - here, axis=-1)
        np.fill_diagonal(distance, -1.0)  # the target comes first
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :most]
        kept = np.take_along_axis(distance, nearest, 1) <= radius
        moved = found.pos[first:end][nearest] - here[:, None, None]
        pos[first:end, : nearest.shape[1]] = np.where(kept[..., None, None], moved, 0)
        mask[first:end, : nearest.shape[1]] = kept
    return pos, mask
