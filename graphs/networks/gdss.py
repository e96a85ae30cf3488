r"""The two score networks of GDSS, which see no time, and the variant with attention for the nodes.

The graph convolution of a channel A sets the diagonal to 1 (overwriting it) and clamps the degree at 1, because A is a
noisy real matrix: GCN(X, A) = D^-1/2 A D^-1/2 X W + b. An attention layer turns node features X and C channels A_c into

    M_c = sym( mean_heads tanh(Q_c K_c^T / sqrt(o)) ),    Q_c, K_c, V_c = GCN(X, A_c),
    X' = tanh(MLP_2 [V_1 ... V_C]),    A' = MLP [M_1 ... M_C, A_1 ... A_C] + transpose,

where o is the width of V (not that of a head) and the sum with the transpose is not halved.

References: Jo, Lee and Hwang 2022, "Score-based Generative Modeling of Graphs via the System of Stochastic Differential
Equations", section 3.2 and appendix (architecture).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graphs.networks.pairs import Pairs
from scidiff.configurable import Configurable

__all__ = ["GDSSNetwork", "ScoreNetworkA", "ScoreNetworkX", "ScoreNetworkXGMH"]


class GDSSNetwork(Configurable, nn.Module):
    """Both score networks of a system of nodes and adjacency matrix; the time is ignored, as published.

    Called as ``network(state, t, cond)`` with x (B, N, F), adj (B, N, N) and ``cond["node_mask"]`` (B, N); returns the
    same shapes. What the outputs mean (unit noise of variance-preserving components, score of variance-exploding ones)
    is said by the ``prediction`` of the denoiser.

    Symmetry: nodes permute; adj is symmetric with a zero diagonal; both are zero at padding, which never changes
    results at real nodes.

    Args:
        num_features: F, node features.
        depth: Layers of the node network.
        num_layers: Attention layers of the edge network.
        width: Node channels of both.
        attention_width: Width of queries and keys after the first layer; a multiple of ``num_heads``, like ``width``.
        num_heads: Heads.
        num_linears: Linear maps of the pair network inside an attention layer.
        num_powers: Powers of A among the input channels.
        hidden_channels: Pair channels between layers.
        final_channels: Pair channels of the last layer.
        node_network: ``"gcn"``, or ``"gmh"`` for the attention layers also in the node network.
        conv: ``"GCN"``, or ``"MLP"`` for queries and keys that do not see A.
    """

    def __init__(
        self,
        num_features: int = 10,
        depth: int = 3,
        num_layers: int = 5,
        width: int = 32,
        attention_width: int = 32,
        num_heads: int = 4,
        num_linears: int = 2,
        num_powers: int = 2,
        hidden_channels: int = 8,
        final_channels: int = 4,
        node_network: Literal["gcn", "gmh"] = "gcn",
        conv: Literal["GCN", "MLP"] = "GCN",
    ) -> None:
        super().__init__()
        if node_network not in ("gcn", "gmh") or conv not in ("GCN", "MLP"):
            raise ValueError(
                f"expected node_network 'gcn' or 'gmh' and conv 'GCN' or 'MLP', got {node_network}, {conv}."
            )
        self.num_features = num_features
        attention = {
            "width": width,
            "attention_width": attention_width,
            "num_heads": num_heads,
            "num_linears": num_linears,
            "num_powers": num_powers,
            "hidden_channels": hidden_channels,
            "final_channels": final_channels,
            "conv": conv,
        }
        self.edge = ScoreNetworkA(num_features, num_layers, **attention)
        if node_network == "gcn":
            self.node = ScoreNetworkX(num_features, depth, width)
        else:
            self.node = ScoreNetworkXGMH(num_features, depth, **attention)

    def forward(self, state: Mapping[str, Tensor], t: Tensor, cond: Mapping[str, Any]) -> dict[str, Tensor]:
        """See the class."""
        x, adj = state["x"], state["adj"]
        mask = cond.get("node_mask")
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        return {"x": self.node(x, adj, mask), "adj": self.edge(x, adj, mask)}


class ScoreNetworkX(Configurable, nn.Module):
    """Graph convolutions with tanh, then a network on all hidden states: (B, N, F) from x (B, N, F) and adj (B, N, N).

    Args:
        num_features: F.
        depth: Convolutions.
        width: Their channels.
    """

    def __init__(self, num_features: int = 10, depth: int = 3, width: int = 32) -> None:
        super().__init__()
        sizes = [num_features] + [width] * depth
        self.layers = nn.ModuleList(_GCN(1, a, [b]) for a, b in pairwise(sizes))
        total = sum(sizes)
        self.final = _mlp(3, total, 2 * total, num_features)

    def forward(self, x: Tensor, adj: Tensor, node_mask: Tensor) -> Tensor:
        """Score (B, N, F) up to the factor that the prediction type stands for."""
        step = _normalise(adj[:, None])
        hidden = [x]
        for layer in self.layers:
            hidden.append(torch.tanh(layer(hidden[-1], step)[:, 0]))
        return torch.where(node_mask[..., None], self.final(torch.cat(hidden, -1)), 0)


class _AttentionNetwork(Configurable, nn.Module):
    """Attention layers on powers of A, then one network on what all of them give; pairs are kept once, as (B, P, C)."""

    def __init__(
        self,
        num_features: int = 10,
        num_layers: int = 5,
        width: int = 32,
        attention_width: int = 32,
        num_heads: int = 4,
        num_linears: int = 2,
        num_powers: int = 2,
        hidden_channels: int = 8,
        final_channels: int = 4,
        conv: str = "GCN",
    ) -> None:
        super().__init__()
        self.num_powers = num_powers
        channels = [num_powers] + [hidden_channels] * (num_layers - 1) + [final_channels]
        inputs = [(num_features, width)] + [(width, attention_width)] * (num_layers - 1)
        self.layers = nn.ModuleList(
            _AttentionLayer(*sizes, width, a, b, num_heads, num_linears, conv)
            for sizes, (a, b) in zip(inputs, pairwise(channels), strict=True)
        )
        total, outputs = self._final_sizes(num_features, num_layers * width, sum(channels))
        self.final = _mlp(3, total, 2 * total, outputs)

    def _final_sizes(self, num_features: int, hidden: int, channels: int) -> tuple[int, int]:
        """Inputs and outputs of the last network."""
        raise NotImplementedError

    def _powers(self, adj: Tensor, pairs: Pairs) -> Tensor:
        """A, A^2, ... as channels (B, P, C)."""
        channels = [adj]
        for _ in range(self.num_powers - 1):
            channels.append(channels[-1] @ adj)
        return pairs.take(torch.stack(channels, -1))


class ScoreNetworkA(_AttentionNetwork):
    """Attention layers, then a network on the channels of all of them: (B, N, N) from x (B, N, F) and adj (B, N, N).

    Args:
        num_features: F.
        num_layers: Attention layers.
        width: Node channels.
        attention_width: Width of queries and keys after the first layer.
        num_heads: Heads.
        num_linears: Linear maps of the pair network of a layer.
        num_powers: Powers of A among the input channels.
        hidden_channels: Pair channels between layers.
        final_channels: Pair channels of the last layer.
        conv: ``"GCN"`` or ``"MLP"``.
    """

    def _final_sizes(self, num_features: int, hidden: int, channels: int) -> tuple[int, int]:
        return channels, 1

    def forward(self, x: Tensor, adj: Tensor, node_mask: Tensor) -> Tensor:
        """Score (B, N, N), symmetric with zero diagonal."""
        pairs = Pairs.build(node_mask)
        kept = [self._powers(adj, pairs)]
        for layer in self.layers:
            x, channels = layer(x, kept[-1], pairs)
            kept.append(channels)
        score = self.final(torch.cat(kept, -1))
        return pairs.full(torch.where(pairs.mask[..., None], score, 0))[..., 0]


class ScoreNetworkXGMH(_AttentionNetwork):
    """Node score from attention layers; the node states pass through a second tanh after each layer, as published.

    Args: those of `ScoreNetworkA`.
    """

    def _final_sizes(self, num_features: int, hidden: int, channels: int) -> tuple[int, int]:
        return num_features + hidden, num_features

    def forward(self, x: Tensor, adj: Tensor, node_mask: Tensor) -> Tensor:
        """Score (B, N, F)."""
        pairs = Pairs.build(node_mask)
        channels, hidden = self._powers(adj, pairs), [x]
        for layer in self.layers:
            x, channels = layer(x, channels, pairs)
            x = torch.tanh(x)
            hidden.append(x)
        return torch.where(node_mask[..., None], self.final(torch.cat(hidden, -1)), 0)


class _AttentionLayer(nn.Module):
    """X (B, N, F) and channels (B, P, C) to new ones; all channels in one batched product.

    Channels and attention are symmetric and nothing reads their diagonals (convolutions overwrite them), so that the
    pair network runs once for a pair and the sum with the transpose is a factor of 2.
    """

    def __init__(
        self,
        in_width: int,
        attention_width: int,
        out_width: int,
        in_channels: int,
        out_channels: int,
        num_heads: int,
        num_linears: int,
        conv: str,
    ) -> None:
        super().__init__()
        if attention_width % num_heads:
            raise ValueError(f"widths must be multiples of num_heads, got {attention_width} and {num_heads}.")
        self.num_heads, self.attention_width, self.out_width = num_heads, attention_width, out_width
        self.is_mlp = conv == "MLP"
        if self.is_mlp:
            hidden = 2 * attention_width
            self.query = nn.ModuleList(
                _mlp(2, in_width, hidden, attention_width, nn.Tanh) for _ in range(2 * in_channels)
            )
        widths = [out_width] if self.is_mlp else [attention_width, attention_width, out_width]
        self.gcn = _GCN(in_channels, in_width, widths)
        hidden = 2 * max(in_channels, out_channels)
        self.node = _mlp(2, in_channels * out_width, hidden, out_width)
        self.pair = _mlp(num_linears, 2 * in_channels, hidden, out_channels)

    def forward(self, x: Tensor, channels: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """(B, N, width), (B, P, C')."""
        mixed = self.gcn(x, _normalise(pairs.full(channels).permute(0, 3, 1, 2)))
        if self.is_mlp:
            query, key = (torch.stack([net(x) for net in part], 1) for part in _halves(self.query))
            value = mixed
        else:
            query, key, value = mixed.split([self.attention_width, self.attention_width, self.out_width], -1)
        query, key = (z.unflatten(-1, (self.num_heads, -1)).transpose(2, 3) for z in (query, key))
        query = query / math.sqrt(self.out_width)
        attention = torch.tanh(query @ key.transpose(-1, -2)).mean(2)
        attention = pairs.take((attention + attention.transpose(-1, -2)).permute(0, 2, 3, 1)) / 2
        node = self.node(value.permute(0, 2, 1, 3).flatten(2))
        pair = 2 * self.pair(torch.cat([attention, channels], -1))
        pair = torch.where(pairs.mask[..., None], pair, 0)
        return torch.tanh(torch.where(pairs.node_mask[..., None], node, 0)), pair


class _GCN(nn.Module):
    """Graph convolutions of C channels: (B, C, N, G) from x (B, N, F) and normalised channels (B, C, N, N)."""

    def __init__(self, channels: int, in_width: int, out_widths: list[int]) -> None:
        super().__init__()
        self.out_widths = out_widths
        self.weight = nn.Parameter(torch.empty(channels, in_width, sum(out_widths)))
        self.bias = nn.Parameter(torch.zeros(channels, 1, sum(out_widths)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot for each convolution by itself; no bias."""
        for part in self.weight.data.split(self.out_widths, -1):
            bound = math.sqrt(6 / (part.shape[1] + part.shape[2]))
            part.uniform_(-bound, bound)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        return step @ (x[:, None] @ self.weight) + self.bias


def _normalise(channels: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 with 1 on the diagonal of A and D at least 1."""
    eye = torch.eye(channels.shape[-1], dtype=torch.bool, device=channels.device)
    channels = torch.where(eye, 1, channels)
    root = channels.sum(-1).clamp_min(1).rsqrt()
    return root[..., :, None] * channels * root[..., None, :]


def _mlp(
    num_linears: int, inputs: int, hidden: int, outputs: int, activation: type[nn.Module] = nn.ELU
) -> nn.Sequential:
    sizes = [inputs] + [hidden] * (num_linears - 1) + [outputs]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


def _halves(modules: nn.ModuleList) -> tuple[list[nn.Module], list[nn.Module]]:
    half = len(modules) // 2
    return list(modules)[:half], list(modules)[half:]
