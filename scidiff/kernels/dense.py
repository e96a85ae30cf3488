"""Operations on small full graphs as products of padded matrices, differentiable to any order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scidiff.kernels.full import FullGraph
from scidiff.kernels.graph import NeighborList

__all__ = ["is_even", "neighbor_attention", "weighted_sum"]


def weighted_sum(x: Tensor, a: Tensor, graph: NeighborList) -> Tensor:
    """sum_{e -> i} a_eh x_source,h; x (N, F), a (E, H) -> (N, F)."""
    heads = a.shape[1]
    values = _heads(graph, x.unflatten(1, (heads, -1)))
    out = torch.bmm(_square(graph, a, 0.0), values)
    return _nodes(graph, out, heads).flatten(1)


def neighbor_attention(
    q: Tensor, k: Tensor, v: Tensor, graph: NeighborList, bias: Tensor | None = None, v_vec: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """softmax_j(q_i . k_j / sqrt(D) + bias_ij) applied to v (N, H, D) and v_vec (N, H, D, 3); rows without edges: 0."""
    heads, width = q.shape[1:]
    bias = q.new_zeros(graph.num_edges, heads) if bias is None else bias
    lowest = torch.finfo(q.dtype).min  # of pairs that are no edges; finite, so that rows without edges are no NaN
    if v_vec is None and is_even(graph) and not _needs_grad(q, k, v, bias):
        queries, keys, values = (t.unflatten(0, (graph.num_graphs, -1)).transpose(1, 2) for t in (q, k, v))
        mask = _square(graph, bias, lowest).unflatten(0, (graph.num_graphs, heads))
        out = F.scaled_dot_product_attention(queries, keys, values, mask)
        return out.transpose(1, 2).flatten(0, 1), None
    logits = torch.baddbmm(
        _square(graph, bias, lowest), _heads(graph, q), _heads(graph, k).transpose(1, 2), alpha=width**-0.5
    )
    p: Any = _Softmax.apply(logits)
    has_edges = (graph.degree > 0)[:, None, None]
    out = torch.where(has_edges, _nodes(graph, torch.bmm(p, _heads(graph, v)), heads), 0.0)
    if v_vec is None:
        return out, None
    vectors = _nodes(graph, torch.bmm(p, _heads(graph, v_vec.flatten(2))), heads)
    return out, torch.where(has_edges, vectors, 0.0).unflatten(2, v_vec.shape[2:])


class _Softmax(torch.autograd.Function):
    """Softmax over the last axis; torch's own gradient sums a row in an order that depends on the number of threads."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        p = torch.softmax(logits, dim=-1)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        weighted = p * g
        return weighted - p * weighted.sum(-1, keepdim=True)


def is_even(graph: NeighborList) -> bool:
    """Whether all graphs have the same size, at least 2, and every pair but (i, i) is an edge."""
    size = graph.max_nodes
    is_full = isinstance(graph, FullGraph) and graph.kind == "full"
    return is_full and size > 1 and graph.num_edges == graph.num_graphs * size * (size - 1)


def _needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _square(graph: NeighborList, values: Tensor, other: float) -> Tensor:
    """Values of edges (E, H) as matrices (G H, n, n) with one row a target; ``other`` where there is no edge."""
    num, size, heads = graph.num_graphs, graph.max_nodes, values.shape[1]
    if is_even(graph):
        # without its first entry, a flat matrix is n - 1 rows of n pairs and the next entry of the diagonal
        cells = values.new_full((num * heads, size * size), other)
        pairs = values.view(num, size - 1, size, heads).permute(0, 3, 1, 2)
        cells[:, 1:].view(num, heads, size - 1, size + 1)[..., :-1] = pairs
        return cells.view(num * heads, size, size)
    start = values.new_full((num * size * size, heads), other)
    cells = start.index_copy(0, graph.edge_slot, values)
    return cells.view(num, size * size, heads).transpose(1, 2).reshape(num * heads, size, size)


def _heads(graph: NeighborList, x: Tensor) -> Tensor:
    """Node features (N, H, D) as matrices (G H, n, D)."""
    num, size = graph.num_graphs, graph.max_nodes
    dense = x.reshape(num, size, *x.shape[1:]) if x.shape[0] == num * size else graph.to_dense(x)
    return dense.transpose(1, 2).reshape(num * x.shape[1], size, x.shape[2])


def _nodes(graph: NeighborList, x: Tensor, heads: int) -> Tensor:
    """Matrices (G H, n, D) as node features (N, H, D)."""
    num, size = graph.num_graphs, graph.max_nodes
    dense = x.view(num, heads, size, x.shape[2]).transpose(1, 2)
    return dense.flatten(0, 1) if graph.num_nodes == num * size else graph.from_dense(dense)
