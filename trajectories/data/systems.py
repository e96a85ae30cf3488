r"""Systems of interacting particles: initial states, force laws, potentials.

Unit masses, arbitrary units. The force on particle i is F_i = sum_j s(|r_ij|^2) r_ij with r_ij = x_i - x_j and a scalar
law s of each system:

===========  =====================================  ===================================
system       law s                                  integrator, first frame
===========  =====================================  ===================================
charged      c_i c_j / r^3                          symplectic Euler, step 100, clipped
spring       -0.1 e_ij                              symplectic Euler, step 100, clipped
gravity      -1 / (r^2 + 0.01)^{3/2}                leapfrog, step 0
lj           24 (2 r^-12 - r^-6) / r^2              leapfrog, step 0
double_well  -(2 b u + 4 c u^3) / r, u = r - 4      leapfrog, step 0
===========  =====================================  ===================================

Clipped: each component of a total force is limited to +-100. The double well has b = -4, c = 0.9.

References: Kipf et al. 2018, "Neural Relational Inference", section 5.1 (charged, spring); Satorras et al. 2021, "E(n)
Equivariant Graph Neural Networks", section 5.1 (three dimensions); Brandstetter et al. 2022, "Geometric and Physical
Quantities Improve E(3) Equivariant Message Passing" (gravity); Koehler et al. 2020, "Equivariant Flows" (double well).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from scidiff.random import standard_normal, stream_id, uniform

__all__ = ["SYSTEMS", "State", "Streams", "System"]

_WALL = 5.0
_SPRING = 0.1
_SOFTENING = 0.01  # squared length
_WELL_B, _WELL_C, _WELL_D = -4.0, 0.9, 4.0
_LJ_MINIMUM = 2.0 ** (1 / 6)


class State(NamedTuple):
    """Initial positions and velocities (3, N, B), node feature (N, B), pair coefficient (N, N, B); float64."""

    x: Tensor
    v: Tensor
    node: Tensor
    pair: Tensor


@dataclass(frozen=True)
class Streams:
    """Random numbers of runs: independent streams by system and name, one row of each per run."""

    keys: Tensor
    kind: str

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers (B, *shape), float64."""
        return standard_normal(self.keys, self._stream(name), 0, math.prod(shape)).double().view(-1, *shape)

    def coin(self, name: str, *shape: int) -> Tensor:
        """Zeros and ones with probability 1/2, (B, *shape), float64."""
        return (uniform(self.keys, self._stream(name), 0, math.prod(shape)) < 0.5).double().view(-1, *shape)

    def _stream(self, name: str) -> int:
        return stream_id(f"{self.kind}/{name}")


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        num_bodies: Default number of particles.
        draw: Initial state from random streams and the number of particles.
        law: s(r^2, pair coefficient); it may overwrite neither.
        potential: Pair energy of the same arguments.
        is_leapfrog: Leapfrog with frame 0 at the start; else symplectic Euler, clipped forces, first frame at step 100.
    """

    num_bodies: int
    draw: Callable[[Streams, int], State]
    law: Callable[[Tensor, Tensor], Tensor]
    potential: Callable[[Tensor, Tensor], Tensor]
    is_leapfrog: bool = True


# Force laws s(r^2) and potentials


def _coulomb(r2: Tensor, pair: Tensor) -> Tensor:
    return pair / (r2.sqrt() * r2)


def _coulomb_potential(r2: Tensor, pair: Tensor) -> Tensor:
    return pair * r2.rsqrt()


def _spring(r2: Tensor, pair: Tensor) -> Tensor:
    return -_SPRING * pair


def _spring_potential(r2: Tensor, pair: Tensor) -> Tensor:
    return 0.5 * _SPRING * pair * r2


def _gravity(r2: Tensor, pair: Tensor) -> Tensor:
    soft = r2 + _SOFTENING
    return soft.sqrt().mul_(soft).reciprocal_().neg_()


def _gravity_potential(r2: Tensor, pair: Tensor) -> Tensor:
    return -(r2 + _SOFTENING).rsqrt()


def _lennard_jones(r2: Tensor, pair: Tensor) -> Tensor:
    inverse = r2.reciprocal()
    six = inverse * inverse * inverse
    return 24 * (2 * six - 1) * six * inverse


def _lennard_jones_potential(r2: Tensor, pair: Tensor) -> Tensor:
    six = r2.reciprocal() ** 3
    return 4 * (six - 1) * six


def _double_well(r2: Tensor, pair: Tensor) -> Tensor:
    r = r2.sqrt()
    d = r - _WELL_D
    return -(2 * _WELL_B + 4 * _WELL_C * d * d) * d / r


def _double_well_potential(r2: Tensor, pair: Tensor) -> Tensor:
    d2 = (r2.sqrt() - _WELL_D).square()
    return (_WELL_B + _WELL_C * d2) * d2


# Initial states


def _normal(streams: Streams, name: str, num_bodies: int) -> Tensor:
    """Standard normal (3, N, B)."""
    return streams.normal(name, num_bodies, 3).permute(2, 1, 0)


def _moving(streams: Streams, num_bodies: int) -> Tensor:
    """Velocities of norm 0.5 in uniform directions."""
    v = _normal(streams, "velocity", num_bodies)
    return 0.5 * v / v.square().sum(0).sqrt()


def _thermal(streams: Streams, num_bodies: int, temperature: float) -> Tensor:
    """Maxwell velocities without motion of the centre of mass."""
    v = temperature**0.5 * _normal(streams, "velocity", num_bodies)
    return v - v.mean(1, keepdim=True)


def _reflected(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Initial states beyond the walls at +-5 are mirrored back; later the walls play no part."""
    above, below = x > _WALL, x < -_WALL
    v = torch.where(above, -v.abs(), torch.where(below, v.abs(), v))
    return torch.where(above, 2 * _WALL - x, torch.where(below, -2 * _WALL - x, x)), v


def _draw_charged(streams: Streams, num_bodies: int) -> State:
    charge = 1 - 2 * streams.coin("charge", num_bodies).T
    pair = charge[:, None] * charge[None] * (1 - torch.eye(num_bodies, dtype=torch.float64)[..., None])
    x = (num_bodies / 5) ** (1 / 3) * _normal(streams, "position", num_bodies)
    return State(*_reflected(x, _moving(streams, num_bodies)), charge, pair)


def _draw_spring(streams: Streams, num_bodies: int) -> State:
    lower = streams.coin("spring", num_bodies, num_bodies).tril(-1)
    x, v = _reflected(0.5 * _normal(streams, "position", num_bodies), _moving(streams, num_bodies))
    return State(x, v, x.new_zeros(x.shape[1:]), (lower + lower.mT).permute(1, 2, 0).contiguous())


def _draw_gravity(streams: Streams, num_bodies: int) -> State:
    return _without_pairs(_normal(streams, "position", num_bodies), _thermal(streams, num_bodies, 1.0))


def _draw_lennard_jones(streams: Streams, num_bodies: int) -> State:
    """Sites of a cubic lattice at the distance of least energy, nearest to the origin first, shaken by 0.05."""
    side = 2 * round(num_bodies ** (1 / 3)) + 1
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    sites = torch.cartesian_prod(axis, axis, axis)
    order = torch.argsort(sites.square().sum(1), stable=True)[:num_bodies]
    lattice = _LJ_MINIMUM * sites[order].T[..., None]
    shaken = lattice + 0.05 * _normal(streams, "position", num_bodies)
    return _without_pairs(shaken, _thermal(streams, num_bodies, 0.3))


def _draw_double_well(streams: Streams, num_bodies: int) -> State:
    return _without_pairs(2.0 * _normal(streams, "position", num_bodies), _thermal(streams, num_bodies, 1.0))


def _without_pairs(x: Tensor, v: Tensor) -> State:
    _, n, batch = x.shape
    return State(x, v, x.new_ones(n, batch), x.new_zeros(n, n, batch))


SYSTEMS: dict[str, System] = {
    "charged": System(5, _draw_charged, _coulomb, _coulomb_potential, is_leapfrog=False),
    "spring": System(5, _draw_spring, _spring, _spring_potential, is_leapfrog=False),
    "gravity": System(10, _draw_gravity, _gravity, _gravity_potential),
    "lj": System(13, _draw_lennard_jones, _lennard_jones, _lennard_jones_potential),
    "double_well": System(4, _draw_double_well, _double_well, _double_well_potential),
}
