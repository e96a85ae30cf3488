"""UniPC: the published linear system, closed relations, evaluations."""

import math

import pytest
import torch

from scidiff import VPSDE, Process, sample
from scidiff.grids import time_grid
from scidiff.samplers import get_solver
from tests.scidiff.samplers.problems import gaussian, starts

PROCESS = Process(VPSDE())
GRID = time_grid(PROCESS, "quadratic", 8)


def published(i, order, variant, prediction, corrected):
    """Weights of the model values of the step i -> i+1, newest first: the system sum_j r_j^{k-1} w_j = b_k."""
    lam = 0.5 * VPSDE().log_snr(GRID)
    h = float(lam[i + 1] - lam[i])
    ratios = [float((lam[i - k] - lam[i]) / h) for k in range(1, order)] + ([1.0] if corrected else [])
    hh = -h if prediction == "x0" else h
    scale = hh if variant == "bh1" else math.expm1(hh)
    factor = float(VPSDE().alpha(GRID[i + 1]) if prediction == "x0" else VPSDE().sigma(GRID[i + 1]))
    weights = []
    if ratios:
        b, term = [], math.expm1(hh) / hh - 1
        for k in range(1, len(ratios) + 1):
            b.append(term * math.factorial(k) / scale)
            term = term / hh - 1 / math.factorial(k + 1)
        powers = torch.tensor([[r**k for r in ratios] for k in range(len(ratios))], dtype=torch.float64)
        weights = torch.linalg.solve(powers, torch.tensor(b, dtype=torch.float64)).tolist()
        if len(ratios) == 1:
            weights = [0.5]
    past = [-factor * scale * w / r for w, r in zip(weights, ratios, strict=True)]
    start = -factor * math.expm1(hh) - sum(past)
    if corrected:
        return [past[-1], start, *past[:-1]]
    return [start, *past]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_weights_solve_the_published_system(order, variant, prediction):
    """Predictor and corrector of every interval but the first ones; the system loses about three digits at h = .3."""
    options = {"variant": variant, "prediction": prediction, "lower_order_final": False}
    plan = get_solver(f"unipc_{order}", options).plan(PROCESS, GRID)
    table = plan.coefficients[""]
    for row, numbers in zip(plan.rows, table, strict=True):
        if row.step >= order - 1:
            expected = published(row.step, order, variant, prediction, corrected=not row.mark)
            assert numbers[4 : 4 + len(expected)].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-11)


def test_relations_to_other_methods():
    """Without corrector: order 1 is ddim, order 2 (bh2) is dpmpp_2m."""
    plain = {"corrector": False, "lower_order_final": False}
    for name, other in (("unipc_1", "ddim"), ("unipc_2", "dpmpp_2m")):
        a = get_solver(name, plain).plan(PROCESS, GRID).coefficients[""]
        b = get_solver(other).plan(PROCESS, GRID).coefficients[""]
        assert torch.allclose(a[:, : b.shape[1]], b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_one_evaluation_a_step(corrector, steps):
    options = {"corrector": corrector}
    den = gaussian().denoiser(PROCESS)
    _, info = sample(den, starts(), solver="unipc_3", solver_options=options, steps=steps, save="all")
    assert info.nfe == steps
    assert len(info.path) == steps + 1


def test_orders_fall_at_the_end():
    """lower_order_final: the last interval is of order 1, the one before of order 2."""
    plan = get_solver("unipc_3").plan(PROCESS, GRID)
    table = plan.coefficients[""]
    used = [int((numbers[4:] != 0).sum()) for row, numbers in zip(plan.rows, table, strict=True) if row.mark]
    assert used == [1, 2, 3, 3, 3, 3, 2, 1]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="variant"):
        get_solver("unipc_2", {"variant": "bh3"})
