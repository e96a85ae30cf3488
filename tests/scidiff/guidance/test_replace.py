import pytest
import torch

from scidiff import VPSDE, Categorical, Denoiser, NoiseSource, Process, Symmetric, ZeroMean, sample
from scidiff.guidance import Observation, Replace
from tests.scidiff.guidance.gaussian import GaussianData

MASK = torch.tensor([[True, False, True]])


def denoiser(process):
    return Denoiser(lambda x, t, cond: 0.5 * x, process)


def test_known_entries_are_forward_draws_then_exact():
    """20 steps: in the last 2 states known entries equal y; before, alpha y + sigma eps with the drawn eps."""
    process = Process(VPSDE())
    y = torch.tensor([[0.3, torch.nan, -0.4]], dtype=torch.float64)
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, info = sample(denoiser(process), start, steps=20, guidance=Replace(Observation(MASK, y=y)), save="all")
    assert (x[:, [0, 2]] == y[:, [0, 2]]).all()
    for i, state in enumerate(info.path[1:]):
        t = info.grid[i + 1]
        drawn = VPSDE().alpha(t) * y + VPSDE().sigma(t) * info.noise[i]
        expected = y.expand(5, 3) if i >= 18 else drawn
        torch.testing.assert_close(state[:, [0, 2]], expected[:, [0, 2]], rtol=0, atol=1e-15)


def test_free_entries_follow_the_solver():
    """With a separable denoiser the free entry is the one of the unguided run."""
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    den = denoiser(Process(VPSDE()))
    guided = sample(den, start, steps=6, guidance=Replace(Observation(MASK, y=torch.zeros(1, 3))))
    torch.testing.assert_close(guided[:, 1], sample(den, start, steps=6)[:, 1], rtol=0, atol=0)


def test_classes_and_symmetric_pairs_of_a_system():
    """Known classes at the end are the given ones; a known pair is set in both triangles."""
    process = Process(
        {
            "adj": (VPSDE(), Symmetric()),
            "z": Categorical([0.2, 0.3, 0.5]),
            "bond": Categorical([0.5, 0.5], space=Symmetric()),
        }
    )

    def network(x_t, t, cond):
        logits = torch.zeros(*x_t["z"].shape, 3), torch.zeros(*x_t["bond"].shape, 2)
        return {"adj": 0.5 * x_t["adj"], "z": logits[0], "bond": logits[1]}

    pair = torch.zeros(1, 4, 4, dtype=torch.bool)
    pair[0, 1, 2] = pair[0, 2, 1] = True
    site = torch.tensor([[True, False, False, True]])
    guide = Replace(
        [
            Observation(pair, y=torch.full((1, 4, 4), 0.9), component="adj"),
            Observation(site, y=torch.tensor([[2, 0, 0, 1]]), component="z"),
            Observation(pair, y=pair.long(), component="bond"),
        ]
    )
    shapes = {"adj": (6, 4, 4), "z": (6, 4), "bond": (6, 4, 4)}
    x = sample(Denoiser(network, process), shapes, steps=5, guidance=guide, solver_options={"final_denoise": True})
    assert (x["adj"][:, 1, 2] == 0.9).all()
    assert (x["adj"] == x["adj"].mT).all()
    assert (x["z"][:, 0] == 2).all()
    assert (x["z"][:, 3] == 1).all()
    assert (x["bond"][:, 1, 2] == 1).all()
    assert (x["bond"] == x["bond"].mT).all()


def test_known_classes_are_forward_draws_on_the_way():
    """At kappa(t) = 1 - t the share of kept classes is kappa + (1 - kappa) p within 4 standard errors, n = 4000."""
    process = Process({"z": Categorical([0.2, 0.3, 0.5])})
    den = Denoiser(lambda x, t, cond: {"z": torch.zeros(*x["z"].shape, 3)}, process)
    guide = Replace(Observation(torch.ones(1, 40, dtype=torch.bool), y=torch.zeros(1, 40), component="z"))
    state = {"z": torch.full((100, 40), 2)}
    guided = guide.wrap(den)
    guided(state, torch.full((100,), 0.5))
    x = guide.constrain(state, torch.tensor(0.4, dtype=torch.float64), NoiseSource(0, 100))
    share = (x["z"] == 0).double().mean()
    expected = 0.6 + 0.4 * 0.2
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5


@pytest.mark.parametrize("rotate", [False, True])
def test_fragment_keeps_its_shape_on_a_zero_mean_space(rotate):
    """Distances within the known part are those of y, the mean is zero; padding stays out."""
    process = Process(VPSDE(), space=ZeroMean())
    generator = torch.Generator().manual_seed(0)
    fragment = torch.randn(1, 6, 3, generator=generator, dtype=torch.float64) + 5.0
    known = torch.tensor([[True, True, True, False, False, False]])
    node_mask = torch.ones(4, 6, dtype=torch.bool)
    node_mask[1, 5] = False
    start = process.project(torch.randn(4, 6, 3, generator=generator, dtype=torch.float64), {"node_mask": node_mask})
    guide = Replace(Observation(known, y=fragment), rotate=rotate)
    x = sample(denoiser(process), start, steps=8, cond={"node_mask": node_mask}, guidance=guide)
    torch.testing.assert_close(torch.cdist(x[:, :3], x[:, :3])[2], torch.cdist(fragment[:, :3], fragment[:, :3])[0])
    assert x.sum(1).abs().max() < 1e-12
    assert (x[1, 5] == 0).all()


def test_noise_of_a_sample_does_not_depend_on_the_batch():
    den = denoiser(Process(VPSDE()))
    guide = Replace(Observation(MASK, y=torch.ones(1, 3)))
    both = sample(den, (2, 3), steps=5, seed=[7, 8], guidance=guide, save="all")[1].path[3]
    alone = sample(den, (1, 3), steps=5, seed=[8], guidance=guide, save="all")[1].path[3]
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=0)


def test_options_are_checked():
    with pytest.raises(ValueError, match="resample"):
        Replace(Observation(MASK, y=torch.ones(1, 3)), resample=0)
    with pytest.raises(ValueError, match="bool mask"):
        Replace(Observation(torch.eye(3), y=torch.ones(1, 3))).wrap(denoiser(Process(VPSDE())))


def test_resampling_lets_free_entries_follow_the_known_ones():
    """Correlation .9, x_a = 1 known: E[x_b] = .9. Replacement alone is biased; 8 passes halve the bias at least.

    The standard error of the mean of 4000 samples is .44/4000^.5 = .007.
    """
    cov = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    data = GaussianData(Process(VPSDE()), {"": (2,)}, torch.zeros(2, dtype=torch.float64), cov)
    observation = Observation(torch.tensor([[True, False]]), y=torch.ones(1, 2))
    start = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bias = [
        abs(
            sample(
                data.denoiser(),
                start,
                solver="ancestral",
                steps=20,
                guidance=Replace(observation, resample, jump=4),
            )[:, 1]
            .mean()
            .item()
            - 0.9
        )
        for resample in (1, 8)
    ]
    assert bias[0] > 0.1
    assert bias[1] < bias[0] / 2


def test_resampling_is_counted_and_restarts():
    """6 steps, stretches of 4 and 2, three passes each: 18 evaluations; the grid and the saved path keep 6 steps."""
    y = torch.ones(1, 3, dtype=torch.float64)
    guide = Replace(Observation(MASK, y=y), resample=3, jump=4)
    start = torch.zeros(2, 3, dtype=torch.float64)
    x, info = sample(denoiser(Process(VPSDE())), start, steps=6, guidance=guide, save="all")
    assert info.nfe == 18
    assert len(info.path) == 7
    assert (x[:, [0, 2]] == 1).all()


def test_without_redraw_known_entries_keep_their_noise():
    """With prediction y every ddim step is alpha y + sigma eps with the eps of the start: exact up to rounding."""
    process = Process(VPSDE())
    y = torch.tensor([[0.3, torch.nan, -0.4]], dtype=torch.float64)
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guide = Replace(Observation(MASK, y=y), redraw=False)
    _, info = sample(denoiser(process), start, solver="ddim", steps=20, guidance=guide, save="all")
    alpha, sigma = VPSDE().alpha(info.grid), VPSDE().sigma(info.grid)
    eps = (start - alpha[0] * y) / sigma[0]
    for i, state in enumerate(info.path[:18]):
        expected = alpha[i] * y + sigma[i] * eps
        torch.testing.assert_close(state[:, [0, 2]], expected[:, [0, 2]], rtol=0, atol=1e-13)


def test_self_conditioning_sees_what_is_known_and_restarts_with_each_pass():
    """Known entries of the earlier prediction equal y; the first evaluation of every pass has none."""
    process = Process({"x": VPSDE(), "z": Categorical([0.2, 0.3, 0.5])})
    seen = []

    def network(x_t, t, cond):
        seen.append({name: value.clone() for name, value in cond["self_cond"].items()})
        return {"x": 0.5 * x_t["x"] + 1.0, "z": torch.zeros(*x_t["z"].shape, 3)}

    guide = Replace(
        [
            Observation(MASK, y=torch.tensor([[0.3, 0.0, -0.4]]), component="x"),
            Observation(MASK, y=torch.tensor([[2, 0, 1]]), component="z"),
        ],
        resample=2,
        jump=2,
    )
    sample(Denoiser(network, process, self_conditioning=True), {"x": (4, 3), "z": (4, 3)}, steps=4, guidance=guide)
    assert len(seen) == 8
    for k, last in enumerate(seen):
        if k in (0, 2, 6):  # the start, and after each jump; pass 3 goes on from pass 2
            assert not last["x"].any()
            assert not last["z"].any()
            continue
        torch.testing.assert_close(last["x"][:, [0, 2]], torch.tensor([[0.3, -0.4]]).expand(4, 2), rtol=0, atol=1e-6)
        assert (last["z"][:, [0, 2]].argmax(-1) == torch.tensor([2, 1])).all()
        assert (last["z"][:, [0, 2]].amax(-1) > 1 - 1e-6).all()
        assert last["x"][:, 1].any()
