import math

import numpy as np
import pytest
import torch

from scidiff import VPSDE, BrownianBridge, Denoiser, Interpolant, MeanReverting, Process, Residual, sample
from scidiff.noise import NoiseSource
from scidiff.samplers import solver_names
from scidiff.tables import DiscreteVP
from tests.scidiff.closed_forms import F64, MEANS, Mixture, network

SCHEDULES = [
    MeanReverting(0.7),
    MeanReverting(0.7, "linear"),
    MeanReverting(0.7, "constant", eps=0.005),
    Residual(0.5),
    Residual(0.5, num_levels=20),
    Residual(1.0, num_levels=20, offset=False),
    BrownianBridge(0.6),
]
TIMES = torch.linspace(0.15, 0.95, 9, dtype=F64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_derivatives_and_inverse(schedule):
    """Closed derivatives against central differences; the SDE coefficients against their definition."""
    h = 1e-5
    for value, slope in (("alpha", "alpha_dot"), ("sigma", "sigma_dot"), ("endpoint", "endpoint_dot")):
        numeric = (getattr(schedule, value)(TIMES + h) - getattr(schedule, value)(TIMES - h)) / (2 * h)
        # truncation h^2/6 f''' with f''' up to 1e3 near t = 0.15, plus round-off 1e-16/h
        torch.testing.assert_close(getattr(schedule, slope)(TIMES), numeric, rtol=1e-6, atol=1e-7)
    sigma = schedule.sigma(TIMES)
    torch.testing.assert_close(schedule.sigma_sigma_dot(TIMES), sigma * schedule.sigma_dot(TIMES), rtol=1e-12, atol=0)
    squared = 2 * (schedule.sigma_sigma_dot(TIMES) - schedule.alpha_dot(TIMES) / schedule.alpha(TIMES) * sigma**2)
    torch.testing.assert_close(schedule.diffusion(TIMES) ** 2, squared, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        schedule.alpha(TIMES) + schedule.endpoint(TIMES), torch.ones_like(TIMES), rtol=1e-14, atol=0
    )
    lam = 0.5 * schedule.log_snr(TIMES)
    torch.testing.assert_close(schedule.time(lam), TIMES, rtol=1e-9, atol=0)


@pytest.mark.parametrize("theta", ["cosine", "linear", "constant"])
def test_mean_reversion_integrates_its_rate(theta):
    """Theta is the integral of theta (trapezoid), Theta(1) = -log(eps), g^2 = 2 max_sigma^2 theta."""
    schedule = MeanReverting(0.7, theta, eps=0.02)
    t = torch.linspace(0, 1, 20_001, dtype=F64)
    integral = torch.cumulative_trapezoid(schedule.rate(t), t)
    torch.testing.assert_close(schedule.total_theta(t)[1:], integral, rtol=0, atol=1e-7)
    assert float(schedule.total_theta(t)[-1]) == pytest.approx(-math.log(0.02), rel=1e-12)
    torch.testing.assert_close(schedule.diffusion(t) ** 2, 2 * 0.49 * schedule.rate(t), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(schedule.drift_coefficient(t), -schedule.rate(t))


def ir_sde_arrays(theta, T, eps, max_sigma, is_clean):
    """The arrays of the reference implementation, in float32 as there."""
    if theta == "cosine":
        x = np.linspace(0, T + 2, T + 3, dtype=np.float32) / (T + 2)
        curve = np.cos((x + 0.008) / 1.008 * np.pi / 2) ** 2
        rates = 1 - (curve / curve[0])[1:-1]
    elif theta == "linear":
        rates = np.linspace(1000 / (T + 1) * 1e-4, 1000 / (T + 1) * 0.02, T + 1, dtype=np.float32)
    else:
        rates = np.ones(T + 1, dtype=np.float32)
    total = np.cumsum(rates) - (rates[0] if is_clean else 0)
    dt = -math.log(eps) / total[-1]
    return rates * dt, total * dt, max_sigma * np.sqrt(1 - np.exp(-2 * total * dt))


@pytest.mark.parametrize("is_clean", [False, True])
@pytest.mark.parametrize("theta", ["cosine", "linear", "constant"])
def test_table_equals_the_reference_arrays(theta, is_clean):
    T, eps, max_sigma = 100, 0.005, 50 / 255
    rates, total, sigma_bar = ir_sde_arrays(theta, T, eps, max_sigma, is_clean)
    schedule = MeanReverting(max_sigma, theta, eps, table=True, num_levels=T, clean_start=is_clean)
    t = torch.arange(T + 1, dtype=F64) / T
    np.testing.assert_allclose(schedule.total_theta(t).numpy(), total, rtol=2e-5, atol=1e-6)  # float32 sums
    np.testing.assert_allclose(schedule.sigma(t).numpy(), sigma_bar, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(schedule.rate(t[1:]).numpy() / T, rates[1:], rtol=2e-4, atol=1e-6)
    assert (float(schedule.sigma(t[:1])) == 0) == is_clean


def test_table_step_is_the_published_posterior():
    """mu + A(1-C^2)/(1-B^2)(x-mu) + C(1-A^2)/(1-B^2)(x_0-mu), variance max_sigma^2 (1-A^2)(1-C^2)/(1-B^2)."""
    T, max_sigma = 100, 0.2
    schedule = MeanReverting(max_sigma, table=True, num_levels=T)
    process = Process(schedule)
    generator = torch.Generator().manual_seed(0)
    x, x_0, mu = (torch.randn(3, 2, generator=generator, dtype=F64) for _ in range(3))
    i = 40
    grid = torch.tensor([i / T, (i - 1) / T], dtype=F64)
    den = Denoiser(lambda *_: x_0, process)
    z = torch.randn(3, 2, generator=generator, dtype=F64)
    stepped = sample(den, x, solver="ancestral", grid=grid, x_1=mu, noise=[z])
    total = schedule.total_theta(grid)
    B, C = (-total).exp()
    A = B / C
    mean = mu + A * (1 - C**2) / (1 - B**2) * (x - mu) + C * (1 - A**2) / (1 - B**2) * (x_0 - mu)
    std = max_sigma * ((1 - A**2) * (1 - C**2) / (1 - B**2)).sqrt()
    torch.testing.assert_close(stepped, mean + std * z, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("offset", "shape"), [(True, "sum"), (False, "sum")])
def test_residual_equals_the_published_table(offset, shape):
    """Falling residual weights and rising noise weights, cumulated."""
    T = 25
    i = torch.arange(1, T + 1, dtype=F64)
    rising = i if offset else i - 1
    falling = rising.flip(0)
    a_bar, b_bar_squared = (falling / falling.sum()).cumsum(0), 0.3 * (rising / rising.sum()).cumsum(0)
    schedule = Residual(0.3, num_levels=T, offset=offset)
    torch.testing.assert_close(schedule.endpoint(i / T), a_bar, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(schedule.sigma(i / T) ** 2, b_bar_squared, rtol=1e-12, atol=1e-15)
    limit = Residual(0.3)
    torch.testing.assert_close(limit.endpoint(i / T), 2 * i / T - (i / T) ** 2, rtol=1e-14, atol=0)


def test_residual_step_is_the_published_one():
    """x_s = x_t - a res - (Bbar_t - sqrt(Bbar_s^2 - v)) eps + sqrt(v) z with v = eta (1 - Bbar_s^2/Bbar_t^2) Bbar_s^2.

    Their eta multiplies this variance; ours is the root of a share of sigma_s^2 (1 - e^{-2h}).
    """
    schedule, eta = Residual(0.5), 0.3
    grid = torch.tensor([0.6, 0.45], dtype=F64)
    generator = torch.Generator().manual_seed(0)
    x_0, x_1, eps, z = (torch.randn(3, 2, generator=generator, dtype=F64) for _ in range(4))
    A, B = schedule.endpoint(grid), schedule.sigma(grid)
    x_t = x_0 + A[0] * (x_1 - x_0) + B[0] * eps
    variance = eta * (B[0] ** 2 - B[1] ** 2) * B[1] ** 2 / B[0] ** 2
    expected = x_t - (A[0] - A[1]) * (x_1 - x_0) - (B[0] - (B[1] ** 2 - variance).sqrt()) * eps + variance.sqrt() * z
    decay = schedule.alpha(grid)[0] * B[1] / (schedule.alpha(grid)[1] * B[0])
    ours = float((variance / (B[1] ** 2 * (1 - decay**2))).sqrt())
    stepped = sample(
        Denoiser(lambda *_: x_0, Process(schedule)),
        x_t,
        solver="ddim",
        solver_options={"eta": ours},
        grid=grid,
        x_1=x_1,
        noise=[z],
    )
    torch.testing.assert_close(stepped, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("solver", solver_names())
def test_every_solver_acts_on_the_shifted_state(solver):
    """Samples with an endpoint, minus beta x_1, are those of the same schedule without one."""
    schedule = MeanReverting(0.7)

    class Plain(MeanReverting):
        has_endpoint = False

        def endpoint(self, t):
            return torch.zeros_like(t)

    plain = Plain(0.7)
    generator = torch.Generator().manual_seed(0)
    x_1, y = (torch.randn(5, 2, generator=generator, dtype=F64) for _ in range(2))
    target = Mixture(means=0.5 * MEANS)
    # solvers in t integrate beta' x_1 as well, with their own error in t
    in_time = solver in ("euler", "heun", "rk45", "interpolant_sde")
    options = {"solver": solver, "steps": 150 if in_time else 6}
    shifted, info = sample(Denoiser(network(target, Process(plain)), Process(plain)), y, save="none", **options)
    one = torch.ones(1, dtype=F64)
    x = sample(
        Denoiser(network(target, Process(schedule), x_1), Process(schedule)),
        y + float(schedule.endpoint(one)) * x_1,
        x_1=x_1,
        noise=info.noise or None,
        **options,
    )
    end = float(schedule.endpoint(torch.tensor(schedule.t_min, dtype=F64)))
    torch.testing.assert_close(x - end * x_1, shifted, rtol=0, atol=0.1 if in_time else 1e-9)


def test_prior_is_stationary_noise_about_the_endpoint():
    n = 20_000
    x_1 = torch.tensor([[1.0, -2.0]], dtype=F64).expand(n, 2)
    x = Process(MeanReverting(0.3)).prior(torch.zeros(n, 2, dtype=F64), NoiseSource(0, n), x_1=x_1)
    assert ((x.mean(0) - x_1[0]).abs() < 4 * 0.3 / n**0.5).all()
    assert float(x.std(0).max()) == pytest.approx(0.3, rel=4 / (2 * n) ** 0.5)
    with pytest.raises(ValueError, match="pass x_1"):
        Process(MeanReverting(0.3)).prior(torch.zeros(2, 2), NoiseSource(0, 2))


def gaussian_bridge_network(schedule, mean, variance, x_1):
    """E[x_0 | x_t, x_1] for x_0 ~ N(mean, variance) given x_1."""

    def predict(x, t, cond):
        a, b, s = (f(t)[:, None] for f in (schedule.alpha, schedule.endpoint, schedule.sigma))
        total = a**2 * variance + s**2
        gain = torch.where(total == 0, 0.0, a * variance / total.clamp_min(1e-300))
        return mean + gain * (x - a * mean - b * x_1)

    return predict


@pytest.mark.parametrize("solver", ["ancestral", "dpmpp_2m", "ddim", "heun", "euler", "dpm_solver_2", "unipc_2"])
@pytest.mark.parametrize("schedule", [BrownianBridge(1.0), BrownianBridge(0.4), Interpolant("trig")], ids=repr)
def test_bridge_lands_on_the_conditional_gaussian(schedule, solver):
    """From the point x_1 the samples have the law of x_0 given x_1: the first step is stochastic for all solvers."""
    n, mean, variance = 2000, 1.5, 0.25
    x_1 = torch.full((n, 1), -2.0, dtype=F64)
    den = Denoiser(gaussian_bridge_network(schedule, mean, variance, x_1), Process(schedule))
    x = sample(den, (n, 1), solver=solver, steps=500 if solver == "euler" else 60, x_1=x_1)
    s = schedule.t_min
    t_min = torch.tensor(s, dtype=F64)
    a, b, c = (float(f(t_min)) for f in (schedule.alpha, schedule.endpoint, schedule.sigma))
    expected_std = (a**2 * variance + c**2) ** 0.5
    # standard errors of 2000 draws, and 2 % for the discretisation
    assert float(x.mean()) == pytest.approx(a * mean - 2 * b, abs=4 * expected_std / n**0.5 + 5e-3)
    assert float(x.std()) == pytest.approx(expected_std, rel=4 / (2 * n) ** 0.5 + 0.02)


def test_bridge_variance_of_400_uniform_steps():
    """Ancestral steps with the exact x0 prediction (recorded value .246 for the variance .25, exact mean)."""
    n = 6_000
    schedule = BrownianBridge(1.0)
    x_1 = torch.full((n, 1), 0.7, dtype=F64)
    den = Denoiser(gaussian_bridge_network(schedule, -1.0, 0.25, x_1), Process(schedule))
    grid = torch.linspace(1, 0, 401, dtype=F64)
    x = sample(den, (n, 1), solver="ancestral", grid=grid, x_1=x_1)
    assert float(x.var()) == pytest.approx(0.246, rel=4 * (2 / n) ** 0.5)
    assert float(x.mean()) == pytest.approx(-1.0, abs=4 * 0.5 / n**0.5)


def test_shifted_frame_of_mean_reversion_is_a_vp_process():
    """alpha^2 + (sigma/max_sigma)^2 = 1: the table in the shifted, scaled frame is a DDPM of the same alphas."""
    schedule = MeanReverting(1.0, table=True, num_levels=50, clean_start=True)
    t = torch.arange(1, 51, dtype=F64) / 50
    discrete = DiscreteVP(alphas=schedule.alpha(t).tolist())
    torch.testing.assert_close(discrete.sigma(t), schedule.sigma(t), rtol=1e-9, atol=1e-12)
    assert VPSDE().has_endpoint is False


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_configuration_round_trip(schedule):
    rebuilt = type(schedule).from_config(schedule.to_config())
    assert repr(rebuilt) == repr(schedule)
    assert torch.equal(rebuilt.sigma(TIMES), schedule.sigma(TIMES))


@pytest.mark.parametrize(
    "build",
    [
        lambda: MeanReverting(0.0),
        lambda: MeanReverting(1.0, eps=1.5),
        lambda: MeanReverting(1.0, theta="square"),
        lambda: Residual(-1.0),
        lambda: Residual(num_levels=2),
        lambda: BrownianBridge(0.0),
    ],
)
def test_bad_arguments_are_named(build):
    with pytest.raises(ValueError, match=r"above 0|needs"):
        build()
