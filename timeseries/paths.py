"""Small parts of `DiffusionForecaster`: seeds of paths, windows that walk over a series, base forecasts, a bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from timeseries.data.scaling import SeriesSpec
from timeseries.tasks import SamplingOptions

__all__ = ["STRIDE", "Bar", "Progress", "base_paths", "fill", "num_parts", "path_seeds", "window_start"]

Progress = bool | Callable[[], None]
STRIDE = 2**20  # seeds (s, item * STRIDE + sample): a path does not depend on how many there are


def path_seeds(seed: int, items: Sequence[int], num_samples: int, block: int = 0) -> list[tuple[int, int]]:
    """One seed a path: (seed, number) with a number for each block of the horizon, item and sample."""
    return [(seed, (block * STRIDE + item) * STRIDE + j) for item in items for j in range(num_samples)]


def window_start(path: np.ndarray, length: int) -> int:
    """Start of the window for the first missing value of a series (T, D): a quarter of the window before it."""
    first = int(np.isnan(path).any(1).argmax())
    return max(0, min(first - length // 4, len(path) - length))


def fill(paths: np.ndarray, window: np.ndarray, start: int) -> None:
    """Fill missing values of (S, T, D) by windows (S, L, D) at ``start``; the last quarter waits for the next one."""
    total, length = paths.shape[1], window.shape[1]
    stop = total if start + length >= total else start + length - length // 4
    part = paths[:, start:stop]
    part[...] = np.where(np.isnan(part), window[:, : stop - start], part)


def base_paths(base: Any, num_items: int, spec: SeriesSpec, num_samples: int) -> np.ndarray:
    """Base forecast as (items, S, P, D), sorted over samples."""
    values = np.asarray(base.samples if hasattr(base, "samples") else base, dtype=np.float64)
    if values.ndim == 2:
        values = values[:, None]
    if values.ndim == 3:
        values = values[..., None]
    wanted = (num_items, spec.prediction_length, spec.num_variates)
    if values.ndim != 4 or (values.shape[0], *values.shape[2:]) != wanted or not np.isfinite(values).all():
        raise ValueError(
            f"the base forecast must have shape (items, samples, P) = ({num_items}, any, {spec.prediction_length}) "
            f"and finite values, got shape {values.shape}."
        )
    if values.shape[1] == num_samples:
        return np.sort(values, axis=1)
    levels = (np.arange(num_samples) + 1) / (num_samples + 1)
    return np.moveaxis(np.quantile(values, levels, axis=1), 0, 1)


def num_parts(num_windows: int, num_samples: int, options: SamplingOptions) -> int:
    """Number of parts that windows are drawn in."""
    return -(-num_windows // max(1, options.rows // num_samples))


class Bar:
    """A tqdm bar, a function that moves another one, or nothing; gives the function to be called after each step."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.bar: Any = None
        self.progress = progress
        if progress is True:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, desc="sampling", unit="step", delay=0.5)

    def __enter__(self) -> Callable[[], None]:
        if callable(self.progress):
            return self.progress
        return (lambda: None) if self.bar is None else self._advance

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def _advance(self) -> None:
        self.bar.update()
