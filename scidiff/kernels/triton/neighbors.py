"""Radius lists of batches of small open graphs: all pairs of a graph are compared twice, to count and to fill.

A program owns one target and walks the points of its graph in ascending order, so rows are sorted as they are written.
Squared distances are those of `scidiff.kernels.search`: float64, and products are not fused with sums, so the list is
the same as that of every other body, pairs at the cutoff included.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (kernels are typed by Triton's compiler)

import triton
import triton.language as tl
from torch import Tensor

from scidiff.kernels.search import Search
from scidiff.kernels.triton._common import contiguous, launch, pad

__all__ = ["count_pairs", "fill_pairs", "radius_edges"]


def radius_edges(search: Search, loop: bool) -> tuple[Tensor, Tensor]:
    """Source and row pointers of all pairs within the cutoff of open graphs, canonical order; waits once."""
    points = search.x, search.batch, search.starts, search.cutoff * search.cutoff
    ptr = count_pairs(*points, loop, search.max_nodes)
    return fill_pairs(*points, ptr, int(ptr[-1]), loop, search.max_nodes), ptr


@contiguous
def count_pairs(x: Tensor, batch: Tensor, starts: Tensor, cutoff2: Tensor, loop: bool, max_nodes: int) -> Tensor:
    """Row pointers (N + 1,) of the list.

    Args:
        x: Coordinates, float64 (N, 3).
        batch: Graph of each point, int64 (N,).
        starts: First point of each graph, and N, int64 (G + 1,).
        cutoff2: Squared cutoff of each graph, float64 (G,).
        loop: Whether each point is its own neighbour.
        max_nodes: Points of the largest graph; decides the tile, not the result.
    """
    ptr = starts.new_zeros(x.shape[0] + 1)
    _launch((x, batch, starts, cutoff2, ptr, ptr), False, loop, max_nodes)
    return ptr.cumsum_(0)


@contiguous
def fill_pairs(
    x: Tensor, batch: Tensor, starts: Tensor, cutoff2: Tensor, ptr: Tensor, num_edges: int, loop: bool, max_nodes: int
) -> Tensor:
    """Sources (E,) in the rows that `count_pairs` found."""
    source = starts.new_empty(num_edges)
    _launch((x, batch, starts, cutoff2, ptr, source), True, loop, max_nodes)
    return source


def _launch(tensors: tuple[Tensor, ...], fill: bool, loop: bool, max_nodes: int) -> None:
    constants = {"FILL": fill, "LOOP": loop, "BLOCK": min(128, pad(max_nodes, 32))}
    launch(_pairs, (tensors[0].shape[0],), tensors, warps=1, fuses=False, **constants)


@triton.jit
def _pairs(
    x, batch, starts, cutoff2, ptr, source,
    FILL: tl.constexpr, LOOP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    graph = tl.load(batch + i)
    stop = tl.load(starts + graph + 1)
    bound = tl.load(cutoff2 + graph)
    xi = tl.load(x + i * 3)
    yi = tl.load(x + i * 3 + 1)
    zi = tl.load(x + i * 3 + 2)
    place = tl.zeros((1,), dtype=tl.int64)
    if FILL:
        place += tl.load(ptr + i)
    for first in range(tl.load(starts + graph), stop, BLOCK):
        j = first + tl.arange(0, BLOCK)
        inside = j < stop
        dx = tl.load(x + j * 3, mask=inside, other=0.0) - xi
        dy = tl.load(x + j * 3 + 1, mask=inside, other=0.0) - yi
        dz = tl.load(x + j * 3 + 2, mask=inside, other=0.0) - zi
        close = inside & (dx * dx + dy * dy + dz * dz <= bound)
        if not LOOP:
            close = close & (j != i)
        if FILL:
            rank = tl.cumsum(close.to(tl.int32), axis=0) - 1
            tl.store(source + place + rank, j, mask=close)
        place += tl.sum(close.to(tl.int32), axis=0)
    if not FILL:
        tl.store(ptr + i + 1 + tl.arange(0, 1), place)
