import pytest
import torch

from scidiff import VPSDE, Categorical, Denoiser, Process, sample
from scidiff.guidance import Auto, AutoGuidance, ClassifierFree

TIMES = torch.tensor([0.05, 0.4, 0.9])


def network(x_t, t, cond):
    """Depends on the condition through ``shift`` and on the mask, which must never be dropped."""
    shift = cond.get("shift", torch.zeros(1, 1))
    assert "node_mask" in cond
    return {"x": 0.3 * x_t["x"] + shift[..., None], "z": torch.stack([shift + 0 * x_t["z"], 2.0 * x_t["z"]], -1)}


@pytest.fixture
def setting():
    den = Denoiser(network, Process({"x": VPSDE(), "z": Categorical([0.5, 0.5])}))
    state = {"x": torch.linspace(-1, 1, 12).reshape(3, 2, 2), "z": torch.tensor([[0, 1], [1, 1], [0, 0]])}
    cond = {"shift": torch.tensor([[1.0], [2.0], [3.0]]), "node_mask": torch.ones(3, 2, dtype=torch.bool)}
    return den, state, cond


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_one_is_conditional_and_zero_unconditional(setting, scale):
    den, state, cond = setting
    guided = ClassifierFree(scale).wrap(den)(state, TIMES, cond)
    conditional = den(state, TIMES, cond)
    free = den(state, TIMES, {"node_mask": cond["node_mask"]})
    for name in ("x", "z"):
        a, b = (p.logits[name] if name == "z" else p.x0[name] for p in (conditional, free))
        value = guided.logits[name] if name == "z" else guided.x0[name]
        torch.testing.assert_close(value, b + scale * (a - b))
    if scale == 1:
        torch.testing.assert_close(guided.x0["x"], conditional.x0["x"], rtol=0, atol=0)


def test_interval_is_open_below_and_closed_above(setting):
    """w inside (lo, hi] of sigma/alpha, 1 outside; the bounds are put on the values at the three times."""
    den, state, cond = setting
    schedule = den.process.continuous["x"].schedule
    ratio = (schedule.sigma(TIMES.double()) / schedule.alpha(TIMES.double())).tolist()
    guided = ClassifierFree(3.0, interval=(ratio[0], ratio[1])).wrap(den)(state, TIMES, cond)
    full, plain = ClassifierFree(3.0).wrap(den)(state, TIMES, cond), den(state, TIMES, cond)
    torch.testing.assert_close(guided.x0["x"][[0, 2]], plain.x0["x"][[0, 2]], rtol=0, atol=0)
    torch.testing.assert_close(guided.x0["x"][1], full.x0["x"][1], rtol=0, atol=0)
    # of the class: kappa = 1 - t, so (1 - kappa)/kappa = t/(1 - t) = .053, .67, 9
    bounded = ClassifierFree(3.0, interval=(0.06, 1.0)).wrap(den)(state, TIMES, cond)
    torch.testing.assert_close(bounded.logits["z"][1], full.logits["z"][1])
    torch.testing.assert_close(bounded.logits["z"][[0, 2]], plain.logits["z"][[0, 2]], rtol=0, atol=0)


def test_keys_choose_what_is_dropped(setting):
    den, state, cond = setting
    with pytest.raises(ValueError, match="no condition to drop"):
        ClassifierFree(2.0).wrap(den)(state, TIMES, {"node_mask": cond["node_mask"]})
    with pytest.raises(ValueError, match="no condition to drop"):
        ClassifierFree(2.0, keys=("label",)).wrap(den)(state, TIMES, cond)
    named = ClassifierFree(2.0, keys=("shift",)).wrap(den)(state, TIMES, cond)
    torch.testing.assert_close(named.x0["x"], ClassifierFree(2.0).wrap(den)(state, TIMES, cond).x0["x"])
    with pytest.raises(ValueError, match="lo < hi"):
        ClassifierFree(2.0, interval=(2.0, 1.0))


def test_evaluations_are_counted(setting):
    den, state, cond = setting
    calls = []
    counted = Denoiser(lambda *a: calls.append(1) or network(*a), den.process)
    _, info = sample(counted, state, steps=3, cond=cond, guidance=ClassifierFree(2.0), save="none")
    assert info.nfe == len(calls) == 6


def test_auto_guidance_extrapolates_away_from_the_worse_model():
    process = Process(VPSDE())
    good, bad = (Denoiser(lambda x, t, cond, a=a: a * x, process) for a in (0.5, 0.2))
    x = torch.ones(3, 2)
    torch.testing.assert_close(AutoGuidance(bad, 3.0).wrap(good)(x, TIMES).x0, (0.2 + 3 * 0.3) * x)
    torch.testing.assert_close(Auto(bad, 1.0).wrap(good)(x, TIMES).x0, 0.5 * x)
    with pytest.raises(ValueError, match="components"):
        Auto(Denoiser(network, Process({"x": VPSDE()})), 2.0).wrap(good)
