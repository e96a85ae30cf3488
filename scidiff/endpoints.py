r"""Schedules with a known end x_1: mean reversion, residual diffusion, Brownian bridge.

Their states are x_t = alpha(t) x_0 + beta(t) x_1 + sigma(t) eps with beta = 1 - alpha, so the shifted state y = x_t -
beta x_1 is an ordinary diffusion of x_0: every solver applies to y, and none has to know about x_1. x_1 is the degraded
observation, the mean that is reverted to, or the other end of a bridge.

References: Luo et al. 2023, "Image Restoration with Mean-Reverting Stochastic Differential Equations" (IR-SDE); Liu et
al. 2024, "Residual Denoising Diffusion Models" (RDDM).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from scidiff.schedule_base import Schedule

__all__ = ["BrownianBridge", "MeanReverting", "Residual"]

_COSINE_OFFSET = 0.008
_LINEAR_RATES = (1e-4, 0.02)  # first and last rate of the linear form; only their ratio matters


class MeanReverting(Schedule):
    r"""Mean reversion to x_1: dx = theta(t) (x_1 - x) dt + sqrt(2 theta(t)) max_sigma dw.

    With Theta(t) the integral of theta, alpha = e^{-Theta}, beta = 1 - e^{-Theta} and
    sigma = max_sigma sqrt(1 - e^{-2 Theta}). Theta(1) = -log(eps), so x at t = 1 is close to x_1 + max_sigma N(0, I),
    which is the prior.

    Args:
        max_sigma: Stationary standard deviation (units of the data), above 0. For images on [0, 1] the reference code
            divides values of 1 and above by 255; here the number is used as it is.
        theta: Shape of theta(t): ``"cosine"``, ``"linear"`` or ``"constant"``.
        eps: alpha(1), the share of x_0 - x_1 that is left at t = 1, in (0, 1).
        table: Use the array of the reference code, Theta_i at t = i/``num_levels``, linear in between, instead of the
            continuous form. Its index 0 already holds one rate, so sigma(0) > 0.
        num_levels: Number T of steps of the table.
        clean_start: Subtract that first rate from the table, as later versions of the reference code do: sigma(0) = 0.

    Raises:
        ValueError: If an argument is out of range.

    References: Luo et al. 2023 (IR-SDE) and its public code.
    """

    def __init__(
        self,
        max_sigma: float = 1.0,
        theta: Literal["cosine", "linear", "constant"] = "cosine",
        eps: float = 0.01,
        table: bool = False,
        num_levels: int = 100,
        clean_start: bool = False,
    ) -> None:
        if max_sigma <= 0 or not 0 < eps < 1 or num_levels < 2 or theta not in ("cosine", "linear", "constant"):
            raise ValueError(
                "MeanReverting needs max_sigma > 0, 0 < eps < 1, num_levels >= 2 and theta of 'cosine', 'linear', "
                f"'constant', got max_sigma={max_sigma}, eps={eps}, num_levels={num_levels}, theta={theta!r}."
            )
        self.max_sigma, self.theta, self.eps, self.num_levels = max_sigma, theta, eps, num_levels
        self._table = self._tabulated(clean_start) if table else None
        if table:
            self.t_min = 1 / num_levels

    @property
    def prior_std(self) -> float:
        """max_sigma, the stationary value."""
        return self.max_sigma

    @property
    def prior_endpoint(self) -> float:
        """1: the part eps x_0 that is left at t = 1 is counted as eps x_1."""
        return 1.0

    def total_theta(self, t: Tensor) -> Tensor:
        """Theta(t), the integral of theta from 0 to t."""
        if self._table is None:
            return -math.log(self.eps) * self._shape(t) / self._shape(torch.ones_like(t))
        table = self._table.to(device=t.device, dtype=t.dtype)
        position = (t * self.num_levels).clamp(0, self.num_levels)
        index = position.floor().long().clamp_max(self.num_levels - 1)
        return torch.lerp(table[index], table[index + 1], position - index)

    def rate(self, t: Tensor) -> Tensor:
        """theta(t); of a table, the rate of the step that ends at t_i."""
        if self._table is not None:
            slopes = (self._table.diff() * self.num_levels).to(device=t.device, dtype=t.dtype)
            step = (t * self.num_levels - 1e-6).ceil()  # i/T times T may round above i
            return slopes[step.long().clamp(1, self.num_levels) - 1]
        return -math.log(self.eps) * self._shape_dot(t) / self._shape(torch.ones_like(t))

    def alpha(self, t: Tensor) -> Tensor:
        return (-self.total_theta(t)).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return self.max_sigma * (-torch.expm1(-2 * self.total_theta(t))).sqrt()

    def endpoint(self, t: Tensor) -> Tensor:
        """beta(t) = 1 - e^{-Theta}."""
        return -torch.expm1(-self.total_theta(t))

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -self.rate(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.max_sigma * (2 * self.rate(t)).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self.rate(t) * self.alpha(t)

    def endpoint_dot(self, t: Tensor) -> Tensor:
        return self.rate(t) * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.sigma_sigma_dot(t) / self.sigma(t)

    def sigma_sigma_dot(self, t: Tensor) -> Tensor:
        return self.max_sigma**2 * self.rate(t) * self.alpha(t) ** 2

    def _shape(self, t: Tensor) -> Tensor:
        """Integral of theta(t), up to a factor; for the cosine that of 1 - cos^2(w t + p)/cos^2(p)."""
        if self.theta == "constant":
            return t
        if self.theta == "linear":
            first, last = _LINEAR_RATES
            return first * t + 0.5 * (last - first) * t**2
        w = math.pi / (2 * (1 + _COSINE_OFFSET))
        p = w * _COSINE_OFFSET
        # 1 - cos^2(w t + p)/cos^2 p = [cos(2p) - cos(2 w t + 2 p)]/(2 cos^2 p); small t by the sine of the half step
        integral = math.cos(2 * p) * t - (torch.sin(w * t) / w) * torch.cos(w * t + 2 * p)
        return integral / (2 * math.cos(p) ** 2)

    def _shape_dot(self, t: Tensor) -> Tensor:
        if self.theta == "constant":
            return torch.ones_like(t)
        if self.theta == "linear":
            first, last = _LINEAR_RATES
            return first + (last - first) * t
        w = math.pi / (2 * (1 + _COSINE_OFFSET))
        p = w * _COSINE_OFFSET
        return torch.sin(w * t) * torch.sin(w * t + 2 * p) / math.cos(p) ** 2

    def _tabulated(self, clean_start: bool) -> Tensor:
        """Theta_0, ..., Theta_T of the reference code; its cosine has T + 2 intervals, whose ends are dropped."""
        n = self.num_levels + 1
        if self.theta == "constant":
            rates = torch.ones(n, dtype=torch.float64)
        elif self.theta == "linear":
            rates = torch.linspace(*_LINEAR_RATES, n, dtype=torch.float64) * 1000 / n
        else:
            u = torch.arange(n + 2, dtype=torch.float64) / (n + 1)
            squares = torch.cos((u + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2) ** 2
            rates = 1 - (squares / squares[0])[1:-1]
        total = rates.cumsum(0)
        total = total - rates[0] if clean_start else total
        return total * (-math.log(self.eps) / total[-1])


class Residual(Schedule):
    r"""Residual diffusion x_t = x_0 + Abar(t) (x_1 - x_0) + Bbar(t) eps: alpha = 1 - Abar, beta = Abar, sigma = Bbar.

    Abar = 2 t - t^2 and Bbar^2 = sum_scale t^2, the limit of the published table (falling residual weights, rising
    noise weights) for many steps; ``num_levels`` gives the table itself, exact at t = i/T and polynomial in between.
    With x_1 = 0 this is a generator from noise. A network with two heads, for x_1 - x_0 and eps, does not know x_1: see
    `scidiff.Denoiser`.

    Args:
        sum_scale: Variance of the noise at t = 1 (squared units of the data): 1 for generation, 0.01 for restoration.
        num_levels: Number T of steps of the published table; None for its limit.
        offset: Whether the weights start at 1/T (restoration) or at 0 (generation experiments: no noise in step 1).

    Raises:
        ValueError: If an argument is out of range.

    References: Liu et al. 2024 (RDDM) and its public code.
    """

    t_max = 1 - 1e-3

    def __init__(self, sum_scale: float = 1.0, num_levels: int | None = None, offset: bool = True) -> None:
        if sum_scale <= 0 or (num_levels is not None and num_levels < 3):
            raise ValueError(f"Residual needs sum_scale > 0 and num_levels >= 3, got {sum_scale} and {num_levels}.")
        self.sum_scale = sum_scale
        # cumulative weights of step i in t = i/T: noise t (t + d)/(1 + d), residual t (2 + d - t)/(1 + d), d = +-1/T
        self._shift = 0.0 if num_levels is None else (1.0 if offset else -1.0) / num_levels
        if num_levels is not None:
            self.t_min = (1 if offset else 2) / num_levels

    def alpha(self, t: Tensor) -> Tensor:
        """1 - Abar = (1 - t)(1 + d - t)/(1 + d)."""
        return (1 - t) * (1 + self._shift - t) / (1 + self._shift)

    def endpoint(self, t: Tensor) -> Tensor:
        """beta(t) = Abar(t)."""
        return t * (2 + self._shift - t) / (1 + self._shift)

    def sigma(self, t: Tensor) -> Tensor:
        return self._variance(t).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return (2 * t - 2 - self._shift) / (1 + self._shift)

    def endpoint_dot(self, t: Tensor) -> Tensor:
        return -self.alpha_dot(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        if self._shift == 0:
            return torch.full_like(t, self.sum_scale**0.5)
        return self.sigma_sigma_dot(t) / self.sigma(t)

    def sigma_sigma_dot(self, t: Tensor) -> Tensor:
        slope = 0.5 * self.sum_scale * (2 * t + self._shift) / (1 + self._shift)
        return torch.where(t + self._shift >= 0, slope, 0.0)

    def _variance(self, t: Tensor) -> Tensor:
        return self.sum_scale * t * (t + self._shift).clamp_min(0) / (1 + self._shift)


class BrownianBridge(Schedule):
    r"""Brownian bridge between x_0 and x_1: alpha = 1 - t, beta = t, sigma = scale sqrt(t (1 - t)).

    Forward in t the SDE is dx = (x_1 - x)/(1 - t) dt + scale dw. At t = 1 the state is x_1 itself, a point: no flow
    leaves a point, so the first step down is stochastic whatever the solver, and should be short.

    Args:
        scale: Diffusion g (units of the data per square root of time), above 0.

    Raises:
        ValueError: If ``scale`` is not above 0.

    References: Li et al. 2023, "BBDM: Image-to-Image Translation with Brownian Bridge Diffusion Models".
    """

    t_max = 1 - 1e-3

    def __init__(self, scale: float = 1.0) -> None:
        if scale <= 0:
            raise ValueError(f"scale must be above 0, got {scale}.")
        self.scale = scale

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def endpoint(self, t: Tensor) -> Tensor:
        """beta(t) = t."""
        return t.clone()

    def sigma(self, t: Tensor) -> Tensor:
        return self.scale * (t * (1 - t)).clamp_min(0).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def endpoint_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.sigma_sigma_dot(t) / self.sigma(t)

    def sigma_sigma_dot(self, t: Tensor) -> Tensor:
        return 0.5 * self.scale**2 * (1 - 2 * t)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.scale)

    def time(self, lam: Tensor) -> Tensor:
        """From e^{-2 lambda} = scale^2 t/(1 - t): t = 1/(1 + scale^2 e^{2 lambda})."""
        return torch.sigmoid(-2 * lam - 2 * math.log(self.scale))
