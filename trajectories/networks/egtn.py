r"""EGTN, the equivariant network of trajectories: messages between nodes, attention between the frames of a node.

Spatial layer, in every frame, with d_ij = x_i - x_j:

    m_ij = phi_m(h_i, h_j, |d_ij|^2, e_ij)
    x_i <- x_i + mean_j d_ij phi_x(m_ij) / (|d_ij| + 1),   h_i <- phi_h(h_i, sum_j m_ij)

The temporal layer is `scidiff.nn.TemporalAttention`. Clean and noisy frames go through all layers together, in their
true order of time; the output is the displacement x^(L) - x^(0).

Han et al. 2024, "Geometric Trajectory Diffusion Models" (GeoTDM), eq. 6-8 and appendix B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scidiff.configurable import Configurable
from scidiff.nn.batching import time_features
from scidiff.nn.registry import get_network
from scidiff.nn.temporal import TemporalAttention, frame_features
from trajectories.conditions import condition_features

__all__ = ["EGTN", "BackboneLayer", "SpatialLayer", "TrajectoryFeatures"]

_COORDINATE_GAIN = 0.001  # the last weights of phi_x start small, so that positions hardly move at first
_VECTOR_GAIN = 0.1  # likewise for the vectors of other networks
_SQUARED_SOFTENING = 1e-8  # inside the root, so that its gradient is finite where nodes meet; the published value


class TrajectoryFeatures(NamedTuple):
    """Scalars (B, F, N, hidden), positions (B, F, N, D), and vectors (B, F, N, c, D) or None."""

    h: Tensor
    pos: Tensor
    v: Tensor | None = None


class SpatialLayer(nn.Module):
    """Messages between all pairs of different nodes of a frame; O(B F N^2 hidden^2) time.

    Symmetry: scalars are invariant, positions equivariant under rotations, reflections and translations.

    Args:
        hidden: Channels.
        edge_channels: Channels of the pair features.
        is_residual: h <- h + phi_h(LayerNorm h, sum_j m / N) in place of the published h <- phi_h(h, sum_j m), which
            has neither a residual path nor a norm.
    """

    def __init__(self, hidden: int, edge_channels: int = 0, *, is_residual: bool = False) -> None:
        super().__init__()
        self.hidden, self.edge_channels = hidden, edge_channels
        self.first = nn.Linear(2 * hidden + 1 + edge_channels, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.step = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        self.node = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.norm = nn.LayerNorm(hidden) if is_residual else None
        nn.init.xavier_uniform_(self.step[2].weight, gain=_COORDINATE_GAIN)  # pyright: ignore[reportArgumentType]

    def forward(
        self,
        h: Tensor,
        pos: Tensor,
        edge_attr: Tensor | None = None,
        present: Tensor | None = None,
        v: Tensor | None = None,
    ) -> TrajectoryFeatures:
        """Apply the layer to every frame.

        Args:
            h: Scalars (B, F, N, hidden).
            pos: Positions (B, F, N, D).
            edge_attr: Pair features (B, N, N, edge_channels); entry [b, i, j] belongs to the message from j to i.
            present: True for nodes that exist in a frame, bool (B, F, N). Others neither send nor change.
            v: Vectors, which the layer leaves as they are.
        """
        difference = pos[:, :, :, None] - pos[:, :, None]
        squared = difference.square().sum(-1)
        inner = h if self.norm is None else self.norm(h)
        m = self._messages(inner, squared, edge_attr)
        linked, count = _links(pos, present)
        step = self.step(m)[..., 0] / ((squared + _SQUARED_SOFTENING).sqrt() + 1)
        step = step * linked / count
        moved = pos + (step[..., None, :] @ difference)[..., 0, :]
        total = (linked[..., None, :] @ m)[..., 0, :]
        if self.norm is None:
            new = self.node(torch.cat([h, total], -1))
        else:
            new = h + self.node(torch.cat([inner, total / count], -1))
        if present is None:
            return TrajectoryFeatures(new, moved, v)
        kept = present[..., None]
        return TrajectoryFeatures(torch.where(kept, new, h), torch.where(kept, moved, pos), v)

    def _messages(self, h: Tensor, squared: Tensor, edge_attr: Tensor | None) -> Tensor:
        """m (B, F, N, N, hidden); the first weights are split, so that nodes and pairs are multiplied once."""
        receiver, sender, radial, edge = self.first.weight.split([self.hidden, self.hidden, 1, self.edge_channels], 1)
        m = (h @ receiver.T + self.first.bias)[:, :, :, None] + (h @ sender.T)[:, :, None]
        m = m + squared[..., None] * radial[:, 0]
        if edge_attr is not None and self.edge_channels:
            m = m + (edge_attr @ edge.T)[:, None]
        return nn.functional.silu(self.second(nn.functional.silu(m)))


class BackboneLayer(nn.Module):
    """One layer of a network of `scidiff.nn` between the nodes of a frame, in place of `SpatialLayer`.

    h <- h + (its scalars), x <- x + (its first vector), v <- v + (its other vectors), which carry directions from layer
    to layer.

    Symmetry: that of the network.

    Args:
        name: Name in `scidiff.nn.registry.NETWORKS`.
        hidden: Channels.
        edge_channels: Channels of the pair features.
        vector_channels: Vectors of a node.
    """

    def __init__(self, name: str, hidden: int, edge_channels: int = 0, vector_channels: int = 0) -> None:
        super().__init__()
        options = {"edge_channels": edge_channels, "vector_channels": vector_channels}
        self.norm = nn.LayerNorm(hidden)
        self.network = get_network(
            name, hidden, hidden=hidden, num_layers=1, out_channels=hidden, out_vectors=1 + vector_channels, **options
        )
        self.scale = nn.Parameter(torch.full((1 + vector_channels,), _VECTOR_GAIN))

    def forward(
        self,
        h: Tensor,
        pos: Tensor,
        edge_attr: Tensor | None = None,
        present: Tensor | None = None,
        v: Tensor | None = None,
    ) -> TrajectoryFeatures:
        """Apply the layer to every frame; arguments as for `SpatialLayer`, and vectors (B, F, N, c, D)."""
        b, f, n, d = pos.shape
        mask = None if present is None else present.flatten(0, 1)
        edges = None
        if edge_attr is not None and self.network.edge_channels:
            edges = edge_attr[:, None].expand(b, f, *edge_attr.shape[1:]).flatten(0, 1)
        vectors = None if v is None else v.flatten(0, 1)
        inner = self.norm(h).flatten(0, 1)
        out = self.network(inner, pos.flatten(0, 1), edge_attr=edges, v=vectors, node_mask=mask)
        moved = (out.v * self.scale[:, None]).reshape(b, f, n, -1, d)
        new = TrajectoryFeatures(
            h + out.h.reshape(h.shape), pos + moved[..., 0, :], None if v is None else v + moved[..., 1:, :]
        )
        if present is None:
            return new
        kept = present[..., None]
        still = None if v is None or new.v is None else torch.where(kept[..., None], new.v, v)
        return TrajectoryFeatures(torch.where(kept, new.h, h), torch.where(kept, new.pos, pos), still)


class EGTN(Configurable, nn.Module):
    r"""Network of trajectories with noisy and given frames, called as ``network(x_t, t, cond)``.

    ``x_t`` is (B, F, N, D); ``t`` (B,), or (B, F) for a noise level per frame. Read from ``cond``: ``"h"`` node
    features (B, N, in_channels) or (B, F, N, in_channels), ``"edge_attr"`` (B, N, N, edge_channels), ``"given"`` True
    for entries that are known, bool (B, F, N), ``"node_mask"`` True for real nodes, bool (B, N), ``"frames"`` numbers
    of the frames (F,), 0, 1, ... by default, ``"history"`` the noise level of given entries (B,), 0 by default.
    Returns the displacement (B, F, N, D) of the positions.

    Given entries have time 0 and a flag as a feature; two more features say how far a node is from its last given
    position and from its position a frame before. With ``faithful=True`` the network is the published one: no flag, no
    such features, the same time for all frames (the index k = ``num_levels`` t - 1 of the level), no residual path of
    h in the spatial layer, logits without the square root. It then has 1,418,252 parameters with 6 layers, 128
    channels, one node and one pair feature.

    Symmetry: E(D), for any D; the output ignores translations.

    Args:
        in_channels: Node features.
        edge_channels: Pair features.
        hidden: Channels.
        num_layers: Number of layers, each a spatial and a temporal one.
        time_channels: Features of the time, even.
        num_heads: Heads of the temporal attention.
        faithful: The published network.
        num_levels: Noise levels of the published network.
        spatial: ``"egtn"`` for the paper's spatial layer, or a network of `scidiff.nn` by name, of which each layer is
            one (three dimensions for all but ``"egnn"``).
        vector_channels: Vectors of a node and frame, 0 at first, which such a network and the attention pass on.
        conditions: Centre and scale of each number that describes a whole system, such as ``{"temperature": [400.0,
            100.0]}``; ``cond["condition"]`` (B, conditions) has them in this order, NaN where one is not known.

    Raises:
        ValueError: If a number is out of its range; when called, if a shape does not fit.
    """

    symmetry = "E(D)"

    def __init__(
        self,
        in_channels: int = 1,
        *,
        edge_channels: int = 0,
        hidden: int = 64,
        num_layers: int = 4,
        time_channels: int = 32,
        num_heads: int = 1,
        faithful: bool = False,
        num_levels: int = 1000,
        spatial: str = "egtn",
        vector_channels: int = 0,
        conditions: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        if vector_channels < 0 or (spatial == "egtn" and vector_channels) or (faithful and spatial != "egtn"):
            raise ValueError(
                "vector_channels need another spatial layer than 'egtn', and the faithful network has none but that; "
                f"got spatial={spatial!r}, vector_channels={vector_channels}, faithful={faithful}."
            )
        if min(in_channels, edge_channels) < 0 or min(hidden, num_layers, num_levels) < 1:
            raise ValueError(
                "in_channels and edge_channels must not be negative, hidden, num_layers and num_levels must be "
                f"positive, got {in_channels}, {edge_channels}, {hidden}, {num_layers} and {num_levels}."
            )
        if time_channels < 2 or time_channels % 2:
            raise ValueError(f"time_channels must be even and positive, got {time_channels}.")
        self.in_channels, self.edge_channels, self.hidden = in_channels, edge_channels, hidden
        self.time_channels, self.faithful, self.num_levels = time_channels, faithful, num_levels
        self.conditions = {name: (float(c), float(scale)) for name, (c, scale) in (conditions or {}).items()}
        channels = in_channels + time_channels + (0 if faithful else 3) + 2 * len(self.conditions)
        self.embedding = nn.Linear(channels, hidden)
        self.vector_channels = vector_channels
        self.spatial = nn.ModuleList(
            SpatialLayer(hidden, edge_channels, is_residual=not faithful)
            if spatial == "egtn"
            else BackboneLayer(spatial, hidden, edge_channels, vector_channels)
            for _ in range(num_layers)
        )
        options = {"num_heads": num_heads, "is_scaled": not faithful, "vector_channels": vector_channels}
        self.temporal = nn.ModuleList(TemporalAttention(hidden, **options) for _ in range(num_layers))

    def forward(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Displacement (B, F, N, D); see the class."""
        given = cond.get("given")
        if given is None:
            given = torch.zeros(x_t.shape[:3], dtype=torch.bool, device=x_t.device)
        present = cond.get("node_mask")
        if present is not None:
            present = present[:, None].expand(x_t.shape[:3])
        features = [
            self._nodes(x_t, cond),
            *self._conditions(x_t, t, given, cond),
            *condition_features(x_t, self.conditions, cond),
        ]
        h = self.embedding(torch.cat(features, -1))
        return self.layers(h, x_t, cond, present).pos - x_t

    def layers(
        self, h: Tensor, pos: Tensor, cond: dict[str, Tensor], present: Tensor | None = None
    ) -> TrajectoryFeatures:
        """All layers on embedded scalars (B, F, N, hidden); entries outside ``present`` (B, F, N) stay as they are."""
        edge_attr, frames = cond.get("edge_attr"), cond.get("frames")
        self._check_edges(pos, edge_attr)
        mask = None if present is None else present.transpose(1, 2).flatten(0, 1)
        b, v = len(pos), None
        if self.vector_channels:
            v = pos.new_zeros(*pos.shape[:-1], self.vector_channels, pos.shape[-1])
        for spatial, temporal in zip(self.spatial, self.temporal, strict=True):
            h, pos, v = spatial(h, pos, edge_attr, present, v)
            rows = [None if part is None else part.transpose(1, 2).flatten(0, 1) for part in (h, pos, v)]
            out = temporal(rows[0], rows[1], v=rows[2], frames=frames, frame_mask=mask)
            h, pos = (part.unflatten(0, (b, -1)).transpose(1, 2) for part in (out.h, out.pos))
            v = None if out.v is None else out.v.unflatten(0, (b, -1)).transpose(1, 2)
        return TrajectoryFeatures(h, pos, v)

    def _nodes(self, x_t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Node features (B, F, N, in_channels)."""
        b, f, n, _ = x_t.shape
        h = cond.get("h")
        if h is None and self.in_channels == 0:
            return x_t.new_zeros(b, f, n, 0)
        shapes = ((b, n, self.in_channels), (b, f, n, self.in_channels))
        if h is None or tuple(h.shape) not in shapes:
            raise ValueError(
                f"node features h must have shape {shapes[0]} or {shapes[1]}, as the network was built with "
                f"in_channels={self.in_channels}; got {None if h is None else tuple(h.shape)}."
            )
        return (h if h.ndim == 4 else h[:, None].expand(b, f, n, -1)).to(x_t.dtype)

    def _conditions(self, x_t: Tensor, t: Tensor, given: Tensor, cond: Mapping[str, Tensor]) -> list[Tensor]:
        """Features of time, and what the network knows about given entries, each (B, F, N, c)."""
        time = t.to(x_t.dtype).reshape(t.shape + (1,) * (3 - t.ndim)).expand(x_t.shape[:3])
        if self.faithful:
            return [frame_features(self.num_levels * time - 1, self.time_channels)]
        history = cond.get("history")
        level = 0.0 if history is None else history.to(time)[:, None, None]
        time = torch.where(given, level, time)
        steps = _lengths(torch.diff(x_t, dim=1, prepend=x_t[:, :1]))
        away = torch.where(given.any(1, keepdim=True), _lengths(x_t - _last_given(x_t, given)), 0.0)
        features = torch.stack([given.to(x_t.dtype), steps, away], -1)
        return [time_features(time, self.time_channels), features]

    def _check_edges(self, pos: Tensor, edge_attr: Tensor | None) -> None:
        shape = (len(pos), pos.shape[2], pos.shape[2], self.edge_channels)
        if self.edge_channels and (edge_attr is None or tuple(edge_attr.shape) != shape):
            raise ValueError(
                f"pair features edge_attr must have shape {shape}, as the network was built with "
                f"edge_channels={self.edge_channels}; got {None if edge_attr is None else tuple(edge_attr.shape)}."
            )


def _links(pos: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """1 where j sends to i, else 0, like (B, F, N, N), and the number of senders (..., N, 1), at least 1."""
    n = pos.shape[2]
    linked = 1 - torch.eye(n, device=pos.device, dtype=pos.dtype).expand(1, 1, n, n)
    if present is not None:
        linked = linked * (present[..., None] & present[..., None, :])
    return linked, linked.sum(-1, keepdim=True).clamp_min(1)


def _last_given(x: Tensor, given: Tensor) -> Tensor:
    """Position of each node in the last frame in which it is given, (B, 1, N, D); in frame 0 if it never is."""
    frames = torch.arange(x.shape[1], device=x.device)[:, None]
    last = torch.where(given, frames, 0).amax(1)
    return x.gather(1, last[:, None, :, None].expand(-1, 1, -1, x.shape[-1]))


def _lengths(x: Tensor) -> Tensor:
    """|x|, with a finite gradient at 0."""
    return (x.square().sum(-1) + _SQUARED_SOFTENING).sqrt()
