"""Random bases: their exact Gaussian laws given the known frames, symmetry, and a flow that starts from them."""

import pytest
import torch
from torch import nn

from scidiff.denoiser import Denoiser
from scidiff.interpolants import Interpolant
from scidiff.testing import random_rotation
from trajectories.bases import BridgeBase, LastFrameBase, WalkBase
from trajectories.diffusion import TrajectoryDiffusion, arranged
from trajectories.generator import TrajectoryGenerator
from trajectories.networks.egtn import EGTN
from trajectories.process import trajectory_process
from trajectories.tasks import TaskMix

F64 = torch.float64


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def law(base, pos, given):
    """Mean and covariance over frames (F,), (F, F) of the first axis of node 0: the noise is linear in eps."""
    frames = pos.shape[1]
    zero = torch.zeros_like(pos)
    mean = base.draw(pos, given, {}, zero)[0, :, 0, 0]
    columns = []
    for f in range(frames):
        eps = zero.clone()
        eps[0, f, 0, 0] = 1.0
        columns.append(base.draw(pos, given, {}, eps)[0, :, 0, 0] - mean)
    factor = torch.stack(columns, 1)
    return mean, factor @ factor.T


def test_walk(random):
    """Mean x_c + k v, covariance s^2 sigma_v^2 min(k, l) of the frames k, l after the last given one."""
    pos = torch.randn(1, 7, 2, 3, generator=random, dtype=F64).cumsum(1)
    given = torch.zeros(1, 7, 2, dtype=torch.bool)
    given[:, :4] = True
    mean, cov = law(WalkBase(2.0), pos, given)
    steps = pos[0, :4, 0].diff(dim=0)
    v = steps.mean(0)
    sigma2 = (steps - v).square().mean()
    k = torch.arange(1, 4, dtype=F64)
    assert mean[4:] == pytest.approx(pos[0, 3, 0, 0] + k * v[0])
    assert cov[4:, 4:] == pytest.approx(4.0 * sigma2 * torch.minimum(k[:, None], k))
    assert not cov[:4].any()


def test_bridge(random):
    """Covariance s^2 sigma^2 (f - a)(b - g)/(b - a) for f <= g between given a and b; a walk after the last."""
    pos = torch.randn(1, 8, 2, 3, generator=random, dtype=F64)
    given = torch.zeros(1, 8, 2, dtype=torch.bool)
    given[:, [0, 1, 5]] = True
    mean, cov = law(BridgeBase(0.5), pos, given)
    sigma2 = sum(((pos[0, b] - pos[0, a]).square().mean(-1) / (b - a)).sum() for a, b in ((0, 1), (1, 5))) / 4
    f = torch.arange(1, 4, dtype=F64)
    low, high = torch.minimum(f[:, None], f), torch.maximum(f[:, None], f)
    assert cov[2:5, 2:5] == pytest.approx(0.25 * sigma2 * low * (4 - high) / 4)
    assert mean[2:5] == pytest.approx(pos[0, 1, 0, 0] + f / 4 * (pos[0, 5, 0, 0] - pos[0, 1, 0, 0]))
    k = torch.arange(1, 3, dtype=F64)
    assert cov[6:, 6:] == pytest.approx(0.25 * sigma2 * torch.minimum(k[:, None], k))
    assert cov[6:, 2:5] == pytest.approx(torch.zeros(2, 3, dtype=F64), abs=1e-12)


def test_last_frame(random):
    pos = torch.randn(1, 4, 1, 2, generator=random, dtype=F64)
    given = torch.tensor([True, True, False, False])[None, :, None]
    mean, cov = law(LastFrameBase(0.3), pos, given)
    assert mean[2:].tolist() == [float(pos[0, 1, 0, 0])] * 2
    assert cov[2:, 2:] == pytest.approx(0.09 * torch.eye(2, dtype=F64))


@pytest.mark.parametrize("base", [WalkBase(), BridgeBase(), LastFrameBase()], ids=lambda b: type(b).__name__)
def test_symmetry(base, random):
    """Turned and shifted frames with turned noise give the turned and shifted base."""
    pos, eps = (torch.randn(2, 6, 3, 3, generator=random, dtype=F64) for _ in range(2))
    given = torch.rand(2, 6, 3, generator=random) < 0.5
    given[:, 2] = True
    turn = random_rotation(random, F64, reflect=True)
    plain = base.draw(pos, given, {}, eps)
    turned = base.draw(pos @ turn.T + 3.0, given, {}, eps @ turn.T)
    assert turned == pytest.approx(plain @ turn.T + 3.0, abs=1e-9)
    with pytest.raises(ValueError, match="scale must be positive"):
        type(base)(0.0)


class ExactFlow(nn.Module):
    """E[x_1 - x_0 | x_t] for x_0 ~ N(c + 0.7, 0.3^2) and x_1 ~ N(c, 0.5^2) about the last given position c."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x_t, t, cond):
        t = t[:, None, None, None]
        slope = (0.25 * t - 0.09 * (1 - t)) / (0.09 * (1 - t) ** 2 + 0.25 * t**2)
        return -0.7 + slope * (x_t - x_t[:, 1:2] - 0.7 * (1 - t))


def test_flow_from_a_base():
    """The exact velocity carries the base to the data; given frames stay."""
    process = trajectory_process(Interpolant("linear", gamma="zero"))
    model = TrajectoryGenerator(Denoiser(ExactFlow(), process, prediction="velocity"), prior=LastFrameBase(0.5))
    count = 4000
    observed = torch.tensor([1.0, 2.0], dtype=F64).reshape(1, 2, 1, 1).expand(count, -1, -1, -1)
    out = model.forecast(observed, 2, steps=30, batch_size=count)
    assert torch.equal(out.pos[:, :, :2], observed.transpose(1, 2))
    new = out.pos[:, 0, 2:, 0]
    assert new.mean(0) == pytest.approx(torch.full((2,), 2.7, dtype=F64), abs=4 * 0.3 / count**0.5 + 2e-3)
    assert new.std(0) == pytest.approx(torch.full((2,), 0.3, dtype=F64), rel=4 / (2 * count) ** 0.5 + 5e-3)
    assert float(new.T.cov()[0, 1]) == pytest.approx(0.0, abs=4 * 0.09 / count**0.5)
    with pytest.raises(ValueError, match="neither refinement"):
        model.refine(observed[:2], 0.3, [0])


def test_training_towards_the_base(random):
    """The loss is that of x_1 - x_0 at x_t = (1 - t) x_0 + t x_1, by the definition."""
    options = {"schedule": Interpolant("linear", gamma="zero"), "prior": WalkBase(), "prediction": "velocity"}
    model = TrajectoryDiffusion(EGTN(0, hidden=8, num_layers=1), tasks=TaskMix(cond_frames=3), **options)
    batch = {"pos": torch.randn(4, 2, 6, 3, generator=random).cumsum(2)}
    loss = model.training_loss(batch, torch.Generator().manual_seed(1)).loss
    own = torch.Generator().manual_seed(1)
    given = model.tasks.draw(4, 6, own)[..., None].expand(4, 6, 2)
    system = arranged(batch["pos"], given, batch)
    schedule = model.denoiser.process.continuous[""].schedule
    t = model.time_law.sample(4, schedule, generator=own)
    x_1 = WalkBase().draw(system.x_0, given, {}, torch.randn(system.x_0.shape, generator=own))
    time = t[:, None, None, None]
    x_t = torch.where(given[..., None], system.x_0, (1 - time) * system.x_0 + time * x_1)
    error = (model.denoiser.network(x_t, t, system.cond) - (x_1 - system.x_0)).square()[:, 3:]
    assert loss.detach() == pytest.approx(error.mean((1, 2, 3)).detach(), rel=1e-4)
    with pytest.raises(ValueError, match="prediction='velocity'"):
        TrajectoryDiffusion(EGTN(0, hidden=8, num_layers=1), prior=WalkBase())
