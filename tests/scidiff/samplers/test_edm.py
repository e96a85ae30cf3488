"""EDM's sampler: its published form, evaluations, churn."""

import math

import pytest
import torch

from scidiff import EDM, VPSDE, Denoiser, Process, sample
from scidiff.samplers import get_solver
from tests.scidiff.samplers.problems import gaussian_network, gaussian_system, starts


def algorithm_2(x, sigmas, denoise, noises, s_churn=0.0, s_min=0.0, s_max=math.inf, s_noise=1.0):
    """Karras et al. 2022, algorithm 2, line by line."""
    n = len(sigmas) - 1
    for i in range(n):
        gamma = min(s_churn / n, math.sqrt(2) - 1) if s_min <= sigmas[i] <= s_max else 0.0
        sigma_hat = min(sigmas[i] * (1 + gamma), 80.0)  # held within the schedule
        if sigma_hat > sigmas[i]:
            x = x + math.sqrt(sigma_hat**2 - sigmas[i] ** 2) * s_noise * noises.pop(0)
        d = (x - denoise(x, sigma_hat)) / sigma_hat
        x_next = x + (sigmas[i + 1] - sigma_hat) * d
        if sigmas[i + 1] > 0:
            d_next = (x_next - denoise(x_next, sigmas[i + 1])) / sigmas[i + 1]
            x_next = x + (sigmas[i + 1] - sigma_hat) * (d + d_next) / 2
        x = x_next
    return x


@pytest.mark.parametrize(
    "options", [{}, {"s_churn": 4.0}, {"s_churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.007}], ids=str
)
def test_published_algorithm(options):
    """The same numbers to 1e-10 of the initial size 80, and 2n - 1 evaluations on the "edm" grid."""
    schedule = EDM(0.002, 80.0)
    network = gaussian_network(schedule)
    den = Denoiser(network, Process(schedule))
    x = 80 * starts(16)
    y, info = sample(den, x, solver="edm_heun", solver_options=options, steps=9, grid="edm", save="none")
    assert info.nfe == 17

    def denoise(x, sigma):
        return network(x, torch.full((len(x),), sigma / 80, dtype=torch.float64))

    assert (y - algorithm_2(x, (80 * info.grid).tolist(), denoise, list(info.noise), **options)).abs().max() < 8e-9


def test_scaled_frame_of_a_variance_preserving_process():
    """x/alpha follows the same algorithm with rho = sigma/alpha."""
    schedule = VPSDE()
    network = gaussian_network(schedule)
    grid = schedule.time(torch.linspace(-4.0, 4.0, 9, dtype=torch.float64))
    rho = (schedule.sigma(grid) / schedule.alpha(grid)).tolist()
    alpha = dict(zip(rho, schedule.alpha(grid).tolist(), strict=True))
    times = dict(zip(rho, grid.tolist(), strict=True))

    def denoise(y, r):
        return network(alpha[r] * y, torch.full((len(y),), times[r], dtype=torch.float64))

    x = starts(16)
    y = sample(Denoiser(network, Process(schedule)), x, solver="edm_heun", grid=grid)
    expected = alpha[rho[-1]] * algorithm_2(x / alpha[rho[0]], rho, denoise, [])
    assert (y - expected).abs().max() < 1e-10


def test_churn_of_a_system_follows_each_forward_transition():
    """t_hat is that of the first component; noise and scale of the others are of their own schedule."""
    system = gaussian_system({"a": VPSDE(), "b": EDM(0.02, 20.0)})
    plan = get_solver("edm_heun", {"s_churn": 3.0}).plan(system.process, torch.tensor([0.9, 0.6, 0.3]).double())
    rows = [i for i, row in enumerate(plan.rows) if not row.evaluate]
    assert len(rows) == 2
    for name, component in system.process.continuous.items():
        schedule = component.schedule
        for i in rows:
            t, t_hat = plan.rows[i].t, plan.rows[i].s
            a, _, noise = plan.coefficients[name][i, :3].tolist()
            assert a == pytest.approx(float(schedule.alpha(t_hat) / schedule.alpha(t)), rel=1e-12)
            variance = float(schedule.sigma(t_hat)) ** 2 - (a * float(schedule.sigma(t))) ** 2
            assert noise == pytest.approx(math.sqrt(variance), rel=1e-9)
    first = system.process.continuous["a"].schedule
    lam = [0.5 * float(first.log_snr(v)) for v in (plan.rows[rows[0]].t, plan.rows[rows[0]].s)]
    assert lam[0] - lam[1] == pytest.approx(math.log(math.sqrt(2)), rel=1e-9)  # gamma is capped


def test_negative_churn_is_refused():
    with pytest.raises(ValueError, match="s_churn"):
        get_solver("edm_heun", {"s_churn": -1.0})
