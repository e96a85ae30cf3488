"""`TimeSeries`: values on a regular calendar, NaN where missing; and everything that can be read as a list of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timeseries.data import calendar

__all__ = ["TimeSeries", "as_series", "from_entries", "to_entries"]


@dataclass(frozen=True)
class TimeSeries:
    """One series, of one or several variates.

    Attributes:
        values: float64 (T,), or (T, D) for D variates observed together; NaN = missing.
        start: Period of the first value; its frequency is that of the series.
        item_id: Name.
        names: Names of the variates of a (T, D) series.
    """

    values: np.ndarray
    start: pd.Period
    item_id: str = "0"
    names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.values.ndim not in (1, 2):
            raise ValueError(f"series {self.item_id!r} must have shape (T,) or (T, D), got {self.values.shape}.")
        if self.names and (self.values.ndim == 1 or len(self.names) != self.values.shape[1]):
            raise ValueError(
                f"series {self.item_id!r} of shape {self.values.shape} cannot have {len(self.names)} names."
            )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def freq(self) -> str:
        """Frequency, as `timeseries.data.calendar.normalize_freq` spells it."""
        return calendar.normalize_freq(self.start.freqstr)

    @property
    def num_variates(self) -> int:
        """D; 1 for a (T,) series."""
        return 1 if self.values.ndim == 1 else self.values.shape[1]

    @property
    def table(self) -> np.ndarray:
        """Values as (T, D)."""
        return self.values.reshape(len(self.values), -1)

    @property
    def times(self) -> pd.DatetimeIndex:
        """First moment of each period."""
        return calendar.timestamps(self.start, len(self))

    def cut(self, stop: int) -> TimeSeries:
        """The first ``stop`` values (all but the last ones, if negative)."""
        return TimeSeries(self.values[:stop], self.start, self.item_id, self.names)


def as_series(
    data: Any,
    freq: str | None = None,
    *,
    target: str | Sequence[str] | None = None,
    item_id: str | None = None,
    timestamp: str | None = None,
) -> list[TimeSeries]:
    """Read anything that holds time series; their order is kept.

    Args:
        data: A `TimeSeries` or a list of them; a long frame (columns ``item_id``, ``timestamp``, ``target``) or a wide
            one (time stamps in the index or in the column ``timestamp``, one column a series); a ``.csv`` (also
            ``.gz``), ``.jsonl`` or ``.parquet`` file; a GluonTS data set or any iterable of its entries; an array (T,)
            or (N, T) or a list of arrays, which start in 2000.
        freq: Frequency; inferred from the time stamps if absent.
        target: Column of the values of a long frame; several make one series of several variates.
        item_id: Column that names the series; without it a frame is wide, or one series if ``target`` is given.
        timestamp: Column of the time stamps.

    Raises:
        ValueError: If time stamps are unsorted, doubled or off the calendar (the row is named), or nothing is found.
        FileNotFoundError: If a file is missing.
    """
    from timeseries.data import frames

    if isinstance(data, TimeSeries):
        found = [data]
    elif isinstance(data, str | Path):
        found = frames.read(data, freq, target=target, item_id=item_id, timestamp=timestamp)
    elif isinstance(data, pd.Series):
        found = frames.from_wide(data.to_frame(data.name if data.name is not None else "0"), freq)
    elif isinstance(data, pd.DataFrame):
        found = frames.from_frame(data, freq, target=target, item_id=item_id, timestamp=timestamp)
    elif isinstance(data, np.ndarray):
        found = _from_arrays(np.atleast_2d(data), freq)
    else:
        items = list(data)
        if all(isinstance(item, TimeSeries) for item in items):
            found = items
        elif all(isinstance(item, Mapping) for item in items):
            found = from_entries(items, freq)
        else:
            found = _from_arrays(items, freq)
    if not found:
        raise ValueError("no time series was found in the data.")
    return _of_one_kind(found, freq)


def from_entries(entries: Iterable[Mapping[str, Any]], freq: str | None = None) -> list[TimeSeries]:
    """Series of GluonTS entries ``{"start", "target", "item_id"}``; a two-dimensional target is (D, T) there."""
    series = []
    for number, entry in enumerate(entries):
        if "start" not in entry or "target" not in entry:
            raise ValueError(f"entry {number} must have 'start' and 'target', got {sorted(entry)}.")
        start = entry["start"]
        own = freq if freq is not None else entry.get("freq") or getattr(start, "freqstr", None)
        if own is None:
            raise ValueError(f"entry {number} starts at {start!r}, which has no frequency: pass freq=.")
        values = np.asarray(_numbers(entry["target"]), dtype=np.float64)
        series.append(TimeSeries(values.T, calendar.period(start, own), str(entry.get("item_id", number))))
    return series


def to_entries(series: Iterable[TimeSeries]) -> list[dict[str, Any]]:
    """GluonTS entries of series."""
    return [{"start": s.start, "target": s.values.T, "item_id": s.item_id} for s in series]


def _from_arrays(items: Iterable[Any], freq: str | None) -> list[TimeSeries]:
    if freq is None:
        raise ValueError("plain arrays have no calendar: pass freq=.")
    start = calendar.period("2000-01-01", freq)
    return [TimeSeries(np.asarray(item, dtype=np.float64), start, str(k)) for k, item in enumerate(items)]


def _of_one_kind(series: list[TimeSeries], freq: str | None) -> list[TimeSeries]:
    wanted = calendar.normalize_freq(freq) if freq is not None else series[0].freq
    for s in series:
        if s.freq != wanted:
            raise ValueError(f"series {s.item_id!r} has frequency {s.freq!r}, expected {wanted!r}.")
        if s.num_variates != series[0].num_variates:
            raise ValueError(
                f"series {s.item_id!r} has {s.num_variates} variates, but {series[0].item_id!r} has "
                f"{series[0].num_variates}: one model takes one number of variates."
            )
        if np.isinf(s.values).any():
            raise ValueError(f"series {s.item_id!r} holds infinite values; missing values are NaN.")
    return series


def _numbers(values: Any) -> Any:
    """JSON has no NaN: null and "NaN" stand for it."""
    if isinstance(values, list):
        return [_numbers(v) for v in values]
    return math.nan if values is None or (isinstance(values, str) and values == "NaN") else values
