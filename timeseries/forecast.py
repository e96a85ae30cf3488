"""What a forecaster returns: sample paths with their calendar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from timeseries import metrics
from timeseries.data import calendar
from timeseries.data.series import TimeSeries

__all__ = ["Forecast", "Imputation"]

_FRAME_LEVELS = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Forecast:
    """Sample paths of several series.

    Attributes:
        samples: (items, S, P), or (items, S, P, D) for series of D variates; units of the data.
        starts: First forecast period of each item.
        item_ids: Names.
        names: Names of the variates, if there are several.
        nfe: Network evaluations a sample path took, the final one included.
    """

    samples: np.ndarray = field(repr=False)
    starts: list[pd.Period] = field(repr=False)
    item_ids: list[str]
    names: tuple[str, ...] = ()
    nfe: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def mean(self) -> np.ndarray:
        """Mean over samples (items, P[, D])."""
        return self.samples.mean(1)

    def quantile(self, level: float, *, interpolate: bool = True) -> np.ndarray:
        """One quantile (items, P[, D]); see `timeseries.metrics.sample_quantiles`."""
        flat = self.samples.reshape(*self.samples.shape[:2], -1)
        return metrics.sample_quantiles(flat, [level], interpolate=interpolate)[0].reshape(self.mean.shape)

    def times(self, item: int) -> pd.DatetimeIndex:
        """First moment of each forecast period of an item."""
        return calendar.timestamps(self.starts[item], self.samples.shape[2])

    def frame(self, levels: Sequence[float] = _FRAME_LEVELS) -> pd.DataFrame:
        """Long frame: ``item_id``, (``variate``,) ``timestamp``, ``mean`` and one column a level."""
        columns = {"mean": self.mean, **{f"{level:g}": self.quantile(level) for level in levels}}
        parts = []
        for item, name in enumerate(self.item_ids):
            parts += _rows(name, self.times(item), {key: value[item] for key, value in columns.items()}, self.names)
        return pd.concat(parts, ignore_index=True)

    def evaluate(self, target: np.ndarray, **options: Any) -> metrics.Scores:
        """Scores against the realised values (items, P[, D]); options of `timeseries.metrics.evaluate`."""
        samples, truth = self.samples, np.asarray(target, dtype=np.float64)
        if samples.ndim == 4:
            samples = np.concatenate(np.moveaxis(samples, 3, 0))
            truth = np.concatenate(np.moveaxis(truth, 2, 0))
        return metrics.evaluate(samples, truth, **options)


@dataclass(frozen=True)
class Imputation:
    """Series with their missing values drawn.

    Attributes:
        series: The series as given, NaN where missing.
        samples: For each series (S, T) or (S, T, D); observed values are unchanged in every sample.
    """

    series: list[TimeSeries] = field(repr=False)
    samples: list[np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return len(self.series)

    @property
    def filled(self) -> list[TimeSeries]:
        """The series with missing values replaced by their sample mean."""
        return [
            TimeSeries(np.where(np.isfinite(s.values), s.values, x.mean(0)), s.start, s.item_id, s.names)
            for s, x in zip(self.series, self.samples)
        ]

    def frame(self, levels: Sequence[float] = _FRAME_LEVELS) -> pd.DataFrame:
        """Long frame of all positions: ``item_id``, ``timestamp``, ``observed``, ``mean`` and one column a level."""
        parts = []
        for s, x in zip(self.series, self.samples):
            columns = {"observed": np.isfinite(s.values), "mean": x.mean(0)}
            columns |= {f"{level:g}": np.quantile(x, level, axis=0) for level in levels}
            parts += _rows(s.item_id, s.times, columns, s.names)
        return pd.concat(parts, ignore_index=True)


def _rows(
    name: str, times: pd.DatetimeIndex, columns: dict[str, np.ndarray], names: Sequence[str]
) -> list[pd.DataFrame]:
    first = next(iter(columns.values()))
    if first.ndim == 1:
        return [pd.DataFrame({"item_id": name, "timestamp": times, **columns})]
    labels = names or [str(k) for k in range(first.shape[1])]
    return [
        pd.DataFrame(
            {"item_id": name, "variate": label, "timestamp": times, **{k: v[:, d] for k, v in columns.items()}}
        )
        for d, label in enumerate(labels)
    ]
