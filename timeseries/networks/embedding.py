"""The embedding of the diffusion step with the two layers behind it, and the features of a conditional model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["StepEmbedding", "known_features", "sinusoid"]

_LARGEST_PERIOD = 1e4


def sinusoid(step: Tensor, size: int) -> Tensor:
    """All sines, then all cosines (B, size) of ``step`` exp(-ln(1e4) k/(size/2 - 1)), k = 0 ... size/2 - 1."""
    half = size // 2
    k = torch.arange(half, device=step.device, dtype=torch.float32)
    angle = step.float()[:, None] * torch.exp(-math.log(_LARGEST_PERIOD) * k / max(half - 1, 1))
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class StepEmbedding(nn.Module):
    """t (B,) to (B, width): sinusoid of ``num_steps`` t - 1, Linear, SiLU, Linear, SiLU.

    With ``num_steps`` levels t_i = (i + 1)/num_steps the sinusoid sees the integer step i.

    Args:
        size: Numbers of the sinusoid, even.
        width: Channels.
        num_steps: Levels of the discrete process.
    """

    def __init__(self, size: int, width: int, num_steps: int = 100) -> None:
        super().__init__()
        if size < 4 or size % 2:
            raise ValueError(f"the step embedding needs an even size of at least 4, got {size}.")
        self.size, self.num_steps = size, num_steps
        self.layers = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        """Embed times (B,)."""
        return self.layers(sinusoid(self.num_steps * t - 1, self.size).to(next(self.layers.parameters()).dtype))


def known_features(x: Tensor, cond: Mapping[str, Any] | None, features: int) -> Tensor | None:
    """``cond["features"]`` (B, L, D, features) in the dtype of ``x``; None for a network without features.

    Raises:
        ValueError: If they are absent or of another shape.
    """
    if not features:
        return None
    given = None if cond is None else cond.get("features")
    if given is None or tuple(given.shape) != (*x.shape[:3], features):
        raise ValueError(
            f"a conditional network needs features {(*tuple(x.shape[:3]), features)} in cond, got "
            f"{None if given is None else tuple(given.shape)}. See timeseries.conditioning.conditions."
        )
    return given.to(x.dtype)
