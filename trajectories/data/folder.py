"""Trajectories of your own: one file, or all files of a folder, cut into windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from trajectories.batch import TrajectoryBatch
from trajectories.data.datamodule import Part, TrajectoryDataModule
from trajectories.io import READABLE, read_trajectories

__all__ = ["TrajectoryFolder"]

_PARTS = ("train", "val", "test")
_ENDS = (0.0, 0.6, 0.8, 1.0)
_FEW = 10  # fewer trajectories are cut in time


class _Windows(Dataset[dict[str, Tensor]]):
    """Windows of several trajectories, which follow each other in ``pos`` (frames, N, D)."""

    def __init__(self, pos: Tensor, starts: Tensor, owner: Tensor, num_frames: int, features: dict[str, Tensor]):
        self.pos, self.starts, self.owner, self.num_frames, self.features = pos, starts, owner, num_frames, features

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, item: Tensor) -> dict[str, Tensor]:
        frames = self.starts[item][:, None] + torch.arange(self.num_frames)
        owner = self.owner[item]
        pos = self.pos[frames].transpose(1, 2).contiguous()
        return {"pos": pos, **{name: value[owner] for name, value in self.features.items()}}


class TrajectoryFolder(TrajectoryDataModule):
    """Windows of the trajectories of a file or folder: npz, npy, extended XYZ, PDB (see `trajectories.io`).

    Systems may differ in their number of nodes and frames; dimensions and features must agree. With 10 trajectories or
    more, 60 / 20 / 20 % of them train, choose and test the model; fewer are cut in time in these proportions.

    Args:
        path: A file, or a folder whose files are read in the order of their names.
        num_frames: Frames of a window.
        every: Keep every so many-th frame.
        stride: Frames between the starts of windows.
        split: ``"trajectory"``, ``"time"``, or ``"auto"`` for the rule above.
        dt: Time between the frames of the files, if they do not say it.
        unit: Unit of positions, if the files do not say it.
        batch_size: Most windows in a batch.
        seed: Seed of the order of batches.
        num_workers: Worker processes of the loaders.

    Raises:
        ValueError: If a number is out of its range; at set-up, if files disagree or are too short.
    """

    def __init__(
        self,
        path: str,
        *,
        num_frames: int = 30,
        every: int = 1,
        stride: int = 1,
        split: Literal["auto", "trajectory", "time"] = "auto",
        dt: float | None = None,
        unit: str | None = None,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        if min(num_frames, every, stride) < 1:
            raise ValueError(f"num_frames, every and stride must be positive, got {num_frames}, {every}, {stride}.")
        if split not in ("auto", "trajectory", "time"):
            raise ValueError(f"split must be 'auto', 'trajectory' or 'time', got {split!r}.")
        self.path, self.num_frames, self.every, self.stride, self.split = path, num_frames, every, stride, split
        self._given = dt, unit
        self._files: list[TrajectoryBatch] | None = None

    @property
    def files(self) -> list[TrajectoryBatch]:
        """What the files hold, read at the first call."""
        if self._files is None:
            self._files = _read(Path(self.path))
        return self._files

    @property
    def dt(self) -> float | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Time between the frames that are kept, None if nobody says it."""
        dt = self.files[0].dt if self._given[0] is None else self._given[0]
        return None if dt is None else dt * self.every

    @property
    def unit(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Unit of positions."""
        return self.files[0].unit if self._given[1] is None else self._given[1]

    def load(self, name: Part) -> Dataset[dict[str, Tensor]]:
        """Windows of one part."""
        total = sum(len(batch) for batch in self.files)
        by_time = self.split == "time" or (self.split == "auto" and total < _FEW)
        place = _PARTS.index(name)
        low, high = _ENDS[place], _ENDS[place + 1]
        chosen = range(round(low * total), round(high * total))
        pos, starts, owner, first, number = [], [], [], 0, 0
        for batch in self.files:
            for frames in batch.pos.transpose(1, 2)[:, :: self.every]:  # (F, N, D)
                length = len(frames)
                begin, end = (round(low * length), round(high * length)) if by_time else (0, length)
                if by_time or number in chosen:
                    found = torch.arange(begin, max(begin, end - self.num_frames + 1), self.stride)
                    starts.append(first + found)
                    owner.append(torch.full_like(found, number))
                pos.append(frames)
                first, number = first + length, number + 1
        if not starts or not sum(map(len, starts)):
            raise ValueError(
                f"the {name} part of {self.path} has no window of {self.num_frames} frames: there are {total} "
                f"trajectories, divided by {'time' if by_time else 'trajectory'}. Ask for fewer frames."
            )
        size = max(frames.shape[1] for frames in pos)
        rows = torch.cat([_wide(frames, (None, size, None)) for frames in pos])
        return _Windows(rows, torch.cat(starts), torch.cat(owner), self.num_frames, self._features(size))

    def _features(self, size: int) -> dict[str, Tensor]:
        """Features of all trajectories, padded to ``size`` nodes."""
        shapes = {"h": (None, size, None), "edge_attr": (None, size, size, None)}
        features = {}
        for name, shape in shapes.items():
            if all(getattr(batch, name) is not None for batch in self.files):
                features[name] = torch.cat([_wide(getattr(batch, name).float(), shape) for batch in self.files])
        masks = [_wide(_mask(batch), (None, size)) for batch in self.files]
        mask = torch.cat(masks)
        return features if bool(mask.all()) else {**features, "node_mask": mask}


def _read(path: Path) -> list[TrajectoryBatch]:
    """The files of a folder, or one file."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}: check the name.")
    paths = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix.lower() in READABLE)
    if not paths:
        raise ValueError(f"the folder {path} holds no file that ends in {', '.join(READABLE)}.")
    batches = [read_trajectories(p) for p in paths]
    for other, name in zip(batches[1:], paths[1:], strict=True):
        for what, wanted, got in (
            ("dimensions", batches[0].pos.shape[-1], other.pos.shape[-1]),
            ("dt", batches[0].dt, other.dt),
            ("unit", batches[0].unit, other.unit),
            ("channels of h", _channels(batches[0].h), _channels(other.h)),
            ("channels of edge_attr", _channels(batches[0].edge_attr), _channels(other.edge_attr)),
        ):
            is_close = isinstance(wanted, float) and isinstance(got, float) and math.isclose(wanted, got, rel_tol=1e-6)
            if wanted != got and not is_close:
                raise ValueError(f"{name} has {what} {got}, but {paths[0]} has {wanted}.")
    return batches


def _channels(feature: Tensor | None) -> int | None:
    return None if feature is None else feature.shape[-1]


def _mask(batch: TrajectoryBatch) -> Tensor:
    return torch.ones(batch.pos.shape[:2], dtype=torch.bool) if batch.node_mask is None else batch.node_mask


def _wide(value: Tensor, shape: Sequence[int | None]) -> Tensor:
    """``value`` with zeros up to ``shape``; None leaves an axis as it is."""
    wanted = [have if want is None else want for have, want in zip(value.shape, shape, strict=True)]
    padded = value.new_zeros(wanted)
    padded[tuple(slice(0, n) for n in value.shape)] = value
    return padded
