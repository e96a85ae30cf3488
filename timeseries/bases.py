r"""Bases of conditional models: where a window is expected to be, given what is known of it.

A base gives the mean mu of a window under what is observed, and the law of the noise around it. The path then runs from
mu + L z to the data, x_t = alpha x_0 + (1 - alpha) mu + sigma L z for the straight path, which is an ordinary process
for x_0 - mu: only the location of a window changes, so every preset and solver applies.

References: Kollovieh et al. 2025 (TSFlow), section 3.3 (conditional prior by Gaussian-process regression).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from scidiff.configurable import Configurable
from scidiff.laws import GaussianNoise, NoiseLaw
from timeseries.data import calendar
from timeseries.data.scaling import SeriesSpec
from timeseries.priors import kernel_matrix, season_of

__all__ = ["Base", "GPBase", "GPResidual", "SeasonalBase"]


class Base(Configurable):
    """Mean of windows given their known part, and the law of the noise around it."""

    @abstractmethod
    def mean(self, values: Tensor, known: Tensor) -> Tensor:
        """Expected windows (B, L, D).

        Args:
            values: Windows (B, L, D) in scaled units; ignored where not known.
            known: True where known.
        """

    @abstractmethod
    def fitted(self, spec: SeriesSpec) -> Base:
        """The base for the windows of a specification."""

    def law(self, spec: SeriesSpec) -> NoiseLaw | None:
        """Law of the unit noise around the mean; None for the one that the model has anyway."""
        return None


class GPResidual(GaussianNoise):
    """Noise of a Gaussian-process regression: K - K_{.c} K_{cc}^{-1} K_{c.} over a window, c its context.

    Args:
        context_length: Steps of the context.
        length: Steps of the window.
        kernel: See `timeseries.priors.kernel_matrix`.
        gamma: Inverse (squared) length.
        season: Season in steps.
        noise: White variance of the kernel, above 0.
    """

    def __init__(self, context_length: int, length: int, kernel: str, gamma: float, season: int, noise: float) -> None:
        smooth = kernel_matrix(kernel, length, season=season, gamma=gamma, noise=0.0, jitter=0.0)
        white = _variance(noise) * torch.eye(length, dtype=torch.float64)
        seen = smooth[:, :context_length]
        gain = torch.linalg.solve((smooth + white)[:context_length, :context_length], seen.T)
        super().__init__(torch.linalg.cholesky(smooth + white - seen @ gain), axis=1)


class GPBase(Base):
    r"""Gaussian-process regression: mu = p + K_{.o} (K_{oo} + n I)^{-1} (y_o - p_o), n the white variance.

    p is the mean of the known values of the same phase (0 for the periodic kernel). The noise around mu has the
    covariance of the regression on a complete context, K + n I - K_{.c} (K_{cc} + n I)^{-1} K_{c.}; context values are
    drawn anew, with white noise of their own. It is one law for all windows: where context values are missing the mean
    is exact for what is known, the law stays that of a complete context.

    Args:
        kernel: See `timeseries.priors.kernel_matrix`.
        gamma: Inverse (squared) length.
        season: Season in steps; that of the frequency if absent.
        noise: White variance n.

    Raises:
        ValueError: If an argument is out of range.

    References: Kollovieh et al. 2025 (TSFlow), section 3.3. Departure: the regression sees the context of the window,
        no history before it.
    """

    def __init__(self, kernel: str = "ou", gamma: float = 1.0, season: int | None = None, noise: float = 0.1) -> None:
        self.kernel, self.gamma, self.season, self.noise = kernel, gamma, season, noise
        self._covariance(1)

    def mean(self, values: Tensor, known: Tensor) -> Tensor:
        """See the class; one linear system a window and variate, in float64."""
        y, m = torch.where(known, values, 0).double().transpose(1, 2), known.transpose(1, 2)  # (B, D, L)
        phase = torch.zeros_like(y) if self.kernel == "periodic" else _phase_mean(y, m, self.season or 1)
        smooth = self._covariance(y.shape[-1]).to(y.device)
        white = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        system = torch.where(m[..., None] & m[..., None, :], smooth + _variance(self.noise) * white, white)
        weights = torch.linalg.solve(system, torch.where(m, y - phase, 0)[..., None])
        return (phase + (smooth @ weights)[..., 0]).transpose(1, 2).to(values.dtype)

    def fitted(self, spec: SeriesSpec) -> GPBase:
        """With the season of the frequency."""
        return GPBase(self.kernel, self.gamma, self.season or season_of(spec.freq), self.noise)

    def law(self, spec: SeriesSpec) -> NoiseLaw:
        """Law of the regression on a complete context."""
        return GPResidual(spec.context_length, spec.length, self.kernel, self.gamma, self.season or 1, self.noise)

    def _covariance(self, length: int) -> Tensor:
        """Kernel without white noise."""
        return kernel_matrix(self.kernel, length, season=self.season or 1, gamma=self.gamma, noise=0.0, jitter=0.0)


class SeasonalBase(Base):
    """Seasonal naive: the last known value of the same phase, or the next one, or the mean of what is known.

    Known values are their own mean. The noise around it is the law of the model.

    Args:
        season: Season in steps; that of the frequency if absent (1: the last known value).

    Raises:
        ValueError: If ``season`` is below 1.
    """

    def __init__(self, season: int | None = None) -> None:
        if season is not None and season < 1:
            raise ValueError(f"season must be at least 1, got {season}.")
        self.season = season

    def mean(self, values: Tensor, known: Tensor) -> Tensor:
        """See the class."""
        season = self.season or 1
        length = values.shape[1]
        rows = -(-length // season)
        pad = (0, 0, 0, rows * season - length)
        y = torch.nn.functional.pad(torch.where(known, values, 0), pad).unflatten(1, (rows, season))
        m = torch.nn.functional.pad(known, pad).unflatten(1, (rows, season))
        place = torch.arange(rows, device=y.device).reshape(-1, 1, 1).expand(m.shape)
        before = torch.where(m, place, -1).cummax(1).values
        after = rows - 1 - torch.where(m, rows - 1 - place, -1).flip(1).cummax(1).values.flip(1)
        index = torch.where(before >= 0, before, after.clamp_max(rows - 1))
        found = y.gather(1, index)
        center = y.sum((1, 2), keepdim=True) / m.sum((1, 2), keepdim=True).clamp_min(1)
        return torch.where(m.any(1, keepdim=True), found, center).flatten(1, 2)[:, :length]

    def fitted(self, spec: SeriesSpec) -> SeasonalBase:
        """With the season of the frequency."""
        return SeasonalBase(self.season or calendar.season_length(spec.freq))


def _variance(noise: float) -> float:
    """White variance with the jitter."""
    return noise + 1e-4


def _phase_mean(y: Tensor, known: Tensor, season: int) -> Tensor:
    """Mean (B, D, L) of the known values of the same phase; where there are none, of all known values."""
    phase = torch.arange(y.shape[-1], device=y.device) % season
    group = torch.nn.functional.one_hot(phase, min(season, y.shape[-1])).to(y)  # (L, season)
    count, total = known.to(y) @ group, y @ group
    overall = total.sum(-1, keepdim=True) / count.sum(-1, keepdim=True).clamp_min(1)
    return torch.where(count > 0, total / count.clamp_min(1), overall) @ group.T
