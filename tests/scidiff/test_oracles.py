"""Oracles against quadrature, finite sums, automatic differentiation and each other."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.func import jacrev, vmap

from scidiff import EDM, VPSDE, GaussianNoise, Linear, Process, StudentTNoise
from scidiff.configurable import Configurable
from scidiff.oracles import DeltaOracle, GaussianOracle, MixtureOracle

F64 = torch.float64
COV = [[0.8, 0.3], [0.3, 0.4]]


def mixture():
    covs = [(v * torch.eye(2)).tolist() for v in (0.05, 0.2, 0.1)]
    return MixtureOracle([0.2, 0.3, 0.5], [[-2.0, 0.0], [1.0, 2.0], [2.0, -1.0]], covs)


def points(seed=0, n=6):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_log_density_of_a_gaussian_against_scipy():
    x, alpha, sigma = points(), 0.7, 0.4
    cov = alpha**2 * np.array(COV) + sigma**2 * np.eye(2)
    wanted = stats.multivariate_normal([0.7, -0.35], cov).logpdf(x.numpy())
    value = GaussianOracle([1.0, -0.5], COV).log_prob(x, alpha, sigma)
    torch.testing.assert_close(value, torch.from_numpy(wanted), rtol=1e-12, atol=1e-12)


def test_posterior_mean_by_quadrature():
    """E[x_0 | x] = int x_0 p(x_0) N(x; alpha x_0, sigma^2)/p(x) on a line, by a fine Riemann sum."""
    law = MixtureOracle([0.3, 0.7], [[-1.0], [1.5]], [[[0.2]], [[0.5]]])
    grid = torch.linspace(-8, 8, 40_001, dtype=F64)[:, None]
    x, alpha, sigma = torch.tensor([[0.3], [-1.0]], dtype=F64), 0.6, 0.8
    prior = law.log_prob(grid).exp()
    for i in range(2):
        joint = prior * torch.exp(-0.5 * ((x[i] - alpha * grid[:, 0]) / sigma) ** 2)
        wanted = float((grid[:, 0] * joint).sum() / joint.sum())
        assert float(law.posterior_mean(x, alpha, sigma)[i]) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize(
    "law",
    [mixture(), GaussianOracle([1.0, -0.5], COV), DeltaOracle(points(1)), DeltaOracle(points(1), D=3.0)],
    ids=lambda o: type(o).__name__,
)
def test_score_is_the_gradient_of_the_log_density(law):
    x = points()
    exact = vmap(jacrev(lambda y: law.log_prob(y[None], 0.7, 0.5)[0]))(x)
    torch.testing.assert_close(law.score(x, 0.7, 0.5), exact, rtol=1e-10, atol=1e-10)


def test_jacobian_and_divergence():
    law, x = mixture(), points()
    exact = vmap(jacrev(lambda y: law.posterior_mean(y[None], 0.7, 0.5)[0]))(x)
    torch.testing.assert_close(law.jacobian(x, 0.7, 0.5), exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(law.divergence(x, 0.7, 0.5), exact.diagonal(dim1=1, dim2=2).sum(1))


def test_one_level_per_element_equals_a_common_level():
    """And differing levels agree with the same Gaussian written in scaled coordinates."""
    law, x = mixture(), points()
    level = lambda v: torch.full((6, 2), v, dtype=F64)  # noqa: E731
    torch.testing.assert_close(law.posterior_mean(x, level(0.7), level(0.5)), law.posterior_mean(x, 0.7, 0.5))
    torch.testing.assert_close(law.log_prob(x, level(0.7), level(0.5)), law.log_prob(x, 0.7, 0.5))
    gauss, alpha, sigma = GaussianOracle([1.0, -0.5], COV), torch.tensor([0.9, 0.2]), torch.tensor([0.1, 0.6])
    cov = torch.diag(alpha) @ torch.tensor(COV) @ torch.diag(alpha) + torch.diag(sigma**2)
    wanted = stats.multivariate_normal((alpha * torch.tensor([1.0, -0.5])).numpy(), cov.numpy()).logpdf(x.numpy())
    value = gauss.log_prob(x, alpha.expand(6, 2), sigma.expand(6, 2))
    torch.testing.assert_close(value, torch.from_numpy(wanted), rtol=1e-6, atol=1e-6)  # float32 levels above


def test_points_under_student_noise_are_the_field_of_pfgm():
    """x0 = sum_i w_i y_i with w_i = (|x - y_i|^2 + r^2)^(-(N+D)/2), r = sigma sqrt(D); D = inf is a softmax."""
    data, x, sigma, D = points(1), points(), 0.6, 5.0
    den = DeltaOracle(data).denoiser(Process(EDM(0.002, 1.0), StudentTNoise(D)))
    squares = (x[:, None] - data).square().sum(-1)
    weights = (squares + sigma**2 * D) ** (-(2 + D) / 2)
    wanted = weights @ data / weights.sum(1, keepdim=True)
    torch.testing.assert_close(den(x, torch.full((6,), sigma, dtype=F64)).x0, wanted, rtol=1e-12, atol=1e-12)
    gaussian = torch.softmax(-squares / (2 * sigma**2), 1) @ data
    torch.testing.assert_close(DeltaOracle(data).posterior_mean(x, 1.0, sigma), gaussian, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(DeltaOracle(data, D=1e9).posterior_mean(x, 1.0, sigma), gaussian, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="use DeltaOracle"):
        mixture().denoiser(Process(EDM(), StudentTNoise(D)))


def test_points_at_vanishing_noise():
    """sigma = 0: the nearest point, without NaN."""
    data = points(1)
    law = DeltaOracle(data)
    torch.testing.assert_close(law.posterior_mean(data + 1e-3, 1.0, 0.0), data)


def test_flows_agree_and_return():
    """DOP853 at 1e-12 on a mixture of one component equals the closed form; there and back is the identity."""
    gauss, x = GaussianOracle([1.0, -0.5], COV), points()
    numeric = MixtureOracle([1.0], [[1.0, -0.5]], [COV])
    for schedule in (VPSDE(), Linear()):
        end = gauss.flow(x, schedule, 0.99, 1e-3)
        torch.testing.assert_close(numeric.flow(x, schedule, 0.99, 1e-3), end, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gauss.flow(end, schedule, 1e-3, 0.99), x, rtol=1e-11, atol=1e-11)
    back = mixture().flow(mixture().flow(x, VPSDE(), 1.0, 1e-3), VPSDE(), 1e-3, 1.0)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)


def test_samples_have_the_moments():
    """4 standard errors of means of 40,000 draws."""
    n = 40_000
    x = mixture().sample(n, torch.Generator().manual_seed(0))
    mean = torch.tensor([0.9, 0.1], dtype=F64)  # .2 (-2, 0) + .3 (1, 2) + .5 (2, -1)
    assert bool(((x.mean(0) - mean).abs() < 4 * x.std(0) / n**0.5).all())
    drawn = DeltaOracle(points(1), weights=[1.0, 1, 1, 1, 1, 5]).sample(n, torch.Generator().manual_seed(0))
    share = float((drawn == points(1)[5]).all(1).double().mean())
    assert share == pytest.approx(0.5, abs=4 * 0.5 / n**0.5)


def test_correlated_noise():
    """x0 of a Gaussian under noise of covariance L L^T, by the textbook formula."""
    factor = [[1.0, 0.0], [0.6, 0.8]]
    gauss, x, t = GaussianOracle([1.0, -0.5], COV), points(), torch.full((6,), 0.4, dtype=F64)
    p = gauss.denoiser(Process(VPSDE(), GaussianNoise(cholesky=factor)))(x, t)
    alpha, sigma = VPSDE().alpha(t[0]), VPSDE().sigma(t[0])
    noise, cov = torch.tensor(factor, dtype=F64) @ torch.tensor(factor, dtype=F64).T, torch.tensor(COV, dtype=F64)
    total = alpha**2 * cov + sigma**2 * noise
    residual = x - alpha * torch.tensor([1.0, -0.5], dtype=F64)
    wanted = torch.tensor([1.0, -0.5], dtype=F64) + alpha * torch.linalg.solve(total, residual.T).T @ cov
    torch.testing.assert_close(p.x0, wanted, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(p.score, -torch.linalg.solve(total, residual.T).T, rtol=1e-10, atol=1e-10)


def test_event_shapes_and_config():
    law = GaussianOracle(torch.zeros(3, 2), torch.eye(6))
    assert law.sample(4).shape == (4, 3, 2)
    assert law.score(torch.ones(4, 3, 2), 1.0, 1.0).shape == (4, 3, 2)
    twin = Configurable.from_config(mixture().to_config())
    assert torch.equal(twin.log_prob(points(), 0.5, 0.5), mixture().log_prob(points(), 0.5, 0.5))
    with pytest.raises(ValueError, match="expected weights"):
        MixtureOracle([1.0], [[0.0]], [[[1.0, 0.0]]])


def test_log_density_of_points_normalises():
    """The Student-t kernel integrates to 1 in one dimension (quadrature to |x| = 2000 leaves a tail of order 1e-10)."""
    law = DeltaOracle([[0.0], [1.0]], D=3.0)
    angle = torch.linspace(-math.pi / 2 + 5e-4, math.pi / 2 - 5e-4, 400_001, dtype=F64)
    density = law.log_prob(torch.tan(angle)[:, None], 1.0, 0.7).exp() / torch.cos(angle) ** 2
    assert float(torch.trapezoid(density, angle)) == pytest.approx(1, abs=1e-8)
