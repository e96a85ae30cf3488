r"""Structural features of a weighted graph: degrees, walks, common neighbours, cycles, components.

For a symmetric matrix A >= 0 with zero diagonal, d = A 1 and S = D^-1/2 A D^-1/2 (rows of degree 0 are 0): the powers
S^k hold the k-step random walk up to the factor sqrt(d_i/d_j), so their diagonals are its return probabilities.

References: Ma et al. 2023, "Graph Inductive Biases in Transformers without Message Passing" (RRWP); Vignac et al. 2023
(DiGress), appendix B (cycles, components). The last term of the 5-cycle count is missing there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Structure", "count_cycles", "describe_structure", "find_reachable", "num_features"]

_CYCLES = 3  # through a node, of length 3, 4, 5


class Structure(NamedTuple):
    """Features of pairs (B, N, N, c), of nodes (B, N, c), of graphs (B, c)."""

    pair: Tensor
    node: Tensor
    graph: Tensor


def num_features(walk_length: int) -> tuple[int, int, int]:
    """Numbers of pair, node and graph features that `describe_structure` returns."""
    return 3 + walk_length, 3 + _CYCLES + max(0, walk_length - 1), 3 + _CYCLES


def describe_structure(adj: Tensor, node_mask: Tensor, walk_length: int) -> Structure:
    """Features of weighted graphs.

    Args:
        adj: Weights (B, N, N) in [0, 1], symmetric, zero on the diagonal and at padding.
        node_mask: Real nodes (B, N).
        walk_length: Number K of powers S, ..., S^K.

    Returns:
        Symmetric pair features, node and graph features of order 1.
    """
    n = node_mask.sum(1).clamp_min(1).to(adj.dtype)[:, None, None]
    degree = adj.sum(-1)
    root = torch.where(degree > 0, degree.clamp_min(torch.finfo(adj.dtype).tiny).rsqrt(), 0)
    step = root[:, :, None] * adj * root[:, None, :]
    walks = [step]
    for _ in range(walk_length - 1):
        walks.append(walks[-1] @ step)
    square = adj @ adj
    reachable = find_reachable(adj > 0.5).to(adj.dtype)
    pairs = [square / n.sqrt(), square @ adj / n**1.5, reachable, *(n.sqrt() * walk for walk in walks)]
    returns = [walk.diagonal(dim1=1, dim2=2) for walk in walks[1:]]
    cycles = count_cycles(adj).clamp_min(0).log1p()
    n = n[:, :, 0]
    component = reachable.sum(-1)
    nodes = torch.stack([degree / n, degree.log1p(), component / n, *returns], -1)
    edges = degree.sum(1, keepdim=True) / 2
    density = 2 * edges / (n * (n - 1).clamp_min(1))
    components = torch.where(node_mask, 1 / component, 0).sum(1, keepdim=True)
    totals = torch.cat([edges / n, density, components.log(), cycles.sum(1) / n], -1)
    return Structure(torch.stack(pairs, -1), torch.cat([nodes, cycles], -1), totals)


def find_reachable(edges: Tensor) -> Tensor:
    """True for pairs of nodes (B, N, N) in one component, a node and itself included; ``edges`` is bool (B, N, N)."""
    n = edges.shape[-1]
    reach = (edges | torch.eye(n, dtype=torch.bool, device=edges.device)).float()
    for _ in range(max(1, (n - 1).bit_length())):
        reach = (reach @ reach).clamp_max(1)
    return reach > 0.5


def count_cycles(adj: Tensor) -> Tensor:
    """Cycles of length 3, 4 and 5 through each node, (B, N, 3); exact for 0/1 adjacency matrices (B, N, N)."""
    degree = adj.sum(-1)
    square = adj @ adj
    cube = square @ adj
    fourth = square @ square
    diagonal = [m.diagonal(dim1=1, dim2=2) for m in (cube, fourth, fourth @ adj)]
    closed3, closed4, closed5 = diagonal
    spread = (adj @ degree[..., None])[..., 0]
    c3 = closed3 / 2
    c4 = (closed4 - degree * (degree - 1) - spread) / 2
    beside = (adj @ closed3[..., None])[..., 0]
    triangles = ((adj * square) @ (degree - 2)[..., None])[..., 0]
    c5 = (closed5 - 2 * closed3 * degree - beside + closed3 - 2 * triangles) / 2
    return torch.stack([c3, c4, c5], -1)
