"""Fill gaps, forecast, judge: hourly demand with the packaged model, in a notebook's few lines.

Run as ``python examples/forecast_demand.py``; results go to ``out/example_timeseries``.
"""

from pathlib import Path

from timeseries import DiffusionForecaster, DiffusionPredictor
from timeseries.data.demand import demand
from timeseries.data.series import to_entries
from timeseries.evaluate import judge, rolling_task
from timeseries.plots import plot_forecast, plot_imputation

folder = Path("out") / "example_timeseries"
folder.mkdir(parents=True, exist_ok=True)
model = DiffusionForecaster.from_pretrained("demand")  # or DiffusionForecaster("h", 24, 96, lags=[168]).fit(data)
series = demand(4)  # four sites, four weeks, with gaps

filled = model.impute(series, num_samples=20, seed=0)
plot_imputation(filled, folder / "filled.png")

task = rolling_task(series, prediction_length=24)  # hide the last day
forecast = model.forecast(task.inputs, num_samples=100, seed=0)
plot_forecast(forecast, task.inputs, folder / "forecast.png", truth=task.target)
print(forecast.frame(levels=[0.1, 0.5, 0.9]).head())
print(judge(forecast, task).table())

predictor = DiffusionPredictor(model, num_samples=50)  # the same model for GluonTS's evaluators
first = next(iter(predictor.predict(to_entries(series))))
print(first.start_date, first.samples.shape)
