import pytest
import torch

from scidiff import EDM, VPSDE, Denoiser, Linear, Process, SubVPSDE, Symmetric, ZeroMean
from scidiff.analysis import asymmetry, flipd, fokker_planck_residual, jacobian, normal_dimension

TIMES = torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64)


def generator():
    return torch.Generator().manual_seed(0)


def gaussian(schedule, mean, cov, space=None, wrong=1.0):
    """Exact denoiser of N(mean, cov), differentiable in t; ``wrong`` scales the data's covariance over time."""

    def network(x, t, cond):
        alpha, sigma = schedule.alpha(t)[:, None, None], schedule.sigma(t)[:, None, None]
        c = cov * (wrong**t)[:, None, None]
        marginal = alpha**2 * c + sigma**2 * torch.eye(len(cov), dtype=torch.float64)
        residual = x.flatten(1)[..., None] - alpha * mean[:, None]
        return (mean + (alpha * c @ torch.linalg.solve(marginal, residual))[..., 0]).reshape(x.shape)

    return Denoiser(network, Process(schedule, space=space))


@pytest.fixture
def data():
    root = torch.randn(3, 3, generator=generator(), dtype=torch.float64)
    mean = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    return mean, root @ root.T + 0.1 * torch.eye(3, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [VPSDE(), SubVPSDE(), EDM(0.01, 5.0), Linear()], ids=repr)
def test_fokker_planck_residual_vanishes_on_a_gaussian(schedule, data):
    """Terms are of order 1 to 1e4 (g^2 |s|^2/sigma): rounding below 1e-9. A covariance that varies in time has one."""
    x = torch.randn(3, 3, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        exact = fokker_planck_residual(gaussian(schedule, *data), x, TIMES)
        wrong = fokker_planck_residual(gaussian(schedule, *data, wrong=2.0), x, TIMES)
    assert exact.norm.max() < 1e-9
    assert not exact.score.requires_grad
    assert wrong.norm.min() > 1e-2


def test_fokker_planck_residual_on_a_zero_mean_space_and_with_probes():
    """On the space the score's divergence is over (n - 1) d dimensions; probes leave an error only in div s.

    The divergence of a Gaussian's score does not depend on x, so its gradient is 0 for every probe.
    """
    process_mean = torch.zeros(6, dtype=torch.float64)
    centre = torch.eye(3, dtype=torch.float64) - 1 / 3
    cov = torch.kron(centre, torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64))
    den = gaussian(VPSDE(), process_mean, cov, ZeroMean())
    x = den.process.project(torch.randn(3, 3, 2, generator=generator(), dtype=torch.float64))
    for probes in (None, 2):
        residual = fokker_planck_residual(den, x, TIMES, probes=probes, generator=generator())
        assert residual.norm.max() < 1e-9
    assert residual.score.requires_grad


def test_residual_against_finite_differences():
    """A score that no density has: d_t s - grad[...] by central differences, error of order h^2."""
    schedule = VPSDE()
    den = Denoiser(lambda x, t, cond: torch.sin(x) * torch.cos(3 * t)[:, None], Process(schedule))
    x, t, h = torch.tensor([[0.3, -0.8]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64), 1e-4

    def score(x, t):
        return den(x, t).score.detach()

    def flux(x):
        steps = h * torch.eye(2, dtype=torch.float64)
        divergence = sum((score(x + e, t) - score(x - e, t))[0, i] / (2 * h) for i, e in enumerate(steps))
        s = score(x, t)
        return (
            0.5 * schedule.diffusion(t) ** 2 * (divergence + s.square().sum())
            - schedule.drift_coefficient(t) * (x * s).sum()
        )

    rate = (score(x, t + h) - score(x, t - h)) / (2 * h)
    gradient = torch.cat([(flux(x + e) - flux(x - e)) / (2 * h) for e in h * torch.eye(2, dtype=torch.float64)])
    found = fokker_planck_residual(den, x, t).score.detach()
    torch.testing.assert_close(found, rate - gradient[None], rtol=1e-5, atol=1e-5)


def test_jacobian_of_a_linear_denoiser_and_its_asymmetry():
    """J = M: |M - M^T|/|M|, exactly, and by 4000 probes: squares of relative variance below 8, 4 errors are 9 %."""
    matrix = torch.tensor([[0.5, 0.3, 0.0], [-0.1, 0.4, 0.2], [0.0, 0.1, 0.3]], dtype=torch.float64)
    den = Denoiser(lambda x, t, cond: x @ matrix.T, Process(VPSDE()))
    x = torch.randn(3, 3, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(jacobian(den, x, TIMES), matrix.expand(3, 3, 3))
    expected = torch.linalg.norm(matrix - matrix.T) / torch.linalg.norm(matrix)
    torch.testing.assert_close(asymmetry(den, x, TIMES), expected.expand(3))
    estimate = asymmetry(den, x, TIMES, probes=4000, generator=generator())
    torch.testing.assert_close(estimate, expected.expand(3), rtol=0.1, atol=0)


def test_exact_denoisers_are_conservative(data):
    x = torch.randn(3, 3, generator=generator(), dtype=torch.float64)
    den = gaussian(VPSDE(), *data)
    assert asymmetry(den, x, TIMES).max() < 1e-12
    assert asymmetry(den, x, TIMES, probes=3, generator=generator()).max() < 1e-12


@pytest.mark.parametrize("schedule", [EDM(0.001, 5.0), VPSDE()], ids=repr)
def test_dimension_of_a_plane(schedule):
    """Gaussian on a plane k = 2 in N = 4, at its mean, where s = 0 and div s = -sum_i 1/(alpha^2 v_i + sigma^2)."""
    basis = torch.linalg.qr(torch.randn(4, 4, generator=generator(), dtype=torch.float64))[0][:, :2]
    variances = torch.tensor([1.0, 0.5], dtype=torch.float64)
    cov = (basis * variances) @ basis.T
    den = gaussian(schedule, torch.zeros(4, dtype=torch.float64), cov)
    rho = torch.tensor([0.1, 0.01], dtype=torch.float64)
    t = schedule.time(-rho.log())
    points = torch.zeros(2, 4, dtype=torch.float64)
    # times sigma^2: the 2 normal directions (v = 0) give -1 each, the others -rho^2/(v + rho^2)
    expected = 4 - 2 - (rho[:, None] ** 2 / (variances + rho[:, None] ** 2)).sum(1)
    torch.testing.assert_close(flipd(den, points, t), expected, rtol=1e-6, atol=1e-6)
    assert (flipd(den, points, t) - 2).abs()[1] < 1e-3
    draws = torch.randn(2, 2, generator=generator(), dtype=torch.float64) * variances.sqrt() @ basis.T
    assert normal_dimension(den, draws, t, generator=generator()).tolist() == [2, 2]


def test_dimension_is_counted_within_the_space():
    """Three collinear, centred points in the plane: (n - 1) d = 4 dimensions, support of dimension 2."""
    centre = torch.eye(3, dtype=torch.float64) - 1 / 3
    cov = torch.kron(centre, torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64)))
    den = gaussian(EDM(0.001, 5.0), torch.zeros(6, dtype=torch.float64), cov, ZeroMean())
    t = torch.full((1,), 0.01 / 5, dtype=torch.float64)
    points = torch.zeros(1, 3, 2, dtype=torch.float64)
    assert flipd(den, points, t).item() == pytest.approx(2, abs=1e-3)
    assert flipd(den, points, t, probes=400, generator=generator()).item() == pytest.approx(2, abs=0.5)
    assert normal_dimension(den, points, t, generator=generator()).tolist() == [2]


def test_systems_and_other_spaces_are_refused():
    x, t = torch.zeros(1, 2, 2), torch.ones(1)
    for process in (Process({"a": VPSDE(), "b": VPSDE()}), Process(VPSDE(), space=Symmetric())):
        with pytest.raises(ValueError, match="free or zero-mean"):
            jacobian(Denoiser(lambda x, t, cond: x, process), x, t)
