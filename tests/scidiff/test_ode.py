import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from scidiff.ode import integrate, rms

F64 = torch.float64


def oscillator(t, y):
    """A pendulum with a frequency that depends on time."""
    return torch.stack([y[:, 1], -(1 + t) * torch.sin(y[:, 0])], dim=1)


def reference(y, t_0, t_1):
    def f(t, state):
        return np.array([state[1], -(1 + t) * np.sin(state[0])])

    return np.stack([solve_ivp(f, (t_0, t_1), row, method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1] for row in y])


@pytest.mark.parametrize(("t_0", "t_1"), [(0.0, 3.0), (2.0, -1.0)])
def test_solution_equals_scipy(t_0, t_1):
    y = torch.tensor([[0.1, 0.0], [1.5, -2.0], [3.0, 0.5]], dtype=F64)
    solution = integrate(oscillator, y, t_0, t_1, rtol=1e-9, atol=1e-9)
    expected = torch.as_tensor(reference(y.numpy(), t_0, t_1))
    # local errors of 1e-9 over a few dozen steps, amplified by at most e^{L T} near the separatrix
    torch.testing.assert_close(solution.y, expected, rtol=0, atol=1e-6)
    assert solution.nfe == 2 + 6 * int((solution.accepted + solution.rejected).max())


def test_order_is_five():
    """Error per tolerance: with steps h the local error of order 4 is controlled, so the steps grow as rtol^{-1/5}."""
    y = torch.tensor([[1.5, -2.0]], dtype=F64)
    steps = [int(integrate(oscillator, y, 0.0, 30.0, rtol=r, atol=r).accepted) for r in (1e-6, 1e-11)]
    assert steps[1] / steps[0] == pytest.approx(10.0, rel=0.2)


def test_samples_do_not_see_each_other():
    easy, hard = torch.tensor([[0.01, 0.0]], dtype=F64), torch.tensor([[3.1, 0.0]], dtype=F64)
    alone = integrate(oscillator, easy, 0.0, 5.0, rtol=1e-7, atol=1e-7)
    both = integrate(oscillator, torch.cat([hard, easy]), 0.0, 5.0, rtol=1e-7, atol=1e-7)
    assert torch.equal(alone.y[0], both.y[1])
    assert alone.accepted[0] == both.accepted[1]


def test_linear_problem_and_norm():
    """y' = -y from 1; a norm that ignores the second number leaves its error out of the control."""
    y = torch.ones(2, 2, dtype=F64)
    solution = integrate(lambda t, y: -y, y, 0.0, 1.0, rtol=1e-10, atol=1e-10, norm=lambda e: rms(e[:, :1]))
    torch.testing.assert_close(solution.y, y * np.exp(-1), rtol=1e-8, atol=0)
    fast = integrate(
        lambda t, y: torch.stack([-y[:, 0], torch.cos(50 * t[:]) * 50], 1), y, 0.0, 1.0, norm=lambda e: rms(e[:, :1])
    )
    assert int(fast.accepted.max()) < 10


def test_empty_span_and_failures():
    y = torch.ones(2, 2, dtype=F64)
    assert torch.equal(integrate(lambda t, y: -y, y, 0.5, 0.5).y, y)
    with pytest.raises(RuntimeError, match="not enough"):
        integrate(lambda t, y: -y, y, 0.0, 1.0, rtol=1e-12, atol=1e-12, max_steps=3)
    with pytest.raises(RuntimeError, match="not finite"):
        integrate(lambda t, y: torch.where(t[:, None] > 0.3, torch.nan, -y), y, 0.0, 1.0)
