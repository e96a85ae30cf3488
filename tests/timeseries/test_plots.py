"""What the pictures show: curves against closed forms, and files that are complete."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from timeseries.data.series import TimeSeries
from timeseries.forecast import Forecast, Imputation
from timeseries.plots import plot_calibration, plot_forecast, plot_imputation, plot_windows

START = pd.Period("2021-01-01 00:00", "h")


@pytest.fixture
def figures(monkeypatch):
    """Figures as they are written, without drawing."""
    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (seen.append(self), path.write_bytes(b"x")))
    return seen


def test_fan_holds_the_quantiles(figures, tmp_path):
    rng = np.random.default_rng(0)
    series = [TimeSeries(rng.normal(size=80), START, f"s{k}") for k in range(2)]
    samples = rng.normal(size=(2, 50, 12))
    forecast = Forecast(samples, [START + 80] * 2, ["s0", "s1"])
    plot_forecast(forecast, series, tmp_path / "a.png", truth=samples[:, 0])
    (figure,) = figures
    axis = figure.axes[1]
    assert axis.get_title(loc="left") == "s1"
    start = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert start.min() <= series[1].values[-1] <= start.max()
    outer = axis.collections[3].get_paths()[0].vertices[:, 1]
    low, high = np.quantile(samples[1], [0.025, 0.975], axis=0)
    assert (outer.min(), outer.max()) == pytest.approx((low.min(), high.max()))
    history = axis.lines[0].get_ydata()
    np.testing.assert_array_equal(history, series[1].values[-36:])
    lines = {line.get_label(): line.get_ydata() for line in axis.lines}
    np.testing.assert_allclose(lines["median"], np.median(samples[1], 0))
    np.testing.assert_array_equal(lines["realised"], samples[1, 0])


def test_imputation_joins_the_known_values(figures, tmp_path):
    values = np.sin(np.arange(500) / 5)
    values[[7, 400]] = np.nan
    values[420:450] = np.nan
    samples = np.where(np.isnan(values), np.random.default_rng(0).normal(size=(20, 500)), values)
    known = TimeSeries(np.ones(10), START, "whole")
    series = [known, TimeSeries(values, START, "gaps")]
    plot_imputation(Imputation(series, [np.ones((20, 10)), samples]), tmp_path / "a.png")
    (axis,) = figures[0].axes
    assert axis.get_title(loc="left") == "gaps (32 of 500 missing)"
    medians = [line.get_ydata() for line in axis.lines if line.get_color() != axis.lines[0].get_color()]
    assert [len(median) for median in medians] == [3, 32]  # the gap at 7 is out of view
    assert medians[1][0] == values[419]
    assert medians[1][-1] == values[450]
    with pytest.raises(ValueError, match="nothing was missing"):
        plot_imputation(Imputation([known], [np.ones((3, 10))]), tmp_path / "b.png")


def test_calibration_of_a_reliable_forecast(figures, tmp_path):
    """Samples and target from one law: coverage on the diagonal within 4 standard errors plus 2/S, PIT flat."""
    rng = np.random.default_rng(0)
    samples, target = rng.normal(size=(500, 99, 8)), rng.normal(size=(500, 8))
    plot_calibration(samples, target, tmp_path / "a.png")
    left, right = figures[0].axes
    curve = next(line for line in left.lines if line.get_label() == "forecast")
    nominal, share = curve.get_xdata(), curve.get_ydata()
    assert np.abs(share - nominal).max() < 4 * 0.5 / 4000**0.5 + 2 / 99
    heights = right.patches[1].get_data().values
    assert heights.mean() == pytest.approx(1)
    assert np.abs(heights - 1).max() < 4 * (20 / 4000) ** 0.5


def test_all_pictures_are_written(tmp_path):
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(30, 36)).cumsum(1)
    plot_windows(windows, windows[::-1] + 0.1, tmp_path / "w.png", freq="h")
    two = TimeSeries(rng.normal(size=(40, 2)), START, "x", ("load", "wind"))
    forecast = Forecast(rng.normal(size=(1, 20, 6, 2)), [START + 40], ["x"], two.names)
    plot_forecast(forecast, [two], tmp_path / "f.png")
    for name in ("w.png", "f.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"expected windows \(N, L\) and \(M, L\)"):
        plot_windows(windows, windows[:, :-1], tmp_path / "bad.png")
    assert not (tmp_path / "bad.png").exists()
