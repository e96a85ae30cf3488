r"""Tables of noise levels (DDPM and its descendants) as continuous schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scidiff.schedule_base import VariancePreserving

__all__ = ["DiscreteVP"]


class DiscreteVP(VariancePreserving):
    r"""A table of N noise levels as a continuous schedule: log alpha is piecewise linear in t, t_i = (i + 1)/N.

    Args:
        betas: Noise rates beta_i of x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z, each in (0, 1).
        alphas: Signal scales alpha_i themselves (falling, in (0, 1]); give this or ``betas``.
        alpha_0: Signal scale at t = 0; 1 for a table that starts after the first step.

    Raises:
        ValueError: If not exactly one table is given or its values are out of range.

    References: Ho et al. 2020, eq. 4; Lu et al. 2022 (DPM-Solver), appendix D.2 (continuous labels).
    """

    def __init__(
        self,
        betas: Sequence[float] | None = None,
        alphas: Sequence[float] | None = None,
        alpha_0: float = 1.0,
    ) -> None:
        if (betas is None) == (alphas is None):
            raise ValueError("DiscreteVP needs exactly one of betas and alphas.")
        table = torch.as_tensor(betas if alphas is None else alphas, dtype=torch.float64)
        if table.ndim != 1 or len(table) < 2 or not bool(((table > 0) & (table <= 1)).all()):
            raise ValueError(f"DiscreteVP needs a table of 2 or more values in (0, 1], got shape {tuple(table.shape)}.")
        log_alpha = table.log() if betas is None else 0.5 * torch.log1p(-table).cumsum(0)
        self._log_alpha = torch.cat([log_alpha.new_tensor([math.log(alpha_0)]), log_alpha])
        if not bool((self._log_alpha.diff() <= 0).all()) or not bool(torch.isfinite(self._log_alpha).all()):
            raise ValueError("DiscreteVP needs signal scales that fall from alpha_0 and stay above 0.")
        self.num_levels = len(table)
        self.t_min = 1 / self.num_levels

    @classmethod
    def linear(cls, beta_first: float = 1e-4, beta_last: float = 0.1, num_levels: int = 100) -> DiscreteVP:
        """Linearly spaced betas (Ho et al. 2020); the defaults are TSDiff's."""
        return cls(betas=torch.linspace(beta_first, beta_last, num_levels, dtype=torch.float64).tolist())

    @classmethod
    def cosine_adaptive(cls, nu: float = 2.5, num_levels: int = 500, s: float = 0.008) -> DiscreteVP:
        """EQGAT-diff's adaptive table: cos^2 with exponent ``nu`` as signal scale, step ratios clipped to [.05, 1].

        References: Le et al. 2024 (EQGAT-diff), section 3; u_k = (k + 1)/(T + 1).
        """
        u = torch.arange(1, num_levels + 2, dtype=torch.float64) / (num_levels + 1)
        values = torch.cos((u**nu + s) / (1 + s) * math.pi / 2) ** 2 / math.cos(s / (1 + s) * math.pi / 2) ** 2
        ratios = (values[1:] / values[:-1]).clamp(0.05, 1.0)  # so beta <= .95, below their bound .999
        table = (values[0] * ratios.cumprod(0)).clamp_min(1e-30)
        return cls(alphas=table.tolist(), alpha_0=float(values[0]))

    @classmethod
    def polynomial(cls, num_levels: int = 1000, power: float = 2.0, precision: float = 1e-5) -> DiscreteVP:
        """alpha^2 = (1 - 2 s)(1 - (k/T)^power)^2 + s with step ratios clipped at .001 (Hoogeboom et al. 2022, EDM)."""
        u = torch.arange(num_levels + 1, dtype=torch.float64) / num_levels
        squares = (1 - u**power) ** 2
        squares = torch.cat([squares[:1], squares[0] * (squares[1:] / squares[:-1]).clamp(0.001, 1.0).cumprod(0)])
        table = ((1 - 2 * precision) * squares + precision).sqrt()
        return cls(alphas=table[1:].tolist(), alpha_0=float(table[0]))

    def log_alpha(self, t: Tensor) -> Tensor:
        """Piecewise linear interpolation of the table; exact at t_i = (i + 1)/N."""
        table = self._log_alpha.to(device=t.device, dtype=t.dtype)
        position = (t * self.num_levels).clamp(0, self.num_levels)
        index = position.floor().long().clamp_max(self.num_levels - 1)
        return torch.lerp(table[index], table[index + 1], position - index)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        slopes = (self._log_alpha.diff() * self.num_levels).to(device=t.device, dtype=t.dtype)
        # the left piece at a node, so that the rate at t_i is the one of the step that ends there; t_i may be rounded
        # up
        index = (t * (self.num_levels * (1 - 1e-6))).ceil().long().clamp(1, self.num_levels) - 1
        return slopes[index]

    def time(self, lam: Tensor) -> Tensor:
        """Closed form: log alpha = -log(1 + e^{-2 lambda})/2, then the inverse of the piecewise linear table."""
        target = -torch.nn.functional.softplus(-2 * lam.double()) / 2
        falling = self._log_alpha.to(target.device)
        index = torch.searchsorted(-falling, -target.contiguous()).clamp(1, self.num_levels) - 1
        drop = falling[index + 1] - falling[index]
        fraction = torch.where(drop < 0, (target - falling[index]) / torch.where(drop < 0, drop, -1.0), 1.0)
        return ((index + fraction.clamp(0, 1)) / self.num_levels).to(lam.dtype)
