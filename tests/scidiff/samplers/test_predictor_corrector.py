"""Reverse diffusion and the predictor-corrector sampler."""

import math

import pytest
import torch

from scidiff import VESDE, VPSDE, Denoiser, DiscreteVP, Process, Symmetric, sample
from scidiff.grids import time_grid
from scidiff.oracles import GaussianOracle
from scidiff.samplers import get_solver
from tests.scidiff.samplers.problems import MEAN, VARIANCE, gaussian, gaussian_network, starts

PROCESS = Process(VPSDE())
F64 = torch.float64


def test_reverse_diffusion_of_a_discrete_chain():
    """score_sde's VP predictor: x - (sqrt(1 - beta) - 1) x + beta score + sqrt(beta) z at consecutive indices."""
    betas = torch.linspace(1e-4, 0.1, 20, dtype=F64)
    schedule = DiscreteVP(betas=betas.tolist())
    grid = torch.tensor([15 / 20, 14 / 20], dtype=F64)
    row = get_solver("reverse_diffusion").plan(Process(schedule), grid).coefficients[""][0]
    beta = float(betas[14])
    sigma = float(schedule.sigma(grid[0]))
    expected = [2 - math.sqrt(1 - beta), 0, math.sqrt(beta), 0, -beta / sigma]
    assert row.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_reverse_diffusion_of_an_exploding_process():
    """x + G^2 score + G z with G^2 = sigma_t^2 - sigma_s^2."""
    schedule = VESDE(0.01, 50.0)
    grid = torch.tensor([0.7, 0.6], dtype=F64)
    row = get_solver("reverse_diffusion").plan(Process(schedule), grid).coefficients[""][0]
    sigma = schedule.sigma(grid).tolist()
    variance = sigma[0] ** 2 - sigma[1] ** 2
    assert row.tolist() == pytest.approx([1, 0, math.sqrt(variance), 0, -variance / sigma[0]], rel=1e-12, abs=1e-12)


def variance_error(solver, options, n):
    grid = time_grid(PROCESS, "logsnr", n)
    plan = get_solver(solver, options).plan(PROCESS, grid)
    _, cov = gaussian().plan_moments(plan, PROCESS.continuous[""])
    alpha, sigma = VPSDE().alpha(grid[-1]), VPSDE().sigma(grid[-1])
    return float((cov.diagonal() - alpha**2 * torch.tensor(VARIANCE, dtype=F64) - sigma**2).abs().max())


def test_reverse_diffusion_is_of_weak_order_one():
    errors = [variance_error("reverse_diffusion", {}, n) for n in (160, 320)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.25)


def test_correction_by_hand():
    """x + delta score + sqrt(2 delta) z with delta = 2 a (snr |z|/|score|)^2 and norms over the numbers of a sample."""
    den = Denoiser(gaussian_network(VPSDE()), PROCESS)
    grid = torch.tensor([0.5, 0.45], dtype=F64)
    x = starts(5)
    y, info = sample(den, x, solver="pc", solver_options={"snr": 0.2}, grid=grid, save="none")
    assert info.nfe == 2
    t = grid[0].expand(5)
    score, z = den(x, t).score, info.noise[0]
    a = float(VPSDE().alpha(grid[0]) / VPSDE().alpha(grid[1])) ** 2
    delta = 2 * a * (0.2 * z.norm(dim=1) / score.norm(dim=1)) ** 2
    corrected = x + delta[:, None] * score + (2 * delta).sqrt()[:, None] * z
    predictor = get_solver("reverse_diffusion", {"last_mean": True}).plan(PROCESS, grid).coefficients[""][0]
    expected = predictor[0] * corrected + predictor[4] * den(corrected, t).eps
    assert (y - expected).abs().max() < 1e-12


def test_batch_norms_average_over_the_batch():
    den = Denoiser(gaussian_network(VPSDE()), PROCESS)
    grid, x = torch.tensor([0.5, 0.45], dtype=F64), starts(5)
    options = {"snr": 0.2, "batch_norms": True, "corrector_steps": 1}
    y, info = sample(den, x, solver="pc", solver_options=options, grid=grid, save="none")
    t, z = grid[0].expand(5), info.noise[0]
    score = den(x, t).score
    a = float(VPSDE().alpha(grid[0]) / VPSDE().alpha(grid[1])) ** 2
    delta = 2 * a * (0.2 * z.norm(dim=1).mean() / score.norm(dim=1).mean()) ** 2
    corrected = x + delta * score + (2 * delta).sqrt() * z
    predictor = get_solver("reverse_diffusion", {"last_mean": True}).plan(PROCESS, grid).coefficients[""][0]
    assert (y - predictor[0] * corrected - predictor[4] * den(corrected, t).eps).abs().max() < 1e-12


def test_samples_do_not_couple():
    """Per-sample norms: a sample is the same alone and in a batch; batch norms couple on purpose."""
    den = Denoiser(gaussian_network(VPSDE()), PROCESS)
    x = starts(6)
    for coupled in (False, True):
        run = {"solver": "pc", "solver_options": {"batch_norms": coupled}, "steps": 8}
        whole = sample(den, x, seed=[(0, i) for i in range(6)], **run)
        alone = sample(den, x[2:3], seed=[(0, 2)], **run)
        assert bool(((whole[2] - alone[0]).abs().max() > 1e-6) == coupled)


def test_mirrored_entries_do_not_change_the_step():
    """On symmetric matrices both norms count each pair twice: the ratio is that of the upper triangles."""
    process = Process(VPSDE(), space=Symmetric())
    den = Denoiser(lambda x, t, cond: 0.3 * x, process)
    grid = torch.tensor([0.5, 0.45], dtype=F64)
    x = sample(den, starts(2, 16).reshape(2, 4, 4), solver="ddim", grid=torch.tensor([0.6, 0.5], dtype=F64))
    y, info = sample(den, x, solver="pc", grid=grid, save="none")
    upper = torch.triu_indices(4, 4, 1)
    eps = den(x, grid[0].expand(2)).eps
    ratio = info.noise[0][:, upper[0], upper[1]].norm(dim=1) / eps[:, upper[0], upper[1]].norm(dim=1)
    a, sigma = float(VPSDE().alpha(grid[0]) / VPSDE().alpha(grid[1])), float(VPSDE().sigma(grid[0]))
    gain = (a * 0.16 * ratio)[:, None, None]
    corrected = x - 2 * gain**2 * sigma * eps + 2 * gain * sigma * info.noise[0]
    predictor = get_solver("reverse_diffusion", {"last_mean": True}).plan(process, grid).coefficients[""][0]
    expected = predictor[0] * corrected + predictor[4] * den(corrected, grid[0].expand(2)).eps
    assert (y - expected).abs().max() < 1e-12


def test_annealed_corrections_help_a_coarse_predictor():
    """Exact moments: an annealed correction a step takes more than 30 % off the variance error at 200 steps."""
    plain = variance_error("pc", {"corrector_steps": 0}, 200)
    assert variance_error("pc", {"corrector": "ald", "snr": 0.1}, 200) < 0.7 * plain


def test_corrections_do_not_harm_the_law_in_many_dimensions():
    """250 dimensions, where norms hardly fluctuate: nearer to the data than the exact law of the predictor alone.

    Slack: four standard errors of the mean and variance of 10^4 numbers.
    """
    n, dims, steps = 40, 250, 40
    den = Denoiser(gaussian_network(VPSDE(), [MEAN[0]] * dims, [VARIANCE[1]] * dims), PROCESS)
    x = sample(den, starts(n, dims), solver="pc", solver_options={"snr": 0.05}, steps=steps)
    plan = get_solver("pc", {"corrector_steps": 0}).plan(PROCESS, time_grid(PROCESS, "logsnr", steps))
    start = {"mean": torch.zeros(1, dtype=F64), "cov": torch.eye(1, dtype=F64)}
    oracle = GaussianOracle([MEAN[0]], [[VARIANCE[1]]])
    mean, cov = (float(v) for v in oracle.plan_moments(plan, PROCESS.continuous[""], **start))
    assert abs(x.mean().item() - MEAN[0]) < abs(mean - MEAN[0]) + 4 * (VARIANCE[1] / (n * dims)) ** 0.5
    assert abs(x.var().item() / VARIANCE[1] - 1) < abs(cov / VARIANCE[1] - 1) + 4 * (2 / (n * dims)) ** 0.5


@pytest.mark.parametrize("name", ["pc", "s4", "rk45"])
def test_vector_times_are_refused(name):
    grid = torch.linspace(1, 0.1, 4, dtype=F64)[:, None].expand(4, 3)
    with pytest.raises(ValueError, match="one time for all elements"):
        get_solver(name).plan(PROCESS, grid)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="predictor"):
        get_solver("pc", {"predictor": "heun"})
