"""What every neighbour search starts from: checked input, wrapped coordinates in float64, cells of at least the cutoff.

All bodies compare d^2 = dx^2 + dy^2 + dz^2 (float64, summed in this order, dx = (x_j - x_i) + S C of wrapped points)
with cutoff^2, so they agree to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Grid", "Search", "lattice_vector", "make_grid", "prepare", "squared_distance"]

_SLACK = 1e-9
"""Relative room that keeps rounding from putting a pair two cells apart."""


@dataclass(frozen=True)
class Search:
    """Points of contiguous graphs.

    Args:
        x: Wrapped coordinates, float64 (N, 3).
        starts: First point of each graph, and N, int64 (G + 1,).
        sizes: Number of points of each graph.
        cutoff: Radius of each graph, float64 (G,).
        cell: Lattice vectors in rows, unit vectors for axes without periodicity, float64 (G, 3, 3); None if open.
        periodic: Periodic axes, bool (G, 3); None if open.
        wrap: Lattice vectors taken away from each point, int64 (N, 3); None if open.
    """

    x: Tensor
    starts: Tensor
    sizes: list[int]
    cutoff: Tensor
    cell: Tensor | None = None
    periodic: Tensor | None = None
    wrap: Tensor | None = None

    @property
    def batch(self) -> Tensor:
        """Graph of each point, int64 (N,)."""
        graphs = torch.arange(len(self.sizes), device=self.x.device)
        return graphs.repeat_interleave(self.starts.diff(), output_size=self.x.shape[0])

    @property
    def max_nodes(self) -> int:
        """Points of the largest graph."""
        return max(self.sizes, default=0)


@dataclass(frozen=True)
class Grid:
    """Cells of each graph, numbered along the last axis first.

    Args:
        bins: Cell of each point along each axis, int64 (N, 3).
        shape: Cells along each axis, int64 (G, 3).
        reach: Cells that a search visits to each side, int64 (G, 3).
        first: Number of the first cell of each graph, and the number of cells, int64 (G + 1,).
        images: Largest image that a search visits, along each axis.
    """

    bins: Tensor
    shape: Tensor
    reach: Tensor
    first: Tensor
    images: tuple[int, int, int]


def squared_distance(x_source: Tensor, x_target: Tensor, offset: Tensor | None = None) -> Tensor:
    """d^2 of pairs of points, (..., 3) to (...), in the order of operations that every body uses."""
    delta = x_source - x_target
    dx, dy, dz = (delta if offset is None else delta + offset).unbind(-1)
    return dx * dx + dy * dy + dz * dz


def prepare(pos: Tensor, cutoff: Tensor, starts: Tensor, cell: Tensor | None, pbc: Tensor | None) -> Search:
    """Check coordinates and cells, and wrap periodic coordinates into their cells.

    Raises:
        ValueError: If a coordinate is not finite, or if a cell with periodic axes is singular.
    """
    sizes = starts.diff().tolist()
    x = pos.detach().double()
    if not math.isfinite(float(x.sum())) and not bool(x.isfinite().all()):  # a sum may only overflow
        node = int((~x.isfinite()).any(1).nonzero()[0])
        graph = int(torch.searchsorted(starts, torch.tensor(node, device=starts.device), right=True)) - 1
        raise ValueError(f"pos must be finite, got {pos[node].tolist()} at node {node} of graph {graph}.")
    if cell is None or pbc is None or not bool(pbc.any()):
        return Search(x.contiguous(), starts, sizes, cutoff)
    if not bool(cutoff[pbc.any(1)].isfinite().all()):
        raise ValueError("cutoff must be finite for periodic graphs: infinitely many images lie within it.")
    cell = _complete(cell.detach().double(), pbc)
    search = Search(x, starts, sizes, cutoff, cell, pbc)
    batch = search.batch
    wrap = torch.where(pbc.index_select(0, batch), _fractional(x, cell, batch).floor(), 0.0)
    wrapped = x - lattice_vector(wrap, cell.index_select(0, batch))
    return Search(wrapped.contiguous(), starts, sizes, cutoff, cell, pbc, wrap.long())


def make_grid(search: Search, *, divide: bool = True, width: Tensor | None = None) -> Grid:
    """Divide each graph into cells not thinner than its cutoff (or ``width``), about as many as it has points.

    Args:
        search: The points.
        divide: False puts all points of a graph into one cell.
        width: Smallest thickness of a cell in place of the cutoff, float64 (G,).
    """
    batch = search.batch
    u = search.x if search.cell is None else _fractional(search.x, search.cell, batch)
    periodic = torch.zeros_like(search.starts[1:, None].expand(-1, 3), dtype=torch.bool)
    height = torch.ones_like(periodic, dtype=torch.float64)
    if search.cell is not None and search.periodic is not None:
        periodic, height = search.periodic, _heights(search.cell)
    low, extent = _extents(u, search, periodic)
    thickness = (search.cutoff if width is None else width)[:, None] * (1 + _SLACK)
    shape = (extent * height / thickness).floor().clamp(min=1) if divide else torch.ones_like(extent)
    shape = _limited(shape, search)
    reach = torch.where(periodic, (thickness * shape / height).floor() + 1, (shape > 1).double()).long()
    scale = torch.where(extent > 0, shape / torch.where(extent > 0, extent, 1.0), 0.0)
    shape = shape.long()
    bins = ((u - low.index_select(0, batch)) * scale.index_select(0, batch)).floor().long()
    bins = torch.minimum(bins.clamp(min=0), shape.index_select(0, batch) - 1)
    first = torch.cat([shape.new_zeros(1), shape.prod(1).cumsum(0)])
    images = torch.where(periodic, (reach + shape - 1) // shape, 0)
    largest = images.amax(0).tolist() if len(images) else [0, 0, 0]
    return Grid(bins, shape, reach, first, (largest[0], largest[1], largest[2]))


def lattice_vector(image: Tensor, cell: Tensor) -> Tensor:
    """S C of images (..., 3) and cells (..., 3, 3), float64, in the order of operations that every body uses."""
    a, b, c = image.double()[..., None].unbind(-2)
    return a * cell[..., 0, :] + b * cell[..., 1, :] + c * cell[..., 2, :]


def _fractional(x: Tensor, cell: Tensor, batch: Tensor) -> Tensor:
    return (x[:, None, :] @ torch.linalg.inv(cell).index_select(0, batch)).squeeze(1)


def _heights(cell: Tensor) -> Tensor:
    """Distance between opposite faces, |det C| / |C_b x C_c|, (G, 3)."""
    return 1 / torch.linalg.inv(cell).norm(dim=1)


def _extents(u: Tensor, search: Search, periodic: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest coordinate and width of each graph along each axis; 0 and 1 along periodic axes, 0 for no points."""
    rows = search.batch[:, None].expand(-1, 3)
    low = torch.zeros_like(periodic, dtype=u.dtype).scatter_reduce(0, rows, u, "amin", include_self=False)
    high = torch.zeros_like(low).scatter_reduce(0, rows, u, "amax", include_self=False)
    return torch.where(periodic, 0.0, low), torch.where(periodic, 1.0, high - low)


def _limited(shape: Tensor, search: Search) -> Tensor:
    """Halve the longest axis until a graph has no more than about two cells a point."""
    limit = (2.0 * search.starts.diff()).clamp(min=8)
    while bool((over := shape.prod(1) > limit).any()):
        longest = torch.zeros_like(shape).scatter_(1, shape.argmax(1, keepdim=True), 1.0).bool()
        shape = torch.where(over[:, None] & longest, (shape / 2).ceil(), shape)
    return shape


def _complete(cell: Tensor, pbc: Tensor) -> Tensor:
    """Put orthogonal unit vectors in the place of the lattice vectors along axes without periodicity.

    Raises:
        ValueError: If periodic lattice vectors are linearly dependent.
    """
    cell = cell.clone()
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        alone = pbc[:, a] & ~pbc[:, b] & ~pbc[:, c]
        cell[:, b] = torch.where(alone[:, None], _unit(_perpendicular(cell[:, a])), cell[:, b])
        cell[:, c] = torch.where(alone[:, None], _unit(torch.linalg.cross(cell[:, a], cell[:, b])), cell[:, c])
        pair = ~pbc[:, a] & pbc[:, b] & pbc[:, c]
        cell[:, a] = torch.where(pair[:, None], _unit(torch.linalg.cross(cell[:, b], cell[:, c])), cell[:, a])
    identity = torch.eye(3, dtype=cell.dtype, device=cell.device)
    cell = torch.where(pbc.any(1)[:, None, None], cell, identity)
    singular = ~(torch.linalg.det(cell).abs() > 1e-10 * cell.norm(dim=2).prod(1))
    if bool(singular.any()):
        graph = int(singular.nonzero()[0])
        raise ValueError(
            f"cell must have linearly independent lattice vectors along periodic axes, "
            f"got {cell[graph].tolist()} for graph {graph}. Rows are lattice vectors; set pbc for open axes."
        )
    return cell


def _perpendicular(v: Tensor) -> Tensor:
    axis = torch.zeros_like(v).scatter_(1, v.abs().argmin(1, keepdim=True), 1.0)
    return torch.linalg.cross(v, axis)


def _unit(v: Tensor) -> Tensor:
    norm = v.norm(dim=-1, keepdim=True)
    return v / torch.where(norm > 0, norm, 1.0)
