r"""Scores of probabilistic forecasts; every number says at which quantile levels it was taken.

Windows are axis 0: targets are (W, P), samples (W, S, P), quantiles (K, W, P) for K levels. A NaN in the target is not
scored. The weighted quantile loss with levels .1 ... .9 and quantiles that are members of the sample is what GluonTS's
``Evaluator`` prints as ``mean_wQuantileLoss``, the "CRPS" of most papers:

    mean_q [ sum 2 |(f_q - y)(1[y <= f_q] - q)| / sum |y| ].

References: Alexandrov et al. 2020 (GluonTS), definitions of its evaluator; Gneiting and Raftery 2007, section 4 (CRPS,
energy score); Ferro 2014 (fair scores).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = [
    "DECILES",
    "VIGINTILES",
    "Scores",
    "absolute_scaled_error",
    "coverage",
    "energy_score",
    "evaluate",
    "interval_score",
    "normalized_deviation",
    "normalized_rmse",
    "pit",
    "quantile_loss",
    "sample_crps",
    "sample_quantiles",
    "seasonal_error",
    "weighted_quantile_loss",
]

DECILES = tuple(k / 10 for k in range(1, 10))
VIGINTILES = tuple(k / 20 for k in range(1, 20))
_INTERVALS = (0.5, 0.8, 0.9, 0.95)


def sample_quantiles(
    samples: np.ndarray, levels: Sequence[float] = DECILES, *, interpolate: bool = False
) -> np.ndarray:
    """Quantiles (K, W, P) of samples (W, S, P).

    Args:
        samples: Sample paths.
        levels: Levels in (0, 1).
        interpolate: False takes the sample of rank round((S - 1) q), as GluonTS; True interpolates linearly, as CSDI.
    """
    values = np.sort(_checked(samples, 3, "samples"), axis=1)
    if interpolate:
        return np.quantile(values, np.asarray(levels), axis=1)
    ranks = [int(np.round((values.shape[1] - 1) * level)) for level in levels]
    return np.moveaxis(values[:, ranks], 1, 0)


def quantile_loss(quantiles: np.ndarray, target: np.ndarray, levels: Sequence[float] = DECILES) -> np.ndarray:
    """2 |(f_q - y)(1[y <= f_q] - q)| (K, W, P), NaN where the target is."""
    q = np.asarray(levels, dtype=np.float64).reshape(-1, 1, 1)
    if quantiles.shape != (len(q), *target.shape):
        raise ValueError(
            f"expected quantiles of shape {(len(q), *target.shape)} for these levels, got {quantiles.shape}."
        )
    return 2 * np.abs((quantiles - target) * ((target <= quantiles) - q))


def weighted_quantile_loss(quantiles: np.ndarray, target: np.ndarray, levels: Sequence[float] = DECILES) -> float:
    """Mean over ``levels`` of the quantile loss, divided by sum |y|."""
    return float(np.nansum(quantile_loss(quantiles, target, levels), axis=(1, 2)).mean() / _size(target))


def normalized_deviation(median: np.ndarray, target: np.ndarray) -> float:
    """ND = sum |y - median| / sum |y|; equals the weighted quantile loss of a point forecast at symmetric levels."""
    return float(np.nansum(np.abs(target - median)) / _size(target))


def normalized_rmse(mean: np.ndarray, target: np.ndarray) -> float:
    """Root of the mean over windows of the mean square error, divided by the mean over windows of mean |y|."""
    error = _window_means((target - mean) ** 2)
    return float(np.sqrt(np.nanmean(error)) / np.nanmean(_window_means(np.abs(target))))


def seasonal_error(past: Sequence[np.ndarray], season: int) -> np.ndarray:
    """Mean |x_u - x_{u - season}| (W,) of each past; season 1 where the past is not longer than ``season``."""
    errors = []
    for series in past:
        values = np.asarray(series, dtype=np.float64)
        m = season if season < len(values) else 1
        differences = np.abs(values[m:] - values[:-m])
        known = np.isfinite(differences)
        errors.append(differences[known].mean() if known.any() else np.nan)
    return np.array(errors)


def absolute_scaled_error(median: np.ndarray, target: np.ndarray, error: np.ndarray) -> float:
    """MASE: mean over windows of the mean absolute error over `seasonal_error`, where both are known."""
    ratio = _window_means(np.abs(target - median)) / np.where(error > 0, error, np.nan)
    return float(np.nanmean(ratio)) if np.isfinite(ratio).any() else float("nan")


def coverage(lower: np.ndarray, upper: np.ndarray, target: np.ndarray) -> float:
    """Share of the known targets in [lower, upper]."""
    known = np.isfinite(target)
    return float(((lower <= target) & (target <= upper))[known].mean())


def interval_score(
    lower: np.ndarray, upper: np.ndarray, target: np.ndarray, alpha: float, error: np.ndarray | None = None
) -> float:
    """u - l + (2/alpha)(l - y)^+ + (2/alpha)(y - u)^+, mean over windows; over `seasonal_error` if given (MSIS)."""
    score = upper - lower + 2 / alpha * (np.clip(lower - target, 0, None) + np.clip(target - upper, 0, None))
    windows = _window_means(np.where(np.isfinite(target), score, np.nan))
    if error is not None:
        windows = windows / np.where(error > 0, error, np.nan)
    return float(np.nanmean(windows)) if np.isfinite(windows).any() else float("nan")


def sample_crps(samples: np.ndarray, target: np.ndarray, *, fair: bool = False) -> np.ndarray:
    """CRPS (W, P) of the sample: mean |x_i - y| - sum_ij |x_i - x_j| / (2 S^2), in the units of the data.

    Args:
        samples: Sample paths (W, S, P).
        target: Realised values (W, P).
        fair: Divide by 2 S (S - 1) instead, which is unbiased for the distribution behind the samples; needs S >= 2.
    """
    values = np.sort(_checked(samples, 3, "samples"), axis=1)
    count = values.shape[1]
    if fair and count < 2:
        raise ValueError("the fair CRPS needs at least 2 samples.")
    weights = (2 * np.arange(count) - count + 1).reshape(1, -1, 1)  # sum_{i<j} (x_j - x_i) of sorted values
    pairs = (weights * values).sum(1)
    return np.abs(values - target[:, None]).mean(1) - pairs / (count * (count - 1 if fair else count))


def energy_score(samples: np.ndarray, target: np.ndarray, *, fair: bool = False) -> np.ndarray:
    """Energy score (W,): mean ||x_i - y|| - sum_ij ||x_i - x_j|| / (2 S^2) over the known steps; CRPS if P = 1.

    O(S^2 P) time a window, O(S^2) memory.
    """
    values = _checked(samples, 3, "samples")
    count = values.shape[1]
    if fair and count < 2:
        raise ValueError("the fair energy score needs at least 2 samples.")
    scores = np.full(len(values), np.nan)
    for k, (paths, truth) in enumerate(zip(values, target, strict=True)):
        known = np.isfinite(truth)
        if not known.any():
            continue
        paths = paths[:, known]
        gram = paths @ paths.T
        squares = np.diagonal(gram)
        distances = np.sqrt(np.clip(squares[:, None] + squares - 2 * gram, 0, None))
        np.fill_diagonal(distances, 0)
        spread = distances.sum() / (2 * count * (count - 1 if fair else count))
        scores[k] = np.linalg.norm(paths - truth[known], axis=1).mean() - spread
    return scores


def pit(samples: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Probability integral transform (W, P): rank of the target among its samples plus a uniform number, over S + 1.

    Uniform on (0, 1) if target and samples are exchangeable; ties are broken at random. NaN where the target is.
    """
    values = _checked(samples, 3, "samples")
    below = (values < target[:, None]).sum(1)
    equal = (values == target[:, None]).sum(1)
    rank = below + rng.integers(0, equal + 1) + rng.random(target.shape)
    return np.where(np.isfinite(target), rank / (values.shape[1] + 1), np.nan)


@dataclass(frozen=True)
class Scores(Mapping[str, float]):
    """Figures of a set of forecasts by name, and how the quantiles were taken.

    Attributes:
        figures: Figures by name.
        levels: Quantile levels of ``wql``.
        interpolate: Whether quantiles were interpolated between samples.
        num_windows: Windows scored.
        num_samples: Samples a window; 0 for forecasts given by quantiles.
    """

    figures: dict[str, float] = field(repr=False)
    levels: tuple[float, ...]
    interpolate: bool
    num_windows: int
    num_samples: int

    def __getitem__(self, key: str) -> float:
        return self.figures[key]

    def __iter__(self):
        return iter(self.figures)

    def __len__(self) -> int:
        return len(self.figures)

    def __str__(self) -> str:
        rule = "interpolated" if self.interpolate else "sample ranks"
        steps = f"{len(self.levels)} levels {self.levels[0]:g} to {self.levels[-1]:g}, {rule}"
        head = f"{self.num_windows} windows, {self.num_samples} samples; wql at {steps}"
        return "\n".join([head, *(f"{name:14s} {value:.5f}" for name, value in self.figures.items())])


def evaluate(
    samples: np.ndarray,
    target: np.ndarray,
    *,
    past: Sequence[np.ndarray] | None = None,
    season: int = 1,
    levels: Sequence[float] = DECILES,
    interpolate: bool = False,
) -> Scores:
    """All scores of sample forecasts.

    ``wql`` (weighted quantile loss at ``levels``), ``nd``, ``nrmse``, ``crps`` (sample CRPS over mean |y|), ``energy``
    (energy score over mean |y| and sqrt(P)), both fair except for one sample; ``spread`` (mean standard deviation over
    mean |y|), ``spread_skill`` (root mean variance over root mean square error of the mean: 1 when reliable, up to
    sqrt(S/(S + 1))), ``coverage_50`` ... ``coverage_95`` and ``width_50`` ... of central intervals between interpolated
    quantiles (widths over mean |y|); with ``past`` also ``mase`` and ``msis`` (95 %, sample ranks).

    Args:
        samples: Sample paths (W, S, P).
        target: Realised values (W, P), NaN where unknown.
        past: Values before each window, for the scaled errors.
        season: Season length of the scaled errors.
        levels: Quantile levels of ``wql``.
        interpolate: How those quantiles are taken, see `sample_quantiles`.

    Raises:
        ValueError: If shapes do not fit or no target is known.
    """
    samples, target = _checked(samples, 3, "samples"), _checked(target, 2, "target")
    if len(samples) != len(target) or samples.shape[2] != target.shape[1]:
        raise ValueError(f"samples {samples.shape} and target {target.shape} must be (W, S, P) and (W, P).")
    if past is not None and len(past) != len(target):
        raise ValueError(f"expected one past a window ({len(target)}), got {len(past)}.")
    several = samples.shape[1] > 1
    size = _size(target) / np.isfinite(target).sum()
    median = sample_quantiles(samples, [0.5], interpolate=interpolate)[0]
    mean = samples.mean(1)
    values = {
        "wql": weighted_quantile_loss(sample_quantiles(samples, levels, interpolate=interpolate), target, levels),
        "nd": normalized_deviation(median, target),
        "nrmse": normalized_rmse(mean, target),
        "crps": float(np.nanmean(sample_crps(samples, target, fair=several)) / size),
        "energy": float(np.nanmean(energy_score(samples, target, fair=several)) / size / target.shape[1] ** 0.5),
    }
    if several:
        known = np.isfinite(target)
        variance = samples.var(1, ddof=1)[known]
        values["spread"] = float(np.sqrt(variance).mean() / size)
        values["spread_skill"] = float(np.sqrt(variance.mean() / ((mean - target)[known] ** 2).mean()))
        for share in _INTERVALS:
            lower, upper = sample_quantiles(samples, [0.5 - share / 2, 0.5 + share / 2], interpolate=True)
            values[f"coverage_{round(100 * share)}"] = coverage(lower, upper, target)
            values[f"width_{round(100 * share)}"] = float((upper - lower)[known].mean() / size)
    if past is not None:
        error = seasonal_error(past, season)
        lower, upper = sample_quantiles(samples, [0.025, 0.975])
        values["mase"] = absolute_scaled_error(median, target, error)
        values["msis"] = interval_score(lower, upper, target, 0.05, error)
    return Scores(values, tuple(levels), interpolate, len(target), samples.shape[1])


def _size(target: np.ndarray) -> float:
    """Sum of |y| over the known targets."""
    if not np.isfinite(target).any():
        raise ValueError("no target value is known, so nothing can be scored.")
    return float(np.nansum(np.abs(target)))


def _window_means(values: np.ndarray) -> np.ndarray:
    """Mean (W,) over the known steps of each window, NaN where there are none."""
    known = np.isfinite(values)
    count = known.sum(1)
    return np.where(count > 0, np.where(known, values, 0).sum(1) / np.maximum(count, 1), np.nan)


def _checked(values: np.ndarray, ndim: int, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or 0 in array.shape:
        shape = "(windows, samples, steps)" if ndim == 3 else "(windows, steps)"
        raise ValueError(f"{name} must have shape {shape} without empty axes, got {array.shape}.")
    return array
