r"""Attention over the frames of a trajectory, for scalars and positions of each node.

    a_fs = softmax_s( q_f . (k_s + r_fs) ),   r_fs = W_r psi(f - s)
    h_f <- h_f + sum_s a_fs (v_s + r_fs),     x_f <- x_f + sum_s a_fs phi_u(v_s) (x_f - x_s)

with q, k, v = phi_q(h), phi_k(h), phi_v(h). Since r depends on the two frames only, q . r and a r are products with one
(F, F, C) array that all nodes share: it is never built for each node.

Han et al. 2024, "Geometric Trajectory Diffusion Models" (GeoTDM), eq. 6-8.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scidiff.configurable import Configurable

__all__ = ["TemporalAttention", "TemporalOutput", "frame_features"]

_LONGEST_PERIOD = 10_000.0
_COORDINATE_GAIN = 0.001  # the last weights of phi_u start small, so that positions hardly move at first


class TemporalOutput(NamedTuple):
    """Scalars (N, F, C), positions (N, F, D), and vectors (N, F, c, D) or None."""

    h: Tensor
    pos: Tensor
    v: Tensor | None


def frame_features(steps: Tensor, channels: int) -> Tensor:
    """psi(s) = [sin(s w_k), cos(s w_k)] with w_k = 10000^{-k / (K - 1)}, K = channels / 2; (...) -> (..., channels)."""
    half = channels // 2
    k = torch.arange(half, device=steps.device, dtype=steps.dtype) / max(half - 1, 1)
    angles = steps[..., None] * torch.exp(-math.log(_LONGEST_PERIOD) * k)
    return torch.cat([angles.sin(), angles.cos()], -1)


class TemporalAttention(Configurable, nn.Module):
    """One layer of attention over F frames; O(N F^2 C) time, O(N F^2 + F^2 C) memory.

    Symmetry: scalars are invariant and positions equivariant under rotations, reflections and translations that act on
    all frames alike; vectors are equivariant.

    Args:
        hidden: Channels C, a multiple of ``num_heads``.
        num_heads: Attention heads; the steps of the positions add up over heads.
        is_causal: A frame sees itself and earlier frames only.
        is_scaled: Divide logits by sqrt(C / num_heads), which the published layer does not.
        frame_channels: Features of the time difference of two frames, even.
        vector_channels: Vectors of a node and frame, mixed as v_f <- v_f + sum_s a_fs V v_s; a multiple of
            ``num_heads``, 0 for none.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        hidden: int = 64,
        *,
        num_heads: int = 1,
        is_causal: bool = False,
        is_scaled: bool = False,
        frame_channels: int = 32,
        vector_channels: int = 0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or hidden % num_heads or vector_channels % num_heads:
            raise ValueError(
                "hidden and vector_channels must be multiples of num_heads, "
                f"got {hidden}, {vector_channels} and {num_heads}."
            )
        if frame_channels < 2 or frame_channels % 2:
            raise ValueError(f"frame_channels must be even and positive, got {frame_channels}.")
        self.hidden, self.num_heads, self.is_causal = hidden, num_heads, is_causal
        self.frame_channels = frame_channels
        self.scale = (num_heads / hidden) ** 0.5 if is_scaled else 1.0
        self.query, self.key, self.value = (_mlp(hidden, hidden) for _ in range(3))
        self.relative = nn.Linear(frame_channels, hidden)
        self.step = _mlp(hidden, num_heads, gain=_COORDINATE_GAIN)
        self.vectors = nn.Linear(vector_channels, vector_channels, bias=False) if vector_channels else None

    def forward(
        self,
        h: Tensor,
        pos: Tensor,
        *,
        v: Tensor | None = None,
        frames: Tensor | None = None,
        frame_mask: Tensor | None = None,
    ) -> TemporalOutput:
        """Apply the layer to every node.

        Args:
            h: Scalars (N, F, C).
            pos: Positions (N, F, D).
            v: Vectors (N, F, vector_channels, D).
            frames: Numbers of the frames (F,), in any order; 0, 1, ..., F - 1 by default.
            frame_mask: True for real frames, bool (N, F) or (F,). Other frames are not seen and stay as they are.

        Raises:
            ValueError: If vectors are missing, or come although the layer has none.
        """
        if (v is None) != (self.vectors is None):
            raise ValueError("the layer takes v exactly if it was built with vector_channels > 0.")
        num_frames = h.shape[1]
        if frames is None:
            frames = torch.arange(num_frames, device=h.device)
        sees, mask = self._visible(frames, frame_mask, h)
        heads = (self.num_heads, -1)
        inner = h if mask is None else torch.where(mask[..., None], h, 0.0)
        q, k, value = (phi(inner).unflatten(-1, heads) for phi in (self.query, self.key, self.value))
        r = self.relative(frame_features((frames[:, None] - frames).to(h.dtype), self.frame_channels))
        r = r.unflatten(-1, heads)  # (F, F, H, C / H), shared by all nodes
        logits = torch.einsum("nfhc,nshc->nhfs", q, k) + torch.einsum("nfhc,fshc->nhfs", q, r)
        attention = _masked_softmax(self.scale * logits, sees)
        mixed = torch.einsum("nhfs,nshc->nfhc", attention, value) + torch.einsum("nhfs,fshc->nfhc", attention, r)
        new_h = inner + mixed.flatten(-2)
        weight = torch.einsum("nhfs,nsh->nfs", attention, self.step(value.flatten(-2)))
        new_pos = pos + _pull(weight, pos, mask)
        new_v = v
        if v is not None and self.vectors is not None:
            inside = v if mask is None else torch.where(mask[..., None, None], v, 0.0)
            moved = self.vectors(inside.transpose(-1, -2)).unflatten(-1, heads)  # (N, F, D, H, c / H)
            new_v = v + torch.einsum("nhfs,nsdhc->nfhcd", attention, moved).flatten(2, 3)
        if mask is None:
            return TemporalOutput(new_h, new_pos, new_v)
        kept = None if v is None or new_v is None else torch.where(mask[..., None, None], new_v, v)
        return TemporalOutput(torch.where(mask[..., None], new_h, h), torch.where(mask[..., None], new_pos, pos), kept)

    def _visible(self, frames: Tensor, frame_mask: Tensor | None, h: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Which frames s a frame f sees, bool (N or 1, 1, F or 1, F), and the mask (N, F); None for all."""
        mask = None if frame_mask is None else frame_mask.expand(h.shape[:2])
        sees = None if mask is None else mask[:, None, None]
        if self.is_causal:
            past = (frames[:, None] >= frames)[None, None]
            sees = past if sees is None else sees & past
        return sees, mask


def _masked_softmax(logits: Tensor, sees: Tensor | None) -> Tensor:
    """Softmax over the last axis; rows that see nothing are 0."""
    if sees is None:
        return logits.softmax(-1)
    weights = logits.masked_fill(~sees, -torch.inf)
    weights = torch.where(sees.any(-1, keepdim=True), weights, 0.0).softmax(-1)
    return torch.where(sees, weights, 0.0)


def _pull(weight: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
    """sum_s w_fs (x_f - x_s), about the centre of the frames so that distant origins cost no digits."""
    if mask is not None:
        pos = torch.where(mask[..., None], pos, 0.0)
        count = mask.sum(1).clamp_min(1)[:, None, None]
        pos = torch.where(mask[..., None], pos - pos.sum(1, keepdim=True) / count, 0.0)
    else:
        pos = pos - pos.mean(1, keepdim=True)
    return weight.sum(-1, keepdim=True) * pos - weight @ pos


def _mlp(inputs: int, outputs: int, gain: float | None = None) -> nn.Sequential:
    last = nn.Linear(inputs, outputs)
    if gain is not None:
        nn.init.xavier_uniform_(last.weight, gain=gain)
    return nn.Sequential(nn.Linear(inputs, inputs), nn.SiLU(), last)
