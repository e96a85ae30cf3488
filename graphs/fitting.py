"""Training without a command line: `GraphGenerator.fit`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch

from graphs.data.datamodule import GraphDataModule
from graphs.diffusion import GraphDiffusion
from graphs.networks.edge_transformer import EdgeTransformer

__all__ = ["PRESETS", "fit"]

PRESETS: dict[str, dict[str, Any]] = {
    "small": {"width": 96, "edge_width": 48, "num_layers": 5, "num_heads": 8, "walk_length": 8},
    "large": {"width": 256, "edge_width": 64, "num_layers": 8, "num_heads": 8, "walk_length": 12},
}
"""Sizes of the `EdgeTransformer`."""


def fit(
    data: Any, *, preset: str = "small", max_minutes: float = 5.0, seed: int = 0, progress: bool = False, **options: Any
) -> GraphDiffusion:
    """A trained module; see `graphs.generator.GraphGenerator.fit`.

    Raises:
        ValueError: If an option is out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
    if max_minutes <= 0:
        raise ValueError(f"max_minutes must be positive, got {max_minutes}.")
    data = data if isinstance(data, GraphDataModule) else GraphDataModule(data, batch_size=32, seed=seed)
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())  # of the new weights, put back afterwards
        network = options.pop("network", None) or EdgeTransformer(**PRESETS[preset])
        module = GraphDiffusion(network, spec=data.spec, noise_seed=seed, **options)
        with _quiet():
            trainer = pl.Trainer(
                max_time=timedelta(minutes=max_minutes),
                gradient_clip_val=1.0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=progress,
                enable_model_summary=False,
                limit_val_batches=0,
            )
            trainer.fit(module, datamodule=data)
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's remarks on hardware and workers."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
