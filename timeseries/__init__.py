"""Time series: forecasting, imputation, refinement and synthesis with one unconditional diffusion model.

The public names are imported on first use, so that ``--help`` stays quick.
"""

from typing import TYPE_CHECKING

from scidiff.lazy import lazy_exports

if TYPE_CHECKING:
    from timeseries.data.datamodule import TimeSeriesDataModule
    from timeseries.data.datasets import load_benchmark
    from timeseries.data.scaling import SeriesSpec
    from timeseries.data.series import TimeSeries, as_series
    from timeseries.diffusion import TimeSeriesDiffusion
    from timeseries.forecast import Forecast
    from timeseries.generator import DiffusionForecaster
    from timeseries.gluon import DiffusionEstimator, DiffusionPredictor

__all__ = [
    "DiffusionEstimator",
    "DiffusionForecaster",
    "DiffusionPredictor",
    "Forecast",
    "SeriesSpec",
    "TimeSeries",
    "TimeSeriesDataModule",
    "TimeSeriesDiffusion",
    "as_series",
    "load_benchmark",
]

_EXPORTS = {
    "DiffusionEstimator": "timeseries.gluon",
    "DiffusionPredictor": "timeseries.gluon",
    "DiffusionForecaster": "timeseries.generator",
    "Forecast": "timeseries.forecast",
    "SeriesSpec": "timeseries.data.scaling",
    "TimeSeries": "timeseries.data.series",
    "TimeSeriesDataModule": "timeseries.data.datamodule",
    "TimeSeriesDiffusion": "timeseries.diffusion",
    "as_series": "timeseries.data.series",
    "load_benchmark": "timeseries.data.datasets",
}
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
