import math

import numpy as np
import pytest
import torch
from scipy import stats

from scidiff import (
    EDM,
    Compose,
    Denoiser,
    Free,
    GaussianNoise,
    Masked,
    Process,
    StudentTNoise,
    Symmetric,
    ZeroMean,
    sample,
)
from scidiff.noise import NoiseSource
from tests.scidiff.closed_forms import F64, POINTS, Points, network

DEGREES = [0.5, 1.0, 2.0, 8.0, 128.0, 2048.0, math.inf]
NUM_DRAWS = 4000
P_VALUE = 1e-3  # 42 fixed-seed tests: a right law fails one of them in 4 % of all seeds, a wrong one at once


def radius_p_value(x, D, dims):
    """Kolmogorov-Smirnov p of |x|^2/(|x|^2 + D) against Beta(N/2, D/2), or of |x| against the chi law for D = inf."""
    squares = x.flatten(1).double().square().sum(1)
    if math.isinf(D):
        return stats.kstest(squares.sqrt().numpy(), stats.chi(dims).cdf).pvalue
    return stats.kstest((squares / (squares + D)).numpy(), stats.beta(dims / 2, D / 2).cdf).pvalue


@pytest.mark.parametrize("dims", [2, 6, 87])
@pytest.mark.parametrize("D", DEGREES)
def test_radius_has_the_law_of_the_kernel(D, dims):
    seeded = Process(EDM(), StudentTNoise(D)).noise(
        {"": torch.zeros(NUM_DRAWS, dims, dtype=F64)}, NoiseSource(5, NUM_DRAWS)
    )[""]
    assert radius_p_value(seeded, D, dims) > P_VALUE
    generator = torch.Generator().manual_seed(dims)
    drawn = StudentTNoise(D).sample((NUM_DRAWS, dims), generator=generator, dtype=F64)
    assert radius_p_value(drawn, D, dims) > P_VALUE
    wrong = drawn * 1.1  # the test must see an error of 10 % in scale, unless the law is nearly scale free
    assert radius_p_value(wrong, D, dims) < P_VALUE or (D < 8)


@pytest.mark.parametrize(
    ("space", "shape", "dims"),
    [(ZeroMean(), (NUM_DRAWS, 5, 3), 12), (Symmetric(), (NUM_DRAWS, 4, 4), 6), (Free(), (NUM_DRAWS, 2, 2), 4)],
    ids=["zero-mean", "symmetric", "free"],
)
@pytest.mark.parametrize("D", [1.0, 8.0])
def test_radius_in_a_space_has_its_dimension(space, shape, dims, D):
    """The Gaussian is projected first and scaled after, so N is the dimension of the space."""
    process = Process(EDM(), StudentTNoise(D), space)
    x = process.noise({"": torch.zeros(shape, dtype=F64)}, NoiseSource(1, NUM_DRAWS))[""]
    independent = x.triu(1) if isinstance(space, Symmetric) else x
    assert radius_p_value(independent, D, dims) > P_VALUE
    assert torch.allclose(space.project(x, None), x, atol=1e-12 * float(x.abs().max()))


def test_masked_entries_stay_zero_and_do_not_count():
    cond = {"live": torch.tensor([[True, False, True]]).expand(NUM_DRAWS, 3)}
    process = Process(EDM(), StudentTNoise(2.0), Masked())
    x = process.noise({"": torch.zeros(NUM_DRAWS, 3, dtype=F64)}, NoiseSource(1, NUM_DRAWS), cond)[""]
    assert not x[:, 1].any()
    assert radius_p_value(x, 2.0, 2) > P_VALUE


def test_infinite_degrees_are_gaussian_noise_bit_for_bit():
    like = torch.zeros(7, 4)
    draws = [
        Process(EDM(), law).noise({"": like}, NoiseSource(3, 7))[""]
        for law in (StudentTNoise(math.inf), GaussianNoise())
    ]
    assert torch.equal(*draws)
    x = torch.linspace(-1, 1, 12, dtype=F64).reshape(3, 4)
    assert torch.equal(StudentTNoise(math.inf).log_prob(x, 0.7), GaussianNoise().log_prob(x, 0.7))


def test_seeds_fix_the_chi_square():
    """A sample's noise, its chi-square included, depends on its own seed only."""
    process = Process(EDM(), StudentTNoise(1.5))
    alone = process.noise({"": torch.zeros(1, 6)}, NoiseSource([11], 1))[""]
    batch = process.noise({"": torch.zeros(4, 6)}, NoiseSource([9, 10, 11, 12], 4))[""]
    padded = process.noise({"": torch.zeros(1, 8)}, NoiseSource([11], 1), {"node_mask": torch.arange(8)[None] < 6})[""]
    assert torch.equal(alone[0], batch[2])
    assert torch.equal(alone[0], padded[0, :6])
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    draws = [process.perturb(torch.zeros(5, 6), torch.full((5,), 0.3), generator=g)[1] for g in generators]
    assert torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("D", [0.5, 1.0, 8.0, 99.0, 101.0, 2048.0])
def test_density_equals_scipy(D):
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=F64) * 3
    law = stats.multivariate_t(np.zeros(5), 0.49 * np.eye(5), df=D)
    expected = torch.as_tensor(law.logpdf(x.numpy()), dtype=F64)
    # lgamma of D/2 near 1e3 carries 1e-16 * 6e3
    torch.testing.assert_close(StudentTNoise(D).log_prob(x, 0.7), expected, rtol=0, atol=1e-11)


def test_density_tends_to_the_gaussian():
    """The difference is O(|x|^4/D); at D = 1e10 lgamma itself would have lost all digits."""
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    torch.testing.assert_close(
        StudentTNoise(1e10).log_prob(x, 0.7), GaussianNoise().log_prob(x, 0.7), rtol=0, atol=1e-7
    )


def test_density_in_a_space_counts_its_dimensions():
    """On the zero-mean space the density is that of the coefficients in an orthonormal basis."""
    basis = torch.linalg.svd(torch.ones(1, 4, dtype=F64)).Vh[1:]  # (3, 4), rows orthogonal to (1, 1, 1, 1)
    values = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    x = torch.einsum("ij,bik->bjk", basis, values)
    component = Process(EDM(), StudentTNoise(3.0), Compose([ZeroMean()])).continuous[""]
    expected = StudentTNoise(3.0).log_prob(values, 0.4)
    torch.testing.assert_close(component.log_prob(x, 0.4), expected, rtol=1e-12, atol=1e-12)


def test_prior_is_scaled_by_sigma_max():
    process = Process(EDM(0.002, 80.0), StudentTNoise(4.0))
    x = process.prior(torch.zeros(NUM_DRAWS, 3, dtype=F64), NoiseSource(2, NUM_DRAWS))
    assert radius_p_value(x / 80.0, 4.0, 3) > P_VALUE


@pytest.mark.parametrize("D", [1.0, 3.0, 50.0])
def test_marginals_obey_the_continuity_equation(D):
    """d p/d sigma = -div(p v) with v = (x - xhat)/sigma, both sides by central differences in float64."""
    target, h, sigma = Points(D), 1e-4, 0.6
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=F64)

    def density(x, sigma):
        return target.log_prob(x, sigma).exp()

    def flux(x):
        return density(x, sigma)[:, None] * (x - target.x0(x, torch.tensor(1.0), torch.tensor(sigma))) / sigma

    rate = (density(x, sigma + h) - density(x, sigma - h)) / (2 * h)
    step = h * torch.eye(2, dtype=F64)
    divergence = sum((flux(x + step[i]) - flux(x - step[i]))[:, i] / (2 * h) for i in range(2))
    # truncation h^2/6 times third derivatives of order 1/sigma^4, and round-off 1e-16/h
    torch.testing.assert_close(rate, -divergence, rtol=0, atol=1e-6)
    assert rate.abs().max() > 1e-2


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "ddim"])
def test_huge_degrees_of_freedom_equal_edm(solver):
    """Compared at sigma = 0.5, between the three points: at sigma = 0 every D ends on a point."""
    times = torch.linspace(80.0**0.2, 0.5**0.2, 41, dtype=F64) ** 5 / 80
    start = 80.0 * torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    results = []
    for D in (1e8, math.inf):
        process = Process(EDM(), StudentTNoise(D))
        den = Denoiser(network(Points(D), process), process)
        results.append(sample(den, start, solver=solver, grid=times.clamp_max(1)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)
    finite = Process(EDM(), StudentTNoise(8.0))
    other = sample(Denoiser(network(Points(8.0), finite), finite), start, solver=solver, grid=times.clamp_max(1))
    assert (other - results[1]).abs().max() > 1e-3


def test_samples_of_a_poisson_flow_land_on_the_points_in_equal_parts():
    """The exact flow of D = 8 from its own prior ends at the three points, a third of the mass each."""
    process = Process(EDM(), StudentTNoise(8.0))
    den = Denoiser(network(Points(8.0), process), process)
    n = 3000
    x = sample(
        den,
        torch.zeros(n, 2, dtype=F64)
        + 80 * StudentTNoise(8.0).sample((n, 2), generator=torch.Generator().manual_seed(0), dtype=F64),
        solver="heun",
        steps=40,
        grid="edm",
    )
    nearest = torch.cdist(x, POINTS).min(1)
    assert nearest.values.max() < 1e-3
    share = torch.bincount(nearest.indices, minlength=3) / n
    assert (share - 1 / 3).abs().max() < 4 * (2 / 9 / n) ** 0.5


def test_what_the_mathematics_forbids_is_explained():
    process = Process(EDM(), StudentTNoise(8.0))
    den = Denoiser(network(Points(8.0), process), process)
    x, t = torch.ones(2, 2, dtype=F64), torch.full((2,), 0.1, dtype=F64)
    with pytest.raises(ValueError, match=r"finite D is not a score.*velocity"):
        _ = den(x, t).score
    assert torch.isfinite(den(x, t).velocity).all()
    for solver in ("euler_maruyama", "ancestral"):
        with pytest.raises(ValueError, match="deterministic solver"):
            sample(den, (2, 2), solver=solver)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="above 0"):
            StudentTNoise(bad)


@pytest.mark.parametrize("D", [0.5, 8.0, math.inf])
def test_configuration_round_trip(D):
    law = StudentTNoise(D)
    assert StudentTNoise.from_config(law.to_config()).D == D
    assert "StudentTNoise" in repr(law)
