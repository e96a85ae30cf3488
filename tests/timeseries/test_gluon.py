"""The GluonTS classes under GluonTS's own evaluators, on small models."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from gluonts.dataset.split import split
from gluonts.ev import metrics as ev
from gluonts.evaluation import Evaluator, make_evaluation_predictions
from gluonts.model.estimator import Estimator
from gluonts.model.evaluation import evaluate_model
from gluonts.model.predictor import Localizer, ParallelizedPredictor, Predictor

from tests.timeseries.models import exact_forecaster, seasonal_data
from timeseries import metrics
from timeseries.bases import GPBase, SeasonalBase
from timeseries.gluon import DiffusionEstimator, DiffusionPredictor, to_gluonts
from timeseries.networks import S4Backbone
from timeseries.priors import FractionalNoise, GPNoise

ROOT = Path(__file__).parents[2]
START = pd.Period("2021-03-01 00:00", "h")
C, P = 24, 12


def entries(count=3, length=96, seed=0):
    values = seasonal_data(count, length, seed)
    values[0, 40:43] = np.nan
    return [{"start": START + k, "target": row, "item_id": f"s{k}"} for k, row in enumerate(values)]


def tiny(**options):
    network = S4Backbone(width=8, num_layers=1, state_size=4, step_size=8)
    training = {"max_steps": 3, "batch_size": 4, "accelerator": "cpu"}
    options = {"network": network, "training": training, "sampling": {"steps": 2}, **options}
    return DiffusionEstimator("h", P, C, **options)


@pytest.fixture(scope="module")
def predictor():
    """An exact denoiser: no training."""
    return DiffusionPredictor(exact_forecaster(C, P, sampling={"steps": 3}), num_samples=9, seed=4)


@pytest.fixture(scope="module")
def trained():
    return tiny().train(entries())


def test_evaluators_of_gluonts_print_our_scores(predictor):
    """``Evaluator`` and ``evaluate_model`` agree with `timeseries.metrics` to rounding, NaN in the past included."""
    data = entries()
    forecasts, truth = (list(part) for part in make_evaluation_predictions(data, predictor, num_samples=7))
    assert [f.samples.shape for f in forecasts] == [(7, P)] * 3
    assert [f.item_id for f in forecasts] == ["s0", "s1", "s2"]
    assert [f.start_date for f in forecasts] == [START + k + 96 - P for k in range(3)]
    printed, _ = Evaluator(num_workers=0)(truth, forecasts)
    samples = np.stack([f.samples for f in forecasts]).astype(np.float64)
    target = np.stack([entry["target"][-P:] for entry in data])
    past = [entry["target"][:-P] for entry in data]
    ours = metrics.evaluate(samples, target, past=past, season=24)
    assert printed["mean_wQuantileLoss"] == pytest.approx(ours["wql"], abs=1e-12)
    assert printed["ND"] == pytest.approx(ours["nd"], abs=1e-12)
    assert printed["NRMSE"] == pytest.approx(ours["nrmse"], abs=1e-7)  # the mean of float32 samples
    assert printed["MASE"] == pytest.approx(ours["mase"], abs=1e-12)

    _, template = split(data, offset=-P)
    table = evaluate_model(
        predictor,
        test_data=template.generate_instances(P),
        metrics=[ev.MeanWeightedSumQuantileLoss(metrics.DECILES), ev.ND(0.5), ev.MASE()],
        axis=None,
    )
    own = np.stack([f.samples for f in predictor.predict([{**e, "target": e["target"][:-P]} for e in data])])
    assert own.shape[1] == 9  # the constructor's, as evaluate_model asks for no number
    ours = metrics.evaluate(own.astype(np.float64), target, past=past, season=24)
    row = table.iloc[0]
    assert row["mean_weighted_sum_quantile_loss"] == pytest.approx(ours["wql"], abs=1e-12)
    assert row["ND[0.5]"] == pytest.approx(ours["nd"], abs=1e-12)
    assert row["MASE[0.5]"] == pytest.approx(ours["mase"], abs=1e-12)


def test_predictor_says_what_the_forecaster_says(predictor):
    """Same seeds, same paths, whatever the number of entries beside them or the rows of a part."""
    data = entries()
    got = [f.samples for f in predictor.predict(data, num_samples=5)]
    own = predictor.forecaster.forecast(data, 5, seed=4, rows=5)
    np.testing.assert_array_equal(got, own.samples.astype(np.float32))
    first = next(iter(predictor.predict(data[:1], num_samples=5)))
    np.testing.assert_allclose(first.samples, got[0], rtol=1e-5)
    assert not np.array_equal(got[0], got[1])


def test_lead_time_slides_the_window(predictor):
    data = entries()
    later = DiffusionPredictor(predictor.forecaster, num_samples=3, lead_time=3, seed=4, prediction_length=P - 3)
    whole = list(predictor.predict(data, num_samples=3))
    for f, full in zip(later.predict(data), whole, strict=True):
        assert f.start_date == full.start_date + 3
        np.testing.assert_array_equal(f.samples, full.samples[:, 3:])


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_gradient_mode_between_forecasts_is_the_callers(predictor, mode):
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        forecasts = predictor.predict(entries(2), num_samples=2)
        next(forecasts)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


def test_serialised_predictor_draws_the_same_paths(trained, tmp_path):
    trained.serialize(tmp_path)
    again = Predictor.deserialize(tmp_path)
    assert isinstance(again, DiffusionPredictor)
    assert (again.num_samples, again.prediction_length, again.freq) == (100, P, "h")
    for a, b in zip(trained.predict(entries(), num_samples=4), again.predict(entries(), num_samples=4), strict=True):
        np.testing.assert_array_equal(a.samples, b.samples)


PRESETS = {
    "TSDiff-Cond": {"preset": "tsdiff", "conditional": True, "masks": ("forecast", "RM")},
    "flow from a process": {"preset": "flow", "law": GPNoise("ou")},
    "flow from a regression": {"preset": "flow", "conditional": True, "base": GPBase("ou"), "scaling": "longmean"},
    "flow from a season": {"preset": "flow", "conditional": True, "base": SeasonalBase()},
    "PFGM++": {"preset": "pfgmpp"},
    "fractional": {"law": FractionalNoise(0.8), "scaling": "mean"},
}


@pytest.mark.parametrize("options", PRESETS.values(), ids=PRESETS)
def test_every_preset_trains_predicts_and_travels(options, tmp_path):
    """As many samples as asked for, finite, and the same after serialisation and in other batches."""
    data = entries()
    predictor = tiny(**options).train(data)
    found = list(predictor.predict(data, num_samples=5))
    assert [f.samples.shape for f in found] == [(5, P)] * 3
    assert all(np.isfinite(f.samples).all() for f in found)
    assert [f.start_date for f in found] == [START + k + 96 for k in range(3)]
    predictor.serialize(tmp_path)
    again = Predictor.deserialize(tmp_path)
    for a, b in zip(found, again.predict(data, num_samples=5), strict=True):
        np.testing.assert_array_equal(a.samples, b.samples)
    again.forecaster.sampling["rows"] = 1
    for a, b in zip(found, again.predict(data, num_samples=5), strict=True):
        np.testing.assert_allclose(a.samples, b.samples, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("rows", [1, 20])
def test_levels_and_numbers_of_samples_survive_batching(rows):
    """Sample j of S is guided to level (j + 1)/(S + 1), however few windows are computed together."""
    sampling = {"steps": 6, "guidance": "quantile", "guidance_scale": 4.0}
    whole, parts = (
        DiffusionPredictor(exact_forecaster(C, P, "tsdiff", sampling={**sampling, "rows": r}), num_samples=9, seed=4)
        for r in (1000, rows)
    )
    for a, b in zip(whole.predict(entries()), parts.predict(entries()), strict=True):
        assert a.num_samples == b.num_samples == 9
        np.testing.assert_allclose(a.samples, b.samples, rtol=1e-3, atol=1e-3)


def test_short_constant_and_empty_data(predictor):
    odd = [np.arange(7.0) + 1, np.zeros(60), np.full(50, np.nan)]
    data = [{"start": START, "target": target} for target in odd]
    forecasts = list(predictor.predict(data, num_samples=2))
    assert all(np.isfinite(f.samples).all() for f in forecasts)
    assert forecasts[0].start_date == START + 7
    assert forecasts[0].item_id is None
    assert list(predictor.predict([])) == []


def test_estimator_by_gluonts_doors():
    options = {"freq": "H", "prediction_length": P, "context_length": C, "training": {"max_steps": 1}}
    for door in (DiffusionEstimator.from_hyperparameters(**options), DiffusionEstimator.from_inputs([], **options)):
        assert isinstance(door, Estimator)
        assert (door.prediction_length, door.training["max_steps"]) == (P, 1)
    with pytest.raises(ValueError, match="unknown training options"):
        DiffusionEstimator("h", 4, training={"epochs": 1})


def test_training_twice_gives_the_same_model():
    calls = []
    import pytorch_lightning as pl

    class Count(pl.Callback):
        def on_train_end(self, *_):
            calls.append(1)

    estimator = tiny(callbacks=[Count()])
    first, second = (estimator.train(entries()) for _ in range(2))
    assert len(calls) == 2
    a, b = (next(iter(p.predict(entries(), num_samples=2))).samples for p in (first, second))
    np.testing.assert_array_equal(a, b)


def test_localizer_trains_one_model_a_series():
    local = Localizer(tiny(num_samples=2))
    assert [f.samples.shape for f in local.predict(entries(2))] == [(2, P), (2, P)]


def test_multivariate_targets_are_transposed():
    from tests.timeseries.test_generator import untrained

    two = DiffusionPredictor(untrained(2, sampling={"steps": 1}), num_samples=3)
    (forecast,) = two.predict([{"start": START, "target": np.ones((2, 30))}])
    assert forecast.samples.shape == (3, 6, 2)
    with pytest.raises(ValueError, match="1 variates, the model takes 2"):
        list(two.predict([{"start": START, "target": np.ones(30)}]))


def test_refusals(predictor):
    daily = {"start": pd.Period("2021-03-01", "D"), "target": np.ones(40)}
    with pytest.raises(ValueError, match="entry 0 has the frequency 'D', the model 'h'"):
        list(predictor.predict([daily]))
    with pytest.raises(ValueError, match="needs a target"):
        list(predictor.predict([{"start": START}]))
    with pytest.raises(ValueError, match="must be at least 1"):
        DiffusionPredictor(predictor.forecaster, num_samples=0)
    with pytest.raises(ValueError, match="needs a trained forecaster"):
        DiffusionPredictor(type(predictor.forecaster)("h", 4))


def test_forecasts_become_those_of_gluonts(predictor):
    data = entries()
    forecast = predictor.forecaster.forecast(data, 6)
    for item, single in enumerate(to_gluonts(forecast)):
        assert single.item_id == f"s{item}"
        assert single.start_date == forecast.starts[item]
        np.testing.assert_allclose(single.mean, forecast.mean[item], rtol=1e-12)
        np.testing.assert_array_equal(single.quantile(0.9), forecast.quantile(0.9, interpolate=False)[item])


def test_nothing_needs_the_other_lightning(tmp_path):
    """Train, predict and serialise where ``lightning`` cannot be imported; ``gluonts.torch`` is never touched."""
    code = (
        "import sys; sys.modules['lightning'] = None\n"
        "import timeseries\nassert not {'gluonts', 'pytorch_lightning'} & set(sys.modules)\n"
        "from pathlib import Path\n"
        "from tests.timeseries.test_gluon import entries, tiny\n"
        "p = tiny(num_samples=3).train(entries())\n"
        "assert [f.samples.shape for f in p.predict(entries())] == [(3, 12)] * 3\n"
        f"p.serialize(Path({str(tmp_path)!r}))\n"
        "assert not [name for name in sys.modules if name.startswith('gluonts.torch')]\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


@pytest.mark.slow
def test_parallel_predictor(trained):
    parallel = ParallelizedPredictor(trained, num_workers=2, chunk_size=2)
    forecasts = list(parallel.predict(entries(4), num_samples=2))
    parallel.terminate()
    assert [f.samples.shape for f in forecasts] == [(2, P)] * 4
