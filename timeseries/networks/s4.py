"""The residual state-space backbone of TSDiff, and attention across variates for multivariate series.

References: Kollovieh et al. 2023, "Predict, refine, synthesize: self-guiding diffusion models for probabilistic time
series forecasting", section 3 and appendix B (its S4 layers are of the NPLR kind; here they are S4D).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.configurable import Configurable
from scidiff.nn.s4d import S4D
from timeseries.networks.embedding import StepEmbedding, known_features

__all__ = ["S4Backbone"]


class S4Backbone(Configurable, nn.Module):
    """Denoises windows x (B, L, D, channels) at times t (B,); any length L, cost linear in D.

    Value and lags of a variate are the channels of one sequence; variates share all weights and meet, if there are
    several, in attention across variates at each time step, each with its own embedding. With step embedding e a block
    computes

        z = x + Linear(e),   h = z + Linear(GELU(S4D(LayerNorm(z)))),   h = tanh(h) sigmoid(h),

    and passes on x + Linear_a(h); the sum of Linear_b(h) over blocks goes through Linear, ReLU, Linear to the output.
    The reference also has a Linear_a in its last block, which nothing uses; here every weight has a gradient.

    Args:
        channels: Noisy channels of a variate: value and lags, or the value alone if the model is conditional.
        num_variates: D.
        features: Features of each variate and step that a conditional model sees, ``cond["features"]``; a linear map
            of them is added to h in every block. 0 for an unconditional model.
        width: Channels H of the sequence.
        num_layers: Number of blocks.
        state_size: N of the state-space layers.
        step_size: Size of the sinusoidal embedding.
        num_steps: Levels of the discrete process, the unit of the embedding.
        dropout: Probability of dropping a channel-wise output of the S4D layer.
        init_skip: Add the input to the output.
        init: Initialisation of the state matrices, see `scidiff.nn.s4d.S4D`.
        discretization: ``"zoh"`` or ``"bilinear"``.
        num_heads: Heads of the attention across variates.

    Raises:
        ValueError: If ``width`` is not a multiple of ``num_heads`` for several variates.
    """

    def __init__(
        self,
        channels: int = 1,
        num_variates: int = 1,
        features: int = 0,
        width: int = 64,
        num_layers: int = 3,
        state_size: int = 64,
        step_size: int = 128,
        num_steps: int = 100,
        dropout: float = 0.0,
        init_skip: bool = False,
        init: str = "lin",
        discretization: str = "zoh",
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        if num_variates > 1 and width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {width} and {num_heads}.")
        self.channels, self.num_variates, self.features = channels, num_variates, features
        self.init_skip = init_skip
        self.input = nn.Linear(channels, width)
        self.variates = nn.Parameter(0.02 * torch.randn(num_variates, width)) if num_variates > 1 else None
        self.step = StepEmbedding(step_size, width, num_steps)
        options: dict[str, Any] = {"init": init, "discretization": discretization}
        self.blocks = nn.ModuleList(
            _Block(
                width,
                S4D(width, state_size, **options),
                dropout,
                num_heads if num_variates > 1 else 0,
                features,
                is_last=index + 1 == num_layers,
            )
            for index in range(num_layers)
        )
        self.output = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, channels))

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        """See the class; ``cond["features"]`` (B, L, D, features) for a conditional model."""
        if tuple(x.shape[2:]) != (self.num_variates, self.channels):
            raise ValueError(
                f"expected windows (B, L, {self.num_variates}, {self.channels}), got {tuple(x.shape)}. Were lags or "
                "variates changed after the network was built?"
            )
        h = F.relu(self.input(x))
        if self.variates is not None:
            h = h + self.variates
        e = self.step(t).to(h.dtype)[:, None, None]
        known = known_features(x, cond, self.features)
        total = torch.zeros_like(h)
        for block in self.blocks:
            h, skip = block(h, e, known)
            total = total + skip
        out = self.output(total)
        return out + x if self.init_skip else out


class _Block(nn.Module):
    """One residual block; 0 heads or features leave out attention or their map, the last block the residual."""

    def __init__(self, width: int, s4d: S4D, dropout: float, num_heads: int, features: int, *, is_last: bool) -> None:
        super().__init__()
        self.step = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.s4d = s4d
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Linear(width, width)
        self.across = _AcrossVariates(width, num_heads) if num_heads else None
        self.known = nn.Linear(features, width) if features else None
        self.residual = None if is_last else nn.Linear(width, width)
        self.skip = nn.Linear(width, width)

    def forward(self, x: Tensor, e: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, L, D, H) to (the next x, the skip)."""
        b, length, variates, width = x.shape
        z = x + self.step(e)
        folded = self.norm(z).transpose(1, 2).reshape(b * variates, length, width)
        y = self.s4d(folded).reshape(b, variates, length, width).transpose(1, 2)
        h = z + self.mix(self.dropout(F.gelu(y)))
        if self.across is not None:
            h = h + self.across(h)
        if self.known is not None:
            h = h + self.known(features)
        h = torch.tanh(h) * torch.sigmoid(h)
        return x if self.residual is None else x + self.residual(h), self.skip(h)


class _AcrossVariates(nn.Module):
    """Self-attention over the variates of each time step, (B, L, D, H) to the same; starts at zero."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Update of ``x``."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, L, heads, D, H/heads)
        return self.out(mixed.transpose(2, 3).flatten(-2))
