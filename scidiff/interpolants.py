r"""Stochastic interpolants: paths between a base law and the data with a latent noise in the middle.

Papers write x_u = a(u) base + b(u) data + gamma(u) z with u = 0 at the base; here t = 1 - u, so alpha(t) = b(1 - t),
beta(t) = a(1 - t) and sigma(t) = gamma(1 - t), with x_0 the data and x_1 the base. The velocity of the flow is
E[alpha' x_0 + beta' x_1 + sigma' eps | x_t], the score is -E[eps | x_t]/sigma, and

    velocity = E[alpha' x_0 + beta' x_1 | x_t] - sigma sigma' score.

If x_1 is shown to the network the path is an ordinary diffusion after the shift by beta x_1 and every solver applies.
If it is not, x_0 does not follow from the velocity, and a network needs the heads "velocity" (flow) or both
("velocity", "score") (SDE).

References: Albergo, Boffi, Vanden-Eijnden 2023, "Stochastic Interpolants: A Unifying Framework for Flows and
Diffusions".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from scidiff.schedule_base import Schedule

__all__ = ["GAMMAS", "PATHS", "Custom", "Interpolant"]

PATHS = ("linear", "trig", "encoding_decoding", "one_sided_linear", "one_sided_trig", "mirror")
GAMMAS = ("brownian", "bsquared", "sinesquared", "sigmoid", "zero")
Path = Literal["linear", "trig", "encoding_decoding", "one_sided_linear", "one_sided_trig", "mirror"]
Gamma = Literal["brownian", "bsquared", "sinesquared", "sigmoid", "zero"]
_SLOPE = 10.0  # f of the sigmoid form


class Interpolant(Schedule):
    r"""x_t = alpha(t) x_0 + beta(t) x_1 + sigma(t) eps for the named path and latent noise gamma.

    | path | alpha(t), beta(t) |
    | --- | --- |
    | ``"linear"`` | 1 - t, t |
    | ``"trig"`` | sqrt(1 - sigma^2) cos(pi t/2), sqrt(1 - sigma^2) sin(pi t/2) |
    | ``"encoding_decoding"`` | cos^2(pi t) and 0 for t <= 1/2, 0 and cos^2(pi t) after; needs ``"sinesquared"`` |
    | ``"one_sided_linear"`` | 1 - t, and the Gaussian base is eps: sigma = t |
    | ``"one_sided_trig"`` | cos(pi t/2), and sigma = sin(pi t/2) |
    | ``"mirror"`` | 1, 0: data plus noise that comes and goes, so x at t = 1 is data again |

    gamma is even about t = 1/2: ``"brownian"`` sqrt(scale t (1 - t)), ``"bsquared"`` t (1 - t), ``"sinesquared"``
    sin^2(pi t), ``"sigmoid"`` S(f (t - 1/2) + 1) - S(f (t - 1/2) - 1) minus its value at 0, f = 10, ``"zero"``.

    Where the path is at x_1 itself (t = 1) a *known* x_1 makes a point, which no flow leaves; see
    `scidiff.endpoints.BrownianBridge`.

    Args:
        path: One of `PATHS`.
        gamma: One of `GAMMAS`; one-sided paths have none ("zero").
        scale: Factor A of the brownian gamma^2 (squared units of the data), above 0.

    Raises:
        ValueError: If a name is unknown, or path and gamma do not fit.

    References: Albergo, Boffi, Vanden-Eijnden 2023, section 4.
    """

    def __init__(self, path: Path = "linear", gamma: Gamma = "brownian", scale: float = 1.0) -> None:
        if path not in PATHS or gamma not in GAMMAS or scale <= 0:
            raise ValueError(
                f"Interpolant needs a path of {PATHS}, a gamma of {GAMMAS} and scale > 0, got {path!r}, {gamma!r} "
                f"and {scale}."
            )
        if path == "encoding_decoding" and gamma != "sinesquared":
            raise ValueError(
                "path 'encoding_decoding' passes through pure noise, so gamma(1/2) = 1 is needed: use 'sinesquared', "
                f"got {gamma!r}."
            )
        if path.startswith("one_sided") and gamma != "zero":
            raise ValueError(
                f"path {path!r} has the Gaussian base as its noise and no gamma: use 'zero', got {gamma!r}."
            )
        if path == "mirror" and gamma == "zero":
            raise ValueError("path 'mirror' with gamma 'zero' does not move: choose another gamma.")
        if path == "trig" and gamma == "brownian" and scale > 4:
            raise ValueError(f"path 'trig' needs gamma <= 1, so scale <= 4 for 'brownian', got {scale}.")
        self.path, self.gamma, self.scale = path, gamma, scale
        self.t_max = {"mirror": 1.0, "encoding_decoding": 0.5 - 1e-3}.get(path, 1 - 1e-3)

    @property
    def has_endpoint(self) -> bool:
        """True for the two-sided paths."""
        return self.path in ("linear", "trig", "encoding_decoding")

    def alpha(self, t: Tensor) -> Tensor:
        if self.path in ("linear", "one_sided_linear"):
            return 1 - t
        if self.path == "one_sided_trig":
            return torch.sin((1 - t) * (math.pi / 2))
        if self.path == "mirror":
            return torch.ones_like(t)
        if self.path == "trig":
            return self._remainder(t) * torch.sin((1 - t) * (math.pi / 2))
        return torch.where(t <= 0.5, torch.cos(math.pi * t) ** 2, 0.0)

    def endpoint(self, t: Tensor) -> Tensor:
        """beta(t), the weight of the base of a two-sided path."""
        if self.path == "linear":
            return t.clone()
        if self.path == "trig":
            return self._remainder(t) * torch.sin(t * (math.pi / 2))
        if self.path == "encoding_decoding":
            return torch.where(t > 0.5, torch.cos(math.pi * t) ** 2, 0.0)
        return torch.zeros_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        if self.path == "one_sided_linear":
            return t.clone()
        if self.path == "one_sided_trig":
            return torch.sin(t * (math.pi / 2))
        if self.gamma == "brownian":
            return _root(self.scale * t * (1 - t))
        if self.gamma == "bsquared":
            return t * (1 - t)
        if self.gamma == "sinesquared":
            return torch.sin(math.pi * torch.minimum(t, 1 - t)) ** 2  # exactly zero at both ends, as the next one
        if self.gamma == "sigmoid":
            return _bump(-_SLOPE * (t - 0.5).abs()) - _bump(torch.full_like(t, -_SLOPE / 2))
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        if self.path.startswith("one_sided") or self.gamma != "brownian":
            return super().sigma_dot(t)
        return self.sigma_sigma_dot(t) / self.sigma(t)  # infinite at both ends

    def sigma_sigma_dot(self, t: Tensor) -> Tensor:
        if self.gamma == "brownian":
            return 0.5 * self.scale * (1 - 2 * t)
        return super().sigma_sigma_dot(t)

    def time(self, lam: Tensor) -> Tensor:
        """Inverse of lambda by bisection.

        Raises:
            ValueError: If lambda does not fall with t: mirror paths, and two-sided ones without noise.
        """
        if self.path == "mirror" or (self.has_endpoint and self.gamma == "zero"):
            raise ValueError(f"lambda of {self!r} does not fall with time: use grid='uniform' or 'quadratic'.")
        return super().time(lam)

    def _remainder(self, t: Tensor) -> Tensor:
        """sqrt(1 - sigma^2); has a kink at t = 1/2 if gamma reaches 1, where the slope is taken as 0."""
        if self.gamma == "sinesquared":  # 1 - sin^4 = cos^2 (1 + sin^2), without cancellation near t = 1/2
            return torch.cos(math.pi * t).abs() * (1 + torch.sin(math.pi * t) ** 2).sqrt()
        variance = self.scale * t * (1 - t) if self.gamma == "brownian" else self.sigma(t) ** 2
        return _root(1 - variance)


class Custom(Schedule):
    """A schedule from callables; derivatives come by automatic differentiation in float64.

    Callables have no description as plain data: such a schedule works everywhere, but ``to_config``, checkpoints and
    YAML refuse it. For those write a subclass of `scidiff.schedule_base.Schedule` with numbers as arguments.

    Args:
        alpha: Signal scale, a differentiable function of a tensor of times.
        sigma: Noise scale.
        beta: Weight of the known endpoint; None for none.
        t_min: Smallest time that samplers integrate to.
        t_max: Largest time with alpha > 0.

    Example:
        >>> Custom(lambda t: 1 - t**2, lambda t: t)
    """

    def __init__(
        self,
        alpha: Callable[[Tensor], Tensor],
        sigma: Callable[[Tensor], Tensor],
        beta: Callable[[Tensor], Tensor] | None = None,
        t_min: float = 1e-3,
        t_max: float = 1.0,
    ) -> None:
        self._alpha, self._sigma, self._beta = alpha, sigma, beta
        self.t_min, self.t_max = t_min, t_max

    @property
    def has_endpoint(self) -> bool:
        """True if ``beta`` was given."""
        return self._beta is not None

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._sigma(t)

    def endpoint(self, t: Tensor) -> Tensor:
        """beta(t)."""
        return torch.zeros_like(t) if self._beta is None else self._beta(t)

    def to_config(self) -> dict[str, Any]:
        """Always raises.

        Raises:
            TypeError: Callables cannot be written as plain data.
        """
        raise TypeError(
            "a Custom schedule is made of callables, which cannot be saved as plain data. Write a subclass of "
            "scidiff.schedule_base.Schedule whose constructor takes numbers."
        )

    def __repr__(self) -> str:
        return f"Custom(t_min={self.t_min}, t_max={self.t_max})"


def _root(x: Tensor) -> Tensor:
    """Square root with value and slope 0 at and below 0."""
    is_positive = x > 0
    return torch.where(is_positive, torch.where(is_positive, x, 1.0).sqrt(), 0.0)


def _bump(x: Tensor) -> Tensor:
    return torch.sigmoid(x + 1) - torch.sigmoid(x - 1)
