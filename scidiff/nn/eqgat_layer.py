"""The layer of EQGAT with edge features, and its normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.kernels import (
    NeighborList,
    gather,
    gather_multiply_sum,
    segment_mean,
    segment_sum,
    softmax_gather_sum,
)
from scidiff.nn.batching import GraphBatch
from scidiff.nn.painn import lengths, mix

__all__ = ["EQGATLayer", "EdgePassing", "GraphNorm"]

_FLOOR = 1e-6  # of variances and mean squares
_POSITION_FLOOR = 1e-5
_NEAREST = 4


class EQGATLayer(nn.Module):
    r"""One layer. Edges j -> i; geometry from centred positions p: r = p_i - p_j, d = |r|, r^ = r / (1 + d).

    s, v <- norm(s, v);  e <- W e;  (l, b, c, x, m, g)_ij = MLP[s_i, s_j, d, p_i . p_j, e_ij, |p_i|, |p_j|]
    s_i <- s_i + sum_j softmax_j(l_ij) (W s_j + bias), one softmax a channel
    v_i <- v_i + mean_j [r^ b + c V v_j + x (v_i x v_j)]
    p_i <- p_i + gamma D_i / (mean_k |D_k| + 1e-5),  D_i = mean_j g_ij r^_ij
    e_ij <- W' SiLU(m_ij + e_ij)
    (q, u) = W_0 v, (gate, ds) = MLP'[s, |q|^2];  s <- s + ds,  v <- v + W_1 (gate u)

    The cross product is linear in v_j, so it is taken once a node: v_i x sum_j x_ij v_j.

    Args:
        hidden: Scalars F_s of a node.
        vector_hidden: Vectors F_v of a node.
        edge_hidden: Scalars F_e of an edge.
        has_vectors: Whether v may be non-zero at the input.
        cross_product: Whether x exists.
        latent_channels: Inputs of the adaptive normalisation; None for learned constants.
        edge_passing: Whether edges hear of their neighbours first.
        is_last: In the last layer MLP' is one linear map, and W_1 is left out.
    """

    def __init__(
        self,
        hidden: int,
        vector_hidden: int,
        edge_hidden: int,
        *,
        has_vectors: bool = True,
        cross_product: bool = False,
        latent_channels: int | None = None,
        edge_passing: bool = False,
        is_last: bool = False,
    ) -> None:
        super().__init__()
        gates = 1 if not has_vectors else 3 if cross_product else 2
        self.sizes = [hidden, *[vector_hidden] * gates, edge_hidden, 1]
        self.norm = GraphNorm(hidden, latent_channels)
        self.edge_in = nn.Linear(edge_hidden, edge_hidden)
        self.passing = EdgePassing(edge_hidden) if edge_passing else None
        self.first = nn.Linear(2 * hidden + edge_hidden + 4, hidden)
        self.second = nn.Linear(hidden, sum(self.sizes))
        self.value = nn.Linear(hidden, hidden)
        self.vector_value = nn.Linear(vector_hidden, vector_hidden, bias=False) if has_vectors else None
        self.step = nn.Parameter(torch.ones(()))
        self.edge_out = nn.Linear(edge_hidden, edge_hidden)
        self.update_in = nn.Linear(vector_hidden, 2 * vector_hidden, bias=False)
        width = hidden + vector_hidden
        self.update: nn.Module = nn.Linear(width, width)
        if not is_last:
            self.update = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))
        self.update_out = None if is_last else nn.Linear(vector_hidden, vector_hidden, bias=False)

    def forward(
        self, h: Tensor, v: Tensor, e: Tensor, pos: Tensor, graphs: GraphBatch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """New scalars, vectors and edges, and the step of the positions.

        Args:
            h: Scalars (N, F_s).
            v: Vectors (N, F_v, 3).
            e: Edges (E, F_e).
            pos: Centred positions (N, 3).
            graphs: The edges, the graph of each node, and the time.
        """
        g = graphs.g
        h, v = self.norm(h, v, graphs)
        vec, dist = graphs.geometry_at(pos)
        e = self.edge_in(e)
        if self.passing is not None:
            e = self.passing(e, vec, dist, g)
        logits, *gates, message, gate = self._edge_network(h, e, pos, dist, g).split(self.sizes, -1)
        direction = -vec / (1 + dist)[:, None]
        h = h + softmax_gather_sum(logits, self.value(h), g)
        v = v + self._vectors(v, gates, direction, g)
        moves = segment_mean(gate * direction, g)
        step = self.step * moves / (graphs.graph_mean(lengths(moves)) + _POSITION_FLOOR)[:, None]
        e = self.edge_out(F.silu(message + e))
        q, u = mix(self.update_in, v).chunk(2, dim=1)
        vector_gate, dh = self.update(torch.cat([h, q.square().sum(-1).clamp_min(_FLOOR)], -1)).split(
            [v.shape[1], h.shape[1]], -1
        )
        dv = vector_gate[..., None] * u
        return h + dh, v + (dv if self.update_out is None else mix(self.update_out, dv)), e, step

    def _edge_network(self, h: Tensor, e: Tensor, pos: Tensor, dist: Tensor, g: NeighborList) -> Tensor:
        """MLP[h_i, h_j, d, a, e, |p_i|, |p_j|] with its first layer split into nodes and edges, (E, sum of sizes)."""
        f = h.shape[1]
        target, source, radial, edge, lengths_out, lengths_in = self.first.weight.t().split([f, f, 2, e.shape[1], 1, 1])
        r = lengths(pos)[:, None]
        at_target = torch.addmm(self.first.bias, torch.cat([h, r], -1), torch.cat([target, lengths_out]))
        at_source = torch.cat([h, r], -1) @ torch.cat([source, lengths_in])
        inner = (gather(pos, g, "target") * gather(pos, g)).sum(-1)
        hidden = torch.stack([dist, inner], -1) @ radial + e @ edge
        hidden = hidden + gather(at_target, g, "target") + gather(at_source, g)
        return self.second(F.silu(hidden))

    def _vectors(self, v: Tensor, gates: list[Tensor], direction: Tensor, g: NeighborList) -> Tensor:
        """mean_j [r^ b + c V v_j + x (v_i x v_j)], (N, F_v, 3); sums run on (N, 3, F_v)."""
        count = g.degree.clamp_min(1).to(v.dtype)[:, None, None]
        total = segment_sum(direction[:, :, None] * gates[0][:, None], g)
        if self.vector_value is not None:
            flat = self.vector_value(v.transpose(1, 2))
            total = total + gather_multiply_sum(flat.flatten(1), gates[1].repeat(1, 3), g).unflatten(1, (3, -1))
        if len(gates) > 2:
            flat = v.transpose(1, 2)
            others = gather_multiply_sum(flat.flatten(1), gates[2].repeat(1, 3), g).unflatten(1, (3, -1))
            total = total + torch.linalg.cross(flat, others, dim=1)
        return (total / count).transpose(1, 2)


class GraphNorm(nn.Module):
    """Scalars with mean 0 and variance 1, vectors with mean square 1, over the nodes and channels of each graph.

    Args:
        hidden: Scalars of a node.
        latent_channels: Scale and shift of the scalars are linear maps of that many time features; None for learned
            constants.
    """

    def __init__(self, hidden: int, latent_channels: int | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(hidden)) if latent_channels is None else None
        self.shift = nn.Parameter(torch.zeros(hidden)) if latent_channels is None else None
        self.latent = None if latent_channels is None else nn.Linear(latent_channels, 2 * hidden)
        if self.latent is not None:
            nn.init.zeros_(self.latent.weight)
            nn.init.zeros_(self.latent.bias)

    def forward(self, h: Tensor, v: Tensor, graphs: GraphBatch) -> tuple[Tensor, Tensor]:
        """Normalised scalars (N, F_s) and vectors (N, F_v, 3)."""
        h = h - graphs.graph_mean(h.mean(-1, keepdim=True))
        variance = graphs.graph_mean(h.square().mean(-1, keepdim=True))
        h = h / variance.clamp_min(_FLOOR).sqrt()
        if self.latent is not None:
            scale, shift = self.latent(graphs.time).chunk(2, -1)
            h = h * (1 + scale) + shift
        elif self.scale is not None and self.shift is not None:
            h = h * self.scale + self.shift
        squares = graphs.graph_mean(v.square().sum(-1).mean(-1, keepdim=True))
        return h, v / squares.clamp_min(_FLOOR).sqrt()[..., None]


class EdgePassing(nn.Module):
    r"""e_ji <- e_ji + mean_k W [e_ji, e_kj, cos(angle at j), d_ji, d_jk] for k != i, among the four nearest neighbours.

    Only edges from one of the four nearest sources of their target take part, and hear only of such edges.

    Args:
        edge_hidden: Scalars of an edge.
    """

    def __init__(self, edge_hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * edge_hidden + 3, edge_hidden)

    def forward(self, e: Tensor, vec: Tensor, dist: Tensor, g: NeighborList) -> Tensor:
        """New edges (E, F_e)."""
        own, other = _paths(dist.detach(), g)  # edges j -> i and k -> j
        unit = vec / torch.where(dist > 0, dist, 1.0)[:, None]
        cosine = -(unit.index_select(0, own) * unit.index_select(0, other)).sum(-1)  # of p_i - p_j and p_k - p_j
        radii = dist.index_select(0, own), dist.index_select(0, other)
        inputs = [e.index_select(0, own), e.index_select(0, other), torch.stack([cosine, *radii], -1)]
        return e + segment_mean(self.linear(torch.cat(inputs, -1)), torch.stack([other, own]), num_nodes=len(e))


def _paths(dist: Tensor, g: NeighborList) -> tuple[Tensor, Tensor]:
    """Edges (P,) j -> i and k -> j of all paths k -> j -> i with k != i along the four nearest edges of each target."""
    source, target = g.source.long(), g.target.long()
    if g.is_padded:
        dist = torch.where(g.edge_mask, dist, torch.inf)  # padding comes last in its row
    order = torch.sort(dist, stable=True).indices
    order = order.index_select(0, torch.sort(target.index_select(0, order), stable=True).indices)
    place = torch.arange(len(order), device=dist.device) - g.ptr.long().index_select(0, target)
    is_near = place < _NEAREST
    if g.is_padded:
        is_near &= g.edge_mask.index_select(0, order)
    near, row, place = order[is_near], target[is_near], place[is_near]
    table = near.new_full((g.num_nodes, _NEAREST), -1).index_put_((row, place), near)
    other = table.index_select(0, source.index_select(0, near))
    own = near[:, None].expand_as(other)
    exists = (other >= 0) & (source[other.clamp_min(0)] != target[own])
    return own[exists], other[exists]
