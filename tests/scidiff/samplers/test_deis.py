"""DEIS coefficients against adaptive quadrature."""

import pytest
import torch
from scipy.integrate import quad

from scidiff import VESDE, VPSDE, Cosine, Process
from scidiff.grids import time_grid
from scidiff.samplers import get_solver


def polynomial(nodes, j):
    """The Lagrange polynomial of node j."""

    def value(u):
        product = 1.0
        for i, node in enumerate(nodes):
            if i != j:
                product *= (u - node) / (nodes[j] - node)
        return product

    return value


@pytest.mark.parametrize("schedule", [VPSDE(), VESDE(), Cosine()], ids=repr)
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_tab_against_quadrature(schedule, order):
    """C_j = alpha_s int_t^s rho'(u) l_j(u) du, by QUADPACK at 1e-11."""
    process = Process(schedule)
    grid = time_grid(process, "logsnr", 6)
    table = get_solver(f"deis_tab{order}").plan(process, grid).coefficients[""]

    def slope(u):
        t = torch.tensor(u, dtype=torch.float64)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return float((schedule.sigma_dot(t) - sigma / alpha * schedule.alpha_dot(t)) / alpha)

    for i in (order, 5):
        nodes = [float(grid[i - j]) for j in range(order + 1)]
        for j in range(order + 1):
            value = polynomial(nodes, j)
            integral, _ = quad(
                lambda u, v=value: slope(u) * v(u), nodes[0], float(grid[i + 1]), epsabs=1e-13, epsrel=1e-11, limit=200
            )
            assert table[i, 4 + j].item() == pytest.approx(float(schedule.alpha(grid[i + 1])) * integral, rel=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_rhoab_is_exact_for_polynomials_in_rho(order):
    """y' = rho^k is integrated exactly for k up to the order."""
    schedule, process = VPSDE(), Process(VPSDE())
    grid = time_grid(process, "quadratic", 7)
    rho = schedule.sigma(grid) / schedule.alpha(grid)
    table = get_solver(f"deis_rhoab{order}").plan(process, grid).coefficients[""]
    for i in range(order, 7):
        for power in range(order + 1):
            step = (table[i, 4:] * torch.stack([rho[i - j] ** power for j in range(order + 1)])).sum()
            exact = schedule.alpha(grid[i + 1]) * (rho[i + 1] ** (power + 1) - rho[i] ** (power + 1)) / (power + 1)
            assert step.item() == pytest.approx(exact.item(), rel=1e-9)


def test_order_zero_is_ddim():
    process = Process(VPSDE())
    grid = time_grid(process, "logsnr", 6)
    noise_form = get_solver("deis_tab0").plan(process, grid).coefficients[""]
    euler = get_solver("dpm_solver_1").plan(process, grid).coefficients[""]
    assert torch.allclose(noise_form, euler, rtol=1e-12, atol=1e-14)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="order 0 to 3"):
        get_solver("deis_tab3", {"order": 4})
