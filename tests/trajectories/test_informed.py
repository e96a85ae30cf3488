"""The informed walk by hand, its symmetry, and its fit to processes of known mean and variance."""

import pytest
import torch

from scidiff.testing import assert_equivariant, random_rotation
from trajectories.data.simulators import simulate
from trajectories.diffusion import arranged
from trajectories.informed import InformedWalk

F64 = torch.float64


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def given_frames(*frames, f=6, n=2, b=1):
    given = torch.zeros(b, f, n, dtype=torch.bool)
    given[:, list(frames)] = True
    return given


def fitted(pos, given):
    return InformedWalk(12).fit([(pos, given, ~given)])


def test_by_hand_before_the_fit(generator):
    """Constant velocity of the two nearest given frames, in both directions; lines between; 0 without anything."""
    pos = torch.randn(1, 8, 2, 3, generator=generator, dtype=F64)
    given = given_frames(1, 3, 6, f=8)
    mean = InformedWalk()(pos, given, {})
    assert torch.equal(mean[given], pos[given])
    velocity = (pos[0, 6] - pos[0, 3]) / 3
    assert mean[0, 7] == pytest.approx(pos[0, 6] + velocity)
    assert mean[0, 0] == pytest.approx(pos[0, 1] - (pos[0, 3] - pos[0, 1]) / 2)
    assert mean[0, 2] == pytest.approx((pos[0, 1] + pos[0, 3]) / 2)
    assert mean[0, 4] == pytest.approx((2 * pos[0, 3] + pos[0, 6]) / 3)
    nothing = given_frames(f=8)
    assert (InformedWalk()(pos, nothing, {}) == 0).all()
    assert (InformedWalk().spread(pos, nothing, {}) == 1).all()


def test_fit_finds_a_walk(generator):
    """x_{c+k} = x_c + k v + sqrt(k) s xi has gains (k, 0) and variance s^2 k, whatever v is."""
    seen, frames, size, count = 3, 7, 0.3, 6000
    velocity = torch.randn(count, 1, 1, 2, generator=generator, dtype=F64)
    steps = torch.arange(frames, dtype=F64)[None, :, None, None] - (seen - 1)
    noise = size * torch.randn(count, frames, 1, 2, generator=generator, dtype=F64).cumsum(1)
    pos = steps * velocity + torch.where(steps > 0, noise - noise[:, seen - 1 : seen], 0)
    given = given_frames(0, 1, 2, f=frames, n=1, b=count)
    walk = fitted(pos, given)
    k = torch.arange(1, frames - seen + 1, dtype=F64)
    assert walk.gains[1:5, 0].double() == pytest.approx(k, abs=0.02)
    spread = walk.spread(pos, given, {})[:, seen:, 0, 0].square().mean(0)
    floor = 1.01  # the share of the root mean square that is added as a floor
    assert spread == pytest.approx(floor * size**2 * k, rel=0.05)
    assert float(walk.pace) == pytest.approx(float(velocity.square().mean().sqrt()), rel=0.05)


def test_spread_follows_the_motion(generator):
    """A residual in proportion to the speed of each node is found: whitened, it has unit variance at all speeds."""
    count = 6000
    velocity = torch.randn(count, 1, 1, 3, generator=generator, dtype=F64) * torch.rand(count, 1, 1, 1, dtype=F64)
    steps = torch.arange(5, dtype=F64)[None, :, None, None] - 1
    noise = torch.randn(count, 5, 1, 3, generator=generator, dtype=F64) * velocity.norm(dim=-1, keepdim=True)
    pos = steps * velocity + torch.where(steps > 0, noise, 0)
    given = given_frames(0, 1, f=5, n=1, b=count)
    walk = fitted(pos, given)
    y = ((pos - walk(pos, given, {})) / walk.spread(pos, given, {}))[:, 2:]
    order = velocity[:, 0, 0].norm(dim=-1).argsort()
    slow, fast = (y[part].square().mean().sqrt() for part in order.chunk(2))
    assert float(fast) == pytest.approx(1, abs=0.05)
    assert 0.6 < float(slow) < 1.05  # the floor keeps the spread of calm nodes up


def test_charged_particles_are_whitened():
    """Deviations grow by a factor of 20; whitened, every frame has variance 1, less what the floor of the spread takes.

    At the maximum of the likelihood sum d / s^2 is the number of entries, so the variance is 1 without the floor.
    """
    runs = simulate("charged", 400, num_frames=30)
    given = (torch.arange(30) < 10)[None, :, None].expand(400, -1, 5)
    system = arranged(runs.pos, given, {})
    walk = InformedWalk().fit([(system.x_0, given, ~given)])
    mean, spread = (function(system.x_0, given, {}) for function in (walk, walk.spread))
    residual = (system.x_0 - mean)[:, 10:]
    raw = residual.square().mean((0, 2, 3)).sqrt()
    assert raw[-1] / raw[0] > 20
    variance = (residual / spread[:, 10:]).square().mean((0, 2, 3))
    assert ((variance > 0.6) & (variance < 1.05)).all()


def test_symmetry_and_sight(generator):
    """The mean is equivariant, the spread invariant, and what is not given is not seen."""
    pos = torch.randn(3, 8, 2, 3, generator=generator, dtype=F64).cumsum(1)
    given = given_frames(1, 2, 4, f=8, b=3)
    given[1, 0, 0] = True
    walk = fitted(pos, given)
    assert_equivariant(lambda x: walk(x, given, {})[~given], [pos], kinds=["point"], out="point")
    turn = random_rotation(generator, reflect=True)
    spread = walk.spread(pos, given, {})
    assert walk.spread(pos @ turn.T + 2.0, given, {}) == pytest.approx(spread, rel=1e-6)
    other = torch.where(given[..., None], pos, 17.0)
    assert walk.spread(other, given, {}) == pytest.approx(spread)
    assert walk(other, given, {}) == pytest.approx(walk(pos, given, {}))


def test_nothing_to_find(generator):
    with pytest.raises(ValueError, match="unknown entries"):
        fitted(torch.randn(1, 6, 2, 3, generator=generator), given_frames(*range(6)))
    with pytest.raises(ValueError, match="max_steps"):
        InformedWalk(0)


def test_no_spread_below_the_floor(generator):
    """Straight motion between given frames is known exactly; its spread is a part of the mean step all the same."""
    velocity = torch.randn(200, 1, 1, 3, generator=generator, dtype=F64)
    pos = torch.arange(6, dtype=F64)[None, :, None, None] * velocity
    given = given_frames(0, 1, 4, 5, n=1, b=200)
    for floor in (1e-4, 0.05):
        walk = InformedWalk(12, floor).fit([(pos, given, ~given)])
        spread = walk.spread(pos, given, {})[:, 2:4]
        assert spread == pytest.approx(torch.full_like(spread, floor * float(walk.pace)), rel=1e-5)
    with pytest.raises(ValueError, match="floor must be positive"):
        InformedWalk(floor=0.0)
