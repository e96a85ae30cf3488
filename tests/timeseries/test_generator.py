"""The forecaster on an exact denoiser against exact posteriors; shapes, seeds, calendars, files and refusals."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from tests.timeseries.models import exact_forecaster, kernel, posterior, seasonal_data
from timeseries import DiffusionForecaster
from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import TimeSeries, as_series
from timeseries.data.windows import WindowStore
from timeseries.diffusion import make_denoiser
from timeseries.networks import S4Backbone
from timeseries.refinement import RefineOptions, representative_time
from timeseries.tasks import draw_windows, profile

START = pd.Period("2021-01-01 00:00", "h")
SMALL = {"width": 8, "num_layers": 1, "state_size": 4, "step_size": 8}


def gaussian_windows(count, length=36, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(count, length, generator=g, dtype=torch.float64)
    return (z @ torch.linalg.cholesky(kernel(length)).T).numpy()


def untrained(variates=1, lags=(), **options):
    """A forecaster with random weights."""
    torch.manual_seed(0)
    spec = SeriesSpec("h", 6, 12, lags, num_variates=variates)
    net = S4Backbone(spec.channels, variates, **SMALL)
    return DiffusionForecaster("h", 6, 12, lags=lags, denoiser=make_denoiser(net), spec=spec, **options)


@pytest.mark.parametrize("preset", ["edm", "tsdiff"])
def test_forecast_is_the_posterior_of_an_exact_model(preset):
    """Scaled by its context a window is an observation of N(0, K): mean and spread of the forecast are known.

    Solver and Krylov error add to the sampling error: the mean is within .12 standard deviations on average, the spread
    within 15 % (the band of the exact-Gaussian benchmark at 20 steps).
    """
    m = exact_forecaster(preset=preset)
    windows = gaussian_windows(6)
    num_samples = 200
    fc = m.forecast([w[:24] for w in windows], num_samples, iterations=12, seed=1)
    assert fc.samples.shape == (6, num_samples, 12)
    errors, ratios = [], []
    for w, samples in zip(windows, fc.samples):
        scale = np.abs(w[:24]).mean()
        y = np.r_[w[:24] / scale, np.zeros(12)]
        mean, cov = posterior(y, np.arange(36) < 24)
        std = np.sqrt(np.diag(cov)[24:])
        errors.append((samples.mean(0) / scale - mean[24:]) / std)
        ratios.append(samples.std(0) / scale / std)
    assert np.abs(errors).mean() < 0.12 + (2 / math.pi / num_samples) ** 0.5
    assert 0.85 < np.mean(ratios) < 1.15


def test_parity_profile_is_guided_by_the_context():
    """100-step ancestral sampling with quantile guidance: near the context, and 99 + 1 network calls."""
    m = exact_forecaster(preset="tsdiff")
    windows = gaussian_windows(4)
    fc = m.forecast([w[:24] for w in windows], 20, profile="parity", guidance_scale=4.0)
    assert fc.nfe == 100
    target = windows[:, 24:]
    free = np.abs(target).mean()  # of a forecast that knows only the mean, 0
    assert np.abs(fc.quantile(0.5) - target).mean() < free
    scales = np.abs(windows[:, :24]).mean(1)
    exact = np.array(
        [posterior(np.r_[w[:24] / s, np.zeros(12)], np.arange(36) < 24)[0][24:] * s for w, s in zip(windows, scales)]
    )
    assert np.corrcoef(fc.mean.flatten(), exact.flatten())[0, 1] > 0.8


def test_quantile_guidance_gives_each_sample_its_level():
    """Sample j is pulled to level (j + 1)/(S + 1) of the observed values: low ones lie below them, high ones above."""
    m = exact_forecaster(preset="tsdiff")
    assert m.denoiser is not None
    assert m.spec is not None
    data = as_series(list(gaussian_windows(2)), "h")
    store = WindowStore(data, m.spec)
    windows = store.take(store.ends(12), hide_future=True)
    options = profile("parity", guidance_scale=4.0)
    drawn = draw_windows(m.denoiser, m.spec, windows, 9, [(0, k) for k in range(2 * 9)], options)
    residual = (drawn.values[:, :24, 0].unflatten(0, (2, 9)) - windows.values[:, None, :24, 0, 0]).mean((0, 2))
    assert np.corrcoef(residual, np.arange(9))[0, 1] > 0.8
    assert float(residual[0]) < 0 < float(residual[-1])


def test_imputation_is_the_posterior_between_observed_values():
    m = exact_forecaster()
    (w,) = gaussian_windows(1, seed=3)
    x = w.copy()
    x[10:16] = np.nan
    x[30] = np.nan
    result = m.impute([x], 200, iterations=12)
    known = np.isfinite(x)
    (samples,) = result.samples
    assert samples.shape == (200, 36)
    assert (samples[:, known] == x[known]).all()
    scale = np.abs(x[:24][known[:24]]).mean()
    mean, cov = posterior(np.where(known, x, 0) / scale, known)
    std = np.sqrt(np.diag(cov))[~known]
    error = (samples[:, ~known].mean(0) / scale - mean[~known]) / std
    assert np.abs(error).mean() < 0.12 + (2 / math.pi / 200) ** 0.5
    assert 0.8 < (samples[:, ~known].std(0) / scale / std).mean() < 1.2
    assert np.array_equal(result.filled[0].values[known], x[known])
    frame = result.frame()
    assert (frame["observed"].to_numpy() == known).all()


def test_windows_of_the_prior_have_its_covariance():
    """Synthetic windows in scaled units: covariance K up to the sampling error of each entry."""
    m = exact_forecaster()
    x = m.synthesize(2_000, steps=30)
    k = kernel(36).numpy()
    assert x.shape == (2_000, 36)
    error = (np.outer(np.diag(k), np.diag(k)) + k**2) ** 0.5 / 2_000**0.5
    assert (np.abs(x.T @ x / 2_000 - k) < 5 * error + 0.03).all()
    assert np.array_equal(m.sample(5, steps=3), m.synthesize(5, steps=3))


def test_paths_depend_on_their_seed_and_series_only():
    """Neither the number of samples, nor the batch, nor other series change a path (up to rounding of the sums)."""
    m = untrained(lags=(4,))
    data = seasonal_data(3, 60)
    options = {"steps": 4, "seed": 5}
    whole = m.forecast(data, 8, **options).samples
    assert np.array_equal(whole, m.forecast(data, 8, **options).samples)
    assert np.allclose(whole, m.forecast(data, 8, rows=8, **options).samples, rtol=1e-4)
    assert np.allclose(whole[:, :3], m.forecast(data, 3, **options).samples, rtol=1e-4)
    assert np.allclose(whole[:1], m.forecast(data[:1], 8, **options).samples, rtol=1e-4)
    assert not np.allclose(whole, m.forecast(data, 8, steps=4, seed=6).samples, rtol=1e-3)


def test_works_inside_inference_mode_and_leaves_grad_mode_alone():
    m = untrained()
    with torch.inference_mode():
        first = m.forecast(seasonal_data(1, 40), 2, steps=2).samples
    assert torch.is_grad_enabled()
    assert np.array_equal(first, m.forecast(seasonal_data(1, 40), 2, steps=2).samples)


@pytest.mark.parametrize("variates", [1, 2])
def test_calendar_and_shapes_of_a_forecast(variates):
    m = untrained(variates)
    shape = (40,) if variates == 1 else (40, variates)
    rng = np.random.default_rng(0)
    series = [TimeSeries(5 + rng.normal(size=shape), START + k, f"s{k}") for k in range(2)]
    fc = m.forecast(series, 3, steps=2, lead_time=2)
    assert fc.samples.shape == ((2, 3, 6) if variates == 1 else (2, 3, 6, 2))
    assert fc.item_ids == ["s0", "s1"]
    assert fc.starts == [START + 42, START + 43]
    frame = fc.frame([0.1, 0.5])
    assert len(frame) == 2 * 6 * variates
    assert frame["timestamp"].iloc[0] == (START + 42).to_timestamp()
    assert frame["mean"].iloc[0] == pytest.approx(
        fc.samples[0, :, 0].mean(0) if variates == 1 else fc.samples[0, :, 0, 0].mean()
    )
    scores = fc.evaluate(np.zeros((2, 6)) + 5 if variates == 1 else np.zeros((2, 6, 2)) + 5)
    assert scores.num_windows == 2 * variates


def test_longer_horizons_continue_each_path():
    """The first block is the ordinary forecast, and no two paths go on alike."""
    m = untrained(lags=(4,))
    data = seasonal_data(2, 60)
    short = m.forecast(data, 4, steps=3)
    long = m.forecast(data, 4, steps=3, prediction_length=15)
    assert long.samples.shape == (2, 4, 15)
    assert np.allclose(long.samples[:, :, :6], short.samples, rtol=1e-5)
    assert long.nfe == 3 * short.nfe
    assert np.isfinite(long.samples).all()
    assert len({tuple(p) for p in long.samples[1, :, 6:].round(6).tolist()}) == 4


def test_blocks_of_a_long_horizon_condition_on_their_own_past():
    """Exact model: steps 12..23 given the drawn steps 0..11 have the posterior spread, not more."""
    m = exact_forecaster()
    (w,) = gaussian_windows(1, seed=2)
    fc = m.forecast([w[:24]], 100, prediction_length=24, iterations=12)
    step = fc.samples[0, :, 12] - fc.samples[0, :, 11]
    k = kernel(36).numpy()
    jump = np.sqrt(2 * (k[0, 0] - k[0, 1])) * np.abs(w[:24]).mean()
    assert step.std() < 1.5 * jump  # unconnected blocks would jump by the spread of the whole process


def test_short_and_empty_histories():
    m = untrained(lags=(4,))
    series = [TimeSeries(np.ones(2), START, "short"), TimeSeries(np.zeros(30), START, "zeros")]
    series.append(TimeSeries(np.full(20, np.nan), START, "nothing"))
    fc = m.forecast(series, 3, steps=2)
    assert fc.samples.shape == (3, 3, 6)
    assert np.isfinite(fc.samples).all()


def test_a_long_gap_and_a_ragged_set_are_imputed():
    m = untrained()
    data = seasonal_data(3, 90)
    series = [TimeSeries(row[: 90 - 30 * k].copy(), START, str(k)) for k, row in enumerate(data)]
    series[0].values[20:70] = np.nan  # longer than a window
    series[1].values[-4:] = np.nan
    result = m.impute(series, 3, steps=2)
    for s, x in zip(result.series, result.samples):
        known = np.isfinite(s.values)
        assert x.shape == (3, len(s))
        assert np.isfinite(x).all()
        assert (x[:, known] == s.values[known]).all()


def test_refinement_lowers_the_energy_and_keeps_the_base_when_told():
    m = exact_forecaster()
    m.refine_time = 0.5 / 80  # sigma = .5
    windows = gaussian_windows(3)
    past, base = [w[:24] for w in windows], np.zeros((3, 12))
    kept = m.refine(base, past, 8, strength=0.0, step_size=1e-12, sampler="sgd")
    assert np.allclose(kept.samples, 0, atol=1e-6)
    refined = m.refine(base, past, 8, step_size=0.02, steps=100, sampler="sgd", strength=0.0)
    precision = np.linalg.inv(kernel(36).numpy())
    before = after = 0.0
    for w, x in zip(windows, refined.samples):
        scale = np.abs(w[:24]).mean()
        for path in x:
            full, flat = np.r_[w[:24], path] / scale, np.r_[w[:24], np.zeros(12)] / scale
            before += flat @ precision @ flat
            after += full @ precision @ full
    assert after < 0.8 * before
    assert refined.starts[0].ordinal - as_series(past, "h")[0].start.ordinal == 24
    same = m.refine(base, past, 8, step_size=0.02, seed=3).samples
    assert np.array_equal(same, m.refine(base, past, 8, step_size=0.02, seed=3).samples)


def test_base_samples_are_sorted_so_that_they_meet_their_levels():
    m = exact_forecaster()
    base = np.random.default_rng(0).normal(size=(1, 5, 12))
    out = m.refine(base, [gaussian_windows(1)[0][:24]], 5, t=0.01, steps=0)
    assert np.allclose(out.samples[0], np.sort(base[0], axis=0), atol=1e-5)
    spread = m.refine(base, [gaussian_windows(1)[0][:24]], 9, t=0.01, steps=0)
    assert (np.diff(spread.samples[0], axis=0) >= 0).all()
    with pytest.raises(ValueError, match="no noise time"):
        m.refine(base, [np.ones(24)], 5)
    with pytest.raises(ValueError, match="shape"):
        m.refine(base[:, :, :5], [np.ones(24)], 5, t=0.01)
    with pytest.raises(ValueError, match="sampler"):
        RefineOptions(sampler="hmc")


def test_representative_time_has_the_average_loss():
    m = exact_forecaster(preset="tsdiff")
    assert m.denoiser is not None
    x = torch.as_tensor(gaussian_windows(400)).float()[..., None, None]
    t = representative_time(m.denoiser, x, torch.ones_like(x, dtype=torch.bool))
    values = torch.linalg.eigvalsh(kernel(36))
    schedule = make_denoiser(torch.nn.Identity(), "tsdiff").process.continuous[""].schedule
    times = (torch.arange(100, dtype=torch.float64) + 1) / 100
    a2, s2 = schedule.alpha(times)[:, None] ** 2, schedule.sigma(times)[:, None] ** 2
    loss = (a2 * values / (a2 * values + s2)).mean(1)  # mean square error of eps for the exact denoiser
    loss = 1 - s2[:, 0] * (1 / (a2 * values + s2)).mean(1)
    wanted = float(times[(loss - loss.mean()).abs().argmin()])
    assert t == pytest.approx(wanted, abs=0.05)


def test_fit_save_and_load(tmp_path, capfd):
    data = seasonal_data()
    frame = pd.DataFrame(data.T, index=pd.date_range("2021", periods=200, freq="h"), columns=list("abcdef"))
    torch.manual_seed(123)
    state = torch.get_rng_state()
    options = {"max_steps": 2, "accelerator": "cpu", "batch_size": 4}
    m = DiffusionForecaster("H", 6, 12, lags=(12,), network=S4Backbone(**SMALL), training=options).fit(frame)
    torch.manual_seed(123)
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")  # a library is silent
    assert m.metadata["provenance"]["training span"] == ["2021-01-01 00:00", "2021-01-09 07:00"]
    assert m.metadata["metrics"]["train_loss"] > 0
    fc = m.forecast(frame, 4, steps=2)
    assert fc.item_ids == list("abcdef")
    assert fc.starts[0] == pd.Period("2021-01-09 08:00", "h")
    m.save(tmp_path / "m.safetensors")
    again = DiffusionForecaster.from_pretrained(tmp_path / "m.safetensors")
    assert np.array_equal(again.forecast(frame, 4, steps=2).samples, fc.samples)
    assert again.refine_time == m.refine_time
    assert np.array_equal(again.refine(fc, frame, 4).samples, m.refine(fc, frame, 4).samples)
    assert again.spec is not None
    assert again.spec.lags == (12,)


def test_wrong_use_is_refused_before_long_work():
    m = untrained()
    with pytest.raises(ValueError, match="not trained yet"):
        DiffusionForecaster("h", 6).forecast(np.ones(10))
    with pytest.raises(ValueError, match="variates"):
        m.forecast(TimeSeries(np.ones((30, 2)), START))
    with pytest.raises(ValueError, match="frequency"):
        m.forecast(TimeSeries(np.ones(30), pd.Period("2020", "D")))
    for options in ({"num_samples": 0}, {"prediction_length": 0}, {"lead_time": -1}, {"steps": 0}, {"guidance": "x"}):
        with pytest.raises(ValueError, match=r"at least|unknown guidance"):
            m.forecast(np.ones(30), **options)
    with pytest.raises(ValueError, match="unknown profile"):
        m.forecast(np.ones(30), profile="fast")
    with pytest.raises(ValueError, match="unknown training options"):
        DiffusionForecaster("h", 6, training={"epochs": 3})
    with pytest.raises(ValueError, match="unknown frequency"):
        DiffusionForecaster("often", 6)
