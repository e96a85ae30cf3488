"""A rolling window over a random walk, whose exact denoiser at unequal levels is known."""

import pytest
import torch
from torch import nn

from scidiff.denoiser import Denoiser
from scidiff.schedules import VPSDE
from trajectories.generator import TrajectoryGenerator
from trajectories.networks.egtn import EGTN
from trajectories.process import trajectory_process
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


def test_window_keeps_what_is_given():
    """Observed frames come back, a seed says it all, and the number of evaluations is that of the passes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EGTN(0, hidden=8, num_layers=1)
    generator = TrajectoryGenerator(Denoiser(network, trajectory_process(), prediction="eps"), prior="walk", steps=3)
    frames = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(0)).cumsum(1)
    out, again = (roll(generator, frames, 4, window=3, keep=4, num_samples=2, seed=5) for _ in range(2))
    assert out.pos.shape == (4, 3, 10, 3)
    assert torch.equal(out.pos[:, :, :6], frames.transpose(1, 2)[[0, 0, 1, 1]])
    assert torch.equal(out.pos, again.pos)
    assert out.meta["nfe"] == 4 + 4 * 2
    with pytest.raises(ValueError, match="at least keep=7"):
        roll(generator, frames, 1, keep=7)
