"""Neighbour searches in plain torch, on any device: the definition that the other bodies agree with."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from scidiff.kernels.order import row_pointers
from scidiff.kernels.search import Grid, Search, lattice_vector, make_grid, squared_distance

__all__ = ["fixed_edges", "nearest_edges", "nearest_of", "radius_edges", "sort_pairs"]

_BLOCK = 1 << 22
"""Candidates compared at a time."""

_DIVIDED = 400
"""Points of a graph from which cells pay."""


def radius_edges(search: Search, loop: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Source, target and image of all pairs within the cutoff, canonical order; images are None if open."""
    grid = make_grid(search, divide=search.max_nodes > _DIVIDED)
    order, starts = _by_cell(search, grid)
    target, image, cells = _segments(search, grid)
    begin, count = starts.index_select(0, cells), starts.diff().index_select(0, cells)
    ends = count.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    marks = torch.arange(_BLOCK, max(total, _BLOCK), _BLOCK, device=ends.device)
    cuts = [0, *torch.searchsorted(ends, marks).unique().tolist(), len(ends)]
    parts = [
        _within(search, order, target[a:b], image[a:b], begin[a:b], count[a:b], loop)
        for a, b in itertools.pairwise(cuts)
        if b > a
    ]
    empty = target.new_zeros(0)
    source, target, image = (torch.cat(column) for column in zip(*(parts or [(empty, empty, image[:0])])))
    source, target, image = sort_pairs(search, grid, source, target, image)
    if search.wrap is None:
        return source, target, None
    return source, target, image - search.wrap.index_select(0, source) + search.wrap.index_select(0, target)


def fixed_edges(
    x: Tensor, batch: Tensor, cutoff: Tensor, *, max_nodes: int, max_edges: int, loop: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first ``max_edges`` pairs within the cutoff in static shapes, without synchronisation.

    Args:
        x: Coordinates, float64 (N, 3).
        batch: Graph of each point, sorted, int64 (N,).
        cutoff: Radius of each point, float64 (N,).
        max_nodes: Bound on the points of a graph; N times as many pairs are compared.
        max_edges: Length of the result.
        loop: Whether each point is its own neighbour.

    Returns:
        Source, int64 (max_edges,), padded with the last node; row pointers (N + 1,); the number found, 0-d;
        whether pairs may be missing (a graph of more than ``max_nodes`` points, ``batch`` not sorted), 0-d.
    """
    num_nodes = x.shape[0]
    nodes = torch.arange(num_nodes, device=x.device)
    first = torch.searchsorted(batch, batch)[:, None]
    beyond = torch.searchsorted(batch, batch, right=True)[:, None]
    source = first + torch.arange(max_nodes, device=x.device)
    is_cut = (beyond - first > max_nodes).any() | (batch.diff() < 0).any()
    close = (source < beyond) & ((source != nodes[:, None]) | loop)
    source = source.clamp(max=max(num_nodes - 1, 0))
    close &= squared_distance(x[source], x[:, None]) <= (cutoff * cutoff)[:, None]
    ends = close.sum(1).cumsum(0)
    ptr = torch.cat([ends.new_zeros(1), ends])
    rank = close.flatten().cumsum(0) - 1
    place = torch.where(close.flatten() & (rank < max_edges), rank, max_edges)
    padded = torch.full((max_edges + 1,), max(num_nodes - 1, 0), dtype=torch.int64, device=x.device)
    return padded.scatter(0, place, source.flatten())[:max_edges], ptr.clamp(max=max_edges), ptr[-1], is_cut


def nearest_edges(search: Search, k: int, loop: bool) -> tuple[Tensor, Tensor]:
    """Source and target of the k nearest points of each point, ties by number; compares all pairs of a graph."""
    width = search.max_nodes
    rows = max(1, _BLOCK // max(width, 1))
    parts = []
    for first in range(0, search.x.shape[0], rows):
        targets = torch.arange(first, min(first + rows, search.x.shape[0]), device=search.x.device)
        parts.append(nearest_of(search, targets, k, loop))
    if not parts:
        empty = search.starts.new_zeros(0)
        return empty, empty
    source, target = (torch.cat(column) for column in zip(*parts))
    return source, target


def nearest_of(search: Search, targets: Tensor, k: int, loop: bool) -> tuple[Tensor, Tensor]:
    """Source and target of the k nearest points of some points."""
    batch = torch.searchsorted(search.starts, targets, right=True) - 1
    first, size = search.starts.index_select(0, batch), search.starts.diff().index_select(0, batch)
    sources = first[:, None] + torch.arange(search.max_nodes, device=targets.device)
    valid = sources < (first + size)[:, None]
    if not loop:
        valid &= sources != targets[:, None]
    sources = sources.clamp(max=max(search.x.shape[0] - 1, 0))
    d2 = squared_distance(search.x[sources], search.x[targets][:, None])
    d2 = torch.where(valid, d2, torch.inf)
    bound = d2.topk(min(k, d2.shape[1]), dim=1, largest=False).values[:, -1:]
    closer, equal = d2 < bound, (d2 == bound) & valid
    chosen = closer | (equal & (equal.cumsum(1) <= k - closer.sum(1, keepdim=True)))
    row, column = chosen.nonzero().unbind(1)
    return sources[row, column], targets[row]


def _by_cell(search: Search, grid: Grid) -> tuple[Tensor, Tensor]:
    """Points in the order of their cells (ascending within a cell), and the first place of each cell."""
    shape = grid.shape.index_select(0, search.batch)
    number = (grid.bins[:, 0] * shape[:, 1] + grid.bins[:, 1]) * shape[:, 2] + grid.bins[:, 2]
    number, order = torch.sort(number + grid.first.index_select(0, search.batch), stable=True)
    return order, row_pointers(number, int(grid.first[-1]))


def _segments(search: Search, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Target, image and cell of all visits of a point to a cell within reach."""
    device, batch = search.x.device, search.batch
    span = 2 * grid.reach + 1
    visits = span.prod(1).index_select(0, batch)
    total = int(visits.sum())
    target = torch.arange(len(batch), device=device).repeat_interleave(visits, output_size=total)
    graph = batch.index_select(0, target)
    step = torch.arange(total, device=device) - (visits.cumsum(0) - visits).index_select(0, target)
    span, shape = span.index_select(0, graph), grid.shape.index_select(0, graph)
    steps = torch.stack([step // (span[:, 1] * span[:, 2]), step // span[:, 2] % span[:, 1], step % span[:, 2]], 1)
    place = grid.bins.index_select(0, target) + steps - grid.reach.index_select(0, graph)
    image = torch.div(place, shape, rounding_mode="floor")
    inside = image == 0
    if search.periodic is not None:
        inside |= search.periodic.index_select(0, graph)
    keep = inside.all(1).nonzero().squeeze(1)
    place, image, shape = ((place - image * shape)[keep], image[keep], shape[keep])
    cell = (place[:, 0] * shape[:, 1] + place[:, 1]) * shape[:, 2] + place[:, 2]
    return target[keep], image, cell + grid.first.index_select(0, graph[keep])


def _within(
    search: Search, order: Tensor, target: Tensor, image: Tensor, begin: Tensor, count: Tensor, loop: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs within the cutoff among the visits (target, image, ``count`` points from ``begin``)."""
    total = int(count.sum())
    visit = torch.arange(len(count), device=count.device).repeat_interleave(count, output_size=total)
    place = torch.arange(total, device=count.device) + (begin - count.cumsum(0) + count).index_select(0, visit)
    source, receiver = order.index_select(0, place), target.index_select(0, visit)
    offset = None
    if search.cell is not None:
        cell = search.cell.index_select(0, search.batch.index_select(0, target))
        offset = lattice_vector(image, cell).index_select(0, visit)
    d2 = squared_distance(search.x.index_select(0, source), search.x.index_select(0, receiver), offset)
    close = d2 <= (search.cutoff * search.cutoff).index_select(0, search.batch).index_select(0, receiver)
    if not loop:
        close &= (source != receiver) | (image != 0).any(1).index_select(0, visit)
    chosen = close.nonzero().squeeze(1)
    visit = visit.index_select(0, chosen)
    return source.index_select(0, chosen), receiver.index_select(0, chosen), image.index_select(0, visit)


def sort_pairs(
    search: Search, grid: Grid, source: Tensor, target: Tensor, image: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs by target, source and image."""
    key = target * search.x.shape[0] + source
    for axis, reach in enumerate(grid.images):
        key = key * (2 * reach + 1) + image[:, axis] + reach
    perm = torch.sort(key).indices
    return source.index_select(0, perm), target.index_select(0, perm), image.index_select(0, perm)
