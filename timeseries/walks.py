"""Forecasts, imputations and refinements of whole series: which windows are drawn, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from timeseries.bases import Base
from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import TimeSeries
from timeseries.data.windows import Cuts, WindowStore, series_size
from timeseries.diffusion import scaled
from timeseries.paths import base_paths, fill, path_seeds, window_start
from timeseries.refinement import RefineOptions, refine_windows
from timeseries.tasks import SamplingOptions, draw_windows

__all__ = ["WindowModel", "forecast_paths", "impute_paths", "num_blocks", "num_passes", "refine_paths"]


class WindowModel(NamedTuple):
    """A trained denoiser, the windows it was trained on, and the base of a conditional one."""

    denoiser: Denoiser
    spec: SeriesSpec
    base: Base | None = None


def forecast_paths(
    model: WindowModel,
    series: Sequence[TimeSeries],
    num_samples: int,
    horizon: int,
    options: SamplingOptions,
    *,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    advance: Callable[[], None] | None = None,
) -> tuple[np.ndarray, int]:
    """Sample paths (items, S, horizon, D) from the end of each series, and the network evaluations of a path.

    Beyond the trained horizon each path is continued from its own last values.

    Args:
        model: Model.
        series: Series.
        num_samples: S.
        horizon: Steps.
        options: Solver and guidance.
        seed: A path depends on this, the number of its series and its own only.
        numbers: Number of each series; 0, 1, ... if absent.
        advance: Called after each solver step.
    """
    spec = model.spec
    numbers = range(len(series)) if numbers is None else numbers
    blocks = num_blocks(spec, horizon)
    levels = _levels(num_samples).repeat(len(series))
    tables = [s.table[-spec.history :] for s in series]
    size = series_size([s.table for s in series])
    parts: list[Tensor] = []
    nfe = 0
    for block in range(blocks):
        store = WindowStore([TimeSeries(t, series[0].start) for t in tables], spec, size=size)
        windows = store.take(store.ends(), hide_future=True)
        each = num_samples if block == 0 else 1
        seeds = path_seeds(seed, numbers, num_samples, block)
        x, nfe = draw_windows(
            model.denoiser, spec, windows, each, seeds, options, levels=levels, base=model.base, callback=advance
        )
        parts.append(x[:, spec.context_length :])
        if block + 1 < blocks:
            if block == 0:
                tables = [table for table in tables for _ in range(num_samples)]
                size = size.repeat(num_samples, 0)
            tables = [np.concatenate([t, p.numpy()])[-spec.history :] for t, p in zip(tables, parts[-1])]
    samples = torch.cat(parts, 1)[:, :horizon].unflatten(0, (len(series), num_samples)).numpy()
    return samples, blocks * nfe


def num_blocks(spec: SeriesSpec, horizon: int) -> int:
    """Windows that a path of ``horizon`` steps goes through."""
    return -(-horizon // spec.prediction_length)


def num_passes(table: np.ndarray, spec: SeriesSpec) -> int:
    """Windows that filling the gaps of a series (T, D) takes."""
    path, count = table[None].copy(), 0
    while np.isnan(path).any():
        start = window_start(path[0], spec.length)
        fill(path, np.zeros((1, spec.length, path.shape[2])), start)
        count += 1
    return count


def impute_paths(
    model: WindowModel,
    series: Sequence[TimeSeries],
    num_samples: int,
    options: SamplingOptions,
    *,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    advance: Callable[[], None] | None = None,
) -> list[np.ndarray]:
    """Each series S times (S, T, D), its missing values drawn.

    Windows walk over a series from its first missing value on; what a path has drawn counts as observed in its next
    window. Arguments as in `forecast_paths`.
    """
    spec = model.spec
    numbers = range(len(series)) if numbers is None else numbers
    paths = [np.repeat(s.table[None], num_samples, 0) for s in series]
    size = series_size([s.table for s in series])
    levels = _levels(num_samples)
    block = 0
    while missing := [k for k, path in enumerate(paths) if np.isnan(path[0]).any()]:
        starts = [window_start(paths[k][0], spec.length) for k in missing]
        flat = [TimeSeries(path, series[k].start) for k in missing for path in paths[k]]
        store = WindowStore(flat, spec, size=size[missing].repeat(num_samples, 0))
        cuts = torch.tensor(starts).repeat_interleave(num_samples) + spec.context_length
        windows = store.take(Cuts(torch.arange(len(flat)), cuts))
        drawn, _ = draw_windows(
            model.denoiser,
            spec,
            windows,
            1,
            path_seeds(seed, [numbers[k] for k in missing], num_samples, block),
            options,
            levels=levels.repeat(len(missing)),
            anywhere=True,
            base=model.base,
            callback=advance,
        )
        values = drawn.unflatten(0, (len(missing), num_samples)).numpy()
        for k, start, window in zip(missing, starts, values):
            fill(paths[k], window, start)
        block += 1
    return paths


def refine_paths(
    model: WindowModel,
    base: Any,
    series: Sequence[TimeSeries],
    num_samples: int,
    t: float,
    options: RefineOptions,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Refined forecasts (items, S, P, D); arguments as in `timeseries.DiffusionForecaster.refine`."""
    spec = model.spec
    paths = base_paths(base, len(series), spec, num_samples)
    flat = [
        TimeSeries(np.concatenate([s.table[-spec.history :], path]), s.start)
        for s, own in zip(series, paths)
        for path in own
    ]
    store = WindowStore(flat, spec, size=series_size([s.table for s in series]).repeat(num_samples, 0))
    cuts = store.ends(spec.prediction_length)
    seen = store.take(cuts, hide_future=True)
    state, scale = scaled(store.take(cuts), spec)
    levels = _levels(num_samples).repeat(len(series))
    seeds = path_seeds(seed, range(len(series)), num_samples)
    y = refine_windows(model.denoiser, state, seen.observed, levels, t, seeds, options)
    values = y[:, spec.context_length :, :, 0].double() * scale.scale + scale.location
    return values.unflatten(0, (len(series), num_samples)).numpy()


def _levels(num_samples: int) -> Tensor:
    """(j + 1)/(S + 1)."""
    return (torch.arange(num_samples, dtype=torch.float64) + 1) / (num_samples + 1)
