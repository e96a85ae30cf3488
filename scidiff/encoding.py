r"""From data to noise: the flow run upward, and the noises of a stochastic sampler that lead to given data.

`encode` follows the probability flow from t_min to the prior with any deterministic solver; decoding is
`scidiff.sample` from the result. `encode_noise` instead finds the noises z for which an ancestral (or DDIM) sampler
ends exactly at the given x: replaying them under another condition edits x.

References: Song, Meng, Ermon 2021 (DDIM), section 4.3; Wu and De la Torre 2023, "A Latent Space of Stochastic Diffusion
Models for Zero-Shot Image Editing and Guidance" (DPM-Encoder, CycleDiffusion).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.grids import time_grid
from scidiff.noise import NoiseSource
from scidiff.process import Process, State
from scidiff.random import Seeds
from scidiff.samplers.base import SolverLike, get_solver
from scidiff.samplers.ddim import DDIM
from scidiff.samplers.engine import follow

__all__ = ["NoiseCode", "encode", "encode_noise"]


@torch.no_grad()
def encode(
    den: Denoiser,
    x: State,
    *,
    solver: SolverLike = "heun",
    steps: int = 50,
    cond: Mapping[str, Any] | None = None,
    x_1: State | None = None,
    grid: str | Tensor = "logsnr",
    solver_options: Mapping[str, Any] | None = None,
) -> State:
    """State at the first time of the grid whose probability flow ends at ``x``.

    ``sample(den, encode(den, x, ...), ...)`` with the same solver, steps and grid returns to ``x`` up to the error of
    the solver, which falls with its order.

    Args:
        den: Denoiser of a process.
        x: State (B, ...) at the last positive noise level of the grid (t_min).
        solver: Name or object of a deterministic solver.
        steps: Number of grid intervals.
        cond: Masks and context.
        x_1: Known endpoints. For a bridge, which ends at a point, the encoding stops at ``t_max``.
        grid: Name or falling tensor of times, as for `sample`; it is followed from its end to its start.
        solver_options: Options of the solver.

    Raises:
        ValueError: If the solver draws noise, or the process has categorical components.
    """
    _refuse_classes(den.process)
    method = get_solver(solver, solver_options)
    times = _inner(den.process, time_grid(den.process, grid, method.num_intervals(steps)), x_1)
    options = {
        "heuristic": den.heuristic,
        "known_ends": [k for k, end in den.process.split(x_1).items() if end is not None],
    }
    if any(method.plan(den.process, times, **options).uses_noise):
        raise ValueError(
            f"encode needs a deterministic solver, but {method!r} draws noise; see encode_noise for those."
        )
    times = times.flip(0)
    plan = method.plan(den.process, times, **options)
    return follow(den, method, plan, x, times, cond=cond, x_1=x_1)


class NoiseCode(NamedTuple):
    """State at the first time, noises in order of use, times and solver: arguments of `sample` that reproduce x."""

    state: State
    noise: list[State]
    grid: Tensor
    solver: DDIM

    def options(self) -> dict[str, Any]:
        """Keyword arguments: ``sample(den, code.state, **code.options())``."""
        return {"noise": self.noise, "grid": self.grid, "solver": self.solver}


@torch.no_grad()
def encode_noise(
    den: Denoiser,
    x: State,
    *,
    eta: float = 0.1,
    steps: int = 50,
    seed: Seeds = 0,
    cond: Mapping[str, Any] | None = None,
    x_1: State | None = None,
    grid: str | Tensor = "logsnr",
) -> NoiseCode:
    """Noises for which DDIM with stochasticity ``eta`` ends exactly at ``x``.

    The path x_1, ..., x_{t_min} is drawn from the process given x_0 = ``x``, and z = (x_s - mean(x_t))/std is what the
    sampler must have drawn. The last state is ``x`` itself.

    Args:
        den: Denoiser of a process.
        x: Clean state (B, ...).
        eta: Stochasticity in (0, 1]; 1 is ancestral sampling. The reference uses 0.1.
        steps: Number of grid intervals.
        seed: Seed, or one per sample, of the path.
        cond: Masks and context; decode under another condition to edit.
        x_1: Known endpoints.
        grid: Name or tensor of times.

    Raises:
        ValueError: If ``eta`` is 0, or the process has categorical components.
    """
    _refuse_classes(den.process)
    if eta <= 0:
        raise ValueError("encode_noise needs eta > 0: with eta = 0 no noise is drawn, use encode.")
    process, method = den.process, DDIM(eta)
    times = _inner(process, time_grid(process, grid, steps), x_1)
    clean = process.split(x)
    first = next(iter(clean.values()))
    source = NoiseSource(seed, len(first), device=first.device)
    known = [k for k, end in process.split(x_1).items() if end is not None]
    plan = method.plan(process, times, heuristic=den.heuristic, known_ends=known).cast(first.dtype, first.device)
    start = times[0].to(first.device, first.dtype).expand(len(first))
    state = process.split(
        process.perturb(x, start, process.join(process.noise(clean, source, cond)), x_1=x_1, cond=cond)[0]
    )
    code, noises, ends = process.join(state), [], process.split(x_1)
    for i, row in enumerate(plan.rows):
        t = row.t.to(first.device, first.dtype).expand(len(first))
        predicted = den(process.join(state), t, cond=cond, x_1=x_1).get("x0")
        mean = method.step(plan, i, state, state, [predicted], None, ends)
        if i + 1 == len(plan.rows):
            target = clean
        else:
            target = method.step(plan, i, state, state, [clean], process.noise(clean, source, cond), ends)
        noises.append(process.join({k: (target[k] - mean[k]) / plan.coefficients[k][i, 2] for k in target}))
        state = target
    return NoiseCode(code, noises, times, method)


def _inner(process: Process, times: Tensor, x_1: State | None) -> Tensor:
    """The nodes of a grid where noise spreads the state: without sigma = 0 at the data and without a bridge's point."""
    known = {k for k, end in process.split(x_1).items() if end is not None}
    keep = torch.ones(len(times), dtype=torch.bool)
    for name, component in process.continuous.items():
        if component.schedule.has_endpoint and name not in known:
            continue  # spread out by the base law
        keep &= (component.schedule.sigma(times) != 0).reshape(len(times), -1).any(1)
    return times[keep]


def _refuse_classes(process: Process) -> None:
    if process.discrete:
        raise ValueError(f"encoding is for continuous components; {sorted(process.discrete)} are categorical.")
