"""Schedules: closed forms against automatic differentiation, inverses, published numbers, singular ends."""

import math

import pytest
import torch

from scidiff.schedule_base import _derivative
from scidiff.schedules import EDM, VESDE, VPSDE, Cosine, DiscreteVP, Linear, Schedule, SubVPSDE, Trig, expand_like

SCHEDULES = [
    VPSDE(),
    VPSDE(0.0, 8.0),
    SubVPSDE(),
    VESDE(),
    EDM(),
    Cosine(),
    Cosine(nu=2.5, power=2.0),
    Cosine(shift=-1.3),
    Cosine(power=2.0, nu=1.5, shift=0.7),
    Linear(),
    Trig(),
]
TABLES = [DiscreteVP.linear(), DiscreteVP.cosine_adaptive(num_levels=50), DiscreteVP.polynomial(num_levels=50)]
ALL = [*SCHEDULES, *TABLES]
EPS = torch.finfo(torch.float64).eps


def short(schedule):
    return repr(schedule)[:45]


def times(schedule):
    t = torch.linspace(0.003, 0.997, 197, dtype=torch.float64)
    return t + 1e-4 if isinstance(schedule, DiscreteVP) else t  # away from the kinks of a table


class Custom(Schedule):
    """A schedule that gives alpha and sigma only."""

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return t**3 + t


@pytest.mark.parametrize("schedule", ALL, ids=short)
def test_derivatives_agree_with_autograd(schedule):
    t = times(schedule)
    for value, function in ((schedule.alpha_dot(t), schedule.alpha), (schedule.sigma_dot(t), schedule.sigma)):
        exact = _derivative(function, t)
        # sigma = sqrt(1 - alpha^2) loses log10(1/sigma^2) digits under autograd; sigma > 1e-4 here
        torch.testing.assert_close(value, exact, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("schedule", ALL, ids=short)
def test_drift_and_diffusion_follow_from_the_marginals(schedule):
    t = times(schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    alpha_dot, sigma_dot = _derivative(schedule.alpha, t), _derivative(schedule.sigma, t)
    torch.testing.assert_close(schedule.drift_coefficient(t), alpha_dot / alpha, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(schedule.sigma_sigma_dot(t), sigma * sigma_dot, rtol=1e-8, atol=1e-9)
    squared = 2 * sigma * sigma_dot - 2 * alpha_dot / alpha * sigma**2
    torch.testing.assert_close(schedule.diffusion(t) ** 2, squared, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("schedule", ALL, ids=short)
def test_time_inverts_lambda(schedule):
    """lambda is known to a few eps, so t to eps lambda/|lambda'|; 1e-12 bounds that for all schedules here."""
    t = times(schedule)
    log_snr = schedule.log_snr(t)
    torch.testing.assert_close(log_snr, 2 * (schedule.alpha(t).log() - schedule.sigma(t).log()), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(schedule.time(0.5 * log_snr), t, rtol=0, atol=1e-12)
    assert schedule.time(torch.zeros(3, dtype=torch.float32)).dtype == torch.float32


@pytest.mark.parametrize("schedule", ALL, ids=short)
def test_bisection_of_the_base_class_agrees(schedule):
    lam = 0.5 * schedule.log_snr(times(schedule)[::20])
    torch.testing.assert_close(Schedule.time(schedule, lam), schedule.time(lam), rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", ALL, ids=short)
def test_ends_have_no_nan_and_no_negative_scale(schedule):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    alpha, sigma = schedule.alpha(ends), schedule.sigma(ends)
    assert bool((alpha >= 0).all())
    assert bool((sigma >= 0).all())
    assert not bool(torch.signbit(sigma).any())  # -0.0 would turn slopes and logarithms around
    assert bool(torch.isfinite(alpha).all())
    assert bool(torch.isfinite(sigma).all())
    assert not bool(schedule.log_snr(ends).isnan().any())
    assert not bool(schedule.alpha_dot(ends).isnan().any())
    assert 0 < schedule.t_min < schedule.t_max <= 1


@pytest.mark.parametrize("schedule", [Linear(), Trig(), Cosine(), Cosine(power=2.0, shift=1.0)], ids=short)
def test_signal_vanishes_exactly_at_the_noise_end(schedule):
    one = torch.ones(1, dtype=torch.float64)
    assert schedule.alpha(one) == 0
    assert schedule.sigma(one) == 1
    assert bool(torch.isfinite(schedule.log_snr(one * schedule.t_max)))
    assert bool(torch.isfinite(schedule.alpha_dot(one)))
    assert bool(torch.isfinite(schedule.sigma_dot(one)))


def test_derivatives_work_in_inference_mode():
    """Also for custom schedules, whose derivatives need autograd, and for constants."""
    with torch.inference_mode():
        t = torch.tensor([0.25, 0.5])
        assert Cosine(shift=0.3).alpha_dot(t).isfinite().all()
        custom = Custom()
        torch.testing.assert_close(custom.sigma_dot(t), 3 * t**2 + 1)
        assert torch.equal(custom.alpha_dot(t), torch.zeros(2))


def test_published_values_of_the_vp_schedule():
    """lambda(1) = -5.025, lambda(1e-3) = 4.558, lambda(1e-4) = 5.752 for beta 0.1 to 20."""
    t = torch.tensor([1.0, 1e-3, 1e-4], dtype=torch.float64)
    lam = 0.5 * VPSDE().log_snr(t)
    assert lam.tolist() == pytest.approx([-5.025, 4.558, 5.752], abs=5e-4)


def test_vp_closed_forms():
    t = torch.tensor(0.3, dtype=torch.float64)
    log_alpha = -0.25 * 0.3**2 * 19.9 - 0.5 * 0.3 * 0.1
    assert float(VPSDE().alpha(t)) == pytest.approx(math.exp(log_alpha), rel=4 * EPS)
    assert float(VPSDE().sigma(t)) == pytest.approx(math.sqrt(1 - math.exp(2 * log_alpha)), rel=1e-14)
    assert float(SubVPSDE().sigma(t)) == pytest.approx(1 - math.exp(2 * log_alpha), rel=1e-14)
    rate = 0.1 + 0.3 * 19.9
    assert float(VPSDE().diffusion(t)) == pytest.approx(math.sqrt(rate), rel=1e-14)
    assert float(SubVPSDE().diffusion(t)) == pytest.approx(math.sqrt(rate * (1 - math.exp(4 * log_alpha))), rel=1e-14)


def test_cosine_is_the_published_formula():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    base = torch.cos((t**2.5 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    torch.testing.assert_close(Cosine(nu=2.5, power=2.0).alpha(t), base**2, rtol=1e-12, atol=1e-15)


def test_shift_moves_lambda():
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    difference = Cosine(shift=-0.8).log_snr(t) - Cosine().log_snr(t)
    torch.testing.assert_close(difference, torch.full_like(t, -1.6), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("nu", "values"),
    [
        (2.5, [1.000000, 0.999845, 0.998483, 0.918747, 0.380993, 0.124244]),
        (1.0, [0.999913, 0.971161, 0.897198, 0.492288, 0.093683, 0.023996]),
        (1.5, [0.999997, 0.996181, 0.976768, 0.713378, 0.183341, 0.050817]),
    ],
)
def test_adaptive_table_has_the_values_of_eqgat_diff(nu, values):
    """Recorded from the published code (T = 500) at k = 0, 50, 100, 250, 400, 450."""
    t = torch.tensor([0, 50, 100, 250, 400, 450], dtype=torch.float64) / 500
    assert DiscreteVP.cosine_adaptive(nu=nu).alpha(t).tolist() == pytest.approx(values, abs=5.1e-7)


def test_polynomial_table_by_the_loop_of_its_authors():
    """(1 - 2s)(1 - (k/T)^2)^2 + s with step ratios clipped at .001, the clipping written as a loop."""
    count, precision = 1000, 1e-5
    squares = [(1 - (k / count) ** 2) ** 2 for k in range(count + 1)]
    clipped = [squares[0]]
    for k in range(1, count + 1):
        clipped.append(clipped[-1] * max(squares[k] / squares[k - 1], 0.001))
    wanted = [math.sqrt((1 - 2 * precision) * v + precision) for v in clipped]
    t = torch.arange(count + 1, dtype=torch.float64) / count
    assert DiscreteVP.polynomial().alpha(t).tolist() == pytest.approx(wanted, rel=1e-11)


def test_linear_betas_are_a_cumulative_product():
    betas = torch.linspace(1e-4, 0.1, 100, dtype=torch.float64)
    table = DiscreteVP.linear()
    t = torch.arange(1, 101, dtype=torch.float64) / 100
    torch.testing.assert_close(table.alpha(t) ** 2, (1 - betas).cumprod(0), rtol=1e-12, atol=0)
    # the rate at t_i is that of the step that ends there: f = log(1 - beta_i)/2 * N
    torch.testing.assert_close(table.drift_coefficient(t), 50 * torch.log1p(-betas), rtol=1e-10, atol=0)


def test_priors():
    """Variance-preserving schedules start from unit noise even where sigma(1) < 1."""
    assert VPSDE(0.1, 1.0).prior_std == 1.0
    assert SubVPSDE().prior_std == 1.0
    assert Linear().prior_std == 1.0
    assert EDM().prior_std == 80.0
    assert VESDE(0.2, 1.0).prior_std == pytest.approx(1.0, rel=1e-14)
    assert EDM(0.002, 80.0).t_min == pytest.approx(2.5e-5)
    assert DiscreteVP.linear().t_min == 0.01


def test_dtype_and_shape_are_kept():
    for schedule in ALL:
        t = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
        for value in (schedule.alpha(t), schedule.sigma(t), schedule.diffusion(t), schedule.sigma_dot(t)):
            assert value.shape == t.shape
            assert value.dtype == torch.float32
    assert expand_like(torch.zeros(2, 3), torch.zeros(2, 3, 5, 7)).shape == (2, 3, 1, 1)


def test_config_round_trip():
    for schedule in ALL:
        twin = Schedule.from_config(schedule.to_config())
        t = times(schedule)
        assert torch.equal(twin.alpha(t), schedule.alpha(t))
        assert repr(twin) == repr(schedule)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPSDE(1.0, 0.5), "beta_min < beta_max"),
        (lambda: VPSDE(-1.0, 0.5), "0 <= beta_min"),
        (lambda: VESDE(0.0, 1.0), "0 < sigma_min"),
        (lambda: EDM(2.0, 1.0), "sigma_min < sigma_max"),
        (lambda: Cosine(s=0.0), "0 < s < 1"),
        (lambda: DiscreteVP(), "exactly one"),
        (lambda: DiscreteVP(betas=[0.1, 1.5]), "in \\(0, 1\\]"),
        (lambda: DiscreteVP(alphas=[0.5, 0.9]), "fall"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
