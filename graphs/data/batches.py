"""Dense padded batches of graphs: everything is padded once by bucket of sizes, a batch is an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from graphs.data.graph_set import GraphSet
from graphs.data.spec import GraphSpec

__all__ = ["Batch", "BucketSampler", "DenseGraphs", "bucket_bounds", "dense_batch"]

Batch = dict[str, Tensor]
"""``adj`` (B, N, N) int64 edge classes, 0 = no edge, symmetric with zero diagonal; ``node_mask`` (B, N) bool, True =
real; ``num_nodes`` (B,) int64. Only if the data have them: ``x`` (B, N) int64 node classes, ``features`` (B, N, F)
float32 real node features, ``edge_features`` (B, N, N, K) float32 real edge features, both standardised, and ``label``
(B,) int64 graph classes. Padding is 0 everywhere."""

_RATIO = 0.9  # smallest size of a bucket in units of its largest: pairs waste at most 1 - 0.9^2


def dense_batch(arrays: dict[str, np.ndarray] | dict[str, Tensor]) -> Batch:
    """A batch from the arrays of `GraphSpec.pad`."""
    tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
    real = {name: tensors[name] for name in ("features", "edge_features") if name in tensors}
    classes = {name: tensors[name].long() for name in ("adj", "x", "label", "num_nodes") if name in tensors}
    mask = torch.arange(classes["adj"].shape[1]) < classes["num_nodes"][:, None]
    return {**classes, **real, "node_mask": mask}


class DenseGraphs(Dataset[Batch]):
    """A set of graphs as padded tensors by bucket; an item is a whole batch, asked for as (bucket, (B,) indices).

    Classes take one byte an entry until they are batched: N^2 + N bytes a graph.

    Args:
        graphs: The graphs.
        spec: Their vocabulary.
        batch_size: Graphs a batch.
        bucket: Whether graphs of similar size share batches; else all are padded to ``spec.max_nodes``.

    Raises:
        ValueError: If there are no graphs or they have another vocabulary.
    """

    def __init__(self, graphs: GraphSet, spec: GraphSpec, batch_size: int, *, bucket: bool = True) -> None:
        if not len(graphs):
            raise ValueError("no graph is left for this part of the data. Is the split empty?")
        largest = max(int(graphs.sizes.max()), spec.max_nodes)
        bounds = bucket_bounds(graphs.sizes, batch_size) if bucket else np.array([largest])
        which = np.searchsorted(bounds, graphs.sizes)
        self.batch_size = batch_size
        self.rows = [np.flatnonzero(which == k) for k in range(len(bounds))]
        self.buckets = [_tensors(spec.pad(graphs.subset(rows), int(n))) for rows, n in zip(self.rows, bounds)]

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows)

    def __getitem__(self, item: tuple[int, Tensor]) -> Batch:
        bucket, index = item
        return dense_batch({name: value.index_select(0, index) for name, value in self.buckets[bucket].items()})


class BucketSampler(Sampler[tuple[int, Tensor]]):
    """Batches of `DenseGraphs`, every graph once an epoch, the same for the same seed and epoch.

    A bucket is cut into batches of nearly equal length. With ``shuffle`` the graphs of a bucket and the order of all
    batches are permuted.

    Args:
        data: Padded graphs.
        shuffle: Whether epochs differ; else buckets come by size and graphs in order.
        seed: Seed of the permutations.
        epoch: Function that tells the current epoch; None leaves it to `set_epoch`.
    """

    def __init__(
        self, data: DenseGraphs, *, shuffle: bool, seed: int = 0, epoch: Callable[[], int | None] | None = None
    ) -> None:
        self.counts = [len(rows) for rows in data.rows]
        self.batches = [-(-count // data.batch_size) for count in self.counts]
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


def bucket_bounds(sizes: np.ndarray, batch_size: int) -> np.ndarray:
    """Largest size of each bucket, ascending.

    From the largest size down, a bucket takes sizes down to 0.9 of its largest, and further ones as long as it holds
    less than one full batch.
    """
    present, counts = np.unique(sizes, return_counts=True)
    bounds: list[int] = []
    held = 0
    for size, count in zip(present[::-1].tolist(), counts[::-1].tolist()):
        if not bounds or (size < _RATIO * bounds[-1] and held >= batch_size):
            bounds.append(size)
            held = 0
        held += count
    return np.array(bounds[::-1], dtype=np.int64)


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
