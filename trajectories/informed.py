r"""The informed walk: where a node goes from what was seen of it, and how far from there it may be.

With c the last given frame of a node before frame f, v its velocity and a its acceleration there (differences of given
positions, per frame), n the next given frame, k = f - c and l = n - f:

    mean:    x_c + g_k v + b_k a              after the last given frame, and mirrored before the first one
             (l x_c + k x_n) / (k + l)        between given frames
    spread:  s^2 = w0_kl + w1_kl |v|^2 + w2_kl |a|^2      (variance of one coordinate)

The numbers g, b and w belong to the pair (k, l) and are fitted to training data: g and b by weighted least squares, w
by maximum likelihood of a normal residual. All are scalars, so mean and spread are equivariant and invariant.

Given positions are exact here. Noise of size n in them would be noise of size sqrt(2) n in v and sqrt(6) n in a, times
g and b in the mean, where spreads may be a hundredth of a step: whitened by it, positions no longer have unit variance.
A model that sees a noisy history therefore needs a moving mean that is not divided by a spread.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from trajectories.priors import Prior

__all__ = ["InformedWalk"]

_ROUNDS = 4  # of means and spreads in turn
_UPDATES = 40  # of the weights of a spread in one round
_FLOOR_SHARE = 0.1  # of the root mean square residual of all nodes: calm nodes need no finer resolution


class _Past(NamedTuple):
    """What is known on one side, (B, F, N): frames to the nearest given one (0: none), and vectors (..., D)."""

    steps: Tensor
    end: Tensor
    velocity: Tensor
    acceleration: Tensor


class InformedWalk(Prior):
    """Mean and spread of unknown positions, from the motion of each node.

    Systems without any given entry have mean 0 and one spread. Before `fit` the mean is the walk of constant velocity
    (the straight line between given frames) and the spread 1.

    Args:
        max_steps: Steps to a given frame are told apart up to this number.
        floor: Least spread, as a part of the mean step of a frame. Between given frames a smooth motion is known so
            well that its spread may be many orders below a step, and gradients grow with the ratio of a step to a
            spread; with 0.05 such entries have a variance below 1 instead.

    Raises:
        ValueError: If ``max_steps`` or ``floor`` is not positive.
    """

    def __init__(self, max_steps: int = 30, floor: float = 1e-4) -> None:
        super().__init__()
        if max_steps < 1 or floor <= 0:
            raise ValueError(f"max_steps and floor must be positive, got {max_steps} and {floor}.")
        self.max_steps, self.floor = max_steps, floor
        size = max_steps + 1
        gains = torch.zeros(size, 2)
        gains[:, 0] = torch.arange(size)
        self.register_buffer("gains", gains)
        self.register_buffer("weights", torch.tensor([1.0, 0.0, 0.0]).repeat(size, size, 1))
        self.register_buffer("pace", torch.ones(()))
        self.register_buffer("is_fitted", torch.zeros((), dtype=torch.bool))

    gains: Tensor
    weights: Tensor
    pace: Tensor
    is_fitted: Tensor

    def forward(self, pos: Tensor, given: Tensor, cond: dict[str, Tensor]) -> Tensor:
        past, future = _sides(pos, given)
        return torch.where(given[..., None], pos, self._mean(past, future))

    def spread(self, pos: Tensor, given: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Standard deviation of a coordinate about the mean, (B, F, N, 1)."""
        past, future = _sides(pos, given)
        features = self._features(past, future)
        variance = (self._rows(self.weights, past, future).to(features) * features).sum(-1, keepdim=True)
        return variance.clamp_min(self._least).sqrt()

    @torch.no_grad()
    def fit(self, systems: Iterable[tuple[Tensor, Tensor, Tensor]]) -> InformedWalk:
        """Fit to training data.

        Args:
            systems: Positions (B, F, N, D) in the gauge of the model, given entries and live entries, bool (B, F, N).

        Raises:
            ValueError: If there is no entry to be found.
        """
        pasts, futures, truth = [], [], []
        for pos, given, live in systems:
            past, future = _sides(pos.double(), given)
            pasts.append(_Past(*(part[live] for part in past)))
            futures.append(_Past(*(part[live] for part in future)))
            truth.append(pos.double()[live])
        past, future = (_Past(*(torch.cat(parts) for parts in zip(*side, strict=True))) for side in (pasts, futures))
        x = torch.cat(truth)
        if not len(x):
            raise ValueError("the informed walk needs training systems with unknown entries.")
        moved = (past.steps > 0) & (past.velocity.square().sum(-1) > 0)
        if bool(moved.any()):
            self.pace.fill_(float(past.velocity[moved].square().mean().sqrt()))
        pair = self._pairs(past, future)
        features = self._features(past, future)
        variance = torch.ones(len(x), dtype=torch.float64)
        for _ in range(_ROUNDS):
            self._fit_gains(x, past, future, 1 / variance)
            error = (x - self._mean(past, future)).square().mean(-1)
            weights = _spread_weights(error, features, pair, (self.max_steps + 1) ** 2)
            weights[:, 0] += _FLOOR_SHARE**2 * _means(error, pair, len(weights))
            variance = (weights[pair] * features).sum(-1).clamp_min(self._least)
        self.weights.copy_(weights.reshape(self.weights.shape))
        self.is_fitted.fill_(True)
        return self

    @property
    def _least(self) -> float:
        """Least variance."""
        return (self.floor * float(self.pace)) ** 2

    def _mean(self, past: _Past, future: _Past) -> Tensor:
        k, n = past.steps[..., None], future.steps[..., None]
        ahead, behind = self._walked(past), self._walked(future)
        line = (n * past.end + k * future.end) / (k + n).clamp_min(1)
        return torch.where(k > 0, torch.where(n > 0, line, ahead), behind)

    def _walked(self, side: _Past) -> Tensor:
        gains = self.gains.to(side.end)[side.steps.clamp_max(self.max_steps)]
        return side.end + gains[..., :1] * side.velocity + gains[..., 1:] * side.acceleration

    def _features(self, past: _Past, future: _Past) -> Tensor:
        """1, |v|^2 and |a|^2 (..., 3), of the side that is known; between given frames of the line and of its bends."""
        k, n = past.steps[..., None], future.steps[..., None]
        line = (future.end - past.end) / (k + n).clamp_min(1)
        bends = [side.velocity - sign * line for side, sign in ((past, 1), (future, -1))]
        inside = _squares(torch.ones_like(k), line, torch.stack(bends).square().sum(-1).mean(0).sqrt()[..., None])
        outside = [_squares(torch.ones_like(k), side.velocity, side.acceleration) for side in (past, future)]
        return torch.where(k > 0, torch.where(n > 0, inside, outside[0]), outside[1])

    def _pairs(self, past: _Past, future: _Past) -> Tensor:
        k, n = (side.steps.clamp_max(self.max_steps) for side in (past, future))
        return k * (self.max_steps + 1) + n

    def _rows(self, table: Tensor, past: _Past, future: _Past) -> Tensor:
        return table.flatten(0, 1)[self._pairs(past, future)]

    def _fit_gains(self, x: Tensor, past: _Past, future: _Past, weight: Tensor) -> None:
        """Weighted least squares of x - x_c on v and a, for each number of steps; both sides together."""
        size = self.max_steps + 1
        normal, right = x.new_zeros(size, 2, 2), x.new_zeros(size, 2)
        for side, other in ((past, future), (future, past)):
            own = (side.steps > 0) & (other.steps == 0)
            steps = side.steps[own].clamp_max(self.max_steps)
            columns = torch.stack([side.velocity[own], side.acceleration[own]], 1)  # (M, 2, D)
            w = weight[own][:, None]
            normal.index_add_(0, steps, (columns @ columns.mT) * w[..., None])
            right.index_add_(0, steps, (columns @ (x - side.end)[own][..., None])[..., 0] * w)
        small = 1e-9 * normal.diagonal(dim1=1, dim2=2).amax().clamp_min(1e-30)
        found = torch.linalg.solve(normal + small * torch.eye(2, dtype=x.dtype), right)
        known = normal[:, 0, 0] > 0
        self.gains[known] = found[known].to(self.gains)


def _spread_weights(error: Tensor, features: Tensor, pair: Tensor, num_pairs: int) -> Tensor:
    """Weights (num_pairs, 3) of s^2 = sum_k w_k phi_k that maximise the likelihood: minimise log s^2 + error / s^2.

    The update w_k <- w_k sqrt(sum phi_k error / s^4 / sum phi_k / s^2) never raises it (Itakura-Saito divergence).
    Pairs without data get the weights of the nearest pair of as many steps in all that has some, at last the mean.
    """
    total = torch.zeros(num_pairs, 4, dtype=torch.float64)
    total.index_add_(0, pair, torch.cat([error[:, None], features], 1))
    seen = torch.zeros(num_pairs, dtype=torch.float64).index_add_(0, pair, torch.ones_like(error)) > 0
    weights = total[:, :1] / total[:, 1:].clamp_min(1e-30) / 3
    weights = torch.where(total[:, 1:] > 0, weights, 0.0)
    for _ in range(_UPDATES):
        variance = (weights[pair] * features).sum(-1).clamp_min(1e-20)
        up = torch.zeros(num_pairs, 3, dtype=torch.float64)
        up.index_add_(0, pair, features * (error / variance**2)[:, None])
        down = torch.zeros(num_pairs, 3, dtype=torch.float64).index_add_(0, pair, features / variance[:, None])
        weights = weights * (up / down.clamp_min(1e-30)).sqrt()
    return torch.where(seen[:, None], weights, weights[seen].mean(0))


def _means(value: Tensor, pair: Tensor, num_pairs: int) -> Tensor:
    total = torch.zeros(num_pairs, 2, dtype=torch.float64)
    total.index_add_(0, pair, torch.stack([value, torch.ones_like(value)], 1))
    return total[:, 0] / total[:, 1].clamp_min(1)


def _squares(one: Tensor, velocity: Tensor, acceleration: Tensor) -> Tensor:
    parts = (velocity, acceleration)
    return torch.cat([one.to(velocity), *(part.square().sum(-1, keepdim=True) for part in parts)], -1)


def _sides(pos: Tensor, given: Tensor) -> tuple[_Past, _Past]:
    """The past and, seen backwards in time, the future of every entry (B, F, N)."""
    return _past(pos, given), _Past(*(part.flip(1) for part in _past(pos.flip(1), given.flip(1))))


def _past(pos: Tensor, given: Tensor) -> _Past:
    number = torch.arange(pos.shape[1], device=pos.device)[:, None]
    latest = torch.where(given, number, -1).cummax(1).values
    before = torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], 1)  # last given frame before f
    frames = [before]
    for _ in range(2):
        frames.append(torch.where(frames[-1] >= 0, before.gather(1, frames[-1].clamp_min(0)), -1))
    at = [pos.gather(1, f.clamp_min(0)[..., None].expand(pos.shape)) for f in frames]
    gaps = [(a - b).clamp_min(1)[..., None] for a, b in itertools.pairwise(frames)]
    exists = [(f >= 0)[..., None] for f in frames]
    first, second = (
        torch.where(e, (a - b) / gap, 0.0) for a, b, gap, e in zip(at[:-1], at[1:], gaps, exists[1:], strict=True)
    )
    acceleration = torch.where(exists[2], 2 * (first - second) / (gaps[0] + gaps[1]), 0.0)
    steps = torch.where(before >= 0, number - before, 0)
    return _Past(steps, torch.where(exists[0], at[0], 0.0), first, acceleration)
