"""Training behind `DiffusionForecaster.fit`: a quiet Lightning run on series in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from scidiff.generation import quiet_lightning
from timeseries.data import calendar
from timeseries.data.datamodule import TimeSeriesDataModule
from timeseries.data.series import TimeSeries
from timeseries.diffusion import TimeSeriesDiffusion

__all__ = ["TRAINING", "Trained", "train"]

TRAINING: dict[str, Any] = {
    "max_steps": 2000,
    "max_time": None,
    "batch_size": 64,
    "lr": 1e-3,
    "state_lr": None,
    "ema": 0.999,
    "accelerator": "auto",
    "min_past": None,
    "seed": 0,
}


class Trained(NamedTuple):
    """A trained module, its last logged figures, and where it comes from."""

    module: TimeSeriesDiffusion
    metrics: dict[str, float]
    provenance: dict[str, Any]


def train(
    series: Sequence[TimeSeries],
    training: Mapping[str, Any],
    *,
    windows: Mapping[str, Any],
    model: Mapping[str, Any],
    progress: bool = False,
    callbacks: Sequence[Any] = (),
) -> Trained:
    """Train a `TimeSeriesDiffusion`.

    Args:
        series: Training series.
        training: Changes of `TRAINING`.
        windows: Options of `timeseries.data.datamodule.TimeSeriesDataModule` that shape the windows.
        model: Options of `TimeSeriesDiffusion`.
        progress: Show Lightning's bar.
        callbacks: Further Lightning callbacks.
    """
    options = {**TRAINING, **training}
    data = TimeSeriesDataModule.from_series(
        series,
        **windows,
        batch_size=options["batch_size"],
        min_past=options["min_past"],
        seed=options["seed"],
    )
    with torch.random.fork_rng(devices=[]):  # initial weights from the seed; the global generator is put back
        torch.default_generator.manual_seed(options["seed"])
        module = TimeSeriesDiffusion(
            spec=data.spec,
            lr=options["lr"],
            state_lr=options["state_lr"],
            ema=options["ema"],
            noise_seed=options["seed"],
            **model,
        )
    with quiet_lightning():
        trainer = pl.Trainer(
            max_steps=options["max_steps"],
            max_time=options["max_time"],
            accelerator=options["accelerator"],
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=list(callbacks),
        )
        trainer.fit(module, datamodule=data)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return Trained(module, metrics, {"steps": trainer.global_step, "training span": _span(series)})


def _span(series: Sequence[TimeSeries]) -> list[str]:
    """First and last period of a set of series."""
    first = min((s.start for s in series), key=lambda p: p.ordinal)
    last = max((calendar.shift(s.start, len(s) - 1) for s in series), key=lambda p: p.ordinal)
    return [str(first), str(last)]
