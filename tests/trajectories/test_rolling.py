"""Rolling windows over Gaussian walks, whose exact denoisers at unequal levels are known."""

import pytest
import torch
from torch import nn

from scidiff.denoiser import Denoiser
from scidiff.interpolants import Interpolant
from scidiff.schedules import VPSDE
from scidiff.student import StudentTNoise
from trajectories.bases import WalkBase
from trajectories.generator import TrajectoryGenerator
from trajectories.informed import InformedWalk
from trajectories.networks.egtn import EGTN
from trajectories.networks.vector_egtn import VectorEGTN
from trajectories.process import trajectory_process, whitened_process
from trajectories.rolling import roll

F64 = torch.float64
STEP, WINDOW = 0.5, 4


class Exact(nn.Module):
    """E[eps | x_t] of a random walk with steps of size STEP after one clean frame, any level for each frame."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x_t, t, cond):
        t = t if t.ndim == 2 else t[:, None].expand(len(x_t), x_t.shape[1])
        k = torch.arange(1, WINDOW + 1, dtype=F64)
        cov = STEP**2 * torch.minimum(k[:, None], k)
        alpha, sigma = (getattr(VPSDE(), name)(t[:, 1:].double()) for name in ("alpha", "sigma"))
        y = x_t[:, 1:, 0, 0] - x_t[:, :1, 0, 0]  # about the clean frame, which is the moving mean
        joint = alpha[:, :, None] * cov * alpha[:, None] + torch.diag_embed(sigma**2)
        eps = sigma * torch.linalg.solve(joint, y[..., None])[..., 0]
        return torch.cat([torch.zeros_like(x_t[:, :1]), eps[..., None, None]], 1)


def test_random_walk():
    """Pass after pass the steps are independent and of the right size, although the window moved with the walk."""
    count, frames = 6000, 7
    generator = TrajectoryGenerator(Denoiser(Exact(), trajectory_process(), prediction="eps"), prior="last")
    observed = torch.full((count, 1, 1, 1), 3.0, dtype=F64)
    out = roll(generator, observed, frames, window=WINDOW, keep=1, steps_per_frame=12)
    assert out.pos.shape == (count, 1, 1 + frames, 1)
    assert torch.equal(out.pos[:, :, :1], observed.transpose(1, 2))
    steps = out.pos[:, 0, :, 0].diff(dim=1)
    cov = steps.T @ steps / count
    assert cov.diagonal() == pytest.approx(torch.full((frames,), STEP**2, dtype=F64), rel=4 * (2 / count) ** 0.5 + 0.03)
    off = cov - torch.diag(cov.diagonal())
    assert float(off.abs().max()) < STEP**2 * (4 / count**0.5 + 0.03)


FRICTION, SIZES = 0.7, torch.tensor([0.5, 0.25], dtype=F64)


class ExactWhitened(nn.Module):
    """E[eps | y_t] of x_{k+1} = x_k + 0.7 (x_k - x_{k-1}) + SIZE eps, whitened anyhow, any level for each entry."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, y, t, cond):
        t = t.reshape(t.shape + (1,) * (3 - t.ndim)).expand(y.shape[:3])
        mean, spread = cond["mean"][..., 0], cond["spread"][:, -WINDOW:, :, 0]
        response = ((1 - FRICTION ** torch.arange(1, WINDOW + 1, dtype=F64)) / (1 - FRICTION)).tolist()
        lower = torch.tensor([[response[i - j] if i >= j else 0.0 for j in range(WINDOW)] for i in range(WINDOW)])
        cov = (lower.double() @ lower.double().T) * SIZES[:, None, None] ** 2
        last, step = mean[:, -WINDOW - 1], mean[:, -WINDOW - 1] - mean[:, -WINDOW - 2]
        wanted = torch.stack([last + FRICTION * r * step for r in response], 1)
        alpha, sigma = (getattr(VPSDE(), name)(t[:, -WINDOW:]) for name in ("alpha", "sigma"))
        rest = (y[:, -WINDOW:, :, 0] - alpha / spread * (wanted - mean[:, -WINDOW:])).mT  # (B, N, W)
        a, sigma = (alpha / spread).mT, sigma.mT
        joint = a[..., None] * cov * a[..., None, :] + torch.diag_embed(sigma**2)
        eps = (sigma * torch.linalg.solve(joint, rest[..., None])[..., 0]).mT[..., None]
        return torch.cat([torch.zeros_like(y[:, :-WINDOW]), eps], 1)


def test_walk_about_an_informed_walk():
    """Means and spreads that are wrong, change as the window moves, and differ by node and sample change no law."""
    walk = InformedWalk(8)
    steps = torch.arange(9.0)
    walk.gains.copy_(torch.stack([0.8 * steps, 0.3 * steps], 1))
    walk.weights.copy_(steps[:, None, None] ** 2.5 * torch.tensor([0.05, 0.1, 0.05]))
    den = Denoiser(ExactWhitened(), whitened_process(), prediction="eps")
    count, frames = 2500, 5
    observed = torch.randn(count, 3, 2, 1, generator=torch.Generator().manual_seed(0), dtype=F64).cumsum(1) / 2
    generator = TrajectoryGenerator(den, prior=walk)
    out = roll(generator, observed, frames, window=WINDOW, keep=3, steps_per_frame=10)
    assert torch.equal(out.pos[:, :, :3], observed.transpose(1, 2))
    x = out.pos[..., 0]
    noise = (x[..., 3:] - x[..., 2:-1] - FRICTION * (x[..., 2:-1] - x[..., 1:-2])) / SIZES[:, None]
    noise = noise.flatten(1)
    cov = noise.T @ noise / count
    assert noise.mean(0) == pytest.approx(torch.zeros(2 * frames, dtype=F64), abs=4 / count**0.5 + 0.01)
    assert cov.diagonal() == pytest.approx(torch.ones(2 * frames, dtype=F64), rel=4 * (2 / count) ** 0.5 + 0.03)
    assert float((cov - torch.diag(cov.diagonal())).abs().max()) < 4 / count**0.5 + 0.03


NETWORKS = {
    "moving mean": (EGTN, trajectory_process, "eps", "walk"),
    "informed walk": (VectorEGTN, whitened_process, "edm", InformedWalk()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_window_keeps_what_is_given(name):
    """Observed frames come back, a seed says it all, and the number of evaluations is that of the passes."""
    make, process, prediction, prior = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make(0, hidden=8, num_layers=1)
    generator = TrajectoryGenerator(Denoiser(network, process(), prediction=prediction), prior=prior, steps=3)
    frames = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(0)).cumsum(1)
    out, again = (roll(generator, frames, 4, window=3, keep=4, num_samples=2, seed=5) for _ in range(2))
    assert out.pos.shape == (4, 3, 10, 3)
    assert torch.equal(out.pos[:, :, :6], frames.transpose(1, 2)[[0, 0, 1, 1]])
    assert torch.equal(out.pos, again.pos)
    assert out.meta["nfe"] == 4 + 4 * 2
    with pytest.raises(ValueError, match="at least keep=7"):
        roll(generator, frames, 1, keep=7)


def test_models_that_do_not_roll():
    """A random base and heavy tails bind all frames of a window together."""
    options = {"prediction": "velocity"}, {"prediction": "eps"}
    flow = TrajectoryGenerator(Denoiser(EGTN(0, hidden=8), trajectory_process(Interpolant()), **options[0]), WalkBase())
    tails = TrajectoryGenerator(Denoiser(EGTN(0, hidden=8), trajectory_process(law=StudentTNoise(8)), **options[1]))
    for generator in (flow, tails):
        with pytest.raises(ValueError, match=r"generator\.rollout instead"):
            roll(generator, torch.zeros(12, 2, 3), 1)


def test_a_level_for_each_entry():
    """Equal levels of the entries are the level of the system, bit for bit, and other levels are not."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VectorEGTN(0, hidden=8, num_layers=1)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    y = torch.randn(1, 5, 2, 3, generator=torch.Generator().manual_seed(0))
    given = (torch.arange(5) < 2)[None, :, None].expand(1, 5, 2)
    cond = {"given": given, "mean": y.cumsum(1), "spread": torch.ones(1, 5, 2, 1), "pace": torch.ones(())}
    y = torch.where(given[..., None], 0, y)
    levels = torch.tensor([0.2]), torch.full((1, 5), 0.2), torch.full((1, 5, 2), 0.2)
    outputs = [network(y, t, cond) for t in levels]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    levels[2][0, 3, 1] = -0.3
    assert not torch.equal(network(y, levels[2], cond), outputs[0])
