"""Ways to use one model: conditions of a system, a noisy history, refinement around what is known, PFGM++."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from scidiff.denoiser import Denoiser
from scidiff.guidance import MomentMatching, Observation
from scidiff.noise import NoiseSource
from scidiff.schedules import VPSDE
from scidiff.student import StudentTNoise
from trajectories.batch import TrajectoryBatch
from trajectories.conditions import condition_values, with_dropout
from trajectories.diffusion import TrajectoryDiffusion, arranged
from trajectories.generator import TrajectoryGenerator
from trajectories.informed import InformedWalk
from trajectories.networks.egtn import EGTN
from trajectories.process import trajectory_process, whitened_process
from trajectories.tasks import TaskMix, noised_history

F64 = torch.float64


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def generator():
    """An untrained model that knows the temperature."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EGTN(0, hidden=8, num_layers=1, conditions={"temperature": [400.0, 100.0]})
    return TrajectoryGenerator(Denoiser(network, trajectory_process(), prediction="eps"), prior="last")


@pytest.fixture
def frames(random):
    return torch.randn(2, 6, 3, 3, generator=random).cumsum(1)


def test_conditions(generator, frames):
    """The temperature matters; scale 0 is the model without it; names and counts are checked."""
    options = {"num_frames": 2, "steps": 2}
    plain = generator.forecast(frames, **options)
    hot, cold = (generator.forecast(frames, condition={"temperature": t}, **options) for t in (600.0, 200.0))
    assert not torch.equal(hot.pos, cold.pos)
    each = generator.forecast(frames, condition={"temperature": [600.0, 200.0]}, num_samples=2, **options)
    assert each.pos.shape == (4, 3, 8, 3)
    assert each.pos[0] == pytest.approx(hot.pos[0], rel=1e-3, abs=1e-3)
    without = generator.forecast(frames, condition={"temperature": 600.0}, guidance_scale=0.0, **options)
    assert without.pos == pytest.approx(plain.pos, abs=1e-5)
    assert condition_values(generator.denoiser.network, {"temperature": 300}, 2).tolist() == [[300.0], [300.0]]
    for condition, message in (({"temprature": 1}, "did you mean"), ({"temperature": [1, 2, 3]}, "one for each of 2")):
        with pytest.raises(ValueError, match=message):
            generator.forecast(frames, condition=condition, **options)


@pytest.mark.parametrize("prior", ["last", "informed"])
def test_guidance_by_positions(prior):
    """Independent normal futures, and the last position seen with noise: the law given both is known."""

    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros((), dtype=F64))

        def forward(self, x, t, cond):
            """E[eps | x_t] of new frames of unit variance about 0, or about the third frame, which is the mean."""
            sigma = VPSDE().sigma(t)[:, None, None, None]
            return torch.where(cond["given"][..., None], 0, sigma * (x if prior == "informed" else x - x[:, 2:3]))

    count, scale, seen, noise = 3000, 2.0, torch.tensor([4.0, -1.0], dtype=F64), 1.5
    process = whitened_process() if prior == "informed" else trajectory_process()
    denoiser = Denoiser(Unit(), process, prediction="eps")
    generator = TrajectoryGenerator(denoiser, InformedWalk() if prior == "informed" else prior, scale)

    def observed(positions):
        def linear(x):
            return positions(x)[:, 0, -1] - positions(torch.zeros_like(x))[:, 0, -1]

        return MomentMatching(Observation(linear, y=seen - 0.5, noise_std=noise), floor=0.0)

    frames = torch.full((count, 3, 1, 2), 0.5, dtype=F64)
    out = generator.forecast(frames, 2, guidance=observed, steps=40, batch_size=count).pos[:, 0, 3:]
    share = scale**2 / (scale**2 + noise**2)
    wanted = torch.stack([torch.full((2,), 0.5, dtype=F64), 0.5 + share * (seen - 0.5)])
    spread = torch.tensor([scale**2, (1 - share) * scale**2], dtype=F64)
    assert ((out.mean(0) - wanted).abs() < 4 * (spread[:, None] / count) ** 0.5 + 0.02).all()
    assert out.var(0).mean(-1) == pytest.approx(spread, rel=4 * (1 / count) ** 0.5 + 0.03)


def test_dropout_of_conditions(random):
    cond = {"condition": torch.full((4000, 1), 300.0)}
    dropped = with_dropout(cond, 0.1, random)["condition"].isnan().float().mean()
    assert float(dropped) == pytest.approx(0.1, abs=4 * (0.09 / 4000) ** 0.5)


def test_history(generator, frames, random):
    """Given entries at a level follow the process of the model, others stay; a forecast returns the clean ones."""
    process = generator.denoiser.process
    given = torch.zeros(2, 6, 3, dtype=torch.bool)
    given[:, :4] = True
    system = arranged(frames.transpose(1, 2), given, {})
    x_1 = generator.prior(system.x_0, given, system.cond)
    eps, level = torch.randn(system.x_0.shape, generator=random), torch.tensor([0.2, 0.0])
    x, cond = noised_history(process, system.x_0, x_1, system.cond, level, eps)
    alpha, sigma = (float(getattr(VPSDE(), name)(torch.tensor(0.2, dtype=F64))) for name in ("alpha", "sigma"))
    wanted = x_1 + alpha * (system.x_0 - x_1) + sigma * eps
    assert x[0, :4] == pytest.approx(wanted[0, :4], abs=1e-6)
    assert torch.equal(x[0, 4:], system.x_0[0, 4:])
    assert torch.equal(x[1], system.x_0[1])
    assert cond["history"] is level
    clean, noisy = (generator.forecast(frames, 2, steps=2, history_level=h) for h in (0.0, 0.2))
    assert torch.equal(noisy.pos[:, :, :6], frames.transpose(1, 2))
    assert not torch.equal(noisy.pos[:, :, 6:], clean.pos[:, :, 6:])
    long = generator.rollout(frames, 5, window=6, keep=3, steps=2, history_level=0.1)
    assert torch.equal(long.pos[:, :, :6], frames.transpose(1, 2))


def test_training_with_history(random):
    """Half of the systems see a noisy history, at levels up to the largest; the model is told."""
    mix = TaskMix(cond_frames=2, history=0.3)
    seen = {}

    class Spy(EGTN):
        def forward(self, x_t, t, cond):
            seen.update(cond, x=x_t)
            return super().forward(x_t, t, cond)

    model = TrajectoryDiffusion(Spy(0, hidden=8, num_layers=1), tasks=mix, prior="last")
    pos = torch.randn(400, 2, 4, 2, generator=random)
    model.training_loss({"pos": pos}, torch.Generator().manual_seed(0))
    level = seen["history"]
    assert float((level > 0).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert 0.25 < float(level.max()) <= 0.3
    system = arranged(pos, seen["given"], {})
    moved = (seen["x"] - system.x_0)[:, :2].abs().amax((1, 2, 3))
    assert torch.equal(moved > 0, level > 0)


def test_refinement_around_what_is_known(generator, frames):
    known = [0, 5]
    fine = generator.refine(frames, 1e-3 + 1e-6, known, steps=1)
    assert torch.equal(fine.pos[:, :, known], frames.transpose(1, 2)[:, :, known])
    assert fine.pos == pytest.approx(frames.transpose(1, 2), abs=0.1)
    assert float((fine.pos - frames.transpose(1, 2)).abs().max()) > 0
    with pytest.raises(ValueError, match="nothing is left to refine"):
        generator.refine(frames, 0.3, slice(None))


class Posterior(nn.Module):
    """E[x_0 | x_t] of a few trajectories under Student-t noise with D degrees of freedom in n dimensions."""

    def __init__(self, points, D):
        super().__init__()
        self.points, self.D = nn.Parameter(points), D
        self.dims = (points[0, ..., 0].numel() - 1) * points.shape[-1]

    def forward(self, x_t, t, cond):
        alpha, sigma = (getattr(VPSDE(), name)(t)[:, None] for name in ("alpha", "sigma"))
        distance = (x_t[:, None] - alpha[..., None, None, None] * self.points).flatten(2).square().sum(-1)
        weight = torch.softmax(-(self.dims + self.D) / 2 * torch.log1p(distance / (self.D * sigma**2)), 1)
        return torch.einsum("bk,k...->b...", weight, self.points)


def test_pfgm_without_motion_of_the_centre(random):
    """Noise of (F N - 1) D dimensions with one chi-square; the flow of the exact field ends on the data, evenly."""
    shape, D, count = (3, 2, 2), 6.0, 2000
    process = trajectory_process(law=StudentTNoise(D))
    cond = {"live": torch.ones(count, 3, 2, dtype=torch.bool), "centred": torch.ones(count, dtype=torch.bool)}
    eps = process.noise({"": torch.zeros(count, *shape, dtype=F64)}, NoiseSource(0, count), cond)[""]
    assert float(eps.sum((1, 2)).abs().max()) < 1e-10
    dims = (3 * 2 - 1) * 2
    ratio = eps.square().sum((1, 2, 3)) / dims
    assert stats.kstest(ratio.numpy(), stats.f(dims, D).cdf).pvalue > 1e-3
    points = torch.randn(4, *shape, generator=random, dtype=F64)
    points = 0.5 * (points - points.mean((1, 2), keepdim=True))
    model = TrajectoryGenerator(Denoiser(Posterior(points, D), process, prediction="x0"), prior="normal")
    like = TrajectoryBatch(points.transpose(1, 2))
    out = model.sample(count, num_frames=3, like=like, steps=40, batch_size=count).pos.transpose(1, 2)
    distance = (out[:, None] - points).flatten(2).norm(dim=-1)
    assert float(distance.min(1).values.quantile(0.95)) < 0.05
    share = torch.bincount(distance.argmin(1), minlength=4) / count
    assert share == pytest.approx(torch.full((4,), 0.25), abs=4 * (0.25 * 0.75 / count) ** 0.5 + 0.01)
    with pytest.raises(ValueError, match="needs a score"):
        model.sample(2, num_frames=3, like=like, steps=4, solver="ancestral")


def test_training_of_pfgm(random):
    model = TrajectoryDiffusion(
        EGTN(0, hidden=8, num_layers=1), tasks=TaskMix({"unconditional": 1.0}), law=StudentTNoise(8.0)
    )
    loss = model.training_loss(
        {"pos": torch.randn(3, 2, 4, 3, generator=random)}, torch.Generator().manual_seed(0)
    ).loss
    assert math.isfinite(float(loss.detach().mean()))
    again = TrajectoryDiffusion.from_config(model.to_config())
    assert again.denoiser.process.continuous[""].law.D == 8.0


def test_solver_options_belong_to_the_solver(generator, frames, tmp_path):
    """What a generator is packaged with is its default, saved with it; another solver does not get its options."""
    own = {"s_churn": 2.0, "s_noise": 1.1}
    config = {"prior": "last", "solver": "edm_heun", "steps": 3}
    churned = TrajectoryGenerator(generator.denoiser, solver_options=own, **config)
    loaded = TrajectoryGenerator.from_pretrained(churned.save(tmp_path / "m.safetensors"))
    wanted = generator.forecast(frames, 2, steps=3, solver="edm_heun", solver_options=own, seed=1).pos
    assert torch.equal(churned.forecast(frames, 2, seed=1).pos, wanted)
    assert torch.equal(loaded.forecast(frames, 2, seed=1).pos, wanted)
    plain = generator.forecast(frames, 2, steps=3, seed=1).pos
    assert torch.equal(churned.forecast(frames, 2, solver="dpmpp_2m", seed=1).pos, plain)
    assert not torch.equal(wanted, plain)
    with pytest.raises(ValueError, match="s_churm"):
        TrajectoryGenerator(generator.denoiser, solver_options={"s_churm": 2.0}, **config)
