"""Multistep DPM-Solver++: exact integrals, closed relations, moments of the SDE variants."""

import math

import pytest
import torch

from scidiff import VPSDE, Process, sample
from scidiff.coefficients import integral_weights
from scidiff.grids import time_grid
from scidiff.samplers import get_solver
from tests.scidiff.samplers.problems import MEAN, VARIANCE, gaussian, starts

PROCESS = Process(VPSDE())
GRID = time_grid(PROCESS, "quadratic", 9)


def lambdas(grid=GRID):
    return 0.5 * VPSDE().log_snr(grid)


def test_third_order_step_is_the_lagrange_integral():
    """alpha_s int_0^h e^{u-h} l_j(u) du with the nodes 0, -h_0, -h_0 - h_1; quadrature is exact to 1e-13 here."""
    lam = lambdas()
    table = get_solver("dpmpp_3m").plan(PROCESS, GRID).coefficients[""]
    for i in range(2, 9):
        h = lam[i + 1] - lam[i]
        nodes = torch.stack([lam[i - j] - lam[i] for j in range(3)])
        weights = integral_weights(lambda u, h=h: (u - h).exp(), nodes, (torch.zeros_like(h), h))
        assert torch.allclose(table[i, 4:], VPSDE().alpha(GRID[i + 1]) * weights, rtol=1e-10, atol=1e-12)


def test_legacy_third_halves_the_curvature():
    """The second difference of model values enters with half its weight: the difference is the term of E_2 itself."""
    lam = lambdas()
    correct, legacy = (
        get_solver("dpmpp_3m", {"legacy_third": flag}).plan(PROCESS, GRID).coefficients[""] for flag in (False, True)
    )
    h, h_0, h_1 = (float(lam[6 - j] - lam[5 - j]) for j in range(3))
    q = math.expm1(-h) / h + 1
    alpha_s = float(VPSDE().alpha(GRID[6]))
    # alpha_s (q/h - 1/2) E_2/2 with E_2/2 = (a - b)/(r_0 + r_1); its factor of D_2 is h/h_1 per unit of b
    change = -alpha_s * (q / h - 0.5) * (h / h_1) / (h_0 / h + h_1 / h)
    assert (correct - legacy)[5, 6].item() == pytest.approx(change, rel=1e-9)


def test_second_order_step_by_hand():
    lam = lambdas()
    table = get_solver("dpmpp_2m").plan(PROCESS, GRID).coefficients[""]
    h, r = float(lam[4] - lam[3]), float((lam[3] - lam[2]) / (lam[4] - lam[3]))
    gain = float(VPSDE().alpha(GRID[4])) * (1 - math.exp(-h))
    ratio = float(VPSDE().sigma(GRID[4]) / VPSDE().sigma(GRID[3]))
    expected = [ratio, 0, 0, 0, gain * (1 + 0.5 / r), -gain * 0.5 / r]
    assert table[3].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_sde_without_noise_is_the_ode():
    a, b = (get_solver(n, o).plan(PROCESS, GRID) for n, o in (("dpmpp_sde_2m", {"eta": 0.0}), ("dpmpp_2m", {})))
    assert torch.allclose(a.coefficients[""], b.coefficients[""], rtol=1e-12, atol=1e-14)
    assert not any(a.uses_noise)


def test_first_sde_step_is_ancestral():
    sde, markov = (get_solver(name).plan(PROCESS, GRID).coefficients[""][0] for name in ("dpmpp_sde_2m", "ancestral"))
    assert torch.allclose(sde[:5], markov, rtol=1e-12, atol=1e-14)


def closed_moments(eta, correction):
    """Mean and variance of the SDE sampler coordinate by coordinate, from its published update and covariances."""
    schedule, means, variances = VPSDE(), [], []
    alpha, sigma, lam = schedule.alpha(GRID).tolist(), schedule.sigma(GRID).tolist(), lambdas().tolist()
    for mean, variance in zip(MEAN, VARIANCE, strict=True):
        slope = [a * variance / (a * a * variance + s * s) for a, s in zip(alpha, sigma, strict=True)]
        offset = [mean * (1 - k * a) for k, a in zip(slope, alpha, strict=True)]  # D = slope x + offset
        m, v = 0.0, 1.0
        m_old, cov, v_old = 0.0, 0.0, 0.0  # of the state before
        for i in range(9):
            h = lam[i + 1] - lam[i]
            wide = (1 + eta) * h
            gain = alpha[i + 1] * (1 - math.exp(-wide))
            extra = 0.0
            if i:
                r = (lam[i] - lam[i - 1]) / h
                extra = gain / (2 * r)
                if correction == "heun":
                    extra = alpha[i + 1] * (1 - (1 - math.exp(-wide)) / wide) / r
            a = sigma[i + 1] / sigma[i] * math.exp(-eta * h) + (gain + extra) * slope[i]
            b = -extra * slope[i - 1] if i else 0.0
            shift = (gain + extra) * offset[i] - (extra * offset[i - 1] if i else 0.0)
            noise = sigma[i + 1] ** 2 * (1 - math.exp(-2 * eta * h))
            m, m_old, cov, v, v_old = (
                a * m + b * m_old + shift,
                m,
                a * v + b * cov,
                a * a * v + 2 * a * b * cov + b * b * v_old + noise,
                v,
            )
        means.append(m)
        variances.append(v)
    return means, variances


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
def test_moments_follow_the_closed_recursion(eta, correction):
    """The Gaussian law of the output, started at N(0, I), to rounding (9 steps of float64)."""
    plan = get_solver("dpmpp_sde_2m", {"eta": eta, "correction": correction}).plan(PROCESS, GRID)
    start = {"mean": torch.zeros(3, dtype=torch.float64), "cov": torch.eye(3, dtype=torch.float64)}
    mean, cov = gaussian().plan_moments(plan, PROCESS.continuous[""], **start)
    means, variances = closed_moments(eta, correction)
    assert mean.tolist() == pytest.approx(means, abs=1e-10)
    assert cov.diagonal().tolist() == pytest.approx(variances, abs=1e-10)


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
def test_variance_is_of_weak_order_two(eta, correction):
    component = PROCESS.continuous[""]

    def error(n):
        grid = time_grid(PROCESS, "logsnr", n)
        plan = get_solver("dpmpp_sde_2m", {"eta": eta, "correction": correction}).plan(PROCESS, grid)
        _, cov = gaussian().plan_moments(plan, component)
        alpha, sigma = VPSDE().alpha(grid[-1]), VPSDE().sigma(grid[-1])
        exact = alpha**2 * torch.diag(torch.tensor(VARIANCE, dtype=torch.float64)) + sigma**2 * torch.eye(3).double()
        return float((cov - exact).abs().max())

    assert math.log2(error(160) / error(320)) == pytest.approx(2.0, abs=0.25)


def test_noise_of_a_run_has_the_planned_law():
    """Monte Carlo against the exact moments: four standard errors of 20000 samples."""
    den = gaussian().denoiser(PROCESS)
    plan = get_solver("dpmpp_sde_2m").plan(PROCESS, GRID)
    start = {"mean": torch.zeros(3, dtype=torch.float64), "cov": torch.eye(3, dtype=torch.float64)}
    mean, cov = gaussian().plan_moments(plan, PROCESS.continuous[""], **start)
    x = sample(den, (20_000, 3), solver="dpmpp_sde_2m", grid=GRID, seed=3)
    assert (x.mean(0) - mean).abs().max() < 4 * cov.diagonal().max().sqrt() / 20_000**0.5
    assert (x.var(0) / cov.diagonal() - 1).abs().max() < 4 * (2 / 20_000) ** 0.5


def test_first_steps_use_fewer_values():
    table = get_solver("dpmpp_3m").plan(PROCESS, GRID).coefficients[""]
    second = get_solver("dpmpp_2m").plan(PROCESS, GRID).coefficients[""]
    assert torch.equal(table[:2, :6], second[:2])
    assert (table[:, 6] != 0).tolist() == [False, False] + [True] * 7


def test_encoding_and_decoding_are_inverse_up_to_the_order():
    """The same flow upwards and back down returns the data; the error falls with the square of the number of steps."""
    den = gaussian().denoiser(PROCESS)
    x = gaussian().flow(starts(), VPSDE(), 1.0, 1e-3)
    plans = {}

    def error(n):
        grid = time_grid(PROCESS, "logsnr", n)
        plan = get_solver("dpmpp_2m").plan(PROCESS, grid.flip(0))
        state, history = {"": x}, ()
        for i, row in enumerate(plan.rows):
            history = (den(state[""], row.t.expand(len(x))).get("x0"), *history)[:2]
            state = get_solver("dpmpp_2m").step(plan, i, state, state, history, None)
        plans[n] = state[""]
        return float((sample(den, state[""], solver="dpmpp_2m", grid=grid) - x).abs().max())

    assert math.log2(error(40) / error(80)) > 1.7
    assert (plans[80] - starts()).abs().max() < 0.02
