"""Benchmark sets by name, with the splits and test windows that papers use.

Files are found under ``$SCIDIFF_DATA/timeseries``; nothing is downloaded.

References: Lai et al. 2018 (exchange rates); Makridakis et al. 2020 (M4); Zhou et al. 2021 (ETT); Kollovieh et al. 2023
(lengths and lags of TSDiff).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scidiff.assets import data_folder, suggestion
from timeseries.data import calendar, frames
from timeseries.data.series import TimeSeries

__all__ = ["BenchmarkSet", "data_root", "load_benchmark", "names"]

_DAY = 24


@dataclass(frozen=True)
class BenchmarkSet:
    """Training series and test windows of one task.

    Attributes:
        name: Name.
        train: Series that may be trained on.
        test: Series whose last ``prediction_length`` values are to be forecast from the values before them.
        freq: Frequency.
        prediction_length: P.
        context_length: C of the published configuration.
        lags: Its lags, in steps.
    """

    name: str
    train: list[TimeSeries]
    test: list[TimeSeries]
    freq: str
    prediction_length: int
    context_length: int
    lags: tuple[int, ...] = ()

    @property
    def season(self) -> int:
        """Season length of the frequency."""
        return calendar.season_length(self.freq)

    @property
    def past(self) -> list[np.ndarray]:
        """Values before each test window."""
        return [s.values[: -self.prediction_length] for s in self.test]

    @property
    def target(self) -> np.ndarray:
        """Values of the test windows (W, P)."""
        return np.stack([s.values[-self.prediction_length :] for s in self.test])

    @property
    def inputs(self) -> list[TimeSeries]:
        """The test series without their last P values: what a model may see."""
        return [s.cut(-self.prediction_length) for s in self.test]


def names() -> list[str]:
    """Names that `load_benchmark` knows."""
    return sorted(_READERS)


def load_benchmark(name: str, root: str | Path | None = None) -> BenchmarkSet:
    """One of ``exchange``, ``m4_hourly``, ``m4_weekly``, ``etth1``, ``etth2``, ``pjm``, ``burke_gilman``.

    Args:
        name: Name of the set.
        root: Folder ``timeseries`` of the data; default: the one in ``$SCIDIFF_DATA``.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If the data is not there.
    """
    if name not in _READERS:
        raise ValueError(f"no benchmark set {name!r}{suggestion(name, names())}.")
    return _READERS[name](data_root(root))


def data_root(root: str | Path | None = None) -> Path:
    """``root``, or the folder ``timeseries`` in ``$SCIDIFF_DATA``.

    Raises:
        FileNotFoundError: If neither is given.
    """
    if root is not None:
        return Path(root)
    folder = data_folder()
    if folder is None:
        raise FileNotFoundError("this needs the data files: set SCIDIFF_DATA to the data folder.")
    return folder / "timeseries"


def _exchange(root: Path) -> BenchmarkSet:
    with np.load(_existing(root / "exchange" / "exchange_rate_nips.npz"), allow_pickle=False) as data:
        target, length, ends = data["target"], int(data["train_length"]), data["test_lengths"].tolist()
    start = calendar.period("1990-01-01", "B")
    series = [TimeSeries(row, start, str(k)) for k, row in enumerate(target)]
    test = [s.cut(int(end)) for end in ends for s in series]
    return BenchmarkSet("exchange", [s.cut(length) for s in series], test, "B", 30, 360, calendar.default_lags("B"))


def _m4(root: Path, name: str, freq: str, prediction_length: int, context_length: int) -> BenchmarkSet:
    start = calendar.period("1750-01-01", freq)
    train = [TimeSeries(row, start, key) for key, row in _ragged(root / "m4" / f"{name}-train.csv.gz")]
    future = dict(_ragged(root / "m4" / f"{name}-test.csv.gz"))
    test = [TimeSeries(np.concatenate([s.values, future[s.item_id]]), start, s.item_id) for s in train]
    return BenchmarkSet(f"m4_{name.lower()}", train, test, freq, prediction_length, context_length)


def _ett(root: Path, name: str) -> BenchmarkSet:
    series = frames.read(_existing(root / "ett" / f"{name}.csv.gz"), "h", timestamp="date")
    origins = range(11_520, 14_400, _DAY)
    test = [s.cut(origin + _DAY) for origin in origins for s in series]
    train = [s.cut(8_640) for s in series]
    return BenchmarkSet(name.lower(), train, test, "h", _DAY, 336, calendar.default_lags("h"))


def _pjm(root: Path) -> BenchmarkSet:
    table = pd.read_csv(_existing(root / "pjm_hourly" / "pjm_hourly_load_mw.csv.gz"), index_col=0)
    series = frames.from_wide(table.drop(columns="NI"), "h")  # NI ends in 2011
    return _last_days("pjm", series, 28)


def _burke_gilman(root: Path) -> BenchmarkSet:
    table = pd.read_csv(_existing(root / "burke_gilman_hourly" / "burke_gilman_trail_counts.csv.gz"))
    times = pd.to_datetime(table.iloc[:, 0], format="%m/%d/%Y %I:%M:%S %p")
    total = table.iloc[:, 1].groupby(times).mean()  # hours that occur twice are averaged; absent ones become NaN
    return _last_days("burke_gilman", frames.from_wide(total.to_frame("total"), "h"), 28)


def _last_days(name: str, series: list[TimeSeries], days: int) -> BenchmarkSet:
    train = [s.cut(-days * _DAY) for s in series]
    ends = [None if day == 0 else -day * _DAY for day in range(days - 1, -1, -1)]
    test = [s if end is None else s.cut(end) for end in ends for s in series]
    return BenchmarkSet(name, train, test, "h", _DAY, 336, calendar.default_lags("h"))


def _ragged(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of an M4 file: a name and the values up to the last one that is there."""
    table = pd.read_csv(_existing(path))
    values = table.iloc[:, 1:].to_numpy(dtype=np.float64)
    for key, row in zip(table.iloc[:, 0], values):
        yield str(key), row[: np.flatnonzero(np.isfinite(row))[-1] + 1]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {str(path.parent)!r}: set SCIDIFF_DATA to the data folder.")
    return path


_READERS: dict[str, Callable[[Path], BenchmarkSet]] = {
    "exchange": _exchange,
    "m4_hourly": lambda root: _m4(root, "Hourly", "h", 48, 312),
    "m4_weekly": lambda root: _m4(root, "Weekly", "W-SUN", 13, 52),
    "etth1": lambda root: _ett(root, "ETTh1"),
    "etth2": lambda root: _ett(root, "ETTh2"),
    "pjm": _pjm,
    "burke_gilman": _burke_gilman,
}
