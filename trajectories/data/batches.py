"""Batches of runs that lie in memory as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

__all__ = ["RunSampler", "Runs"]


class Runs(Dataset[dict[str, Tensor]]):
    """Named tensors with one row a run; an item is a batch, the rows of an index tensor.

    Args:
        tensors: Tensors (B, ...) by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, item: Tensor) -> dict[str, Tensor]:
        return {name: value.index_select(0, item) for name, value in self.tensors.items()}


class RunSampler(Sampler[Tensor]):
    """Index tensors of batches, every run once an epoch, the same for the same seed and epoch.

    Batches have nearly equal length, so that no epoch ends with a batch of one.

    Args:
        num_runs: Number of runs.
        batch_size: Most runs in a batch.
        shuffle: Whether epochs differ; else runs come in order.
        seed: Seed of the permutations.
        epoch: Function that tells the current epoch; None leaves it to `set_epoch`.
    """

    def __init__(
        self,
        num_runs: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        epoch: Callable[[], int | None] | None = None,
    ) -> None:
        self.num_runs, self.shuffle, self.seed = num_runs, shuffle, seed
        self.num_batches = -(-num_runs // batch_size)
        self._epoch_of = epoch
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; a function given as ``epoch`` goes before."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Tensor]:
        told = self._epoch_of() if self._epoch_of is not None else None
        rng = np.random.default_rng((self.seed, self._epoch if told is None else told))
        order = rng.permutation(self.num_runs) if self.shuffle else np.arange(self.num_runs)
        yield from (torch.from_numpy(part) for part in np.array_split(order, self.num_batches))
