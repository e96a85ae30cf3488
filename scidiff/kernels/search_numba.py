"""Neighbour searches in numba: brute force for batches of small graphs, cells for large or periodic ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidiff.kernels.search import Grid, Search, make_grid

__all__ = ["graph_starts", "nearest_edges", "radius_edges", "small_edges", "transpose"]

_DIVIDED = 1000
"""Points of a graph up to which all comparisons take less time than setting up cells."""

_BLOCK = 1 << 26
"""Room for candidates, in keys, that one call may ask for."""


def radius_edges(search: Search, loop: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Source, row pointers, image and (source, target) of all pairs within the cutoff, in canonical order.

    Images are None if open, and pairs (2, E) where the body does not write them.
    """
    if search.cell is None and search.max_nodes <= _DIVIDED:
        _, ptr, pairs = small_edges(search.starts, search.x, search.cutoff.numpy(), loop)
        return pairs[0], ptr, None, pairs
    return *_by_cells(search, loop), None


def small_edges(starts: Tensor, x: Tensor, cutoff: np.ndarray, loop: bool) -> tuple[int, Tensor, Tensor]:
    """Points of the largest graph, row pointers and pairs (2, E) by brute force, with one cutoff or one a graph.

    The first is -1 for bad input, and then, or where cells pay, the rest is empty.
    """
    from scidiff.kernels.cpu_numba.brute import radius_edges

    return radius_edges(starts, x, cutoff, loop, _DIVIDED)


def graph_starts(batch: Tensor) -> Tensor:
    """First point of each graph, and N, int64 (G + 1,); empty if the graphs of the points do not ascend from 0 on."""
    from scidiff.kernels.cpu_numba import brute as bodies

    return torch.from_numpy(bodies.graph_starts(batch.contiguous().numpy()))


def _by_cells(search: Search, loop: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    from scidiff.kernels.cpu_numba import graph as bodies

    grid = make_grid(search)
    cells = _cells(search, grid)
    num_nodes = search.x.shape[0]
    count = np.empty(num_nodes, np.int64)
    bodies.count_candidates(0, num_nodes, cells, count)
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])
    degree = np.empty(num_nodes, np.int64)

    def fill(chunks: np.ndarray, room: np.ndarray, keys: np.ndarray, threads: int) -> None:
        if threads == 1:
            bodies.cell_rows(chunks[0], chunks[-1], cells, loop, 0, degree, keys)
        else:
            _parallel(bodies.cell_parallel, threads, chunks, cells, loop, room, degree, keys)

    wrap = None if search.wrap is None else (search.wrap.numpy(), _image_table(grid), cells.bits)
    return _collect(bounds, np.arange(num_nodes + 1), degree, fill, wrap)


def _collect(
    bounds: np.ndarray, rows: np.ndarray, degree: np.ndarray, fill: Any, wrap: tuple | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a body over pieces (graphs or points) whose candidates are counted by ``bounds``, and move rows together.

    Args:
        bounds: Number of candidates before each piece, and their total.
        rows: First point of each piece, and N.
        degree: Filled by the body: neighbours of each point.
        fill: The body, called with pieces, room and keys.
        wrap: Lattice vectors taken away from each point, table of images, bits of their numbers; None if open.
    """
    from scidiff.kernels.cpu_numba import graph as bodies
    from scidiff.kernels.cpu_numba._threads import thread_count

    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for first, last in _blocks(bounds):
        total = int(bounds[last] - bounds[first])
        threads = thread_count(4 * total)
        chunks = np.array([first, last]) if threads == 1 else _chunks(bounds, first, last, 4 * threads)
        room = bounds[chunks[:-1]] - bounds[first]
        keys = np.empty(total + 1, np.int64)
        fill(chunks, room, keys, threads)
        points = rows[chunks]
        if threads == 1 and wrap is None:  # keys are sources, one row after the other
            found = int(degree[points[0] : points[-1]].sum())
            parts.append((keys[:found] if 2 * found > total else keys[:found].copy(), np.empty((0, 3), np.int32)))
            continue
        ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(degree[points[0] : points[-1]])])
        source = np.empty(ptr[-1], np.int64)
        shifts = np.empty((0 if wrap is None else ptr[-1], 3), np.int32)
        moved, table, bits = wrap or (np.zeros((0, 3), np.int64), np.zeros((1, 3), np.int64), 0)
        args = (points[0], ptr, bits, table, moved, keys, source, shifts)
        if threads == 1:
            bodies.unpack_rows(points[0], points[-1], 0, *args)
        else:
            _parallel(bodies.unpack_parallel, threads, points, room, *args)
        parts.append((source, shifts))
    ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(degree)])
    source, shifts = parts[0] if len(parts) == 1 else (np.concatenate(column) for column in zip(*parts))
    return torch.from_numpy(source), torch.from_numpy(ptr), None if wrap is None else torch.from_numpy(shifts)


def _blocks(bounds: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of pieces with at most `_BLOCK` candidates (or one piece)."""
    last = len(bounds) - 1
    cuts = [0]
    while bounds[last] - bounds[cuts[-1]] > _BLOCK:
        after = int(np.searchsorted(bounds, bounds[cuts[-1]] + _BLOCK, side="right")) - 1
        cuts.append(max(after, cuts[-1] + 1))
    return list(zip(cuts, [*cuts[1:], last]))


def _chunks(bounds: np.ndarray, first: int, last: int, count: int) -> np.ndarray:
    """Ranges of pieces with about equal numbers of candidates."""
    marks = np.linspace(bounds[first], bounds[last], count + 1)[1:-1]
    inner = np.searchsorted(bounds[first : last + 1], marks) + first
    return np.unique(np.concatenate([[first], inner, [last]]))


def _parallel(body: Any, threads: int, *args: Any) -> None:
    from scidiff.kernels.cpu_numba._threads import in_parallel

    in_parallel(body, threads, *args)


def _cells(search: Search, grid: Grid) -> Any:
    """The points by cell, as the bodies read them."""
    from scidiff.kernels.cpu_numba import graph as bodies

    num_nodes, batch = search.x.shape[0], search.batch
    shape = grid.shape.index_select(0, batch)
    number = (grid.bins[:, 0] * shape[:, 1] + grid.bins[:, 1]) * shape[:, 2] + grid.bins[:, 2]
    number = (number + grid.first.index_select(0, batch)).numpy()
    ptr, order = np.zeros(int(grid.first[-1]) + 1, np.int64), np.empty(num_nodes, np.int64)
    bodies.counting_sort(number, ptr, order)
    periodic = np.zeros((len(search.sizes), 3), np.bool_) if search.periodic is None else search.periodic.numpy()
    cell = np.zeros((len(search.sizes), 3, 3)) if search.cell is None else search.cell.contiguous().numpy()
    x = np.ascontiguousarray(search.x.numpy().T)
    images = np.array(grid.images, np.int64)
    bits = int(np.prod(2 * images + 1) - 1).bit_length()
    cutoff2 = (search.cutoff * search.cutoff).numpy()
    arrays = (grid.bins.numpy(), grid.shape.numpy(), grid.reach.numpy(), periodic, grid.first.numpy(), ptr, order)
    return bodies.Cells(batch.numpy(), *arrays, x, np.ascontiguousarray(x[:, order]), cell, cutoff2, images, bits)


def _image_table(grid: Grid) -> np.ndarray:
    """Images in ascending order, (M, 3)."""
    axes = [np.arange(-reach, reach + 1) for reach in grid.images]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def nearest_edges(search: Search, k: int, loop: bool) -> tuple[Tensor, Tensor]:
    """Source and row pointers of the k nearest points of each point, ties by number."""
    from scidiff.kernels.cpu_numba import graph as bodies
    from scidiff.kernels.cpu_numba._threads import thread_count

    width = _spacing(search, k)
    grid = make_grid(search, divide=search.max_nodes > 4 * k + 64, width=width)
    cells = _cells(search, grid)
    num_nodes = search.x.shape[0]
    source, degree = np.empty((num_nodes, k), np.int64), np.empty(num_nodes, np.int64)
    threads = thread_count(100.0 * num_nodes * k)
    if threads == 1:
        bodies.nearest_rows(0, num_nodes, cells, width.numpy(), k, loop, source, degree)
    else:
        chunks = np.linspace(0, num_nodes, 4 * threads + 1).astype(np.int64)
        _parallel(bodies.nearest_parallel, threads, chunks, cells, width.numpy(), k, loop, source, degree)
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), torch.from_numpy(degree).cumsum(0)])
    chosen = np.arange(k) < degree[:, None]
    return torch.from_numpy(source[chosen]), ptr


def _spacing(search: Search, k: int) -> Tensor:
    """Width of cells that hold about k / 4 points (two at least) of a uniform graph, (G,)."""
    graphs = len(search.sizes)
    rows = search.batch[:, None].expand(-1, 3)
    zeros = torch.zeros(graphs, 3, dtype=torch.float64)
    high = zeros.scatter_reduce(0, rows, search.x, "amax", include_self=False)
    low = zeros.scatter_reduce(0, rows, search.x, "amin", include_self=False)
    extent = high - low
    extent = torch.maximum(extent, extent.amax(1, keepdim=True) * 1e-3)
    width = (extent.prod(1) * max(k / 4, 2.0) / search.starts.diff().clamp(min=1)) ** (1 / 3)
    return torch.where(width > 0, width, 1.0)


def transpose(source: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Row pointers and stable order of the edges by source, dtype of ``source``."""
    from scidiff.kernels.cpu_numba import graph as bodies

    dtype = np.int32 if source.dtype == torch.int32 else np.int64
    ptr, order = np.zeros(num_nodes + 1, dtype), np.empty(source.shape[0], dtype)
    bodies.counting_sort(source.contiguous().numpy(), ptr, order)
    return torch.from_numpy(ptr), torch.from_numpy(order)
