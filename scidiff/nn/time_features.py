"""Features of the diffusion time for networks that are built here."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["TimeEmbedding"]


class TimeEmbedding(nn.Module):
    """Fourier features of t, and of log t for small noise, through a two-layer network: (B,) -> (B, width).

    Args:
        width: Channels of the result.
        num_frequencies: Half as many frequencies of t, pi k, and of log t, k / 2.
    """

    def __init__(self, width: int, num_frequencies: int = 16) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.net = nn.Sequential(nn.Linear(2 * num_frequencies + 2, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Features of the times ``t`` (B,)."""
        log_t = (t + 1e-3).log()
        frequencies = torch.arange(1, self.num_frequencies // 2 + 1, device=t.device, dtype=t.dtype)
        angles = torch.cat([math.pi * t[:, None] * frequencies, 0.5 * log_t[:, None] * frequencies], -1)
        return self.net(torch.cat([angles.sin(), angles.cos(), t[:, None], log_t[:, None] / 4], -1))
