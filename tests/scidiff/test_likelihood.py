import math

import pytest
import torch

from scidiff import (
    EDM,
    VPSDE,
    BrownianBridge,
    Categorical,
    Denoiser,
    GaussianNoise,
    Interpolant,
    Linear,
    Masked,
    MeanReverting,
    Process,
    StudentTNoise,
    Symmetric,
    ZeroMean,
    log_prob,
)
from tests.scidiff.closed_forms import F64, MEANS, POINTS, Mixture, MixturePair, Points, network

TARGET = Mixture()
RTOL, NATS = 1e-8, 1e-5
GENERATOR = torch.Generator


def coefficients(schedule, t):
    time = torch.tensor(t, dtype=F64)
    return float(schedule.alpha(time)), float(schedule.sigma(time))


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [(VPSDE(), "x0"), (VPSDE(), "eps"), (EDM(0.02, 20.0), "x0"), (Linear(), "velocity")],
    ids=["vp-x0", "vp-eps", "edm", "linear-velocity"],
)
def test_density_of_a_mixture(schedule, prediction):
    """Given the exact terminal density as prior the result is the mixture's density at t_min."""
    process = Process(schedule)
    exact = network(TARGET, process)

    def predict(x, t, cond):
        x_0, time = exact(x, t, cond), t[:, None]
        eps = (x - schedule.alpha(time) * x_0) / schedule.sigma(time)
        if prediction == "velocity":
            return schedule.alpha_dot(time) * x_0 + schedule.sigma_dot(time) * eps
        return x_0 if prediction == "x0" else eps

    x = TARGET.sample(6, GENERATOR().manual_seed(0))
    alpha, sigma = coefficients(schedule, schedule.t_min)
    last = coefficients(schedule, 1.0)
    den = Denoiser(predict, process, prediction=prediction)
    result = log_prob(den, x, prior=lambda y: TARGET.log_prob(y, *last), rtol=RTOL)
    torch.testing.assert_close(result, TARGET.log_prob(x, alpha, sigma), rtol=0, atol=NATS)


@pytest.mark.parametrize("D", [8.0, 128.0])
def test_density_of_points_under_poisson_flow(D):
    """PFGM++: the flow is exact for Student-t marginals, for every D."""
    schedule, target = EDM(0.3, 20.0), Points(D)
    process = Process(schedule, StudentTNoise(D))
    x = POINTS.repeat(2, 1) + 0.3 * StudentTNoise(D).sample((6, 2), generator=GENERATOR().manual_seed(1), dtype=F64)
    den = Denoiser(network(target, process), process)
    result = log_prob(den, x, prior=lambda y: target.log_prob(y, 20.0), rtol=RTOL)
    torch.testing.assert_close(result, target.log_prob(x, 0.3), rtol=0, atol=NATS)
    gaussian = log_prob(den, x, prior=lambda y: GaussianNoise().log_prob(y, 20.0), rtol=1e-6)
    assert (gaussian - result).abs().max() > 1e-3 if D == 8.0 else True


def test_default_prior_of_poisson_flow_is_student():
    """At sigma_max = 20 three points near 0 look like one: their mixture is within 1e-2 nats of t_D(0, 400 I)."""
    schedule, target = EDM(0.3, 20.0), Points(8.0)
    process = Process(schedule, StudentTNoise(8.0))
    den = Denoiser(network(target, process), process)
    x = POINTS + 0.1
    torch.testing.assert_close(log_prob(den, x), target.log_prob(x, 0.3), rtol=0, atol=0.02)


def test_density_of_a_two_sided_interpolant():
    """The base is a mixture that the network does not see; its own density is the prior."""
    base = Mixture(
        torch.tensor([0.5, 0.5], dtype=F64),
        torch.tensor([[0.0, 1.0], [1.0, -1.0]], dtype=F64),
        torch.tensor([0.4, 0.2], dtype=F64),
    )
    pair, schedule = MixturePair(TARGET, base), Interpolant("trig", "bsquared")
    den = Denoiser(
        lambda x, t, cond: pair.velocity_and_eps(schedule, x, t)[0], Process(schedule), prediction="velocity"
    )
    x = TARGET.sample(5, GENERATOR().manual_seed(0))
    result = log_prob(den, x, prior=lambda y: base.log_prob(y, 1.0, 0.0), rtol=RTOL, t_min=0.0)
    torch.testing.assert_close(result, TARGET.log_prob(x, 1.0, 0.0), rtol=0, atol=NATS)
    with pytest.raises(ValueError, match="prior="):
        log_prob(den, x)


def test_known_endpoint_gives_the_conditional_density():
    schedule = MeanReverting(0.7)
    x_1 = torch.randn(4, 2, generator=GENERATOR().manual_seed(3), dtype=F64)
    process = Process(schedule)
    den = Denoiser(network(TARGET, process, x_1), process)
    t_min = torch.tensor(schedule.t_min, dtype=F64)
    shift = float(schedule.endpoint(t_min)) * x_1
    x = TARGET.sample(4, GENERATOR().manual_seed(0)) + shift
    end = float(schedule.endpoint(torch.ones((), dtype=F64)))
    last = coefficients(schedule, 1.0)
    result = log_prob(den, x, x_1=x_1, prior=lambda y: TARGET.log_prob(y - end * x_1, *last), rtol=RTOL)
    expected = TARGET.log_prob(x - shift, *coefficients(schedule, schedule.t_min))
    torch.testing.assert_close(result, expected, rtol=0, atol=NATS)
    # the default prior counts the 1 % that is left of x_0 - x_1 as 0
    assert (log_prob(den, x, x_1=x_1) - expected).abs().max() < 0.2


def test_bridge_has_no_density_of_its_own():
    den = Denoiser(lambda x, t, cond: x, Process(BrownianBridge()))
    with pytest.raises(ValueError, match="ends at a point"):
        log_prob(den, torch.zeros(1, 2, dtype=F64), x_1=torch.zeros(1, 2, dtype=F64), t_max=1.0)


def gaussian_network(schedule, covariance):
    """E[x_0|x] for x_0 ~ N(0, C) along the last axis."""

    def predict(x, t, cond):
        a, s = schedule.alpha(t), schedule.sigma(t)
        eye = torch.eye(len(covariance), dtype=F64)
        total = a[:, None, None] ** 2 * covariance + s[:, None, None] ** 2 * eye
        gain = a[:, None, None] * torch.linalg.solve(total, covariance.expand_as(total))
        flat = x.reshape(len(x), -1, x.shape[-1])
        return (flat @ gain).reshape(x.shape)

    return predict


def normal(x, covariance):
    return torch.distributions.MultivariateNormal(torch.zeros(len(covariance), dtype=F64), covariance).log_prob(x)


COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64)


def terminal(schedule, t, covariance):
    a, s = coefficients(schedule, t)
    return a**2 * covariance + s**2 * torch.eye(len(covariance), dtype=F64)


def test_density_on_the_zero_mean_space_with_padding():
    """Clouds of independent 2-D points, centred: (n - 1) copies of the point's law in an orthonormal basis."""
    schedule, counts = VPSDE(), (4, 3)
    process = Process(schedule, GaussianNoise(), ZeroMean())
    den = Denoiser(gaussian_network(schedule, COVARIANCE), process)
    mask = torch.tensor([[True] * n + [False] * (4 - n) for n in counts])
    x, expected = torch.zeros(2, 4, 2, dtype=F64), torch.zeros(2, dtype=F64)
    ends = {}
    for k, n in enumerate(counts):
        basis = torch.linalg.svd(torch.ones(1, n, dtype=F64)).Vh[1:]
        values = torch.randn(n - 1, 2, generator=GENERATOR().manual_seed(k), dtype=F64)
        x[k, :n] = basis.T @ values
        ends[k] = basis
        expected[k] = normal(values, terminal(schedule, schedule.t_min, COVARIANCE)).sum()

    def prior(y):
        last = terminal(schedule, 1.0, COVARIANCE)
        return torch.stack([normal(ends[k] @ y[k, :n], last).sum() for k, n in enumerate(counts)])

    result = log_prob(den, x, cond={"node_mask": mask}, prior=prior, rtol=RTOL)
    torch.testing.assert_close(result, expected, rtol=0, atol=NATS)
    alone = log_prob(
        den,
        x[1:, :3],
        prior=lambda y: normal(ends[1] @ y[0], terminal(schedule, 1.0, COVARIANCE)).sum()[None],
        rtol=RTOL,
    )
    torch.testing.assert_close(result[1:], alone, rtol=0, atol=1e-9)


def test_density_of_symmetric_matrices_counts_each_pair_once():
    schedule = VPSDE()
    process = Process(schedule, GaussianNoise(), Symmetric())
    variance = torch.tensor([[0.3]], dtype=F64)
    den = Denoiser(lambda x, t, cond: gaussian_network(schedule, variance)(x[..., None], t, cond)[..., 0], process)
    upper = torch.randn(3, 3, 3, generator=GENERATOR().manual_seed(0), dtype=F64).triu(1)
    pairs = torch.triu_indices(3, 3, 1)
    first, last = (terminal(schedule, t, variance) for t in (schedule.t_min, 1.0))

    def density(y, covariance):
        return normal(y[:, pairs[0], pairs[1]].unsqueeze(-1), covariance).sum(1)

    x = upper + upper.transpose(1, 2)
    result = log_prob(den, x, prior=lambda y: density(y, last), rtol=RTOL)
    torch.testing.assert_close(result, density(x, first), rtol=0, atol=NATS)
    # the default prior N(0, 1) differs by alpha(1)^2 only, and counts the same three numbers
    torch.testing.assert_close(log_prob(den, x, rtol=RTOL), density(x, first), rtol=0, atol=1e-3)


def test_fixed_entries_neither_move_nor_count():
    schedule = VPSDE()
    process = Process(schedule, GaussianNoise(), Masked())
    variance = torch.tensor([[0.3]], dtype=F64)
    den = Denoiser(lambda x, t, cond: gaussian_network(schedule, variance)(x[..., None], t, cond)[..., 0], process)
    x = torch.tensor([[0.4, 7.0, -0.2]], dtype=F64)
    live = torch.tensor([[True, False, True]])
    result = log_prob(den, x, cond={"live": live}, rtol=RTOL)
    expected = normal(x[:, [0, 2], None], terminal(schedule, schedule.t_min, variance)).sum(1)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-3)


def test_systems_add_up():
    """Two independent components with their own schedules: the sum of their densities."""
    system = Process({"a": VPSDE(), "b": (EDM(0.02, 10.0), StudentTNoise(math.inf))})
    variance = torch.tensor([[0.3]], dtype=F64)
    nets = {k: gaussian_network(system.components[k].schedule, variance) for k in "ab"}
    den = Denoiser(lambda x, t, cond: {k: nets[k](x[k][..., None], t, cond)[..., 0] for k in x}, system)
    x = {k: torch.randn(3, 2, generator=GENERATOR().manual_seed(i), dtype=F64) for i, k in enumerate("ab")}
    result = log_prob(
        den,
        x,
        rtol=RTOL,
        t_min=0.01,
        prior=lambda y: sum(
            normal(y[k][..., None], terminal(system.components[k].schedule, 1.0, variance)).sum(1) for k in "ab"
        ),
    )
    expected = sum(
        normal(x[k][..., None], terminal(system.components[k].schedule, 0.01, variance)).sum(1) for k in "ab"
    )
    torch.testing.assert_close(result, expected, rtol=0, atol=NATS)


def test_hutchinson_is_unbiased_and_fixed():
    """Mean over seeds within four standard errors of the exact trace; the same seed gives the same number."""
    process = Process(VPSDE())
    den = Denoiser(network(TARGET, process), process)
    x = MEANS[:1].expand(400, 2) + 0.5
    exact = log_prob(den, x[:1], rtol=1e-6)
    # loose tolerance: the error of the integrator is far below the spread of the probes
    estimates = log_prob(den, x, trace="hutchinson", rtol=1e-4)
    spread = float(estimates.std())
    assert spread > 1e-3
    assert abs(float(estimates.mean() - exact)) < 4 * spread / 20 + 1e-3
    again = log_prob(den, x[:3], trace="hutchinson", rtol=1e-4)
    torch.testing.assert_close(again, estimates[:3], rtol=0, atol=1e-12)
    mean_of_many = log_prob(den, x[:50], trace="hutchinson", rtol=1e-4, num_probes=16)
    assert float(mean_of_many.std()) < 0.5 * spread


def test_correlated_noise_has_its_own_prior():
    """With x_0 = 0 the state at t_min is sigma L z: its density is the law's own."""
    factor = torch.linalg.cholesky(COVARIANCE)
    process = Process(EDM(0.1, 20.0), GaussianNoise(factor))
    den = Denoiser(lambda x, t, cond: torch.zeros_like(x) * x, process)
    x = torch.randn(4, 2, generator=GENERATOR().manual_seed(0), dtype=F64)
    torch.testing.assert_close(log_prob(den, x, rtol=RTOL), normal(x, 0.01 * COVARIANCE), rtol=0, atol=NATS)


def test_float32_states_and_errors():
    process = Process(VPSDE())
    den = Denoiser(lambda x, t, cond: 0.3 * x, process)
    result = log_prob(den, torch.zeros(2, 2))
    assert result.dtype == torch.float32
    with pytest.raises(ValueError, match="trace must be"):
        log_prob(den, torch.zeros(2, 2), trace="guess")
    discrete = Process({"x": VPSDE(), "z": Categorical([0.5, 0.5])})
    with pytest.raises(ValueError, match="categorical"):
        log_prob(Denoiser(lambda *_: {}, discrete), {"x": torch.zeros(1, 2), "z": torch.zeros(1, dtype=torch.int64)})
