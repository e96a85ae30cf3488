"""Simulators of interacting particles; the systems are described in `trajectories.data.systems`.

Time step 0.001, one frame every 100 steps (0.1 time units), integration in float64. A run is a pure function of its
seed and number: neither the batch nor the chunk it is computed in changes a bit.

Symplectic Euler (v <- v + dt F(x), x <- x + dt v) and kick-drift-kick leapfrog, as in the published generators of Kipf
et al. 2018 and Brandstetter et al. 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scidiff.assets import suggestion
from scidiff.random import seed_table
from trajectories.data.systems import SYSTEMS, State, Streams, System

__all__ = ["DT", "FRAME_STEPS", "Simulation", "evolve", "simulate", "total_energy"]

DT = 1e-3
FRAME_STEPS = 100
_CLIP = 100.0


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
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, num_runs, chunk):
        runs = range(first_run + start, first_run + min(start + chunk, num_runs))
        streams = Streams(seed_table([(seed, run) for run in runs], len(runs)), kind)
        state = system.draw(streams, count)
        pos, vel = _integrate(system, state, num_frames, field)
        if observation_noise > 0:
            pos = pos + observation_noise * streams.normal("observation", num_frames, count, 3).transpose(1, 2)
        node, pair = state.node.T[..., None], state.pair.permute(2, 0, 1)[..., None]
        parts.append((pos.to(dtype), vel.to(dtype), node.to(dtype), pair.to(dtype)))
    pos, vel, h, edge_attr = (torch.cat(column) for column in zip(*parts, strict=True))
    return Simulation(pos, vel, h, edge_attr)


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
    return _integrate(_system(kind), State(x, v, x[0], pair), num_frames, field)


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


def _system(kind: str) -> System:
    if kind not in SYSTEMS:
        raise ValueError(f"no system {kind!r}{suggestion(kind, list(SYSTEMS))}.")
    return SYSTEMS[kind]


# Integration


def _integrate(system: System, state: State, num_frames: int, field: Sequence[float]) -> tuple[Tensor, Tensor]:
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
