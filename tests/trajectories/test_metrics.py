"""Scores of trajectories against hand-made cases, brute force and recorded figures."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from trajectories.data.simulators import simulate, total_energy
from trajectories.metrics import (
    accelerations,
    calibration,
    central_velocities,
    displacement_errors,
    energy_drift,
    energy_scores,
    equivariance_error,
    marginal_score,
    momentum_drift,
    motion_distances,
    pair_distances,
    speeds,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_displacement_by_hand():
    """Sample 0 is right for node 0, sample 1 for node 1, so no sample is right for the scene."""
    target = np.zeros((1, 2, 2, 1))
    samples = np.zeros((1, 2, 2, 2, 1))
    samples[0, 0, 1, :, 0] = [2, 4]
    samples[0, 1, 0, :, 0] = [0, 10]
    scores = displacement_errors(samples, target)
    assert scores["ade_mean"] == pytest.approx((1.5 + 2.5) / 2)
    assert scores["ade_min"] == scores["ade_min_scene"] == pytest.approx(1.5)
    assert scores["ade_min_agent"] == 0
    assert scores["fde_mean"] == pytest.approx((2 + 5) / 2)
    assert scores["fde_min_scene"] == pytest.approx(2)


def test_displacement_by_loops(rng):
    """Systems of different size, by loops over everything; the scene's minimum is never below the agents'."""
    target, samples = rng.normal(size=(3, 4, 5, 2)), rng.normal(size=(3, 6, 4, 5, 2))
    real = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0]], bool)
    error = np.zeros((3, 6, 4, 5))
    for b, k, n, f in product(range(3), range(6), range(4), range(5)):
        error[b, k, n, f] = np.sqrt(sum((samples[b, k, n, f, d] - target[b, n, f, d]) ** 2 for d in range(2)))
    scores = displacement_errors(samples, target, real)
    for name, part in (("ade", error.mean(-1)), ("fde", error[..., -1])):
        means = [[part[b, k, real[b]].mean() for k in range(6)] for b in range(3)]
        agents = [part[b, :, n].min() for b, n in zip(*np.nonzero(real), strict=True)]
        scenes = [min(part[b, k, real[b]].sum() for k in range(6)) for b in range(3)]
        assert scores[f"{name}_mean"] == pytest.approx(np.mean(means))
        assert scores[f"{name}_min"] == pytest.approx(np.mean(np.min(means, 1)))
        assert scores[f"{name}_min_agent"] == pytest.approx(np.mean(agents))
        assert scores[f"{name}_min_scene"] == pytest.approx(sum(scenes) / real.sum())
        assert scores[f"{name}_min_scene"] >= scores[f"{name}_min_agent"]


def test_refusals():
    with pytest.raises(ValueError, match="samples must have shape"):
        displacement_errors(np.zeros((1, 2, 3, 4, 3)), np.zeros((1, 3, 5, 3)))
    with pytest.raises(ValueError, match="real node in every system"):
        displacement_errors(np.zeros((1, 2, 3, 4, 3)), np.zeros((1, 3, 4, 3)), np.zeros((1, 3), bool))
    with pytest.raises(ValueError, match="finite"):
        speeds(np.full((1, 1, 2, 3), np.nan), 1.0)
    with pytest.raises(ValueError, match="F of at least 3"):
        accelerations(np.zeros((1, 1, 2, 3)), 1.0)
    with pytest.raises(ValueError, match="constant"):
        marginal_score(np.zeros((5, 3)), np.zeros((5, 3)))


def test_energy_score_and_calibration_by_loops(rng):
    samples, target = rng.normal(size=(2, 5, 2, 3, 2)), rng.normal(size=(2, 2, 3, 2))
    for b, score in enumerate(energy_scores(samples, target)):
        paths, truth = samples[b].reshape(5, -1), target[b].ravel()
        spread = sum(np.linalg.norm(p - q) for p in paths for q in paths) / (2 * 5 * 4)
        assert score == pytest.approx(np.mean([np.linalg.norm(p - truth) for p in paths]) - spread)
    flat, truth = np.moveaxis(samples, 1, 0).reshape(5, -1), target.ravel()
    pairs = sum(np.abs(p - q) for p in flat for q in flat) / (2 * 5 * 4)
    assert calibration(samples, target)["crps"] == pytest.approx((np.abs(flat - truth).mean(0) - pairs).mean())


def test_coverage_of_perfect_forecasts(rng):
    """With 200 exchangeable samples the interpolated intervals cover (0.5 and 0.9) 199/201: ranks are uniform."""
    draws = rng.normal(size=(4000, 201, 1, 1, 1))
    scores = calibration(draws[:, 1:], draws[:, 0])
    for share in (0.5, 0.9):
        expected = share * 199 / 201
        assert scores[f"coverage_{round(100 * share)}"] == pytest.approx(expected, abs=4 * 0.5 / 4000**0.5)


def test_marginal_score_by_hand():
    """Two bins of width 1 on (0, 2); three quarters of the generated values are outside and in no bin."""
    real, generated = np.array([[0.0], [0.5], [1.5], [2.0]]), np.array([[0.25], [5.0], [5.0], [-1.0]])
    assert marginal_score(real, generated, num_bins=2) == pytest.approx((abs(0.5 - 0.25) + 0.5) / 2)
    assert marginal_score(real, real) == 0


def test_marginal_score_is_nearly_blind(rng):
    """Independent Gaussian numbers of the right variance score below two halves of real trajectories."""
    pos = simulate("charged", 1000, num_frames=20).pos.numpy()
    twin = pos.mean((0, 1, 2)) + pos.std((0, 1, 2)) * rng.normal(size=pos.shape)
    assert marginal_score(pos, twin) < marginal_score(pos[:500], pos[500:])


def test_motion_of_a_parabola():
    """Central differences are exact for x = a + b t + c t^2."""
    t, dt = np.arange(6) * 0.5, 0.5
    x = (1 + 2 * t + 3 * t**2)[None, None, :, None] * np.array([1.0, 0, -2])
    pos = np.concatenate([x, 0 * x], 1)
    assert central_velocities(pos, dt)[0, 0, :, 0] == pytest.approx(2 + 6 * t[1:-1])
    assert accelerations(pos, dt)[0, 0] == pytest.approx(np.tile([6.0, 0, -12], (4, 1)))
    assert speeds(pos, dt)[0, 0] == pytest.approx(np.abs(np.diff(x[0, 0, :, 0])) / dt * 5**0.5)
    assert pair_distances(pos)[0, 0] == pytest.approx(x[0, 0, :, 0] * 5**0.5)
    shifts = motion_distances(pos, 3 * pos, dt)
    assert shifts["pair_distance"] == pytest.approx(2 * pair_distances(pos).mean())
    assert shifts["acceleration"] == pytest.approx(2 * np.linalg.norm(accelerations(pos, dt), axis=-1).mean())


def test_energy_and_momentum_of_an_exact_oscillator():
    """Exact spring motion: central differences are those of a frequency sin(w h)/h, so the drift has a closed form."""
    w, h, pair = 0.1**0.5 * 2**0.5, 0.1, torch.tensor([[[[0.0], [1.0]], [[1.0], [0.0]]]])
    flow = np.stack([expm(np.array([[0, 1], [-(w**2), 0]]) * h * f) for f in range(12)])
    pos, vel = flow @ np.array([1.0, 0.0]) @ np.eye(2), h * np.arange(12)
    x = np.zeros((1, 2, 12, 3))
    x[0, 0, :, 0], x[0, 1, :, 0] = pos[:, 0] / 2 + vel, -pos[:, 0] / 2 + vel
    drift = energy_drift(x, h, lambda p, v: total_energy("spring", p, v, pair))
    r, v = np.cos(w * h * np.arange(1, 11)), np.sin(w * h) / h * np.sin(w * h * np.arange(1, 11))
    energy = 1 + v**2 / 4 + 0.05 * r**2
    assert drift[0] == pytest.approx(np.abs(energy - energy[0]) / energy[0], abs=1e-12)
    assert momentum_drift(x, h).max() < 1e-12
    x[0, 0, -1, 0] += 0.3
    assert momentum_drift(x, h, masses=[2.0, 1.0])[0, -1] == pytest.approx(
        abs(2 * 0.3 / h + (pos[-1, 0] - pos[-2, 0] - pos[1, 0] + pos[0, 0]) / 2 / h)
    )


def test_equivariance_error():
    pos = torch.randn(3, 4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert equivariance_error(lambda x: x - x.mean((1, 2), keepdim=True), pos) < 1e-14
    assert equivariance_error(lambda x: x, pos) > 0.1
    assert equivariance_error(partial(torch.roll, shifts=1, dims=-1), pos) > 0.1
