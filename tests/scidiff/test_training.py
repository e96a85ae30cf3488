import json
import math
import warnings
from datetime import timedelta

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, Timer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from scidiff import VPSDE, Denoiser, Process, configurable
from scidiff.configurable import Configurable
from scidiff.losses import DenoisingLoss, TimeLaw
from scidiff.training import EMA, DiffusionModule, StepLoss, warmup_cosine

NUM_BATCHES = 5
BATCH_SIZE = 8


class Net(Configurable, nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t[:, None]], dim=1))


class ToyDenoiser(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class Toy(DiffusionModule):
    """Predicts x_0 from x_0 + t eps; per-sample loss, two parts."""

    def __init__(self, network: Net | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.denoiser = ToyDenoiser(network or Net())
        self.history: list[float] = []
        self.batches: list[torch.Tensor] = []

    def training_loss(self, batch, generator):
        (x_0,) = batch
        t = torch.rand(len(x_0), generator=generator)
        x_t = x_0 + t[:, None] * torch.randn(x_0.shape, generator=generator)
        error = (self.denoiser.network(x_t, t) - x_0).square()
        if self.training:
            self.history.append(error.mean().item())
            self.batches.append(x_0[0, 0])
        return StepLoss(error.mean(1), {"first": error[:, 0], "second": error[:, 1]}, t)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(configurable, "_CORE_PACKAGES", (*configurable._CORE_PACKAGES, "tests"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Standard(DiffusionModule):
    """The base class as it stands: only the network, the process and `prepare`."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.denoiser = Denoiser(CondNet(), Process(VPSDE()), prediction="eps")

    def prepare(self, batch):
        return batch[0], None, {"shift": torch.ones(())}


class CondNet(Net):
    def forward(self, x, t, cond):
        return super().forward(x, t) + cond["shift"]


def loader(shuffle=False):
    x = torch.randn(NUM_BATCHES * BATCH_SIZE, 2, generator=torch.Generator().manual_seed(7))
    return DataLoader(TensorDataset(x), batch_size=BATCH_SIZE, shuffle=shuffle)


def toy(seed=0, **kwargs):
    torch.manual_seed(seed)
    return Toy(Net(), **kwargs)


def trainer(tmp_path, callbacks=(), **kwargs):
    options = {"max_steps": 20, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options |= {"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path, "enable_checkpointing": False}
    if any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        options["enable_checkpointing"] = True
    return pl.Trainer(callbacks=list(callbacks), **(options | kwargs))


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Watch(Callback):
    """Weights after each optimiser step, and those seen by validation."""

    def __init__(self):
        self.weights, self.validated, self.rates = [], [], []

    def on_train_start(self, trainer, pl_module):
        self.weights.append(flat(pl_module).double())

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == len(self.weights):
            self.weights.append(flat(pl_module).double())
            self.rates.append(trainer.callback_metrics["lr"].item())

    def on_validation_batch_start(self, trainer, pl_module, *args):
        self.validated.append(flat(pl_module).double())


class StopAfter(Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, pl_module, *args):
        trainer.should_stop = trainer.global_step >= self.steps


def closed_form(weights, decay):
    """a_K = sum over k of w_k times the product of later decays: the recursion, unrolled by hand."""
    decays = [min(decay, (1 + k) / (10 + k)) for k in range(len(weights) - 1)]
    total = weights[0] * math.prod(decays)
    for k, decay_k in enumerate(decays):
        total = total + weights[k + 1] * (1 - decay_k) * math.prod(decays[k + 1 :])
    return total


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_average_follows_the_closed_form_and_is_what_validation_sees(tmp_path, decay):
    module, watch = toy(ema=decay, lr=0.05, lr_end=1.0, warmup_steps=0), Watch()
    trainer(tmp_path, [watch]).fit(module, loader(), loader())
    expected = closed_form(watch.weights, decay)
    torch.testing.assert_close(watch.validated[-1], expected, atol=1e-6, rtol=0)
    assert torch.equal(flat(module).double(), watch.weights[-1])
    if decay:
        assert (expected - watch.weights[-1]).abs().max() > 1e-3
    with module.averaged(), module.averaged():
        torch.testing.assert_close(flat(module).double(), expected, atol=1e-6, rtol=0)
    assert torch.equal(flat(module).double(), watch.weights[-1])


def test_average_counts_optimiser_steps_not_batches(tmp_path):
    module, watch = toy(ema=0.9, lr=0.05, lr_end=1.0), Watch()
    trainer(tmp_path, [watch], accumulate_grad_batches=5, max_steps=4).fit(module, loader())
    assert module.ema.updates == 4
    module.ema.copy_to(module)
    torch.testing.assert_close(flat(module).double(), closed_form(watch.weights, 0.9), atol=1e-6, rtol=0)


def test_average_of_half_precision_weights_is_float32():
    """In bfloat16 (8 bits) steps of 1e-3 on weights near 1 would round away; the shadow must keep them."""
    module = nn.Linear(4, 4).bfloat16()
    nn.init.ones_(module.weight)
    ema = EMA(0.999)
    ema.update(module)
    ema.updates = 100_000
    nn.init.constant_(module.weight, 2.0)
    ema.update(module)
    assert ema.shadow["weight"].dtype == torch.float32
    torch.testing.assert_close(ema.shadow["weight"], torch.full((4, 4), 1.001), atol=1e-6, rtol=0)


def test_average_survives_test_after_fit_and_from_a_checkpoint(tmp_path):
    module, watch = toy(ema=0.9, lr=0.05, lr_end=1.0), Watch()
    run = trainer(tmp_path, [watch])
    run.fit(module, loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    expected = closed_form(watch.weights, 0.9)
    own = run.validate(module, loader(), verbose=False)[0]
    torch.testing.assert_close(watch.validated[-1], expected, atol=1e-6, rtol=0)
    fresh, seen = toy(seed=1, ema=0.9), Watch()
    path = tmp_path / "a.ckpt"
    loaded = trainer(tmp_path, [seen]).validate(fresh, loader(), ckpt_path=path, verbose=False, weights_only=True)[0]
    torch.testing.assert_close(seen.validated[-1], expected, atol=1e-6, rtol=0)
    assert own == loaded
    assert torch.equal(flat(fresh).double(), watch.weights[-1])


def test_raw_weights_come_back_after_a_crash_in_validation(tmp_path):
    class Crash(Callback):
        def on_validation_batch_end(self, trainer, pl_module, *args):
            trainer.save_checkpoint(tmp_path / "emergency.ckpt")
            raise RuntimeError("power cut")

    module, watch = toy(ema=0.9, lr=0.05, lr_end=1.0), Watch()
    with pytest.raises(RuntimeError, match="power cut"):
        trainer(tmp_path, [watch, Crash()], num_sanity_val_steps=0).fit(module, loader(), loader())
    assert torch.equal(flat(module).double(), watch.weights[-1])
    state = torch.load(tmp_path / "emergency.ckpt", weights_only=True)["state_dict"]
    saved = torch.cat([value.flatten() for value in state.values()]).double()
    assert torch.equal(saved, watch.weights[-1])


@pytest.mark.parametrize("bad", [-0.1, 1.0, 2.0])
def test_decay_outside_its_range_is_refused(bad):
    with pytest.raises(ValueError, match="decay"):
        EMA(bad)


def test_resumed_run_continues_the_straight_one(tmp_path):
    """20 steps straight = 10 steps, then 10 resumed from the file with weights_only: same losses, weights, average."""
    keep = ModelCheckpoint(tmp_path, "step{step}", every_n_train_steps=10, save_top_k=-1, auto_insert_metric_name=False)
    straight = toy(ema=0.9)
    first = trainer(tmp_path, [keep])
    first.fit(straight, loader())
    resumed = toy(seed=5, ema=0.9)
    second = trainer(tmp_path)
    second.fit(resumed, loader(), ckpt_path=tmp_path / "step10.ckpt", weights_only=True)
    assert len(straight.history) == 20
    assert resumed.history == straight.history[10:]
    assert torch.equal(flat(resumed), flat(straight))
    assert resumed.ema.updates == straight.ema.updates == 20
    for name, value in straight.ema.shadow.items():
        assert torch.equal(value, resumed.ema.shadow[name])


def test_noise_differs_between_batches_and_epochs_but_validation_repeats(tmp_path):
    module = toy(lr=1e-12, ema=None)  # frozen in effect, so that losses differ by noise alone
    losses = []

    class Collect(Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            losses.append(trainer.callback_metrics["val_loss"].item())

    trainer(tmp_path, [Collect()], num_sanity_val_steps=0).fit(module, loader(), loader())
    assert len(set(module.history)) == 20
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)
    again = toy(lr=1e-12, ema=None)
    trainer(tmp_path).fit(again, loader())
    assert again.history == module.history
    other = toy(lr=1e-12, ema=None, noise_seed=1)
    trainer(tmp_path).fit(other, loader())
    assert other.history[0] != module.history[0]


def test_validation_reports_parts_and_time_bins(tmp_path):
    """The bins, weighted by their counts, and the parts, averaged, give the loss back; a direct sum gives each bin."""
    module = toy(time_bins=4)
    run = trainer(tmp_path)
    metrics = run.validate(module, loader(), verbose=False)[0]
    sums, counts = torch.zeros(4), torch.zeros(4)
    with torch.no_grad():
        for index, batch in enumerate(loader()):
            result = module.eval().training_loss(batch, module.noise_generator("val", index))
            for loss, t in zip(result.loss, result.t):
                sums[int(t * 4)] += loss
                counts[int(t * 4)] += 1
    for index in range(4):
        assert metrics[f"val_loss_t{index}"] == pytest.approx((sums / counts)[index].item(), rel=1e-5)
    assert metrics["val_loss"] == pytest.approx((sums.sum() / counts.sum()).item(), rel=1e-5)
    assert (metrics["val_loss_first"] + metrics["val_loss_second"]) / 2 == pytest.approx(metrics["val_loss"], rel=1e-5)


def test_base_class_takes_prepare_loss_and_time_law():
    """Loss and times equal those of DenoisingLoss called by hand on the same random stream."""
    torch.manual_seed(0)
    law = TimeLaw("beta", 1.0, 2.0)
    module = Standard(loss=DenoisingLoss(weighting="eps"), time_law=law)
    x_0 = next(iter(loader()))[0]
    result = module.training_loss([x_0], torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    t = law.sample(BATCH_SIZE, VPSDE(), generator=generator)
    eps = torch.randn(x_0.shape, generator=generator)
    alpha, sigma = VPSDE().alpha(t)[:, None], VPSDE().sigma(t)[:, None]
    predicted = module.denoiser.network(alpha * x_0 + sigma * eps, t, {"shift": torch.ones(())})
    torch.testing.assert_close(result.loss, (predicted - eps).square().mean(1), rtol=1e-4, atol=1e-5)
    assert torch.equal(result.t, t)


def test_missing_prepare_is_named():
    with pytest.raises(NotImplementedError, match=r"must implement prepare"):
        DiffusionModule().training_loss(None, torch.Generator())


def test_learning_rate_follows_warmup_and_cosine(tmp_path):
    module, watch = toy(lr=0.1, warmup_steps=5, lr_end=0.1), Watch()
    trainer(tmp_path, [watch]).fit(module, loader())
    expected = [0.1 * min(1, (k + 1) / 5) * (0.1 + 0.9 * math.cos(math.pi * k / 40) ** 2) for k in range(20)]
    assert watch.rates == pytest.approx(expected, rel=1e-6)
    assert warmup_cosine(10**6, 5, 1.0, end=0.1) == pytest.approx(0.1)
    assert warmup_cosine(10**6, 5, 0.0) == 1.0
    assert warmup_cosine(0, 0, 0.0) == 1.0


def test_learning_rate_ends_with_the_epochs_or_the_clock(tmp_path):
    by_epoch, watch = toy(lr=0.1, warmup_steps=0), Watch()
    trainer(tmp_path, [watch], max_steps=-1, max_epochs=2).fit(by_epoch, loader())
    assert watch.rates[5] == pytest.approx(0.05)

    timed = toy(lr=0.1, warmup_steps=0)
    timer = Timer(duration=timedelta(seconds=100))
    trainer(tmp_path, [timer, StopAfter(3)], max_steps=-1, max_epochs=-1).fit(timed, loader())
    timer.time_elapsed, timer.time_remaining = lambda stage="train": 33.0, lambda stage="train": 67.0
    assert timed.lr_factor(3) == pytest.approx(0.5 * (1 + math.cos(0.33 * math.pi)))


def test_gradient_norm_is_logged_before_clipping(tmp_path):
    module, norms = toy(), []

    class Norm(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            squares = [p.grad.double().square().sum() for p in pl_module.parameters()]
            norms.append(math.sqrt(sum(squares)))

    run = trainer(tmp_path, [Norm()], max_steps=1, gradient_clip_val=1e-3)
    run.fit(module, loader())
    assert run.callback_metrics["grad_norm"].item() == pytest.approx(norms[0], rel=1e-5)


def test_compiled_step_uses_the_same_weights_and_names(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function: lambda *args: calls.append(1) or function(*args))
    module, plain = toy(compile=True), toy()
    names = list(module.state_dict())
    trainer(tmp_path, max_steps=3).fit(module, loader(), loader())
    trainer(tmp_path, max_steps=3).fit(plain, loader(), loader())
    assert len(calls) == 3  # training steps only
    assert list(module.state_dict()) == names
    assert "forward" not in vars(module.denoiser.network)
    assert module.history == plain.history


def test_module_is_rebuilt_from_its_lightning_checkpoint(tmp_path):
    module, watch = Toy(Net(width=5), lr=0.02, ema=0.9), Watch()
    run = trainer(tmp_path, [watch])
    run.fit(module, loader())
    path = tmp_path / "a.ckpt"
    run.save_checkpoint(path)
    again = Toy.from_lightning(path)
    assert again.to_config() == module.to_config()
    assert again.to_config()["init_args"]["lr"] == 0.02
    torch.testing.assert_close(flat(again).double(), closed_form(watch.weights, 0.9), atol=1e-6, rtol=0)
    assert torch.equal(flat(DiffusionModule.from_lightning(path, use_ema=False)), flat(module))


def test_a_hostile_or_foreign_lightning_checkpoint_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'pwned')!r}, 'w')",))

    torch.save({"state_dict": {}, "scidiff_config": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="not a Lightning checkpoint of a DiffusionModule"):
        Toy.from_lightning(tmp_path / "evil.ckpt")
    assert not (tmp_path / "pwned").exists()
    named = json.dumps({"class_path": "os.system", "init_args": {"command": "true"}})
    torch.save({"state_dict": {}, "scidiff_config": named}, tmp_path / "named.ckpt")
    with pytest.raises(ValueError, match="refused"):
        Toy.from_lightning(tmp_path / "named.ckpt")
    with pytest.raises(FileNotFoundError, match="no Lightning checkpoint"):
        Toy.from_lightning(tmp_path / "none.ckpt")


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"lr_end": 1.5}, {"warmup_steps": -1}, {"time_bins": -1}, {"ema": 1.0}])
def test_arguments_outside_their_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad)) if "ema" not in bad else "decay"):
        Toy(**bad)
