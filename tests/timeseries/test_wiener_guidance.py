"""Guidance by the known covariance of a Wiener network: exact for normal data, whatever is observed."""

import numpy as np
import pandas as pd
import pytest
import torch

from scidiff.guidance import MomentMatching, Observation
from tests.timeseries.test_wiener import CHANNELS, LENGTH, Blind, measured
from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import TimeSeries
from timeseries.diffusion import make_denoiser
from timeseries.generator import DiffusionForecaster
from timeseries.guidance import WienerGuidance
from timeseries.networks import S4Backbone, WienerNetwork

FLOOR = 0.02


def observation(batch: int, *, shared: bool) -> Observation:
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(1 if shared else batch, LENGTH, 1, CHANNELS, generator=generator) < 0.6
    y = torch.randn(batch, LENGTH, 1, CHANNELS, generator=generator, dtype=torch.float64)
    return Observation(mask.expand(y.shape), y=y)


@pytest.mark.parametrize("shared", [True, False], ids=["one mask", "a mask a row"])
@pytest.mark.parametrize("rho", [0.05, 1.0, 30.0], ids=str)
def test_prediction_is_the_posterior_mean(rho, shared):
    """E[x_0 | x_t, y] of the normal law: precisions of prior, noisy state and observation add up."""
    net = measured(Blind())
    seen = observation(4, shared=shared)
    x = rho * torch.randn(4, LENGTH, 1, CHANNELS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    guided = WienerGuidance(seen, FLOOR).wrap(make_denoiser(net))(x, torch.full((4,), rho / 80).double()).x0
    prior = torch.linalg.inv((net.vectors * net.variances) @ net.vectors.T)
    for row in range(4):
        known = seen.mask[row].flatten().double() / FLOOR**2
        precision = prior + torch.eye(len(prior), dtype=torch.float64) / rho**2 + torch.diag(known)
        right = prior @ net.mean + x[row].flatten() / rho**2 + known * seen.y[row].flatten()
        torch.testing.assert_close(guided[row].flatten(), torch.linalg.solve(precision, right), rtol=1e-6, atol=1e-6)


def test_agrees_with_moment_matching():
    """Which finds the same covariance by automatic differentiation, and solves by as many iterations as unknowns."""
    net = measured(S4Backbone(CHANNELS, width=8, num_layers=1, state_size=4)).requires_grad_(False)
    seen = observation(3, shared=True)
    x, t = torch.randn(3, LENGTH, 1, CHANNELS, dtype=torch.float64), torch.full((3,), 0.01, dtype=torch.float64)
    den = make_denoiser(net)
    wanted = MomentMatching(seen, LENGTH * CHANNELS, "gmres").wrap(den)(x, t).x0
    found = WienerGuidance(seen).wrap(den)(x, t).x0
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_forecast_of_an_untrained_model_is_linear_regression():
    """Mean and spread of paths against the conditional normal law of the measured moments, in scaled units."""
    net = measured(Blind()).float()
    spec = SeriesSpec("h", 4, LENGTH - 4, lags=[24], scaling="std")
    model = DiffusionForecaster("h", 4, LENGTH - 4, lags=[24], denoiser=make_denoiser(net), spec=spec)
    past = np.random.default_rng(0).standard_normal(60).cumsum()
    series = TimeSeries(past, pd.Period("2024-01-01", "h"))
    count = 2000
    paths = model.forecast([series], count, guidance="wiener", steps=40).samples[0]
    c = LENGTH - 4
    context = past[-c:]
    scaled = torch.zeros(LENGTH, CHANNELS, dtype=torch.float64)
    known = torch.zeros(LENGTH, CHANNELS, dtype=torch.bool)
    scaled[:c, 0] = torch.tensor((context - context.mean()) / context.std())
    lagged = past[len(past) - c - 24 : len(past) + 4 - 24]
    scaled[:, 1] = torch.tensor((lagged - context.mean()) / context.std())
    known[:c, 0], known[:, 1] = True, True
    known, scaled = known.flatten(), scaled.flatten()
    cov = ((net.vectors * net.variances) @ net.vectors.T).double()
    system = cov[known][:, known] + FLOOR**2 * torch.eye(int(known.sum()), dtype=torch.float64)
    gain = torch.linalg.solve(system, cov[known][:, ~known]).T
    mean = net.mean.double()[~known] + gain @ (scaled - net.mean.double())[known]
    std = (cov[~known][:, ~known] - gain @ cov[known][:, ~known]).diagonal().sqrt()
    found = torch.tensor((paths - context.mean()) / context.std(), dtype=torch.float64)
    assert (found.mean(0) - mean).abs().max() < 5 * float(std.max()) / count**0.5 + 0.02
    torch.testing.assert_close(found.std(0), std, rtol=5 / (2 * count) ** 0.5 + 0.03, atol=0.0)


def test_refuses_other_networks():
    model = make_denoiser(S4Backbone(width=8, num_layers=1, state_size=4))
    with pytest.raises(ValueError, match="WienerNetwork"):
        WienerGuidance(Observation(torch.ones(1, 4, 1, 1, dtype=torch.bool), y=torch.zeros(1, 4, 1, 1))).wrap(model)
    wiener = make_denoiser(WienerNetwork(Blind(), 4))
    with pytest.raises(ValueError, match="mask"):
        WienerGuidance(Observation(lambda x: x, y=torch.zeros(1, 4, 1, 1))).wrap(wiener)
