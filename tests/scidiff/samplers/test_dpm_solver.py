"""Single-step DPM-Solver and DPM-Solver++: closed relations, budgets, systems."""

import math

import pytest
import torch

from scidiff import EDM, VPSDE, Cosine, Process, sample
from scidiff.grids import time_grid
from scidiff.samplers import get_solver
from tests.scidiff.samplers.problems import gaussian, gaussian_system, starts

PROCESS = Process(VPSDE())


def step_numbers(name, options=None, grid=None):
    """Plan of one interval from t = .7 to .4, and its lambda numbers."""
    grid = torch.tensor([0.7, 0.4], dtype=torch.float64) if grid is None else grid
    plan = get_solver(name, options).plan(PROCESS, grid)
    return plan.rows, plan.coefficients[""]


def scales(t):
    schedule = VPSDE()
    return float(schedule.alpha(t)), float(schedule.sigma(t)), float(0.5 * schedule.log_snr(t))


def test_second_order_noise_form_by_hand():
    """u = (alpha_m/alpha_t) x - sigma_m expm1(h/2) e_0; x_s = (alpha_s/alpha_t) x - sigma_s expm1(h) e_m at r = 1/2."""
    rows, table = step_numbers("dpm_solver_2")
    a_t, _, lam_t = scales(rows[0].t)
    a_m, s_m, lam_m = scales(rows[1].t)
    a_s, s_s, lam_s = scales(rows[1].s)
    assert lam_m - lam_t == pytest.approx((lam_s - lam_t) / 2, rel=1e-12)
    assert table[0, [0, 4]].tolist() == pytest.approx([a_m / a_t, -s_m * math.expm1(lam_m - lam_t)], rel=1e-12)
    expected = [0.0, a_s / a_t, 0.0, 0.0, -s_s * math.expm1(lam_s - lam_t), 0.0]
    assert table[1].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_third_order_data_form_by_hand():
    """DPM-Solver++(3S): u_2 with D_1 - D_0, x_s with D_2 - D_0, r = 1/3 and 2/3."""
    rows, table = step_numbers("dpmpp_3s")
    _, s_t, lam_t = scales(rows[0].t)
    a_2, s_2, lam_2 = scales(rows[1].s)
    a_s, s_s, lam_s = scales(rows[2].s)
    h, h_2 = lam_s - lam_t, lam_2 - lam_t
    slope = 2 * a_2 * (math.expm1(-h_2) / h_2 + 1)
    value = a_2 * (1 - math.exp(-h_2))
    assert table[1].tolist() == pytest.approx([0, s_2 / s_t, 0, 0, slope, value - slope, 0], rel=1e-10, abs=1e-13)
    slope = 1.5 * a_s * (math.expm1(-h) / h + 1)
    value = a_s * (1 - math.exp(-h))
    assert table[2].tolist() == pytest.approx([0, s_s / s_t, 0, 0, slope, 0, value - slope], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("model", ["dpm_solver_3", "dpmpp_3s"])
def test_taylor_form_is_exact_for_parabolas(model):
    """Model values 1, lambda and lambda^2 at the three nodes are integrated exactly (against quadrature)."""
    rows, table = step_numbers(model, {"taylor": True})
    lam = torch.stack([0.5 * VPSDE().log_snr(row.t) for row in reversed(rows)])  # newest first
    a_s, s_s, lam_s = scales(rows[-1].s)
    u = torch.linspace(float(lam[-1]), lam_s, 20_001, dtype=torch.float64)
    kernel = a_s * (u - lam_s).exp() if model == "dpmpp_3s" else -s_s * (lam_s - u).exp()
    for power in range(3):
        exact = torch.trapezoid(kernel * u**power, u)  # relative error (h/20000)^2, about 1e-9
        assert (table[2, 4:] * lam**power).sum().item() == pytest.approx(exact.item(), rel=1e-8)


def test_first_order_is_ddim():
    grid = time_grid(PROCESS, "logsnr", 12)
    x = starts()
    den = gaussian().denoiser(PROCESS)
    first, ddim = (sample(den, x, solver=name, grid=grid) for name in ("dpm_solver_1", "ddim"))
    assert (first - ddim).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("order", "nfe", "split"),
    [
        (3, 12, [3, 3, 3, 2, 1]),
        (3, 13, [3, 3, 3, 3, 1]),
        (3, 14, [3, 3, 3, 3, 2]),
        (2, 7, [2, 2, 2, 1]),
        (1, 2, [1, 1]),
    ],
)
def test_budget(order, nfe, split):
    name = f"dpm_solver_{order}"
    _, info = sample(gaussian().denoiser(PROCESS), starts(), solver=name, solver_options={"nfe": nfe}, save="all")
    assert info.nfe == nfe
    assert len(info.path) == len(split) + 1
    rows = get_solver(name, {"nfe": nfe}).plan(PROCESS, info.grid).rows
    assert [sum(row.step == i for row in rows) for i in range(len(split))] == split


def test_budget_needs_a_fitting_grid():
    with pytest.raises(ValueError, match="needs 5 grid intervals, got 4"):
        get_solver("dpm_solver_3", {"nfe": 12}).plan(PROCESS, time_grid(PROCESS, "logsnr", 4))
    with pytest.raises(ValueError, match="at least the order"):
        get_solver("dpm_solver_3", {"nfe": 2})


@pytest.mark.parametrize("name", ["dpm_solver_2", "dpm_solver_3", "dpmpp_2s", "dpmpp_3s"])
def test_other_schedules_of_a_system_keep_the_order(name):
    """The second component has its own places r_i: its error falls with the order of the method, too."""
    first, second = VPSDE(), Cosine(nu=2.0)
    den, x = gaussian_system({"a": first, "b": second}), starts()
    exact = gaussian().flow(x, second, 0.9, 0.05)
    order = int(name.strip("s")[-1])

    def error(n):
        lam = torch.linspace(*(0.5 * float(first.log_snr(torch.tensor(t).double())) for t in (0.9, 0.05)), n + 1)
        grid = first.time(lam.double())
        grid[0], grid[-1] = 0.9, 0.05
        return float((sample(den, {"a": x, "b": x}, solver=name, grid=grid)["b"] - exact).abs().max())

    assert math.log2(error(40) / error(80)) > order - 0.4


def test_edm_grid_lands_in_one_stage():
    """The last step, to sigma = 0, is the x0 prediction of a single evaluation."""
    process = Process(EDM(0.002, 80.0))
    den = gaussian().denoiser(process)
    x = 80 * starts()
    y, info = sample(den, x, solver="dpmpp_2s", steps=8, grid="edm", save="all")
    assert info.nfe == 2 * 7 + 1
    t = info.grid[-2].expand(len(x))
    assert (y - den(info.path[-2], t).x0).abs().max() < 1e-12


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="order 1, 2 or 3"):
        get_solver("dpm_solver_2", {"order": 4})
