"""Judging forecasts and synthetic windows: a model or a file beside the baselines that it has to beat.

References: Alexandrov et al. 2020 (GluonTS), definitions of its evaluator; Kollovieh et al. 2023 (linear predictive
score).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from scidiff.files import atomic_path
from timeseries import metrics
from timeseries.baselines import Ridge, gaussian_naive, seasonal_naive
from timeseries.data import calendar, datasets
from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import TimeSeries
from timeseries.data.windows import WindowStore
from timeseries.diffusion import scaled
from timeseries.forecast import Forecast
from timeseries.io import QuantileForecast
from timeseries.synthesis_scores import (
    autocorrelation_distance,
    discriminative_score,
    linear_predictive_score,
    spectrum_distance,
    wasserstein,
)

__all__ = [
    "Report",
    "Task",
    "baseline_rows",
    "benchmark_task",
    "judge",
    "judge_windows",
    "match",
    "quantile_scores",
    "real_windows",
    "ridge_forecast",
    "rolling_task",
]

_COLUMNS = ("wql", "nd", "mase", "coverage_50", "coverage_90", "spread_skill")
_DISCRIMINATED = 2000  # windows of a kind that the classifier sees
_FITTED = 10_000  # windows that a ridge regression is fitted to


class Task(NamedTuple):
    """Series up to each window (W), values of the windows (W, P[, D]), and how far back Gaussian baselines look."""

    inputs: list[TimeSeries]
    target: np.ndarray
    context_length: int | None = None


@dataclass(frozen=True)
class Report:
    """Scores of several forecasts of the same windows.

    Attributes:
        rows: Figures by forecast and name.
        facts: What was scored, and how.
    """

    rows: dict[str, dict[str, float]]
    facts: dict[str, Any] = field(default_factory=dict)

    def table(self) -> str:
        """One line a forecast, one column a figure; ``-`` where a forecast has none."""
        from scidiff.cli.output import table

        columns = [name for name in _COLUMNS if any(name in row for row in self.rows.values())]
        columns = columns or list(next(iter(self.rows.values())))
        lines = [[name, *(_cell(row, column) for column in columns)] for name, row in self.rows.items()]
        return table(lines, header=("forecast", *columns))

    def to_json(self, path: str | Path) -> None:
        """Write facts and all figures."""
        with atomic_path(path) as temporary:
            content = {**self.facts, "scores": self.rows}
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def rolling_task(series: Sequence[TimeSeries], prediction_length: int, num_windows: int = 1) -> Task:
    """The last ``num_windows`` windows of P steps of each series, which do not overlap.

    Raises:
        ValueError: If a series is too short.
    """
    inputs, targets = [], []
    for back in range(num_windows, 0, -1):
        for s in series:
            cut = len(s) - back * prediction_length
            if cut < 1:
                raise ValueError(
                    f"series {s.item_id!r} has {len(s)} values; {num_windows} windows of {prediction_length} steps and "
                    "a value before them need more."
                )
            inputs.append(s.cut(cut))
            targets.append(s.values[cut : cut + prediction_length])
    return Task(inputs, np.stack(targets))


def benchmark_task(name: str) -> Task:
    """The published test windows of a benchmark set."""
    found = datasets.load_benchmark(name)
    return Task(found.inputs, found.target, found.context_length)


def match(forecast: Forecast | QuantileForecast, series: Sequence[TimeSeries]) -> Task:
    """The windows that a forecast is about, cut from series that hold their values.

    Raises:
        ValueError: If a series is unknown or ends before the forecast does.
    """
    known = {s.item_id: s for s in series}
    steps = forecast.samples.shape[2] if isinstance(forecast, Forecast) else forecast.values.shape[2]
    inputs, targets = [], []
    for name, start in zip(forecast.item_ids, forecast.starts):
        if name not in known:
            raise ValueError(f"the forecast is about {name!r}, which is not among the {len(known)} series of the data.")
        s = known[name]
        count, _ = calendar.split_freq(s.freq)
        cut = (calendar.period(start, s.freq).ordinal - s.start.ordinal) // count
        if cut < 1 or cut + steps > len(s):
            raise ValueError(
                f"the forecast of {name!r} begins at {start} and has {steps} steps; the series goes from {s.start} to "
                f"{calendar.shift(s.start, len(s) - 1)}."
            )
        inputs.append(s.cut(cut))
        targets.append(s.values[cut : cut + steps])
    return Task(inputs, np.stack(targets))


def judge(
    forecast: Forecast | QuantileForecast,
    task: Task,
    *,
    name: str = "model",
    season: int | None = None,
    levels: Sequence[float] = metrics.DECILES,
    interpolate: bool = False,
) -> Report:
    """Scores of a forecast beside those of the baselines.

    Args:
        forecast: Samples, or quantiles.
        task: What was to be forecast, in the same order.
        name: Name of the row.
        season: Season length; default: that of the frequency.
        levels: Quantile levels of ``wql``; a quantile forecast brings its own.
        interpolate: How sample quantiles are taken.
    """
    season = calendar.season_length(task.inputs[0].freq) if season is None else season
    past, target = _univariate(task)
    if isinstance(forecast, Forecast):
        row = dict(forecast.evaluate(task.target, past=past, season=season, levels=levels, interpolate=interpolate))
        count = forecast.samples.shape[1]
    else:
        levels, count = forecast.levels, 0
        row = quantile_scores(forecast.values, forecast.levels, target, past, season)
    rows = {name: row, **baseline_rows(past, target, season, levels, task.context_length)}
    facts = {"windows": len(target), "steps": target.shape[1], "samples": count, "season": season}
    facts |= {"levels": list(levels), "quantiles": "interpolated" if interpolate else "sample ranks"}
    return Report(rows, facts)


def baseline_rows(
    past: Sequence[np.ndarray],
    target: np.ndarray,
    season: int,
    levels: Sequence[float] = metrics.DECILES,
    context_length: int | None = None,
) -> dict[str, dict[str, float]]:
    """Scores of seasonal naive and random walk, and of their Gaussian versions with exact quantiles.

    Args:
        past: Values before each window.
        target: Realised values (W, P).
        season: Season length.
        levels: Quantile levels of ``wql``.
        context_length: Last values that Gaussian spreads are measured on; all if absent.
    """
    rows = {}
    steps = target.shape[1]
    wanted = tuple(sorted({*levels, 0.05, 0.25, 0.5, 0.75, 0.95}))
    for name, m in {f"seasonal naive {season}": season, "random walk": 1}.items():
        if name != "random walk" and m == 1:
            continue
        point = np.repeat(seasonal_naive(past, steps, m)[None], len(levels), 0)
        rows[name] = quantile_scores(point, tuple(levels), target, past, season)
        gaussian = gaussian_naive(past, steps, m, context_length).quantiles(wanted)
        chosen = [wanted.index(level) for level in levels]
        scores = quantile_scores(gaussian, wanted, target, past, season)
        loss = metrics.weighted_quantile_loss(gaussian[chosen], target, levels)
        rows[f"Gaussian {name}"] = {**scores, "wql": loss}
    return rows


def quantile_scores(
    quantiles: np.ndarray, levels: Sequence[float], target: np.ndarray, past: Sequence[np.ndarray], season: int
) -> dict[str, float]:
    """``wql`` and, where the levels allow, ``nd``, ``mase`` and coverages of quantiles (K, W, P)."""
    place = {round(level, 6): k for k, level in enumerate(levels)}
    row = {"wql": metrics.weighted_quantile_loss(quantiles, target, levels)}
    if 0.5 in place:
        median = quantiles[place[0.5]]
        row["nd"] = metrics.normalized_deviation(median, target)
        row["mase"] = metrics.absolute_scaled_error(median, target, metrics.seasonal_error(past, season))
    for share in (50, 80, 90, 95):
        ends = [round(0.5 - share / 200, 6), round(0.5 + share / 200, 6)]
        if all(end in place for end in ends) and np.ptp(quantiles, axis=0).max() > 0:
            lower, upper = (quantiles[place[end]] for end in ends)
            row[f"coverage_{share}"] = metrics.coverage(lower, upper, target)
    return row


def real_windows(series: Sequence[TimeSeries], spec: SeriesSpec, n: int, seed: int = 0) -> np.ndarray:
    """Complete windows (N <= n, C + P) of series, scaled as the model sees them.

    Raises:
        ValueError: If no window is complete.
    """
    store = WindowStore(series, spec)
    windows = store.take(store.draw(n, torch.Generator().manual_seed(seed)))
    complete = windows.observed[..., 0].flatten(1).all(1)
    if not complete.any():
        raise ValueError(
            f"no window of {spec.length} steps is complete: there is nothing to learn from or to compare with."
        )
    state, _ = scaled(windows.at(complete), spec)
    return state[..., 0, 0].double().numpy()


def ridge_forecast(train: Sequence[TimeSeries], past: Sequence[np.ndarray], spec: SeriesSpec) -> np.ndarray:
    """Point forecasts (W, P) of `timeseries.baselines.Ridge`, fitted to windows of ``train`` (one variate, no lags).

    Gaps of the last C values of ``past`` are closed by straight lines; where nothing of them is known, NaN.

    Raises:
        ValueError: If no training window is complete.
    """
    c, p = spec.context_length, spec.prediction_length
    scaling = "mean" if spec.scaling in ("mean", "longmean") else "std"
    plain = SeriesSpec(spec.freq, p, c, scaling=scaling)
    ridge = Ridge(c, p, scaling=scaling).fit(real_windows(train, plain, _FITTED), is_scaled=True)
    return ridge.predict(np.stack([_closed(values, c) for values in past]))


def judge_windows(windows: np.ndarray, series: Sequence[TimeSeries], spec: SeriesSpec, seed: int = 0) -> Report:
    """Synthetic windows against real ones: what a linear forecaster learns from them, how far off they are.

    The last P values of each series are the test windows; real windows are drawn from what comes before. Their own row
    compares one half of them with the other: what a perfect synthesizer reaches with as many.

    Args:
        windows: Synthetic windows (N, C + P), in scaled units.
        series: Real series.
        spec: Windows of the model.
        seed: Seed of the real windows and of the classifier.

    Raises:
        ValueError: If the windows have another length, or no series is long enough and known.
    """
    if windows.ndim != 2 or windows.shape[1] != spec.length:
        raise ValueError(f"expected windows (N, {spec.length}), got {windows.shape}.")
    usable = [s for s in series if len(s) > spec.length and np.isfinite(s.values[-spec.length :]).all()]
    if not usable:
        raise ValueError(f"no series has more than {spec.length} values and no gap in the last {spec.length}.")
    task = rolling_task(usable, spec.prediction_length)
    past = [s.values for s in task.inputs]
    real = real_windows(task.inputs, spec, max(len(windows), _DISCRIMINATED), seed)
    scaling = "mean" if spec.scaling in ("mean", "longmean") else "std"
    rows = {
        name: {"linear predictive score": linear_predictive_score(data, past, task.target, scaling=scaling)}
        for name, data in (("synthetic windows", windows), ("real windows", real))
    }
    count = _DISCRIMINATED
    rows["synthetic windows"]["discriminative score"] = discriminative_score(real[:count], windows[:count], seed=seed)
    rows["real windows"]["discriminative score"] = discriminative_score(real[::2], real[1::2], seed=seed)
    score = "linear predictive score"
    for name, pair in (("synthetic windows", (real, windows)), ("real windows", (real[::2], real[1::2]))):
        rows[name]["TSTR ratio"] = rows[name][score] / rows["real windows"][score]
        rows[name]["W2"] = wasserstein(*pair, seed=seed)
        rows[name]["autocorrelation"] = autocorrelation_distance(*pair)
        rows[name]["log spectrum"] = spectrum_distance(*pair)
    facts = {"test windows": len(task.target), "synthetic": len(windows), "real": len(real)}
    return Report(rows, facts)


def _closed(values: np.ndarray, count: int) -> np.ndarray:
    """The last ``count`` values, gaps closed by straight lines and by the nearest value at the ends."""
    recent = np.full(count, np.nan)
    last = np.asarray(values, dtype=np.float64)[-count:]
    recent[count - len(last) :] = last
    known = np.flatnonzero(np.isfinite(recent))
    return np.interp(np.arange(count), known, recent[known]) if len(known) else recent


def _univariate(task: Task) -> tuple[list[np.ndarray], np.ndarray]:
    """Past and target (W D, P) with the variates as further windows, variate by variate."""
    if task.target.ndim == 2:
        return [s.values for s in task.inputs], task.target
    variates = range(task.target.shape[2])
    past = [s.values[:, d] for d in variates for s in task.inputs]
    return past, np.concatenate([task.target[:, :, d] for d in variates])


def _cell(row: dict[str, float], column: str) -> str:
    value = row.get(column)
    return "-" if value is None or np.isnan(value) else f"{value:.5f}" if column in ("wql", "nd") else f"{value:.3f}"
