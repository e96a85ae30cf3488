"""Kernels and fractional covariances against their definitions; sampling of a Gaussian by the exact drift."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from scidiff.configurable import build
from scidiff.samplers import sample
from tests.timeseries.models import ExactWindows, exact_forecaster, kernel, posterior
from timeseries.data import fractional
from timeseries.data.scaling import SeriesSpec
from timeseries.diffusion import make_denoiser
from timeseries.priors import FractionalNoise, GPNoise, kernel_matrix, season_of


@pytest.mark.parametrize("name", ["se", "ou", "periodic"])
def test_kernels_are_their_formulas(name):
    k = kernel_matrix(name, 9, season=4, gamma=0.7, noise=0.02)
    for i in range(9):
        for j in range(9):
            d = math.pi * (i - j) / 4
            value = {"se": d * d, "ou": abs(d), "periodic": math.sin(d) ** 2}[name]
            wanted = math.exp(-0.7 * value) + (0.02 + 1e-4) * (i == j)
            assert float(k[i, j]) == pytest.approx(wanted, abs=1e-12)
    if name == "periodic":
        assert torch.allclose(k[0, 1:5], k[0, 5:9], atol=1e-12)


@pytest.mark.parametrize("hurst", [0.2, 0.5, 0.8])
def test_steps_of_fractional_motion_are_fractional_noise(hurst):
    """The covariance of B(k + 1) - B(k) follows from that of B."""
    motion = fractional.motion_covariance(hurst, np.arange(9))
    steps = motion[1:, 1:] - motion[1:, :-1] - motion[:-1, 1:] + motion[:-1, :-1]
    row = fractional.noise_autocovariance(hurst, 8)
    assert np.allclose(steps, row[np.abs(np.subtract.outer(range(8), range(8)))], atol=1e-12)
    if hurst == 0.5:
        assert np.allclose(row, np.eye(8)[0])


def test_generator_has_the_exact_covariance_and_spectrum():
    """Entries within five standard errors; the circulant that is sampled from begins with the autocovariance."""
    hurst, n = 0.85, 20_000
    x = fractional.fractional_noise(n, 16, hurst, seed=1)
    row = fractional.noise_autocovariance(hurst, 16)
    wanted = row[np.abs(np.subtract.outer(range(16), range(16)))]
    error = np.sqrt((1 + wanted**2) / n)
    assert (np.abs(x.T @ x / n - wanted) < 5 * error).all()
    assert (np.abs(x.mean(0)) < 5 / n**0.5).all()
    longer = fractional.fractional_noise(400, 4096, hurst, seed=2)
    block = longer.reshape(400, -1, 64).mean(2).var() / longer.reshape(400, -1, 4).mean(2).var()
    assert 1 + math.log(block, 16) / 2 == pytest.approx(hurst, abs=0.01)  # variances of means fall as m^{2H - 2}
    assert np.array_equal(x[:5], fractional.fractional_noise(n, 16, hurst, seed=1)[:5])


@pytest.mark.parametrize(
    ("hurst", "recorded"), [(0.8, (0.0843, 0.2561, 0.7765)), (0.5, (0.25, 0.5, 1.0)), (0.2, (0.824, 1.082, 1.433))]
)
def test_markov_approximation(hurst, recorded):
    """Recorded variances at t = .25, .5, 1; near the exact ones; the covariance is that of the modes, by quadrature."""
    times = np.array([0.25, 0.5, 1.0])
    covariance = fractional.markov_covariance(hurst, times)
    assert np.diag(covariance) == pytest.approx(recorded, abs=1e-3 if hurst < 0.5 else 1e-4)
    assert np.diag(covariance) == pytest.approx(fractional.motion_variance(hurst, times), rel=0.05)
    rates = fractional.markov_rates()
    assert rates == pytest.approx([3 * 3 ** (k - 3.5) for k in range(1, 7)])
    w = fractional.markov_weights(hurst, rates)

    def response(s):  # of sum_k w_k Y_k to the common Brownian motion
        return float(w @ np.exp(-rates * s))

    wanted = quad(lambda u: response(0.25 - u) * response(1.0 - u), 0, 0.25, epsabs=1e-12)[0]
    assert covariance[0, 2] == pytest.approx(wanted, abs=1e-9)
    assert covariance[2, 0] == covariance[0, 2]


def test_weights_of_the_markov_approximation_minimise_the_error():
    """The mean squared error over [0, 1] against the kernel of Riemann-Liouville motion grows in every direction."""
    hurst, rates = 0.8, fractional.markov_rates()
    w = fractional.markov_weights(hurst, rates)

    def error(weights):
        def gap(s):
            return (weights @ np.exp(-rates * s) - s ** (hurst - 0.5) / math.gamma(hurst + 0.5)) ** 2

        return quad(lambda s: (1 - s) * gap(s), 0, 1, epsabs=1e-14)[0]  # int_0^1 dt int_0^t gap(t - u) du

    best = error(w)
    for k in range(6):
        for sign in (-1, 1):
            assert error(w + sign * 1e-2 * np.eye(6)[k]) > best


LAWS = {
    "ou": GPNoise("ou"),
    "periodic": GPNoise("periodic", gamma=0.5, season=6),
    "long memory": FractionalNoise(0.8),
    "motion": FractionalNoise(0.7, "motion"),
    "markov": FractionalNoise(0.3, "markov"),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_laws_take_length_and_season_from_the_windows(law):
    spec = SeriesSpec("h", 4, 8)
    fitted = law.fitted(spec)
    z = torch.eye(12, dtype=torch.float64)
    factor = fitted.shape(z).T
    assert torch.allclose(factor @ factor.T, fitted.covariance(12), atol=1e-10)
    assert fitted.covariance(12).diagonal().mean() == pytest.approx(1.0, abs=0.011)
    again = build(json.loads(json.dumps(fitted.to_config())))
    assert torch.equal(again.shape(z), fitted.shape(z))
    with pytest.raises(ValueError, match="correlated over 0 elements"):
        law.shape(z)


def test_seasons_of_kernels():
    assert [season_of(f) for f in ("h", "D", "B", "30min", "M")] == [24, 30, 30, 48, 12]


@pytest.mark.parametrize(
    "law", [GPNoise("ou", season=12, length=12), FractionalNoise(0.8, length=12)], ids=["ou", "fgn"]
)
def test_the_flow_from_a_correlated_base_ends_in_the_data(law):
    """The flow of Gaussian data is linear: its matrix M, applied to L of the base, gives M L L^T M^T = K_t at t_min.

    Heun's error falls as 1/steps^2, four times a doubling, and extrapolated to no step size almost nothing is left.
    """
    den = make_denoiser(ExactWindows(12, "flow", law.covariance(12)), "flow", law).double()
    base = law.shape(torch.eye(12, dtype=torch.float64))[..., None, None]  # rows L e_i
    t = den.process.continuous[""].schedule.t_min
    wanted = (1 - t) ** 2 * kernel(12) + t**2 * law.covariance(12)
    gaps = []
    for steps in (32, 64, 128):
        end = sample(den, base, solver="heun", steps=steps, grid="uniform")[..., 0, 0]
        gaps.append(end.T @ end - wanted)
    sizes = [float(gap.abs().max()) for gap in gaps]
    assert all(3.2 < a / b < 5.0 for a, b in pairwise(sizes))
    assert float(((4 * gaps[2] - gaps[1]) / 3).abs().max()) < 0.2 * sizes[2]


@pytest.mark.parametrize("name", ["ou", "fgn"])
def test_guidance_knows_the_covariance_of_the_noise(name):
    """Forecasts of an exact model with correlated noise are the exact posterior, as those with white noise."""
    law = GPNoise("ou", season=12, length=36) if name == "ou" else FractionalNoise(0.8, length=36)
    m = exact_forecaster(preset="flow", law=law)
    g = torch.Generator().manual_seed(0)
    windows = (torch.randn(4, 36, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(kernel(36)).T).numpy()
    fc = m.forecast([w[:24] for w in windows], 200, iterations=12, seed=1)
    errors, ratios = [], []
    for w, samples in zip(windows, fc.samples):
        scale = np.abs(w[:24]).mean()
        mean, covariance = posterior(np.r_[w[:24] / scale, np.zeros(12)], np.arange(36) < 24)
        std = np.sqrt(np.diag(covariance)[24:])
        errors.append((samples.mean(0) / scale - mean[24:]) / std)
        ratios.append(samples.std(0) / scale / std)
    assert np.abs(errors).mean() < 0.12 + (2 / math.pi / 200) ** 0.5
    assert 0.85 < np.mean(ratios) < 1.15


def test_wrong_arguments_are_refused():
    for make in (
        lambda: GPNoise("matern"),
        lambda: GPNoise(gamma=0.0),
        lambda: FractionalNoise(1.0),
        lambda: FractionalNoise(0.5, "bridge"),
        lambda: fractional.fractional_noise(1, 4, 0.0),
    ):
        with pytest.raises(ValueError, match=r"expected|must"):
            make()
