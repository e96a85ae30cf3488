"""Data frames and files as time series, with every row of a bad calendar named."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timeseries.data import calendar
from timeseries.data.series import TimeSeries, from_entries

__all__ = ["check_parquet", "from_frame", "from_long", "from_wide", "infer_freq", "read", "read_table"]

_LOG = logging.getLogger(__name__)
_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".json", ".parquet")


def read(
    path: str | Path,
    freq: str | None = None,
    *,
    target: str | Sequence[str] | None = None,
    item_id: str | None = None,
    timestamp: str | None = None,
) -> list[TimeSeries]:
    """Series of a file; options as `timeseries.data.series.as_series`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix is unknown or the content does not fit.
    """
    file = Path(path)
    name = file.name.lower()
    if not name.endswith(_SUFFIXES):
        raise ValueError(f"cannot read {file.name!r}: expected a file ending in {', '.join(_SUFFIXES)}.")
    if not file.is_file():
        raise FileNotFoundError(f"no data file at {str(path)!r}.")
    if name.endswith((".jsonl", ".jsonl.gz", ".json")):
        lines = pd.read_table(file, header=None, sep="\x00", dtype=str, compression="infer")[0]
        return from_entries([_entry(line, k, file.name) for k, line in enumerate(lines) if line.strip()], freq)
    frame = read_table(file)
    if frame.empty or frame.shape[1] < 2:
        raise ValueError(
            f"{file.name!r} has {len(frame)} rows and the columns {_some(frame.columns)}: expected time stamps and at "
            "least one column of values, separated by commas, under a line of names."
        )
    if timestamp is None and item_id is None and "timestamp" not in frame.columns:
        timestamp = str(frame.columns[0]) if isinstance(frame.index, pd.RangeIndex) else None
    return from_frame(frame, freq, target=target, item_id=item_id, timestamp=timestamp)


def from_frame(
    frame: pd.DataFrame,
    freq: str | None = None,
    *,
    target: str | Sequence[str] | None = None,
    item_id: str | None = None,
    timestamp: str | None = None,
) -> list[TimeSeries]:
    """Series of a long frame (one that has an item column) or of a wide one."""
    given = {"target": target, "item_id": item_id, "timestamp": timestamp}
    for role, columns in given.items():
        for column in [columns] if isinstance(columns, str) else columns or []:
            if column not in frame.columns:
                raise ValueError(f"{role}={column!r} is not a column; the frame has {_some(frame.columns)}.")
    if timestamp is None and "timestamp" in frame.columns:
        timestamp = "timestamp"
    if item_id is None and "item_id" in frame.columns:
        item_id = "item_id"
    if item_id is None:
        wide: Any = frame if timestamp is None else frame.set_index(timestamp)
        if target is None:
            return from_wide(wide, freq)
        columns = [target] if isinstance(target, str) else list(target)
        return _series(wide[columns].reset_index(names="timestamp"), "0", freq, columns, np.arange(len(wide)))
    if timestamp is None:
        raise ValueError(f"a long frame needs timestamp=; it has the columns {_some(frame.columns)}.")
    if target is None:
        rest = [column for column in frame.columns if column not in (item_id, timestamp)]
        if len(rest) != 1:
            raise ValueError(f"pass target=: which of {_some(rest)} holds the values?")
        target = str(rest[0])
    return from_long(frame, freq, target=target, item_id=item_id, timestamp=timestamp)


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """A CSV or Parquet file as a frame; ``options`` of `pandas.read_csv`.

    Raises:
        ValueError: If the content is no table, or Parquet cannot be read here.
    """
    if path.name.lower().endswith(".parquet"):
        check_parquet(path)
        return pd.read_parquet(path)
    try:
        return pd.read_csv(path, **options)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parsing errors are ValueErrors
        raise ValueError(f"{path.name!r} is no CSV table ({str(error).strip().splitlines()[0]}).") from error


def check_parquet(path: Path) -> None:
    """Refuse a Parquet file where no package can handle it.

    Raises:
        ValueError: If neither pyarrow nor fastparquet is installed.
    """
    if not (find_spec("pyarrow") or find_spec("fastparquet")):
        raise ValueError(
            f"{str(path)!r}: Parquet needs a package that is not installed; run pip install -e '.[parquet]' (or pip "
            "install pyarrow), or use a CSV."
        )


def from_long(
    frame: pd.DataFrame, freq: str | None, *, target: str | Sequence[str], item_id: str, timestamp: str
) -> list[TimeSeries]:
    """One series for each value of ``item_id``, in order of appearance."""
    columns = [target] if isinstance(target, str) else list(target)
    codes, names = pd.factorize(frame[item_id], sort=False)
    if (codes < 0).any():
        raise ValueError(f"row {int((codes < 0).argmax())} has no {item_id}.")
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    table: Any = frame
    renamed = table[[timestamp, *columns]].rename(columns={timestamp: "timestamp"})
    found = []
    for name, rows in zip(names, np.split(order, ends[:-1])):
        (series,) = _series(renamed.iloc[rows], str(name), freq, columns, rows, is_list=not isinstance(target, str))
        if np.isnan(series.values).all():
            raise ValueError(f"series {str(name)!r} holds no number: drop its rows.")
        found.append(series)
    return found


def from_wide(frame: pd.DataFrame, freq: str | None = None) -> list[TimeSeries]:
    """One series a column; missing values before the first and after the last known one are cut off."""
    table: Any = frame.reset_index(names="timestamp")
    found = []
    for column in frame.columns:
        (series,) = _series(table[["timestamp", column]], str(column), freq, [column], np.arange(len(table)))
        known = np.flatnonzero(~np.isnan(series.values))
        if not len(known):
            raise ValueError(f"column {column!r} holds no number: drop it, or name the columns by target.")
        first, last = known[0], known[-1] + 1
        start = calendar.shift(series.start, int(first))
        found.append(TimeSeries(series.values[first:last], start, series.item_id))
    return found


def infer_freq(times: pd.DatetimeIndex) -> str:
    """Frequency of regular time stamps.

    Raises:
        ValueError: If fewer than 3 are given or they are not regular.
    """
    found = pd.infer_freq(times) if len(times) >= 3 else None
    if found is None:
        raise ValueError(f"the frequency cannot be inferred from the time stamps{_irregular(times)}: pass freq=.")
    _LOG.info("frequency inferred from the time stamps: %s", found)
    return calendar.normalize_freq(found)


def _irregular(times: pd.DatetimeIndex) -> str:
    """Where time stamps leave their usual step, for a message."""
    steps = pd.Series(times[1:] - times[:-1])
    if len(steps) < 2:
        return f", of which there are {len(times)}"
    usual = steps.mode()[0]
    row = int((steps != usual).to_numpy().argmax()) + 1
    if steps[row - 1] == usual:
        return ""
    return f" (row {row} comes {steps[row - 1]} after the one before it, most rows {usual})"


def _entry(line: str, number: int, name: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number + 1} of {name!r} is not JSON ({error}).") from error


def _series(
    frame: pd.DataFrame,
    name: str,
    freq: str | None,
    columns: Sequence[str],
    rows: np.ndarray,
    *,
    is_list: bool = False,
) -> list[TimeSeries]:
    """One series, with absent periods filled by NaN."""
    try:
        stamps = frame["timestamp"]
        if isinstance(stamps.dtype, pd.PeriodDtype):
            stamps = stamps.dt.to_timestamp()
        times = pd.DatetimeIndex(pd.to_datetime(stamps))
    except (ValueError, TypeError) as error:
        raise ValueError(f"series {name!r}: the time stamps cannot be read ({error}).") from error
    if times.tz is not None:
        times = times.tz_localize(None)
    if times.hasnans:
        raise ValueError(f"series {name!r}: row {rows[int(times.isna().argmax())]} has no time stamp.")
    steps = np.diff(times.asi8)
    if (steps <= 0).any():
        index = int((steps <= 0).argmax())
        problem = "occurs twice" if steps[index] == 0 else "is out of order"
        raise ValueError(
            f"series {name!r}: the time stamp of row {rows[index + 1]} {problem}. Sort the rows and drop doubles."
        )
    alias = calendar.normalize_freq(freq) if freq is not None else infer_freq(times)
    position = _positions(times, alias, name, rows)
    try:
        content = frame[list(columns)].to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"series {name!r}: the values of {_some(columns)} are not numbers ({error}).") from error
    values = np.full((position[-1] + 1, len(columns)), np.nan)
    values[position] = content
    several = is_list or len(columns) > 1
    names = tuple(map(str, columns)) if several else ()
    return [TimeSeries(values if several else values[:, 0], calendar.period(times[0], alias), name, names)]


def _positions(times: pd.DatetimeIndex, freq: str, name: str, rows: np.ndarray) -> np.ndarray:
    """Number of periods since the first row; stamps must all lie at the same place of their period."""
    with calendar.quiet():
        ordinal = times.to_period(freq).asi8
        start, end = times.to_period(freq).to_timestamp(), times.to_period(freq).to_timestamp(how="end")
    count, base = calendar.split_freq(freq)
    position, rest = np.divmod(ordinal - ordinal[0], count)
    since = (times - start).asi8
    is_end = end.normalize() == times.normalize()  # month ends lie at different distances from the month's start
    ends = is_end.all() and base[0] in "MQY"
    is_off = (rest != 0) | ((since != since[0]) & (not ends))
    is_off[1:] |= np.diff(position) <= 0
    if is_off.any():
        row = rows[int(is_off.argmax())]
        raise ValueError(
            f"series {name!r}: the time stamp {times[int(is_off.argmax())]} of row {row} does not fit the frequency "
            f"{freq!r} of the stamps before it."
        )
    return position


def _some(names: Sequence[object] | pd.Index, limit: int = 8) -> str:
    shown = [repr(str(name)) for name in list(names)[:limit]]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "")
