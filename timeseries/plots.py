"""Pictures: fan charts, bands of imputations, real against synthetic windows, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from scidiff.figures import GENERATED, INK, REFERENCE, new_figure, save_figure
from timeseries import metrics
from timeseries.data import calendar
from timeseries.data.series import TimeSeries
from timeseries.forecast import Forecast, Imputation
from timeseries.synthesis_scores import autocorrelation, spectrum

__all__ = ["plot_calibration", "plot_forecast", "plot_imputation", "plot_windows"]

_TRUTH = "#1b7f79"
_BANDS = ((0.95, 0.16), (0.8, 0.22), (0.5, 0.30))  # share inside, opacity
_PIT_BINS = 20


def plot_forecast(
    forecast: Forecast,
    series: Sequence[TimeSeries],
    path: str | Path,
    *,
    truth: np.ndarray | None = None,
    history: int | None = None,
    max_items: int = 6,
    num_paths: int = 3,
    dpi: int = 130,
) -> None:
    """Fan chart of the first items: history, central 50, 80 and 95 % bands, median, and a few sample paths.

    Args:
        forecast: Forecast.
        series: Series that it continues, in the same order.
        path: Output file (.png, .pdf or .svg).
        truth: Realised values (items, P[, D]), drawn over the fan.
        history: Past steps shown; three horizons if absent.
        max_items: Panels at most; every variate has its own.
        num_paths: Sample paths drawn.
        dpi: Pixels per inch.
    """
    samples = forecast.samples.reshape(*forecast.samples.shape[:3], -1)
    steps, variates = samples.shape[2:]
    panels = [(k, d) for k in range(len(samples)) for d in range(variates)][:max_items]
    figure, axes = _grid(len(panels), dpi)
    for axis, (k, d) in zip(axes, panels):
        past = series[k].table[-(history or 3 * steps) :, d]
        start = calendar.shift(series[k].start, len(series[k]) - len(past))
        times, future = calendar.timestamps(start, len(past)), forecast.times(k)
        drawn = samples[k, :, :, d]
        axis.plot(times, past, color=INK, lw=1.1, label="history")
        _name_bands(axis)
        if (
            len(past)
            and np.isfinite(past[-1])
            and calendar.shift(series[k].start, len(series[k])) == forecast.starts[k]
        ):
            joined = np.concatenate([np.full((len(drawn), 1), past[-1]), drawn[:, :1]], 1)  # from the last known value
            _fan(axis, [times[-1], future[0]], joined)
            axis.plot([times[-1], future[0]], np.median(joined, 0), color=GENERATED, lw=1.6)
        _fan(axis, future, drawn)
        axis.plot(future, drawn[:num_paths].T, color=GENERATED, lw=0.5, alpha=0.45)
        axis.plot(future, np.median(drawn, 0), color=GENERATED, lw=1.6, label="median")
        if truth is not None:
            values = np.asarray(truth).reshape(len(samples), steps, -1)[k, :, d]
            axis.plot(future, values, color=_TRUTH, lw=1.3, label="realised")
        axis.axvline(future[0], color=REFERENCE, lw=0.8, ls=(0, (2, 2)))
        _dates(axis, _title(forecast.item_ids[k], forecast.names, d, variates))
    _finish(figure, axes[0], path)


def plot_imputation(
    imputation: Imputation, path: str | Path, *, max_items: int = 6, max_steps: int = 300, dpi: int = 130
) -> None:
    """Observed values, and where they are missing the median with central 50, 80 and 95 % bands.

    Args:
        imputation: Result of `timeseries.DiffusionForecaster.impute`; series without gaps are left out.
        path: Output file (.png, .pdf or .svg).
        max_items: Panels at most.
        max_steps: Longer series are shown around their longest gap.
        dpi: Pixels per inch.

    Raises:
        ValueError: If nothing was missing.
    """
    panels = [
        (k, d)
        for k, s in enumerate(imputation.series)
        for d in range(s.num_variates)
        if not np.isfinite(s.table[:, d]).all()
    ][:max_items]
    if not panels:
        raise ValueError("nothing was missing, so there is no imputation to draw.")
    figure, axes = _grid(len(panels), dpi)
    for axis, (k, d) in zip(axes, panels):
        s = imputation.series[k]
        values, samples = s.table[:, d], imputation.samples[k].reshape(len(imputation.samples[k]), len(s), -1)[:, :, d]
        gaps = _runs(~np.isfinite(values))
        low, high = _view(gaps, len(s), max_steps)
        times = s.times
        axis.plot(times[low:high], values[low:high], color=INK, lw=1.1, label="observed")
        _name_bands(axis)
        first = True
        for begin, end in gaps:
            if begin >= high or end <= low:
                continue
            part = slice(max(begin - 1, 0), min(end + 1, len(s)))  # joined to the known values beside it
            _fan(axis, times[part], samples[:, part])
            axis.plot(times[part], np.median(samples[:, part], 0), color=GENERATED, lw=1.5, label="median" * first)
            axis.axvspan(times[part][0], times[part][-1], color=REFERENCE, alpha=0.10, lw=0)
            first = False
        axis.set_xlim(times[low], times[high - 1])
        missing = f"{int((~np.isfinite(values)).sum())} of {len(s)} missing"
        _dates(axis, f"{_title(s.item_id, s.names, d, s.num_variates)} ({missing})")
    _finish(figure, axes[0], path)


def plot_windows(real: np.ndarray, synthetic: np.ndarray, path: str | Path, *, freq: str = "", dpi: int = 130) -> None:
    """Real against synthetic windows, in scaled units: examples, values, steps, autocorrelation and spectrum.

    Args:
        real: Windows (N, L).
        synthetic: Windows (M, L).
        path: Output file (.png, .pdf or .svg).
        freq: Frequency, for the axes.
        dpi: Pixels per inch.

    Raises:
        ValueError: If lengths differ.
    """
    real, synthetic = (np.asarray(w, dtype=np.float64) for w in (real, synthetic))
    if real.ndim != 2 or synthetic.ndim != 2 or real.shape[1] != synthetic.shape[1] or not real.size:
        raise ValueError(f"expected windows (N, L) and (M, L), got {real.shape} and {synthetic.shape}.")
    figure = new_figure(10.4, 5.4, dpi=dpi)
    axes = figure.subplots(2, 3)
    for axis, windows, color, name in (
        (axes[0, 0], real, INK, "real"),
        (axes[1, 0], synthetic, GENERATED, "synthetic"),
    ):
        shown = windows[:5]
        gap = 1.15 * max(np.ptp(real[:5]), np.ptp(synthetic[:5])) * 0.75
        for k, window in enumerate(shown):
            axis.plot(window - gap * k, color=color, lw=1.0)
        axis.set_yticks([])
        _tidy(axis, f"step{f' ({freq})' if freq else ''}", f"{name} windows")
    _histogram(axes[0, 1], real, synthetic, "scaled value")
    _histogram(axes[1, 1], np.diff(real, axis=1), np.diff(synthetic, axis=1), "change from step to step")
    lags = np.arange(1, real.shape[1] // 2 + 1)
    for windows, color, width, name in ((real, REFERENCE, 3.5, "real"), (synthetic, GENERATED, 1.5, "synthetic")):
        axes[0, 2].plot(lags, autocorrelation(windows)[lags], color=color, lw=width, label=name)
        power = spectrum(windows)
        axes[1, 2].plot(np.arange(1, len(power)) / windows.shape[1], power[1:], color=color, lw=width, label=name)
    axes[0, 2].axhline(0, color=INK, lw=0.5)
    _tidy(axes[0, 2], "lag (steps)", "autocorrelation")
    axes[1, 2].set_yscale("log")
    axes[1, 2].set_xscale("log")
    axes[1, 2].minorticks_off()
    _tidy(axes[1, 2], "frequency (1/step)", "power spectrum")
    _finish(figure, axes[0, 2], path)


def plot_calibration(
    samples: np.ndarray, target: np.ndarray, path: str | Path, *, seed: int = 0, dpi: int = 130
) -> None:
    """Coverage of central intervals against their nominal share, and the histogram of the PIT.

    A reliable forecast lies on the diagonal and is flat. The grey band of the histogram is where 95 % of its bars lie
    if all windows and steps were independent; real ones scatter more.

    Args:
        samples: Sample paths (W, S, P).
        target: Realised values (W, P), NaN where unknown.
        path: Output file (.png, .pdf or .svg).
        seed: Seed of the tie breaks of the PIT.
        dpi: Pixels per inch.
    """
    samples, target = np.asarray(samples, dtype=np.float64), np.asarray(target, dtype=np.float64)
    nominal = np.linspace(0.05, 0.95, 19)
    lower = metrics.sample_quantiles(samples, 0.5 - nominal / 2, interpolate=True)  # type: ignore[arg-type]
    upper = metrics.sample_quantiles(samples, 0.5 + nominal / 2, interpolate=True)  # type: ignore[arg-type]
    share = [metrics.coverage(a, b, target) for a, b in zip(lower, upper)]
    ranks = metrics.pit(samples, target, np.random.default_rng(seed))
    ranks = ranks[np.isfinite(ranks)]
    figure = new_figure(8.2, 3.5, dpi=dpi)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=REFERENCE, lw=3, label="reliable")
    left.plot(nominal, share, "o-", color=GENERATED, ms=3.5, lw=1.3, label="forecast")
    left.set_aspect("equal")
    left.set_xlim(0, 1)
    left.set_ylim(0, 1)
    left.set_ylabel("share of values inside", fontsize=9)
    left.legend(frameon=False, fontsize=8)
    _tidy(left, "nominal share of central interval", "coverage")
    expected = len(ranks) / _PIT_BINS
    slack = 1.96 * np.sqrt(expected * (1 - 1 / _PIT_BINS))
    right.axhspan((expected - slack) / expected, (expected + slack) / expected, color=REFERENCE, alpha=0.45, lw=0)
    counts, edges = np.histogram(ranks, bins=_PIT_BINS, range=(0, 1))
    right.stairs(counts / expected, edges, color=GENERATED, fill=True, alpha=0.35)
    right.stairs(counts / expected, edges, color=GENERATED, lw=1.3)
    right.axhline(1, color=INK, lw=0.7)
    right.set_ylim(bottom=0)
    right.set_xlim(0, 1)
    _tidy(right, "rank of the realised value among samples", f"PIT, {len(ranks)} values")
    save_figure(figure, path)


def _fan(axis: Any, times: Any, samples: np.ndarray) -> None:
    """Nested central bands of samples (S, T)."""
    for share, alpha in _BANDS:
        low, high = np.quantile(samples, [0.5 - share / 2, 0.5 + share / 2], axis=0)
        axis.fill_between(times, low, high, color=GENERATED, alpha=alpha, lw=0)


def _name_bands(axis: Any) -> None:
    """Entries of the legend, as dark as the bands are where they lie over each other."""
    clear = 1.0
    for share, alpha in _BANDS:
        clear *= 1 - alpha
        axis.fill(np.nan, np.nan, color=GENERATED, alpha=1 - clear, lw=0, label=f"{share:.0%}")


def _runs(missing: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.r_[False, missing, False].astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def _view(gaps: list[tuple[int, int]], length: int, max_steps: int) -> tuple[int, int]:
    """The whole series, or ``max_steps`` around its longest gap."""
    if length <= max_steps:
        return 0, length
    begin, end = max(gaps, key=lambda gap: gap[1] - gap[0])
    width = max(max_steps, 2 * (end - begin))
    low = max(0, min((begin + end - width) // 2, length - width))
    return low, min(length, low + width)


def _histogram(axis: Any, real: np.ndarray, synthetic: np.ndarray, title: str) -> None:
    low, high = np.quantile(np.concatenate([real.ravel(), synthetic.ravel()]), [0.002, 0.998])
    bins = np.linspace(low, high + 1e-12, 51)
    for values, options in (
        (real, {"color": REFERENCE, "fill": True, "alpha": 0.7}),
        (synthetic, {"color": GENERATED}),
    ):
        axis.stairs(np.histogram(values, bins=bins)[0] / values.size, bins, lw=1.5, **options)
    axis.set_yticks([])
    axis.set_ylim(bottom=0)
    _tidy(axis, title, "")


def _grid(count: int, dpi: int) -> tuple[Figure, list[Any]]:
    columns = 1 if count == 1 else 2 if count <= 4 else 3
    rows = -(-count // columns)
    width = 8.4 if columns == 1 else 5.0 * columns
    figure = new_figure(width, 0.5 + (3.1 if rows == 1 else 2.5) * rows, dpi=dpi)
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).reshape(-1))
    for axis in axes[count:]:
        axis.axis("off")
    return figure, axes


def _title(item: str, names: Sequence[str], variate: int, variates: int) -> str:
    return item if variates == 1 else f"{item}: {names[variate] if names else variate}"


def _dates(axis: Any, title: str) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=7)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axis.xaxis.get_offset_text().set_fontsize(8)
    axis.margins(x=0.01)
    _tidy(axis, "", title)


def _tidy(axis: Any, label: str, title: str) -> None:
    axis.set_xlabel(label, fontsize=9)
    axis.set_title(title, fontsize=9, color=INK, loc="left")
    axis.tick_params(labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _finish(figure: Figure, axis: Any, path: str | Path) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9)
    save_figure(figure, path)
