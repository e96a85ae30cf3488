"""Small well-known series by name, for examples, plots and tests of ragged and missing data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scidiff.assets import suggestion
from timeseries.data import calendar, frames
from timeseries.data.series import TimeSeries

__all__ = ["CLASSICS", "load_classic"]


class _Classic(NamedTuple):
    """File, frequency, column of the values (default: the last one) and whether the first column is a real calendar."""

    file: str
    freq: str
    column: str | None = None
    is_dated: bool = True


CLASSICS = {
    "airline_passengers": _Classic("airline-passengers.csv", "M"),
    "car_sales": _Classic("monthly-car-sales.csv", "M"),
    "champagne_sales": _Classic("monthly_champagne_sales.csv", "M"),
    "female_births": _Classic("daily-total-female-births.csv", "D"),
    "gasoline": _Classic("us_gasoline.csv", "W-FRI"),
    "heart_rate": _Classic("heart_rate.csv", "500ms", is_dated=False),
    "influenza": _Classic("ILINet.csv", "W-SUN", "% WEIGHTED ILI"),
    "max_temperatures": _Classic("daily-max-temperatures.csv", "D"),
    "mean_temperatures": _Classic("monthly-mean-temp.csv", "M"),
    "min_temperatures": _Classic("daily-min-temperatures.csv", "D"),
    "pollution": _Classic("pollution.csv.gz", "h", "pm2.5"),
    "robberies": _Classic("monthly-robberies.csv", "M"),
    "shampoo": _Classic("shampoo.csv", "M", is_dated=False),
    "sunspots": _Classic("monthly-sunspots.csv", "M"),
    "taxi": _Classic("taxi_new_york_passengers.csv.gz", "30min"),
    "taylor": _Classic("taylor.csv", "30min", is_dated=False),
    "water_usage": _Classic("yearly-water-usage.csv", "Y"),
    "writing_paper_sales": _Classic("monthly-writing-paper-sales.csv", "M", is_dated=False),
}


def load_classic(name: str, root: str | Path | None = None) -> TimeSeries:
    """One of `CLASSICS`; series whose file has no years start in 2000.

    Args:
        name: Name of the series.
        root: Folder ``timeseries`` of the data; default: the one in ``$SCIDIFF_DATA``.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If the data is not there.
    """
    from timeseries.data.datasets import data_root

    if name not in CLASSICS:
        raise ValueError(f"no classic series {name!r}{suggestion(name, list(CLASSICS))}.")
    entry = CLASSICS[name]
    path = data_root(root) / "classics" / entry.file
    if not path.is_file():
        raise FileNotFoundError(f"no {entry.file} in {str(path.parent)!r}: set SCIDIFF_DATA to the data folder.")
    table: Any = pd.read_csv(path)
    column: Any = pd.to_numeric(table[entry.column or table.columns[-1]], errors="coerce")
    values = column.to_numpy(dtype=np.float64)
    if not entry.is_dated:
        return TimeSeries(values, calendar.period("2000-01-01", entry.freq), name)
    if "hour" in table.columns:
        times = pd.to_datetime(table[["year", "month", "day", "hour"]])
    else:
        times = pd.to_datetime(table.iloc[:, 0].astype(str))
    frame = pd.DataFrame({name: values}, index=pd.DatetimeIndex(times)).sort_index()
    (series,) = frames.from_wide(frame, entry.freq)
    return series
