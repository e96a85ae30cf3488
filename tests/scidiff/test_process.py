"""Processes: perturbation, priors, systems, refusals."""

import warnings

import pytest
import torch

from scidiff import (
    EDM,
    VESDE,
    VPSDE,
    Categorical,
    Component,
    GaussianNoise,
    Linear,
    Masked,
    NoiseSource,
    Process,
    StudentTNoise,
    Symmetric,
    ZeroMean,
)
from scidiff.losses import TimeLaw
from scidiff.schedules import Schedule

F64 = torch.float64


class Bridge(Schedule):
    """A schedule with a known end."""

    t_max = 0.99

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return 0.5 * (t * (1 - t)).sqrt()

    def endpoint(self, t):
        return t.clone()


def system():
    return Process({"x": (VPSDE(), ZeroMean()), "e": (VESDE(), Symmetric()), "z": Categorical([0.5, 0.3, 0.2])})


def clean(generator):
    return {
        "x": ZeroMean().project(torch.randn(4, 3, 2, generator=generator, dtype=F64), None),
        "e": Symmetric().project(torch.randn(4, 3, 3, generator=generator, dtype=F64), None),
        "z": torch.randint(3, (4, 3), generator=generator),
    }


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_perturb_is_the_defining_formula(generator):
    x_0, t = torch.randn(5, 3, generator=generator, dtype=F64), torch.rand(5, generator=generator, dtype=F64)
    x_t, eps = Process(VPSDE()).perturb(x_0, t, generator=generator)
    schedule = VPSDE()
    assert torch.equal(x_t, schedule.alpha(t)[:, None] * x_0 + schedule.sigma(t)[:, None] * eps)
    again, same = Process(VPSDE()).perturb(x_0, t, eps=eps)
    assert torch.equal(again, x_t)
    assert same is eps
    mirrored, _ = Process(VPSDE()).perturb(x_0, t, eps=-eps)  # antithetic pairs
    torch.testing.assert_close(mirrored + x_t, 2 * schedule.alpha(t)[:, None] * x_0)


def test_perturb_adds_a_known_endpoint(generator):
    x_0, x_1 = torch.randn(2, 5, 3, generator=generator, dtype=F64)
    t = torch.full((5,), 0.25, dtype=F64)
    x_t, eps = Process(Bridge()).perturb(x_0, t, generator=generator, x_1=x_1)
    torch.testing.assert_close(x_t, 0.75 * x_0 + 0.25 * x_1 + 0.5 * (0.25 * 0.75) ** 0.5 * eps)
    with pytest.raises(ValueError, match="pass x_1="):
        Process(Bridge()).perturb(x_0, t)


def test_vector_times_and_dicts_of_times(generator):
    """(B, elements) acts on the second axis; components may have their own times."""
    x_0 = clean(generator)
    t = {"x": torch.zeros(4, 3, dtype=F64), "e": torch.ones(4, dtype=F64), "z": torch.zeros(4, dtype=F64)}
    t["x"][:, 1] = 0.5
    x_t, eps = system().perturb(x_0, t, generator=generator)
    assert torch.equal(x_t["x"][:, [0, 2]], x_0["x"][:, [0, 2]])
    assert not bool((x_t["x"][:, 1] == x_0["x"][:, 1]).any())
    assert torch.equal(x_t["z"], x_0["z"])
    assert set(eps) == {"x", "e"}
    torch.testing.assert_close(x_t["e"], x_0["e"] + 50 * eps["e"], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(eps["x"].mean(1), torch.zeros(4, 2, dtype=F64), rtol=0, atol=1e-15)


def test_noise_of_an_own_generator_leaves_the_global_one_alone(generator):
    state = torch.get_rng_state()
    system().perturb(clean(generator), torch.full((4,), 0.5), generator=generator)
    system().prior(clean(generator), NoiseSource(0, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_fixed_entries_keep_their_values(generator):
    process, live = Process(EDM(), space=Masked()), torch.tensor([[True, False, True]] * 4)
    x_0 = torch.randn(4, 3, generator=generator)
    x_t, eps = process.perturb(x_0, torch.ones(4), generator=generator, cond={"live": live})
    prior = process.prior(x_0, NoiseSource(0, 4), {"live": live})
    for value in (x_t, prior):
        assert torch.equal(value[:, 1], x_0[:, 1])
        assert not bool((value[:, 0] == x_0[:, 0]).any())
    assert not bool(eps[:, 1].any())


def test_priors_have_their_scale():
    """4 standard errors of a variance; classes 4 standard errors of a frequency."""
    n = 40_000
    process = Process({"x": VPSDE(0.1, 1.0), "y": VESDE(0.01, 30.0), "z": Categorical([0.5, 0.3, 0.2])})
    like = {"x": torch.zeros(n, 1), "y": torch.zeros(n, 1), "z": torch.zeros(n, 1, dtype=torch.int64)}
    state = process.prior(like, NoiseSource(0, n))
    for name, std in (("x", 1.0), ("y", 30.0)):
        assert float(state[name].var()) / std**2 == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
    frequencies = torch.bincount(state["z"].flatten(), minlength=3) / n
    assert float((frequencies - torch.tensor([0.5, 0.3, 0.2])).abs().max()) < 4 * (0.25 / n) ** 0.5
    bridge = Process(Bridge()).prior(torch.zeros(2, 3), NoiseSource(0, 2), x_1=torch.ones(2, 3))
    assert torch.equal(bridge, torch.ones(2, 3))  # a bridge starts at its end exactly


def test_short_forms_of_components():
    long = Process({"x": Component(VPSDE(), GaussianNoise(), ZeroMean())})
    for entry in ((VPSDE(), ZeroMean()), (VPSDE(), GaussianNoise(), ZeroMean()), [VPSDE(), ZeroMean()]):
        component, wanted = Process({"x": entry}).components["x"], long.components["x"]
        assert repr(component.space) == repr(wanted.space)
        assert repr(component.law) == repr(wanted.law)
    assert repr(Process(VPSDE(), space=ZeroMean()).components[""].space) == repr(wanted.space)
    twin = Process.from_config(system().to_config())
    assert repr(twin.components) == repr(system().components)


@pytest.mark.parametrize("entry", ["vp", (ZeroMean(),), (VPSDE(), VPSDE()), (VPSDE(), 3)])
def test_bad_components_are_refused(entry):
    with pytest.raises(TypeError, match="a component is"):
        Process({"x": entry})


@pytest.mark.parametrize(
    ("schedule", "warns"),
    [(VPSDE(), False), (VPSDE(0.1, 1.0), True), (EDM(), False), (VESDE(0.2, 1.0), True), (Linear(), False)],
    ids=repr,
)
def test_check_warns_where_the_prior_is_not_reached(schedule, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Process(schedule).check()
    assert bool(caught) == warns


def test_split_and_join():
    process, x = Process(VPSDE()), torch.zeros(2, 3)
    assert process.join(process.split(x)) is x
    assert process.split(None) == {}
    state = {"x": x, "e": x, "z": x}
    assert system().join(system().split(state)) == state


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_generator_on_the_cpu_serves_states_on_every_device(device):
    """Same numbers as for a state on the CPU, and the generator has moved by as much."""
    process = Process({**system().components, "s": (VPSDE(), StudentTNoise(3.0))})
    x_0 = clean(torch.Generator().manual_seed(0))
    x_0, t = {**x_0, "s": x_0["x"]}, torch.full((4,), 0.4, dtype=F64)
    there = {name: value.to(device) for name, value in x_0.items()}
    own, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    x_t, eps = process.perturb(x_0, t, generator=own)
    y_t, noise = process.perturb(there, t.to(device), generator=other)
    assert torch.equal(own.get_state(), other.get_state())
    assert all(value.device.type == device for value in (*y_t.values(), *noise.values()))
    times = TimeLaw().sample(8, VPSDE(), generator=torch.Generator().manual_seed(2), device=device)
    assert times.device.type == device
    if device != "meta":
        for name, value in x_t.items():
            torch.testing.assert_close(y_t[name].cpu(), value, rtol=1e-12, atol=1e-12)
        for name, value in eps.items():
            torch.testing.assert_close(noise[name].cpu(), value, rtol=1e-12, atol=1e-12)
        assert torch.equal(times.cpu(), TimeLaw().sample(8, VPSDE(), generator=torch.Generator().manual_seed(2)))
