import math

import pytest
import torch

from scidiff import BrownianBridge, Custom, Denoiser, Interpolant, Linear, Process, Trig, sample
from scidiff.denoiser import PAIRS
from scidiff.interpolants import GAMMAS
from scidiff.samplers import solver_names
from tests.scidiff.closed_forms import F64, Mixture, MixturePair

DATA = Mixture()
BASE = Mixture(
    torch.tensor([0.4, 0.6], dtype=F64),
    torch.tensor([[0.5, -1.0], [-1.0, 1.5]], dtype=F64),
    torch.tensor([0.3, 0.15], dtype=F64),
)
PAIR = MixturePair(DATA, BASE)
TWO_SIDED = [
    *(Interpolant(path, gamma) for path in ("linear", "trig") for gamma in GAMMAS),
    Interpolant("linear", "brownian", scale=0.3),
    Interpolant("encoding_decoding", "sinesquared"),
]
MIRRORS = [Interpolant("mirror", gamma) for gamma in GAMMAS if gamma != "zero"]
ONE_SIDED = [Interpolant("one_sided_linear", "zero"), Interpolant("one_sided_trig", "zero")]
# times where every schedule is smooth (the encoding-decoding path is not at t = 1/2)
TIMES = [0.07, 0.31, 0.63, 0.92]


def state(seed=0, n=12):
    return 1.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


def full(t, n=12):
    return torch.full((n,), t, dtype=F64)


@pytest.mark.parametrize("schedule", [*TWO_SIDED, *MIRRORS, *ONE_SIDED], ids=repr)
def test_derivatives_are_finite_differences(schedule):
    t, h = torch.tensor(TIMES, dtype=F64), 1e-5
    for value, slope in (("alpha", "alpha_dot"), ("sigma", "sigma_dot"), ("endpoint", "endpoint_dot")):
        numeric = (getattr(schedule, value)(t + h) - getattr(schedule, value)(t - h)) / (2 * h)
        # truncation h^2/6 f''' with f''' below 1e3 here, round-off 1e-16/h
        torch.testing.assert_close(getattr(schedule, slope)(t), numeric, rtol=0, atol=2e-8)
    product = schedule.sigma(t) * schedule.sigma_dot(t)
    torch.testing.assert_close(schedule.sigma_sigma_dot(t), product, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("schedule", [*TWO_SIDED, *MIRRORS], ids=repr)
def test_path_starts_at_the_data_and_ends_at_the_base(schedule):
    ends = torch.tensor([0.0, 1.0], dtype=F64)
    is_mirror = schedule.path == "mirror"
    torch.testing.assert_close(schedule.alpha(ends), torch.tensor([1.0, float(is_mirror)], dtype=F64), rtol=0, atol=0)
    torch.testing.assert_close(
        schedule.endpoint(ends), torch.tensor([0.0, float(not is_mirror)], dtype=F64), rtol=0, atol=1e-15
    )
    assert not schedule.sigma(ends).any()
    assert torch.isfinite(schedule.sigma_sigma_dot(ends)).all()
    t = torch.linspace(0, 1, 101, dtype=F64)
    torch.testing.assert_close(schedule.sigma(t), schedule.sigma(1 - t), rtol=0, atol=1e-12)
    if schedule.path == "trig":  # unit variance if both ends have it
        total = schedule.alpha(t) ** 2 + schedule.endpoint(t) ** 2 + schedule.sigma(t) ** 2
        torch.testing.assert_close(total, torch.ones_like(t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("schedule", TWO_SIDED, ids=repr)
def test_velocity_obeys_the_continuity_equation(schedule, t):
    """d log p/dt = -div v - v . grad log p, with the density in closed form: neither side knows of the other."""
    x, h = state(), 1e-5

    def log_prob(x, t):
        time = full(t)[:, None]
        return PAIR.conditional(x, schedule.alpha(time), schedule.endpoint(time), schedule.sigma(time))[0]

    rate = (log_prob(x, t + h) - log_prob(x, t - h)) / (2 * h)
    x.requires_grad_(True)
    velocity, eps = PAIR.velocity_and_eps(schedule, x, full(t))
    (gradient,) = torch.autograd.grad(log_prob(x, t).sum(), x)
    divergence = sum(torch.autograd.grad(velocity[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
    expected = -divergence - (velocity * gradient).sum(1)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(rate.detach(), expected.detach(), rtol=0, atol=1e-6 * max(scale, 1.0))
    if schedule.gamma != "zero":
        sigma = schedule.sigma(full(t))[:, None]
        torch.testing.assert_close(-eps / sigma, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("schedule", [s for s in TWO_SIDED if s.gamma != "zero"], ids=repr)
def test_two_heads_give_velocity_and_score(schedule, pair):
    """velocity = E[alpha' x_0 + beta' x_1|x] - sigma sigma' score, whichever noise head the network has."""
    x, t = state(), full(0.31)
    time = t[:, None]
    a, b, s = schedule.alpha(time), schedule.endpoint(time), schedule.sigma(time)
    _, x_0, x_1, eps = PAIR.conditional(x, a, b, s)
    velocity, _ = PAIR.velocity_and_eps(schedule, x, t)
    score = -eps / s
    w = schedule.alpha_dot(time) * x_0 + schedule.endpoint_dot(time) * x_1
    torch.testing.assert_close(velocity, w - schedule.sigma_sigma_dot(time) * score, rtol=1e-9, atol=1e-9)
    heads = (velocity, score if pair[1] == "score" else eps)
    p = Denoiser(lambda *_: heads, Process(schedule), prediction=pair)(x, t)
    torch.testing.assert_close(p.velocity, velocity)
    torch.testing.assert_close(p.score, score, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.eps, eps, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="known endpoint"):
        _ = p.x0


@pytest.mark.parametrize("prediction", ["x0", "eps", "score", "v", "velocity", ("velocity", "eps")])
@pytest.mark.parametrize(
    "schedule", [s for s in TWO_SIDED if s.gamma != "zero" and s.path != "encoding_decoding"], ids=repr
)
def test_known_endpoint_gives_all_predictions(schedule, prediction):
    """Given x_1 the shifted state is a diffusion of the data: every prediction converts into every other."""
    x, x_1, t = state(), state(1), full(0.31)
    time = t[:, None]
    a, b, s = schedule.alpha(time), schedule.endpoint(time), schedule.sigma(time)
    y = x - b * x_1
    x_0 = DATA.x0(y, a[:, 0], s[:, 0])
    eps = (y - a * x_0) / s
    velocity = schedule.alpha_dot(time) * x_0 + schedule.endpoint_dot(time) * x_1 + schedule.sigma_dot(time) * eps
    raw = {"x0": x_0, "eps": eps, "score": -eps / s, "v": a * eps - s * x_0, "velocity": velocity}
    output = raw[prediction] if isinstance(prediction, str) else tuple(raw[k] for k in prediction)
    p = Denoiser(lambda *_: output, Process(schedule), prediction=prediction)(x, t, x_1=x_1)
    for kind in ("x0", "eps", "score", "velocity"):
        torch.testing.assert_close(getattr(p, kind), raw[kind], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", MIRRORS, ids=repr)
def test_mirror_velocity_is_minus_sigma_sigma_dot_score(schedule):
    x, t = state(), full(0.31)
    sigma = schedule.sigma(t)
    x_0 = DATA.x0(x, torch.ones_like(t), sigma)
    p = Denoiser(lambda *_: x_0, Process(schedule))(x, t)
    expected = -schedule.sigma_sigma_dot(t)[:, None] * (x_0 - x) / sigma[:, None] ** 2
    torch.testing.assert_close(p.velocity, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("schedule", "twin"), [(ONE_SIDED[0], Linear()), (ONE_SIDED[1], Trig())])
def test_one_sided_paths_are_linear_and_trig(schedule, twin):
    t = torch.linspace(0, 1, 11, dtype=F64)
    for name in ("alpha", "sigma", "endpoint"):
        torch.testing.assert_close(getattr(schedule, name)(t), getattr(twin, name)(t), rtol=0, atol=0)
    assert not schedule.has_endpoint


def test_linear_brownian_is_the_brownian_bridge():
    t = torch.linspace(0.01, 0.99, 11, dtype=F64)
    interpolant, bridge = Interpolant("linear", "brownian", scale=0.36), BrownianBridge(0.6)
    for name in ("alpha", "sigma", "endpoint", "sigma_dot", "sigma_sigma_dot"):
        torch.testing.assert_close(getattr(interpolant, name)(t), getattr(bridge, name)(t), rtol=1e-12, atol=1e-14)


def gaussian_pair(m0, v0, m1, v1):
    one = torch.ones(1, dtype=F64)
    return MixturePair(
        *(Mixture(one, torch.tensor([[m]], dtype=F64), torch.tensor([v], dtype=F64)) for m, v in ((m0, v0), (m1, v1)))
    )


def two_heads(pair, schedule):
    """Exact (velocity, eps) of a two-sided interpolant that does not see x_1."""
    return Denoiser(
        lambda x, t, cond: pair.velocity_and_eps(schedule, x, t), Process(schedule), prediction=("velocity", "eps")
    )


def test_flow_between_gaussians_is_the_monotone_map():
    """Independent coupling, linear path, brownian gamma: x_0 = m0 + sqrt(v0/v1)(x_1 - m1) exactly; order 2."""
    pair, schedule = gaussian_pair(1.0, 0.3, -2.0, 0.8), Interpolant("linear", "brownian")
    x_1 = torch.linspace(-4, 0, 9, dtype=F64)[:, None]
    exact = 1.0 + math.sqrt(0.3 / 0.8) * (x_1 + 2.0)
    den = two_heads(pair, schedule)
    errors = [
        float((sample(den, x_1, solver="heun", grid=torch.linspace(1, 0, n + 1, dtype=F64)) - exact).abs().max())
        for n in (150, 300, 600)
    ]
    assert errors[2] < 1e-5
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.1)


def test_independent_coupling_gives_curved_paths():
    """The straight line from x_1 to its image is not the path, although every conditional path is straight."""
    pair, schedule = gaussian_pair(1.0, 0.3, -2.0, 0.8), Interpolant("linear", "zero")
    x_1 = torch.tensor([[-3.5], [-0.5]], dtype=F64)
    grid = torch.linspace(1, 0, 201, dtype=F64)
    _, info = sample(
        Denoiser(lambda x, t, cond: pair.velocity_and_eps(schedule, x, t)[0], Process(schedule), prediction="velocity"),
        x_1,
        solver="heun",
        grid=grid,
        save="all",
    )
    path = torch.stack(info.path)
    line = path[0] + (1 - grid)[:, None, None] * (path[-1] - path[0])
    # exact middle: mean + sqrt((v0 + v1)/4 / v1) (x_1 - m1)
    middle = -0.5 + math.sqrt(0.275 / 0.8) * (x_1 + 2.0)
    torch.testing.assert_close(path[100], middle, rtol=0, atol=1e-4)
    assert (path[100] - line[100]).abs().min() > 0.1


@pytest.mark.parametrize("rate", ["sigma_squared", "sigma", "constant"])
def test_sde_lands_on_the_data_law(rate):
    """Any noise rate keeps the marginals; without the drift correction the variance would be off by more than 10 %."""
    n, pair, schedule = 8_000, gaussian_pair(1.0, 0.3, -2.0, 0.8), Interpolant("linear", "brownian")
    x_1 = -2.0 + math.sqrt(0.8) * torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    grid = torch.linspace(1 - 1e-3, 1e-3, 151, dtype=F64)
    options = {"rate": rate, "scale": 0.3 if rate == "constant" else 1.0}
    x = sample(two_heads(pair, schedule), x_1, solver="interpolant_sde", solver_options=options, grid=grid)
    # four standard errors, and weak order 1 at 150 steps
    assert float(x.mean()) == pytest.approx(1.0, abs=4 * (0.3 / n) ** 0.5 + 5e-3)
    assert float(x.var()) == pytest.approx(0.3, rel=4 * (2 / n) ** 0.5 + 0.02)


def test_ode_lands_between_mixtures():
    """Heun from draws of the base mixture: component shares and overall covariance of the data mixture."""
    n, schedule = 3000, Interpolant("trig", "sinesquared")
    generator = torch.Generator().manual_seed(0)
    x = sample(
        two_heads(PAIR, schedule), BASE.sample(n, generator), solver="heun", grid=torch.linspace(1, 0, 61, dtype=F64)
    )
    mean = DATA.weights @ DATA.means
    second = torch.einsum("k,ki,kj->ij", DATA.weights, DATA.means, DATA.means) + (
        DATA.weights @ DATA.variances
    ) * torch.eye(2)
    covariance = second - torch.outer(mean, mean)
    assert (x.mean(0) - mean).abs().max() < 4 * float(covariance.diagonal().max() / n) ** 0.5 + 0.01
    assert (torch.cov(x.T) - covariance).abs().max() < 4 * float(covariance.diagonal().max()) * (2 / n) ** 0.5 + 0.01


def test_x0_solvers_say_that_x_1_is_missing():
    schedule = Interpolant("linear", "brownian")
    den = two_heads(gaussian_pair(0.0, 1.0, 0.0, 1.0), schedule)
    x = torch.zeros(2, 1, dtype=F64)
    for solver in solver_names():
        if solver in ("euler", "heun", "rk45", "interpolant_sde"):
            continue
        with pytest.raises(ValueError, match="no x_1 of component"):
            sample(den, x, solver=solver, grid=torch.linspace(0.9, 0.1, 9, dtype=F64))
    with pytest.raises(ValueError, match="pass x_1"):
        sample(den, (2, 1), solver="heun", grid="uniform")


@pytest.mark.parametrize("gamma", ["bsquared", "sinesquared", "sigmoid", "zero"])
def test_known_point_needs_noise_that_dominates(gamma):
    """alpha/sigma must vanish at t = 1: else the state next to x_1 already depends on x_0."""
    den = Denoiser(lambda x, t, cond: x, Process(Interpolant("linear", gamma)))
    with pytest.raises(ValueError, match="too little noise"):
        sample(den, (2, 1), x_1=torch.zeros(2, 1), grid="uniform")


def test_custom_schedule_equals_its_closed_form():
    t = torch.linspace(0.05, 0.95, 7, dtype=F64)
    custom = Custom(lambda t: 1 - t, lambda t: 0.6 * (t * (1 - t)).sqrt(), lambda t: t)
    bridge = BrownianBridge(0.6)
    for name in (
        "alpha",
        "sigma",
        "endpoint",
        "alpha_dot",
        "sigma_dot",
        "endpoint_dot",
        "sigma_sigma_dot",
        "diffusion",
    ):
        torch.testing.assert_close(getattr(custom, name)(t), getattr(bridge, name)(t), rtol=1e-9, atol=1e-12)
    assert custom.has_endpoint
    assert not Custom(torch.cos, torch.sin).has_endpoint
    with pytest.raises(TypeError, match="callables"):
        custom.to_config()
    assert "Custom" in repr(custom)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("square", "zero"), "a path of"),
        (("linear", "loud"), "a gamma of"),
        (("encoding_decoding", "brownian"), "sinesquared"),
        (("one_sided_linear", "brownian"), "Gaussian base"),
        (("mirror", "zero"), "does not move"),
        (("linear", "brownian", -1.0), "scale > 0"),
        (("trig", "brownian", 5.0), "gamma <= 1"),
    ],
)
def test_designs_that_do_not_fit_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        Interpolant(*arguments)


def test_grids_in_lambda_refuse_paths_without_one():
    den = Denoiser(lambda x, t, cond: x, Process(MIRRORS[0]))
    with pytest.raises(ValueError, match="uniform"):
        sample(den, torch.zeros(2, 1), grid="logsnr")
    with pytest.raises(ValueError, match="pair of"):
        Denoiser(lambda *_: 0, Process(Linear()), prediction=("score", "velocity"))
