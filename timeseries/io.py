"""Files of results: forecasts, filled series and synthetic windows as CSV, Parquet or NPZ, complete or not at all.

A forecast table has the columns ``item_id``, (``variate``,) ``timestamp``, ``mean`` and one a quantile level; an NPZ
keeps the sample paths. Both can be read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scidiff.files import atomic_path, check_writable
from timeseries.data import calendar
from timeseries.data.frames import check_parquet, infer_freq, read_table
from timeseries.data.series import TimeSeries
from timeseries.forecast import Forecast

__all__ = [
    "ARRAYS",
    "TABLES",
    "QuantileForecast",
    "check_output",
    "filled_frame",
    "long_frame",
    "read_forecast",
    "read_windows",
    "write_forecast",
    "write_frame",
    "write_windows",
]

TABLES = (".csv", ".csv.gz", ".parquet")
ARRAYS = (".npz",)


@dataclass(frozen=True)
class QuantileForecast:
    """Forecasts given by quantiles alone.

    Attributes:
        levels: Levels (K,), ascending.
        values: Quantiles (K, items, P).
        starts: First forecast period of each item.
        item_ids: Names.
    """

    levels: tuple[float, ...]
    values: np.ndarray = field(repr=False)
    starts: list[pd.Period] = field(repr=False)
    item_ids: list[str]


def check_output(path: Path | None, suffixes: Sequence[str] = (*TABLES, *ARRAYS)) -> None:
    """Refuse an output that cannot be written, before any work.

    Raises:
        ValueError: If the ending is unknown, or Parquet cannot be written here.
        OSError: If the file cannot be written.
    """
    if path is None:
        return
    if not path.name.lower().endswith(tuple(suffixes)):
        raise ValueError(f"output {str(path)!r} must end in {' or '.join(suffixes)}.")
    if path.suffix.lower() == ".parquet":
        check_parquet(path)
    check_writable(path)


def write_frame(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a table in the format of the ending, one of `TABLES`."""
    with atomic_path(path) as temporary:
        if temporary.suffix.lower() == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, index=False, compression="infer")


def write_forecast(forecast: Forecast, path: str | Path, levels: Sequence[float]) -> None:
    """Write the table of a forecast, or its sample paths if ``path`` ends in ``.npz``."""
    if Path(path).suffix.lower() != ".npz":
        write_frame(forecast.frame(levels), path)
        return
    with atomic_path(path) as temporary, calendar.quiet():
        np.savez_compressed(
            temporary,
            samples=forecast.samples,
            start=np.array([str(start.to_timestamp()) for start in forecast.starts]),
            freq=np.array(calendar.normalize_freq(forecast.starts[0].freqstr)),
            item_id=np.array(forecast.item_ids),
            names=np.array(forecast.names, dtype=str),
            nfe=np.array(forecast.nfe),
        )


def read_forecast(path: str | Path, freq: str | None = None) -> Forecast | QuantileForecast:
    """Read what `write_forecast` wrote, or anybody's table of the same columns.

    Args:
        path: ``.npz`` with samples, or a table.
        freq: Frequency of a table; inferred from its time stamps if absent.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the content is no forecast.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no forecast file at {str(path)!r}.")
    if file.suffix.lower() == ".npz":
        data = _arrays(file, ("samples", "start", "freq", "item_id"), "forecast")
        own = str(data["freq"])
        starts = [calendar.period(str(start), own) for start in data["start"]]
        names = tuple(map(str, data.get("names", ())))
        return Forecast(data["samples"], starts, list(map(str, data["item_id"])), names, int(data.get("nfe", 0)))
    if not file.name.lower().endswith(TABLES):
        raise ValueError(f"cannot read {file.name!r} as a forecast: expected {', '.join((*ARRAYS, *TABLES))}.")
    return _from_table(read_table(file, dtype={"item_id": str}), file.name, freq)


def long_frame(series: Sequence[TimeSeries]) -> pd.DataFrame:
    """Columns ``item_id``, ``timestamp`` and ``target``, or one for each variate."""
    parts = []
    for s in series:
        names = s.names or (("target",) if s.num_variates == 1 else tuple(map(str, range(s.num_variates))))
        columns = {name: s.table[:, d] for d, name in enumerate(names)}
        parts.append(pd.DataFrame({"item_id": s.item_id, "timestamp": s.times, **columns}))
    return pd.concat(parts, ignore_index=True)


def filled_frame(series: Sequence[TimeSeries], *, wide: bool) -> pd.DataFrame:
    """Series as a long frame, or as one column a series beside ``timestamp``."""
    if not wide:
        return long_frame(series)
    columns = {}
    for s in series:
        names = s.names or ((s.item_id,) if s.num_variates == 1 else tuple(f"{s.item_id}.{d}" for d in range(99)))
        columns |= {name: pd.Series(s.table[:, d], index=s.times) for d, name in enumerate(names[: s.num_variates])}
    return pd.DataFrame(columns).rename_axis("timestamp").reset_index()


def write_windows(windows: np.ndarray, path: str | Path, *, context_length: int, freq: str, scaling: str) -> None:
    """Write synthetic windows (N, L) or (N, L, D): NPZ, or a table of ``window``, ``step`` and one column a variate."""
    if Path(path).suffix.lower() == ".npz":
        facts: dict[str, Any] = {"context_length": context_length, "freq": freq, "scaling": scaling}
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, windows=windows, **facts)
        return
    table = windows.reshape(*windows.shape[:2], -1)
    count, length, variates = table.shape
    names = ["value"] if variates == 1 else [f"value_{d}" for d in range(variates)]
    columns = {name: table[:, :, d].ravel() for d, name in enumerate(names)}
    index = {"window": np.repeat(np.arange(count), length), "step": np.tile(np.arange(length), count)}
    write_frame(pd.DataFrame({**index, **columns}), path)


def read_windows(path: str | Path) -> dict[str, Any]:
    """Arrays of an NPZ that `write_windows` wrote: ``windows``, ``context_length``, ``freq``, ``scaling``.

    Raises:
        ValueError: If the file holds no windows.
    """
    return _arrays(Path(path), ("windows", "context_length", "freq", "scaling"), "synthetic windows")


def _arrays(file: Path, needed: Sequence[str], what: str) -> dict[str, Any]:
    try:
        with np.load(file, allow_pickle=False) as data:
            found = {name: data[name] for name in data.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file.name!r} is no NPZ file of {what} ({error}).") from error
    if missing := set(needed) - set(found):
        raise ValueError(f"{file.name!r} holds no {what}: it lacks {', '.join(sorted(missing))}.")
    return found


def _from_table(frame: pd.DataFrame, name: str, freq: str | None) -> QuantileForecast:
    columns = {float(c): c for c in map(str, frame.columns) if _is_level(c)}
    if not {"item_id", "timestamp"} <= set(frame.columns) or not (columns or "mean" in frame.columns):
        raise ValueError(
            f"{name!r} is no forecast table: expected item_id, timestamp and columns named by quantile levels such as "
            f"0.1, or mean; it has {', '.join(map(repr, frame.columns))}."
        )
    if "variate" in frame.columns:
        raise ValueError(f"{name!r} holds several variates, which are read from .npz files only.")
    if not columns:
        columns = {0.5: "mean"}
    levels = tuple(sorted(columns))
    groups = list(frame.groupby("item_id", sort=False))
    if len({len(part) for _, part in groups}) != 1:
        raise ValueError(f"{name!r}: all items of a forecast must have the same number of steps.")
    times = [pd.DatetimeIndex(pd.to_datetime(part["timestamp"])) for _, part in groups]
    freq = freq if freq is not None else infer_freq(times[0])
    values = np.stack([part[[columns[level] for level in levels]].to_numpy(float).T for _, part in groups], 1)
    if not np.isfinite(values).all():
        raise ValueError(f"{name!r} holds missing or infinite forecasts.")
    return QuantileForecast(levels, values, [calendar.period(t[0], freq) for t in times], [str(k) for k, _ in groups])


def _is_level(column: str) -> bool:
    try:
        return 0 < float(column) < 1
    except ValueError:
        return False
