"""Forecasts that a model has to beat: seasonal naive, random walk, their Gaussian versions, and ridge regression.

Figures of these stand beside every result of a model; a probabilistic model that does not beat its Gaussian naive has
learnt nothing beyond the scale of a series.

References: Hyndman and Athanasopoulos 2021, "Forecasting: Principles and Practice", sections 5.2 and 5.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri

from scidiff.configurable import Configurable
from timeseries.metrics import DECILES

__all__ = ["NormalForecast", "Ridge", "gaussian_naive", "seasonal_naive"]

_SCALE_FLOOR = 1e-7


def seasonal_naive(past: Sequence[np.ndarray], prediction_length: int, season: int = 1) -> np.ndarray:
    """Step h = 0, 1, ... repeats the past value at n - season + (h mod season); season 1 is the random walk.

    Where that value is NaN, one season further back is taken; a series that is shorter than the season, or has nothing
    there, repeats its mean.

    Args:
        past: Values (n,) before each window, NaN where missing.
        prediction_length: Steps P.
        season: Season length m.

    Returns:
        Point forecasts (W, P).
    """
    if prediction_length < 1 or season < 1:
        raise ValueError(f"prediction_length and season must be at least 1, got {prediction_length} and {season}.")
    phases = np.arange(prediction_length) % season
    rows = []
    for series in past:
        values = np.asarray(series, dtype=np.float64)
        known = np.isfinite(values)
        cycle = np.full(season, values[known].mean() if known.any() else np.nan)
        if len(values) >= season:
            whole = values[len(values) % season :].reshape(-1, season)
            there = np.isfinite(whole)
            last = len(whole) - 1 - there[::-1].argmax(0)
            cycle = np.where(there.any(0), whole[last, np.arange(season)], cycle)
        rows.append(cycle[phases])
    return np.stack(rows)


@dataclass(frozen=True)
class NormalForecast:
    """Independent normal distributions: ``mean`` and ``std``, both (W, P)."""

    mean: np.ndarray
    std: np.ndarray

    def quantiles(self, levels: Sequence[float] = DECILES) -> np.ndarray:
        """Exact quantiles (K, W, P)."""
        z = ndtri(np.asarray(levels, dtype=np.float64)).reshape(-1, 1, 1)
        return self.mean + z * self.std

    def sample(self, num_samples: int, rng: np.random.Generator) -> np.ndarray:
        """Samples (W, S, P), independent over steps."""
        noise = rng.standard_normal((len(self.mean), num_samples, self.mean.shape[1]))
        return self.mean[:, None] + self.std[:, None] * noise


def gaussian_naive(
    past: Sequence[np.ndarray], prediction_length: int, season: int = 1, context_length: int | None = None
) -> NormalForecast:
    """Seasonal naive with normal errors: std s sqrt(floor(h/m) + 1), s the root mean square of the m-differences.

    Args:
        past: Values before each window.
        prediction_length: Steps P.
        season: Season length m; 1 is the Gaussian random walk.
        context_length: Differences are taken inside that many last values; all of them if absent.
    """
    spread = []
    for series in past:
        recent = np.asarray(series, dtype=np.float64)[-context_length if context_length else None :]
        differences = recent[season:] - recent[:-season]
        known = np.isfinite(differences)
        spread.append(np.sqrt((differences[known] ** 2).mean()) if known.any() else 0.0)
    growth = np.sqrt(np.arange(prediction_length) // season + 1)
    return NormalForecast(seasonal_naive(past, prediction_length, season), np.outer(spread, growth))


class Ridge(Configurable):
    """Linear map from C past to P future values: minimises |Y - X W - b|^2 + alpha |W|^2, b unpenalised.

    Windows are scaled by their past: divided by its mean absolute value (at least 1e-7), or standardised. Trained on
    synthetic windows and scored on real ones this is the linear predictive score of TSDiff.

    Args:
        context_length: C.
        prediction_length: P.
        alpha: Strength of the penalty, in scaled units.
        scaling: ``"mean"`` or ``"std"``; that of the model whose synthetic windows are fitted.

    References: Kollovieh et al. 2023, section 5.3 (linear predictive score).
    """

    def __init__(
        self, context_length: int, prediction_length: int, alpha: float = 1.0, scaling: Literal["mean", "std"] = "mean"
    ) -> None:
        if scaling not in ("mean", "std"):
            raise ValueError(f"scaling must be 'mean' or 'std', got {scaling!r}.")
        if context_length < 1 or prediction_length < 1 or alpha < 0:
            raise ValueError(
                f"expected context_length, prediction_length >= 1 and alpha >= 0, got {context_length}, "
                f"{prediction_length} and {alpha}."
            )
        self.context_length, self.prediction_length, self.alpha = context_length, prediction_length, alpha
        self.scaling = scaling
        self.weight = np.zeros((context_length, prediction_length))
        self.bias = np.zeros(prediction_length)

    def fit(self, windows: np.ndarray, *, is_scaled: bool = False) -> Ridge:
        """Fit to windows (N, C + P) without NaN.

        Args:
            windows: Training windows.
            is_scaled: Leave the windows as they are (synthetic ones come in scaled units).
        """
        values = np.asarray(windows, dtype=np.float64)
        c = self.context_length
        if values.ndim != 2 or values.shape[1] != c + self.prediction_length or not np.isfinite(values).all():
            raise ValueError(
                f"expected windows (N, {c + self.prediction_length}) of finite numbers, got shape {values.shape}."
            )
        if not is_scaled:
            location, scale = self._scale(values[:, :c])
            values = (values - location) / scale
        x, y = values[:, :c], values[:, c:]
        x_mean, y_mean = x.mean(0), y.mean(0)
        x, y = x - x_mean, y - y_mean
        self.weight = np.linalg.solve(x.T @ x + self.alpha * np.eye(c), x.T @ y)
        self.bias = y_mean - x_mean @ self.weight
        return self

    def predict(self, past: np.ndarray) -> np.ndarray:
        """Forecasts (W, P) from the last C values of each past (W, >= C)."""
        recent = np.asarray(past, dtype=np.float64)[:, -self.context_length :]
        location, scale = self._scale(recent)
        return ((recent - location) / scale @ self.weight + self.bias) * scale + location

    def _scale(self, past: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.scaling == "std":
            return past.mean(1, keepdims=True), past.std(1, keepdims=True).clip(_SCALE_FLOOR)
        return np.zeros((len(past), 1)), np.abs(past).mean(1, keepdims=True).clip(_SCALE_FLOOR)
