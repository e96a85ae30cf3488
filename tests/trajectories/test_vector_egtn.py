"""VectorEGTN: symmetry, padding, given entries; whitened models train, save and forecast; an exact forecast."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from scidiff.denoiser import Denoiser
from scidiff.oracles import GaussianOracle
from scidiff.schedules import EDM, VPSDE
from scidiff.testing import random_rotation
from trajectories.batch import TrajectoryBatch
from trajectories.data.particles import NBodyDataModule
from trajectories.diffusion import TrajectoryDiffusion, arranged
from trajectories.generator import TrajectoryGenerator
from trajectories.informed import InformedWalk
from trajectories.networks import VectorEGTN
from trajectories.process import whitened_process
from trajectories.tasks import TaskMix

F64 = torch.float64


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def network(**options):
    """Random weights throughout, the last ones included: at first these are 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = VectorEGTN(1, edge_channels=1, hidden=8, vector_channels=4, num_layers=2, num_heads=2, **options)
        for layer in net.layers:
            nn.init.normal_(layer.feed[2].weight, std=0.3)
            for name in ("lags", "near.weight"):
                if name in dict(layer.named_parameters()):
                    nn.init.normal_(layer.get_parameter(name), std=0.3)
    return net.double()


FREE = {"num_lags": 2, "num_near": 4}


def inputs(generator, b=2, f=6, n=4, d=3):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64)

    given = torch.zeros(b, f, n, dtype=torch.bool)
    given[:, :2] = True
    given[0, 4, 1] = True
    pair = draw(b, n, n, 1)
    cond = {"mean": draw(b, f, n, d), "spread": draw(b, f, n, 1).exp(), "pace": torch.tensor(0.3, dtype=F64)}
    cond |= {"given": given, "h": draw(b, n, 1), "edge_attr": pair + pair.transpose(1, 2)}
    y = torch.where(given[..., None], 0, draw(b, f, n, d))
    return y, torch.tensor([-0.4, 0.2][:b], dtype=F64), cond


@pytest.mark.parametrize(("d", "options"), [(2, {}), (3, {}), (3, FREE)], ids=["plane", "space", "free"])
@torch.no_grad()
def test_symmetry(d, options, generator):
    """E(D): the mean is turned and shifted, the state turned; the output turns. Given entries have none."""
    net = network(**options)
    y, t, cond = inputs(generator, d=d)
    out = net(y, t, cond)
    assert float(out.abs().max()) > 0.1
    assert (out[cond["given"]] == 0).all()
    for reflect in (False, True):
        turn = random_rotation(generator, F64, d, reflect=reflect)
        moved = net(y @ turn.T, t, {**cond, "mean": cond["mean"] @ turn.T + 3.0})
        assert moved == pytest.approx(out @ turn.T, abs=1e-9)


@torch.no_grad()
def test_free_numbers_start_without_effect(generator):
    """What is added has no effect as it is built; then each free number acts at its time difference and no other."""
    y, t, cond = inputs(generator)
    plain, free = network(), network(**FREE)
    free.load_state_dict(plain.state_dict(), strict=False)
    for layer in free.layers:
        layer.lags.zero_()
        layer.near.weight.zero_()
    assert torch.equal(free(y, t, cond), plain(y, t, cond))
    layer = free.layers[0]
    layer.lags[1, 3] = 0.5  # one frame before
    kernel = layer._free(6)[1]
    assert kernel == pytest.approx(0.5 * torch.diag(torch.ones(5, dtype=F64), -1))
    layer.lags.fill_(1.0)
    number = torch.arange(6)
    assert torch.equal(layer._free(6)[0] == 1, (number[:, None] - number).abs() <= 2)
    with pytest.raises(ValueError, match="num_near of 0 or at least 2"):
        VectorEGTN(num_near=1)


@torch.no_grad()
def test_order_of_nodes_and_padding(generator):
    """Nodes may be exchanged; nodes outside the mask change nothing; equal levels per frame are one level."""
    net = network()
    y, t, cond = inputs(generator)
    out = net(y, t, cond)
    order = torch.tensor([2, 0, 3, 1])
    nodes = {name: cond[name][:, :, order] for name in ("mean", "spread", "given")}
    pairs = {"h": cond["h"][:, order], "edge_attr": cond["edge_attr"][:, order][:, :, order]}
    assert net(y[:, :, order], t, {**cond, **nodes, **pairs}) == pytest.approx(out[:, :, order], abs=1e-9)
    mask = torch.tensor([[True, True, True, False]] * 2)
    short = {name: cond[name][:, :, :3] for name in ("mean", "spread", "given")}
    pairs = {"h": cond["h"][:, :3], "edge_attr": cond["edge_attr"][:, :3, :3]}
    padded = net(y, t, {**cond, "node_mask": mask})[:, :, :3]
    assert padded == pytest.approx(net(y[:, :, :3], t, {**cond, **short, **pairs}), abs=1e-9)
    assert net(y, t[:, None].expand(-1, 6), cond) == pytest.approx(out, abs=1e-12)


def test_alone_and_wrong(generator):
    """One node works; missing or wrong features are named."""
    net = network()
    y, t, cond = inputs(generator)
    one = {name: cond[name][:, :, :1] for name in ("mean", "spread", "given")}
    single = {**cond, **one, "h": cond["h"][:, :1], "edge_attr": cond["edge_attr"][:, :1, :1]}
    assert net(y[:, :, :1], t, single).shape == (2, 6, 1, 3)
    for name, message in (("mean", "InformedWalk"), ("h", "node features"), ("edge_attr", "pair features")):
        with pytest.raises(ValueError, match=message):
            net(y, t, {key: value for key, value in cond.items() if key != name})
    with pytest.raises(ValueError, match="multiples of num_heads"):
        VectorEGTN(hidden=10, num_heads=4)
    with pytest.raises(TypeError, match="variance-preserving"):
        whitened_process(EDM())


def test_conditions_of_a_system(generator):
    """Known ones matter, each system by its own; unknown ones are those that are not there."""
    net, (y, t, cond) = network(conditions={"temperature": [400.0, 100.0]}), inputs(generator)
    plain, both = net(y, t, cond), torch.tensor([[torch.nan], [500.0]])
    out = net(y, t, {**cond, "condition": both})
    assert torch.equal(out[0], plain[0])
    assert not torch.allclose(out[1], plain[1])
    with pytest.raises(ValueError, match="one column each for temperature"):
        net(y, t, {**cond, "condition": both.T})


def model(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = VectorEGTN(1, edge_channels=1, hidden=16, vector_channels=8, num_layers=1, num_heads=2)
        return TrajectoryDiffusion(net, prior=InformedWalk(), prediction="edm", **options)


def test_first_loss_is_that_of_no_knowledge(generator):
    """With F = 0, D = c_skip y_t and the loss is the mean of (sigma y - alpha eps)^2: its definition."""
    made = model(tasks=TaskMix(cond_frames=3))
    pos, h, pair = (torch.randn(*s, generator=generator) for s in ((5, 4, 7, 3), (5, 4, 1), (5, 4, 4, 1)))
    batch = {"pos": pos, "h": h, "edge_attr": pair}
    result = made.training_loss(batch, torch.Generator().manual_seed(1))
    own = torch.Generator().manual_seed(1)
    given = made.tasks.draw(5, 7, own)[..., None].expand(5, 7, 4)
    y, x_1, cond = arranged(pos, given, batch).state(made.prior)
    assert x_1 is None
    t = made.time_law.sample(5, VPSDE(), generator=own).double()
    eps = torch.randn(5, 7, 4, 3, generator=own)
    alpha, sigma = (getattr(VPSDE(), name)(t).float()[:, None, None, None] for name in ("alpha", "sigma"))
    wanted = (sigma * y - alpha * eps)[:, 3:].square().mean((1, 2, 3))
    assert result.loss.detach() == pytest.approx(wanted, rel=1e-4)
    assert cond["mean"][given] == pytest.approx(
        (pos.transpose(1, 2) - pos[:, :, :3].mean((1, 2))[:, None, None])[given]
    )


def test_training_and_requests(tmp_path):
    """The walk is fitted when training starts and travels with the checkpoint; given frames come back bit for bit."""
    data = NBodyDataModule("charged", num_train=16, num_val=2, num_test=2, num_frames=8, batch_size=8)
    mix = TaskMix({"unconditional": 1.0, "forecast": 2.0, "interpolate": 1.0}, cond_frames=4, independent=0.2)
    made = model(tasks=mix)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    pl.Trainer(max_steps=2, enable_model_summary=False, **options).fit(made, data)
    path = tmp_path / "m.safetensors"
    TrajectoryGenerator(made).save(path)
    generator = TrajectoryGenerator.from_pretrained(path)
    assert bool(generator.prior.is_fitted)
    assert torch.equal(generator.prior.weights, made.prior.weights)
    tensors = data.part("test").tensors
    runs = TrajectoryBatch(tensors["pos"], tensors["h"], tensors["edge_attr"])
    future = generator.forecast(runs, 4, num_samples=2, steps=3)
    assert torch.equal(future.pos[:, :, :8], runs.pos[[0, 0, 1, 1]])
    filled = generator.interpolate(runs, [0, 1, -1], steps=3)
    assert torch.equal(filled.pos[:, :, [0, 1, -1]], runs.pos[:, :, [0, 1, -1]])
    free = generator.sample(3, num_frames=6, like=runs, steps=3)
    assert free.pos.mean((1, 2)) == pytest.approx(torch.zeros(3, 3), abs=1e-5)
    assert generator.refine(runs, 1e-3 + 1e-6, steps=1).pos == pytest.approx(runs.pos, abs=0.1)


def test_forecast_of_gaussian_trajectories():
    """Whitening does not change what is drawn: mean and covariance of the exact forecast of a Gaussian process."""
    frames, seen, count = 6, 3, 4000
    time = torch.arange(frames, dtype=F64)
    cov = torch.exp(-0.5 * ((time[:, None] - time) / 2.5) ** 2) + 0.01 * torch.eye(frames, dtype=F64)
    past = torch.tensor([0.2, -0.3, 0.5], dtype=F64)
    gain = torch.linalg.solve(cov[:seen, :seen], cov[:seen, seen:]).T
    wanted_mean, wanted_cov = gain @ past, cov[seen:, seen:] - gain @ cov[:seen, seen:]
    paths = (
        torch.linalg.cholesky(cov) @ torch.randn(frames, 500, dtype=F64, generator=torch.Generator().manual_seed(1))
    ).T
    given = (torch.arange(frames) < seen)[None, :, None].expand(500, -1, 1)
    system = arranged(paths[:, None, :, None], given, {})
    walk = InformedWalk().fit([(system.x_0, given, ~given)]).double()

    class Exact(nn.Module):
        """E[y_0 | y_t] of one node in one dimension, y = (x - mean) / spread."""

        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(past.mean())

        def forward(self, y, t, cond):
            mean, spread = (cond[name][0, seen:, 0, 0] for name in ("mean", "spread"))
            alpha, sigma = (getattr(VPSDE(), name)(t)[0] for name in ("alpha", "sigma"))
            inner = wanted_cov / spread[:, None] / spread
            oracle = GaussianOracle((wanted_mean - self.shift - mean) / spread, inner)
            state = y[:, seen:, 0, 0]
            out = torch.zeros_like(y)
            out[:, seen:, 0, 0] = (state + sigma**2 * oracle.score(state, alpha, sigma)) / alpha
            return out

    exact = TrajectoryGenerator(Denoiser(Exact(), whitened_process(), prediction="x0"), prior=walk)
    observed = past.reshape(1, seen, 1, 1).expand(count, -1, -1, -1)
    future = exact.forecast(observed, frames - seen, steps=40, batch_size=count).pos[:, 0, seen:, 0]
    error = wanted_cov.diagonal().sqrt() / count**0.5
    assert ((future.mean(0) - wanted_mean).abs() < 4 * error + 0.01).all()
    spread = torch.cov(future.T)
    assert (spread - wanted_cov).abs().max() < 4 * 2**0.5 * float(wanted_cov.max()) / count**0.5 + 0.01
    paths = torch.cat([past.expand(3, -1), future[:3]], 1)[..., None, None]
    density = torch.distributions.MultivariateNormal(wanted_mean, wanted_cov).log_prob(future[:3])
    assert exact.log_prob(paths, [0, 1, 2], batch_size=1, rtol=1e-7) == pytest.approx(density, abs=0.02)
