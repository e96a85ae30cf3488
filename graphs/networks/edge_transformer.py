r"""`EdgeTransformer`: predicts the clean graph from a noisy one, with features on nodes and on unordered pairs.

Per block, with nodes h, pairs e and a global context c (time, size, label) that scales and shifts normalised inputs:

    logits_ij = q_i k_j / sqrt(d) + b(e_ij),    w = softmax_j(logits) * sigmoid(g(e_ij)),
    h <- h + O [w v, w e],    h <- h + MLP(h),
    e <- e + MLP[e + p(h_i) + p(h_j) + logits_ij + logits_ji + sum_k P(e_ik) Q(e_jk)/sqrt(n)].

References: Vignac et al. 2023 (DiGress), section 4 and appendix B (transformer on nodes, edges and a global stream);
Jumper et al. 2021 (AlphaFold), supplement 1.6.5 (triangle products); Chen et al. 2023, "Analog
Bits" (self-conditioning).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphs.networks.pairs import Pairs
from graphs.networks.structure import describe_structure, num_features
from scidiff.configurable import Configurable
from scidiff.nn.time_features import TimeEmbedding

__all__ = ["EdgeTransformer"]


class EdgeTransformer(Configurable, nn.Module):
    """Time-conditioned transformer on nodes and pairs; O(B N^2 c + B N^3) time.

    Called as ``network(state, t, cond)``. The state has ``adj`` (edge classes, 0 = no edge) and, as far as the graphs
    carry them, ``x`` (node classes), ``features`` (B, N, F) and ``edge_features`` (B, N, N, K) (real numbers, predicted
    as they are). Categorical states are int64 classes, adj (B, N, N) and x (B, N), and the outputs are logits with the
    classes last. Continuous states (``continuous=True``) are the same classes as numbers in {-1, +1}: adj (B, N, N) for
    two classes, else one-hot (B, N, N, K), x one-hot (B, N, K); the outputs are the means of the predicted classes on
    that scale. ``cond`` holds ``node_mask`` (B, N), optionally ``label`` (B,) (int64; absent or negative is the null
    condition) and ``self_cond``, an earlier prediction in the form of the denoiser's x0.

    Symmetry: nodes permute; pair outputs are symmetric, zero on the diagonal and at padding, and padding never changes
    a result.

    Args:
        node_classes: Number of node classes; 0 for graphs without.
        edge_classes: Number of edge classes, none included, at least 2.
        node_values: Number of real features of a node.
        edge_values: Number of real features of an edge.
        num_labels: Number of graph labels; 0 for none.
        continuous: Whether classes are numbers in {-1, +1}.
        width: Node channels, a multiple of ``num_heads``.
        edge_width: Pair channels.
        num_layers: Number of blocks.
        num_heads: Attention heads.
        triangle_width: Channels of the triangle product.
        walk_length: Powers of the random-walk matrix among the structural features.
        num_eigenvalues: Lowest positive eigenvalues of the Laplacian among the graph features, with its slow modes as
            features of nodes and pairs (see `graphs.networks.structure`); 0 leaves the spectrum out.

    Raises:
        ValueError: If ``width`` is not a multiple of ``num_heads``, there are fewer than two edge classes, or
            ``num_eigenvalues`` is negative.
    """

    def __init__(
        self,
        node_classes: int = 0,
        edge_classes: int = 2,
        node_values: int = 0,
        edge_values: int = 0,
        num_labels: int = 0,
        continuous: bool = False,
        width: int = 96,
        edge_width: int = 48,
        num_layers: int = 5,
        num_heads: int = 8,
        triangle_width: int = 8,
        walk_length: int = 8,
        num_eigenvalues: int = 0,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {width} and {num_heads}.")
        if edge_classes < 2:
            raise ValueError(f"edge_classes counts 'no edge' too, so it is at least 2, got {edge_classes}.")
        if num_eigenvalues < 0:
            raise ValueError(f"num_eigenvalues must be at least 0, got {num_eigenvalues}.")
        self.continuous, self.walk_length, self.num_eigenvalues = continuous, walk_length, num_eigenvalues
        self.sizes = {"adj": edge_classes, "x": node_classes, "features": node_values, "edge_features": edge_values}
        pair_structure, node_structure, graph_structure = num_features(walk_length, num_eigenvalues)
        node_outputs, edge_outputs = node_classes + node_values, edge_classes + edge_values
        self.node_in = nn.Linear(2 * (node_outputs + edge_classes - 1 + node_structure), width)
        self.pair_in = nn.Linear(2 * (edge_outputs + pair_structure), edge_width)
        self.graph_in = nn.Linear(2 + 2 * graph_structure, width)
        self.time = TimeEmbedding(width)
        self.label = nn.Embedding(num_labels + 1, width) if num_labels else None
        self.blocks = nn.ModuleList(_Block(width, edge_width, num_heads, triangle_width) for _ in range(num_layers))
        self.node_head = _head(width, node_outputs) if node_outputs else None
        self.pair_node = nn.Linear(width, edge_width)
        self.pair_head = _head(edge_width, edge_outputs)

    def forward(self, state: Mapping[str, Tensor], t: Tensor, cond: Mapping[str, Any]) -> dict[str, Tensor]:
        """See the class."""
        adj = state["adj"]
        mask = cond.get("node_mask")
        mask = torch.ones(adj.shape[:2], dtype=torch.bool, device=adj.device) if mask is None else mask
        pairs = Pairs.build(mask)
        dtype = self.pair_in.weight.dtype
        with torch.autocast(adj.device.type, enabled=False):  # powers of matrices keep full precision
            nodes, edges, graphs = self._inputs(state, cond.get("self_cond"), pairs, dtype)
        context = self.time(t.to(dtype)) + self.graph_in(graphs)
        if self.label is not None:
            context = context + self.label(_label_rows(cond.get("label"), len(adj), adj.device))
        h, e = self.node_in(nodes), self.pair_in(edges)
        for block in self.blocks:
            h, e = block(h, e, context, pairs)
        pair = self.pair_head(e + pairs.ends(self.pair_node(h))).to(dtype)
        pair = pairs.full(torch.where(pairs.mask[..., None], pair, 0))
        output = self._named(pair, "adj", "edge_features")
        if self.node_head is not None:
            node = torch.where(mask[..., None], self.node_head(h).to(dtype), 0)
            output |= self._named(node, "x", "features")
        return self._means(output, pairs) if self.continuous else output

    def _inputs(
        self, state: Mapping[str, Tensor], previous: Any, pairs: Pairs, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of nodes, of pairs and of the graph, each from the noisy state and from the earlier prediction.

        Without a prediction zeros stand for it, so that every weight has a gradient in every step.
        """
        mask = pairs.node_mask
        live = mask[:, :, None] & mask[:, None, :] & (pairs.index < len(pairs.i))
        count = mask.sum(1, keepdim=True).to(dtype)
        nodes: list[Tensor] = []
        edges: list[Tensor] = []
        graphs = [torch.cat([count / 20, count.clamp_min(1).log()], -1)]
        for source in (state, previous):
            adj = torch.where(live[..., None], self._classes(source, "adj", state, dtype), 0)
            weight = (0.5 * (adj[..., 1:] + 1)).clamp(0, 1) if self.continuous else adj[..., 1:]
            weight = torch.where(live[..., None], weight, 0)
            total = weight.sum(-1).clamp_max(1)
            structure = describe_structure(total, mask, self.walk_length, self.num_eigenvalues)
            own = [self._classes(source, name, state, dtype) for name in ("x", "features") if self.sizes[name]]
            nodes += [*own, weight.sum(2), structure.node]
            edges += [adj, structure.pair]
            if self.sizes["edge_features"]:
                edges.append(self._classes(source, "edge_features", state, dtype))
            graphs.append(structure.graph)
        return torch.cat(nodes, -1), pairs.take(torch.cat(edges, -1)), torch.cat(graphs, -1)

    def _classes(self, source: Any, name: str, state: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """One component with its classes (or features) last; zeros without a source."""
        axes = 3 if name in ("adj", "edge_features") else 2
        if source is None:
            return state[name].new_zeros(*state[name].shape[:axes], self.sizes[name], dtype=dtype)
        value = source[name]
        if not value.dtype.is_floating_point:
            return F.one_hot(value, self.sizes[name]).to(dtype)
        value = value.to(dtype)
        return torch.stack([-value, value], -1) if value.ndim == axes else value

    def _named(self, outputs: Tensor, classes: str, values: str) -> dict[str, Tensor]:
        parts = outputs.split([self.sizes[classes], self.sizes[values]], -1)
        return {name: part for name, part in zip((classes, values), parts) if self.sizes[name]}

    def _means(self, output: dict[str, Tensor], pairs: Pairs) -> dict[str, Tensor]:
        """Means of the predicted classes on the scale {-1, +1}."""
        edge = 2 * output["adj"].softmax(-1) - 1
        edge = torch.where(pairs.full(pairs.mask[..., None].to(edge.dtype)) > 0, edge, 0)
        means = {**output, "adj": edge[..., 1] if self.sizes["adj"] == 2 else edge}
        if self.sizes["x"]:
            means["x"] = torch.where(pairs.node_mask[..., None], 2 * output["x"].softmax(-1) - 1, 0)
        return means


class _Block(nn.Module):
    """One layer: attention and feed-forward of the nodes, then the pairs."""

    def __init__(self, width: int, edge_width: int, num_heads: int, triangle_width: int) -> None:
        super().__init__()
        self.splits = [num_heads, num_heads, triangle_width, triangle_width, edge_width]
        self.modulate = nn.Linear(width, 4 * width + 2 * edge_width)
        self.node_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.feed_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.pair_norm = nn.LayerNorm(edge_width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.from_pair = nn.Linear(edge_width, 2 * num_heads + 2 * triangle_width)
        self.out = nn.Linear(width + num_heads * edge_width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.pair_hidden = nn.Linear(edge_width + num_heads + triangle_width, 2 * edge_width)
        self.pair_ends = nn.Linear(width, 2 * edge_width, bias=False)
        self.pair_out = nn.Linear(2 * edge_width, edge_width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Modulation starts at the identity, residual branches at half their size."""
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        for layer in (self.out, self.feed[2], self.pair_out):
            assert isinstance(layer, nn.Linear)
            layer.weight.data.mul_(0.5)

    def forward(self, h: Tensor, e: Tensor, context: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """New nodes (B, N, width) and pairs (B, P, edge_width)."""
        b, n, width = h.shape
        edge_width = e.shape[-1]
        factors = self.modulate(F.silu(context)).split([width] * 4 + [edge_width] * 2, -1)
        scale_a, shift_a, scale_f, shift_f, scale_e, shift_e = (f[:, None] for f in factors)
        edge = torch.addcmul(shift_e, self.pair_norm(e), 1 + scale_e)
        mixed = self.from_pair(edge)
        full = pairs.full(torch.cat([mixed, edge.to(mixed.dtype)], -1))
        bias, gate, left, right, values = full.split(self.splits, -1)
        q, k, v = self.qkv(self.node_norm(h) * (1 + scale_a) + shift_a).unflatten(-1, (3, bias.shape[-1], -1)).unbind(2)
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias.permute(0, 3, 1, 2)
        masked = logits.masked_fill(~pairs.node_mask[:, None, None, :], -1e9)
        weights = masked.softmax(-1) * torch.sigmoid(gate.permute(0, 3, 1, 2))
        weights = weights.to(v.dtype)
        nodes = (weights @ v).transpose(1, 2).reshape(b, n, width)
        edges = (weights.transpose(1, 2) @ values.to(v.dtype)).reshape(b, n, -1)
        h = h + self.out(torch.cat([nodes, edges], -1))
        h = h + self.feed(self.feed_norm(h) * (1 + scale_f) + shift_f)
        triangle = self._triangle(left, right, pairs)
        both = torch.cat([logits.permute(0, 2, 3, 1), triangle], -1)
        inputs = torch.cat([edge, pairs.take(both + both.transpose(1, 2)).to(edge.dtype)], -1)
        e = e + self.pair_out(F.silu(self.pair_hidden(inputs) + pairs.ends(self.pair_ends(h))))
        return h, e

    def _triangle(self, left: Tensor, right: Tensor, pairs: Pairs) -> Tensor:
        """sum_k P(e_ik) Q(e_jk)/sqrt(n), (B, N, N, c)."""
        real = pairs.node_mask[:, None, None, :]
        count = pairs.node_mask.sum(1).clamp_min(1).to(left.dtype)
        left, right = (torch.where(real, z.permute(0, 3, 1, 2), 0) for z in (left, right))
        return (left @ right.transpose(-1, -2) / count.sqrt()[:, None, None, None]).permute(0, 2, 3, 1)


def _label_rows(label: Tensor | None, num_graphs: int, device: torch.device) -> Tensor:
    """Rows of the embedding: 0 is the null condition."""
    if label is None:
        return torch.zeros(num_graphs, dtype=torch.int64, device=device)
    return label.clamp_min(-1) + 1


def _head(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs))
