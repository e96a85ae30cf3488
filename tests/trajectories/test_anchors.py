"""Anchors by hand, their symmetry, and forecasts from them where the model is known exactly."""

import pytest
import torch
from torch import nn

from scidiff.denoiser import Denoiser
from scidiff.schedules import VPSDE
from scidiff.testing import random_rotation
from trajectories.anchors import Anchors
from trajectories.batch import TrajectoryBatch
from trajectories.generator import TrajectoryGenerator
from trajectories.process import trajectory_process

F64 = torch.float64


def walkers(count, seed=0):
    """Three observed steps in any direction, then two more straight on, or to the left, the same for all."""
    generator = torch.Generator().manual_seed(seed)
    angle = 6.28 * torch.rand(count, 1, generator=generator, dtype=F64)
    ahead = torch.stack([angle.cos(), angle.sin()], -1)
    left = torch.stack([-angle.sin(), angle.cos()], -1)
    turns = (torch.arange(count) % 2 == 1)[:, None, None]
    start = 5 * torch.randn(count, 1, 2, generator=generator, dtype=F64)
    steps = torch.arange(4, dtype=F64)[None, :, None]
    past = start + steps * ahead
    future = past[:, -1:] + torch.tensor([1.0, 2.0], dtype=F64)[None, :, None] * torch.where(turns, left, ahead)
    return TrajectoryBatch(torch.cat([past, future], 1)[:, None])


def test_typical_futures():
    """Two ways to go on are two anchors, in the direction of each node; they turn with what is observed."""
    anchors = Anchors(2).fit(walkers(40), cond_frames=4)
    paths = anchors.paths[anchors.paths[:, 0, 0].argsort()]
    assert paths == pytest.approx(torch.tensor([[[0.0, 1], [0, 2]], [[1, 0], [2, 0]]], dtype=F64), abs=1e-12)
    observed = TrajectoryBatch(walkers(3, seed=1).pos[:, :, :4])
    placed = anchors.place(observed).pos
    assert placed.shape == (6, 1, 6, 2)
    assert torch.equal(placed[::2, :, :4], observed.pos)
    turn = random_rotation(torch.Generator().manual_seed(2), dims=2)
    moved = anchors.place(TrajectoryBatch(observed.pos @ turn.T + 3.0)).pos
    assert moved == pytest.approx(placed @ turn.T + 3.0, abs=1e-9)
    for bad, message in (
        (lambda: Anchors(50).fit(walkers(40), 4), "as many training nodes"),
        (lambda: Anchors(2).fit(torch.zeros(5, 6, 1, 3), 4), "in \\[2, F\\)"),
        (lambda: Anchors(2).place(observed), "after fit"),
        (lambda: Anchors(0), "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            bad()


class TwoWays(nn.Module):
    """E[eps | x_t] of futures that go straight on or to the left with probability 1/2, about the last position."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x, t, cond):
        alpha, sigma = (getattr(VPSDE(), name)(t)[:, None, None, None] for name in ("alpha", "sigma"))
        ahead = x[:, 3:4] - x[:, 2:3]
        left = torch.stack([-ahead[..., 1], ahead[..., 0]], -1)
        y = x[:, 4:] - x[:, 3:4]
        ways = torch.stack([w * torch.tensor([1.0, 2.0], dtype=F64)[None, :, None, None] for w in (ahead, left)])
        distance = (y - alpha * ways).square().sum((2, 3, 4)) / (2 * sigma[:, 0, 0, 0] ** 2)
        x_0 = (torch.softmax(-distance, 0)[..., None, None, None] * ways).sum(0)
        return torch.cat([torch.zeros_like(x[:, :4]), (y - alpha * x_0) / sigma], 1)


def test_each_sample_goes_its_own_way():
    """From two anchors the exact model finds each way once for every system; without them it draws them at random."""
    generator = TrajectoryGenerator(Denoiser(TwoWays(), trajectory_process(), prediction="eps"), prior="last")
    truth = walkers(40, seed=3).pos[:, :, :4]
    out = Anchors(2).fit(walkers(40), 4).forecast(generator, TrajectoryBatch(truth), level=0.1, steps=3)
    assert (out.meta["nfe"], out.meta["num_samples"], out.meta["cond_frames"]) == (4, 2, 4)
    ahead = truth[:, 0, -1] - truth[:, 0, -2]
    left = torch.stack([-ahead[:, 1], ahead[:, 0]], -1)
    ends = (out.pos[:, 0, -1] - out.pos[:, 0, 3]).reshape(40, 2, 2)
    share = (ends @ torch.stack([ahead, left], -1) / 2).sort(1).values  # 0 and 1 along both ways
    wanted = torch.tensor([0.0, 1.0], dtype=F64)[None, :, None].expand(40, 2, 2)
    assert share == pytest.approx(wanted, abs=0.02)
    drawn = (
        generator.forecast(TrajectoryBatch(truth), 2, 2, steps=20).pos[:, 0, -1]
        - truth.repeat_interleave(2, 0)[:, 0, -1]
    )
    along = (drawn.reshape(40, 2, 2) @ left[..., None] / 2).round()[..., 0]
    assert 8 < int((along[:, 0] == along[:, 1]).sum()) < 32
