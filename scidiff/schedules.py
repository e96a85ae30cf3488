r"""Noise schedules: alpha(t), sigma(t) and what follows from them.

Every process is x_t = alpha(t) x_0 + beta(t) x_1 + sigma(t) eps with t in [0, 1], t = 0 data and t = 1 prior. With
lambda(t) = log(alpha/sigma) the linear SDE dx = f(t) x dt + g(t) dw that has these marginals is

    f = d log(alpha)/dt,        g^2 = d(sigma^2)/dt - 2 f sigma^2 = -2 sigma^2 dlambda/dt.

A schedule defines ``alpha`` and ``sigma`` (and ``endpoint`` if it has a known end); derivatives come by automatic
differentiation unless a class gives its closed form, as all classes here do. All functions act pointwise on tensors of
any shape and keep the dtype of ``t``; solvers call them in float64.

References: Song et al. 2021, "Score-Based Generative Modeling through SDEs"; Kingma et al. 2021, "Variational Diffusion
Models" (log-SNR); Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scidiff.schedule_base import Schedule, VariancePreserving, expand_like
from scidiff.tables import DiscreteVP

__all__ = ["EDM", "VESDE", "VPSDE", "Cosine", "DiscreteVP", "Linear", "Schedule", "SubVPSDE", "Trig", "expand_like"]


class VPSDE(VariancePreserving):
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

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self._rate(t)

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


class Cosine(VariancePreserving):
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

    def log_alpha(self, t: Tensor) -> Tensor:
        log_alpha = self._unshifted(t)
        if self.shift == 0:
            return log_alpha
        log_snr = 2 * (log_alpha + self.shift) - torch.log(-torch.expm1(2 * log_alpha))
        return torch.nn.functional.logsigmoid(log_snr) / 2

    def drift_coefficient(self, t: Tensor) -> Tensor:
        """-power tan(theta) theta', times d log(alpha)/d log(unshifted alpha) = 1/(1 + (e^{2 shift} - 1) alpha_u^2)."""
        rate = math.pi / 2 / (1 + self.s) * self.nu * t ** (self.nu - 1)
        drift = -self.power * rate / torch.tan(self._complement(t))
        if self.shift == 0:
            return drift
        return drift / (1 + math.expm1(2 * self.shift) * (2 * self._unshifted(t)).exp())

    def alpha_dot(self, t: Tensor) -> Tensor:
        slope = self.drift_coefficient(t) * self.alpha(t)
        if self.power != 1:
            return torch.where(t < 1, slope, 0.0 if self.power > 1 else -torch.inf)
        end = -math.pi / 2 / (1 + self.s) * self.nu * math.exp(self.shift) / math.cos(self._start)
        return torch.where(t < 1, slope, end)

    def time(self, lam: Tensor) -> Tensor:
        """Closed form: 1 - t^nu = (1 + s)(2/pi) asin(cos(theta_0) alpha_u^{1/power})."""
        log_alpha = torch.nn.functional.logsigmoid(2 * (lam.double() - self.shift)) / 2
        # asin(c) = pi/2 - theta; from the tangent, which is accurate at both ends
        cosine = (log_alpha / self.power).exp() * math.cos(self._start)
        sine_square = math.sin(self._start) ** 2 - math.cos(self._start) ** 2 * torch.expm1(2 * log_alpha / self.power)
        theta = torch.atan2(sine_square.sqrt(), cosine)
        power_of_t = (theta - self._start) * (1 + self.s) * (2 / math.pi)
        return (power_of_t.clamp(0, 1) ** (1 / self.nu)).to(lam.dtype)

    @property
    def _start(self) -> float:
        return self.s / (1 + self.s) * math.pi / 2

    def _complement(self, t: Tensor) -> Tensor:
        """pi/2 - theta(t), exactly zero at t = 1."""
        return (1 - t**self.nu) / (1 + self.s) * (math.pi / 2)

    def _unshifted(self, t: Tensor) -> Tensor:
        """log alpha without the shift: power log(cos theta/cos theta_0), by log1p where the ratio is near 1."""
        step = t**self.nu / (1 + self.s) * (math.pi / 2)  # theta - theta_0
        small = torch.log1p(-2 * torch.sin(step / 2) * torch.sin(step / 2 + self._start) / math.cos(self._start))
        large = (torch.sin(self._complement(t)) / math.cos(self._start)).clamp(0, 1).log()
        return self.power * torch.where(step < 0.5, small, large)


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

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - t.log())

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


def _check_range(low_name: str, low: float, high_name: str, high: float, is_positive: bool = False) -> None:
    if high <= low or low < 0 or (is_positive and low == 0):
        bound = "0 <" if is_positive else "0 <="
        raise ValueError(f"expected {bound} {low_name} < {high_name}, got {low_name}={low}, {high_name}={high}.")
