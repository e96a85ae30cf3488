"""Neighbour searches with scipy's k-d tree, for large graphs on a CPU without numba.

The tree proposes pairs within a slightly larger radius; the common comparison decides, so that results are those of
the other bodies.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scidiff.kernels.search import Grid, Search, lattice_vector, make_grid, squared_distance
from scidiff.kernels.search_torch import nearest_of, sort_pairs

__all__ = ["nearest_edges", "radius_edges"]

_SLACK = 1e-9
_APART = 4.0
"""Distance of two graphs along the fourth axis, in units of the cutoff."""

_SPARE = 8
"""Neighbours beyond the k-th that are asked for, to see ties."""


def radius_edges(search: Search, loop: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Source, target and image of all pairs within the cutoff, canonical order; images are None if open."""
    from scipy.sparse import csr_array

    grid = None if search.cell is None else make_grid(search, divide=False)
    owner, image = _ghosts(search, grid)
    offset = None if search.cell is None else lattice_vector(image, search.cell.index_select(0, search.batch[owner]))
    points = search.x[owner] if offset is None else search.x[owner] + offset
    graph = search.batch[owner]
    scaled = torch.cat([points / search.cutoff[graph][:, None], _APART * graph[:, None].double()], 1)
    first, second = _pairs(scaled.numpy(), len(search.x))
    num_nodes = len(search.x)
    if loop:
        same = torch.arange(num_nodes)
        first, second = torch.cat([first, same]), torch.cat([second, same])
    x_source = search.x[owner[second]]
    shifted = None if offset is None else offset[second]
    close = squared_distance(x_source, search.x[first], shifted) <= (search.cutoff * search.cutoff)[graph[first]]
    first, second = first[close], second[close]
    if search.wrap is not None and grid is not None:
        source, target, images = sort_pairs(search, grid, owner[second], first, image[second])
        return source, target, images - search.wrap[source] + search.wrap[target]
    matrix = csr_array((np.ones(len(first), np.int8), (first.numpy(), second.numpy())), shape=(num_nodes, num_nodes))
    matrix.sort_indices()
    degree = torch.from_numpy(np.diff(matrix.indptr).astype(np.int64))
    return torch.from_numpy(matrix.indices.astype(np.int64)), torch.arange(num_nodes).repeat_interleave(degree), None


def _ghosts(search: Search, grid: Grid | None) -> tuple[Tensor, Tensor]:
    """Number and image of the points (image 0), then of their images near the cell."""
    nodes = torch.arange(len(search.x))
    if search.cell is None or search.periodic is None or grid is None:
        return nodes, torch.zeros(len(search.x), 3, dtype=torch.int64)
    images = torch.cartesian_prod(*(torch.arange(-reach, reach + 1) for reach in grid.images)).reshape(-1, 3)
    inverse = torch.linalg.inv(search.cell)
    margin = (search.cutoff[:, None] * inverse.norm(dim=1) * (1 + _SLACK) + _SLACK)[search.batch]
    fractional = (search.x[:, None] @ inverse[search.batch]).squeeze(1)
    reach, open_axis = grid.reach[search.batch], ~search.periodic[search.batch]
    owners, kept = [nodes], [torch.zeros(len(search.x), 3, dtype=torch.int64)]
    for image in images[(images != 0).any(1)]:
        moved = fractional + image
        near = ((moved >= -margin) & (moved <= 1 + margin)) | open_axis
        chosen = (near & (image.abs() <= reach)).all(1).nonzero().squeeze(1)
        owners.append(chosen)
        kept.append(image.expand(len(chosen), 3))
    return torch.cat(owners), torch.cat(kept)


def _pairs(points: np.ndarray, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Pairs (point, point or image) within the radius 1, without (i, i)."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(points).query_pairs(1 + _SLACK, output_type="ndarray").astype(np.int64)
    both = torch.from_numpy(np.concatenate([pairs, pairs[:, ::-1]]))
    first, second = both[both[:, 0] < num_nodes].unbind(1)
    return first, second


def nearest_edges(search: Search, k: int, loop: bool) -> tuple[Tensor, Tensor]:
    """Source and target of the k nearest points of each point, ties by number."""
    from scipy.spatial import cKDTree

    num_nodes, asked = len(search.x), k + 1 + _SPARE
    span = float((search.x.amax(0) - search.x.amin(0)).norm()) if num_nodes else 0.0
    graph = search.batch
    points = torch.cat([search.x, (graph * (4 * span + 1)).double()[:, None]], 1).numpy()
    distance, number = cKDTree(points).query(points, k=asked)
    number = torch.from_numpy(number.astype(np.int64))
    valid = number < num_nodes
    number = number.clamp(max=max(num_nodes - 1, 0))
    valid &= (graph[number] == graph[:, None]) & (loop | (number != torch.arange(num_nodes)[:, None]))
    d2 = torch.where(valid, squared_distance(search.x[number], search.x[:, None]), torch.inf)
    by_number = torch.sort(number, stable=True).indices
    rank = by_number.gather(1, torch.sort(d2.gather(1, by_number), stable=True).indices)
    d2, number = d2.gather(1, rank), number.gather(1, rank)
    bound = d2[:, k - 1]
    unsure = (torch.from_numpy(distance[:, -1]) <= bound.sqrt() * (1 + _SLACK)) & (bound < torch.inf)
    chosen = (d2 < torch.inf) & (torch.arange(asked) < k) & ~unsure[:, None]
    target = torch.arange(num_nodes)[:, None].expand_as(number)[chosen]
    more_source, more_target = nearest_of(search, unsure.nonzero().squeeze(1), k, loop)
    source, target = torch.cat([number[chosen], more_source]), torch.cat([target, more_target])
    key = torch.sort(target * num_nodes + source).indices
    return source[key], target[key]
