"""A residual MLP on whole windows: small, quick, and enough for short ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.configurable import Configurable
from timeseries.networks.embedding import StepEmbedding, known_features

__all__ = ["WindowMLP"]


class WindowMLP(Configurable, nn.Module):
    """Denoises windows x (B, length, D, channels) of one fixed length; all their numbers see each other in every layer.

    Args:
        length: L = context + prediction length.
        channels: Noisy channels of a variate: value and lags, or the value alone if the model is conditional.
        num_variates: D.
        features: Features of each variate and step that a conditional model sees, ``cond["features"]``.
        width: Hidden channels.
        num_layers: Residual blocks x + Linear(SiLU(Linear(LayerNorm(x)) + e)).
        step_size: Size of the sinusoidal embedding.
        num_steps: Levels of the discrete process, the unit of the embedding.
        init_skip: Add the input to the output.

    References: the unconditional MLP with skip connections of diffusion forecasters guided by their history.
    """

    def __init__(
        self,
        length: int = 48,
        channels: int = 1,
        num_variates: int = 1,
        features: int = 0,
        width: int = 256,
        num_layers: int = 4,
        step_size: int = 128,
        num_steps: int = 100,
        init_skip: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.features, self.init_skip = (length, num_variates, channels), features, init_skip
        size = length * num_variates * channels
        self.step = StepEmbedding(step_size, width, num_steps)
        self.input = nn.Linear(size + length * num_variates * features, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(num_layers))
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        """See the class; ``cond["features"]`` (B, length, D, features) for a conditional model."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected windows (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}.")
        e = self.step(t)
        known = known_features(x, cond, self.features)
        h = self.input(x.flatten(1) if known is None else torch.cat([x.flatten(1), known.flatten(1)], 1))
        for block in self.blocks:
            h = block(h, e)
        out = self.output(h).reshape(x.shape)
        return out + x if self.init_skip else out


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.step = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return x + self.down(F.silu(self.up(self.norm(x)) + self.step(e)))
