"""Reports: published figures of the baselines, quantile tables, alignment of forecasts, windows."""

import numpy as np
import pandas as pd
import pytest

from scidiff.assets import data_folder
from timeseries.baselines import gaussian_naive
from timeseries.data import calendar
from timeseries.data.series import TimeSeries
from timeseries.evaluate import baseline_rows, benchmark_task, judge, match, rolling_task
from timeseries.forecast import Forecast
from timeseries.io import QuantileForecast, read_forecast, write_forecast

START = pd.Period("2021-01-01", "D")
needs_data = pytest.mark.skipif(
    data_folder() is None or not (data_folder() / "timeseries").is_dir(), reason="needs SCIDIFF_DATA"
)


def walks(count=3, length=60, shape=(), seed=0):
    rng = np.random.default_rng(seed)
    return [TimeSeries(50 + rng.normal(size=(length, *shape)).cumsum(0), START + k, f"w{k}") for k in range(count)]


@needs_data
def test_baselines_of_exchange_are_the_recorded_ones():
    """CRPS of the repeated last value, of naive(5), and of the Gaussian walk and naive(5) on the 40 windows."""
    task = benchmark_task("exchange")
    rows = baseline_rows([s.values for s in task.inputs], task.target, 5, context_length=task.context_length)
    recorded = {"seasonal naive 5": 0.01075, "random walk": 0.00931}
    recorded |= {"Gaussian random walk": 0.00766, "Gaussian seasonal naive 5": 0.00855}
    for name, value in recorded.items():
        assert rows[name]["wql"] == pytest.approx(value, abs=6e-6)


def test_quantiles_and_samples_of_one_forecast_agree():
    """A table of the deciles scores as the samples it was made of, whatever else it holds."""
    series = walks()
    task = rolling_task(series, 6)
    rng = np.random.default_rng(1)
    samples = task.target[:, None] + rng.normal(size=(3, 21, 6))
    starts = [s.start + len(s) for s in task.inputs]
    ids = [s.item_id for s in task.inputs]
    by_samples = judge(Forecast(samples, starts, ids), task).rows["model"]
    levels = tuple(k / 10 for k in range(1, 10))
    values = np.stack([np.sort(samples, 1)[:, int(np.round(20 * level))] for level in levels])
    by_table = judge(QuantileForecast(levels, values, starts, ids), task).rows["model"]
    for name in ("wql", "nd", "mase"):
        assert by_table[name] == pytest.approx(by_samples[name], rel=1e-12)
    assert "coverage_80" in by_table
    assert "coverage_90" not in by_table


def test_gaussian_rows_cover_what_they_say():
    """On random walks the Gaussian walk is the true law: coverage within 4 standard errors of 4000 windows."""
    series = walks(4000, 40)
    task = rolling_task(series, 5)
    past = [s.values for s in task.inputs]
    rows = baseline_rows(past, task.target, 1)
    assert set(rows) == {"random walk", "Gaussian random walk"}
    for share in (50, 90):
        error = 4 * np.sqrt(share / 100 * (1 - share / 100) / 4000)
        # 34 differences estimate the scale: a t law, whose intervals are short by up to .012
        assert rows["Gaussian random walk"][f"coverage_{share}"] == pytest.approx(share / 100, abs=error + 0.012)
    exact = gaussian_naive(past, 5, 1).quantiles((0.5,))[0]
    assert rows["random walk"]["nd"] == pytest.approx(rows["Gaussian random walk"]["nd"], rel=1e-12)
    np.testing.assert_array_equal(exact[:, 0], [values[-1] for values in past])


def test_windows_of_files_do_not_overlap():
    series = walks(2, 20)
    task = rolling_task(series, 4, 3)
    assert [len(s) for s in task.inputs] == [8, 8, 12, 12, 16, 16]
    np.testing.assert_array_equal(task.target[::2].ravel(), series[0].values[8:])
    with pytest.raises(ValueError, match="'w0' has 20 values; 5 windows of 4 steps and a value before them need more"):
        rolling_task(series, 4, 5)


@pytest.mark.parametrize("freq", ["D", "30min", "B", "M", "W-SUN"])
def test_forecasts_find_their_place(freq, tmp_path):
    """By name and calendar, in any order, through either kind of file."""
    start = calendar.period("2021-01-04", freq)
    series = [TimeSeries(np.arange(30.0) + 100 * k, calendar.shift(start, k), f"s{k}") for k in range(2)]
    cuts = (9, 20)
    starts = [calendar.shift(s.start, cut) for s, cut in zip(series, cuts)]
    samples = np.stack([s.values[cut : cut + 5] for s, cut in zip(series, cuts)])[:, None].repeat(4, 1)
    forecast = Forecast(samples[::-1], starts[::-1], ["s1", "s0"])
    for name in ("f.npz", "f.csv"):
        write_forecast(forecast, tmp_path / name, (0.1, 0.5, 0.9))
        again = read_forecast(tmp_path / name, freq)
        task = match(again, series)
        assert [len(s) for s in task.inputs] == [20, 9]
        np.testing.assert_array_equal(task.target, samples[::-1, 0])
        assert judge(again, task, season=1).rows["model"]["wql"] == 0
    with pytest.raises(ValueError, match="is about 's1', which is not among the 1 series"):
        match(forecast, series[:1])
    with pytest.raises(ValueError, match="the series goes from"):
        match(forecast, [s.cut(22) for s in series])


def test_variates_are_scored_as_windows():
    series = walks(2, 30, (3,))
    task = rolling_task(series, 4)
    samples = task.target[:, None] + np.random.default_rng(0).normal(size=(2, 11, 4, 3))
    both = judge(Forecast(samples, [s.start + 26 for s in series], ["w0", "w1"]), task, season=1)
    assert both.facts["windows"] == 6
    single = []
    for d in range(3):
        own = rolling_task([TimeSeries(s.values[:, d], s.start, s.item_id) for s in series], 4)
        forecast = Forecast(samples[..., d], [s.start + 26 for s in series], ["w0", "w1"])
        single.append(judge(forecast, own, season=1).rows["model"]["mase"])
    assert both.rows["model"]["mase"] == pytest.approx(np.mean(single), rel=1e-12)
    assert "Gaussian random walk" in both.table()
