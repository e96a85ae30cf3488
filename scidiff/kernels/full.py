"""Graphs in which every node is a neighbour of every other: dense routes need no edges, sparse ones make them late."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scidiff.kernels import order
from scidiff.kernels.graph import NeighborList
from scidiff.kernels.lazy import lazy

__all__ = ["FullGraph", "full_graph"]


class FullGraph(NeighborList):
    """All ordered pairs of the nodes of each graph; edges are made by arithmetic when they are first read.

    Args:
        batch_ptr: First node of each graph, and N, (G + 1,).
        num_nodes: N.
        max_nodes: Nodes of the largest graph.
        num_edges: sum n (n - 1), or sum n^2 with loops.
        loop: Whether each node is its own neighbour.
    """

    def __init__(self, batch_ptr: Tensor, num_nodes: int, max_nodes: int, num_edges: int, loop: bool = False) -> None:
        values: dict[str, Any] = dict.fromkeys(
            ("shifts", "perm", "num_found", "built_at", "scattered_batch", "incomplete")
        )
        values |= {"batch_ptr": batch_ptr, "num_nodes": num_nodes, "max_nodes": max_nodes, "symmetric": True}
        values |= {"kind": "full_loop" if loop else "full", "_num_edges": num_edges}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def num_edges(self) -> int:
        """Number of edges E."""
        return self.__dict__["_num_edges"]

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self._starts.device

    @property
    def _starts(self) -> Tensor:
        assert self.batch_ptr is not None
        return self.batch_ptr

    @property
    def _loop(self) -> bool:
        return self.kind == "full_loop"

    @lazy
    def ptr(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Edges ``ptr[i]:ptr[i + 1]`` end in node i, (N + 1,), dtype of ``batch_ptr``."""
        degrees = (self._starts.diff() - int(not self._loop)).index_select(0, self.batch)
        ends = degrees.cumsum(0, dtype=self._starts.dtype)
        return torch.cat([ends.new_zeros(1), ends])

    @lazy
    def source(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Source of each edge, (E,), dtype of ``batch_ptr``."""
        first = self._starts.index_select(0, self.batch)
        places = torch.arange(self.num_edges, device=self.device, dtype=self._starts.dtype)
        source = places + (first - self.ptr[:-1]).index_select(0, self.target)
        return source if self._loop else source + (source >= self.target).to(source.dtype)

    @lazy
    def target(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Target of each edge, (E,), dtype of ``batch_ptr``."""
        nodes = torch.arange(self.num_nodes, device=self.device, dtype=self._starts.dtype)
        return nodes.repeat_interleave(self.ptr.diff(), output_size=self.num_edges)

    def to(self, device: torch.device | str, *, index_dtype: torch.dtype | None = None) -> NeighborList:
        """The same graph on another device, with indices of ``index_dtype``; self if nothing changes."""
        starts = self._starts.to(device=device, dtype=index_dtype or self._starts.dtype)
        if starts is self._starts:
            return self
        return FullGraph(starts, self.num_nodes, self.max_nodes, self.num_edges, self._loop)


def full_graph(batch_ptr: Tensor, *, loop: bool = False) -> NeighborList:
    """All ordered pairs within each graph: kind ``"full"``, or ``"full_loop"`` with the pairs (i, i).

    Args:
        batch_ptr: First node of each graph, and N, integer (G + 1,).
        loop: Whether each node is its own neighbour.

    Raises:
        ValueError: If ``batch_ptr`` is not a vector of integers that starts at 0 and does not decrease.
    """
    sizes = order.graph_sizes(batch_ptr)
    num_edges = sum(n * n if loop else n * (n - 1) for n in sizes)
    return FullGraph(batch_ptr, sum(sizes), max(sizes, default=0), num_edges, loop)


def _flatten_full(graph: FullGraph) -> tuple[list[Tensor], tuple]:
    return [graph._starts], (graph.num_nodes, graph.max_nodes, graph.num_edges, graph._loop)


def _unflatten_full(children: Any, context: tuple) -> FullGraph:
    (starts,) = children
    return FullGraph(starts, *context)


pytree.register_pytree_node(
    FullGraph, _flatten_full, _unflatten_full, serialized_type_name="scidiff.kernels.full.FullGraph"
)
