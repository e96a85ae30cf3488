r"""Observation self-guidance of time-series diffusion: the gradient of a misfit between predicted end point and y."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance.base import Guidance, Point, Shift, require_gaussian
from scidiff.guidance.observation import Observation
from scidiff.noise import NoiseSource
from scidiff.process import State
from scidiff.schedules import expand_like

__all__ = ["SelfGuidance", "quantile_levels"]


class SelfGuidance(Guidance):
    r"""g = -scale grad_x E, with E over the observed entries and e = y - H x0(x_t):

    * ``"ms"``: E = sum e^2 (no 1/2);
    * ``"quantile"``: E = sum max(q e, (q - 1) e), one level q per sample (`quantile_levels`).

    ``parity="paper"`` shifts the prediction, x0 + (sigma^2/alpha) S g, for every solver: TSDiff's DDIM form. Scales of
    TSDiff's DDPM sampler refer to ``parity="ddpm"``, which moves the state after each step to s by v_t g with the
    posterior variance v_t = sigma_{t|s}^2 sigma_s^2/sigma_t^2. For ``"ancestral"`` that is the paper form times
    alpha_{t|s} sigma_s^2/sigma_t^2. TSDiff takes its gradient at the stepped state, with a second evaluation; here it
    is the one at x_t. Use ``"ddpm"`` with one-evaluation solvers.

    One network call and one backward pass. Quantile guidance treats every number by itself, which is not equivariant
    under rotations, so it is refused for components that were not flagged as time series.

    Args:
        observation: What was measured; ``noise_std`` is not used.
        loss: ``"ms"`` or ``"quantile"``.
        scale: Strength (1 to 8 are TSDiff's for the quantile loss).
        parity: ``"paper"`` or ``"ddpm"``.
        num_samples: S, samples of one window, which follow one another in the batch; the whole batch if absent.
        levels: Quantile level (B,) of each sample, in place of ``num_samples``.
        time_series: Names of the components of a system that are time series. A process of one tensor needs no flag.

    Raises:
        ValueError: If an option is unknown; when wrapping, if the observed component is not a time series (quantile).

    References: Kollovieh et al. 2023, "Predict, refine, synthesize: self-guiding diffusion models for probabilistic
    time series forecasting" (observation self-guidance).
    """

    needs_jacobian: ClassVar[bool] = True

    def __init__(
        self,
        observation: Observation,
        loss: Literal["ms", "quantile"] = "quantile",
        scale: float = 1.0,
        parity: Literal["paper", "ddpm"] = "paper",
        *,
        num_samples: int | None = None,
        levels: Tensor | None = None,
        time_series: Sequence[str] = (),
    ) -> None:
        if loss not in ("ms", "quantile") or parity not in ("paper", "ddpm"):
            raise ValueError(
                f"expected loss 'ms' or 'quantile' and parity 'paper' or 'ddpm', got {loss!r}, {parity!r}."
            )
        self.observation, self.loss, self.scale, self.parity = observation, loss, float(scale), parity
        self.num_samples, self.levels, self.time_series = num_samples, levels, tuple(time_series)
        self._times: dict[str, Tensor] = {}
        self._slopes: Shift = {}

    def check(self, den: Denoiser) -> None:
        """Refuse finite D, unknown components, and quantiles of what is not a time series."""
        require_gaussian(den, self)
        self.observation.check(den.process)
        name = self.observation.component
        if self.loss == "quantile" and den.process.is_system and name not in self.time_series:
            raise ValueError(
                f"quantile guidance acts on each number by itself and breaks rotation symmetry; component {name!r} is "
                f"not flagged as a time series. Pass time_series=({name!r},) if it is one, else use loss='ms'."
            )
        self._process, self._times, self._slopes = den.process, {}, {}

    def shift(self, point: Point) -> Shift:
        """(sigma^2/alpha) S g, or nothing for ``parity="ddpm"``, where `constrain` moves the state."""
        with torch.enable_grad():
            error = self.observation.residual(point.x0)
            value = error.square().sum() if self.loss == "ms" else self._pinball(error)
        slopes = {name: -self.scale * slope for name, slope in point.gradients([value]).items()}
        if self.parity == "paper":
            return point.lift(slopes)
        self._times, self._slopes = point.times, {name: point.metric(name, g) for name, g in slopes.items()}
        return {}

    def constrain(self, x: State, t: Tensor, source: NoiseSource) -> State:
        """``parity="ddpm"``: x + v g with the posterior variance v of the step that led to ``t``."""
        parts, slopes = self._process.split(x), self._slopes
        self._slopes = {}
        for name, g in slopes.items():
            schedule, now = self._process.continuous[name].schedule, self._times[name].double()
            then = t.to(now)
            alpha, sigma_t, sigma_s = (
                schedule.alpha(now) / schedule.alpha(then),
                schedule.sigma(now),
                schedule.sigma(then),
            )
            variance = (sigma_t**2 - alpha**2 * sigma_s**2).clamp_min(0) * torch.where(
                sigma_t > 0, sigma_s**2 / torch.where(sigma_t > 0, sigma_t, 1) ** 2, 0
            )
            parts[name] = parts[name] + expand_like(variance.to(g.dtype), g) * g
        return self._process.join(parts)

    def _pinball(self, error: Tensor) -> Tensor:
        levels = self.levels if self.levels is not None else quantile_levels(len(error), self.num_samples)
        if len(levels) != len(error):
            raise ValueError(f"expected one quantile level a sample ({len(error)}), got {len(levels)}.")
        q = levels.to(error).reshape(-1, *(1,) * (error.ndim - 1))
        return torch.maximum(q * error, (q - 1) * error).sum()


def quantile_levels(batch_size: int, num_samples: int | None = None) -> Tensor:
    """Levels (B,) of a batch of windows with S samples each: (j + 1)/(S + 1) for sample j = 0 ... S - 1 of its window.

    Raises:
        ValueError: If the batch is not a whole number of windows; levels belong to all S samples of a window.
    """
    size = batch_size if num_samples is None else num_samples
    if size < 1 or batch_size % size:
        raise ValueError(
            f"quantile guidance needs all samples of a window in one batch: batch size {batch_size} is not a multiple "
            f"of num_samples={size}. Pass levels= for other arrangements."
        )
    return (torch.arange(batch_size, dtype=torch.float64) % size + 1) / (size + 1)
