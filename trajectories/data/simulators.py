r"""Simulators of interacting particles: charged, spring, gravity, Lennard-Jones and double-well systems.

Unit masses, arbitrary units, dt = 0.001, one frame every 100 steps (0.1 time units). The force on particle i is
F_i = sum_j s(\|r_ij\|^2) r_ij with r_ij = x_i - x_j and a scalar law s of each system:

=============  ==========================================================  ===========================
system         law s                                                       integrator, first frame
=============  ==========================================================  ===========================
charged        c_i c_j / r^3, components of F_i clipped to +-100           symplectic Euler, step 100
spring         -0.1 e_ij, clipped likewise                                 symplectic Euler, step 100
gravity        -1 / (r^2 + 0.01)^{3/2}                                     leapfrog, step 0
lj             24 (2 r^-12 - r^-6) / r^2                                   leapfrog, step 0
double_well    -(2 b (r - d_0) + 4 c (r - d_0)^3) / r                      leapfrog, step 0
=============  ==========================================================  ===========================

A run is a pure function of its seed and number: neither the batch nor the chunk it is computed in changes a bit.

References: Kipf et al. 2018, "Neural Relational Inference", section 5.1 (charged, spring); Satorras et al. 2021, "E(n)
Equivariant Graph Neural Networks", section 5.1 (three dimensions); Brandstetter et al. 2022 (gravity); Koehler et al.
2020, "Equivariant Flows", section 5 (double well).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from scidiff.random import seed_table, standard_normal, stream_id, uniform

__all__ = ["DT", "FRAME_STEPS", "SYSTEMS", "Simulation", "evolve", "simulate", "total_energy"]

DT = 1e-3
FRAME_STEPS = 100
_CLIP = 100.0
_WALL = 5.0
_SPRING = 0.1
_SOFTENING = 0.01  # squared length
_WELL_B, _WELL_C, _WELL_D = -4.0, 0.9, 4.0
_LJ_MINIMUM = 2.0 ** (1 / 6)


class Simulation(NamedTuple):
    """Runs of one system, B runs of N particles and F frames.

    Attributes:
        pos: Positions (B, N, F, 3).
        vel: Velocities (B, N, F, 3).
        h: Node feature (B, N, 1): charge, 0 (spring) or 1.
        edge_attr: Pair feature (B, N, N, 1): product of charges, spring or 0; the diagonal is 0.
        dt: Time between frames, 0.1.
    """

    pos: Tensor
    vel: Tensor
    h: Tensor
    edge_attr: Tensor
    dt: float = DT * FRAME_STEPS


class _State(NamedTuple):
    """Initial positions and velocities (3, N, B), node feature (N, B), pair coefficient (N, N, B); float64."""

    x: Tensor
    v: Tensor
    node: Tensor
    pair: Tensor


@dataclass(frozen=True)
class _System:
    num_bodies: int
    draw: Callable[[Tensor, int], _State]
    law: Callable[[Tensor, Tensor], Tensor]
    potential: Callable[[Tensor, Tensor], Tensor]
    is_leapfrog: bool = True


def simulate(
    kind: str,
    num_runs: int,
    *,
    num_frames: int = 30,
    num_bodies: int | None = None,
    seed: int = 43,
    first_run: int = 0,
    field: Sequence[float] = (0.0, 0.0, 0.0),
    observation_noise: float = 0.0,
    chunk: int = 1024,
    dtype: torch.dtype = torch.float32,
) -> Simulation:
    """Simulate runs ``first_run`` to ``first_run + num_runs - 1`` of a system.

    Args:
        kind: ``"charged" | "spring" | "gravity" | "lj" | "double_well"``.
        num_runs: Number of runs B.
        num_frames: Frames F of each run.
        num_bodies: Particles N; default 5, 5, 10, 13, 4.
        seed: Seed of the data set.
        first_run: Number of the first run in the data set.
        field: Uniform acceleration, added to the forces; one along z leaves rotations about z as the only symmetry.
        observation_noise: Standard deviation of Gaussian noise added to the saved positions.
        chunk: Runs that are integrated together; it changes the speed, not the numbers.
        dtype: Type of the result; the integration is in float64.

    Raises:
        ValueError: If the system is unknown or a number is out of its range.

    Example:
        >>> simulate("charged", 100, num_frames=30).pos.shape
        torch.Size([100, 5, 30, 3])
    """
    system = _system(kind)
    count = system.num_bodies if num_bodies is None else num_bodies
    if num_runs < 1 or num_frames < 1 or count < 1 or chunk < 1:
        raise ValueError(
            "num_runs, num_frames, num_bodies and chunk must be positive, "
            f"got {num_runs}, {num_frames}, {count} and {chunk}."
        )
    if len(field) != 3 or observation_noise < 0:
        raise ValueError(
            f"field has three components and observation_noise is not negative, got {field} and {observation_noise}."
        )
    parts: list[Simulation] = []
    for start in range(0, num_runs, chunk):
        runs = range(first_run + start, first_run + min(start + chunk, num_runs))
        keys = seed_table([(seed, run) for run in runs], len(runs))
        state = system.draw(keys, count)
        pos, vel = _integrate(system, state, num_frames, field)
        if observation_noise > 0:
            drawn = standard_normal(keys, stream_id("observation"), 0, num_frames * count * 3)
            pos = pos + observation_noise * drawn.double().view(-1, num_frames, count, 3).transpose(1, 2)
        node, pair = state.node.T[..., None], state.pair.permute(2, 0, 1)[..., None]
        parts.append(Simulation(pos.to(dtype), vel.to(dtype), node.to(dtype), pair.to(dtype)))
    return Simulation(*(torch.cat([part[i] for part in parts]) for i in range(4)))


def evolve(
    kind: str,
    pos: Tensor,
    vel: Tensor,
    edge_attr: Tensor,
    *,
    num_frames: int,
    field: Sequence[float] = (0.0, 0.0, 0.0),
) -> tuple[Tensor, Tensor]:
    """Positions and velocities (B, N, F, 3), float64, of runs that start from given states.

    Args:
        kind: Name of the system.
        pos: Initial positions (B, N, 3).
        vel: Initial velocities (B, N, 3).
        edge_attr: Pair feature (B, N, N, 1).
        num_frames: Frames F; the first is 100 steps after the start (charged, spring) or the start itself.
        field: Uniform acceleration.

    Raises:
        ValueError: If the system is unknown.
    """
    x, v = (value.double().permute(2, 1, 0).contiguous() for value in (pos, vel))
    pair = edge_attr[..., 0].double().permute(1, 2, 0).contiguous()
    return _integrate(_system(kind), _State(x, v, x[0], pair), num_frames, field)


def total_energy(kind: str, pos: Tensor, vel: Tensor, edge_attr: Tensor) -> Tensor:
    """Kinetic plus potential energy (B, F), without an external field.

    Args:
        kind: Name of the system.
        pos: Positions (B, N, F, 3).
        vel: Velocities (B, N, F, 3).
        edge_attr: Pair feature (B, N, N, 1).

    Raises:
        ValueError: If the system is unknown.
    """
    i, j = torch.triu_indices(pos.shape[1], pos.shape[1], 1, device=pos.device).unbind(0)
    r2 = (pos[:, i] - pos[:, j]).square().sum(-1)
    potential = _system(kind).potential(r2, edge_attr[:, i, j].to(r2)).sum(1)
    return 0.5 * vel.square().sum((1, 3)) + potential


def _system(kind: str) -> _System:
    if kind not in SYSTEMS:
        close = difflib.get_close_matches(kind, SYSTEMS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"no system {kind!r} (known: {', '.join(SYSTEMS)}){hint}")
    return SYSTEMS[kind]


# Integration


def _integrate(system: _System, state: _State, num_frames: int, field: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Positions and velocities (B, N, F, 3)."""
    forces = _Forces(system.law, state.pair, torch.tensor(list(field), dtype=torch.float64), not system.is_leapfrog)
    run = _leapfrog if system.is_leapfrog else _symplectic_euler
    pos, vel = run(forces, state.x.clone(), state.v.clone(), num_frames)
    return pos.permute(3, 2, 0, 1).contiguous(), vel.permute(3, 2, 0, 1).contiguous()


class _Forces:
    """Total force (3, N, B) of all pairs, in buffers that are reused.

    Pairs are kept in cyclic order, (n, n + k mod N) for k = 1..N/2: differences are a strided view of the doubled
    positions, and the reaction forces are shifted slices. Only elementwise operations in a fixed order, so that the
    bits of a run depend on nothing else. For even N the last k holds every pair twice, once from each end.
    """

    def __init__(self, law: Callable[[Tensor, Tensor], Tensor], pair: Tensor, field: Tensor, clips: bool) -> None:
        n, _, batch = pair.shape
        shifts = n // 2
        self.law, self.clips, self.n = law, clips, n
        self.field = field[:, None, None] if bool(field.any()) else None
        self.reactions = (n - 1) // 2
        first, shift = torch.arange(n), torch.arange(1, shifts + 1)[:, None]
        self.pair = pair[first, (first + shift) % n]  # (K, N, B)
        self.doubled = pair.new_empty(3, 2 * n, batch)
        self.partners = self.doubled.as_strided(
            (3, shifts, n, batch), (2 * n * batch, batch, batch, 1), storage_offset=batch
        )
        self.difference = pair.new_empty(3, shifts, n, batch)
        self.force = pair.new_empty(3, n, batch)

    def __call__(self, x: Tensor) -> Tensor:
        n, d, force = self.n, self.difference, self.force
        self.doubled[:, :n] = x
        self.doubled[:, n:] = x
        torch.sub(x[:, None], self.partners, out=d)
        r2 = (d[0] * d[0]).addcmul_(d[1], d[1]).addcmul_(d[2], d[2])
        d.mul_(self.law(r2, self.pair))
        force.zero_()
        for k in range(d.shape[1]):
            force += d[:, k]
        for k in range(1, self.reactions + 1):
            force[:, k:] -= d[:, k - 1, : n - k]
            force[:, :k] -= d[:, k - 1, n - k :]
        if self.field is not None:
            force += self.field
        return force.clamp_(-_CLIP, _CLIP) if self.clips else force


def _symplectic_euler(forces: _Forces, x: Tensor, v: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """v <- v + dt F(x), x <- x + dt v; frames after every 100 position updates, velocities of the same step."""
    pos, vel = x.new_empty(2, num_frames, *x.shape)
    for frame in range(num_frames):
        for _ in range(FRAME_STEPS):
            v.add_(forces(x), alpha=DT)
            x.add_(v, alpha=DT)
        pos[frame], vel[frame] = x, v
    return pos, vel


def _leapfrog(forces: _Forces, x: Tensor, v: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """Kick-drift-kick; frame 0 is the initial state."""
    pos, vel = x.new_empty(2, num_frames, *x.shape)
    pos[0], vel[0] = x, v
    force = forces(x)
    for frame in range(1, num_frames):
        for _ in range(FRAME_STEPS):
            v.add_(force, alpha=DT / 2)
            x.add_(v, alpha=DT)
            force = forces(x)
            v.add_(force, alpha=DT / 2)
        pos[frame], vel[frame] = x, v
    return pos, vel


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


def _normal(keys: Tensor, name: str, num_bodies: int) -> Tensor:
    """Standard normal (3, N, B) of a named stream."""
    return standard_normal(keys, stream_id(name), 0, 3 * num_bodies).double().view(-1, num_bodies, 3).permute(2, 1, 0)


def _moving(keys: Tensor, num_bodies: int) -> Tensor:
    """Velocities of norm 0.5 in uniform directions."""
    v = _normal(keys, "velocity", num_bodies)
    return 0.5 * v / v.square().sum(0).sqrt()


def _thermal(keys: Tensor, num_bodies: int, temperature: float) -> Tensor:
    """Maxwell velocities without motion of the centre of mass."""
    v = temperature**0.5 * _normal(keys, "velocity", num_bodies)
    return v - v.mean(1, keepdim=True)


def _reflected(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Initial states beyond the walls at +-5 are mirrored back; later the walls play no part."""
    above, below = x > _WALL, x < -_WALL
    v = torch.where(above, -v.abs(), torch.where(below, v.abs(), v))
    return torch.where(above, 2 * _WALL - x, torch.where(below, -2 * _WALL - x, x)), v


def _draw_charged(keys: Tensor, num_bodies: int) -> _State:
    charge = torch.where(uniform(keys, stream_id("charge"), 0, num_bodies) < 0.5, -1.0, 1.0).double().T
    pair = charge[:, None] * charge[None] * _off_diagonal(num_bodies)
    x, v = _reflected((num_bodies / 5) ** (1 / 3) * _normal(keys, "position", num_bodies), _moving(keys, num_bodies))
    return _State(x, v, charge, pair)


def _draw_spring(keys: Tensor, num_bodies: int) -> _State:
    drawn = uniform(keys, stream_id("spring"), 0, num_bodies**2).view(-1, num_bodies, num_bodies)
    lower = (drawn < 0.5).double().tril(-1)
    x, v = _reflected(0.5 * _normal(keys, "position", num_bodies), _moving(keys, num_bodies))
    return _State(x, v, x.new_zeros(x.shape[1:]), (lower + lower.mT).permute(1, 2, 0).contiguous())


def _draw_gravity(keys: Tensor, num_bodies: int) -> _State:
    return _without_pairs(_normal(keys, "position", num_bodies), _thermal(keys, num_bodies, 1.0))


def _draw_lennard_jones(keys: Tensor, num_bodies: int) -> _State:
    """Sites of a cubic lattice at the distance of least energy, nearest to the origin first, shaken by 0.05."""
    side = 2 * round(num_bodies ** (1 / 3)) + 1
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    sites = torch.cartesian_prod(axis, axis, axis)
    order = torch.argsort(sites.square().sum(1), stable=True)[:num_bodies]
    lattice = _LJ_MINIMUM * sites[order].T[..., None]
    return _without_pairs(lattice + 0.05 * _normal(keys, "position", num_bodies), _thermal(keys, num_bodies, 0.3))


def _draw_double_well(keys: Tensor, num_bodies: int) -> _State:
    return _without_pairs(2.0 * _normal(keys, "position", num_bodies), _thermal(keys, num_bodies, 1.0))


def _without_pairs(x: Tensor, v: Tensor) -> _State:
    _, n, batch = x.shape
    return _State(x, v, x.new_ones(n, batch), x.new_zeros(n, n, batch))


def _off_diagonal(num_bodies: int) -> Tensor:
    return 1.0 - torch.eye(num_bodies, dtype=torch.float64)[..., None]


SYSTEMS: dict[str, _System] = {
    "charged": _System(5, _draw_charged, _coulomb, _coulomb_potential, is_leapfrog=False),
    "spring": _System(5, _draw_spring, _spring, _spring_potential, is_leapfrog=False),
    "gravity": _System(10, _draw_gravity, _gravity, _gravity_potential),
    "lj": _System(13, _draw_lennard_jones, _lennard_jones, _lennard_jones_potential),
    "double_well": _System(4, _draw_double_well, _double_well, _double_well_potential),
}
