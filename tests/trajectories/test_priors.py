"""Moving means by hand, their symmetry, the gradient of the learned one; masks and mixtures of tasks."""

import numpy as np
import pytest
import torch

from scidiff.testing import assert_equivariant
from trajectories.networks.egtn import EGTN
from trajectories.priors import PRIORS, Learned, get_prior
from trajectories.tasks import TaskMix, known_mask

F64 = torch.float64


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def frames_given(*frames, f=6, n=2, b=1):
    given = torch.zeros(b, f, n, dtype=torch.bool)
    given[:, list(frames)] = True
    return given


def test_by_hand(generator):
    pos = torch.randn(1, 6, 2, 3, generator=generator, dtype=F64)
    given = frames_given(1, 2, 5)
    means = {name: get_prior(name)(pos, given, {}) for name in PRIORS}
    assert (means["normal"] == 0).all()
    assert means["com"][0, 3, 1] == pytest.approx(pos[0, [1, 2, 5]].mean((0, 1)))
    assert torch.equal(means["last"], pos[:, 5:].expand_as(pos))
    velocity = (pos[0, 5] - pos[0, 1]) / 4
    assert means["walk"][0, 4] == pytest.approx(pos[0, 5] - velocity)
    assert means["walk"][0, 0] == pytest.approx(pos[0, 5] - 5 * velocity)
    assert means["bridge"][0, 3] == pytest.approx((2 * pos[0, 2] + pos[0, 5]) / 3)
    assert torch.equal(means["bridge"][0, [0, 1, 2, 5]], pos[0, [1, 1, 2, 5]])


@pytest.mark.parametrize("name", ["com", "last", "walk", "bridge"])
def test_constant_velocity_and_single_frames(name, generator):
    """One given frame: all stand still there. Nodes that are never given are at the centre; nothing given, at 0."""
    pos = torch.randn(1, 6, 2, 3, generator=generator, dtype=F64)
    given = frames_given(2)
    given[..., 1] = False
    mean = get_prior(name)(pos, given, {})
    assert torch.equal(mean, pos[:, 2:3, :1].expand_as(pos))
    assert (get_prior(name)(pos, frames_given(), {}) == 0).all()


def learned(prior_frames=8):
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    prior = Learned(EGTN(1, hidden=8, num_layers=2)).double()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.random.set_rng_state(state)
    return prior


@pytest.mark.parametrize("name", ["com", "last", "walk", "bridge", "learned"])
def test_symmetry_and_sight(name, generator):
    """Equivariant under rotations, reflections and translations; what is not given is not seen."""
    prior = learned() if name == "learned" else get_prior(name)
    pos, h = (torch.randn(*shape, generator=generator, dtype=F64) for shape in ((2, 6, 3, 3), (2, 3, 1)))
    given = frames_given(0, 1, 3, n=3, b=2)
    given[1, 1] = False
    with torch.no_grad():
        assert_equivariant(lambda x: prior(x, given, {"h": h}), [pos], kinds=["point"], out="point")
        other = torch.where(given[..., None], pos, 17.0)
        assert prior(other, given, {"h": h}) == pytest.approx(prior(pos, given, {"h": h}), abs=1e-12)


def test_learned_weights(generator):
    """x_r[f] = sum_s W_sf x~_s with W as defined, weights that add up to 1, and a gradient in every part."""
    prior = learned()
    pos, h = (torch.randn(*shape, generator=generator, dtype=F64) for shape in ((1, 5, 2, 3), (1, 2, 1)))
    given = frames_given(0, 1, 2, f=5)
    cond = {"h": h}
    net = prior.network
    short = {"h": h}
    mean = prior(pos, given, cond)
    seen = pos[:, :3]
    known = frames_given(0, 1, 2, f=3)
    features = torch.cat([net._nodes(seen, short), *net._conditions(seen, torch.zeros(1, dtype=F64), known, {})], -1)
    out = net.layers(net.embedding(features), seen, short)
    w = out.h.mean(-1)[0]
    for f in range(5):
        u = 1 + prior.future(psi(f - 2))[0]
        weights = [w[0] * u, w[1] * u]
        weights.append(1 - weights[0] - weights[1])
        wanted = sum(weights[s][:, None] * out.pos[0, s] for s in range(3))
        assert mean[0, f].detach() == pytest.approx(wanted.detach(), abs=1e-10)
    mean.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in prior.parameters())
    assert prior.future[0].weight.grad.abs().max() > 0


def psi(s):
    angles = s * 10_000.0 ** (-torch.arange(16, dtype=F64) / 15)
    return torch.cat([angles.sin(), angles.cos()])


def test_unknown_prior():
    with pytest.raises(ValueError, match="did you mean 'walk'"):
        get_prior("walks")


def test_known_masks():
    assert known_mask([0, -1], 4, 2)[:, 0].tolist() == [True, False, False, True]
    assert known_mask(slice(1, 3), 4, 2)[:, 1].tolist() == [False, True, True, False]
    mask = np.array([[1, 0], [0, 0], [0, 1]], bool)
    assert known_mask(mask, 3, 2).tolist() == mask.tolist()
    assert known_mask(mask[:, 0], 3, 2)[:, 1].tolist() == mask[:, 0].tolist()
    for wrong in ([4], [-5], np.zeros(3, bool), [0.5]):
        with pytest.raises(ValueError, match="known"):
            known_mask(wrong, 4, 2)


def test_mixture_of_tasks(generator):
    """Frequencies within 4 standard errors, and the mask of every task."""
    weights = {"unconditional": 1.0, "forecast": 2.0, "interpolate": 3.0, "inpaint": 2.0}
    given = TaskMix(weights, cond_frames=3).draw(4000, 7, generator)
    forecast, ends = [1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 1]
    rows = [tuple(row) for row in given.int().tolist()]
    shares = {"none": rows.count((0,) * 7), "forecast": rows.count(tuple(forecast)), "ends": rows.count(tuple(ends))}
    chance = 2 / 8 * (2**-7 + 2**-14)  # a random mask may look like one of the others
    for name, share in (("none", 1 / 8), ("forecast", 2 / 8 + chance), ("ends", 3 / 8 + chance)):
        assert shares[name] / 4000 == pytest.approx(share, abs=4 * 0.5 / 4000**0.5)
    random = [row for row in rows if row not in ((0,) * 7, tuple(forecast), tuple(ends))]
    assert all(0 < sum(row) < 7 for row in random)
    assert np.mean(random) == pytest.approx(0.5, abs=0.03)
    only = TaskMix(cond_frames=3).draw(5, 7, generator)
    assert only.int().tolist() == [forecast] * 5
    with pytest.raises(ValueError, match="at least 4 frames"):
        TaskMix(cond_frames=3).draw(5, 3, generator)
    with pytest.raises(ValueError, match="did you mean 'forecast'"):
        TaskMix({"forecasts": 1.0})
