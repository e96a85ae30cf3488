"""The oracle experiment in small, and its bars without Monte Carlo."""

import pytest
import torch

from benchmarks import guidance as bench
from scidiff.guidance import MomentMatching, SelfGuidance
from scidiff.oracles import GaussianOracle
from scidiff.samplers import get_solver

FLOOR = 0.02


def guided_law(problem: bench.Problem, solver: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (series, length) and covariance of guided samples: moment matching is the exact denoiser of x_0 | y.

    A Gaussian stays one under the plan's linear rows; the mean is linear in that of the data.
    """
    process = problem.process
    plan = get_solver(solver).plan(process, bench.level_grid(steps))
    mean, cov = problem.posterior(noise_std=FLOOR)
    start = torch.zeros(problem.length, dtype=torch.float64), torch.eye(problem.length, dtype=torch.float64)
    moments = [
        GaussianOracle(m, cov).plan_moments(plan, process.continuous[""], mean=start[0], cov=start[1]) for m in mean
    ]
    return torch.stack([m for m, _ in moments]), moments[0][1]


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_moment_matching_reaches_the_bars_exactly(solver):
    """72 numbers, 20 steps: expected CRPS within 2 % of the exact posterior's, spread ratio in [.85, 1.15]."""
    problem = bench.Problem(seeds=1, series=4)
    exact_mean, exact_cov = problem.posterior()
    mean, cov = guided_law(problem, solver, 20)
    n = problem.observed
    truth = torch.distributions.Normal(exact_mean[:, n:], exact_cov.diagonal()[n:].sqrt())

    def crps(centre, variance):
        z = torch.distributions.Normal(0.0, 1.0).icdf(bench.LEVELS)[:, None, None]
        return bench.expected_pinball(centre[:, n:] + variance[n:].sqrt() * z, truth).sum()

    ratio = crps(mean, cov.diagonal()) / crps(exact_mean, exact_cov.diagonal())
    spread = (cov.diagonal()[n:].sqrt() / exact_cov.diagonal()[n:].sqrt()).mean()
    assert 1 <= ratio <= 1.02
    assert 0.85 <= spread <= 1.15


def test_small_run_has_the_law_of_the_plan():
    """24 numbers, 12 observed, as many iterations: mean and spread of 400 samples within 4 standard errors."""
    problem = bench.Problem(length=24, observed=12, seeds=1, series=2, samples=400)
    x, nfe = problem.run(MomentMatching(problem.observation, cg_iters=12), "dpmpp_2m", 10)
    mean, cov = guided_law(problem, "dpmpp_2m", 10)
    draws = x.reshape(2, 400, 24)
    deviation = cov.diagonal().sqrt()
    assert nfe == 10
    assert ((draws.mean(1) - mean).abs() <= 4 * deviation / 400**0.5 + 1e-6).all()
    assert ((draws.std(1) / deviation - 1).abs() <= 4 / 800**0.5 + 1e-6).all()


def test_figures_of_the_exact_posterior():
    """Its own samples: the realised CRPS has the expected one as its mean; 100 draws of a quantile cost about 1 %."""
    problem = bench.Problem(length=24, observed=12, seeds=5, series=40)
    exact = problem.score(problem.exact_samples())
    mean, cov = problem.posterior()
    law = torch.distributions.Normal(mean[:, 12:], cov.diagonal()[12:].sqrt())
    z = torch.distributions.Normal(0.0, 1.0).icdf(bench.LEVELS)[:, None, None]
    best = bench.expected_pinball(law.loc + law.scale * z, law).sum() / 9 / bench.mean_size(law).sum()
    assert 1.0 < exact["expected"].mean() / best < 1.02
    gap = exact["crps"] - exact["expected"]
    assert abs(gap.mean()) < 4 * gap.std() / 5**0.5
    # the interpolated .1 and .9 quantiles of 100 draws enclose (.9 - .1) 99/101 of the law on average
    assert exact["coverage"].mean().item() == pytest.approx(0.8 * 99 / 101, abs=0.01)
    assert exact["rmse"].max() < 1e-6


def test_expected_pinball_is_the_mean_of_pinball():
    """10^5 draws of y: within 4 standard errors of a loss of order 1; E |y| likewise."""
    law = torch.distributions.Normal(torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64))
    y = 0.3 + 0.7 * torch.randn(100_000, 1, generator=bench.generator(0), dtype=torch.float64)
    forecasts = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None, None]
    found = bench.pinball(forecasts, y)
    error = found.std(1) / 100_000**0.5
    assert ((found.mean(1) - bench.expected_pinball(forecasts[:, 0], law)).abs() < 4 * error).all()
    assert abs(y.abs().mean() - bench.mean_size(law)) < 4 * y.abs().std() / 100_000**0.5


def test_self_guidance_narrows_the_gap_but_not_to_the_posterior():
    """Quantile guidance with the DDPM step, scale 4, 100 steps: between the exact posterior and no guidance."""
    problem = bench.Problem(seeds=1, series=4, samples=50)
    exact = problem.score(problem.exact_samples())["expected"]
    guide = SelfGuidance(problem.observation, "quantile", 4.0, "ddpm", num_samples=50)
    guided = problem.score(problem.run(guide, "ancestral", 100)[0])["expected"]
    free = problem.score(problem.run(None, "ancestral", 100)[0])["expected"]
    assert 1.0 < guided / exact < 1.1 < free / exact
