"""The module: loss by hand, the levels of TSDiff, missing values, two steps of training, exact resume of windows."""

import json

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from scidiff.laws import GaussianNoise
from scidiff.student import StudentTNoise
from tests.timeseries.models import kernel, seasonal_data
from timeseries.data.datamodule import TimeSeriesDataModule
from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import as_series
from timeseries.data.windows import Windows
from timeseries.diffusion import TimeSeriesDiffusion, make_denoiser, scaled
from timeseries.networks import S4Backbone, WindowMLP

SMALL = {"width": 8, "num_layers": 1, "state_size": 4, "step_size": 8}


def spec(**options):
    return SeriesSpec("h", 4, 8, **{"lags": (5,), "scaling": "mean", **options})


def batch(size=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    values = 3 + torch.randn(size, 12, 1, 2, generator=g, dtype=torch.float64)
    observed = torch.rand(values.shape, generator=g) < 0.8
    return Windows(torch.where(observed, values, 0), observed)


@pytest.mark.parametrize("preset", ["tsdiff", "edm", "pfgmpp", "flow"])
def test_loss_by_hand(preset):
    """tsdiff: mean square of eps - eps_theta over observed numbers, at the 100 levels; edm: its weighted x0 error, for
    pfgmpp with one chi-square a window in the noise; flow: mean square of eps - x_0 - v_theta."""
    torch.manual_seed(0)
    module = TimeSeriesDiffusion(S4Backbone(**SMALL), spec=spec(), preset=preset)
    b = batch()
    result = module.training_loss(b, torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    t = module.sample_time(6, g)
    eps = torch.randn(b.values.shape, generator=g)
    m = b.observed.double()[:, :8, 0, 0]
    scale = (b.values[:, :8, 0, 0].abs() * m).sum(1) / m.sum(1)
    x_0 = (b.values / scale[:, None, None, None]).float()
    if preset == "flow":
        time = t.double()[:, None, None, None]
        raw = module.denoiser.network(((1 - time) * x_0 + time * eps).float(), t, {})
        error = (raw - (eps - x_0)) ** 2
    elif preset == "tsdiff":
        betas = np.linspace(1e-4, 0.1, 100)
        level = torch.as_tensor(np.cumprod(1 - betas))[(100 * t).round().long() - 1][:, None, None, None]
        x_t = level.sqrt() * x_0 + (1 - level).sqrt() * eps
        error = (module.denoiser.network(x_t.float(), t, {}) - eps) ** 2
    else:
        if preset == "pfgmpp":
            eps = StudentTNoise(128.0).shape(eps, g)
        sigma = 80 * t.double()[:, None, None, None]
        x_t = x_0 + sigma * eps
        raw = module.denoiser.network((x_t / (1 + sigma**2).sqrt()).float(), sigma[:, 0, 0, 0].log() / 4, {})
        x0 = x_t / (1 + sigma**2) + sigma / (1 + sigma**2).sqrt() * raw
        error = (1 + sigma**2) / sigma**2 * (x0 - x_0) ** 2
    wanted = torch.where(b.observed, error, 0).sum((1, 2, 3)) / b.observed.sum((1, 2, 3))
    assert torch.equal(result.t, t)
    assert torch.allclose(result.loss.double(), wanted.double(), rtol=2e-4)


def test_times_of_tsdiff_are_its_levels():
    module = TimeSeriesDiffusion(S4Backbone(**SMALL), spec=spec(), preset="tsdiff")
    t = module.sample_time(10_000, torch.Generator().manual_seed(0))
    index = (100 * t.double()).round()
    assert torch.allclose(t.double(), index / 100, atol=1e-7)
    counts = torch.bincount(index.long() - 1, minlength=100)
    assert counts.min() >= 99  # stratified: every level its share, up to the strata that a level's edge cuts
    assert counts.max() <= 101


def test_published_constants():
    """A_0 = .9999, A_99 = .005619."""
    schedule = make_denoiser(torch.nn.Identity(), "tsdiff").process.continuous[""].schedule
    squares = schedule.alpha(torch.tensor([0.01, 1.0], dtype=torch.float64)) ** 2
    assert squares.tolist() == pytest.approx([0.9999, 0.005619], rel=1e-4)


def test_missing_values_carry_no_loss():
    torch.manual_seed(0)
    module = TimeSeriesDiffusion(S4Backbone(**SMALL), spec=spec())
    b = batch()
    with torch.no_grad():
        for p in module.denoiser.network.output.parameters():
            p.zero_()  # the output depends on nothing: only targets count
    first = module.training_loss(b, torch.Generator().manual_seed(1)).loss
    other = Windows(torch.where(b.observed, b.values, 1e6), b.observed)
    second = module.training_loss(other, torch.Generator().manual_seed(1)).loss
    assert torch.equal(first, second)
    empty = Windows(b.values, torch.zeros_like(b.observed))
    assert not module.training_loss(empty, torch.Generator().manual_seed(1)).loss.any()


def test_lag_channels_share_the_scale_of_the_context():
    b = batch()
    state, scale = scaled(b, spec())
    assert torch.allclose(state.double() * scale.scale[..., None], b.values, atol=1e-5)
    hidden = Windows(b.values, b.observed.clone())
    hidden.observed[0, :8] = False
    _, narrow = scaled(hidden, spec(size=[9.0]))
    assert float(narrow.scale[0, 0, 0]) == 9.0
    _, wide = scaled(hidden, spec(size=[9.0]), anywhere=True)
    m = hidden.observed[0, :, 0, 0]
    assert float(wide.scale[0, 0, 0]) == pytest.approx(float(b.values[0, :, 0, 0][m].abs().mean()))


LAWS = {"gp": GaussianNoise(torch.linalg.cholesky(kernel(12))), "pfgm": StudentTNoise(64)}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_other_noise_laws_train(law):
    torch.manual_seed(0)
    module = TimeSeriesDiffusion(S4Backbone(**SMALL), spec=spec(), law=law)
    result = module.training_loss(batch(), torch.Generator().manual_seed(0))
    assert torch.isfinite(result.loss).all()
    result.loss.mean().backward()
    again = TimeSeriesDiffusion.from_config(json.loads(json.dumps(module.to_config())))
    again.load_state_dict(module.state_dict())
    assert torch.equal(again.training_loss(batch(), torch.Generator().manual_seed(0)).loss, result.loss)


def data(**options):
    series = as_series(seasonal_data(4, 120), "h")
    return TimeSeriesDataModule.from_series(series, **{"prediction_length": 6, "batch_size": 8, **options})


def trainer(tmp_path, **options):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **{"enable_checkpointing": False, **options},
    )


def test_windows_follow_from_seed_epoch_and_batch():
    one, two = data(batches_per_epoch=3), data(batches_per_epoch=3)
    assert (one.spec.context_length, one.spec.lags) == (24, ())
    for a, b in zip(one.train_dataloader(), two.train_dataloader(), strict=True):
        assert torch.equal(a.values, b.values)
    batches = list(one.train_dataloader())
    assert len(batches) == 3
    assert not torch.equal(batches[0].values, batches[1].values)
    other = next(iter(data(seed=1).train_dataloader()))
    assert not torch.equal(batches[0].values, other.values)


def test_held_out_values_never_enter_training():
    series = as_series(seasonal_data(2, 60), "h")
    for s in series:
        s.values[-6:] = 1e9
    module = TimeSeriesDataModule.from_series(series, prediction_length=6, context_length=12, batches_per_epoch=40)
    assert max(float(b.values.max()) for b in module.train_dataloader()) < 1e3
    assert module.spec.size[0] < 1e3
    val = list(module.val_dataloader())
    assert all((b.values[:, 12:] == 1e9).all() for b in val)
    assert sum(len(b.values) for b in val) == 512


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    """Windows and noise follow from epoch and batch, so that 3 + 3 epochs are 6 epochs to the last bit."""

    def module():
        return TimeSeriesDiffusion(WindowMLP(width=16, num_layers=1), lr_end=1.0, warmup_steps=0, lr=3e-3)

    def fit(model, epochs, **options):
        torch.manual_seed(0)  # of the initial weights, which are drawn when the data is known
        run = trainer(tmp_path, max_epochs=epochs)
        run.fit(model, datamodule=data(batches_per_epoch=4), **options)
        return run

    whole, half = module(), module()
    assert not list(whole.parameters())
    fit(whole, 6)
    fit(half, 3).save_checkpoint(tmp_path / "half.ckpt")
    again = TimeSeriesDiffusion.from_lightning(tmp_path / "half.ckpt", use_ema=False)
    fit(again, 6, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for (name, p), q in zip(again.named_parameters(), whole.parameters()):
        assert torch.equal(p, q), name


def test_other_windows_are_refused(tmp_path):
    module = TimeSeriesDiffusion(S4Backbone(**SMALL), spec=spec())
    with pytest.raises(ValueError, match="must be the same"):
        trainer(tmp_path, max_steps=1).fit(module, datamodule=data())
    with pytest.raises(ValueError, match="unknown preset"):
        TimeSeriesDiffusion(preset="ddpm")
    with pytest.raises(ValueError, match="Configurable"):
        TimeSeriesDiffusion(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="prediction_length"):
        data(prediction_length=None).setup()
