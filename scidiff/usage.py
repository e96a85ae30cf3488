"""`Usage`: periodic reports of speed and memory of a training, as a Lightning callback."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

__all__ = ["Usage", "peak_memory"]

_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of a unit of ru_maxrss


class Usage(pl.Callback):
    """Logs ``samples_per_second`` and ``memory_gb`` every ``log_every_n_steps`` steps of the trainer.

    The rate is that of this process since the last report, validation and pauses included; samples are counted by the
    first axis of a batch. Memory is the peak of the process so far: that of the GPU if it trains on one, else the
    resident memory; 1 GB = 1e9 bytes.
    """

    def __init__(self) -> None:
        self._count = 0
        self._start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count, self._start = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and report when the trainer logs."""
        self._count += _num_samples(batch)
        if trainer.global_step % max(1, trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return
        now = time.perf_counter()
        rate = self._count / max(now - self._start, 1e-9)
        pl_module.log_dict({"samples_per_second": rate, "memory_gb": peak_memory(pl_module.device) / 1e9})
        self._count, self._start = 0, now


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that was allocated on a CUDA device, else the largest resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def _num_samples(batch: Any) -> int:
    """Length of the first tensor of a batch; 0 if there is none."""
    parts = list(batch.values()) if isinstance(batch, Mapping) else list(batch) if not isinstance(batch, Tensor) else []
    if isinstance(batch, Tensor):
        return len(batch)
    return next((len(part) for part in parts if isinstance(part, Tensor) and part.ndim), 0)
