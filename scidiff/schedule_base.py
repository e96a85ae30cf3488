r"""Base class of noise schedules: what follows from alpha(t), sigma(t) and beta(t).

With lambda(t) = log(alpha/sigma) the linear SDE dx = f(t) x dt + g(t) dw with the marginals alpha x_0 + sigma eps has

    f = d log(alpha)/dt,        g^2 = d(sigma^2)/dt - 2 f sigma^2 = -2 sigma^2 dlambda/dt.

The schedules themselves are in `scidiff.schedules`, which is where users import everything from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from scidiff.configurable import Configurable

__all__ = ["Schedule", "VariancePreserving", "expand_like"]


def expand_like(t: Tensor, x: Tensor) -> Tensor:
    """Append singleton axes to ``t`` (B,) or (B, elements) until it broadcasts against ``x`` (B, ...)."""
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


class Schedule(Configurable):
    """Base class: signal and noise scale of a process as functions of t in [0, 1].

    Attributes:
        t_min: Smallest time that samplers integrate to by default.
        t_max: Largest time at which lambda is finite; 1 unless alpha(1) = 0.
        prior_std: Standard deviation of the noise part of the prior at t = 1.
    """

    t_min: float = 1e-3
    t_max: float = 1.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale, shape of ``t``."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale, shape of ``t``."""

    def endpoint(self, t: Tensor) -> Tensor:
        """Weight beta(t) of the known endpoint x_1; zero unless the schedule has one."""
        return torch.zeros_like(t)

    @property
    def has_endpoint(self) -> bool:
        """True if x_1 enters x_t."""
        return type(self).endpoint is not Schedule.endpoint

    @property
    def prior_std(self) -> float:
        """Noise scale of the prior: sigma(1)."""
        return float(self.sigma(torch.ones((), dtype=torch.float64)))

    @property
    def prior_endpoint(self) -> float:
        """Weight of x_1 in the mean of the prior: beta(1)."""
        return float(self.endpoint(torch.ones((), dtype=torch.float64)))

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2/sigma^2) = 2 lambda(t); infinite where alpha or sigma vanishes."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha/dt."""
        return _derivative(self.alpha, t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """d sigma/dt."""
        return _derivative(self.sigma, t)

    def endpoint_dot(self, t: Tensor) -> Tensor:
        """d beta/dt."""
        return _derivative(self.endpoint, t) if self.has_endpoint else torch.zeros_like(t)

    def sigma_sigma_dot(self, t: Tensor) -> Tensor:
        """sigma dsigma/dt; a method of its own because it stays finite where dsigma/dt does not."""
        return self.sigma(t) * self.sigma_dot(t)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        """f(t) = d log(alpha)/dt of dx = f x dt + g dw."""
        return self.alpha_dot(t) / self.alpha(t)

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), from g^2 = 2 sigma sigma' - 2 f sigma^2 (clamped at 0)."""
        return (2 * (self.sigma_sigma_dot(t) - self.drift_coefficient(t) * self.sigma(t) ** 2)).clamp_min(0).sqrt()

    def time(self, lam: Tensor) -> Tensor:
        """Inverse of lambda(t) = log(alpha/sigma), by bisection in float64 (lambda falls with t)."""
        target = lam.double()
        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(64):
            middle = (low + high) / 2
            is_above = 0.5 * self.log_snr(middle) > target
            low, high = torch.where(is_above, middle, low), torch.where(is_above, high, middle)
        return ((low + high) / 2).to(lam.dtype)


class VariancePreserving(Schedule):
    """Schedules with alpha^2 + sigma^2 = 1, given by log alpha; accurate near both ends."""

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha(t) <= 0, shape of ``t``."""

    @property
    def prior_std(self) -> float:
        """Samplers start from unit noise."""
        return 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.expm1(2 * self.log_alpha(t)).abs().sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        log_alpha = self.log_alpha(t)
        return 2 * log_alpha - torch.log(-torch.expm1(2 * log_alpha))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self.drift_coefficient(t) * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.sigma_sigma_dot(t) / self.sigma(t)

    def sigma_sigma_dot(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.alpha_dot(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return (-2 * self.drift_coefficient(t)).sqrt()


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Pointwise derivative by automatic differentiation in float64, in the dtype of ``t``; works in inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        variable = t.detach().to(torch.float64, copy=True).requires_grad_(True)
        value = function(variable)
        if not value.requires_grad:  # a constant
            return torch.zeros_like(t)
        (slope,) = torch.autograd.grad(value.sum(), variable)
    return slope.to(t.dtype)
