"""Likelihoods of Gaussian trajectories, whose exact denoiser, density and bound are known."""

import math

import pytest
import torch
from torch import nn

from scidiff.denoiser import Denoiser
from scidiff.schedules import VPSDE, DiscreteVP
from trajectories.generator import TrajectoryGenerator
from trajectories.likelihood import log_prob_bound
from trajectories.process import trajectory_process

F64 = torch.float64
LEVELS = 40
TABLE = DiscreteVP.linear(1e-3, 0.3, LEVELS)


class Exact(nn.Module):
    """Noise in x_t = x_r + alpha (x_0 - x_r) + sigma eps for x_0 - x_r of independent N(0, std^2) numbers."""

    def __init__(self, schedule, std, endpoint=0.0):
        super().__init__()
        self.schedule, self.endpoint = schedule, endpoint
        self.std = nn.Parameter(torch.tensor(std, dtype=F64))

    def forward(self, x_t, t, cond):
        alpha, sigma = (getattr(self.schedule, name)(t)[:, None, None, None] for name in ("alpha", "sigma"))
        y = x_t - self.endpoint  # alpha (x_0 - x_r) + sigma eps
        return sigma * y / (alpha**2 * self.std**2 + sigma**2)


def denoiser(schedule, std, endpoint=0.0):
    return Denoiser(Exact(schedule, std, endpoint), trajectory_process(schedule), prediction="eps")


def exact_bound(schedule, std, levels, variance):
    """E over the data of the bound a dimension: entropy + KL of each reverse transition of the exact chain."""
    t = torch.arange(1, levels + 1, dtype=F64) / levels
    alpha = schedule.alpha(t)
    before = torch.cat([torch.ones(1, dtype=F64), alpha[:-1]])
    sigma2 = 1 - alpha**2
    beta = 1 - (alpha / before) ** 2
    total = alpha**2 * std**2 + sigma2
    earlier = before**2 * std**2 + 1 - before**2
    true = earlier - (alpha / before) ** 2 * earlier**2 / total  # variance of x_{k-1} given x_k, both Gaussian
    posterior = beta * (1 - before**2) / sigma2
    model = beta.clone() if variance == "large" else posterior.clone()
    model[0] = posterior[1]
    transitions = 0.5 * (true / model - 1 + (model / true).log())
    end = 0.5 * (total[-1] - 1 - total[-1].log())
    entropy = 0.5 * math.log(2 * math.pi * math.e * std**2)
    return -float(entropy + end + transitions.sum())


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("std", [1.0, 0.6])
def test_bound_of_gaussian_data(std, variance):
    """One number a system, with an endpoint of 0.7; the mean over systems is known in closed form."""
    schedule = TABLE
    count = 5000
    x_0 = 0.7 + std * torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    cond = {"live": torch.ones(count, 1, 1, dtype=torch.bool)}
    end = torch.full_like(x_0, 0.7)
    options = {"cond": cond, "x_1": end, "num_levels": LEVELS, "variance": variance}
    found = log_prob_bound(denoiser(schedule, std, 0.7), x_0, **options)
    wanted = exact_bound(schedule, std, LEVELS, variance)
    assert float(found.mean()) == pytest.approx(wanted, abs=4 * float(found.std()) / count**0.5)
    assert wanted < -0.5 * math.log(2 * math.pi * math.e * std**2)
    some = log_prob_bound(denoiser(schedule, std, 0.7), x_0, **options, num_terms=LEVELS - 1)
    assert torch.equal(some, found)


def test_bound_closes_with_levels():
    """The gap to the entropy falls with K (that of the decoder stays); a part of the terms has the same mean."""
    schedule, std = VPSDE(), 0.6
    gaps = [-0.5 * math.log(2 * math.pi * math.e * std**2) - exact_bound(schedule, std, k, "small") for k in (200, 800)]
    assert 0 < gaps[1] < gaps[0]
    x_0 = std * torch.randn(400, 2, 3, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    cond = {"live": torch.ones(400, 2, 3, dtype=torch.bool)}
    draws = [
        log_prob_bound(denoiser(schedule, std), x_0, cond=cond, num_levels=200, num_terms=10, seed=seed).mean()
        for seed in range(30)
    ]
    draws = torch.stack(draws)
    wanted = 6 * exact_bound(schedule, std, 200, "large")
    data = 6**0.5 * std / 400**0.5  # more than the spread of the 400 log densities' mean
    assert float(draws.mean()) == pytest.approx(wanted, abs=4 * float(draws.std()) / 30**0.5 + 4 * data)


def test_density_without_known_frames():
    """(F N - 1) D dimensions about the centre, for the bound and the flow alike; the scale moves the density."""
    schedule, std, scale = TABLE, 1.0, 2.0
    shape, count = (3, 2, 2), 4000
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    frames = scale * (x - x.mean((1, 2), keepdim=True)) + 5.0
    generator = TrajectoryGenerator(denoiser(schedule, std), prior="normal", scale=scale)
    bound = generator.log_prob(frames, method="bound", num_levels=LEVELS, batch_size=3000)
    dims = (3 * 2 - 1) * 2
    wanted = dims * (exact_bound(schedule, std, LEVELS, "large") - math.log(scale))
    assert float(bound.mean()) == pytest.approx(wanted, abs=4 * float(bound.std()) / count**0.5)
    flow = TrajectoryGenerator(denoiser(VPSDE(), std), prior="normal", scale=scale).log_prob(frames[:3])
    y = (frames[:3] - 5.0) / scale
    exact = -0.5 * (y**2).sum((1, 2, 3)) - dims * (0.5 * math.log(2 * math.pi) + math.log(scale))
    assert flow == pytest.approx(exact, abs=1e-3)


def test_density_of_a_forecast():
    """Last frame as mean: the new frames are independent normal numbers about it."""
    std = 0.5
    last = 0.25  # about the centre of the given frames
    frames = torch.tensor([0.0, 0.5, 0.9, 0.1], dtype=F64).reshape(1, 4, 1, 1)
    generator = TrajectoryGenerator(denoiser(VPSDE(), std, last), prior="last")
    y = frames[0, 2:, 0, 0] - 0.5
    t = torch.tensor(VPSDE().t_min, dtype=F64)
    variance = float(VPSDE().alpha(t) ** 2 * std**2 + VPSDE().sigma(t) ** 2)
    exact = float((-0.5 * y**2 / variance - 0.5 * math.log(2 * math.pi * variance)).sum())  # of the state at t_min
    assert float(generator.log_prob(frames, [0, 1], rtol=1e-7)) == pytest.approx(exact, abs=2e-3)
    with pytest.raises(ValueError, match="everything is known"):
        generator.log_prob(frames, slice(None))
    with pytest.raises(ValueError, match="'ode' or 'bound'"):
        generator.log_prob(frames, method="exact")
