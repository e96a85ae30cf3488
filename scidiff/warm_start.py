"""`WarmStart`: training that starts from the weights of a checkpoint, as a Lightning callback."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from scidiff.checkpoint import load, resolve

__all__ = ["WarmStart"]


class WarmStart(pl.Callback):
    """Copies the weights of a checkpoint into the module before the first step: pretraining, then fine-tuning.

    A weight is taken where the module has one of the same name and shape. What only the module has starts as it was
    initialised (networks initialise new conditions such that they have no effect at first); what only the checkpoint
    has is left out. A module may adapt the weights first: its ``adapt_start(config, weights)`` returns them for its own
    classes, and the names of the new ones. Optimiser, schedule and average start anew; to go on with an interrupted
    run, resume it.

    Args:
        checkpoint: Name of a packaged checkpoint, or a path.
        package: Import name of the domain whose packaged names are meant; None for all.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the file is damaged; when training starts, if weights of one name differ in shape, if none fits,
            or if the module refuses the checkpoint (other vocabulary).

    Attributes:
        copied: Names of the weights that were taken.
        fresh: Names of those that start anew.
        unused: Names of those of the checkpoint that have no place.
        new_classes: Names of the classes that the checkpoint does not know, where the module matches them by name.
    """

    def __init__(self, checkpoint: str | os.PathLike[str], package: str | None = None) -> None:
        self.path = resolve(checkpoint, package)
        self._checkpoint = load(self.path)
        self.copied: list[str] = []
        self.fresh: list[str] = []
        self.unused: list[str] = []
        self.new_classes: list[str] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy, before the optimiser and the average see the weights."""
        weights: Mapping[str, Tensor] = self._checkpoint.tensors
        adapt: Any = getattr(pl_module, "adapt_start", None)
        if adapt is not None:
            weights, self.new_classes = adapt(self._checkpoint.config, weights)
        self._copy(pl_module.state_dict(), weights)

    @torch.no_grad()
    def _copy(self, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
        self.copied = sorted(own.keys() & given.keys())
        self.fresh, self.unused = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        if not self.copied:
            raise ValueError(f"no weight of {str(self.path)!r} has a place in this model: is it of another kind?")
        for name in self.copied:
            if own[name].shape != given[name].shape:
                raise ValueError(
                    f"{name} has shape {tuple(given[name].shape)} in {str(self.path)!r}, but {tuple(own[name].shape)} "
                    "in this model: configure the network as the checkpoint's (see scidiff info), or start anew."
                )
        for name in self.copied:
            own[name].copy_(given[name])
