"""Time series as data: calendars, readers, benchmark sets, scaling, masks and windows.

The names are imported on first use, so that command-line help needs neither torch nor pandas.
"""

from typing import TYPE_CHECKING

from scidiff.lazy import lazy_exports

if TYPE_CHECKING:
    from timeseries.data.classics import load_classic
    from timeseries.data.datasets import BenchmarkSet, load_benchmark
    from timeseries.data.series import TimeSeries, as_series

__all__ = ["BenchmarkSet", "TimeSeries", "as_series", "load_benchmark", "load_classic"]

_EXPORTS = {
    "BenchmarkSet": "timeseries.data.datasets",
    "load_benchmark": "timeseries.data.datasets",
    "load_classic": "timeseries.data.classics",
    "TimeSeries": "timeseries.data.series",
    "as_series": "timeseries.data.series",
}
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
