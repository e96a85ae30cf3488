"""Unordered pairs of nodes, so that nothing about an edge is computed twice."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Pairs"]

_DENSE = 64  # up to here sums over the ends of pairs are a product with the incidence matrix, which is quicker


class Pairs(NamedTuple):
    """Pairs i < j of a padded batch.

    Attributes:
        i: First nodes (P,).
        j: Second nodes (P,).
        incidence: (P, N), 1 at both ends of a pair; empty for large graphs.
        index: (N, N), number of the pair, P on the diagonal.
        node_mask: Real nodes (B, N).
        mask: Pairs of real nodes (B, P).
    """

    i: Tensor
    j: Tensor
    incidence: Tensor
    index: Tensor
    node_mask: Tensor
    mask: Tensor

    @classmethod
    def build(cls, node_mask: Tensor) -> Pairs:
        """The pairs of graphs with these real nodes (B, N)."""
        n, device = node_mask.shape[1], node_mask.device
        i, j = torch.triu_indices(n, n, 1, device=device).unbind(0)
        order = torch.arange(len(i), device=device)
        index = torch.full((n, n), len(i), device=device)
        index[i, j] = order
        index[j, i] = order
        incidence = torch.zeros(len(i), n if n <= _DENSE else 0, device=device)
        if n <= _DENSE:
            incidence[order, i] = 1
            incidence[order, j] = 1
        return cls(i, j, incidence, index, node_mask, node_mask[:, i] & node_mask[:, j])

    def ends(self, h: Tensor) -> Tensor:
        """h_i + h_j of every pair, (B, P, c) from (B, N, c)."""
        if self.incidence.shape[1]:
            return self.incidence.to(h.dtype) @ h
        return h.index_select(1, self.i) + h.index_select(1, self.j)

    def full(self, values: Tensor) -> Tensor:
        """Symmetric (B, N, N, c) from (B, P, c); zero on the diagonal."""
        n = len(self.index)
        return F.pad(values, (0, 0, 0, 1)).index_select(1, self.index.flatten()).unflatten(1, (n, n))

    def take(self, values: Tensor) -> Tensor:
        """(B, P, c) from symmetric (B, N, N, c)."""
        return values.flatten(1, 2).index_select(1, self.i * len(self.index) + self.j)
