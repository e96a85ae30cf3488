"""Edge vectors and their lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.kernels.graph import NeighborList, as_neighbor_list
from scidiff.kernels.segments import gather

__all__ = ["edge_geometry"]


def edge_geometry(pos: Tensor, g: NeighborList | Tensor, cell: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Vectors from the target to the source of each edge, and their lengths.

    vec_e = pos[source] + shift_e cell - pos[target], dist_e = |vec_e|. Coincident points have dist = 0 with gradient 0.

    Args:
        pos: Positions (N, D).
        g: `NeighborList` (edges in its order), or ``edge_index`` (2, E) (edges in its order).
        cell: Lattice vectors in rows, (G, 3, 3) or (3, 3), for a list with shifts.

    Returns:
        vec (E, D) and dist (E,), in float32 for positions in bfloat16 or float16.

    Raises:
        ValueError: If the list has shifts and ``cell`` is missing.
    """
    graph = as_neighbor_list(g, pos.shape[0])
    pos = pos.to(torch.promote_types(pos.dtype, torch.float32))
    vec = gather(pos, graph) - gather(pos, graph, "target")
    if graph.shifts is not None:
        if cell is None:
            raise ValueError(
                "the list has periodic shifts: give the cell, lattice vectors in rows, (3, 3) or (G, 3, 3)."
            )
        shifts, lattice = graph.shifts.to(pos.dtype), cell.reshape(-1, 3, 3).to(pos)
        per_edge = (
            lattice[:1] if len(lattice) == 1 else lattice.index_select(0, graph.batch.index_select(0, graph.target))
        )
        vec = vec + (shifts[:, :, None] * per_edge).sum(1)
    d2 = vec.square().sum(-1)
    is_apart = d2 > 0
    dist = torch.where(is_apart, torch.where(is_apart, d2, 1.0).sqrt(), 0.0)
    if not isinstance(g, NeighborList):
        return graph.to_user(vec), graph.to_user(dist)
    return vec, dist
