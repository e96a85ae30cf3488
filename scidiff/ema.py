"""Exponential moving average of the weights, as a Lightning callback.

After optimiser step k (counted from 0): shadow <- d_k shadow + (1 - d_k) weights, d_k = min(decay, (1 + k) / (10 + k)).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from scidiff.configurable import Configurable

__all__ = ["EMA"]

_SHARDED = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")


class EMA(Configurable, pl.Callback):
    """Averages the floating-point parameters in at least float32; swapped in for validation, test and prediction.

    The average is saved in Lightning checkpoints and restored on resume, validation and test. The state dict in a
    checkpoint is always that of the raw weights. Buffers are not averaged.

    Args:
        decay: Weight of the past in the long run, in [0, 1).

    Raises:
        ValueError: If ``decay`` is outside [0, 1).

    References: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3; the
    warm-up is that of TensorFlow's ``ExponentialMovingAverage(num_updates=...)``.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), got {decay}.")
        self.decay = decay
        self.updates = 0
        self.shadow: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] = {}
        self._seen_step = 0

    @property
    def is_swapped_in(self) -> bool:
        """True while the module carries the averaged weights."""
        return bool(self._raw)

    def decay_at(self, update: int) -> float:
        """Decay of update number ``update``, counted from 0."""
        return min(self.decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the present weights of ``module`` into the average; without an average, they start it."""
        live = _averaged_parameters(module)
        self._prepare(live)
        shadows = [self.shadow[name] for name in live]
        weights = [value.to(shadow.dtype) for value, shadow in zip(live.values(), shadows)]
        step = 1.0 - self.decay_at(self.updates)
        torch._foreach_lerp_(shadows, weights, step)  # pyright: ignore[reportPrivateImportUsage]
        self.updates += 1

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Averaged weights inside the ``with`` block, raw ones after it. Without any update yet: no change."""
        nested = self.is_swapped_in
        if not nested:
            self._swap_in(module)
        try:
            yield
        finally:
            if not nested:
                self._swap_out(module)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the weights of ``module`` by the averaged ones for good."""
        for name, value in _averaged_parameters(module).items():
            if name in self.shadow:
                value.copy_(self.shadow[name])

    def _prepare(self, live: dict[str, Tensor]) -> None:
        for name, value in live.items():
            shadow = self.shadow.get(name)
            if shadow is None:
                self.shadow[name] = value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
            elif shadow.device != value.device:
                self.shadow[name] = shadow.to(value.device)

    @torch.no_grad()
    def _swap_in(self, module: nn.Module) -> None:
        if self.is_swapped_in or not self.shadow:
            return
        self._raw = {name: value.detach().clone() for name, value in _averaged_parameters(module).items()}
        self.copy_to(module)

    @torch.no_grad()
    def _swap_out(self, module: nn.Module) -> None:
        live = _averaged_parameters(module)
        for name, raw in self._raw.items():
            live[name].copy_(raw)
        self._raw = {}

    # Lightning hooks

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse sharded strategies, under which a rank sees only a part of each weight."""
        if type(trainer.strategy).__name__ in _SHARDED:
            raise ValueError(
                f"EMA needs whole weights on each rank, but {type(trainer.strategy).__name__} shards them. "
                "Set ema to null."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the average at the initial weights, or go on with a restored one."""
        self._prepare(_averaged_parameters(pl_module))
        self._seen_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Update once per optimiser step, not per accumulated batch."""
        if trainer.global_step > self._seen_step:
            self._seen_step = trainer.global_step
            self.update(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap_in(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap_out(pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap_in(pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap_out(pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap_in(pl_module)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap_out(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Put the raw weights back, so that an emergency checkpoint is one to resume from."""
        self._swap_out(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep raw weights in the state dict even when saving happens during validation."""
        for name, raw in self._raw.items():
            checkpoint["state_dict"][name] = raw

    def state_dict(self) -> dict[str, Any]:
        """Number of updates and averaged weights."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.updates = int(state_dict["updates"])
        self.shadow = dict(state_dict["shadow"])


def _averaged_parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.named_parameters() if value.is_floating_point()}
