import math

import pytest
import torch
from torch import Tensor

from scidiff import VPSDE, Denoiser, Free, GaussianNoise, Masked, Process, Symmetric, ZeroMean, sample
from scidiff.noise import NoiseSource
from scidiff.samplers import solver_names
from tests.scidiff.closed_forms import F64, MEANS, Mixture

# an Ornstein-Uhlenbeck kernel over four unequal times
TIMES = torch.tensor([0.0, 0.3, 1.0, 1.2], dtype=F64)
COVARIANCE = torch.exp(-(TIMES[:, None] - TIMES).abs() / 0.8)
FACTOR = torch.linalg.cholesky(COVARIANCE)
GENERATOR = torch.Generator


def normal_log_prob(x: Tensor, covariance: Tensor) -> Tensor:
    return torch.distributions.MultivariateNormal(torch.zeros(len(covariance), dtype=F64), covariance).log_prob(x)


def test_correlated_noise_has_the_given_covariance():
    n = 20_000
    x = Process(VPSDE(), GaussianNoise(FACTOR)).noise({"": torch.zeros(n, 4, dtype=F64)}, NoiseSource(0, n))[""]
    # the standard error of a covariance of unit variances is at most sqrt(2/n)
    assert (x.T @ x / n - COVARIANCE).abs().max() < 4 * (2 / n) ** 0.5


def test_mask_gives_the_marginal_process():
    """With an element left out in the middle the others have the sub-matrix as covariance, not a product of factors."""
    n, kept = 20_000, torch.tensor([True, False, True, True])
    cond = {"live": kept.expand(n, 4)}
    process = Process(VPSDE(), GaussianNoise(FACTOR), Masked())
    x = process.noise({"": torch.zeros(n, 4, dtype=F64)}, NoiseSource(0, n), cond)[""]
    expected = COVARIANCE * kept[:, None] * kept
    assert (x.T @ x / n - expected).abs().max() < 4 * (2 / n) ** 0.5
    log_prob = process.continuous[""].log_prob(x[:5], 0.7, {"live": cond["live"][:5]})
    sub = COVARIANCE[kept][:, kept]
    torch.testing.assert_close(log_prob, normal_log_prob(x[:5, kept], 0.49 * sub), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2), (3, 5, 4)], ids=str)
def test_density_has_the_determinant(shape):
    axis = shape.index(4)
    x = torch.randn(shape, generator=GENERATOR().manual_seed(1), dtype=F64)
    law = GaussianNoise(FACTOR, axis=axis)
    columns = x.movedim(axis, -1).reshape(3, -1, 4)
    expected = normal_log_prob(columns, 0.3**2 * COVARIANCE).sum(1)
    torch.testing.assert_close(law.log_prob(x, 0.3), expected, rtol=1e-12, atol=1e-12)


def test_density_on_the_zero_mean_space():
    """Correlated over frames, centred over atoms: n - 1 independent copies in an orthonormal basis."""
    basis = torch.linalg.svd(torch.ones(1, 3, dtype=F64)).Vh[1:]
    values = torch.randn(2, 2, 4, 2, generator=GENERATOR().manual_seed(0), dtype=F64)
    x = torch.einsum("ij,bifk->bjfk", basis, values)
    component = Process(VPSDE(), GaussianNoise(FACTOR, axis=2), ZeroMean()).continuous[""]
    expected = normal_log_prob(values.movedim(2, -1), 0.25 * COVARIANCE).sum((1, 2))
    torch.testing.assert_close(component.log_prob(x, 0.5), expected, rtol=1e-12, atol=1e-12)
    drawn = Process(VPSDE(), GaussianNoise(FACTOR, axis=2), ZeroMean()).noise({"": x}, NoiseSource(0, 2))[""]
    assert drawn.mean(1).abs().max() < 1e-12


@pytest.mark.parametrize("prediction", ["x0", "eps", "score", "v", "velocity"])
def test_score_is_the_gradient_of_the_log_density(prediction):
    """p_t = N(alpha m, alpha^2 S + sigma^2 K) has x0 and score in closed form; every prediction type gives both."""
    schedule, t = VPSDE(), torch.full((3,), 0.4, dtype=F64)
    alpha, sigma = schedule.alpha(t)[0], schedule.sigma(t)[0]
    mean, own = torch.tensor([1.0, 0, -1, 2], dtype=F64), torch.diag(torch.tensor([0.3, 0.1, 0.5, 0.2], dtype=F64))
    total = alpha**2 * own + sigma**2 * COVARIANCE
    x = torch.randn(3, 4, generator=GENERATOR().manual_seed(0), dtype=F64)
    score = -torch.linalg.solve(total, (x - alpha * mean).T).T
    x0 = (x + sigma**2 * score @ COVARIANCE) / alpha
    eps = (x - alpha * x0) / sigma
    raw = {
        "x0": x0,
        "eps": eps,
        "score": score,
        "v": alpha * eps - sigma * x0,
        "velocity": schedule.alpha_dot(t)[0] * x0 + schedule.sigma_dot(t)[0] * eps,
    }
    torch.testing.assert_close(
        x0, mean + alpha * (x - alpha * mean) @ torch.linalg.solve(total, own), rtol=1e-9, atol=0
    )
    den = Denoiser(lambda *_: raw[prediction], Process(schedule, GaussianNoise(FACTOR)), prediction=prediction)
    p = den(x, t)
    torch.testing.assert_close(p.x0, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(p.score, score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", solver_names())
def test_every_solver_is_the_white_one_in_whitened_coordinates(solver):
    """With y = L^{-1} x the noise is white: samples of x must be L times samples of y, noise by noise."""
    schedule, factor = VPSDE(), FACTOR[:2, :2]
    target = Mixture(means=MEANS)

    def white(y, t, cond):
        return target.x0(y, schedule.alpha(t), schedule.sigma(t))

    def coloured(x, t, cond):
        return white(torch.linalg.solve(factor, x.T).T, t, cond) @ factor.T

    plain, correlated = Process(schedule), Process(schedule, GaussianNoise(factor))
    options = {"steps": 8, "seed": 3, "solver": solver}
    # float32 draws are cast before they are coloured, so both runs see the same numbers
    y, info = sample(
        Denoiser(white, plain),
        torch.randn(6, 2, dtype=F64, generator=GENERATOR().manual_seed(0)),
        save="none",
        **options,
    )
    x = sample(
        Denoiser(coloured, correlated), info_start(factor), noise=[z @ factor.T for z in info.noise] or None, **options
    )
    tolerance = 1e-3 if solver == "rk45" else 1e-8  # rk45 measures its error in units of the state
    torch.testing.assert_close(x, y @ factor.T, rtol=tolerance, atol=tolerance)


def info_start(factor: Tensor) -> Tensor:
    return torch.randn(6, 2, dtype=F64, generator=GENERATOR().manual_seed(0)) @ factor.T


def test_errors_are_explained():
    for bad in (torch.ones(2, 2), torch.eye(2)[:1], -torch.eye(2)):
        with pytest.raises(ValueError, match="cholesky must be"):
            GaussianNoise(bad)
    with pytest.raises(ValueError, match="axis"):
        GaussianNoise(torch.eye(2), axis=0)
    for space in (ZeroMean(), Symmetric()):
        with pytest.raises(ValueError, match="ties the elements"):
            Process(VPSDE(), GaussianNoise(FACTOR), space)
    with pytest.raises(ValueError, match="correlated over 4 elements"):
        Process(VPSDE(), GaussianNoise(FACTOR), Free()).perturb(torch.zeros(2, 3), torch.full((2,), 0.5))


def test_white_noise_is_the_identity():
    z = torch.randn(3, 4, generator=GENERATOR().manual_seed(0))
    law = GaussianNoise()
    assert law.shape(z) is z
    assert law.whiten(z) is z
    assert float(law.log_prob(torch.zeros(1, 4), 2.0)) == pytest.approx(-2 * math.log(2 * math.pi * 4), rel=1e-6)
    rebuilt = GaussianNoise.from_config(GaussianNoise(FACTOR).to_config())
    assert torch.equal(rebuilt.shape(z.double()), GaussianNoise(FACTOR).shape(z.double()))
