"""Simulators against literal loops, matrix powers and exponentials, conservation laws, and recorded statistics."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from scidiff.random import seed_table
from trajectories.data.simulators import DT, evolve, simulate, total_energy
from trajectories.data.systems import SYSTEMS, Streams, _reflected

F64 = torch.float64
DEFAULTS = {"charged": 5, "spring": 5, "gravity": 10, "lj": 13, "double_well": 4}


def charged_loop(x, v, charge, steps):
    """The published recipe, particle by particle."""
    x, v, frames = x.copy(), v.copy(), []

    def force():
        total = np.zeros_like(x)
        for i in range(len(x)):
            for j in range(len(x)):
                if i != j:
                    d = x[i] - x[j]
                    total[i] += charge[i] * charge[j] * d / np.linalg.norm(d) ** 3
        return np.clip(total, -100, 100)

    v += DT * force()
    for i in range(1, steps):
        x += DT * v
        if i % 100 == 0:
            frames.append((x.copy(), v.copy()))
        v += DT * force()
    return np.array(frames).transpose(1, 2, 0, 3)  # (x or v, N, F, 3)


def gravity_loop(x, v, num_frames):
    """Kick-drift-kick with softening 0.1."""

    def acceleration(x):
        total = np.zeros_like(x)
        for i in range(len(x)):
            for j in range(len(x)):
                d = x[j] - x[i]
                total[i] += d / (d @ d + 0.01) ** 1.5
        return total

    x, v, frames = x.copy(), v.copy(), [(x.copy(), v.copy())]
    for step in range(1, 100 * (num_frames - 1) + 1):
        v = v + DT / 2 * acceleration(x)
        x = x + DT * v
        v = v + DT / 2 * acceleration(x)
        if step % 100 == 0:
            frames.append((x, v))
    return np.array(frames).transpose(1, 2, 0, 3)


@pytest.mark.parametrize("num_bodies", [5, 4, 2])
def test_charged_equals_the_literal_loop(num_bodies):
    """Starts without close encounters: there is no chaos that would blow up rounding errors within 400 steps."""
    generator = torch.Generator().manual_seed(num_bodies)
    corners = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [0, 0, 0]], dtype=F64)[:num_bodies]
    x = 2 * corners + 0.3 * torch.randn(3, num_bodies, 3, generator=generator, dtype=F64)
    v = 0.3 * torch.randn(3, num_bodies, 3, generator=generator, dtype=F64)
    charge = torch.randint(0, 2, (3, num_bodies), generator=generator).double() * 2 - 1
    pos, vel = evolve("charged", x, v, (charge[:, :, None] * charge[:, None])[..., None], num_frames=4)
    for run in range(3):
        frames = charged_loop(x[run].numpy(), v[run].numpy(), charge[run].numpy(), 401)
        np.testing.assert_allclose(pos[run].numpy(), frames[0], atol=1e-12, rtol=0)
        np.testing.assert_allclose(vel[run].numpy(), frames[1], atol=1e-12, rtol=0)


def test_charged_forces_are_clipped_by_component():
    """Two like charges at distance 0.05 repel with 400 along x: clipped to 100 as long as r < 0.1."""
    x = torch.tensor([[[0.0, 0, 0], [0.05, 0.001, 0]]], dtype=F64)
    ones = torch.ones(1, 2, 2, 1, dtype=F64)
    pos, vel = evolve("charged", x, torch.zeros_like(x), ones, num_frames=1)
    frames = charged_loop(x[0].numpy(), np.zeros((2, 3)), np.ones(2), 101)
    np.testing.assert_allclose(pos[0].numpy(), frames[0], atol=1e-12, rtol=0)
    np.testing.assert_allclose(vel[0].numpy(), frames[1], atol=1e-11, rtol=0)
    assert float(vel.abs().max()) < 6  # without the clip: 8.9, from the energy 1 / 0.05


@pytest.mark.parametrize("num_bodies", [10, 3])
def test_gravity_equals_the_literal_loop(num_bodies):
    start = simulate("gravity", 2, num_bodies=num_bodies, num_frames=4, seed=1, dtype=F64)
    for run in range(2):
        frames = gravity_loop(start.pos[run, :, 0].numpy(), start.vel[run, :, 0].numpy(), 4)
        np.testing.assert_allclose(start.pos[run].numpy(), frames[0], atol=1e-11, rtol=0)
        np.testing.assert_allclose(start.vel[run].numpy(), frames[1], atol=1e-11, rtol=0)


def test_spring_is_a_power_of_the_one_step_matrix_and_near_the_exact_flow():
    """Symplectic Euler is linear here; the flow differs from it by O(dt), 1e-3 at frame 30."""
    runs = simulate("spring", 20, num_frames=30, dtype=F64)
    eye = np.eye(5)
    for run in range(20):
        springs = runs.edge_attr[run, ..., 0].numpy()
        laplacian = np.diag(springs.sum(1)) - springs
        step = np.block([[eye - DT**2 * 0.1 * laplacian, DT * eye], [-DT * 0.1 * laplacian, eye]])
        flow = expm(np.block([[0 * eye, eye], [-0.1 * laplacian, 0 * eye]]) * 2.9)
        states = np.concatenate([runs.pos[run].numpy(), runs.vel[run].numpy()])  # (10, F, 3)
        for frame in (1, 10, 29):
            power = np.linalg.matrix_power(step, 100 * frame)
            np.testing.assert_allclose(states[:, frame], power @ states[:, 0], atol=1e-10, rtol=0)
        np.testing.assert_allclose(states[:, 29], flow @ states[:, 0], atol=1e-3, rtol=0)


def test_gravity_conserves_energy_and_momentum():
    """3,000 steps; the drift is relative to kinetic plus |potential| energy, as the total can be near zero."""
    runs = simulate("gravity", 20, num_frames=31, dtype=F64)
    energy = total_energy("gravity", runs.pos, runs.vel, runs.edge_attr)
    kinetic = 0.5 * runs.vel[:, :, 0].square().sum((1, 2))
    scale = kinetic + (energy[:, 0] - kinetic).abs()
    drift = (energy - energy[:, :1]).abs().amax(1) / scale
    assert float(drift.max()) < 1e-3
    assert float(drift.median()) < 1e-4
    assert float(runs.vel.sum(1).abs().max()) < 1e-10


@pytest.mark.parametrize("kind", ["lj", "double_well"])
def test_other_systems_follow_the_gradient_of_their_energy(kind):
    """One frame of 100 leapfrog steps with forces from autograd of `total_energy`."""
    runs = simulate(kind, 3, num_frames=2, seed=5, dtype=F64)
    x, v = runs.pos[:, :, :1].clone(), runs.vel[:, :, :1].clone()

    def force(x):
        x = x.detach().requires_grad_()
        return -torch.autograd.grad(total_energy(kind, x, torch.zeros_like(x), runs.edge_attr).sum(), x)[0]

    for _ in range(100):
        v = v + DT / 2 * force(x)
        x = x + DT * v
        v = v + DT / 2 * force(x)
    torch.testing.assert_close(runs.pos[:, :, 1:], x, atol=1e-10, rtol=0)
    torch.testing.assert_close(runs.vel[:, :, 1:], v, atol=1e-10, rtol=0)
    long = simulate(kind, 20, num_frames=31, dtype=F64)
    energy = total_energy(kind, long.pos, long.vel, long.edge_attr)
    assert float(((energy - energy[:, :1]).abs().amax(1) / energy[:, 0].abs()).median()) < 1e-4
    assert float(long.vel.sum(1).abs().max()) < 1e-10


def test_charged_energy_and_momentum_of_mild_runs():
    """First order in dt: the median drift is a few percent at most; unclipped pair forces cancel exactly."""
    runs = simulate("charged", 200, num_frames=30, dtype=F64)
    energy = total_energy("charged", runs.pos, runs.vel, runs.edge_attr)
    drift = (energy - energy[:, :1]).abs().amax(1)
    assert float(drift.median()) < 0.05
    momentum = runs.vel.sum(1)
    assert float((momentum - momentum[:, :1]).abs().amax((1, 2)).median()) < 1e-12


RECORDED = {"charged": (1.241, 0.556, 0.999), "spring": (0.594, 0.288, 0.477), "gravity": (1.230, 1.020, 1.053)}


@pytest.mark.parametrize("kind", RECORDED)
def test_statistics(kind):
    """Standard deviations of x, v and centred x (20 frames) against 2,000 runs of the published generator.

    Both sides have the sampling error of 2,000 runs, and the recorded values are rounded; the bound is 3 standard
    errors of the difference. Fewer runs will not do: ejected bodies give the squares a heavy tail.
    """
    runs = simulate(kind, 2000, num_frames=30)
    centred = runs.pos[:, :, :20] - runs.pos[:, :, :20].mean((1, 2), keepdim=True)
    for values, recorded in zip((runs.pos, runs.vel, centred), RECORDED[kind], strict=True):
        squares = values.double().square().mean((1, 2, 3))
        std = squares.mean().sqrt()
        error = squares.std() * math.sqrt(2 / 2000) / (2 * std)
        assert float(std) == pytest.approx(recorded, abs=3 * float(error) + 5e-4)


def streams(kind):
    return Streams(seed_table(0, 50), kind)


def test_initial_states():
    """Charges and springs with probability 1/2, speeds of 0.5, no motion of gravity's centre; one frame later."""
    charged, spring = simulate("charged", 400, num_frames=1), simulate("spring", 400, num_frames=1)
    assert set(charged.h.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(charged.h.mean())) < 4 / 2000**0.5
    torch.testing.assert_close(charged.edge_attr[..., 0] + torch.eye(5), charged.h @ charged.h.mT)
    edges = spring.edge_attr[..., 0]
    assert torch.equal(edges, edges.mT)
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    assert float(edges.diagonal(dim1=1, dim2=2).abs().max()) == 0
    assert float(edges.sum() / (400 * 20)) == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)
    assert float(spring.h.abs().max()) == 0
    for kind in ("charged", "spring"):
        state = SYSTEMS[kind].draw(streams(kind), 5)
        torch.testing.assert_close(state.v.square().sum(0), torch.full((5, 50), 0.25, dtype=F64))
    wide = SYSTEMS["charged"].draw(streams("charged"), 40)  # std 2: walls at 2.5 standard deviations
    assert 4.5 < float(wide.x.abs().max()) <= 5
    gravity = simulate("gravity", 10, num_frames=1, dtype=F64)
    assert float(gravity.vel.mean(1).abs().max()) < 1e-14
    assert torch.equal(gravity.h, torch.ones_like(gravity.h))
    assert float(gravity.edge_attr.abs().max()) == 0


def test_initial_states_are_reflected_at_the_walls():
    x, v = torch.tensor([5.5, -6.0, 4.0, 5.5]), torch.tensor([0.3, -0.2, -0.1, -0.3])
    mirrored, turned = _reflected(x, v)
    torch.testing.assert_close(mirrored, torch.tensor([4.5, -4.0, 4.0, 4.5]))
    torch.testing.assert_close(turned, torch.tensor([-0.3, 0.2, -0.1, -0.3]))


@pytest.mark.parametrize("kind", DEFAULTS)
def test_a_run_does_not_see_its_batch(kind):
    """Bit for bit the same in any chunk, from any first run, with default and given number of particles."""
    options = {"num_frames": 4, "seed": 3, "observation_noise": 0.1}
    whole = simulate(kind, 21, **options)
    assert whole.pos.shape == (21, DEFAULTS[kind], 4, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole[:4], simulate(kind, 21, chunk=4, **options)[:4], strict=True))
    later = simulate(kind, 2, first_run=17, **options)
    assert all(torch.equal(a[17:19], b) for a, b in zip(whole[:4], later[:4], strict=True))
    assert not torch.equal(whole.pos, simulate(kind, 21, **{**options, "seed": 4}).pos)
    assert simulate(kind, 1, num_bodies=1, num_frames=3).pos.isfinite().all()


def test_field_and_observation_noise():
    """A uniform field moves the centre by g t^2 / 2 and nothing else; noise touches the positions only."""
    plain = simulate("gravity", 3, num_frames=11, dtype=F64)
    falling = simulate("gravity", 3, num_frames=11, field=(0.0, 0.0, -2.0), dtype=F64)
    t = torch.arange(11, dtype=F64) * 0.1
    drop = torch.zeros(11, 3, dtype=F64)
    drop[:, 2] = -t.square()
    torch.testing.assert_close(falling.pos - plain.pos, drop.expand_as(plain.pos), atol=1e-9, rtol=0)
    noisy = simulate("spring", 200, num_frames=10, observation_noise=0.2)
    clean = simulate("spring", 200, num_frames=10)
    assert torch.equal(noisy.vel, clean.vel)
    assert float((noisy.pos - clean.pos).std()) == pytest.approx(0.2, rel=4 / (2 * 30_000) ** 0.5)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="did you mean 'gravity'"):
        simulate("gravty", 1)
    with pytest.raises(ValueError, match="positive"):
        simulate("spring", 0)
    with pytest.raises(ValueError, match="three components"):
        simulate("spring", 1, field=(0.0, 1.0))
