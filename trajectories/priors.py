r"""Where a forecast starts: the moving mean x_r of x_t = x_r + alpha (x_0 - x_r) + sigma eps, from given frames.

All are equivariant under rotations, reflections and translations of the given frames (`Origin` under translations only
through the origin that the model puts there): their weights on given positions add up to 1.

References: Han et al. 2024, "Geometric Trajectory Diffusion Models" (GeoTDM), section 4.2 (learned mean, eq. 12-14).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from scidiff.assets import suggestion
from scidiff.configurable import Configurable
from scidiff.nn.temporal import frame_features
from trajectories.conditions import condition_features
from trajectories.networks.egtn import EGTN

__all__ = ["PRIORS", "Bridge", "CenterOfMass", "LastFrame", "Learned", "Origin", "Prior", "Walk", "get_prior"]


class Prior(Configurable, nn.Module, ABC):
    """Mean of the prior, called as ``prior(pos, given, cond)``."""

    @abstractmethod
    def forward(self, pos: Tensor, given: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """x_r (B, F, N, D); zero for systems without given entries.

        Args:
            pos: Positions (B, F, N, D); only given entries are looked at.
            given: True for given entries, bool (B, F, N).
            cond: Features, see `trajectories.networks.egtn.EGTN`.
        """
        raise NotImplementedError


class Origin(Prior):
    """x_r = 0: the origin of the model, which is the centre of the given entries."""

    def forward(self, pos: Tensor, given: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return torch.zeros_like(pos)


class CenterOfMass(Prior):
    """The mean of all given entries, over nodes and frames: one point for the whole system."""

    def forward(self, pos: Tensor, given: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return _mean(pos, given, (1, 2)).expand_as(pos)


class LastFrame(Prior):
    """The last given position of each node; the centre of the given entries for nodes that are never given."""

    def forward(self, pos: Tensor, given: Tensor, cond: dict[str, Tensor]) -> Tensor:
        last = _frames(given).amax(1, keepdim=True)
        return _filled(_at(pos, last).expand_as(pos), pos, given)


class Walk(Prior):
    """On from the last given position of each node with its mean velocity: x_c + (f - c) v, also backwards.

    v is the mean of the steps between the first and the last given frame, 0 if there is one only.
    """

    def forward(self, pos: Tensor, given: Tensor, cond: dict[str, Tensor]) -> Tensor:
        frames, number = _frames(given), _number(pos)
        last = frames.amax(1, keepdim=True)
        first = torch.where(given, number[:, None], pos.shape[1]).amin(1, keepdim=True).clamp_max(pos.shape[1] - 1)
        end, start = _at(pos, last), _at(pos, first)
        velocity = (end - start) / (last - first).clamp_min(1)[..., None]
        velocity = torch.where((last > first)[..., None], velocity, 0.0)
        return _filled(end + (number[:, None] - last)[..., None] * velocity, pos, given)


class Bridge(Prior):
    """Straight lines between neighbouring given frames of each node; outside of them the nearest one."""

    def forward(self, pos: Tensor, given: Tensor, cond: dict[str, Tensor]) -> Tensor:
        size, number = pos.shape[1], _number(pos)[:, None]
        before = torch.where(given, number, -1).cummax(1).values
        after = torch.where(given, number, size).flip(1).cummin(1).values.flip(1)
        left = torch.where(before < 0, after, before).clamp_max(size - 1)
        right = torch.where(after >= size, before, after).clamp_min(0)
        share = ((number - left) / (right - left).clamp_min(1))[..., None].to(pos.dtype)
        ends = _at(pos, left), _at(pos, right)
        return _filled(ends[0] + share * (ends[1] - ends[0]), pos, given)


class Learned(Prior):
    r"""x_r[f] = sum_s W_sf x~_s over given frames s, with x~ and the weights from a small network.

    A network runs on the given frames alone and returns positions x~ and scalars h~. w_s is the mean of the channels of
    h~_s; W_sf = w_s u(f) for given frames before the last one, c, and W_cf = 1 - sum_{s < c} W_sf. The published u is a
    table over future frames, at first 1; here it is 1 + MLP(psi(f - c)), at first 1, for any number of frames.
    There is no loss of its own: the gradient comes through x_t.

    Args:
        network: `EGTN` of the same node and pair features; its time is not used (0 throughout).
        frame_channels: Features of f - c, even.
    """

    def __init__(self, network: EGTN, *, frame_channels: int = 32) -> None:
        super().__init__()
        self.network = network
        self.frame_channels = frame_channels
        self._filler = Bridge()  # features of motion must not see what is not given
        self.future = nn.Sequential(nn.Linear(frame_channels, frame_channels), nn.SiLU(), nn.Linear(frame_channels, 1))
        for parameter in self.future[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, pos: Tensor, given: Tensor, cond: dict[str, Tensor]) -> Tensor:
        net = self.network
        known = torch.where(given[..., None], pos, self._filler(pos, given, cond))
        time = pos.new_zeros(len(pos))
        features = torch.cat(
            [
                net._nodes(pos, cond),
                *net._conditions(known, time, given, {}),
                *condition_features(pos, net.conditions, cond),
            ],
            -1,
        )
        out = net.layers(net.embedding(features), known, cond, given)
        last = _frames(given).amax(1, keepdim=True)  # (B, 1, N)
        number = _number(pos)[:, None]
        u = 1 + self.future(frame_features((number - last).to(pos.dtype), self.frame_channels))[..., 0]  # (B, F, N)
        w = torch.where(given & (number != last), out.h.mean(-1), 0.0)  # frames s before the last
        end = _at(out.pos, last)
        pulled = torch.einsum("bsn,bsnd->bnd", w, torch.where(given[..., None], out.pos - end, 0.0))
        return _filled(end + u[..., None] * pulled[:, None], pos, given)


PRIORS: dict[str, type[Prior]] = {
    "normal": Origin,
    "com": CenterOfMass,
    "last": LastFrame,
    "walk": Walk,
    "bridge": Bridge,
}
"""Priors without arguments by name."""


def get_prior(prior: str | Prior) -> Prior:
    """The prior of a name; an object is returned as it is.

    Raises:
        ValueError: If the name is unknown.
    """
    if isinstance(prior, Prior):
        return prior
    if prior not in PRIORS:
        raise ValueError(
            f"no prior {prior!r}{suggestion(prior, list(PRIORS))}; a learned one is an object, Learned(...)."
        )
    return PRIORS[prior]()


def _number(pos: Tensor) -> Tensor:
    return torch.arange(pos.shape[1], device=pos.device)


def _frames(given: Tensor) -> Tensor:
    """Numbers of the given frames (B, F, N), 0 for others."""
    return torch.where(given, torch.arange(given.shape[1], device=given.device)[:, None], 0)


def _at(pos: Tensor, frame: Tensor) -> Tensor:
    """Positions at frames (B, F', N), (B, F', N, D)."""
    return pos.gather(1, frame[..., None].expand(*frame.shape, pos.shape[-1]))


def _mean(pos: Tensor, given: Tensor, axes: tuple[int, ...]) -> Tensor:
    total = torch.where(given[..., None], pos, 0.0).sum(axes, keepdim=True)
    return total / given.sum(axes, keepdim=True).clamp_min(1)[..., None]


def _filled(value: Tensor, pos: Tensor, given: Tensor) -> Tensor:
    """``value`` for nodes with a given frame, the centre of the given entries for others."""
    return torch.where(given.any(1, keepdim=True)[..., None], value, _mean(pos, given, (1, 2)))
