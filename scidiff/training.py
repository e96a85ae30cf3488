"""Training with Lightning: `DiffusionModule`, base of every domain's module, and `EMA`.

A subclass says how a batch becomes a state and a loss; optimiser, learning-rate schedule, averaging, reproducible noise
and validation by time bin are here.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from scidiff.configurable import Configurable
from scidiff.discrete import Categorical
from scidiff.ema import EMA
from scidiff.loaders import unrepeated
from scidiff.losses import DenoisingLoss, TimeLaw

__all__ = ["EMA", "DiffusionModule", "StepLoss", "warmup_cosine"]

CONFIG_KEY = "scidiff_config"
_STREAMS = {"train": 0, "val": 1, "test": 2}
_Self = TypeVar("_Self", bound="DiffusionModule")


class StepLoss(NamedTuple):
    """Loss of a batch: ``loss`` (B,) or a scalar, named ``parts`` likewise, diffusion time ``t`` (B,) or None."""

    loss: Tensor
    parts: dict[str, Tensor]
    t: Tensor | None = None


class DiffusionModule(Configurable, pl.LightningModule):
    """Base of the trainable modules: a subclass sets ``self.denoiser`` and implements `prepare`.

    AdamW with a linear warm-up and a cosine down to ``lr_end * lr`` at the known end of the run (``max_steps``,
    ``max_epochs`` or ``max_time``, whichever comes first; constant if none is set). Every batch has its own random
    generator, keyed by seed, rank, epoch and batch: a resumed run repeats the noise of an uninterrupted one (also
    inside an epoch with a `ResumableLoader`), and validation draws the same noise each time, on any number of
    processes. Logged: ``train_loss``, ``val_loss``, their parts (``train_loss_NAME``),
    the validation loss by time bin (``val_loss_t0`` is the one nearest to the data), ``grad_norm``, ``lr``.

    Args:
        loss: Loss of a batch; ``DenoisingLoss()`` by default.
        time_law: Distribution of the diffusion time; ``TimeLaw()`` (uniform, stratified) by default.
        lr: Peak learning rate.
        warmup_steps: Optimiser steps of the linear warm-up.
        lr_end: Learning rate at the end as a fraction of ``lr``, in [0, 1].
        betas: Decay rates of AdamW's moments.
        weight_decay: Decoupled weight decay.
        ema: Decay of the weight average, in [0, 1); None for no average.
        time_bins: Number of equal bins of [0, 1] for the validation loss; 0 for none.
        noise_seed: Seed of the training and validation noise, independent of ``seed_everything``.
        compile: Run the network through ``torch.compile`` in training steps; names of weights do not change.

    Raises:
        ValueError: If an argument is outside its range.
    """

    denoiser: Any

    def __init__(
        self,
        *,
        loss: DenoisingLoss | None = None,
        time_law: TimeLaw | None = None,
        lr: float = 1e-3,
        warmup_steps: int = 100,
        lr_end: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 1e-12,
        ema: float | None = 0.999,
        time_bins: int = 5,
        noise_seed: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if lr <= 0:
            raise ValueError(f"lr must be positive, got {lr}.")
        if not 0.0 <= lr_end <= 1.0:
            raise ValueError(f"lr_end is a fraction of lr in [0, 1], got {lr_end}.")
        if warmup_steps < 0 or time_bins < 0:
            raise ValueError(f"warmup_steps and time_bins must not be negative, got {warmup_steps} and {time_bins}.")
        self.loss = loss if loss is not None else DenoisingLoss()
        self.time_law = time_law if time_law is not None else TimeLaw()
        self.lr = lr
        self.warmup_steps = warmup_steps
        self.lr_end = lr_end
        self.betas = (float(betas[0]), float(betas[1]))
        self.weight_decay = weight_decay
        self.ema = EMA(ema) if ema is not None else None
        self.time_bins = time_bins
        self.noise_seed = noise_seed
        self.use_compile = compile
        self._compiled_forward: Any = None
        self._total_steps = math.inf
        self._bins = torch.zeros(2, time_bins)

    # What a subclass provides

    def prepare(self, batch: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Turn a batch into ``(state, x_1, cond)``: a tensor or dict of tensors, the endpoint or None, the context."""
        raise NotImplementedError(f"{type(self).__name__} must implement prepare(batch) -> (state, x_1, cond).")

    def training_loss(self, batch: Any, generator: torch.Generator) -> StepLoss:
        """Loss of one batch; all randomness comes from ``generator``. Override for losses of another form."""
        state, x_1, cond = self.prepare(batch)
        num_samples = len(state if isinstance(state, Tensor) else next(iter(state.values())))
        t = self.sample_time(num_samples, generator)
        result = self.loss(self.denoiser, state, t, x_1=x_1, cond=cond, generator=generator)
        return StepLoss(result.total, result.parts, t)

    def sample_time(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Diffusion times (num_samples,) drawn from ``time_law`` with the schedule of the first component."""
        component = next(iter(self.denoiser.process.components.values()))
        schedule = component.keep if isinstance(component, Categorical) else component.schedule
        return self.time_law.sample(num_samples, schedule, generator=generator, device=self.device)

    # Steps

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss of the batch."""
        generator = self.noise_generator("train", batch_idx)
        with self._compiled_network():
            result = self.training_loss(batch, generator)
        self._log_losses("train", result)
        return result.loss.mean()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss with the noise of this batch number, the same at every validation."""
        self._evaluate("val", batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss with the noise of this batch number."""
        self._evaluate("test", batch, batch_idx, dataloader_idx)

    def noise_generator(self, stage: str, batch_idx: int) -> torch.Generator:
        """Random generator of one batch.

        For training it is keyed by rank, epoch and batch, and lives on the device of the module. For validation and
        test it is keyed by the place of the batch in the whole set and lives on the CPU, so that losses compare
        between epochs, devices and numbers of processes.
        """
        training = stage == "train"
        place = (self.global_rank, self.current_epoch, batch_idx) if training else (0, 0, self._place(batch_idx))
        key = (self.noise_seed, _STREAMS[stage], *place)
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        return torch.Generator(device=self.device if training else "cpu").manual_seed(seed)

    def _place(self, batch_idx: int) -> int:
        """Number of a batch over all processes, which take turns."""
        trainer = self._trainer
        return batch_idx if trainer is None else batch_idx * trainer.world_size + trainer.global_rank

    def _evaluate(self, stage: str, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        result = self.training_loss(batch, self.noise_generator(stage, batch_idx))
        if result.loss.ndim:
            loaders = getattr(self.trainer, f"{stage}_dataloaders")
            loader = loaders[dataloader_idx] if isinstance(loaders, list | tuple) else loaders
            own = unrepeated(loader, batch_idx, len(result.loss))
            parts = {name: part[:own] if part.ndim else part for name, part in result.parts.items()}
            result = StepLoss(result.loss[:own], parts, None if result.t is None else result.t[:own])
        self._log_losses(stage, result)
        if self.time_bins and result.t is not None and result.loss.ndim == 1:
            index = (result.t.detach() * self.time_bins).long().clamp(0, self.time_bins - 1)
            self._bins[0].index_add_(0, index, result.loss.detach().to(self._bins.dtype))
            self._bins[1].index_add_(0, index, torch.ones_like(index, dtype=self._bins.dtype))

    def _log_losses(self, stage: str, result: StepLoss) -> None:
        count = result.loss.shape[0] if result.loss.ndim else (1 if result.t is None else result.t.shape[0])
        training = stage == "train"
        weight = float(count)  # Lightning halves an integer count over two processes rounding down
        options: dict[str, Any] = {"batch_size": weight, "on_step": training, "on_epoch": not training}
        self.log(f"{stage}_loss", _mean(result.loss), prog_bar=True, sync_dist=not training, **options)
        for name, part in result.parts.items():
            self.log(f"{stage}_loss_{name}", _mean(part), sync_dist=not training, **options)

    # Validation by time bin

    def on_validation_epoch_start(self) -> None:
        self._bins = torch.zeros(2, self.time_bins, device=self.device)

    def on_validation_epoch_end(self) -> None:
        self._log_bins("val")

    def on_test_epoch_start(self) -> None:
        self._bins = torch.zeros(2, self.time_bins, device=self.device)

    def on_test_epoch_end(self) -> None:
        self._log_bins("test")

    def _log_bins(self, stage: str) -> None:
        sums, counts = self.trainer.strategy.reduce(self._bins, reduce_op="sum")
        for index in range(self.time_bins):
            if counts[index] > 0:
                self.log(f"{stage}_loss_t{index}", sums[index] / counts[index], sync_dist=True)

    # Optimiser

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and the warm-up, cosine schedule, stepped after every optimiser step."""
        groups = self.parameter_groups()
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        self._total_steps = float(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of the optimiser, one by default; a group may have its own ``lr`` and ``weight_decay``."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def lr_factor(self, step: int) -> float:
        """Learning rate of optimiser step ``step`` (from 0) as a fraction of ``lr``."""
        return warmup_cosine(step, self.warmup_steps, self.progress(step), self.lr_end)

    def progress(self, step: int) -> float:
        """Fraction of the run that is over, in [0, 1]; 0 throughout if the end is not known."""
        fractions = [0.0]
        if 0 < self._total_steps < math.inf:
            fractions.append(step / self._total_steps)
        for timer in self.trainer.callbacks:  # type: ignore[attr-defined]
            remaining = timer.time_remaining() if isinstance(timer, Timer) else None
            if isinstance(timer, Timer) and remaining is not None:
                elapsed = timer.time_elapsed()
                fractions.append(elapsed / max(elapsed + remaining, 1e-9))
        return min(1.0, max(fractions))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the gradient norm before clipping, and the learning rate."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        if gradients:
            self.log("grad_norm", torch.nn.utils.get_total_norm(gradients))
        self.log("lr", optimizer.param_groups[0]["lr"])

    # Averaging, compilation, checkpoints

    def configure_callbacks(self) -> list[pl.Callback]:
        """The weight average belongs to the module, so that it survives from ``fit`` to ``test``."""
        return [self.ema] if self.ema is not None else []

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Averaged weights inside the ``with`` block (the raw ones if there is no average)."""
        if self.ema is None:
            yield
            return
        with self.ema.applied(self):
            yield

    def setup(self, stage: str) -> None:
        """Compile the network's forward on request."""
        if self.use_compile and stage == "fit":
            self._compiled_forward = torch.compile(self.denoiser.network.forward)

    def teardown(self, stage: str) -> None:
        self._compiled_forward = None

    @contextmanager
    def _compiled_network(self) -> Iterator[None]:
        if self._compiled_forward is None:
            yield
            return
        network = self.denoiser.network
        network.forward = self._compiled_forward  # an instance attribute: neither weights nor their names change
        try:
            yield
        finally:
            del network.forward

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the configuration as JSON, so that `from_lightning` needs no further arguments."""
        try:
            checkpoint[CONFIG_KEY] = json.dumps(self.to_config())
        except TypeError as error:
            warnings.warn(f"the checkpoint will not rebuild the module by itself: {error}", stacklevel=2)

    @classmethod
    def from_lightning(cls: type[_Self], path: str | os.PathLike[str], *, use_ema: bool = True) -> _Self:
        """Rebuild a module from a Lightning ``.ckpt``, without unpickling code.

        Args:
            path: A checkpoint of a `DiffusionModule`.
            use_ema: Take the averaged weights if the checkpoint has them.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a Lightning checkpoint of a `DiffusionModule`.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no Lightning checkpoint at {str(path)!r}.")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            config = json.loads(content[CONFIG_KEY])
        except Exception as error:  # torch.load raises many kinds
            raise ValueError(f"{str(path)!r} is not a Lightning checkpoint of a DiffusionModule.") from error
        module = cls.from_config(config)
        module.load_state_dict(content["state_dict"])
        state = content.get("callbacks", {}).get(module.ema.state_key) if module.ema is not None else None
        if module.ema is not None and state:
            module.ema.load_state_dict(state)
            if use_ema:
                module.ema.copy_to(module)
        return module.eval()


def _mean(values: Tensor) -> Tensor:
    """Mean without gradient; 0 for no samples, which count with weight 0."""
    values = values.detach()
    return values.sum() / max(1, values.numel())


def warmup_cosine(step: int, warmup_steps: int, progress: float, end: float = 0.0) -> float:
    """Factor min(1, (step + 1) / warmup_steps) * (end + (1 - end) (1 + cos(pi progress)) / 2)."""
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return warm * (end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * progress)))
