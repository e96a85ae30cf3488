"""Reference problems with exact answers, shared by the tests of the solvers."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scidiff import VPSDE, Denoiser, Process, sample
from scidiff.oracles import GaussianOracle, MixtureOracle
from scidiff.schedules import Schedule, expand_like
from scidiff.testing import convergence_order

Network = Callable[..., Tensor]

MEAN, VARIANCE = (1.0, -0.5, 2.0), (0.04, 0.25, 1.5)
T_MIN = 1e-3

# Inverse sizes of the methods' steps: evaluations inside one grid interval.
STAGES = {"heun": 2, "edm_heun": 2, "dpm_solver_2": 2, "dpmpp_2s": 2, "dpm_solver_3": 3, "dpmpp_3s": 3}


def gaussian() -> GaussianOracle:
    """The reference Gaussian in three dimensions."""
    return GaussianOracle(MEAN, torch.diag(torch.tensor(VARIANCE, dtype=torch.float64)))


def gaussian_network(schedule: Schedule, mean: Sequence[float] = MEAN, variance: Sequence[float] = VARIANCE) -> Network:
    """Exact x0 prediction for independent Gaussians, quicker than the oracle: m + a v (x - a m)/(a^2 v + s^2)."""
    m, v = torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)

    def network(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        alpha, sigma = (expand_like(f(t.double()), x) for f in (schedule.alpha, schedule.sigma))
        return (m + alpha * v / (alpha**2 * v + sigma**2) * (x - alpha * m)).to(x.dtype)

    return network


def gaussian_system(schedules: Mapping[str, Any]) -> Denoiser:
    """A system whose components are independent copies of the reference Gaussian, with their own schedules."""
    process = Process(dict(schedules))
    networks = {name: gaussian_network(part.schedule) for name, part in process.continuous.items()}
    return Denoiser(lambda x, t, cond: {k: networks[k](x[k], t) for k in networks}, process)


def mixture() -> MixtureOracle:
    """The reference mixture in the plane."""
    covs = [[[v, 0.0], [0.0, v]] for v in (0.05, 0.2, 0.1)]
    return MixtureOracle([0.2, 0.3, 0.5], [[-2.0, 0.0], [1.0, 2.0], [2.0, -1.0]], covs)


def starts(count: int = 64, dims: int = 3) -> Tensor:
    """Standard normal states at t = 1."""
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def orders(solver: str, options: Mapping[str, Any] | None = None, doublings: int = 3) -> list[float]:
    """Slopes of the largest error between the last doublings up to 160 steps (single-step methods) or 320 (others)."""
    oracle, x_1 = gaussian(), starts()
    den = Denoiser(gaussian_network(VPSDE()), Process(VPSDE()))
    exact = oracle.flow(x_1, VPSDE(), 1.0, T_MIN)
    last = 160 if solver in STAGES else 320

    def error(n: int) -> Tensor:
        return sample(den, x_1, solver=solver, solver_options=options, steps=n) - exact

    return convergence_order(error, [last // 2**k for k in reversed(range(doublings + 1))])


@cache
def mixture_target() -> tuple[Tensor, Tensor]:
    """512 states at t = 1 and where the exact flow carries them, to 1e-6 (the errors compared are above 1e-4)."""
    x_1 = torch.from_numpy(np.random.default_rng(0).standard_normal((512, 2)))
    oracle, schedule = mixture(), VPSDE()

    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        return oracle.velocity(torch.from_numpy(flat.copy()).reshape(512, 2), schedule, t).flatten().numpy()

    solution = solve_ivp(slope, (1.0, T_MIN), x_1.flatten().numpy(), method="DOP853", rtol=1e-7, atol=1e-7)
    return x_1, torch.from_numpy(solution.y[:, -1].copy()).reshape(512, 2)


def mixture_error(solver: str, options: Mapping[str, Any] | None, grid: str, nfe: int) -> float:
    """Mean distance to the exact flow with ``nfe`` evaluations."""
    x_1, exact = mixture_target()
    den = mixture().denoiser(Process(VPSDE()))
    steps = nfe // STAGES.get(solver, 1)
    x, info = sample(den, x_1, solver=solver, solver_options=options, steps=steps, grid=grid, save="none")
    assert info.nfe == nfe
    return float((x - exact).norm(dim=1).mean())
