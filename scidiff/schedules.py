r"""Noise schedules: alpha(t), sigma(t) and what follows from them.

Every process is x_t = alpha(t) x_0 + beta(t) x_1 + sigma(t) eps with t in [0, 1], t = 0 data and t = 1 prior. With
lambda(t) = log(alpha/sigma) the linear SDE dx = f(t) x dt + g(t) dw that has these marginals is

    f = d log(alpha)/dt,        g^2 = d(sigma^2)/dt - 2 f sigma^2 = -2 sigma^2 dlambda/dt.

A schedule defines ``alpha`` and ``sigma`` (and ``endpoint`` if it has a known end); derivatives come by automatic
differentiation unless a class gives its closed form. All functions act pointwise on tensors of any shape and keep the
dtype of ``t``; solvers call them in float64.

References: Song et al. 2021, "Score-Based Generative Modeling through SDEs"; Kingma et al. 2021, "Variational Diffusion
Models" (log-SNR); Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models".
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scidiff.configurable import Configurable

__all__ = ["EDM", "VESDE", "VPSDE", "Cosine", "DiscreteVP", "Linear", "Schedule", "SubVPSDE", "Trig", "expand_like"]


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


class VPSDE(Schedule):
    r"""Variance-preserving SDE, dx = -b(t) x / 2 dt + sqrt(b(t)) dw, b(t) = beta_min + t (beta_max - beta_min).

    Args:
        beta_min: Noise rate at t = 0 (1/time), at least 0.
        beta_max: Noise rate at t = 1 (1/time), above ``beta_min``.

    Raises:
        ValueError: If ``beta_max <= beta_min`` or ``beta_min < 0``.

    References: Song et al. 2021, eq. 11, 32-33.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        _check_range("beta_min", beta_min, "beta_max", beta_max)
        self.beta_min, self.beta_max = beta_min, beta_max

    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha(t) = -t^2 (beta_max - beta_min)/4 - t beta_min/2."""
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        log_alpha = self.log_alpha(t)
        return 2 * log_alpha - torch.log(-torch.expm1(2 * log_alpha))

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self._rate(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self._rate(t).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self.drift_coefficient(t) * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.sigma_sigma_dot(t) / self.sigma(t)

    def sigma_sigma_dot(self, t: Tensor) -> Tensor:
        return 0.5 * self._rate(t) * self.alpha(t) ** 2

    def time(self, lam: Tensor) -> Tensor:
        """Closed form: L = 2 (b1 - b0) log(1 + e^{-2 lambda}), t = L / ((b1 - b0)(sqrt(b0^2 + L) + b0))."""
        width = self.beta_max - self.beta_min
        log_term = 2 * width * torch.nn.functional.softplus(-2 * lam.double())
        t = log_term / (width * ((self.beta_min**2 + log_term).sqrt() + self.beta_min))
        return t.to(lam.dtype)

    def _rate(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)


class SubVPSDE(VPSDE):
    r"""Sub-variance-preserving SDE: alpha of `VPSDE`, sigma = 1 - alpha^2, g^2 = b(t)(1 - alpha^4).

    Here alpha^2 + sigma^2 != 1, so only formulas without that assumption apply.

    Args:
        beta_min: Noise rate at t = 0 (1/time), at least 0.
        beta_max: Noise rate at t = 1 (1/time), above ``beta_min``.

    References: Song et al. 2021, eq. 29, 34-35.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__(beta_min, beta_max)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self.log_alpha(t))

    def log_snr(self, t: Tensor) -> Tensor:
        log_alpha = self.log_alpha(t)
        return 2 * log_alpha - 2 * torch.log(-torch.expm1(2 * log_alpha))

    def diffusion(self, t: Tensor) -> Tensor:
        return (self._rate(t) * -torch.expm1(4 * self.log_alpha(t))).sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._rate(t) * self.alpha(t) ** 2

    def sigma_sigma_dot(self, t: Tensor) -> Tensor:
        return self.sigma(t) * self.sigma_dot(t)

    def time(self, lam: Tensor) -> Tensor:
        """From 1/alpha - alpha = e^{-lambda}: log alpha = -asinh(e^{-lambda}/2), then t as for `VPSDE`."""
        width = self.beta_max - self.beta_min
        log_term = 4 * width * torch.asinh(0.5 * (-lam.double()).exp())
        t = log_term / (width * ((self.beta_min**2 + log_term).sqrt() + self.beta_min))
        return t.to(lam.dtype)


class VESDE(Schedule):
    r"""Variance-exploding SDE: alpha = 1, sigma(t) = sigma_min (sigma_max/sigma_min)^t.

    sigma(0) = sigma_min > 0: the data end keeps that much noise.

    Args:
        sigma_min: Noise scale at t = 0 (units of the data), above 0.
        sigma_max: Noise scale at t = 1 (units of the data), above ``sigma_min``.

    Raises:
        ValueError: If the order of the two is wrong.

    References: Song et al. 2021, eq. 9, 30-31.
    """

    t_min = 1e-5

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        _check_range("sigma_min", sigma_min, "sigma_max", sigma_max, is_positive=True)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self._log_ratio = math.log(sigma_max / sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self._log_ratio * t).exp()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._log_ratio * self.sigma(t)

    def time(self, lam: Tensor) -> Tensor:
        """t = -(lambda + log sigma_min)/log(sigma_max/sigma_min)."""
        return -(lam + math.log(self.sigma_min)) / self._log_ratio


class EDM(Schedule):
    r"""EDM: alpha = 1, sigma(t) = sigma_max t, so that steps in t are steps in sigma.

    Args:
        sigma_min: Smallest noise scale that samplers visit (units of the data), above 0; ``t_min`` is their ratio.
        sigma_max: Noise scale at t = 1 (units of the data), above ``sigma_min``.

    Raises:
        ValueError: If the order of the two is wrong.

    References: Karras et al. 2022, table 1 (sigma(t) = t), rescaled to t in [0, 1].
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        _check_range("sigma_min", sigma_min, "sigma_max", sigma_max, is_positive=True)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.t_min = sigma_min / sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma_max)

    def time(self, lam: Tensor) -> Tensor:
        """t = e^{-lambda}/sigma_max."""
        return (-lam).exp() / self.sigma_max


class Cosine(Schedule):
    r"""Cosine schedule: alpha = [cos((t^nu + s)/(1 + s) pi/2) / cos(s/(1 + s) pi/2)]^power, sigma^2 = 1 - alpha^2.

    ``power=1`` is the improved-DDPM schedule; ``power=2`` is what MiDi and EQGAT-diff use for coordinates, where the
    squared cosine is the signal coefficient itself. ``shift`` adds a constant to lambda (data of higher resolution).

    Args:
        s: Offset that keeps the noise rate finite at t = 0, in (0, 1).
        nu: Exponent of time, above 0; larger values keep the signal longer.
        power: Exponent of the cosine, above 0.
        shift: Added to lambda(t).

    Raises:
        ValueError: If an argument is out of range.

    References: Nichol and Dhariwal 2021, eq. 17; Vignac et al. 2023 (MiDi), section 4.2 (nu).
    """

    t_max = 0.9946  # where lambda is still moderate for s = 0.008; at t = 1 the signal is exactly zero

    def __init__(self, s: float = 0.008, nu: float = 1.0, power: float = 1.0, shift: float = 0.0) -> None:
        if not 0 < s < 1 or nu <= 0 or power <= 0:
            raise ValueError(f"Cosine needs 0 < s < 1, nu > 0 and power > 0, got s={s}, nu={nu}, power={power}.")
        self.s, self.nu, self.power, self.shift = s, nu, power, shift

    def alpha(self, t: Tensor) -> Tensor:
        alpha = self._unshifted(t)
        if self.shift == 0:
            return alpha
        scaled = alpha * math.exp(self.shift)
        return scaled / (scaled**2 + (1 - alpha**2)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        alpha = self._unshifted(t)
        variance = (-torch.expm1(2 * alpha.clamp_min(1e-30).log())).clamp_min(0)
        if self.shift == 0:
            return variance.sqrt()
        return (variance / ((alpha * math.exp(self.shift)) ** 2 + variance)).sqrt()

    def _unshifted(self, t: Tensor) -> Tensor:
        start = self.s / (1 + self.s)
        # 1 - (t^nu + s)/(1 + s) = (1 - t^nu)/(1 + s): the sine form is exactly zero at t = 1
        angle = (1 - t**self.nu) / (1 + self.s) * (math.pi / 2)
        return (torch.sin(angle) / math.cos(start * math.pi / 2)).clamp(0, 1) ** self.power


class DiscreteVP(Schedule):
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
            raise ValueError(f"DiscreteVP needs a table of at least 2 values in (0, 1], got shape {tuple(table.shape)}.")
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
        """EQGAT-diff's adaptive table: cos^2 with exponent ``nu`` as signal scale, ratios clipped to [.05, 1], beta <= .999.

        References: Le et al. 2024 (EQGAT-diff), section 3; u_k = (k + 1)/(T + 1).
        """
        u = torch.arange(1, num_levels + 2, dtype=torch.float64) / (num_levels + 1)
        values = torch.cos((u**nu + s) / (1 + s) * math.pi / 2) ** 2 / math.cos(s / (1 + s) * math.pi / 2) ** 2
        ratios = (values[1:] / values[:-1]).clamp(0.05, 1.0).clamp_min(1e-3)
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

    def alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self.drift_coefficient(t) * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.sigma_sigma_dot(t) / self.sigma(t)

    def sigma_sigma_dot(self, t: Tensor) -> Tensor:
        return -self.drift_coefficient(t) * self.alpha(t) ** 2

    def drift_coefficient(self, t: Tensor) -> Tensor:
        slopes = (self._log_alpha.diff() * self.num_levels).to(device=t.device, dtype=t.dtype)
        # the left piece at a node, so that the rate at t_i is the one of the step that ends there
        index = (t * self.num_levels).ceil().long().clamp(1, self.num_levels) - 1
        return slopes[index]


class Linear(Schedule):
    r"""Straight path alpha = 1 - t, sigma = t: rectified flow, optimal-transport conditional flow matching.

    lambda(1) = -inf: rules in lambda start at ``t_max``; the velocity is finite everywhere.

    References: Lipman et al. 2023, eq. 20-23 (their time runs the other way); Liu et al. 2023, eq. 1.
    """

    t_max = 1 - 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t.clone()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, lam: Tensor) -> Tensor:
        """t = 1/(1 + e^lambda)."""
        return torch.sigmoid(-lam)


class Trig(Schedule):
    r"""Trigonometric path alpha = cos(pi t/2), sigma = sin(pi t/2): variance preserving with bounded velocity.

    References: Albergo and Vanden-Eijnden 2023, table 2 (one-sided trigonometric); Ma et al. 2024 (SiT), GVP.
    """

    t_max = 1 - 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin((1 - t) * (math.pi / 2))  # exactly zero at t = 1

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * (math.pi / 2))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -(math.pi / 2) * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return (math.pi / 2) * self.alpha(t)

    def time(self, lam: Tensor) -> Tensor:
        """t = (2/pi) atan(e^{-lambda})."""
        return torch.atan((-lam).exp()) * (2 / math.pi)


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Pointwise derivative by automatic differentiation in float64, returned in the dtype of ``t``."""
    with torch.enable_grad():
        variable = t.detach().double().requires_grad_(True)
        (slope,) = torch.autograd.grad(function(variable).sum(), variable)
    return slope.to(t.dtype)


def _check_range(low_name: str, low: float, high_name: str, high: float, is_positive: bool = False) -> None:
    if high <= low or low < 0 or (is_positive and low == 0):
        bound = "0 <" if is_positive else "0 <="
        raise ValueError(f"expected {bound} {low_name} < {high_name}, got {low_name}={low}, {high_name}={high}.")
