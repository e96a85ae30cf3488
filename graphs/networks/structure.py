r"""Structural features of a weighted graph: degrees, walks, common neighbours, cycles, components, spectrum.

For a symmetric matrix A >= 0 with zero diagonal, d = A 1 and S = D^-1/2 A D^-1/2 (rows of degree 0 are 0): the powers
S^k hold the k-step random walk up to the factor sqrt(d_i/d_j), so their diagonals are its return probabilities.

The spectrum is that of the Laplacian L = D - A of the pairs with A > 1/2. Single eigenvectors are no features: their
sign is free, and in an eigenspace of several dimensions, or where a cut "the first k" runs through one, so is their
basis, and both change with the order of the nodes. Used here is P = sum_m exp(1 - l_m / l_+) v_m v_m^T over all modes
with l_m > 0, where l_+ is the least of these eigenvalues: a function of L alone that its slowest modes rule.

References: Ma et al. 2023, "Graph Inductive Biases in Transformers without Message Passing" (RRWP); Vignac et al. 2023
(DiGress), appendix B (cycles, components, spectrum). The last term of the 5-cycle count is missing there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Structure", "count_cycles", "describe_spectrum", "describe_structure", "find_reachable", "num_features"]

_CYCLES = 3  # through a node, of length 3, 4, 5


class Structure(NamedTuple):
    """Features of pairs (B, N, N, c), of nodes (B, N, c), of graphs (B, c)."""

    pair: Tensor
    node: Tensor
    graph: Tensor


def num_features(walk_length: int, num_eigenvalues: int = 0) -> tuple[int, int, int]:
    """Numbers of pair, node and graph features that `describe_structure` returns."""
    more = num_eigenvalues > 0
    return 3 + walk_length + more, 3 + _CYCLES + max(0, walk_length - 1) + 2 * more, 3 + _CYCLES + num_eigenvalues


def describe_structure(adj: Tensor, node_mask: Tensor, walk_length: int, num_eigenvalues: int = 0) -> Structure:
    """Features of weighted graphs.

    Args:
        adj: Weights (B, N, N) in [0, 1], symmetric, zero on the diagonal and at padding.
        node_mask: Real nodes (B, N).
        walk_length: Number K of powers S, ..., S^K.
        num_eigenvalues: Positive eigenvalues of the Laplacian; 0 leaves the spectrum out.

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
    is_edge = adj > 0.5
    reachable = find_reachable(is_edge).to(adj.dtype)
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
    own = Structure(torch.stack(pairs, -1), torch.cat([nodes, cycles], -1), totals)
    if not num_eigenvalues:
        return own
    spectrum = describe_spectrum(is_edge, node_mask, reachable, num_eigenvalues)
    return Structure(*(torch.cat(both, -1) for both in zip(own, spectrum)))


def describe_spectrum(edges: Tensor, node_mask: Tensor, reachable: Tensor, num_eigenvalues: int) -> Structure:
    """Features of the Laplacian: n P_ij; n P_ii and 1 outside the largest component; least positive eigenvalues over n.

    Args:
        edges: Pairs with an edge (B, N, N), bool.
        node_mask: Real nodes (B, N).
        reachable: Pairs in one component, 0 or 1 (B, N, N), see `find_reachable`.
        num_eigenvalues: How many; where a graph has fewer, 2 stands, which is above all of them.
    """
    size, dtype = edges.shape[-1], reachable.dtype
    n = node_mask.sum(1, keepdim=True)
    component = torch.where(node_mask, reachable.sum(-1), 0)
    num_zeros = torch.where(node_mask, 1 / component.clamp_min(1), 0).sum(1, keepdim=True).round().long()
    weight = edges.double()
    diagonal = torch.where(node_mask, weight.sum(-1), 2.0 * size)  # padding comes last: eigenvalues are at most n
    values, vectors = torch.linalg.eigh(torch.diag_embed(diagonal) - weight)
    place = torch.arange(size, device=edges.device)
    is_mode = (place >= num_zeros) & (place < n)  # as many zeros as components, so that no threshold decides
    least = values.gather(1, num_zeros.clamp_max(size - 1)).clamp_min(torch.finfo(values.dtype).tiny)
    factor = torch.where(is_mode, (1 - values / least).exp(), 0.0)
    projector = n[:, :, None] * (vectors * factor[:, None]) @ vectors.transpose(1, 2)
    wanted = num_zeros + torch.arange(num_eigenvalues, device=edges.device)
    lowest = torch.where(wanted < n, values.gather(1, wanted.clamp_max(size - 1)) / n.clamp_min(1), 2.0)
    aside = node_mask & (component < component.amax(1, keepdim=True))
    nodes = torch.stack([projector.diagonal(dim1=1, dim2=2), aside.double()], -1)
    return Structure(projector[..., None].to(dtype), nodes.to(dtype), lowest.to(dtype))


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
