"""Attention over small full graphs as products of padded matrices, differentiable to any order."""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.kernels.graph import NeighborList

__all__ = ["neighbor_attention"]


def neighbor_attention(
    q: Tensor, k: Tensor, v: Tensor, graph: NeighborList, bias: Tensor | None = None, v_vec: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """softmax_j(q_i . k_j / sqrt(D) + bias_ij) applied to v (N, H, D) and v_vec (N, H, D, 3); rows without edges: 0."""
    heads, width = q.shape[1:]
    q, k, values = (graph.to_dense(x).transpose(1, 2) for x in (q * width**-0.5, k, v))  # (G, H, n, D)
    logits = q @ k.transpose(-1, -2)
    if bias is not None:
        cells = graph.num_graphs * graph.max_nodes**2
        square = bias.new_zeros(cells, heads).index_copy(0, graph.edge_slot, bias)
        logits = logits + square.view(graph.num_graphs, graph.max_nodes, graph.max_nodes, heads).permute(0, 3, 1, 2)
    is_edge = graph.node_mask[:, None, :, None] & graph.node_mask[:, None, None, :]
    if graph.kind == "full":
        is_edge = is_edge & ~torch.eye(graph.max_nodes, dtype=torch.bool, device=q.device)
    lowest = torch.finfo(logits.dtype).min  # finite, so that rows without edges are no NaN
    p = torch.softmax(logits.masked_fill(~is_edge, lowest), dim=-1) * is_edge
    out = graph.from_dense((p @ values).transpose(1, 2))
    if v_vec is None:
        return out, None
    vectors = graph.to_dense(v_vec.flatten(2)).transpose(1, 2)
    return out, graph.from_dense((p @ vectors).transpose(1, 2)).unflatten(2, v_vec.shape[2:])
