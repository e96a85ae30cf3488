"""Sorting, transposing and checking edge lists: what `scidiff.kernels.graph` is built from."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scidiff.kernels.graph import NeighborList

__all__ = [
    "canonical",
    "check_list",
    "checked_edge_index",
    "graph_sizes",
    "largest",
    "node_count",
    "numba_missing",
    "pointers",
    "row_pointers",
    "transpose",
]

_COUNTED = 4096
"""Edges from which a counting sort in numba is faster than torch's."""

_INTEGERS = (torch.int32, torch.int64)
_WHERE = "See scidiff.kernels.NeighborList."


def row_pointers(rows: Tensor, num_rows: int) -> Tensor:
    """First place of each row in sorted row numbers, and the length, (num_rows + 1,), dtype of ``rows``."""
    edges = torch.arange(num_rows + 1, device=rows.device, dtype=rows.dtype)
    return torch.searchsorted(rows.contiguous(), edges).to(rows.dtype)


def canonical(
    source: Tensor, target: Tensor, num_nodes: int, shifts: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Source and row pointers in canonical order, and the permutation (None if the edges are in order already).

    The sort is stable: equal edges keep the order in which they were given.
    """
    key = target.long() * num_nodes + source.long()
    perm = None
    if shifts is not None:
        perm = _lexicographic(shifts)
        key = key.index_select(0, perm)
    key, by_key = torch.sort(key, stable=True)
    perm = by_key if perm is None else perm.index_select(0, by_key)
    ptr = row_pointers(torch.div(key, max(num_nodes, 1), rounding_mode="floor"), num_nodes).to(source.dtype)
    if bool((perm[1:] > perm[:-1]).all()):
        return source.contiguous(), ptr, None
    return source.index_select(0, perm), ptr, perm


def transpose(source: Tensor, ptr: Tensor, *, num_nodes: int, padded: bool = False) -> tuple[Tensor, Tensor]:
    """``t_ptr`` and ``t_edge`` of a list: a stable sort of its edges by source, padding last."""
    if padded:
        edges = torch.arange(source.shape[0], device=source.device)
        source = torch.where(edges < ptr[-1], source, num_nodes)
    elif source.is_cpu and source.shape[0] > _COUNTED and not torch.compiler.is_compiling() and not numba_missing():
        from scidiff.kernels import search_numba

        return search_numba.transpose(source, num_nodes)
    t_source, t_edge = torch.sort(source, stable=True)
    return row_pointers(t_source, num_nodes), t_edge.to(source.dtype)


@functools.cache
def numba_missing() -> str:
    """Why numba cannot be imported, or nothing."""
    try:
        import numba  # noqa: F401
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def pointers(batch: Tensor, num_graphs: int | None = None) -> Tensor | None:
    """First node of each graph, and N, int64 (G + 1,); None if the nodes of a graph are not contiguous and ascending.

    Raises:
        ValueError: If ``batch`` is not a vector of non-negative integers.
    """
    if batch.ndim != 1 or batch.dtype not in _INTEGERS:
        raise ValueError(f"batch must be a vector of integers (N,), got {batch.dtype} {tuple(batch.shape)}. {_WHERE}")
    if batch.shape[0] == 0:
        return batch.new_zeros((num_graphs or 0) + 1, dtype=torch.int64)
    steps = batch.diff()
    low, high, ordered = torch.stack([batch.min(), batch.max(), (steps >= 0).all().to(batch.dtype)]).tolist()
    if low < 0:
        raise ValueError(f"batch must hold graph numbers of at least 0, got {low}. {_WHERE}")
    return row_pointers(batch.long(), max(num_graphs or 0, high + 1)) if ordered else None


def graph_sizes(batch_ptr: Tensor) -> list[int]:
    """Number of nodes of each graph.

    Raises:
        ValueError: If ``batch_ptr`` is not a vector of integers that starts at 0 and does not decrease.
    """
    if batch_ptr.ndim != 1 or batch_ptr.shape[0] == 0 or batch_ptr.dtype not in _INTEGERS:
        raise ValueError(
            f"batch_ptr must be a vector of integers (G + 1,), got {batch_ptr.dtype} {tuple(batch_ptr.shape)}. {_WHERE}"
        )
    starts = batch_ptr.tolist()
    sizes = [end - start for start, end in itertools.pairwise(starts)]
    if starts[0] != 0 or min(sizes, default=0) < 0:
        raise ValueError(f"batch_ptr must start at 0 and not decrease, got {starts[:8]}... Is it a batch? {_WHERE}")
    return sizes


def largest(batch_ptr: Tensor | None, num_nodes: int) -> int:
    """Nodes of the largest graph."""
    if batch_ptr is None:
        return num_nodes
    return int(batch_ptr.diff().max()) if batch_ptr.shape[0] > 1 else 0


def node_count(
    edge_index: Tensor, num_nodes: int | None, batch: Tensor | None = None, batch_ptr: Tensor | None = None
) -> int:
    """N as it was given, or of the batch, of a PyG ``EdgeIndex``, or the largest entry plus one."""
    sized: Any = getattr(edge_index, "sparse_size", None)
    known = [num_nodes, None if batch is None else batch.shape[0], None if batch_ptr is None else int(batch_ptr[-1])]
    known += [max((n for n in sized() if n is not None), default=None)] if sized is not None else []
    for count in known:
        if count is not None:
            return int(count)
    return int(edge_index.max()) + 1 if edge_index.numel() else 0


def checked_edge_index(edge_index: Tensor, num_nodes: int, *, in_range: bool = True) -> Tensor:
    """A plain contiguous (2, E) tensor of integers.

    Raises:
        ValueError: If shape or dtype is wrong, or if an entry lies outside [0, N) (only with ``in_range``).
    """
    plain = edge_index.as_tensor() if hasattr(edge_index, "as_tensor") else edge_index  # pyright: ignore
    if plain.ndim != 2 or plain.shape[0] != 2 or plain.dtype not in _INTEGERS:
        raise ValueError(
            f"edge_index must be an integer tensor (2, E) with sources in row 0 and targets in row 1, "
            f"got {plain.dtype} {tuple(plain.shape)}. {_WHERE}"
        )
    if in_range and plain.numel():
        low, high = torch.stack(plain.aminmax()).tolist()
        if low < 0 or high >= num_nodes:
            raise ValueError(
                f"edge_index must have entries in [0, {num_nodes}), got minimum {low} and maximum {high}. "
                f"Did you forget to offset the batch? {_WHERE}"
            )
    return plain.contiguous()


def check_list(graph: NeighborList) -> None:
    """Check everything that operations trust.

    Raises:
        ValueError: With the first thing that is wrong.
    """
    source, ptr, nodes, edges = graph.source, graph.ptr, graph.num_nodes, graph.num_edges
    _require(source.dtype in _INTEGERS and source.dtype == ptr.dtype, "source and ptr must both be int32 or int64")
    _require(source.ndim == 1 and ptr.shape == (nodes + 1,), f"ptr must have shape ({nodes + 1},) and source (E,)")
    _require(graph.shifts is None or graph.shifts.shape == (edges, 3), f"shifts must have shape ({edges}, 3)")
    if graph.incomplete is not None and bool(graph.incomplete):
        raise ValueError(
            "the list of fixed size is incomplete: it needs max_nodes of at least the largest graph, a sorted "
            "batch (or batch_ptr from 0 to N), finite pos, and a cutoff above 0. Without max_edges, radius_graph says "
            "what is wrong."
        )
    if graph.num_found is not None and int(graph.num_found) > edges:
        raise ValueError(f"max_edges must be at least {int(graph.num_found)} for this graph, got {edges}.")
    _require(int(ptr[0]) == 0 and bool((ptr.diff() >= 0).all()), "ptr must start at 0 and not decrease")
    real = edges if graph.num_found is None else int(graph.num_found)
    _require(int(ptr[-1]) == real, f"ptr must end at the number of edges, {real}, not at {int(ptr[-1])}")
    inside = bool(((source >= 0) & (source < max(nodes, 1))).all())
    _require(inside, f"source must have entries in [0, {nodes})")
    ordered = (source.diff() >= 0) | (graph.target.diff() != 0)
    _require(bool(ordered[: max(real - 1, 0)].all()), "sources must ascend within each target")
    if graph.batch_ptr is not None:
        total = sum(graph_sizes(graph.batch_ptr))
        _require(total == nodes, f"batch_ptr must end at the number of nodes, {nodes}, not at {total}")
        apart = (graph.batch.index_select(0, source) != graph.batch.index_select(0, graph.target)).any()
        _require(not bool(apart), "no edge may join two graphs")


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise ValueError(f"A neighbour list is not valid: {text}. {_WHERE}")


def _lexicographic(shifts: Tensor) -> Tensor:
    """Stable order of the rows of (E, 3) integers."""
    perm = torch.arange(shifts.shape[0], device=shifts.device)
    for axis in (2, 1, 0):
        perm = perm.index_select(0, torch.sort(shifts[:, axis].index_select(0, perm), stable=True).indices)
    return perm
