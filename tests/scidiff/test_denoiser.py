"""Conversions between predictions: agreement on an oracle, singular ends, gradients, systems."""

import pytest
import torch

from scidiff import (
    EDM,
    VESDE,
    VPSDE,
    Cosine,
    Denoiser,
    DiscreteVP,
    Linear,
    Process,
    SubVPSDE,
    Symmetric,
    Trig,
    ZeroMean,
)
from scidiff.denoiser import PREDICTIONS
from scidiff.oracles import GaussianOracle, MixtureOracle
from scidiff.preconditioning import coefficients, iddpm_levels

F64 = torch.float64
QUANTITIES = ("x0", "eps", "score", "velocity")
SCHEDULES = [
    VPSDE(),
    SubVPSDE(),
    VESDE(0.02, 20.0),
    EDM(),
    Cosine(),
    Cosine(nu=2.5, power=2.0),
    DiscreteVP.polynomial(num_levels=50),
    Linear(),
    Trig(),
]
KINDS = [(kind, "edm") for kind in PREDICTIONS] + [("edm", "vp"), ("edm", "ve")]


def oracle():
    return GaussianOracle([1.0, -0.5], [[0.8, 0.3], [0.3, 0.4]])


@pytest.mark.parametrize(("kind", "preconditioning"), KINDS, ids=lambda v: str(v))
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_predictions_agree_at_interior_times(schedule, kind, preconditioning):
    """x0, eps, score and velocity from every kind equal the oracle's, at times with sigma/alpha between .01 and 100.

    A conversion loses at most the ratio rho or 1/rho in digits: 1e-16 * 1e2 * 1e2, and the inverse of c_noise as much.
    """
    exact, process = oracle(), Process(schedule)
    lam = torch.linspace(-4.0, 4.0, 9, dtype=F64).clamp(
        *(0.5 * schedule.log_snr(torch.tensor([0.999, 0.001]).double()))
    )
    t = schedule.time(lam)
    x = torch.randn(len(t), 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    x = schedule.alpha(t)[:, None] * x + schedule.sigma(t)[:, None] * x.flip(0)
    prediction = exact.denoiser(process, kind, data_std=0.7, preconditioning=preconditioning)(x, t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    wanted = {"x0": exact.posterior_mean(x, alpha, sigma), "score": exact.score(x, alpha, sigma)}
    wanted["eps"] = -sigma[:, None] * wanted["score"]
    wanted["velocity"] = schedule.alpha_dot(t)[:, None] * wanted["x0"] + schedule.sigma_dot(t)[:, None] * wanted["eps"]
    for name in QUANTITIES:
        torch.testing.assert_close(getattr(prediction, name), wanted[name], rtol=1e-9, atol=1e-9)


def test_iddpm_coefficients():
    """The table of Karras et al. 2022, table 1: u_M = 0, falling, u_0 near 20291; c_noise counts from the noise end."""
    levels = iddpm_levels()
    assert levels[-1] == 0
    assert bool((levels.diff() < 0).all())
    assert float(levels[0]) == pytest.approx(20291, rel=1e-4)
    rho = levels[[0, 400, 999]]
    values = coefficients("iddpm", torch.ones(3, dtype=F64), rho, torch.zeros(3, dtype=F64))
    assert values.noise.tolist() == [999, 599, 0]
    torch.testing.assert_close(values.scale, (1 + rho**2).rsqrt())
    torch.testing.assert_close(values.out, -rho)


def test_edm_coefficients_have_unit_variances():
    """c_in makes the input, c_out the target, of unit variance, for data of std sd (Karras et al. 2022, B.6)."""
    alpha, sigma, sd = torch.tensor(0.6, dtype=F64), torch.tensor(0.9, dtype=F64), 0.5
    c = coefficients("edm", alpha, sigma, torch.zeros((), dtype=F64), sd)
    assert float(c.scale**2 * (alpha**2 * sd**2 + sigma**2)) == pytest.approx(1, rel=1e-14)
    target = (1 - c.skip * alpha) ** 2 * sd**2 + c.skip**2 * sigma**2
    assert float(target / c.out**2) == pytest.approx(1, rel=1e-14)
    assert float(c.noise) == pytest.approx(float((sigma / alpha).log() / 4), rel=1e-14)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("schedule", [VPSDE(), Linear(), EDM(), Cosine()], ids=lambda s: type(s).__name__)
def test_clean_end_is_finite_with_finite_gradients(schedule, kind):
    """sigma = 0: x0 = x/alpha, eps = 0; an infinity in an unselected branch would poison the gradient."""
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=F64).requires_grad_(True)
    weight = torch.ones((), dtype=F64, requires_grad=True)
    den = Denoiser(lambda x, t, cond: weight * x + t[:, None], Process(schedule), kind)
    p = den(x, torch.zeros(3, dtype=F64))
    assert torch.equal(p.x0, x)
    assert not bool(p.eps.any())
    assert bool(torch.isfinite(p.velocity).all())
    (p.x0.sum() + p.eps.sum() + p.velocity.sum()).backward()
    assert bool(torch.isfinite(x.grad).all())
    assert bool(torch.isfinite(weight.grad).all())


@pytest.mark.parametrize("kind", ["x0", "v", "velocity", "edm"])
@pytest.mark.parametrize("schedule", [Linear(), Trig(), Cosine(), Cosine(power=2.0)], ids=lambda s: repr(s)[:40])
def test_noise_end_without_signal_is_exact(schedule, kind):
    """alpha = 0: x0 is the data mean, eps = x."""
    if kind == "velocity" and schedule.to_config()["init_args"].get("power") == 2.0:
        pytest.skip("alpha' = 0 at t = 1: the velocity holds no information about x0 there")
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    p = oracle().denoiser(Process(schedule), kind)(x, torch.ones(4, dtype=F64))
    # the time of c_noise is bounded at rho = e^18, where alpha ~ 1.5e-8
    tolerance = 1e-7 if kind == "edm" else 1e-12
    torch.testing.assert_close(p.x0, oracle().means.expand(4, 2), rtol=0, atol=tolerance)
    torch.testing.assert_close(p.eps, x, rtol=0, atol=tolerance)


def test_gradients_at_the_noise_end_are_finite():
    """Guidance differentiates x0(x) also where alpha = 0."""
    x = torch.ones(2, 2, dtype=F64, requires_grad=True)
    for kind in ("x0", "v", "velocity"):
        p = oracle().denoiser(Process(Linear()), kind)(x, torch.ones(2, dtype=F64))
        (gradient,) = torch.autograd.grad(p.x0.sum(), x)
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_float32_agrees_with_float64(kind):
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    t = torch.linspace(0.1, 0.9, 5, dtype=F64)
    den = oracle().denoiser(Process(VPSDE()), kind)
    single, double = den(x.float(), t.float()), den(x, t.float().double())
    for name in QUANTITIES:
        value = getattr(single, name)
        assert value.dtype == torch.float32
        # alpha(.9) = .017: eps loses two digits on the way to x0
        torch.testing.assert_close(value.double(), getattr(double, name), rtol=1e-4, atol=1e-4)


def test_vector_times_act_elementwise():
    """One time per element equals separate calls with that time, for an elementwise network."""
    den = Denoiser(lambda x, t, cond: torch.tanh(x), Process(VPSDE()), "eps")
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    t = torch.tensor([[0.1, 0.5, 0.0], [0.9, 0.3, 0.7]], dtype=F64)
    whole = den(x, t)
    for j in range(3):
        part = den(x[:, j], t[:, j])
        for name in ("x0", "eps", "velocity"):
            assert torch.equal(getattr(whole, name)[:, j], getattr(part, name))


def test_systems_with_own_times_and_kinds():
    """A system with a dict of times and a dict of predictions equals its parts."""
    process = Process({"x": (VPSDE(), ZeroMean()), "y": (VESDE(), Symmetric())})
    generator = torch.Generator().manual_seed(0)
    x = ZeroMean().project(torch.randn(3, 4, 2, generator=generator, dtype=F64), None)
    y = Symmetric().project(torch.randn(3, 4, 4, generator=generator, dtype=F64), None)
    t = {"x": torch.full((3,), 0.4, dtype=F64), "y": torch.tensor([0.0, 0.5, 1.0], dtype=F64)}
    den = Denoiser(lambda s, t, c: {k: v.sin() for k, v in s.items()}, process, {"x": "eps", "y": "score"})
    whole = den({"x": x, "y": y}, t)
    alone = {
        "x": Denoiser(lambda s, t, c: s.sin(), Process(VPSDE(), space=ZeroMean()), "eps")(x, t["x"]),
        "y": Denoiser(lambda s, t, c: s.sin(), Process(VESDE(), space=Symmetric()), "score")(y, t["y"]),
    }
    for name in QUANTITIES:
        for key, part in alone.items():
            assert torch.equal(getattr(whole, name)[key], getattr(part, name))
    assert float(whole.eps["x"].mean(1).abs().max()) < 1e-15
    assert torch.equal(whole.x0["y"], whole.x0["y"].transpose(1, 2))


def test_oracles_on_constrained_spaces():
    """On zero-mean and symmetric states the exact score is the gradient of the log density in free coordinates."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.svd(torch.eye(3, dtype=F64) - 1 / 3)[0][:, :2]
    reduced = MixtureOracle(
        [0.4, 0.6], [[1.0, -1.0], [0.0, 2.0]], [torch.eye(2).tolist(), (0.1 * torch.eye(2)).tolist()]
    )
    full = reduced.mapped(basis)
    full.event_shape = (3, 1)
    u, t = torch.randn(5, 2, generator=generator, dtype=F64), torch.full((5,), 0.3, dtype=F64)
    p = full.denoiser(Process(VPSDE(), space=ZeroMean()))((u @ basis.T)[..., None], t)
    alpha, sigma = VPSDE().alpha(t), VPSDE().sigma(t)
    torch.testing.assert_close(p.score[..., 0], reduced.score(u, alpha, sigma) @ basis.T, rtol=1e-10, atol=1e-10)
    pair = GaussianOracle(torch.zeros(2, 2), torch.tensor([[0.0] * 4, [0, 1, 1, 0], [0, 1, 1, 0], [0.0] * 4]))
    e = Symmetric().project(torch.randn(5, 2, 2, generator=generator, dtype=F64), None)
    p = pair.denoiser(Process(VPSDE(), space=Symmetric()))(e, t)
    gain = alpha / (alpha**2 + sigma**2)  # one pair of unit variance under noise of unit variance
    torch.testing.assert_close(p.x0, gain[:, None, None] * e, rtol=1e-12, atol=1e-12)


def test_bad_predictions_are_refused():
    with pytest.raises(ValueError, match="must be one of"):
        Denoiser(lambda x, t, c: x, Process(VPSDE()), "noise")
    with pytest.raises(ValueError, match="names \\['y'\\]"):
        Denoiser(lambda x, t, c: x, Process({"x": VPSDE()}), {"y": "eps"})
    assert repr(Denoiser(lambda x, t, c: x, Process(VPSDE()))) == "Denoiser(...)"
