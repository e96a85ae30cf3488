"""Representatives of samples: the right ones by hand, all of them drawn, none twice, none of a group missing."""

import pytest
import torch

from trajectories.batch import TrajectoryBatch
from trajectories.ensembles import representatives


def drawn(ends, frames=3):
    """Samples (B, K, D) of one node whose final positions are ``ends``; earlier frames tell the samples apart."""
    b, k, d = ends.shape
    pos = torch.arange(b * k, dtype=ends.dtype)[:, None, None, None].expand(b * k, 1, frames, d).clone()
    pos[:, 0, -1] = ends.flatten(0, 1)
    return TrajectoryBatch(pos, meta={"num_samples": k, "steps": 20})


def rows(batch):
    return batch.pos[:, 0, 0, 0].long().tolist()


def test_one_of_each_group_nearest_to_its_centre():
    """Groups about 0, 10 and 50 of one, three and two members, by hand; every system for itself."""
    first = torch.tensor([9.0, 0.0, 10.2, 10.9, 49.0, 51.5])  # centre of three 10.03, of two 50.25
    second = torch.tensor([51.0, 50.1, 50.0, 10.0, 10.0, 0.0])  # centre of three 50.37
    kept = representatives(drawn(torch.stack([first, second])[..., None]), 3)
    assert rows(kept)[0] == 1
    assert rows(kept)[1] == 2
    assert rows(kept)[2] in (4, 5)  # both are as far from the centre of two
    assert rows(kept)[3] == 7
    assert rows(kept)[4] in (9, 10)
    assert rows(kept)[5] == 11
    assert kept.meta == {"num_samples": 3, "drawn_samples": 6, "steps": 20}


def test_all_are_kept_in_order():
    ends = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))
    assert rows(representatives(drawn(ends), 5)) == list(range(20))


def test_points_that_coincide_are_told_apart():
    kept = representatives(drawn(torch.zeros(1, 6, 2)), 4)
    assert len(set(rows(kept))) == 4


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
    """Padding far away does not change the groups."""
    ends = torch.tensor([0.0, 0.1, 5.0, 5.1])[None, :, None]
    plain = drawn(ends)
    pos = torch.cat([plain.pos, 1e3 * torch.randn(4, 1, 3, 1, generator=torch.Generator().manual_seed(0))], 1)
    mask = torch.tensor([[True, False]]).expand(4, 2)
    padded = TrajectoryBatch(pos, node_mask=mask, meta=plain.meta)
    assert rows(representatives(padded, 2)) == rows(representatives(plain, 2))


@pytest.mark.parametrize("number", [0, 7])
def test_refuses_more_than_there_are(number):
    with pytest.raises(ValueError, match=r"num_samples must be in \[1, 6\]"):
        representatives(drawn(torch.zeros(1, 6, 1)), number)
