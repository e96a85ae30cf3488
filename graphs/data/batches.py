"""Dense padded batches of graphs: everything is padded once by bucket of sizes, a batch is an index."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from graphs.data.graph_set import GraphSet
from graphs.data.spec import GraphSpec
from scidiff.buckets import bucket_bounds

__all__ = ["Batch", "DenseGraphs", "dense_batch"]

Batch = dict[str, Tensor]
"""``adj`` (B, N, N) int64 edge classes, 0 = no edge, symmetric with zero diagonal; ``node_mask`` (B, N) bool, True =
real; ``num_nodes`` (B,) int64. Only if the data have them: ``x`` (B, N) int64 node classes, ``features`` (B, N, F)
float32 real node features, ``edge_features`` (B, N, N, K) float32 real edge features, both standardised, and ``label``
(B,) int64 graph classes. Padding is 0 everywhere."""


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
        bounds = bucket_bounds(graphs.sizes, lambda size: batch_size) if bucket else np.array([largest])
        which = np.searchsorted(bounds, graphs.sizes)
        self.rows = [np.flatnonzero(which == k) for k in range(len(bounds))]
        self.counts = [len(rows) for rows in self.rows]
        self.batch_sizes = [batch_size] * len(bounds)
        self.buckets = [_tensors(spec.pad(graphs.subset(rows), int(n))) for rows, n in zip(self.rows, bounds)]

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, item: tuple[int, Tensor]) -> Batch:
        bucket, index = item
        return dense_batch({name: value.index_select(0, index) for name, value in self.buckets[bucket].items()})


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
