"""Representers start at an optimal quantizer of the slowest mode of the noise."""

import math

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2

from scidiff.denoiser import Denoiser
from trajectories.batch import TrajectoryBatch
from trajectories.generator import TrajectoryGenerator
from trajectories.networks.egtn import EGTN
from trajectories.process import trajectory_process
from trajectories.quantizer import QuantizedSource, gaussian_quantizer


@pytest.fixture
def generator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EGTN(0, hidden=8, num_layers=1)
    return TrajectoryGenerator(Denoiser(network, trajectory_process(), prediction="eps"), prior="last")


def _starts(seeds, size, shape, live=None):
    """Noise (systems, size, F, N, D) of the representers of each seed."""
    places = torch.arange(size).repeat(len(seeds))
    source = QuantizedSource([(s, 0) for s in seeds for _ in range(size)], places, size)
    like = torch.zeros(len(seeds) * size, *shape, dtype=torch.float64)
    return source.normal(like, "x", live).unflatten(0, (-1, size))


@pytest.mark.parametrize(
    ("size", "points"),
    [(1, [0.0]), (2, [-0.7979, 0.7979]), (3, [-1.2240, 0.0, 1.2240]), (4, [-1.5104, -0.4528, 0.4528, 1.5104])],
)
def test_quantizers_of_one_number(size, points):
    """Max 1960, table I. The Sobol sequence has one of its 8,192 points in each of as many equal parts."""
    found = gaussian_quantizer(size, 1).flatten().sort().values
    assert found.tolist() == pytest.approx(points, abs=2e-3)


@pytest.mark.parametrize(("size", "dims"), [(20, 2), (7, 3)])
def test_quantizers_against_scipy(size, dims):
    """The mean square distance of new points is that of the best of 20 runs of scipy's k-means, within 3 %."""
    z = np.random.default_rng(0).standard_normal((8192, dims))
    new = np.random.default_rng(1).standard_normal((20_000, dims))

    def loss(centres):
        return ((new[:, None] - centres) ** 2).sum(-1).min(1).mean()

    runs = [kmeans2(z, size, iter=50, minit="++", seed=seed)[0] for seed in range(20)]
    assert loss(gaussian_quantizer(size, dims).numpy()) < 1.03 * min(loss(centres) for centres in runs)


def test_starts_are_the_turned_quantizer():
    """Constant over the live frames with norm 1, the same distances between representers, zero elsewhere."""
    live = torch.ones(1, 6, 1, 1, dtype=torch.bool)
    live[0, :2] = False
    starts = _starts([0, 1, 2], 5, (6, 1, 2), live)[:, :, :, 0]
    assert not starts[:, :, :2].any()
    torch.testing.assert_close(starts[:, :, 2:], starts[:, :, 2:3].expand(-1, -1, 4, -1), rtol=0, atol=0)
    mode = starts.sum(2) / math.sqrt(4)
    expected = torch.cdist(gaussian_quantizer(5, 2), gaussian_quantizer(5, 2))
    for one in mode:
        torch.testing.assert_close(torch.cdist(one, one), expected, rtol=0, atol=1e-6)
    assert (mode[0] - mode[1]).abs().max() > 0.1  # each system has an orientation of its own


def test_orientations_are_uniform():
    """The first representer of 4,000 systems: mean 0 and covariance |c|^2/D, with reflections as often as without."""
    mode = _starts(range(4000), 3, (1, 1, 2))[:, :, 0, 0]
    size = float(gaussian_quantizer(3, 2)[0].square().sum())
    bound = 5 * math.sqrt(size) / math.sqrt(4000)
    assert mode[:, 0].mean(0).abs().max() < bound
    covariance = mode[:, 0].mT @ mode[:, 0] / 4000
    assert (covariance - size / 2 * torch.eye(2)).abs().max() < bound * math.sqrt(size)
    side = torch.linalg.det(mode[:, 1:] - mode[:, :1]).sign()
    assert abs(float(side.mean())) < 5 / math.sqrt(4000)


def test_padded_nodes_change_nothing():
    """Two live nodes share one quantizer of four numbers; a third that is not there stays at zero."""
    live = torch.tensor([True, True, False])[None, None, :, None]
    padded, plain = _starts([3], 4, (5, 3, 2), live), _starts([3], 4, (5, 2, 2))
    assert not padded[..., 2, :].any()
    torch.testing.assert_close(padded[..., :2, :], plain, rtol=0, atol=0)
    mode = (plain.sum(2) / math.sqrt(5)).flatten(2)[0]
    expected = gaussian_quantizer(4, 4)
    torch.testing.assert_close(torch.cdist(mode, mode), torch.cdist(expected, expected), rtol=0, atol=1e-6)


def test_the_best_representer_is_nearer():
    """To a point of N(0, 1) in the plane, the nearest of 20 is .475 away at random, .37 for the quantizer."""
    target = torch.randn(4000, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nearest = (gaussian_quantizer(20, 2) - target).norm(dim=-1).min(1).values
    assert float(nearest.mean()) == pytest.approx(0.372, abs=4 * float(nearest.std()) / math.sqrt(4000))


def test_forecasts(generator):
    """Batches and other systems do not matter, and every representer goes its own way."""
    frames = torch.randn(2, 4, 1, 2, generator=torch.Generator().manual_seed(0)).cumsum(1)
    options = {"num_frames": 3, "steps": 3, "num_samples": 3}
    whole = generator.forecast(frames, representers=True, **options)
    parts = generator.forecast(frames, representers=True, batch_size=2, **options)
    torch.testing.assert_close(whole.pos, parts.pos, rtol=0, atol=1e-5)
    one = generator.forecast(TrajectoryBatch.of(frames).index(torch.tensor([0])), representers=True, **options)
    torch.testing.assert_close(whole.pos[:3], one.pos, rtol=0, atol=1e-5)
    assert len(torch.unique(whole.pos[:3, 0, -1], dim=0)) == 3
    assert not torch.equal(whole.pos, generator.forecast(frames, **options).pos)
    for refused in (
        lambda: generator.forecast(frames, 3, representers=True),
        lambda: generator.rollout(frames, 4, window=4, keep=2, num_samples=3, representers=True),
        lambda: generator.sample(2, like=frames, representers=True),
    ):
        with pytest.raises(ValueError, match="several forecasts of one system"):
            refused()
