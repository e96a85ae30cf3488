"""S4: published half steps, weak order, systems."""

import math

import pytest
import torch

from scidiff import VESDE, VPSDE, Linear, Process, sample
from scidiff.samplers import get_solver
from tests.scidiff.samplers.problems import VARIANCE, gaussian, gaussian_system, starts

PROCESS = Process(VPSDE())
F64 = torch.float64


@pytest.mark.parametrize("legacy", [False, True])
def test_half_steps_by_hand(legacy):
    """VP: l = (h/4)(2 b_0 + (2t + h)(b_1 - b_0)), x <- e^{-l} x + sqrt(e^{-2l} - 1) z (legacy: sqrt(1 - e^{2l}))."""
    t, s = 0.7, 0.6
    plan = get_solver("s4", {"legacy_variance": legacy}).plan(PROCESS, torch.tensor([t, s, 0.5], dtype=F64))
    h = (s - t) / 2
    for i, start in ((1, t), (2, t + h)):
        length = h / 4 * (2 * 0.1 + (2 * start + h) * 19.9)
        noise = math.sqrt(1 - math.exp(2 * length)) if legacy else math.sqrt(math.exp(-2 * length) - 1)
        row = plan.coefficients[""][i]
        assert row[[0, 2]].tolist() == pytest.approx([math.exp(-length), noise], rel=1e-9)
    score = (s - t) * (0.1 + t * 19.9) / float(VPSDE().sigma(torch.tensor(t, dtype=F64)))
    assert plan.coefficients[""][1, 4].item() == pytest.approx(score, rel=1e-9)
    assert plan.nfe == 2
    assert not plan.uses_noise[-1]


@pytest.mark.parametrize("legacy", [False, True])
def test_weak_order_one(legacy):
    def error(n):
        grid = torch.linspace(1, 1e-3, n + 1, dtype=F64)
        plan = get_solver("s4", {"snr": 0.0, "legacy_variance": legacy}).plan(PROCESS, grid)
        _, cov = gaussian().plan_moments(plan, PROCESS.continuous[""])
        alpha, sigma = VPSDE().alpha(grid[-1]), VPSDE().sigma(grid[-1])
        return float((cov.diagonal() - alpha**2 * torch.tensor(VARIANCE, dtype=F64) - sigma**2).abs().max())

    assert math.log2(error(200) / error(400)) == pytest.approx(1.0, abs=0.25)


def test_components_of_a_system_have_their_own_corrections():
    """One evaluation a step; each component is corrected by its own norms, as if it were alone."""
    parts = {"a": VPSDE(), "b": VESDE(0.2, 1.0)}
    grid, x = torch.linspace(0.9, 0.3, 5, dtype=F64), starts(8)
    both, info = sample(gaussian_system(parts), {"a": x, "b": x}, solver="s4", grid=grid, save="none")
    assert info.nfe == 4
    for name, schedule in parts.items():
        alone = sample(gaussian_system({name: schedule}), {name: x}, solver="s4", grid=grid)
        assert (both[name] - alone[name]).abs().max() < 1e-12


def test_vanishing_signal_is_refused():
    with pytest.raises(ValueError, match=r"S4 is singular for Linear.*start below t = 1"):
        get_solver("s4").plan(Process(Linear()), torch.tensor([1.0, 0.5], dtype=F64))
