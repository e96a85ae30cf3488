"""Batches of things of similar size: bounds of size buckets, and a sampler that stays within them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

__all__ = ["BucketSampler", "Bucketed", "bucket_bounds"]

_RATIO = 0.9  # smallest size of a bucket in units of its largest: pairs waste at most 1 - 0.9^2


class Bucketed(Protocol):
    """Data in buckets, each padded to one size; an item is a batch, asked for as (bucket, (B,) indices).

    Attributes:
        counts: Samples of each bucket.
        batch_sizes: Largest batch of each bucket.
    """

    counts: list[int]
    batch_sizes: list[int]


class BucketSampler(Sampler[tuple[int, Tensor]]):
    """Batches of `Bucketed` data, every sample once an epoch, the same for the same seed and epoch.

    A bucket is cut into batches of nearly equal length, so that no epoch ends with a batch of one. With ``shuffle`` the
    samples of a bucket and the order of all batches are permuted.

    Args:
        data: Padded samples.
        shuffle: Whether epochs differ; else buckets come by size and samples in order.
        seed: Seed of the permutations.
        epoch: Function that tells the current epoch; None leaves it to `set_epoch`.
    """

    def __init__(
        self, data: Bucketed, *, shuffle: bool, seed: int = 0, epoch: Callable[[], int | None] | None = None
    ) -> None:
        self.counts = list(data.counts)
        self.batches = [-(-count // size) for count, size in zip(self.counts, data.batch_sizes, strict=True)]
        self.shuffle = shuffle
        self.seed = seed
        self._epoch_of = epoch
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; a function given as ``epoch`` goes before."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(self.batches)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        told = self._epoch_of() if self._epoch_of is not None else None
        rng = np.random.default_rng((self.seed, self._epoch if told is None else told))
        plan: list[tuple[int, Tensor]] = []
        for bucket, (count, batches) in enumerate(zip(self.counts, self.batches)):
            order = rng.permutation(count) if self.shuffle else np.arange(count)
            plan += [(bucket, torch.from_numpy(part)) for part in np.array_split(order, batches)]
        if self.shuffle:
            plan = [plan[k] for k in rng.permutation(len(plan))]
        yield from plan


def bucket_bounds(sizes: np.ndarray, batch_size: Callable[[int], int]) -> np.ndarray:
    """Largest size of each bucket, ascending.

    From the largest size down, a bucket takes sizes down to 0.9 of its largest, and further ones as long as it holds
    less than one full batch.

    Args:
        sizes: Sizes of all samples.
        batch_size: Samples in a full batch of a bucket, from its largest size.
    """
    present, counts = np.unique(sizes, return_counts=True)
    bounds: list[int] = []
    held = 0
    for size, count in zip(present[::-1].tolist(), counts[::-1].tolist()):
        if not bounds or (size < _RATIO * bounds[-1] and held >= batch_size(bounds[-1])):
            bounds.append(size)
            held = 0
        held += count
    return np.array(bounds[::-1], dtype=np.int64)
