"""The process against the core's, the loss against its definition, the gauge, tasks on exact Gaussian trajectories."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from scidiff.denoiser import Denoiser
from scidiff.endpoints import MeanReverting
from scidiff.oracles import GaussianOracle
from scidiff.process import Process
from scidiff.samplers import sample
from scidiff.schedules import EDM, VPSDE
from scidiff.testing import random_rotation
from trajectories.batch import TrajectoryBatch
from trajectories.data.particles import NBodyDataModule
from trajectories.diffusion import TrajectoryDiffusion, arranged
from trajectories.generator import TrajectoryGenerator
from trajectories.networks.egtn import EGTN
from trajectories.process import MovingMean, TrajectorySpace, published_schedule, trajectory_process
from trajectories.tasks import TaskMix

F64 = torch.float64


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def module(**options):
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    made = TrajectoryDiffusion(EGTN(1, edge_channels=1, hidden=8, num_layers=1), **options)
    torch.random.set_rng_state(state)
    return made


def batch_of(generator, b=3, n=4, f=7, dtype=torch.float32):
    pair = torch.randn(b, n, n, 1, generator=generator, dtype=dtype)
    pos, h = (torch.randn(*s, generator=generator, dtype=dtype) for s in ((b, n, f, 3), (b, n, 1)))
    return {"pos": pos + 5, "h": h, "edge_attr": pair}


def test_schedule_is_mean_reversion_with_unit_noise():
    """VPSDE around x_1 equals mean reversion with theta = beta / 2; its rates rise by the same factor 200."""
    t = torch.linspace(0.01, 1, 50, dtype=F64)
    ours, theirs = MovingMean(VPSDE(0.1, 20.0)), MeanReverting(1.0, "linear", eps=math.exp(-5.025))
    for name in (
        "alpha",
        "sigma",
        "endpoint",
        "alpha_dot",
        "endpoint_dot",
        "drift_coefficient",
        "diffusion",
        "log_snr",
    ):
        assert getattr(ours, name)(t) == pytest.approx(getattr(theirs, name)(t), rel=1e-6, abs=1e-9), name
    assert ours.time(ours.log_snr(t) / 2) == pytest.approx(t, abs=1e-9)
    ends = [float(published_schedule(k).alpha(torch.ones((), dtype=F64))) ** 2 for k in (1000, 100)]
    assert ends == pytest.approx([4.04e-5, 2.04e-5], rel=2e-3)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ancestral", "ddim"])
def test_shifted_state_is_the_core_process(solver, generator):
    """With the same noise y = x - x_r follows the plain process, for solvers that are exact in what is known."""
    x_1 = torch.randn(2, 5, 3, 2, generator=generator, dtype=F64)
    scale = nn.Parameter(torch.tensor(0.7, dtype=F64))

    class Seen(nn.Module):
        def __init__(self, shift):
            super().__init__()
            self.shift, self.scale = shift, scale

        def forward(self, x, t, cond):
            beta = MovingMean().endpoint(t)[:, None, None, None]
            return self.scale * torch.sin(x - beta * x_1 if self.shift else x)

    plain = Denoiser(Seen(False), Process(VPSDE()), prediction="eps")
    moved = Denoiser(Seen(True), trajectory_process(), prediction="eps")
    ends = [float(MovingMean().endpoint(torch.tensor(t, dtype=F64))) for t in (1.0, VPSDE().t_min)]
    start = torch.randn(x_1.shape, generator=generator, dtype=F64)
    y, info = sample(plain, start, solver=solver, steps=6, save="none")
    x = sample(moved, start + ends[0] * x_1, solver=solver, steps=6, x_1=x_1, noise=info.noise)
    assert float((x - ends[1] * x_1 - y).abs().max()) < 1e-9 * float(y.abs().max())


def test_schedules_that_have_no_mean():
    with pytest.raises(TypeError, match="variance-preserving schedule or one with an endpoint"):
        trajectory_process(EDM())


def test_space(generator):
    """Zero mean for systems without given entries only; dimensions (F N - 1) D and the number of live numbers."""
    x = torch.randn(3, 4, 2, 3, generator=generator)
    live = torch.ones(3, 4, 2, dtype=torch.bool)
    live[1, :2] = False
    live[2, :, 1] = False
    cond = {"live": live, "centred": torch.tensor([True, False, True])}
    space = TrajectorySpace()
    out = space.project(x, cond)
    assert out[0] == pytest.approx(x[0] - x[0].mean((0, 1)), abs=1e-6)
    assert torch.equal(out[1, 2:], x[1, 2:])
    assert (out[1, :2] == 0).all()
    assert (out[2, :, 1] == 0).all()
    assert out[2].sum((0, 1)) == pytest.approx(torch.zeros(3), abs=1e-5)
    assert space.dims(x, cond).tolist() == [21, 12, 9]
    assert space.project(out, cond) == pytest.approx(out, abs=1e-6)


def test_gauge(generator):
    """The origin is the mean of what is given; of everything real where nothing is."""
    batch = batch_of(generator, b=2)
    mask = torch.tensor([[True] * 3 + [False]] * 2)
    given = torch.zeros(2, 7, 4, dtype=torch.bool)
    given[0, :2] = True
    system = arranged(batch["pos"], given, {**batch, "node_mask": mask}, scale=2.0)
    pos = batch["pos"].transpose(1, 2)[:, :, :3] / 2
    assert system.origin[0, 0, 0] == pytest.approx(pos[0, :2].mean((0, 1)))
    assert system.origin[1, 0, 0] == pytest.approx(pos[1].mean((0, 1)))
    assert system.x_0[:, :, :3] == pytest.approx(pos - system.origin, abs=1e-5)
    assert (system.x_0[:, :, 3] == 0).all()
    assert system.cond["centred"].tolist() == [False, True]
    assert not system.cond["live"][:, :, 3].any()
    assert system.cond["live"][0, :, 0].tolist() == [False] * 2 + [True] * 5


@pytest.mark.parametrize("prior", ["walk", "learned"])
def test_loss_by_definition(prior, generator):
    """Mean square error of the noise over what is not given, over target nodes if the batch names them."""
    model = module(prior=prior, tasks=TaskMix(cond_frames=3))
    batch = batch_of(generator)
    result = model.training_loss(batch, torch.Generator().manual_seed(1))
    own = torch.Generator().manual_seed(1)
    given = model.tasks.draw(3, 7, own)[..., None].expand(3, 7, 4)
    system = arranged(batch["pos"], given, batch)
    t = model.time_law.sample(3, VPSDE(), generator=own)
    x_1 = model.prior(system.x_0, given, system.cond)
    eps = torch.randn(3, 7, 4, 3, generator=own)
    alpha, sigma = (getattr(VPSDE(), name)(t.double()).float()[:, None, None, None] for name in ("alpha", "sigma"))
    x_t = torch.where(given[..., None], system.x_0, x_1 + alpha * (system.x_0 - x_1) + sigma * eps)
    error = (model.denoiser.network(x_t, t, system.cond) - eps).square()[:, 3:]
    assert result.loss.detach() == pytest.approx(error.mean((1, 2, 3)).detach(), rel=1e-4)
    target = torch.tensor([[True, False, False, False]] * 3)
    one = model.training_loss({**batch, "target_mask": target}, torch.Generator().manual_seed(1))
    assert one.loss.detach() == pytest.approx(error[:, :, 0].mean((1, 2)).detach(), rel=1e-4)
    result.loss.sum().backward()
    gradients = [parameter.grad for parameter in model.prior.parameters()]
    assert bool(gradients) == (prior == "learned")
    assert all(g is not None and g.abs().max() > 0 for g in gradients[:2])


def test_levels_of_frames(generator):
    """Own levels for systems with given entries, one for others; equal levels give the scalar model bit for bit."""
    mix = TaskMix({"unconditional": 1.0, "forecast": 1.0}, cond_frames=2, independent=1.0)
    model = module(tasks=mix)
    centred = torch.tensor([True, False, True, False])
    t = model._times(4, 7, centred, torch.Generator().manual_seed(0))
    assert [len(row.unique()) for row in t] == [1, 7, 1, 7]
    batch = batch_of(generator, b=2)
    given = torch.zeros(2, 7, 4, dtype=torch.bool)
    given[0, :2] = True
    system = arranged(batch["pos"], given, batch)
    x_1 = model.prior(system.x_0, given, system.cond)
    eps = torch.randn(2, 7, 4, 3, generator=generator)
    outputs = []
    for level in (torch.tensor([0.4, 0.7]), torch.tensor([[0.4] * 7, [0.7] * 7])):
        x_t, _ = model.denoiser.process.perturb(system.x_0, level, eps, x_1=x_1, cond=system.cond)
        outputs.append(model.denoiser(x_t, level, system.cond, x_1).x0)
    assert torch.equal(*outputs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two steps of training, saved and read again: not good, but whole."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    data = NBodyDataModule("charged", num_train=8, num_val=2, num_test=2, num_frames=8, batch_size=4)
    mix = TaskMix({"unconditional": 1.0, "forecast": 1.0, "interpolate": 1.0}, cond_frames=4, independent=0.2)
    model = TrajectoryDiffusion(EGTN(1, edge_channels=1, hidden=8, num_layers=1), tasks=mix, prior="bridge")
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    pl.Trainer(max_steps=2, enable_model_summary=False, **options).fit(model, data)
    path = tmp_path_factory.mktemp("models") / "m.safetensors"
    TrajectoryGenerator(model).save(path)
    torch.random.set_rng_state(state)
    test = data.part("test").tensors
    return TrajectoryGenerator.from_pretrained(path), TrajectoryBatch(test["pos"], test["h"], test["edge_attr"])


def test_given_frames_come_back(trained):
    """Bit for bit, for every task; what is new depends on nothing that is unknown, and not on the batch."""
    generator, runs = trained
    assert (generator.dt, generator.unit) == (pytest.approx(0.1), "arbitrary")
    future = generator.forecast(runs.frames[:, :5], 3, num_samples=2, h=runs.h, edge_attr=runs.edge_attr, steps=3)
    assert future.pos.shape == (4, 5, 8, 3)
    assert torch.equal(future.pos[:, :, :5], runs.pos[[0, 0, 1, 1], :, :5])
    assert future.meta["nfe"] == 4
    known = [0, 1, -1]
    filled = generator.interpolate(runs, known, steps=3)
    assert torch.equal(filled.pos[:, :, known], runs.pos[:, :, known])
    changed = runs.pos.clone()
    changed[:, :, 2:7] = 99.0
    again = generator.interpolate(TrajectoryBatch(changed, runs.h, runs.edge_attr), known, steps=3, batch_size=1)
    assert again.pos == pytest.approx(filled.pos, abs=1e-4)
    long = generator.rollout(runs, 7, window=8, keep=4, steps=2)
    assert torch.equal(long.pos[:, :, :8], runs.pos)
    assert long.pos.shape == (2, 5, 15, 3)
    assert long.meta["nfe"] == 6
    free = generator.sample(3, num_frames=6, like=runs, steps=3)
    assert free.pos.mean((1, 2)) == pytest.approx(torch.zeros(3, 3), abs=1e-5)
    fine = generator.refine(runs, 1e-3 + 1e-6, steps=1)
    assert fine.pos == pytest.approx(runs.pos, abs=0.1)


def test_equivariance_of_a_whole_forecast(trained):
    """Rotated, reflected and shifted frames with rotated noise give the rotated result."""
    generator, runs = trained
    den = generator.denoiser.double()
    turn = random_rotation(torch.Generator().manual_seed(3), reflect=True)
    given = torch.zeros(2, 8, 5, dtype=torch.bool)
    given[:, :4] = True
    results, noise = [], None
    for pos in (runs.pos.double(), runs.pos.double() @ turn.T + 3.0):
        system = arranged(pos, given, {"h": runs.h.double(), "edge_attr": runs.edge_attr.double()})
        x_1 = generator.prior(system.x_0, given, system.cond)
        if noise is None:
            eps = torch.randn(system.x_0.shape, generator=torch.Generator().manual_seed(4), dtype=F64)
        init = torch.where(given[..., None], system.x_0, x_1 + eps)
        options = {"steps": 4, "solver": "ancestral", "cond": system.cond, "x_1": x_1, "save": "none"}
        x, info = sample(den, init, noise=noise, **options)
        results.append(x + system.origin)
        noise, eps = [entry @ turn.T for entry in info.noise], eps @ turn.T
    generator.denoiser.float()
    assert results[1] == pytest.approx(results[0] @ turn.T + 3.0, abs=1e-9)


def test_requests_that_cannot_be_met(trained):
    generator, runs = trained
    for call, message in (
        (lambda: generator.sample(3), "like="),
        (lambda: generator.interpolate(runs, [9]), "known frames"),
        (lambda: generator.interpolate(runs, slice(None)), "some unknown"),
        (lambda: generator.rollout(runs, 5, window=4, keep=4), "keep < window"),
        (lambda: generator.refine(runs, 1.0), "level"),
        (lambda: generator.forecast(runs, 0), "num_frames"),
        (lambda: generator.forecast(runs.frames[0, 0], 2), "frames must have shape"),
        (lambda: generator.forecast(runs.frames, 2), "node features"),
        (lambda: TrajectoryBatch(torch.full((1, 1, 1, 3), math.nan)), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_batch_file(tmp_path, generator):
    batch = batch_of(generator)
    runs = TrajectoryBatch(batch["pos"], batch["h"], batch["edge_attr"], dt=0.1, unit="arbitrary", meta={"seed": 3})
    again = TrajectoryBatch.load(runs.save(tmp_path / "a.npz"))
    assert torch.equal(again.pos, runs.pos)
    assert torch.equal(again.edge_attr, runs.edge_attr)
    assert (again.dt, again.unit, again.meta, again.node_mask) == (0.1, "arbitrary", {"seed": 3}, None)


@pytest.mark.parametrize(
    ("prior", "schedule"),
    [("last", VPSDE()), ("walk", VPSDE()), ("last", MeanReverting(0.5, "linear", eps=0.002))],
    ids=str,
)
def test_forecast_of_gaussian_trajectories(prior, schedule, generator):
    """A Gaussian process in time: the exact denoiser of the future given the past is known, so the forecast is."""
    frames, seen, count = 6, 3, 4000
    time = torch.arange(frames, dtype=F64)
    cov = torch.exp(-0.5 * ((time[:, None] - time) / 2.5) ** 2) + 0.01 * torch.eye(frames, dtype=F64)
    past = torch.tensor([0.2, -0.3, 0.5], dtype=F64)
    gain = torch.linalg.solve(cov[:seen, :seen], cov[:seen, seen:]).T
    wanted_mean, wanted_cov = gain @ past, cov[seen:, seen:] - gain @ cov[:seen, seen:]

    class Exact(nn.Module):
        """E[eps | x_t] of the future, one node in one dimension, in the gauge of the model."""

        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(past.mean())

        def forward(self, x_t, t, cond):
            alpha, sigma = (getattr(schedule, name)(t)[:, None] for name in ("alpha", "sigma"))
            oracle = GaussianOracle(wanted_mean - self.shift, wanted_cov)
            y = x_t[:, seen:, 0, 0] - (1 - alpha) * x_1[:, seen:, 0, 0]
            out = torch.zeros_like(x_t)
            out[:, seen:, 0, 0] = -sigma * oracle.score(y, alpha[0, 0], sigma[0, 0])
            return out

    exact = TrajectoryGenerator(Denoiser(Exact(), trajectory_process(schedule), prediction="eps"), prior=prior)
    observed = past.reshape(1, seen, 1, 1).expand(count, -1, -1, -1)
    given = torch.arange(frames)[None, :, None].expand(1, -1, 1) < seen
    padded = torch.cat([past - past.mean(), torch.zeros(frames - seen, dtype=F64)]).reshape(1, frames, 1, 1)
    x_1 = exact.prior(padded, given, {})
    future = exact.forecast(observed, frames - seen, steps=40, batch_size=count).pos[:, 0, seen:, 0]
    error = wanted_cov.diagonal().sqrt() / count**0.5
    assert ((future.mean(0) - wanted_mean).abs() < 4 * error + 0.01).all()
    spread = torch.cov(future.T)
    assert (spread - wanted_cov).abs().max() < 4 * 2**0.5 * float(wanted_cov.max()) / count**0.5 + 0.01
