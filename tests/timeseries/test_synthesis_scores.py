"""Scores of synthetic windows: recorded levels of real windows, and laws that can or cannot be told apart."""

import numpy as np
import pytest
import torch

from scidiff.assets import data_folder
from timeseries.data.datasets import load_benchmark
from timeseries.data.scaling import SeriesSpec
from timeseries.data.windows import WindowStore
from timeseries.synthesis_scores import (
    autocorrelation,
    autocorrelation_distance,
    discriminative_score,
    linear_predictive_score,
    spectrum,
    spectrum_distance,
    train_synthetic_test_real,
    wasserstein,
)

needs_data = pytest.mark.skipif(
    data_folder() is None or not (data_folder() / "timeseries").is_dir(), reason="needs SCIDIFF_DATA"
)


@needs_data
@pytest.mark.parametrize(
    ("name", "recorded"), [("exchange", (0.0117, 0.0111, 0.0113)), ("m4_hourly", (0.0402, 0.0395, 0.0393))]
)
def test_real_windows_have_the_recorded_score(name, recorded):
    """Three recorded seeds; a further one lies within the range widened by the span of three draws on either side."""
    data = load_benchmark(name)
    store = WindowStore(data.train, SeriesSpec(data.freq, data.prediction_length, data.context_length))
    windows = store.take(store.draw(10_000, torch.Generator().manual_seed(0))).values[:, :, 0, 0].numpy()
    score = linear_predictive_score(windows, data.past, data.target, is_scaled=False)
    span = max(recorded) - min(recorded)
    assert min(recorded) - span <= score <= max(recorded) + span
    scale = np.abs(windows).mean(1, keepdims=True)  # the trap: scaled by the whole window, which knows the future
    assert linear_predictive_score(windows / scale, data.past, data.target) > max(recorded) + span


def sines(count, noise, seed):
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    return np.sin(np.arange(24) / 3 + phase) + noise * rng.normal(size=(count, 24))


def test_training_on_synthetic_windows_of_the_same_law_serves_as_well():
    real, test = sines(4_000, 0.1, 0), sines(500, 0.1, 1)
    past, target = list(test[:, :18]), test[:, 18:]
    standardised = sines(4_000, 0.1, 2)
    standardised = (standardised - standardised[:, :18].mean(1, keepdims=True)) / standardised[:, :18].std(
        1, keepdims=True
    )
    same = train_synthetic_test_real(standardised, real, past, target, scaling="std")
    assert same.ratio == pytest.approx(1, abs=0.02)
    noise = np.random.default_rng(3).normal(size=(4_000, 24))
    assert train_synthetic_test_real(noise, real, past, target, scaling="std").ratio > 3


def test_discriminator_tells_laws_apart_only_if_they_differ():
    a, b = sines(600, 0.1, 0), sines(600, 0.1, 1)
    assert discriminative_score(a, b) < 4 * 0.5 / 600**0.5
    assert discriminative_score(a, sines(600, 0.6, 1)) > 0.4
    assert discriminative_score(a, b, seed=3) == discriminative_score(a, b, seed=3)
    with pytest.raises(ValueError, match="of one length"):
        discriminative_score(a, b[:, :5])


def test_autocorrelation_and_spectrum_of_known_windows():
    """A sine of k periods: power L/4 at k alone; ACF (1 - lag/L) cos(2 pi k lag/L) up to the ends; Parseval."""
    length, k = 96, 4
    t = np.arange(length)
    waves = np.sin(2 * np.pi * k * t / length + np.linspace(0, 2 * np.pi, 50, endpoint=False)[:, None])
    power = spectrum(waves)
    assert power[k] == pytest.approx(length / 4, rel=1e-12)
    assert np.delete(power, k).max() < 1e-12
    expected = (1 - t / length) * np.cos(2 * np.pi * k * t / length)
    np.testing.assert_allclose(autocorrelation(waves), expected, atol=1e-12)
    noise = np.random.default_rng(0).normal(size=(20, 64)) + 5
    weights = np.r_[1, np.full(31, 2), 1]
    assert (weights * spectrum(noise)).sum() == pytest.approx((noise - noise.mean(1, keepdims=True)).var() * 64)


def test_distances_of_shifted_and_rotated_windows():
    """A shift by c is W2 = c; noise of another colour has another spectrum: white over AR(1) by its closed form."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 16))
    assert wasserstein(x, x[::-1] + 0.3) == pytest.approx(0.3)
    assert wasserstein(x, np.sqrt(4) * x) == pytest.approx(np.sqrt(np.mean(x**2)), rel=0.2)
    assert autocorrelation_distance(x, 5 * x + 2) == pytest.approx(0, abs=1e-12)
    assert spectrum_distance(x, 3 * x + 1) == pytest.approx(2 * np.log(3))
    alternating = np.tile([1.0, -1.0], (4, 8))
    constant_sign = (1 - np.arange(16) / 16)[1:9]
    mine = autocorrelation(x)[1:9]
    wanted = np.sqrt(np.mean((mine - constant_sign * (-1.0) ** np.arange(1, 9)) ** 2))
    assert autocorrelation_distance(x, alternating) == pytest.approx(wanted)
