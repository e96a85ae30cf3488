r"""Correlated noise of windows: Gaussian-process and fractional priors, as laws for any preset.

With noise L z, L L^T = K over the steps of a window, every path alpha x_0 + sigma L z keeps its solvers, guidances and
conversions; on the straight path of ``preset="flow"`` this is flow matching from a Gaussian-process base.

References: Kollovieh et al. 2025, "Flow Matching with Gaussian Process Priors for Probabilistic Time Series
Forecasting" (TSFlow), section 3; Bilos et al. 2023.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from scidiff.laws import GaussianNoise
from timeseries.data import calendar, fractional
from timeseries.data.scaling import SeriesSpec

__all__ = ["KERNELS", "FractionalNoise", "GPNoise", "WindowNoise", "kernel_matrix", "season_of"]

KERNELS = ("se", "ou", "periodic", "white")
_JITTER = 1e-4
_DAILY_SEASON = 30  # of daily and business-day series, which have none of their own


def season_of(freq: str) -> int:
    """Season in steps that kernels take: that of the frequency, 30 for daily and business-day series."""
    base = calendar.split_freq(calendar.normalize_freq(freq))[1]
    return _DAILY_SEASON if base in ("D", "B") else calendar.season_length(freq)


def kernel_matrix(
    kernel: str, length: int, *, season: int = 24, gamma: float = 1.0, noise: float = 1e-2, jitter: float = _JITTER
) -> Tensor:
    """Covariance (length, length), float64: a kernel on times pi k/season, plus (noise + jitter) I.

    Args:
        kernel: ``"se"`` exp(-gamma d^2), ``"ou"`` exp(-gamma |d|), ``"periodic"`` exp(-gamma sin^2 d), ``"white"``
            gamma at d = 0.
        length: Steps.
        season: Steps that are pi apart: the period of the periodic kernel.
        gamma: Inverse (squared) length.
        noise: Variance of white noise that is added.
        jitter: Further variance for stability.

    Raises:
        ValueError: If the kernel is unknown or a number is out of range.
    """
    if kernel not in KERNELS or gamma <= 0 or noise < 0 or season < 1:
        raise ValueError(
            f"expected a kernel of {', '.join(KERNELS)}, gamma > 0, noise >= 0 and season >= 1, got {kernel!r}, "
            f"{gamma}, {noise} and {season}."
        )
    time = torch.arange(length, dtype=torch.float64) * (torch.pi / season)
    d = time[:, None] - time
    identity = torch.eye(length, dtype=torch.float64)
    values = {
        "se": lambda: (-gamma * d.square()).exp(),
        "ou": lambda: (-gamma * d.abs()).exp(),
        "periodic": lambda: (-gamma * d.sin().square()).exp(),
        "white": lambda: gamma * identity,
    }[kernel]()
    return values + (noise + jitter) * identity


class WindowNoise(GaussianNoise):
    """Noise that is correlated over the steps of a window, whose length may be left to the data.

    Without a length it is a template: `fitted` gives the law of windows of one length.
    """

    def __init__(self, length: int | None = None) -> None:
        if length is None:
            self.axis, self._factor = 1, torch.zeros(0, 0, dtype=torch.float64)  # any state is refused
        else:
            super().__init__(torch.linalg.cholesky(self.covariance(length)), axis=1)

    @abstractmethod
    def covariance(self, length: int) -> Tensor:
        """K (length, length), float64."""

    @abstractmethod
    def fitted(self, spec: SeriesSpec) -> WindowNoise:
        """The law for the windows of a specification."""


class GPNoise(WindowNoise):
    """Gaussian-process prior over the steps of a window.

    Args:
        kernel: See `kernel_matrix`.
        gamma: See `kernel_matrix`.
        season: Season in steps; that of the frequency if absent.
        noise: White variance that is added.
        length: Steps of a window; taken from the data if absent.

    Raises:
        ValueError: If an argument is out of range.

    References: Kollovieh et al. 2025 (TSFlow), section 3.2.
    """

    def __init__(
        self,
        kernel: str = "ou",
        gamma: float = 1.0,
        season: int | None = None,
        noise: float = 1e-2,
        length: int | None = None,
    ) -> None:
        self.kernel, self.gamma, self.season, self.noise = kernel, gamma, season, noise
        self.covariance(1)
        super().__init__(length)

    def covariance(self, length: int) -> Tensor:
        """See `kernel_matrix`."""
        season = 24 if self.season is None else self.season
        return kernel_matrix(self.kernel, length, season=season, gamma=self.gamma, noise=self.noise)

    def fitted(self, spec: SeriesSpec) -> GPNoise:
        """With the length of the windows and the season of their frequency."""
        season = season_of(spec.freq) if self.season is None else self.season
        return GPNoise(self.kernel, self.gamma, season, self.noise, spec.length)


class FractionalNoise(WindowNoise):
    """Fractional prior over the steps of a window, of mean variance 1.

    Args:
        hurst: Hurst index in (0, 1); above 1/2 the memory is long.
        kind: ``"noise"`` fractional Gaussian noise, stationary; ``"motion"`` fractional Brownian motion from 0 at the
            step before the window; ``"markov"`` its Markov approximation by six Ornstein-Uhlenbeck processes.
        length: Steps of a window; taken from the data if absent.

    Raises:
        ValueError: If an argument is out of range.

    References: Mandelbrot and Van Ness 1968; Daems et al. 2024 (Markov approximation).
    """

    def __init__(self, hurst: float = 0.7, kind: str = "noise", length: int | None = None) -> None:
        if kind not in ("noise", "motion", "markov"):
            raise ValueError(f"kind must be 'noise', 'motion' or 'markov', got {kind!r}.")
        self.hurst, self.kind = hurst, kind
        self.covariance(1)
        super().__init__(length)

    def covariance(self, length: int) -> Tensor:
        """The exact covariance, divided by its mean diagonal; jitter keeps smooth motions positive definite."""
        times = np.arange(1, length + 1) / length
        if self.kind == "noise":
            row = fractional.noise_autocovariance(self.hurst, length)
            matrix = row[np.abs(np.subtract.outer(np.arange(length), np.arange(length)))]
        elif self.kind == "motion":
            matrix = fractional.motion_covariance(self.hurst, times)
        else:
            matrix = fractional.markov_covariance(self.hurst, times)
        scaled = torch.as_tensor(matrix / np.diag(matrix).mean(), dtype=torch.float64)
        return scaled if self.kind == "noise" else scaled + _JITTER * torch.eye(length, dtype=torch.float64)

    def fitted(self, spec: SeriesSpec) -> FractionalNoise:
        """With the length of the windows."""
        return FractionalNoise(self.hurst, self.kind, spec.length)
