r"""Random bases x_1 made from the given entries, from which a stochastic interpolant leads to the data.

    x_t = (1 - t) x_0 + t x_1,    velocity x_1 - x_0

All weights on given positions add up to 1 and the noise is isotropic, so the whole model is equivariant. With w a
standard random walk, c the last given frame of a node and a < b neighbouring given frames:

* `WalkBase`: x_c + (f - c) v + s sigma_v w_{f - c}, v and sigma_v from the observed steps of each node;
* `BridgeBase`: x_a + (f - a)/(b - a) (x_b - x_a) + s sigma (w_{f - a} - (f - a)/(b - a) w_{b - a}), a Brownian bridge
  of variance (f - a)(b - f)/(b - a); a walk outside of the given frames;
* `LastFrameBase`: x_c + s eps.

References: Albergo, Boffi, Vanden-Eijnden 2023 (stochastic interpolants, couplings); the walk is that of STFlow, less
its look at the last velocity.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from trajectories.priors import Bridge, LastFrame, Prior, Walk

__all__ = ["BridgeBase", "LastFrameBase", "RandomBase", "WalkBase"]


class RandomBase(Prior):
    """A random moving mean: `forward` is its mean, `draw` the mean and its noise.

    Args:
        scale: s, the size of the noise; in `WalkBase` and `BridgeBase` relative to the observed steps.

    Raises:
        ValueError: If ``scale`` is not positive.
    """

    mean: Prior

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}.")
        self.scale = scale

    def forward(self, pos: Tensor, given: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.mean(pos, given, cond)

    @abstractmethod
    def noise(self, pos: Tensor, given: Tensor, eps: Tensor) -> Tensor:
        """Deviation from the mean (B, F, N, D), linear in the standard normal numbers ``eps``."""
        raise NotImplementedError

    def draw(self, pos: Tensor, given: Tensor, cond: dict[str, Tensor], eps: Tensor) -> Tensor:
        """x_1 (B, F, N, D); given entries keep their position."""
        value = self(pos, given, cond) + self.scale * self.noise(pos, given, eps)
        return torch.where(given[..., None], pos, value)


class LastFrameBase(RandomBase):
    """Independent noise of standard deviation ``scale`` (units of the model) about the last given position."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.mean = LastFrame()

    def noise(self, pos: Tensor, given: Tensor, eps: Tensor) -> Tensor:
        """Independent."""
        return eps


class WalkBase(RandomBase):
    """A walk with the mean step of each node, its steps as uneven as those observed, times ``scale`` (4 in STFlow)."""

    def __init__(self, scale: float = 4.0) -> None:
        super().__init__(scale)
        self.mean = Walk()

    def noise(self, pos: Tensor, given: Tensor, eps: Tensor) -> Tensor:
        """sigma_v (w_f - w_c), with sigma_v the root mean square over axes: one number a node."""
        last = _number(given).masked_fill(~given, 0).amax(1, keepdim=True)
        walk = eps.cumsum(1)
        pairs = (given[:, 1:] & given[:, :-1])[..., None]
        steps = torch.where(pairs, pos.diff(dim=1), 0)
        count = pairs.sum(1, keepdim=True).clamp_min(1)
        spread = torch.where(pairs, steps - steps.sum(1, keepdim=True) / count, 0).square().mean(-1, keepdim=True)
        sigma = (spread.sum(1, keepdim=True) / count).sqrt()
        return sigma * (walk - _at(walk, last))


class BridgeBase(RandomBase):
    """Brownian bridges between given frames, of the size of the observed increments of a system, times ``scale``."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.mean = Bridge()

    def noise(self, pos: Tensor, given: Tensor, eps: Tensor) -> Tensor:
        """sigma times the bridges; sigma^2 is the mean of |x_b - x_a|^2 / (D (b - a)) over neighbours a < b."""
        size, number = pos.shape[1], _number(given)
        before = torch.where(given, number, -1).cummax(1).values
        after = torch.where(given, number, size).flip(1).cummin(1).values.flip(1)
        left = torch.where(before < 0, after, before).clamp_max(size - 1)
        right = torch.where(after >= size, before, after).clamp_min(0)
        left = torch.where(given.any(1, keepdim=True), left, 0)  # a node that is never given walks from frame 0
        walk = eps.cumsum(1)
        share = ((number - left) / (right - left).clamp_min(1))[..., None].to(pos.dtype)
        bridge = walk - _at(walk, left) - share * (_at(walk, right) - _at(walk, left))
        return _increments(pos, given)[:, None, None, None] * bridge


def _increments(pos: Tensor, given: Tensor) -> Tensor:
    """Root mean square (B,) of the increments between neighbouring given frames, a step and an axis."""
    number = _number(given)
    earlier = torch.where(given, number, -1).cummax(1).values
    earlier = torch.cat([torch.full_like(earlier[:, :1], -1), earlier[:, :-1]], 1)  # the given frame before this one
    counts = given & (earlier >= 0)
    moved = pos - _at(pos, earlier.clamp_min(0))
    rate = moved.square().mean(-1) / (number - earlier).clamp_min(1)
    return (torch.where(counts, rate, 0).sum((1, 2)) / counts.sum((1, 2)).clamp_min(1)).sqrt()


def _number(given: Tensor) -> Tensor:
    """Frame numbers like ``given`` (B, F, N)."""
    return torch.arange(given.shape[1], device=given.device)[None, :, None].expand(given.shape)


def _at(value: Tensor, frame: Tensor) -> Tensor:
    """Values (B, F, N, D) at frames (B, F', N)."""
    return value.gather(1, frame[..., None].expand(*frame.shape, value.shape[-1]))
