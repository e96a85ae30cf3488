"""Representatives of samples: the right ones by hand and by brute force, all of them drawn, none twice."""

import itertools
import math

import numpy as np
import pytest
import torch

from trajectories.batch import TrajectoryBatch
from trajectories.ensembles import representatives


def drawn(ends, frames=3):
    """Samples (B, K, D) of one node that stay where ``ends`` are; their order is kept in ``z``."""
    b, k, d = ends.shape
    pos = ends.flatten(0, 1)[:, None, None].expand(b * k, 1, frames, d).clone()
    return TrajectoryBatch(pos, z=torch.arange(b * k)[:, None], meta={"num_samples": k, "steps": 20})


def rows(batch):
    return batch.z[:, 0].tolist()


def cost(points, chosen):
    """Mean distance of all points (M, D) to the nearest chosen one, by loops."""
    return np.mean([min(math.dist(p, points[c]) for c in chosen) for p in points])


def test_by_hand():
    """The median first, then the far group, then the single one: every system for itself."""
    first = torch.tensor([9.0, 0.0, 10.2, 10.9, 49.0, 51.5])  # 10.2 has the least sum; then 49 (79.5 less); then 0
    second = torch.tensor([50.0, 50.0, 50.1, 51.0, 0.0, 10.0])
    kept = representatives(drawn(torch.stack([first, second])[..., None]), 3)
    assert rows(kept)[:3] == [1, 2, 4]
    assert rows(kept)[3:] == [6, 10, 11]
    assert kept.meta == {"num_samples": 3, "drawn_samples": 6, "steps": 20}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_against_all_choices(size):
    """The best choice for one; for more, at least 1 - 1/e of the best gain over the best single one."""
    points = torch.randn(20, 7, 2, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    kept = torch.tensor(rows(representatives(drawn(points), size))).reshape(20, size) % 7
    for cloud, chosen in zip(points.tolist(), kept.tolist(), strict=True):
        single = min(cost(cloud, [c]) for c in range(7))
        best = min(cost(cloud, c) for c in itertools.combinations(range(7), size))
        assert cost(cloud, chosen) <= single - (1 - 1 / math.e) * (single - best) + 1e-12
        if size == 1:
            assert cost(cloud, chosen) == pytest.approx(best)


def test_all_are_kept_in_order():
    ends = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))
    assert rows(representatives(drawn(ends), 5)) == list(range(20))


def test_points_that_coincide_are_told_apart():
    kept = representatives(drawn(torch.zeros(1, 6, 2)), 4)
    assert len(set(rows(kept))) == 4


def test_whole_ways_count_not_only_their_ends():
    """Of three that end together two go one way and one another: the two kept are one of each."""
    pos = torch.zeros(3, 1, 5, 2)
    pos[1, 0, 1:4, 0] = 1.0
    pos[2, 0, 1:4, 0] = 1.1
    kept = representatives(TrajectoryBatch(pos, z=torch.arange(3)[:, None], meta={"num_samples": 3}), 2)
    assert 0 in rows(kept)


def test_the_best_of_representatives_is_nearer():
    """Of 20 numbers uniform on [0, 1], the nearest to another one is 1/(2 * 21) = 0.024 away but for the edges.

    The middles of 20 equal parts would be 1/80 = 0.0125 away. Representatives of 60 lie between, nearer to the middles.
    """
    generator = torch.Generator().manual_seed(0)
    ends, truth = torch.rand(400, 60, 1, generator=generator), torch.rand(400, 1, generator=generator)
    even = representatives(drawn(ends), 20).pos[:, 0, -1, 0].reshape(400, 20)
    distance = (even - truth).abs().amin(1)
    assert distance.mean().item() < 0.019
    assert (ends[:, :20, 0] - truth).abs().amin(1).mean().item() > 0.022


def test_nodes_that_do_not_exist_do_not_count():
    """Padding far away does not change the choice."""
    ends = torch.tensor([0.0, 0.1, 5.0, 5.1])[None, :, None]
    plain = drawn(ends)
    pos = torch.cat([plain.pos, 1e3 * torch.randn(4, 1, 3, 1, generator=torch.Generator().manual_seed(0))], 1)
    mask = torch.tensor([[True, False]]).expand(4, 2)
    padded = TrajectoryBatch(pos, z=torch.arange(4)[:, None].expand(4, 2), node_mask=mask, meta=plain.meta)
    assert rows(representatives(padded, 2)) == rows(representatives(plain, 2))


@pytest.mark.parametrize("number", [0, 7])
def test_refuses_more_than_there_are(number):
    with pytest.raises(ValueError, match=r"num_samples must be in \[1, 6\]"):
        representatives(drawn(torch.zeros(1, 6, 1)), number)
