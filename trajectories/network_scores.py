r"""Scores by small networks: can generated trajectories be told from real ones, and do they teach what real ones do?

``scidiff_classification``: cross entropy (nats) on held-out trajectories of a network that tells real from generated;
log 2 = 0.693 means that it cannot, smaller that it can. ``scidiff_prediction``: mean squared error of a coordinate, on
real trajectories, of a network that learned from generated ones to go on from their first half; the floor is the same
with other real trajectories. Both networks are a small `EGTN`; training stops early by a part that is held out, and is
repeated with other initial weights.

The idea is that of Han et al. 2024, "Geometric Trajectory Diffusion Models", section 5.1; networks and training differ,
so the figures must not be set beside published ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from trajectories.batch import TrajectoryBatch
from trajectories.networks.egtn import EGTN

__all__ = ["NetworkScore", "classification_score", "prediction_score"]

_HIDDEN, _LAYERS, _LR, _BATCH = 16, 1, 5e-3, 128
_PATIENCE = 10
Loss = Callable[[nn.Module, Tensor], Tensor]  # of a network and the rows that it sees


class NetworkScore(NamedTuple):
    """Mean and standard deviation over repetitions."""

    mean: float
    std: float


class _Classifier(nn.Module):
    """Logit of a trajectory: the mean of the last scalars over nodes and frames, read out linearly."""

    def __init__(self, in_channels: int, edge_channels: int) -> None:
        super().__init__()
        self.network = EGTN(in_channels, edge_channels=edge_channels, hidden=_HIDDEN, num_layers=_LAYERS)
        self.readout = nn.Linear(_HIDDEN, 1)

    def forward(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        net, cond = self.network, dict(cond)
        given = torch.zeros(x.shape[:3], dtype=torch.bool, device=x.device)
        mask = cond.get("node_mask")
        present = None if mask is None else mask[:, None].expand(x.shape[:3])
        h = net.embedding(torch.cat([net._nodes(x, cond), *net._conditions(x, x.new_zeros(len(x)), given, cond)], -1))
        h = net.layers(h, x, cond, present).h
        weight = torch.ones_like(h[..., :1]) if present is None else present[..., None].to(h.dtype)
        return self.readout((h * weight).sum((1, 2)) / weight.sum((1, 2)))[:, 0]


def classification_score(
    real: TrajectoryBatch, generated: TrajectoryBatch, *, epochs: int = 50, repeats: int = 3, seed: int = 0
) -> NetworkScore:
    """Cross entropy of real against generated trajectories, on a fifth of both; higher is better.

    Args:
        real: Real trajectories.
        generated: Generated ones, with the same features; the larger set is cut to the size of the other.
        epochs: Most epochs of training.
        repeats: Trainings.
        seed: Seed of order, parts and initial weights.
    """
    size = min(len(real), len(generated))
    x, cond = _joined(real.index(torch.arange(size)), generated.index(torch.arange(size)))
    label = (torch.arange(2 * size) >= size).to(x)

    def loss(model: nn.Module, rows: Tensor) -> Tensor:
        logit = model(x[rows], {name: value[rows] for name, value in cond.items()})
        return nn.functional.binary_cross_entropy_with_logits(logit, label[rows])

    scores = []
    for repeat in range(seed, seed + repeats):
        order = torch.randperm(2 * size, generator=torch.Generator().manual_seed(repeat))
        ends = round(0.7 * len(order)), round(0.8 * len(order))
        model = _built(lambda: _Classifier(*_channels(cond)), repeat)
        _train(model, loss, order[: ends[0]], order[ends[0] : ends[1]], epochs, repeat)
        scores.append(_mean_loss(model, loss, order[ends[1] :]))
    return _summary(scores)


def prediction_score(
    train: TrajectoryBatch, test: TrajectoryBatch, *, epochs: int = 50, repeats: int = 3, seed: int = 0
) -> NetworkScore:
    """Mean squared error on ``test`` of a network that learned the second half of ``train`` from the first.

    Args:
        train: Trajectories to learn from: generated ones, or real ones for the floor.
        test: Real trajectories.
        epochs: Most epochs of training.
        repeats: Trainings.
        seed: Seed of order, parts and initial weights.
    """
    x, cond = _joined(train, test)
    seen = x.shape[1] // 2
    if seen < 1:
        raise ValueError("the prediction score needs trajectories of at least 2 frames.")
    given = (torch.arange(x.shape[1]) < seen)[None, :, None].expand(x.shape[:3])
    start = torch.where(given[..., None], x, x[:, seen - 1 : seen])
    channels = _channels(cond)

    def loss(model: nn.Module, rows: Tensor) -> Tensor:
        own = {name: value[rows] for name, value in cond.items()}
        moved = model(start[rows], x.new_ones(len(rows)), {**own, "given": given[rows]})
        error = (start[rows] + moved - x[rows]).square()[:, seen:]
        if "node_mask" in own:
            mask = own["node_mask"][:, None, :, None].expand_as(error)
            return torch.where(mask, error, 0).sum() / mask.sum()
        return error.mean()

    def build() -> EGTN:
        return EGTN(channels[0], edge_channels=channels[1], hidden=_HIDDEN, num_layers=_LAYERS)

    scores = []
    for repeat in range(seed, seed + repeats):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(repeat))
        end = round(0.9 * len(order))
        model = _built(build, repeat)
        _train(model, loss, order[:end], order[end:], epochs, repeat)
        scores.append(_mean_loss(model, loss, torch.arange(len(train), len(x))))
    return _summary(scores)


def _joined(first: TrajectoryBatch, second: TrajectoryBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Positions (B, F, N, D) about the centre of each system in units of the spread, and the features."""
    frames = min(first.pos.shape[2], second.pos.shape[2])
    parts = [replace(batch, pos=batch.pos[:, :, :frames]) for batch in (first, second)]
    names = [name for name in ("h", "edge_attr", "node_mask") if all(name in part.features for part in parts)]
    cond = {name: torch.cat([part.features[name] for part in parts]) for name in names}
    cond = {name: value if value.dtype == torch.bool else value.float() for name, value in cond.items()}
    x = torch.cat([part.pos for part in parts]).transpose(1, 2).float()
    return x - x.mean((1, 2), keepdim=True), cond


def _channels(cond: Mapping[str, Tensor]) -> tuple[int, int]:
    return tuple(cond[name].shape[-1] if name in cond else 0 for name in ("h", "edge_attr"))  # type: ignore[return-value]


def _built(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose initial weights depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()


def _train(model: nn.Module, loss: Loss, rows: Tensor, held_out: Tensor, epochs: int, seed: int) -> None:
    """Adam until the held-out loss has not fallen for some epochs; the best weights stay."""
    optimizer = torch.optim.Adam(model.parameters(), lr=_LR)
    generator = torch.Generator().manual_seed(seed)
    best, best_weights, waited = math.inf, None, 0
    for _ in range(epochs):
        model.train()
        for part in rows[torch.randperm(len(rows), generator=generator)].split(_BATCH):
            optimizer.zero_grad()
            loss(model, part).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        score = _mean_loss(model, loss, held_out if len(held_out) else rows)
        if score < best:
            best, waited = score, 0
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        else:
            waited += 1
            if waited == _PATIENCE:
                break
    if best_weights is not None:
        model.load_state_dict(best_weights)


@torch.no_grad()
def _mean_loss(model: nn.Module, loss: Loss, rows: Tensor) -> float:
    parts = rows.split(512)
    return float(sum(float(loss(model, part)) * len(part) for part in parts)) / len(rows)


def _summary(scores: list[float]) -> NetworkScore:
    return NetworkScore(float(np.mean(scores)), float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0)
