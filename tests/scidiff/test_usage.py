"""Speed and memory of a training are reported as they are."""

import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from scidiff.usage import Usage, peak_memory

_SECONDS = 0.05  # a step
_STATUS = Path("/proc/self/status")


class _Slow(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        time.sleep(_SECONDS)
        return self.layer(batch["x"]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_reports_samples_and_memory(tmp_path):
    """Six samples in a step of at least 0.05 s: below 120 a second; the process holds what numpy has filled."""
    held = np.ones(25_000_000)  # 200 MB
    module, data = _Slow(), [{"x": torch.ones(1)} for _ in range(24)]
    options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[Usage()], log_every_n_steps=2, **options)
    start = time.perf_counter()
    trainer.fit(module, DataLoader(data, batch_size=6))
    seconds = time.perf_counter() - start
    found = trainer.callback_metrics
    assert 12 / seconds <= found["samples_per_second"] <= 6 / _SECONDS
    assert 1e9 * found["memory_gb"] > held.nbytes


@pytest.mark.skipif(not _STATUS.exists(), reason="the kernel does not say the peak elsewhere")
def test_memory_is_the_peak_of_the_kernel():
    """VmHWM of Linux, also after the memory was given back."""
    held = np.ones(25_000_000)
    del held
    peak = next(int(line.split()[1]) * 1024 for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    assert peak_memory(torch.device("cpu")) == pytest.approx(peak, rel=0.02)
