"""Data loaders for runs that are interrupted, and for evaluation on several processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

__all__ = ["ResumableLoader", "unrepeated"]

_Batch = TypeVar("_Batch", covariant=True)


class ResumableLoader(DataLoader[_Batch]):
    """A `DataLoader` that Lightning resumes inside an epoch: batches that were already used are left out.

    The number of batches handed out travels in Lightning's checkpoints. The order of an epoch must follow from its
    number, as in `DistributedSampler` or a sampler that is told the epoch; a sampler that draws from the global random
    state would resume in another order.

    Example:
        >>> loader = ResumableLoader(data, batch_size=None, sampler=BucketSampler(data, shuffle=True))
    """

    _done = 0
    _skip = 0

    def __iter__(self) -> Iterator[_Batch]:  # type: ignore[override]
        skip, self._skip, self._done = self._skip, 0, 0
        for batch in super().__iter__():
            self._done += 1
            if self._done > skip:
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Number of batches handed out in the present pass."""
        return {"batches": self._done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Leave out the batches of ``state_dict`` in the next pass; a finished pass counts as none."""
        self._done = 0
        self._skip = int(state_dict["batches"]) % max(1, len(self))


def unrepeated(loader: Any, batch_idx: int, count: int) -> int:
    """Number of leading samples of a batch that no other process sees; the rest fills up the last round.

    `DistributedSampler` gives every process equally many items by repeating the first ones at the end. Averages are
    exact if those are left out.

    Args:
        loader: The loader of this process, as Lightning made it.
        batch_idx: Number of the batch on this process.
        count: Samples in the batch.
    """
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last or sampler.shuffle:
        return count
    own = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # pyright: ignore[reportArgumentType]
    if loader.batch_size is None:  # an item is a batch
        return count if batch_idx < own else 0
    return min(count, max(0, own - batch_idx * loader.batch_size))
