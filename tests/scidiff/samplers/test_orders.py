"""Order of convergence and exact moments on the Gaussian reference problem.

Mean (1, -.5, 2), variances (.04, .25, 1.5), VPSDE(.1, 20), logsnr grid from 1 to 1e-3, 64 starts, largest error.
"""

import itertools

import pytest
import torch

from scidiff import EDM, VESDE, VPSDE, Cosine, Process, SubVPSDE, sample
from scidiff.grids import time_grid
from scidiff.oracles import GaussianOracle
from scidiff.samplers import get_solver
from scidiff.testing import convergence_order

F64 = torch.float64
MEAN, VARIANCES = torch.tensor([1.0, -0.5, 2.0], dtype=F64), torch.tensor([0.04, 0.25, 1.5], dtype=F64)
SCHEDULE = VPSDE()
PROCESS = Process(SCHEDULE)
STOCHASTIC = [
    ("ddim", {"eta": 0.0}),
    ("ddim", {"eta": 0.5}),
    ("ddim", {"eta": 1.0}),
    ("ancestral", {}),
    ("ancestral", {"variance": "forward"}),
    ("euler_maruyama", {}),
]


def oracle():
    return GaussianOracle(MEAN, torch.diag(VARIANCES))


def error_of(solver, steps, options=None, schedule=SCHEDULE):
    x_1 = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=F64) * schedule.prior_std
    exact, process = oracle(), Process(schedule)
    grid = time_grid(process, "logsnr", steps)
    x = sample(exact.denoiser(process), x_1, solver=solver, solver_options=options, grid=grid)
    return (x - exact.flow(x_1, schedule, float(grid[0]), float(grid[-1]))).abs().max()


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_order_of_convergence(solver, order):
    slopes = convergence_order(lambda n: error_of(solver, n), [40, 80, 160, 320])
    assert slopes == pytest.approx([order] * 3, abs=0.25)


@pytest.mark.parametrize("schedule", [SubVPSDE(), VESDE(), Cosine()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
def test_order_does_not_depend_on_the_schedule(schedule, solver, order):
    """One doubling, at more steps than above because lambda spans more of the schedules with sigma_max 50 and 80."""
    slopes = convergence_order(lambda n: error_of(solver, n, schedule=schedule), [80, 160])
    assert slopes == pytest.approx([order], abs=0.25)


def moments(solver, options, steps, final=1e-3):
    grid = SCHEDULE.time(
        torch.linspace(*(0.5 * SCHEDULE.log_snr(torch.tensor([1.0, final]).double())), steps + 1).double()
    )
    plan = get_solver(solver, options).plan(PROCESS, grid)
    return grid, oracle().plan_moments(plan, PROCESS.continuous[""])


def closed_recursion(grid, step):
    """Mean and variance (3,) of x <- a x + b + n z, started at the marginal; ``step(t, s)`` gives a, b, n."""
    alpha, sigma = SCHEDULE.alpha(grid[0]), SCHEDULE.sigma(grid[0])
    mean, variance = alpha * MEAN, alpha**2 * VARIANCES + sigma**2
    for t, s in itertools.pairwise(grid):
        a, b, n = step(t, s)
        mean, variance = a * mean + b, a**2 * variance + n**2
    return mean, variance


def ddim_step(eta):
    """Song, Meng, Ermon 2021, eq. 12, with the exact denoiser inserted."""

    def step(t, s):
        (alpha_t, alpha_s), (sigma_t, sigma_s) = ([f(t), f(s)] for f in (SCHEDULE.alpha, SCHEDULE.sigma))
        drawn = eta**2 * sigma_s**2 / sigma_t**2 * (sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2)
        gain = alpha_t * VARIANCES / (alpha_t**2 * VARIANCES + sigma_t**2)
        intercept = (1 - gain * alpha_t) * MEAN
        kept = (sigma_s**2 - drawn).sqrt() / sigma_t
        return alpha_s * gain + kept * (1 - alpha_t * gain), (alpha_s - kept * alpha_t) * intercept, drawn.sqrt()

    return step


def posterior_step(variance):
    """Ho et al. 2020, eq. 7: the posterior mean of x_s given x_t and x_0 = D."""

    def step(t, s):
        (alpha_t, alpha_s), (sigma_t, sigma_s) = ([f(t), f(s)] for f in (SCHEDULE.alpha, SCHEDULE.sigma))
        ratio = alpha_t / alpha_s
        forward = sigma_t**2 - ratio**2 * sigma_s**2
        gain = alpha_t * VARIANCES / (alpha_t**2 * VARIANCES + sigma_t**2)
        on_x, on_x0 = ratio * sigma_s**2 / sigma_t**2, alpha_s * forward / sigma_t**2
        drawn = forward if variance == "forward" else forward * sigma_s**2 / sigma_t**2
        return on_x + on_x0 * gain, on_x0 * (1 - gain * alpha_t) * MEAN, drawn.sqrt()

    return step


def reverse_sde_step(t, s):
    """x - [f x - g^2 score] h + g sqrt(h) z with f = -b/2, g^2 = b of the VP process."""
    rate, h = 0.1 + t * 19.9, t - s
    precision = 1 / (SCHEDULE.alpha(t) ** 2 * VARIANCES + SCHEDULE.sigma(t) ** 2)
    a = 1 + 0.5 * rate * h - rate * h * precision
    return a, rate * h * precision * SCHEDULE.alpha(t) * MEAN, (rate * h).sqrt()


RECURSIONS = [
    ddim_step(0.0),
    ddim_step(0.5),
    ddim_step(1.0),
    posterior_step(""),
    posterior_step("forward"),
    reverse_sde_step,
]


@pytest.mark.parametrize(
    ("case", "step"), list(zip(STOCHASTIC, RECURSIONS, strict=True)), ids=lambda v: getattr(v, "__name__", str(v))
)
def test_moments_follow_the_closed_recursion(case, step):
    grid, (mean, cov) = moments(*case, steps=50)
    wanted_mean, wanted_variance = closed_recursion(grid, step)
    torch.testing.assert_close(mean, wanted_mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cov, torch.diag(wanted_variance), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", STOCHASTIC, ids=str)
def test_variance_converges_with_weak_order_one(case):
    """The mean of ddim and ancestral steps is exact on a Gaussian started at its marginal."""

    def error(steps):
        grid, (mean, cov) = moments(*case, steps=steps)
        alpha, sigma = SCHEDULE.alpha(grid[-1]), SCHEDULE.sigma(grid[-1])
        if case[0] != "euler_maruyama":
            torch.testing.assert_close(mean, alpha * MEAN, rtol=1e-10, atol=1e-10)
        return (cov - torch.diag(alpha**2 * VARIANCES + sigma**2)).abs().max()

    assert convergence_order(error, [80, 160, 320]) == pytest.approx([1, 1], abs=0.25)


@pytest.mark.parametrize("case", [*STOCHASTIC, ("heun", {}), ("dpmpp_2m", {})], ids=str)
def test_the_engine_does_what_the_plan_says(case):
    """A sampler is affine in (start, noises): probing each gives its exact covariance, without Monte Carlo."""
    solver, options = case
    steps, dims = 5, 3
    grid = time_grid(PROCESS, "logsnr", steps)
    plan = get_solver(solver, options).plan(PROCESS, grid)
    draws = sum(plan.uses_noise)
    inputs = torch.zeros(1 + dims * (1 + draws), 1 + draws, dims, dtype=F64)
    inputs[1:] = torch.eye(dims * (1 + draws), dtype=F64).reshape(-1, 1 + draws, dims)
    noise = list(inputs[:, 1:].unbind(1))
    out = sample(
        oracle().denoiser(PROCESS), inputs[:, 0], solver=solver, solver_options=options, grid=grid, noise=noise
    )
    linear, start_mean, start_cov = out[1:] - out[0], torch.tensor([0.3, 0.0, -1.0], dtype=F64), torch.diag(VARIANCES)
    cov = linear[:dims].T @ start_cov @ linear[:dims] + linear[dims:].T @ linear[dims:]
    mean, exact = oracle().plan_moments(plan, PROCESS.continuous[""], mean=start_mean, cov=start_cov)
    torch.testing.assert_close(out[0] + start_mean @ linear[:dims], mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cov, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", ["euler", "heun", "ddim", "dpmpp_2m", "ancestral"])
@pytest.mark.parametrize("schedule", [VPSDE(), VESDE(), EDM(), Cosine()], ids=lambda s: type(s).__name__)
def test_the_edm_grid_lands_on_the_prediction(schedule, solver):
    """The last step ends on D of the state before it, whatever sigma(0) is."""
    seen = []
    exact, process = oracle(), Process(schedule)
    x = sample(
        exact.denoiser(process), (4, 3), solver=solver, grid="edm", steps=6, callback=lambda info: seen.append(info)
    )
    before = seen[-1] if len(seen) == 5 else seen[-2]  # sigma(0) > 0: a final evaluation instead of a last step
    t = before.t.expand(4)
    wanted = exact.posterior_mean(before.x, schedule.alpha(t), schedule.sigma(t))
    torch.testing.assert_close(x, wanted, rtol=1e-9, atol=1e-9)
