"""The packaged models, on windows that they have not seen."""

import numpy as np
import pytest

from scidiff.assets import data_folder
from timeseries import DiffusionForecaster, load_benchmark
from timeseries.data.demand import demand
from timeseries.data.masks import hide_context
from timeseries.data.scaling import SeriesSpec
from timeseries.evaluate import Task, judge, ridge_forecast, rolling_task
from timeseries.metrics import normalized_deviation
from timeseries.networks import WienerNetwork

needs_data = pytest.mark.skipif(
    data_folder() is None or not (data_folder() / "timeseries").is_dir(), reason="needs SCIDIFF_DATA"
)


@pytest.mark.parametrize(("name", "steps"), [("exchange", 30), ("m4_hourly", 48), ("pjm", 24), ("demand", 24)])
def test_models_are_found_by_name(name, steps):
    m = DiffusionForecaster.from_pretrained(name)
    assert m.spec is not None
    assert m.spec.prediction_length == steps
    assert m.denoiser is not None
    assert isinstance(m.denoiser.network, WienerNetwork)
    assert not m.denoiser.network.needs_moments


def test_demand_beats_point_baselines():
    """Four sites that were not trained on, last day; the best baseline, a Gaussian seasonal naive, is still ahead."""
    m = DiffusionForecaster.from_pretrained("demand")
    task = rolling_task(demand(), 24)
    rows = judge(m.forecast(task.inputs, 40, steps=10, seed=0), task).rows
    assert rows["model"]["wql"] < min(rows["seasonal naive 24"]["wql"], rows["Gaussian random walk"]["wql"])
    assert rows["model"]["coverage_90"] > 0.75


@needs_data
def test_exchange_reaches_its_mark():
    """CRPS of TSDiff's 40 windows below .0085, beside .00931 of the random walk; few paths make it worse."""
    m, data = DiffusionForecaster.from_pretrained("exchange"), load_benchmark("exchange")
    found = m.forecast(data.inputs, 16, steps=10, seed=0).evaluate(data.target)
    assert found["wql"] < 0.0085


@needs_data
@pytest.mark.slow
def test_m4_hourly_beats_the_gaussian_naive_where_it_was_not_trained():
    """104 of the windows that training held out, evenly spaced."""
    m, data = DiffusionForecaster.from_pretrained("m4_hourly"), load_benchmark("m4_hourly")
    task = rolling_task([data.train[k] for k in np.linspace(0, 413, 104).round().astype(int)], 48)
    rows = judge(m.forecast(task.inputs, 32, seed=0), task).rows
    assert rows["model"]["wql"] < rows["Gaussian seasonal naive 24"]["wql"]


@needs_data
@pytest.mark.slow
def test_pjm_beats_the_gaussian_naive_and_ridge():
    """40 of the 280 test windows: .044 beside .065 and .052 when it was released."""
    m, data = DiffusionForecaster.from_pretrained("pjm"), load_benchmark("pjm")
    chosen = np.linspace(0, 279, 40).round().astype(int)
    task = Task([data.inputs[k] for k in chosen], data.target[chosen], data.context_length)
    found = judge(m.forecast(task.inputs, 16, seed=0), task).rows
    spec = SeriesSpec("h", 24, data.context_length, scaling="mean")
    linear = normalized_deviation(ridge_forecast(data.train, [s.values for s in task.inputs], spec), task.target)
    assert found["model"]["wql"] < min(linear, found["Gaussian seasonal naive 24"]["wql"])


@needs_data
@pytest.mark.slow
def test_random_gaps_cost_at_most_a_tenth():
    """Half of the context hidden at random; the same seeds, so that the two figures share most of their noise."""
    m, data = DiffusionForecaster.from_pretrained("exchange"), load_benchmark("exchange")
    assert m.spec is not None
    hidden = hide_context(data.inputs, "RM", m.spec.context_length)
    whole, gaps = (m.forecast(s, 16, steps=10, seed=0).evaluate(data.target)["wql"] for s in (data.inputs, hidden))
    assert gaps <= 1.1 * whole, (whole, gaps)
