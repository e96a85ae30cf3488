"""Forecasts with covariates: variates whose future is known guide those whose future is not.

An unconditional model of several variates needs nothing else: the known part of the horizon counts as observed, and the
rest is drawn as an imputation, window after window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from timeseries.data import calendar
from timeseries.data.series import TimeSeries
from timeseries.forecast import Forecast
from timeseries.generator import DiffusionForecaster

__all__ = ["forecast_with_future"]


def forecast_with_future(
    forecaster: DiffusionForecaster,
    series: Sequence[TimeSeries],
    future: Sequence[np.ndarray],
    num_samples: int = 100,
    *,
    seed: int = 0,
    **options: Any,
) -> Forecast:
    """Sample paths from the end of each series, given parts of the future.

    Args:
        forecaster: Trained model of D variates.
        series: Series (T, D) up to where the forecast starts.
        future: Known values (H, D) of each, NaN where they are to be drawn; H is the same for all.
        num_samples: S.
        seed: As in `DiffusionForecaster.forecast`.
        options: Options of `DiffusionForecaster.impute`.

    Returns:
        Samples (items, S, H, D); known values are themselves in every sample.

    Raises:
        ValueError: If shapes do not fit.
    """
    if forecaster.spec is None:
        raise ValueError("this forecaster is not trained yet: call fit(data), or load one by from_pretrained.")
    shapes = {np.shape(values) for values in future}
    if len(future) != len(series) or len(shapes) != 1 or next(iter(shapes))[1:] != series[0].table.shape[1:]:
        raise ValueError(
            f"expected future values (H, {series[0].num_variates}) of one H for each of {len(series)} series, got "
            f"{sorted(shapes)} for {len(future)}."
        )
    steps = next(iter(shapes))[0]
    kept = [min(len(s), forecaster.spec.history) for s in series]
    extended = [
        TimeSeries(
            np.concatenate([s.table[-keep:], values]), calendar.shift(s.start, len(s) - keep), s.item_id, s.names
        )
        for s, keep, values in zip(series, kept, future)
    ]
    drawn = forecaster.impute(extended, num_samples, seed=seed, **options)
    samples = np.stack([paths[:, -steps:] for paths in drawn.samples])
    starts = [calendar.shift(s.start, len(s)) for s in series]
    return Forecast(samples, starts, [s.item_id for s in series], series[0].names)
