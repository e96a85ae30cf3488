"""`PositionRegression`: an equivariant network predicts where particles will be.

References: Satorras et al. 2021, "E(n) Equivariant Graph Neural Networks", section 5.1; Bekkers et al. 2024, "Fast,
Expressive SE(n) Equivariant Networks through Weight-Sharing in Position-Orientation Space", section 5.2.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from scidiff.assets import suggestion
from scidiff.configurable import Configurable
from scidiff.nn import EquivariantNetwork
from scidiff.nn.painn import lengths
from scidiff.testing import random_rotation
from scidiff.training import CONFIG_KEY, warmup_cosine

__all__ = ["EDGE_FEATURES", "NODE_FEATURES", "PositionRegression"]

Batch = Mapping[str, Tensor]
NODE_FEATURES: dict[str, Callable[[Batch], Tensor]] = {
    "charge": lambda batch: batch["h"],
    "speed": lambda batch: lengths(batch["vel"])[..., None],
}
EDGE_FEATURES: dict[str, Callable[[Batch], Tensor]] = {
    "pair": lambda batch: batch["edge_attr"],
    "squared_distance": lambda batch: (batch["pos"][:, :, None] - batch["pos"][:, None]).square().sum(-1, keepdim=True),
}


class PositionRegression(Configurable, pl.LightningModule):
    """Positions at a later frame as x + (first output vector), from positions, velocities and invariant features.

    Trained with the mean squared error of a coordinate by Adam, with a linear warm-up and a cosine down to ``lr_end``
    times the peak at the end of the run. Logged: ``train_loss``, ``val_loss``, ``test_loss``, ``lr``.

    Args:
        network: Its ``in_channels`` and ``edge_channels`` are the numbers of features below, its ``vector_channels`` is
            1 (the velocity).
        node_features: ``"charge"``, ``"speed"``.
        edge_features: ``"pair"`` (product of charges, spring), ``"squared_distance"``.
        lr: Peak learning rate.
        warmup_steps: Optimiser steps of the linear warm-up.
        lr_end: Final learning rate as a fraction of ``lr``; 1 for a constant rate.
        weight_decay: L2 penalty of weight matrices, through the gradient.
        augment: Rotate (and reflect) every training batch at random, for networks that are only approximately
            equivariant.
        seed: Seed of the rotations.

    Raises:
        ValueError: If a feature is unknown, the network has other sizes, or a number is out of its range.
    """

    def __init__(
        self,
        network: EquivariantNetwork,
        *,
        node_features: Sequence[str] = ("charge", "speed"),
        edge_features: Sequence[str] = ("pair",),
        lr: float = 1e-3,
        warmup_steps: int = 100,
        lr_end: float = 0.0,
        weight_decay: float = 0.0,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for names, known in ((node_features, NODE_FEATURES), (edge_features, EDGE_FEATURES)):
            for name in names:
                if name not in known:
                    raise ValueError(f"unknown feature {name!r}{suggestion(name, list(known))}.")
        wanted = (len(node_features), len(edge_features), 1)
        given = (network.in_channels, network.edge_channels, network.vector_channels)
        if given != wanted:
            raise ValueError(
                f"the network needs in_channels, edge_channels, vector_channels = {wanted}, as there are "
                f"{wanted[0]} node features, {wanted[1]} edge features and one velocity; got {given}."
            )
        if lr <= 0 or warmup_steps < 0 or not 0 <= lr_end <= 1 or weight_decay < 0:
            raise ValueError(
                "expected lr > 0, warmup_steps >= 0, lr_end in [0, 1] and weight_decay >= 0, "
                f"got {lr}, {warmup_steps}, {lr_end} and {weight_decay}."
            )
        self.network = network
        self.node_features = tuple(node_features)
        self.edge_features = tuple(edge_features)
        self.lr, self.warmup_steps, self.lr_end, self.weight_decay = lr, warmup_steps, lr_end, weight_decay
        self.augment, self.seed = augment, seed

    def forward(self, batch: Batch) -> Tensor:
        """Predicted positions (B, N, 3) of a batch of `trajectories.data.nbody.NBodyRegression`."""
        h = torch.cat([NODE_FEATURES[name](batch) for name in self.node_features], -1)
        edges = [EDGE_FEATURES[name](batch) for name in self.edge_features]
        edge_attr = torch.cat(edges, -1) if edges else None
        out = self.network(h, batch["pos"], edge_attr=edge_attr, v=batch["vel"][:, :, None])
        return batch["pos"] + out.v[:, :, 0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of the batch."""
        return self._loss("train", self._turned(batch, batch_idx) if self.augment else batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Mean squared error."""
        self._loss("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Mean squared error."""
        self._loss("test", batch)

    def _loss(self, stage: str, batch: Batch) -> Tensor:
        loss = (self(batch) - batch["target"]).square().mean()
        training = stage == "train"
        self.log(f"{stage}_loss", loss, prog_bar=True, batch_size=len(batch["pos"]), sync_dist=not training)
        return loss

    def _turned(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The batch after one random rotation, every second time with a reflection."""
        key = hash((self.seed, self.global_rank, self.current_epoch, batch_idx)) & (2**63 - 1)
        generator = torch.Generator().manual_seed(key)
        turn = random_rotation(generator, batch["pos"].dtype, reflect=bool(batch_idx % 2)).to(batch["pos"].device)
        turned = {name: batch[name] @ turn.T for name in ("pos", "vel", "target")}
        return {**batch, **turned}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam and the learning rate of each step."""
        matrices = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": others}]
        optimizer = torch.optim.Adam(groups, lr=self.lr)
        total = float(self.trainer.estimated_stepping_batches)
        end = total if 0 < total < math.inf else math.inf

        def factor(step: int) -> float:
            return warmup_cosine(step, self.warmup_steps, min(1.0, step / end), self.lr_end)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the configuration as JSON."""
        checkpoint[CONFIG_KEY] = json.dumps(self.to_config())
