"""Neighbour lists from coordinates: within a radius (also periodic), or the k nearest.

Distances are compared in float64 whatever the dtype of the coordinates, d^2 <= cutoff^2 inclusive, and every body
gives the same list: numba (small graphs by brute force, large ones by cells), scipy (k-d tree), plain torch, and Triton
on CUDA devices (radius lists of small open graphs by brute force).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scidiff.kernels import _dispatch, order, search_numba, search_scipy, search_torch
from scidiff.kernels.graph import NeighborList
from scidiff.kernels.search import Search, lattice_vector, prepare, squared_distance

__all__ = ["knn_graph", "radius_graph"]

_BODIES = ("auto", "numba", "scipy", "torch", "triton", "interpret")
_FLOATS = (torch.float32, torch.float64)
_SMALL = 400
"""Points of a graph up to which dense torch is faster than a k-d tree, and Triton compares all pairs."""


def radius_graph(
    pos: Tensor,
    cutoff: float | Tensor,
    batch: Tensor | None = None,
    *,
    batch_ptr: Tensor | None = None,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    loop: bool = False,
    max_neighbors: int | None = None,
    on_overflow: str = "error",
    max_edges: int | None = None,
    max_nodes: int | None = None,
    backend: str | None = None,
) -> NeighborList:
    """All ordered pairs of each graph with |pos_j + S C - pos_i| <= cutoff.

    Args:
        pos: Coordinates, (N, 3).
        cutoff: Radius, one number or one a graph (G,), above 0.
        batch: Graph of each node, (N,), in any order; its nodes keep their numbers.
        batch_ptr: First node of each graph, and N, (G + 1,), in place of ``batch``.
        cell: Lattice vectors in rows, (G, 3, 3) or (3, 3); makes the graphs periodic.
        pbc: Periodic axes, bool (G, 3) or (3,); by default all where there is a cell.
        loop: Whether (i, i) with S = 0 is an edge. Images of a node (S not 0) are its neighbours in any case.
        max_neighbors: Largest number of edges that end in a node; None for all.
        on_overflow: What happens to nodes with more: ``"error"``, or ``"nearest"`` keeps the nearest ones (ties by
            source and image).
        max_edges: Makes a list of this fixed size, see `NeighborList`. For open graphs without ``max_neighbors`` it
            is made by dense torch outside the CPU, in static shapes and without synchronisation; then ``batch`` must
            be sorted, N ``max_nodes`` pairs are compared, and values that are an error elsewhere set ``incomplete``
            (and with it ``overflow``) of the list.
        max_nodes: Bound on the nodes of a graph, for ``max_edges``; N by default. Too small a bound sets
            ``incomplete``.
        backend: ``"numba"``, ``"scipy"``, ``"torch"``, ``"triton"`` (``"interpret"`` on the CPU) for open graphs of at
            most 400 nodes, or ``"auto"``; by default that of `use_backend`.

    Raises:
        ValueError: If shapes or values are wrong, if a node has more than ``max_neighbors`` (names the number), or if
            the backend asked for cannot run.
    """
    _check_points(pos, batch, batch_ptr)
    if on_overflow not in ("error", "nearest"):
        raise ValueError(f'on_overflow must be "error" or "nearest", got {on_overflow!r}.')
    if max_edges is not None and cell is None and max_neighbors is None and _is_static(pos, backend):
        return _fixed(pos, cutoff, batch, batch_ptr, max_edges, max_nodes or pos.shape[0], loop)
    has_options = any(option is not None for option in (cell, pbc, max_neighbors, max_edges))
    if not has_options and (result := _small(pos, cutoff, batch, batch_ptr, loop, backend)) is not None:
        return result
    starts, perm = _graphs(pos, batch, batch_ptr, _rows_of(cutoff, 0), _rows_of(cell, 2))
    num_graphs = starts.shape[0] - 1
    cutoffs = _cutoffs(cutoff, num_graphs, pos.device)
    cells, axes = _periodicity(cell, pbc, num_graphs, pos.device)
    search = prepare(pos if perm is None else pos.index_select(0, perm), cutoffs, starts, cells, axes)
    source, ptr, shifts, pairs = _radius_edges(search, loop, backend)
    if cell is not None and shifts is None:
        shifts = source.new_zeros(source.shape[0], 3)
    shifts = None if shifts is None else shifts.to(torch.int32)
    is_cut = False
    if max_neighbors is not None:
        source, ptr, shifts, is_cut = _truncated(search, source, ptr, shifts, max_neighbors, on_overflow)
    built = {"symmetric": not is_cut, "built_at": pos.detach().clone()}
    if perm is not None:
        source, ptr, shifts = _unsorted(source, ptr, shifts, perm)
        result = NeighborList(source, ptr, pos.shape[0], None, shifts, scattered_batch=batch, **built)
    else:
        result = NeighborList(source, ptr, pos.shape[0], starts, shifts, max_nodes=search.max_nodes, **built)
        if pairs is not None and not is_cut:
            result.keep_edges(pairs)
    return result if max_edges is None else _padded(result, max_edges)


def knn_graph(
    pos: Tensor,
    k: int,
    batch: Tensor | None = None,
    *,
    batch_ptr: Tensor | None = None,
    loop: bool = False,
    backend: str | None = None,
) -> NeighborList:
    """The k nearest nodes of each node as its sources, ties by number; fewer where a graph is smaller.

    Args:
        pos: Coordinates, (N, 3).
        k: Number of neighbours, at least 1.
        batch: Graph of each node, (N,), in any order.
        batch_ptr: First node of each graph, and N, (G + 1,), in place of ``batch``.
        loop: Whether a node counts among its neighbours.
        backend: ``"numba"``, ``"scipy"``, ``"torch"`` or ``"auto"``; by default that of `use_backend`.

    Raises:
        ValueError: If shapes or values are wrong, or if the backend asked for cannot run.
    """
    _check_points(pos, batch, batch_ptr)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    starts, perm = _graphs(pos, batch, batch_ptr)
    endless = torch.full((starts.shape[0] - 1,), torch.inf, dtype=torch.float64, device=pos.device)
    search = prepare(pos if perm is None else pos.index_select(0, perm), endless, starts, None, None)
    k = min(k, max(search.max_nodes, 1))
    body = _body("knn_graph", search, backend)
    if body == "numba":
        source, ptr = search_numba.nearest_edges(search, k, loop)
    else:
        nearest = search_scipy.nearest_edges if body == "scipy" else search_torch.nearest_edges
        source, target = nearest(search, k, loop)
        ptr = order.row_pointers(target, pos.shape[0])
    built_at = pos.detach().clone()
    if perm is not None:
        source, ptr, _ = _unsorted(source, ptr, None, perm)
        return NeighborList(source, ptr, pos.shape[0], built_at=built_at, scattered_batch=batch)
    return NeighborList(source, ptr, pos.shape[0], starts, max_nodes=search.max_nodes, built_at=built_at)


def _small(
    pos: Tensor, cutoff: float | Tensor, batch: Tensor | None, batch_ptr: Tensor | None, loop: bool, backend: str | None
) -> NeighborList | None:
    """The list of small open graphs by one call of numba, or None: the long way finds it, or says what is wrong."""
    name, num_nodes = _name(pos.device, backend), pos.shape[0]
    if name not in ("auto", "numba") or order.numba_missing() or _dispatch.transforms_active():
        return None
    graphs = batch_ptr if batch is None else batch
    is_plain = graphs is None or (graphs.is_cpu and graphs.ndim == 1 and graphs.dtype == torch.int64)
    if not is_plain or not pos.is_cpu or pos.dtype not in _FLOATS:
        return None
    if not isinstance(cutoff, (int, float)) or not cutoff > 0:
        return None
    if batch is not None:
        starts = search_numba.graph_starts(batch)
    else:
        starts = torch.tensor([0, num_nodes]) if batch_ptr is None else batch_ptr
    x = pos.detach()
    largest, ptr, pairs = search_numba.small_edges(starts, x, np.array([cutoff], np.float64), loop)
    if ptr.shape[0] == 0:
        return None
    _dispatch._note("radius_graph", "cpu", "numba", "the first that can run" if name == "auto" else "asked for")
    result = NeighborList(pairs[0], ptr, num_nodes, starts, symmetric=True, max_nodes=largest, built_at=x.clone())
    result.keep_edges(pairs)
    return result


def _radius_edges(
    search: Search, loop: bool, backend: str | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Source, row pointers, images and (where they are known) both ends from the body that runs."""
    body = _body("radius_graph", search, backend)
    if body == "numba":
        return search_numba.radius_edges(search, loop)
    if body in ("triton", "interpret"):
        from scidiff.kernels.triton import neighbors as bodies

        return *bodies.radius_edges(search, loop), None, None
    radius_edges = search_scipy.radius_edges if body == "scipy" else search_torch.radius_edges
    source, target, shifts = radius_edges(search, loop)
    return source, order.row_pointers(target, search.x.shape[0]), shifts, None


def _is_static(pos: Tensor, backend: str | None) -> bool:
    return backend == "torch" or (not pos.is_cpu and backend != "triton")


def _body(op: str, search: Search, backend: str | None) -> str:
    """Body that runs: asked for here, or by `use_backend` where it names a body of lists, or the fastest."""
    device, name = search.x.device.type, _name(search.x.device, backend)
    if name == "numba" and (reason := order.numba_missing()):
        raise ValueError(f"backend 'numba' cannot run {op}: {reason}. Use backend='torch', or repair numba.")
    if name in ("triton", "interpret") and (reason := _no_triton(op, search, name)):
        if backend is not None:
            raise ValueError(f"backend {name!r} cannot run {op}: {reason}. Use backend='auto' to let it be chosen.")
        name = "auto"
    if name != "auto":
        return _dispatch._note(op, device, name, "asked for")
    if _dispatch.transforms_active():  # tensors of a transform have no memory for other bodies
        return _dispatch._note(op, device, "torch", "the first that can run")
    if device != "cpu":
        reason = _no_triton(op, search, "triton")
        body, why = ("torch", f"triton: {reason}") if reason else ("triton", "the first that can run")
        return _dispatch._note(op, device, body, why)
    if not (reason := order.numba_missing()):
        return _dispatch._note(op, device, "numba", "the first that can run")
    is_large = search.max_nodes > _SMALL and bool(search.cutoff.isfinite().all() or op == "knn_graph")
    return _dispatch._note(op, device, "scipy" if is_large else "torch", f"numba: {reason}")


def _name(device: torch.device, backend: str | None) -> str:
    """Body asked for, here or by `use_backend` where it names a body of lists, or ``"auto"``."""
    if backend is not None and backend not in _BODIES:
        raise ValueError(f"backend must be one of {', '.join(_BODIES)}, got {backend!r}.")
    name = backend or _dispatch._asked(None)
    if name not in _BODIES or (backend is None and name == "numba" and device.type != "cpu"):
        name = "auto"
    if name in ("numba", "scipy") and device.type != "cpu":
        raise ValueError(f"backend {name!r} runs on the CPU only, got coordinates on {device}.")
    return name


def _no_triton(op: str, search: Search, body: str) -> str:
    """Why the Triton body cannot run; empty if it can."""
    if op != "radius_graph" or search.cell is not None or search.max_nodes > _SMALL:
        return f"it makes radius lists of open graphs of at most {_SMALL} nodes"
    return _dispatch._no_triton(search.x.device.type, body)


def _fixed(
    pos: Tensor,
    cutoff: float | Tensor,
    batch: Tensor | None,
    batch_ptr: Tensor | None,
    max_edges: int,
    max_nodes: int,
    loop: bool,
) -> NeighborList:
    """A list of fixed size in static shapes."""
    num_nodes, device = pos.shape[0], pos.device
    radius = cutoff if isinstance(cutoff, Tensor) else torch.full((), _positive(cutoff), device=device)
    radius = radius.detach().to(device=device, dtype=torch.float64)
    x, scattered = pos.detach().double(), batch
    wrong = ~(radius > 0).all() | ~x.isfinite().all()
    if batch is None:
        nodes = torch.arange(num_nodes, device=device)
        starts = nodes.new_zeros(1) if batch_ptr is None else batch_ptr[:-1].to(nodes)
        batch = torch.searchsorted(starts, nodes, right=True) - 1
        if batch_ptr is not None:
            wrong = wrong | (batch_ptr.diff() < 0).any() | (batch_ptr[0] != 0) | (batch_ptr[-1] != num_nodes)
    batch = batch.long().contiguous()
    radius = radius.expand(num_nodes) if radius.ndim == 0 else radius.index_select(0, batch)
    source, ptr, found, is_cut = search_torch.fixed_edges(
        x, batch, radius, max_nodes=max_nodes, max_edges=max_edges, loop=loop
    )
    return NeighborList(
        source,
        ptr,
        num_nodes,
        batch_ptr,
        max_nodes=max_nodes,
        num_found=found,
        built_at=pos.detach().clone(),
        scattered_batch=scattered,
        incomplete=wrong | is_cut,
    )


def _padded(graph: NeighborList, max_edges: int) -> NeighborList:
    """The same list in arrays of length ``max_edges``, cut or padded with loops of the last node."""
    found, last = graph.num_edges, max(graph.num_nodes - 1, 0)
    source = graph.source.new_full((max_edges,), last)
    source[: min(found, max_edges)] = graph.source[:max_edges]
    shifts = graph.shifts
    if shifts is not None:
        shifts = shifts.new_zeros(max_edges, 3)
        shifts[: min(found, max_edges)] = graph.shifts[:max_edges]  # pyright: ignore[reportOptionalSubscript]
    return NeighborList(
        source,
        graph.ptr.clamp(max=max_edges),
        graph.num_nodes,
        graph.batch_ptr,
        shifts,
        symmetric=graph.symmetric and found <= max_edges,
        max_nodes=graph.max_nodes,
        num_found=torch.tensor(found, device=graph.device),
        built_at=graph.built_at,
        scattered_batch=graph.scattered_batch,
    )


def _truncated(
    search: Search, source: Tensor, ptr: Tensor, shifts: Tensor | None, max_neighbors: int, on_overflow: str
) -> tuple[Tensor, Tensor, Tensor | None, bool]:
    """At most ``max_neighbors`` edges a target: the nearest ones, ties in canonical order."""
    if max_neighbors < 1:
        raise ValueError(f"max_neighbors must be at least 1 (or None for all), got {max_neighbors}.")
    degree = ptr.diff()
    most = int(degree.max()) if len(degree) else 0
    if most <= max_neighbors:
        return source, ptr, shifts, False
    if on_overflow == "error":
        raise ValueError(
            f"max_neighbors must be at least {most} for these points, got {max_neighbors}. "
            'Give a larger number, None for all neighbours, or on_overflow="nearest" to keep the nearest ones.'
        )
    num_nodes, num_edges = search.x.shape[0], source.shape[0]
    target = torch.arange(num_nodes, device=source.device).repeat_interleave(degree, output_size=num_edges)
    vec = search.x.index_select(0, source) - search.x.index_select(0, target)
    offset = None
    if shifts is not None and search.cell is not None and search.wrap is not None:
        image = shifts + search.wrap.index_select(0, source) - search.wrap.index_select(0, target)
        offset = lattice_vector(image, search.cell.index_select(0, search.batch.index_select(0, target)))
    d2 = squared_distance(vec, torch.zeros_like(vec), offset)
    by_distance = torch.sort(d2, stable=True).indices
    by_distance = by_distance.index_select(0, torch.sort(target.index_select(0, by_distance), stable=True).indices)
    rank = torch.arange(num_edges, device=source.device) - ptr[:-1].index_select(0, target)
    kept = torch.sort(by_distance.index_select(0, (rank < max_neighbors).nonzero().squeeze(1))).values
    degree = degree.clamp(max=max_neighbors)
    ptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    return source.index_select(0, kept), ptr, None if shifts is None else shifts.index_select(0, kept), True


def _unsorted(source: Tensor, ptr: Tensor, shifts: Tensor | None, perm: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """A list over nodes sorted by graph in the numbers that the user gave them."""
    nodes = torch.arange(perm.shape[0], device=perm.device)
    target = nodes.repeat_interleave(ptr.diff(), output_size=source.shape[0])
    source, target = perm.index_select(0, source), perm.index_select(0, target)
    source, ptr, edge_perm = order.canonical(source, target, perm.shape[0], shifts)
    if shifts is not None and edge_perm is not None:
        shifts = shifts.index_select(0, edge_perm)
    return source, ptr, shifts


def _check_points(pos: Tensor, batch: Tensor | None, batch_ptr: Tensor | None) -> None:
    if pos.ndim != 2 or pos.shape[1] != 3 or not pos.is_floating_point():
        raise ValueError(f"pos must be a floating point tensor (N, 3), got {pos.dtype} {tuple(pos.shape)}.")
    if batch is not None and batch_ptr is not None:
        raise ValueError("give batch or batch_ptr, not both.")
    if batch is not None and batch.shape != pos.shape[:1]:
        raise ValueError(f"batch must have one entry a node, ({pos.shape[0]},), got {tuple(batch.shape)}.")


def _graphs(
    pos: Tensor, batch: Tensor | None, batch_ptr: Tensor | None, *counts: int | None
) -> tuple[Tensor, Tensor | None]:
    """First node of each graph, and N; and the order that sorts the nodes by graph (None if they are sorted)."""
    num_nodes = pos.shape[0]
    if batch_ptr is not None:
        order.graph_sizes(batch_ptr)
        if int(batch_ptr[-1]) != num_nodes:
            raise ValueError(f"batch_ptr must end at the number of nodes, {num_nodes}, got {int(batch_ptr[-1])}.")
        return batch_ptr.to(device=pos.device, dtype=torch.int64), None
    if batch is None:
        return torch.tensor([0, num_nodes], device=pos.device), None
    known = max((count for count in counts if count is not None), default=0)
    starts = order.pointers(batch, known)
    if starts is not None:
        return starts, None
    sorted_batch, perm = torch.sort(batch.long(), stable=True)
    starts = order.pointers(sorted_batch, known)
    assert starts is not None
    return starts, perm


def _rows_of(value: float | Tensor | None, ndim: int) -> int | None:
    """Number of graphs that a value with one entry a graph knows of."""
    return value.shape[0] if isinstance(value, Tensor) and value.ndim == ndim + 1 else None


def _cutoffs(cutoff: float | Tensor, num_graphs: int, device: torch.device) -> Tensor:
    value = torch.as_tensor(cutoff, dtype=torch.float64, device=device).detach()
    if value.ndim > 1 or (value.ndim == 1 and value.shape[0] != num_graphs):
        raise ValueError(f"cutoff must be a number or one a graph ({num_graphs},), got shape {tuple(value.shape)}.")
    if not bool((value > 0).all()):
        _positive(value.min().item())
    return value.expand(num_graphs).contiguous()


def _positive(cutoff: float) -> float:
    if not cutoff > 0:
        raise ValueError(f"cutoff must be above 0, got {cutoff}.")
    return cutoff


def _periodicity(
    cell: Tensor | None, pbc: Tensor | None, num_graphs: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    if cell is None:
        if pbc is not None and bool(torch.as_tensor(pbc).any()):
            raise ValueError("pbc needs `cell`, the lattice vectors in rows, (G, 3, 3).")
        return None, None
    if cell.shape not in ((3, 3), (num_graphs, 3, 3)):
        raise ValueError(f"cell must have shape (3, 3) or ({num_graphs}, 3, 3), got {tuple(cell.shape)}.")
    axes = torch.ones(3, dtype=torch.bool) if pbc is None else torch.as_tensor(pbc).bool()
    if axes.shape not in ((3,), (num_graphs, 3)):
        raise ValueError(f"pbc must have shape (3,) or ({num_graphs}, 3), got {tuple(axes.shape)}.")
    return cell.to(device).expand(num_graphs, 3, 3), axes.to(device).expand(num_graphs, 3)
