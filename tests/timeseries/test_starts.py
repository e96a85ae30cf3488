"""Starts that lean towards what is known, on an exact flow of Gaussian windows, where each Langevin step is known."""

import numpy as np
import pytest
import torch

from scidiff.guidance import Observation
from tests.timeseries.models import exact_forecaster
from timeseries.priors import GPNoise
from timeseries.starts import EULER_STEPS, draw_start

LENGTH, COUNT, STEP, STRENGTH = 36, 5, 0.004, 16.0
SEEDS = [(0, k) for k in range(COUNT)]
LAW = GPNoise("ou", season=24, length=LENGTH)


@pytest.fixture
def flow():
    return exact_forecaster(preset="flow", law=LAW).denoiser


def euler_map(denoiser):
    """x_0 = x_1 A of the Euler steps, float64, from the images of unit vectors."""
    x = torch.eye(LENGTH).reshape(LENGTH, LENGTH, 1, 1)
    for k in range(EULER_STEPS):
        x = x - denoiser(x, torch.full((LENGTH,), 1 - k / EULER_STEPS)).velocity / EULER_STEPS
    return x.detach().double().flatten(1)


def test_steps_without_temperature_follow_the_gradient(flow):
    """x <- x - eta (c (1[e < 0] - q) m A^T + K^{-1} x) with e = y - x A; float32 beside float64 over 6 steps."""
    y = torch.randn(COUNT, LENGTH, 1, 1, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, LENGTH, 1, 1, dtype=torch.bool)
    mask[:, :24] = True
    q = torch.linspace(0.1, 0.9, COUNT, dtype=torch.float64)
    options = {"step_size": STEP, "temperature": 0.0, "strength": STRENGTH}
    observation = Observation(mask, y=y)
    shape = (COUNT, LENGTH, 1, 1)
    found = draw_start(flow, observation, q, shape, SEEDS, 6, **options)
    x = draw_start(flow, observation, q, shape, SEEDS, 0).double().flatten(1)
    A, precision = euler_map(flow), torch.linalg.inv(LAW.covariance(LENGTH))
    for _ in range(6):
        error = y.double().flatten(1) - x @ A
        slope = torch.where(error < 0, 1 - q[:, None], -q[:, None]) * mask.flatten(1)
        x = x - STEP * (STRENGTH * slope @ A.T + x @ precision)
    # white noise of 1e-2 under the kernel: each step multiplies rounding by 1 - eta/1e-2, below 1 in size
    torch.testing.assert_close(found.double().flatten(1), x, rtol=1e-4, atol=1e-4)


def test_without_data_the_prior_stays(flow):
    """Unit temperature, no strength: in the basis of K, unadjusted Langevin keeps variance 1 but for eta/(2 lambda).

    The smallest eigenvalue lambda is above .01: at most 1 %. Standard errors: sqrt(2/3000), over all 36 a sixth of it.
    """
    count = 3000
    observation = Observation(torch.ones(1, LENGTH, 1, 1, dtype=torch.bool), y=torch.zeros(1, LENGTH, 1, 1))
    seeds = [(3, k) for k in range(count)]
    options = {"step_size": 2e-4, "temperature": 1.0, "strength": 0.0}
    shape = (count, LENGTH, 1, 1)
    x = draw_start(flow, observation, torch.full((count,), 0.5), shape, seeds, 30, **options).double().flatten(1)
    values, vectors = torch.linalg.eigh(LAW.covariance(LENGTH))
    assert values.min() > 0.01
    variances = ((x @ vectors) / values.sqrt()).square().mean(0)
    error = (2 / count) ** 0.5
    assert (variances - 1).abs().max() < 5 * error + 0.01
    assert abs(float(variances.mean()) - 1) < 4 * error / 6 + 0.01


def test_forecasts_start_there_and_count_it():
    """The calls are counted, and a path depends on its own seed only."""
    rng = np.random.default_rng(0)
    history = [3 + rng.standard_normal(60).cumsum() * 0.1 for _ in range(2)]
    model = exact_forecaster(preset="flow", law=LAW, scaling="std")
    options = {"guidance": "quantile", "guidance_scale": 4.0, "solver": "euler", "grid": "uniform", "steps": 4}
    plain, leaning = (model.forecast(history, 8, start=start, **options) for start in (0, 4))
    assert leaning.nfe == plain.nfe + 4 * EULER_STEPS
    assert np.abs(leaning.samples - plain.samples).max() > 1e-3
    one = model.forecast(history[1:], 8, numbers=[1], start=4, **options)
    np.testing.assert_allclose(one.samples[0], leaning.samples[1], rtol=1e-5)


def test_other_models_are_refused():
    model = exact_forecaster(preset="edm")
    with pytest.raises(ValueError, match="flows from Gaussian noise"):
        model.forecast([np.arange(60.0)], 2, start=2)
    with pytest.raises(ValueError, match="start at least 0"):
        model.forecast([np.arange(60.0)], 2, start=-1)
