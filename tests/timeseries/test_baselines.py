"""Baselines on the real sets to the last printed digit; ridge regression against an augmented least squares."""

import numpy as np
import pytest
from scipy import stats

from scidiff.assets import data_folder
from timeseries.baselines import Ridge, gaussian_naive, seasonal_naive
from timeseries.data.datasets import load_benchmark
from timeseries.metrics import (
    absolute_scaled_error,
    normalized_deviation,
    normalized_rmse,
    seasonal_error,
    weighted_quantile_loss,
)

needs_data = pytest.mark.skipif(
    data_folder() is None or not (data_folder() / "timeseries").is_dir(), reason="needs SCIDIFF_DATA"
)

# set, season: windows, weighted quantile loss = ND, NRMSE, MASE at its season, Gaussian version
RECORDED = {
    ("exchange", 5): (40, ".01075", ".01588", "1.6203", ".00855"),
    ("exchange", 1): (40, ".00931", ".01390", None, ".00766"),
    ("exchange", 30): (40, ".01296", ".02093", None, None),
    ("m4_hourly", 24): (414, ".04831", ".25955", "1.1932", ".03768"),
    ("m4_hourly", 1): (414, ".16629", "1.03562", None, None),
    ("m4_weekly", 1): (359, ".06340", ".12269", "2.7773", ".05766"),
    ("m4_weekly", 52): (359, ".13249", ".25466", "1.2213", None),
    ("etth1", 24): (840, ".29450", ".61270", ".9049", ".25741"),
    ("etth1", 1): (840, ".44820", "1.03011", None, None),
    ("etth2", 24): (840, ".15716", ".27652", "1.0134", ".13648"),
    ("etth2", 1): (840, ".16750", ".27572", None, None),
    ("pjm", 24): (280, ".08714", ".17117", "1.2504", ".06989"),
    ("pjm", 168): (280, ".11946", ".22463", None, None),
    ("pjm", 1): (280, ".16220", ".27532", None, None),
    ("burke_gilman", 24): (28, ".52242", None, None, ".5309"),
    ("burke_gilman", 168): (28, ".55221", None, None, None),
    ("burke_gilman", 1): (28, ".98914", None, None, None),
}
_LOADED = {}


def benchmark(name):
    if name not in _LOADED:
        _LOADED.clear()  # one set in memory at a time
        _LOADED[name] = load_benchmark(name)
    return _LOADED[name]


def printed(value, recorded):
    """``value`` with as many digits as the record has."""
    return f"{value:.{len(recorded.partition('.')[2])}f}".removeprefix("0")


@needs_data
@pytest.mark.parametrize(("name", "season"), RECORDED, ids=lambda value: str(value))
def test_naive_forecasts_reach_the_recorded_digits(name, season):
    windows, loss, rmse, scaled, gaussian = RECORDED[name, season]
    data = benchmark(name)
    target, past, steps = data.target, data.past, data.prediction_length
    assert len(target) == windows
    point = seasonal_naive(past, steps, season)
    assert printed(normalized_deviation(point, target), loss) == loss
    assert printed(weighted_quantile_loss(np.repeat(point[None], 9, 0), target), loss) == loss
    if rmse:
        assert printed(normalized_rmse(point, target), rmse) == rmse
    if scaled:
        assert printed(absolute_scaled_error(point, target, seasonal_error(past, season)), scaled) == scaled
    if gaussian:
        normal = gaussian_naive(past, steps, season, data.context_length)
        assert printed(weighted_quantile_loss(normal.quantiles(), target), gaussian) == gaussian


@needs_data
def test_single_column_and_last_week():
    data = benchmark("etth1")
    rows = range(6, 840, 7)
    target, past = data.target[6::7], [data.past[k] for k in rows]
    assert printed(normalized_deviation(seasonal_naive(past, 24, 24), target), ".30568") == ".30568"
    assert printed(normalized_deviation(seasonal_naive(past, 24, 1), target), ".24420") == ".24420"
    loss = weighted_quantile_loss(gaussian_naive(past, 24, 1, 336).quantiles(), target)
    assert printed(loss, ".19711") == ".19711"
    data = benchmark("pjm")
    past, target = data.past[-70:], data.target[-70:]
    for season, wanted in {24: ".07227", 168: ".07511", 1: ".15457"}.items():
        assert printed(normalized_deviation(seasonal_naive(past, 24, season), target), wanted) == wanted
    assert printed(weighted_quantile_loss(gaussian_naive(past, 24, 24, 336).quantiles(), target), ".05660") == ".05660"


@needs_data
@pytest.mark.parametrize(("name", "steps", "recorded"), [
    ("etth1", 96, ("1.2944", ".7132")),
    ("etth1", 720, ("1.3351", ".7550")),
    ("etth2", 96, (".4317", ".4216")),
    ("etth2", 720, (".5945", ".5190")),
])  # fmt: skip
def test_split_of_ett_by_the_repeat_baseline(name, steps, recorded):
    """Columns standardised on rows 0..8639, origins 11520 .. 14400 - P with stride 1."""
    data = benchmark(name)
    series = data.test[-7:]
    table = np.stack([s.values[:14_400] for s in series], axis=1)
    table = (table - table[:8_640].mean(0)) / table[:8_640].std(0)
    windows = np.lib.stride_tricks.sliding_window_view(table[11_520:], steps, axis=0)
    error = windows - table[11_519 : 11_519 + len(windows), :, None]
    assert len(windows) == 2_881 - steps
    assert printed(float((error**2).mean()), recorded[0]) == recorded[0]
    assert printed(float(np.abs(error).mean()), recorded[1]) == recorded[1]


def test_missing_values_go_back_one_more_season():
    past = np.array([9.0, 1.0, 2.0, 3.0, np.nan, 5.0, np.nan])
    assert seasonal_naive([past], 5, 3).tolist() == [[1.0, 5.0, 3.0, 1.0, 5.0]]
    assert seasonal_naive([past], 2, 1).tolist() == [[5.0, 5.0]]
    assert seasonal_naive([past], 2, 20).tolist() == [[4.0, 4.0]]


def test_gaussian_walk_has_the_spread_of_a_random_walk():
    rng = np.random.default_rng(0)
    past = [np.cumsum(rng.normal(0, 2.0, 40_000))]
    normal = gaussian_naive(past, 9, 1)
    assert np.allclose(normal.std[0], 2.0 * np.sqrt(np.arange(1, 10)), rtol=5 / (2 * 40_000) ** 0.5)
    assert np.allclose(normal.quantiles([0.9])[0] - normal.mean, stats.norm.ppf(0.9) * normal.std)
    seasonal = gaussian_naive(past, 9, 4)
    assert np.allclose(seasonal.std[0] / seasonal.std[0, 0], np.sqrt([1, 1, 1, 1, 2, 2, 2, 2, 3]))
    drawn = normal.sample(20_000, rng)
    assert np.allclose(drawn.std(1), normal.std, rtol=5 / (2 * 20_000) ** 0.5)


def test_ridge_is_least_squares_on_the_augmented_system():
    rng = np.random.default_rng(0)
    windows = rng.normal(2, 1, (50, 9))
    ridge = Ridge(6, 3, alpha=0.7).fit(windows)
    scaled = windows / np.abs(windows[:, :6]).mean(1, keepdims=True)
    x = np.c_[scaled[:, :6], np.ones(50)]
    penalty = np.c_[0.7**0.5 * np.eye(6), np.zeros(6)]  # the intercept is free
    wanted, *_ = np.linalg.lstsq(np.r_[x, penalty], np.r_[scaled[:, 6:], np.zeros((6, 3))], rcond=None)
    assert np.allclose(ridge.weight, wanted[:6], atol=1e-10)
    assert np.allclose(ridge.bias, wanted[6], atol=1e-10)
    scale = np.abs(windows[:, :6]).mean(1, keepdims=True)
    forecast = (windows[:, :6] / scale @ wanted[:6] + wanted[6]) * scale
    assert np.allclose(ridge.predict(windows[:, :6]), forecast, atol=1e-10)
    assert np.allclose(ridge.predict(1e3 * windows[:, :6]), 1e3 * forecast, atol=1e-6)


def test_standardised_ridge_ignores_level_and_scale():
    rng = np.random.default_rng(1)
    windows = rng.normal(2, 1, (50, 9))
    ridge = Ridge(6, 3, scaling="std").fit(windows)
    moved = Ridge(6, 3, scaling="std").fit(7 * windows - 100)
    assert np.allclose(ridge.weight, moved.weight, atol=1e-9)
    assert np.allclose(7 * ridge.predict(windows[:, :6]) - 100, moved.predict(7 * windows[:, :6] - 100), atol=1e-8)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        seasonal_naive([np.ones(3)], 0)
    with pytest.raises(ValueError, match="expected windows"):
        Ridge(3, 2).fit(np.ones((4, 4)))
    with pytest.raises(ValueError, match="expected context_length"):
        Ridge(0, 2)
