"""Scores against GluonTS's evaluator, closed forms, integrals and brute force."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from timeseries import metrics
from timeseries.metrics import (
    DECILES,
    VIGINTILES,
    coverage,
    energy_score,
    evaluate,
    interval_score,
    pit,
    quantile_loss,
    sample_crps,
    sample_quantiles,
    seasonal_error,
    weighted_quantile_loss,
)


def case(num_samples, windows=6, steps=7, seed=0, missing=True):
    rng = np.random.default_rng(seed)
    target = rng.normal(1.0, 2.0, (windows, steps))
    samples = target[:, None] + rng.normal(0.3, 1.5, (windows, num_samples, steps))
    past = [np.cumsum(rng.normal(size=30 + 5 * k)) for k in range(windows)]
    if missing:
        target[0, 2] = target[3, :3] = np.nan
        past[1][4] = np.nan
    return samples, target, past


@pytest.mark.parametrize("num_samples", [1, 2, 7, 100])
@pytest.mark.parametrize("missing", [False, True])
def test_all_figures_equal_those_of_gluonts(num_samples, missing):
    evaluation = pytest.importorskip("gluonts.evaluation")
    from gluonts.model.forecast import SampleForecast

    samples, target, past = case(num_samples, missing=missing)
    start = pd.Period("2020-01-01 00:00", "h")
    forecasts = [
        SampleForecast(s, start_date=start + len(p), item_id=str(k)) for k, (s, p) in enumerate(zip(samples, past))
    ]
    series = [
        pd.Series(np.r_[p, y], index=pd.period_range(start, periods=len(p) + len(y), freq="h"))
        for p, y in zip(past, target)
    ]
    evaluator = evaluation.Evaluator(quantiles=DECILES, num_workers=None, seasonality=5)
    theirs, _ = evaluator(iter(series), iter(forecasts))
    ours = evaluate(samples, target, past=past, season=5)
    names = {"wql": "mean_wQuantileLoss", "nd": "ND", "nrmse": "NRMSE", "mase": "MASE", "msis": "MSIS"}
    for name, other in names.items():
        assert ours[name] == pytest.approx(theirs[other], rel=1e-12), name
    for k, level in enumerate(DECILES):
        loss = np.nansum(quantile_loss(sample_quantiles(samples), target)[k]) / np.nansum(np.abs(target))
        assert loss == pytest.approx(theirs[f"wQuantileLoss[{level}]"], rel=1e-12)


def test_quantiles_are_members_of_the_sample_at_rounded_ranks():
    samples = np.arange(100.0).reshape(1, 100, 1)[:, ::-1]
    ranks = [int(np.round(99 * q)) for q in DECILES]
    assert sample_quantiles(samples)[:, 0, 0].tolist() == ranks
    assert sample_quantiles(samples, [0.25], interpolate=True)[0, 0, 0] == 24.75


@pytest.mark.parametrize("fair", [False, True])
def test_crps_of_samples_is_its_definition(fair):
    samples, target, _ = case(9, missing=False)
    first = np.abs(samples - target[:, None]).mean(1)
    pairs = np.abs(samples[:, :, None] - samples[:, None]).sum((1, 2))
    wanted = first - pairs / (2 * 9 * (8 if fair else 9))
    assert np.allclose(sample_crps(samples, target, fair=fair), wanted, rtol=1e-12, atol=1e-12)


def test_plain_crps_is_the_integral_over_the_empirical_distribution():
    samples = np.array([-1.0, 0.5, 2.0, 2.5])
    for y in (-2.0, 0.7, 3.1):
        grid = np.unique(np.r_[samples, y])
        wanted = sum((b - a) * ((samples <= a).mean() - (y <= a)) ** 2 for a, b in itertools.pairwise(grid))
        assert sample_crps(samples.reshape(1, 4, 1), np.array([[y]]))[0, 0] == pytest.approx(wanted, rel=1e-12)


def normal_crps(z):
    return z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5


def logistic_crps(z):
    return z - 2 * np.log(stats.logistic.cdf(z)) - 1


def uniform_crps(u):
    inside = np.clip(u, 0, 1)
    return np.abs(u - inside) + inside**2 - inside + 1 / 3


LAWS = {
    "normal": (stats.norm(0.5, 2.0), normal_crps),
    "logistic": (stats.logistic(0.5, 2.0), logistic_crps),
    "uniform": (stats.uniform(0.5, 2.0), uniform_crps),
}  # CRPS of the standard law at z; location .5, scale 2


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("y", [-1.0, 0.7, 3.0])
def test_crps_of_many_quantiles_is_the_closed_form(name, y):
    """Samples at the levels (i + 1/2)/S: what is lost is the mean of the tails beyond the last one."""
    law, closed = LAWS[name]
    count = 20_000
    samples = law.ppf((np.arange(count) + 0.5) / count).reshape(1, count, 1)
    wanted = 2.0 * closed((y - 0.5) / 2.0)
    direct = integrate.quad(lambda x: law.cdf(x) ** 2, -60, y, limit=200)[0]
    direct += integrate.quad(lambda x: law.sf(x) ** 2, y, 60, limit=200)[0]
    assert wanted == pytest.approx(direct, rel=1e-6)
    found = sample_crps(samples, np.array([[y]]))[0, 0]
    assert found == pytest.approx(wanted, abs=2.0 * 10 / count)


def test_fair_crps_is_unbiased_for_few_samples():
    """E fair = E|X - y| - E|X - X'|/2 for any S; the plain one exceeds it by E|X - X'|/(2 S)."""
    rng = np.random.default_rng(1)
    count, n = 3, 60_000
    samples, target = rng.normal(size=(n, count, 1)), np.full((n, 1), 0.4)
    wanted = normal_crps(0.4)
    fair = sample_crps(samples, target, fair=True)
    plain = sample_crps(samples, target)
    error = 5 * fair.std() / n**0.5
    assert fair.mean() == pytest.approx(wanted, abs=error)
    assert plain.mean() - fair.mean() == pytest.approx(np.pi**-0.5 / count, abs=error)


def test_energy_score_is_crps_in_one_dimension_and_skips_unknown_steps():
    samples, target, _ = case(8, steps=1, missing=False)
    assert np.allclose(energy_score(samples, target), sample_crps(samples, target)[:, 0], atol=1e-7)
    samples, target, _ = case(8, missing=False)
    brute = [
        np.linalg.norm(x - y, axis=1).mean() - np.linalg.norm(x[:, None] - x, axis=2).mean() / 2
        for x, y in zip(samples, target)
    ]
    assert np.allclose(energy_score(samples, target), brute, rtol=1e-9)
    hidden = target.copy()
    hidden[:, 2] = np.nan
    kept = [0, 1, 3, 4, 5, 6]
    assert np.allclose(energy_score(samples, hidden), energy_score(samples[:, :, kept], target[:, kept]), rtol=1e-12)


def test_interpolated_levels_of_csdi():
    """Against numpy's quantile, one level at a time."""
    samples, target, _ = case(11, missing=False)
    found = evaluate(samples, target, levels=VIGINTILES, interpolate=True)
    total = 0.0
    for q in VIGINTILES:
        f = np.quantile(samples, q, axis=1)
        total += 2 * np.where(target >= f, q * (target - f), (1 - q) * (f - target)).sum() / np.abs(target).sum()
    assert found["wql"] == pytest.approx(total / 19, rel=1e-12)
    assert "19 levels 0.05 to 0.95, interpolated" in str(found)


def test_a_point_forecast_scores_its_normalized_deviation():
    samples, target, _ = case(1)
    point = np.repeat(samples.transpose(1, 0, 2), 9, axis=0)
    assert weighted_quantile_loss(point, target) == pytest.approx(metrics.normalized_deviation(samples[:, 0], target))


def test_coverage_spread_and_pit_of_a_reliable_forecast():
    """Exchangeable samples and targets: coverage is its level up to (S + 1)/S, PIT is uniform, spread-skill near 1."""
    rng = np.random.default_rng(2)
    w, s = 4_000, 199
    samples, target = rng.normal(5, 1, (w, s, 2)), rng.normal(5, 1, (w, 2))
    found = evaluate(samples, target)
    for share in (50, 80, 90, 95):
        level = share / 100
        assert found[f"coverage_{share}"] == pytest.approx(
            level, abs=5 * (level * (1 - level) / (2 * w)) ** 0.5 + 1 / s
        )
    assert found["spread_skill"] == pytest.approx((s / (s + 1)) ** 0.5, abs=5 / (4 * w) ** 0.5)
    size = np.abs(target).mean()
    assert found["spread"] == pytest.approx(1 / size, rel=0.01)
    last = stats.norm.ppf((0.9 * (s - 1) + 1 - 0.375) / (s + 0.25))  # mean of that order statistic (Blom)
    assert found["width_80"] == pytest.approx(2 * last / size, rel=0.003)
    values = pit(samples, target, rng)
    assert stats.kstest(values.flatten(), "uniform").pvalue > 1e-4
    assert stats.kstest(pit(0.7 * samples, 0.7 * target + 0.5, rng).flatten(), "uniform").pvalue < 1e-6


def test_pit_breaks_ties_at_random():
    samples, target = np.zeros((20_000, 4, 1)), np.zeros((20_000, 1))
    values = pit(samples, target, np.random.default_rng(0))
    assert stats.kstest(values.flatten(), "uniform").pvalue > 1e-4


def test_interval_score_and_coverage_by_hand():
    target = np.array([[0.0, 2.0, np.nan, 5.0]])
    lower, upper = np.full((1, 4), 1.0), np.full((1, 4), 3.0)
    assert coverage(lower, upper, target) == pytest.approx(1 / 3)
    assert interval_score(lower, upper, target, 0.5) == pytest.approx((6 + 4 * 1 + 4 * 2) / 3)


def test_seasonal_error_reverts_to_season_one():
    assert seasonal_error([np.array([1.0, 2.0, 4.0])], 5).tolist() == [1.5]
    assert seasonal_error([np.array([1.0, 2.0, 4.0, 9.0])], 2).tolist() == [5.0]


def test_bad_shapes_are_refused():
    samples, target, past = case(3)
    with pytest.raises(ValueError, match="must be"):
        evaluate(samples[:, :, :3], target)
    with pytest.raises(ValueError, match="shape"):
        evaluate(samples[0], target)
    with pytest.raises(ValueError, match="one past"):
        evaluate(samples, target, past=past[:2])
    with pytest.raises(ValueError, match="no target"):
        evaluate(samples, np.full_like(target, np.nan))
    with pytest.raises(ValueError, match="at least 2"):
        sample_crps(samples[:, :1], target, fair=True)
