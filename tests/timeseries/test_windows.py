"""Windows against a loop, cuts against the uniform law and GluonTS's loader, scales and masks by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from timeseries import DiffusionForecaster
from timeseries.data.masks import SCENARIOS, hide_context, missing_mask
from timeseries.data.scaling import SeriesSpec, measure, window_scale
from timeseries.data.series import TimeSeries
from timeseries.data.windows import Cuts, WindowStore
from timeseries.diffusion import make_denoiser, scaled
from timeseries.networks import S4Backbone

START = pd.Period("2020-01-01 00:00", "h")


def series(*lengths, variates=1, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(n,) if variates == 1 else (n, variates) for n in lengths]
    return [TimeSeries(rng.normal(10, 1, shape), START, str(k)) for k, shape in enumerate(shapes)]


def spec(context=6, steps=3, lags=(), **options):
    return SeriesSpec("h", steps, context, lags, **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("hide_future", [False, True])
@pytest.mark.parametrize("variates", [1, 3])
def test_gather_is_the_definition(hide_future, variates):
    """x[cut - C + l - lag], observed inside the series, where not NaN and not hidden; lag 2 is shorter than P = 3."""
    found = series(30, 4, 11, variates=variates)
    found[0].values[20] = np.nan
    sp = spec(lags=(2, 7), num_variates=variates)
    store = WindowStore(found, sp)
    which, cuts = [0, 0, 1, 1, 2, 2, 2], [10, 27, 4, 1, 11, 8, 3]
    values, observed, _ = store.take(Cuts(torch.tensor(which), torch.tensor(cuts)), hide_future=hide_future)
    assert values.shape == observed.shape == (7, 9, variates, 3)
    for b, (k, cut) in enumerate(zip(which, cuts)):
        table = found[k].table
        for l in range(9):  # noqa: E741
            for c, lag in enumerate((0, 2, 7)):
                u = cut - 6 + l - lag
                for d in range(variates):
                    known = 0 <= u < (min(cut, len(table)) if hide_future else len(table)) and np.isfinite(table[u, d])
                    assert bool(observed[b, l, d, c]) == known
                    assert float(values[b, l, d, c]) == (table[u, d] if known else 0.0)


def test_cuts_are_uniform_over_series_and_cuts():
    """Counts of the admissible (series, cut) against the uniform law: chi-square with as many cells less one."""
    store = WindowStore(series(20, 40, 9, 33), spec(lags=(4,)), holdout=2)
    assert store.count.tolist() == [20 - 2 - 3 - 10 + 1, 40 - 2 - 3 - 10 + 1, 1, 33 - 2 - 3 - 10 + 1]
    n = 40_000
    cuts = store.draw(n, generator())
    cells = np.bincount((cuts.series * 100 + cuts.cut).numpy())
    cells = cells[cells > 0]
    assert len(cells) == store.num_windows
    assert stats.chisquare(cells).pvalue > 1e-4
    first = {k: int(cuts.cut[cuts.series == k].min()) for k in range(4)}
    last = {k: int(cuts.cut[cuts.series == k].max()) for k in range(4)}
    assert first == {0: 10, 1: 10, 2: 4, 3: 10}
    assert last == {0: 15, 1: 35, 2: 4, 3: 28}  # the future ends before the held-out values


def test_the_loader_of_gluonts_draws_the_same_distribution():
    """There each admissible cut comes with probability 1/(running mean count); its exact value gives the variance."""
    sampler = pytest.importorskip("gluonts.transform.sampler")
    lengths, past, steps, passes = (30, 45, 18), 9, 3, 3_000
    drawn = sampler.ExpectedNumInstanceSampler(num_instances=1, min_past=past, min_future=steps)
    np.random.seed(0)  # noqa: NPY002 (the loader uses the global generator)
    arrays = [np.zeros(n) for n in lengths]
    counts = {(k, cut): 0 for k, n in enumerate(lengths) for cut in range(past, n - steps + 1)}
    expected, variance = dict.fromkeys(counts, 0.0), dict.fromkeys(counts, 0.0)
    for _ in range(passes):
        for k, array in enumerate(arrays):
            cuts = drawn(array)
            p = drawn.n / drawn.total_length
            for cut in range(past, lengths[k] - steps + 1):
                expected[k, cut] += p
                variance[k, cut] += p * (1 - p)
            for cut in cuts:
                counts[k, int(cut)] += 1
    statistic = sum((counts[c] - expected[c]) ** 2 / variance[c] for c in counts)
    assert stats.chi2(len(counts)).sf(statistic) > 1e-4
    store = WindowStore(series(*lengths), spec(context=9))
    ours = store.draw(60_000, generator())
    assert store.num_windows == len(counts)
    total = sum(counts.values())
    share = {c: float(((ours.series == c[0]) & (ours.cut == c[1])).double().mean()) for c in counts}
    for c in counts:
        error = (variance[c] ** 0.5 / total) + (1 / len(counts) / 60_000) ** 0.5
        assert share[c] == pytest.approx(counts[c] / total, abs=5 * error)


def test_short_series_are_padded_and_kept():
    store = WindowStore(series(5, 4, 3, 60), spec(), min_context=2)
    assert store.count.tolist() == [1, 0, 0, 60 - 9 + 1]
    windows = store.take(store.at(torch.tensor([0])))
    assert windows.observed[0, :, 0, 0].tolist() == [False] * 4 + [True] * 5
    assert WindowStore(series(8), spec(), min_past=2).count.tolist() == [4]
    with pytest.raises(ValueError, match="no series is long enough"):
        WindowStore(series(3, 2), spec()).draw(1)
    with pytest.raises(ValueError, match="variates"):
        WindowStore(series(30, variates=2), spec())


def test_numbers_of_windows_invert():
    store = WindowStore(series(20, 9, 14, 33), spec())
    cuts = store.at(torch.arange(store.num_windows))
    pairs = list(zip(cuts.series.tolist(), cuts.cut.tolist()))
    assert len(set(pairs)) == len(pairs)
    assert pairs == sorted(pairs)
    assert pairs[0] == (0, 6)
    assert pairs[-1] == (3, 30)


def context(rows, mask=None):
    values = torch.tensor(rows, dtype=torch.float64)[..., None]
    observed = torch.ones_like(values, dtype=torch.bool) if mask is None else torch.tensor(mask)[..., None]
    return values, observed


def test_mean_scale_and_its_all_zero_rule():
    """sum |x| m / sum m; nothing but zeros, or nothing at all, takes the stored size."""
    sp = spec(scaling="mean", size=[7.0])
    values, observed = context(
        [[1.0, -3.0, 100.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0], [0.0, 4.0, 0.0]],
        [[True, True, False], [True, True, True], [False, False, False], [True, True, True]],
    )
    scale = window_scale(values, observed, sp)
    assert scale.scale[:, 0, 0].tolist() == pytest.approx([2.0, 7.0, 7.0, 4 / 3])
    assert not scale.location.any()


def test_long_mean_scale():
    """Mean |x| of the series but its held-out values; at least a hundredth of the training mean, which zeros take."""
    sp = SeriesSpec("h", 2, 3, scaling="longmean", size=[6.0])
    rows = [[1.0, -3.0, np.nan, 8.0, 8.0, 500.0], [1e-3] * 6, [0.0] * 6, [np.nan] * 6]
    series = [TimeSeries(np.array(row), START, str(k)) for k, row in enumerate(rows)]
    store = WindowStore(series, sp, holdout=1)
    windows = store.take(store.ends(2))
    state, scale = scaled(windows, sp)
    assert scale.scale[:, 0, 0].tolist() == pytest.approx([5.0, 0.06, 6.0, 6.0])
    assert state[0, :, 0, 0].tolist() == pytest.approx([-0.6, 0.0, 1.6, 1.6, 100.0])
    given = WindowStore(series, sp, size=np.full((4, 1), 2.0))
    part = given.take(given.ends(2)).at(slice(0, 1))
    assert float(scaled(part, sp)[1].scale) == 2.0
    assert WindowStore(series, sp.replaced(scaling="mean")).take(store.ends()).size is None


def test_long_means_do_not_depend_on_how_much_history_a_window_needs():
    """Blocks of a long horizon keep the scale of the series, and so does a series that is longer than a window."""
    torch.manual_seed(0)
    sp = SeriesSpec("h", 2, 4, scaling="longmean")
    net = S4Backbone(width=8, num_layers=1, state_size=4, step_size=8)
    m = DiffusionForecaster("h", 2, 4, scaling="longmean", denoiser=make_denoiser(net), spec=sp)
    long = np.r_[np.full(50, 10.0), [1.0, 2.0, 3.0, 4.0]]
    options = {"prediction_length": 6, "steps": 3, "num_samples": 3}
    one = m.forecast([long], **options).samples
    two = m.forecast([4 * long], **options).samples
    assert np.allclose(two, 4 * one, rtol=1e-4)
    short = m.forecast([long[-4:]], **options).samples
    assert np.abs(one - short).max() > 1.0


def test_standard_and_robust_scales():
    rows = [[1.0, 2.0, 4.0, 9.0], [3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0], [8.0, 1.0, 1.0, 1.0]]
    mask = [[True] * 4, [True] * 4, [True] * 4, [True, False, False, False]]
    values, observed = context(rows, mask)
    known = {"location": [1.5], "size": [6.0], "spread": [0.6]}
    scale = window_scale(values, observed, spec(scaling="std", **known))
    # a constant context: the typical spread, in proportion to its size; zeros: the typical spread itself
    assert scale.location[:, 0, 0].tolist() == pytest.approx([4.0, 3.0, 0.0, 8.0])
    assert scale.scale[:, 0, 0].tolist() == pytest.approx([np.std(rows[0]), 0.3, 0.6, 0.8])
    robust = window_scale(values, observed, spec(scaling="robust", **known))
    assert robust.location[:, 0, 0].tolist() == pytest.approx([3.0, 3.0, 0.0, 8.0])
    assert float(robust.scale[0, 0, 0]) == pytest.approx(1.4826 * 1.5)
    empty = window_scale(values, torch.zeros_like(observed), spec(scaling="std", **known))
    assert empty.location.flatten().tolist() == [1.5] * 4
    assert empty.scale.flatten().tolist() == [0.6] * 4


@pytest.mark.parametrize("scaling", ["mean", "std", "robust"])
def test_a_scale_is_equivariant_and_ignores_other_windows_and_hidden_values(scaling):
    torch.manual_seed(0)
    values = torch.randn(5, 20, 2, dtype=torch.float64) + 3
    observed = torch.rand(5, 20, 2) < 0.7
    sp = spec(scaling=scaling, num_variates=2)
    both = window_scale(values, observed, sp)
    times = window_scale(-4 * values, observed, sp)
    assert torch.allclose(times.scale, 4 * both.scale)
    assert torch.allclose(times.location, -4 * both.location)
    alone = window_scale(values[2:3], observed[2:3], sp)
    assert torch.equal(alone.scale, both.scale[2:3])
    other = torch.where(observed, values, torch.nan)
    assert torch.equal(window_scale(other, observed, sp).scale, both.scale)


def test_measured_statistics():
    torch.manual_seed(0)
    values = 5 + 2 * torch.randn(400, 50, 1, dtype=torch.float64)
    observed = torch.ones_like(values, dtype=torch.bool)
    found = measure(values, observed, spec(scaling="std"))
    assert found["location"][0] == pytest.approx(5, abs=5 * 2 / 20_000**0.5)
    assert found["spread"][0] == pytest.approx(2, rel=0.03)
    assert found["size"][0] == pytest.approx(float(values.abs().mean()))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_missing_values_of_tsdiff(scenario):
    mask = missing_mask(scenario, 3_000, 12, 5, generator())
    assert (mask.sum(1) == 5).all()
    if scenario == "BM-B":
        assert mask[:, :5].all()
    elif scenario == "BM-E":
        assert mask[:, 7:].all()
    else:
        share = mask.double().mean(0)
        assert (share - 5 / 12).abs().max() < 5 * (5 / 12 * 7 / 12 / 3_000) ** 0.5
    assert missing_mask(scenario, 2, 12).sum(1).tolist() == [6, 6]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenarios_leave_history_alone_and_hide_from_lags(scenario):
    data = [*series(20, 20, variates=2), *series(4, variates=2)]
    found = hide_context(data, scenario, 6, 4, seed=3)
    gone = [np.isnan(s.values) for s in found]
    assert [int(g[:, 0].sum()) for g in gone[:2]] == [4, 4]
    assert all((g[:, 0] == g[:, 1]).all() and not g[:-6].any() for g in gone)
    if scenario != "RM":
        assert gone[0][slice(14, 18) if scenario == "BM-B" else slice(16, 20), 0].all()
        assert gone[2].sum() == (4 if scenario == "BM-B" else 8)  # positions of the context that it does not reach
    assert all(np.isfinite(s.values).all() for s in data)
    store = WindowStore(found, spec(lags=(2,), num_variates=2))
    windows = store.take(store.ends(), hide_future=True)
    for step in range(6, 8):  # the lag of the first two steps of the horizon
        assert (windows.observed[:2, step, :, 1].numpy() == ~np.stack([g[12 + step] for g in gone[:2]])).all()
    again = hide_context(data, scenario, 6, 4, seed=3)
    assert all(np.array_equal(a.values, b.values, equal_nan=True) for a, b in zip(found, again))


def test_wrong_specs_are_refused():
    for options in ({"context": 0}, {"lags": (0,)}, {"scaling": "max"}, {"size": [1.0, 2.0]}):
        with pytest.raises(ValueError, match=r"at least 1|unknown scaling|one number"):
            spec(**options)
    sp = spec(lags=(5, 2))
    assert (sp.length, sp.channels, sp.history) == (9, 3, 11)
    assert sp.is_compatible(sp.replaced(size=[3.0]))
    assert not sp.is_compatible(sp.replaced(lags=(2,)))
