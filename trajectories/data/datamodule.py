"""Base of the data modules: parts that lie in memory, batches by index, the same for the same seed and epoch.

A batch is a dict: ``pos`` (B, N, F, D), ``h`` (B, N, c) node features, ``edge_attr`` (B, N, N, c_e), and where they are
needed ``node_mask`` (B, N), True = real, and ``target_mask`` (B, N), True = counts in loss and scores.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scidiff.configurable import Configurable
from scidiff.loaders import ResumableLoader
from trajectories.data.batches import Runs, RunSampler

__all__ = ["FrameWindows", "Part", "TrajectoryDataModule"]

Part = Literal["train", "val", "test"]
_STAGES: dict[str, tuple[Part, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class TrajectoryDataModule(Configurable, pl.LightningDataModule):
    """Trajectories in three parts; a subclass implements `load`, and may implement `augment`.

    Attributes:
        dt: Time between frames, in the unit of the data set.
        unit: Unit of positions.

    Args:
        batch_size: Most systems in a batch.
        seed: Seed of the order of batches.
        num_workers: Worker processes of the loaders; a batch is one indexing, so 0 is fastest.

    Raises:
        ValueError: If ``batch_size`` is not positive.
    """

    dt: float
    unit: str

    def __init__(self, *, batch_size: int = 64, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}.")
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self._parts: dict[str, Dataset[dict[str, Tensor]]] = {}

    @abstractmethod
    def load(self, name: Part) -> dict[str, Tensor] | Dataset[dict[str, Tensor]]:
        """Tensors of one part with one row a system, or a data set that gives batches for index tensors."""
        raise NotImplementedError

    def augment(self, batch: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """A training batch after random changes; the same for the same seed, epoch and batch."""
        return batch

    def setup(self, stage: str | None = None) -> None:
        """Load the parts that the stage needs."""
        for name in _STAGES.get(stage or "", ("train", "val", "test")):
            self.part(name)

    def part(self, name: Part) -> Any:
        """Data set of one part, loaded at the first call; ``len`` is its number of systems."""
        if name not in self._parts:
            loaded = self.load(name)
            self._parts[name] = Runs(loaded) if isinstance(loaded, dict) else loaded
        return self._parts[name]

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Shuffled batches; the order depends on the seed and the epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the validation part, always the same."""
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the test part, always the same."""
        return self._loader("test", shuffle=False)

    def _loader(self, name: Part, shuffle: bool) -> DataLoader[dict[str, Tensor]]:
        data = self.part(name)
        sampler = RunSampler(len(data), self.batch_size, shuffle=shuffle, seed=self.seed, epoch=self._current_epoch)
        kept = _Augmented(data, self) if shuffle else data
        return ResumableLoader(kept, batch_size=None, sampler=sampler, num_workers=self.num_workers)

    def _current_epoch(self) -> int | None:
        """Epoch of the trainer; a sampler that Lightning has wrapped for several processes is told no other way."""
        return None if self.trainer is None else self.trainer.current_epoch


class _Augmented(Dataset[dict[str, Tensor]]):
    """Training batches after the changes of the module, keyed by seed, epoch and the first system of the batch."""

    def __init__(self, data: Any, module: TrajectoryDataModule) -> None:
        self.data, self.module = data, module

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, item: Tensor) -> dict[str, Tensor]:
        key = (self.module.seed, 1, self.module._current_epoch() or 0, int(item[0]))
        return self.module.augment(self.data[item], np.random.default_rng(key))


class FrameWindows(Dataset[dict[str, Tensor]]):
    """Windows of a long trajectory (frames, N, D), cut when they are asked for.

    Args:
        pos: Positions of all frames.
        starts: First frame of each window (W,).
        num_frames: Frames of a window.
        h: Node features (N, c), the same in every window.
        edge_attr: Pair features (N, N, c_e).
    """

    def __init__(self, pos: Tensor, starts: Tensor, num_frames: int, h: Tensor, edge_attr: Tensor) -> None:
        self.pos, self.starts, self.num_frames, self.h, self.edge_attr = pos, starts, num_frames, h, edge_attr

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, item: Tensor) -> dict[str, Tensor]:
        frames = self.starts[item][:, None] + torch.arange(self.num_frames)
        return {
            "pos": self.pos[frames].transpose(1, 2).contiguous(),
            "h": self.h.expand(len(item), *self.h.shape),
            "edge_attr": self.edge_attr.expand(len(item), *self.edge_attr.shape),
        }
