"""Bases against dense Gaussian algebra; features and masks by brute force; exact conditional models."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from scidiff.configurable import Configurable, build
from tests.samples import ToyNetwork
from tests.timeseries.models import kernel, seasonal_data
from timeseries import DiffusionForecaster
from timeseries.bases import GPBase, SeasonalBase
from timeseries.conditioning import MASKS, conditions, training_mask
from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import as_series
from timeseries.data.windows import Windows
from timeseries.diffusion import TimeSeriesDiffusion, make_denoiser
from timeseries.networks import S4Backbone, WindowMLP
from timeseries.priors import kernel_matrix

SMALL = {"width": 8, "num_layers": 2, "state_size": 4, "step_size": 8}


def spec(**options):
    return SeriesSpec("h", 4, 8, **{"lags": (3, 9), "scaling": "std", **options})


def observations(size=3, length=12, variates=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(size, length, variates, generator=g, dtype=torch.float64)
    return values, torch.rand(size, length, variates, generator=g) < 0.6


@pytest.mark.parametrize("name", ["ou", "periodic"])
def test_regression_is_the_conditional_of_the_joint_gaussian(name):
    """Mean and covariance of new noisy values given old ones, from the precision matrix of both together."""
    s = spec()
    base = GPBase(name, gamma=0.8, season=5, noise=0.05).fitted(s)
    values, known = observations()
    smooth = kernel_matrix(name, 12, season=5, gamma=0.8, noise=0.0, jitter=0.0).numpy()
    white = (0.05 + 1e-4) * np.eye(12)
    means = base.mean(values, known).numpy()
    for b in range(3):
        for d in range(2):
            o = np.flatnonzero(known[b, :, d])
            y = values[b, o, d].numpy()
            phase = np.zeros(12)
            if name == "ou":
                for k in range(12):
                    same = [v for v, i in zip(y, o) if i % 5 == k % 5]
                    phase[k] = np.mean(same) if same else y.mean()
            old = smooth[np.ix_(o, o)] + white[np.ix_(o, o)]
            joint = np.block([[old, smooth[o]], [smooth[:, o], smooth + white]])
            precision = np.linalg.inv(joint)
            n = len(o)
            wanted = phase - np.linalg.solve(precision[n:, n:], precision[n:, :n] @ (y - phase[o]))
            assert means[b, :, d] == pytest.approx(wanted, abs=1e-8)
    context = np.arange(8)
    old = smooth[np.ix_(context, context)] + white[np.ix_(context, context)]
    precision = np.linalg.inv(np.block([[old, smooth[context]], [smooth[:, context], smooth + white]]))
    factor = base.law(s).shape(torch.eye(12, dtype=torch.float64)).T.numpy()
    assert factor @ factor.T == pytest.approx(np.linalg.inv(precision[8:, 8:]), abs=1e-8)


def test_seasonal_base_repeats_what_is_known():
    values, known = observations(5, 14, 2, seed=1)
    known[0, :, 0] = False
    mean = SeasonalBase(5).mean(values, known)
    for b in range(5):
        for d in range(2):
            there = [i for i in range(14) if known[b, i, d]]
            for i in range(14):
                before = [j for j in there if j <= i and (i - j) % 5 == 0]
                after = [j for j in there if j > i and (j - i) % 5 == 0]
                wanted = 0.0 if not there else float(values[b, there, d].mean())
                wanted = float(values[b, after[0], d]) if after else wanted
                wanted = float(values[b, before[-1], d]) if before else wanted
                assert float(mean[b, i, d]) == pytest.approx(wanted, abs=1e-12)
    assert SeasonalBase().fitted(spec()).season == 24


@pytest.mark.parametrize("base", [None, SeasonalBase(4)], ids=["none", "seasonal"])
def test_features_are_what_is_known(base):
    """[known value or mean of the base, mask, lags]; a lag that looks at a hidden value of the window is hidden."""
    s = spec(num_variates=2)
    g = torch.Generator().manual_seed(0)
    state = torch.randn(3, 12, 2, 3, generator=g)
    observed = torch.rand(3, 12, 2, 3, generator=g) < 0.8
    known = observed[..., 0] & (torch.rand(3, 12, 2, generator=g) < 0.5)
    features, mean = conditions(state, observed, known, s, base)
    assert features.shape == (3, 12, 2, 4)
    expected = base.mean(state[..., 0], known) if base else torch.zeros(3, 12, 2)
    assert torch.equal(mean[..., 0], expected)
    for b, i, d in np.ndindex(3, 12, 2):
        assert features[b, i, d, 0] == (state[b, i, d, 0] if known[b, i, d] else expected[b, i, d])
        assert features[b, i, d, 1] == known[b, i, d]
        for k, lag in enumerate(s.lags):
            visible = observed[b, i, d, 1 + k] and (i < lag or known[b, i - lag, d])
            assert features[b, i, d, 2 + k] == (state[b, i, d, 1 + k] if visible else 0)


def test_training_masks_hide_what_they_say():
    s, n = spec(num_variates=2), 4000
    for mask in ("forecast", "RM", "BM-B", "BM-E"):
        hidden = training_mask([mask], 50, s, torch.Generator().manual_seed(0))
        assert hidden[:, 8:].all()
        assert (hidden[:, :8].sum(1) == (0 if mask == "forecast" else 4)).all()
        assert torch.equal(hidden[..., 0], hidden[..., 1])
        if mask.startswith("BM"):
            assert hidden[:, slice(0, 4) if mask == "BM-B" else slice(4, 8)].all()
    gaps = training_mask(["gaps"], n, s, torch.Generator().manual_seed(0)).float()
    runs = (gaps.diff(dim=1) == 1).sum(1) + gaps[:, 0]
    assert float((runs <= 1).float().mean()) > 0.5  # blocks, and few scattered ones
    assert gaps.mean(1).std() > 0.2
    assert abs(float(gaps[:, 0].mean() - gaps[:, -1].mean())) < 5 * (0.5 / n) ** 0.5
    assert abs(float(torch.corrcoef(torch.stack([gaps[:, 3, 0], gaps[:, 3, 1]]))[0, 1])) < 5 / n**0.5
    share = [float((training_mask(MASKS, n, s, torch.Generator().manual_seed(1))[:, 8:].all(1).all(1)).float().mean())]
    assert share[0] == pytest.approx(0.8, abs=0.05)  # four of the five hide the horizon, and gaps seldom do


class ExactConditional(Configurable, nn.Module):
    """eps of windows ~ N(0, K) given the known values in the features; one mask for the whole batch."""

    def __init__(self, length: int = 36, features: int = 2) -> None:
        super().__init__()
        self.features = features
        self.k = kernel(length)
        self.place = nn.Parameter(torch.zeros(1))
        self.base = None

    def forward(self, x, t, cond):
        value, known = (cond["features"][:, :, 0, i].double() for i in (0, 1))
        o = torch.nonzero(known[0])[:, 0]
        floor = 1e-4 * torch.eye(len(o), dtype=torch.float64)
        gain = torch.linalg.solve(self.k[o][:, o] + floor, self.k[o]).T
        mean, covariance = value[:, o] @ gain.T, self.k - gain @ self.k[o]
        if self.base is not None:
            mean = mean - self.base.mean(value[..., None], known[..., None] > 0)[..., 0]
        schedule = make_denoiser(nn.Identity(), "tsdiff").process.continuous[""].schedule
        alpha, sigma = (f(t.double())[:1, None] for f in (schedule.alpha, schedule.sigma))
        y = x.double().flatten(1) - alpha * mean
        marginal = alpha**2 * covariance + sigma**2 * torch.eye(len(self.k), dtype=torch.float64)
        return (sigma * torch.linalg.solve(marginal, y.T).T).reshape(x.shape).to(x.dtype)  # -sigma score


@pytest.mark.parametrize("base", [None, SeasonalBase(12)], ids=["none", "seasonal"])
def test_an_exact_conditional_model_draws_the_posterior_without_guidance(base):
    """Mean within four standard errors, spread within 12 %, for a forecast and for a filled gap; nfe = steps."""
    network = ExactConditional()
    network.base = base
    s = SeriesSpec("h", 12, 24, scaling="mean")
    m = DiffusionForecaster(
        "h", 12, 24, preset="tsdiff", conditional=True, base=base, denoiser=make_denoiser(network, "tsdiff"), spec=s
    )
    z = torch.randn(2, 36, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    windows = (z @ torch.linalg.cholesky(kernel(36)).T).numpy()
    count = 400
    fc = m.forecast([w[:24] for w in windows], count, steps=40, seed=1)
    assert fc.nfe == 40
    gappy = windows[0].copy()
    gappy[10:16] = np.nan
    (filled,) = m.impute([gappy], count, steps=40, seed=1).samples
    k = kernel(36).numpy()
    cases = [(w, samples, np.arange(36) < 24, slice(24, 36)) for w, samples in zip(windows, fc.samples)]
    cases.append((gappy, filled[:, 10:16], np.isfinite(gappy), slice(10, 16)))
    for w, samples, known, part in cases:
        scale = np.abs(w[:24][known[:24]]).mean()
        o = np.flatnonzero(known)
        gain = np.linalg.solve(k[np.ix_(o, o)] + 1e-4 * np.eye(len(o)), k[o]).T
        std = np.sqrt(np.diag(k - gain @ k[o])[part])
        error = (samples.mean(0) / scale - (gain @ w[o] / scale)[part]) / std
        assert np.abs(error).max() < 4 / count**0.5 + 0.05
        assert samples.std(0) / scale / std == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize("masks", [("forecast",), MASKS], ids=["forecast", "all"])
def test_features_of_training_do_not_know_what_is_hidden(masks):
    """Whatever the hidden values are, features and scale are the same; the target is not."""
    torch.manual_seed(0)
    module = TimeSeriesDiffusion(S4Backbone(**SMALL), spec=spec(), conditional=True, masks=masks, base=SeasonalBase(3))
    g = torch.Generator().manual_seed(0)
    values = 3 + torch.randn(40, 12, 1, 3, generator=g, dtype=torch.float64)
    for k, lag in enumerate((3, 9)):
        values[:, lag:, :, 1 + k] = values[:, :-lag, :, 0]
    observed = torch.ones_like(values, dtype=torch.bool)
    hidden = training_mask(masks, 40, spec(), torch.Generator().manual_seed(7))
    other = values.clone()
    other[..., 0][hidden] = 50.0
    for k, lag in enumerate((3, 9)):
        other[:, lag:, :, 1 + k] = other[:, :-lag, :, 0]
    one = module.prepare(Windows(values, observed), torch.Generator().manual_seed(7))
    two = module.prepare(Windows(other, observed), torch.Generator().manual_seed(7))
    assert torch.equal(one[2]["features"], two[2]["features"])
    assert one[2]["features"].shape == (40, 12, 1, 4)
    assert torch.equal(one[0][..., 0][~hidden], two[0][..., 0][~hidden])
    assert not torch.equal(one[0], two[0])


def test_loss_of_the_published_variant_by_hand():
    """One diffused channel, eps loss over all observed positions, lags as features."""
    torch.manual_seed(0)
    module = TimeSeriesDiffusion(S4Backbone(**SMALL), spec=spec(scaling="mean"), preset="tsdiff", conditional=True)
    g = torch.Generator().manual_seed(0)
    values = 3 + torch.randn(6, 12, 1, 3, generator=g, dtype=torch.float64)
    observed = torch.rand(values.shape, generator=g) < 0.9
    result = module.training_loss(Windows(values, observed), torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    training_mask(("forecast",), 6, spec(), g)
    t = module.sample_time(6, g)
    eps = torch.randn(6, 12, 1, 1, generator=g)
    m = observed[:, :8, 0, 0].double()
    scale = ((values[:, :8, 0, 0].abs() * m).sum(1) / m.sum(1))[:, None, None, None]
    state = torch.where(observed, values / scale, 0).float()
    level = torch.as_tensor(np.cumprod(1 - np.linspace(1e-4, 0.1, 100)))[(100 * t).round().long() - 1].reshape(
        6, 1, 1, 1
    )
    x_t = (level.sqrt() * state[..., :1] + (1 - level).sqrt() * eps).float()
    known = observed[..., 0] & (torch.arange(12) < 8)[:, None]
    features = conditions(state, observed, known, spec(), None).features
    error = (module.denoiser.network(x_t, t, {"features": features}) - eps) ** 2
    seen = observed[..., :1]
    wanted = torch.where(seen, error, 0).sum((1, 2, 3)) / seen.sum((1, 2, 3))
    assert torch.allclose(result.loss.double(), wanted.double(), rtol=2e-4)


@pytest.mark.parametrize("network", [S4Backbone(**SMALL), WindowMLP(width=16, num_layers=1)], ids=["s4", "mlp"])
@pytest.mark.parametrize("base", [None, GPBase("ou")], ids=["white", "gp"])
def test_conditional_models_train_save_and_predict(network, base, tmp_path):
    """Every weight gets a gradient; from file and from config the same samples; paths do not depend on batches."""
    data = as_series(seasonal_data(3, 60), "h")
    m = DiffusionForecaster(
        "h",
        6,
        12,
        lags=(5,),
        preset="flow",
        conditional=True,
        masks=("forecast", "RM", "gaps"),
        base=base,
        network=network,
        training={"max_steps": 2, "batch_size": 8, "state_lr": 1e-4},
    ).fit(data)
    options = {"steps": 3, "solver": "euler", "grid": "uniform", "seed": 2}
    fc = m.forecast(data, 4, prediction_length=8, **options)
    assert fc.samples.shape == (3, 4, 8)
    m.save(tmp_path / "m.safetensors")
    again = DiffusionForecaster.from_pretrained(tmp_path / "m.safetensors")
    assert np.array_equal(again.forecast(data, 4, prediction_length=8, **options).samples, fc.samples)
    copy = build(json.loads(json.dumps(m.to_config())))
    assert copy.base.to_config() == m.base.to_config() if base else copy.base is None
    few = m.forecast(data[1:], 2, numbers=[1, 2], prediction_length=8, rows=1, **options)
    assert np.allclose(few.samples, fc.samples[1:, :2], rtol=1e-4, atol=1e-5)
    gappy = [s.values.copy() for s in data]
    gappy[0][20:31] = np.nan
    filled = m.impute(gappy[:1], 3, **options)
    assert np.isfinite(filled.samples[0]).all()
    assert (filled.samples[0][:, :20] == gappy[0][:20]).all()
    for refused in (lambda: m.synthesize(2), lambda: m.refine(np.zeros((3, 6)), data, t=0.5)):
        with pytest.raises(ValueError, match="unconditional"):
            refused()
    for options in ({"guidance": "mmps"}, {"profile": "parity"}):
        with pytest.raises(ValueError, match="sees what is known"):
            m.forecast(data, 2, **options)


def test_every_weight_of_a_conditional_network_takes_part():
    torch.manual_seed(0)
    module = TimeSeriesDiffusion(S4Backbone(**SMALL), spec=spec(), conditional=True, state_lr=1e-4, lr=1e-2)
    values, _ = observations(4, 12, 1)
    windows = Windows(values[..., None].expand(-1, -1, -1, 3), torch.ones(4, 12, 1, 3, dtype=torch.bool))
    module.training_loss(windows, torch.Generator().manual_seed(0)).loss.mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.denoiser.parameters())
    rest, state = module.parameter_groups()
    assert (state["lr"], state["weight_decay"]) == (1e-4, 0.0)
    names = {id(p): name.rpartition(".")[2] for name, p in module.named_parameters()}
    assert sorted(names[id(p)] for p in state["params"]) == sorted(["log_dt", "log_decay", "frequency"] * 2)
    assert len(rest["params"]) + len(state["params"]) == len(list(module.parameters()))


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="masks must be some of"):
        TimeSeriesDiffusion(conditional=True, masks=("BM",))
    with pytest.raises(ValueError, match="conditional=True"):
        TimeSeriesDiffusion(base=SeasonalBase())
    with pytest.raises(ValueError, match="a network with features"):
        TimeSeriesDiffusion(ToyNetwork(), spec=spec(), conditional=True)
    with pytest.raises(ValueError, match="needs features"):
        S4Backbone(features=3, **SMALL)(torch.zeros(1, 4, 1, 1), torch.zeros(1), {})
    assert math.isfinite(float(GPBase().mean(torch.zeros(1, 4, 1), torch.zeros(1, 4, 1, dtype=torch.bool)).sum()))
