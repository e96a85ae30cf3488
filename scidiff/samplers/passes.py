r"""Plans that go over stretches of the grid several times and re-noise in between (resampling, as RePaint).

A guidance asks for it by ``passes(times) -> [(first, last), ...]``: index ranges of the grid, each run downwards, in
order. Where a range starts above the end of the one before, a row without evaluation takes the state up by the forward
transition

    x_t = alpha_{t|s} x_s + (beta_t - alpha_{t|s} beta_s) x_1 + sigma_{t|s} z,
    alpha_{t|s} = alpha_t/alpha_s,        sigma_{t|s}^2 = sigma_t^2 - alpha_{t|s}^2 sigma_s^2;

categorical components by theirs. Every range is planned by itself, so multistep solvers restart after a jump.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scidiff.process import Component, Process
from scidiff.samplers.base import Plan, Solver
from scidiff.samplers.rows import Row

__all__ = ["merge_passes", "plan_passes"]

Ranges = list[tuple[int, int]]


def merge_passes(items: Sequence[Any], times: Tensor) -> Ranges | None:
    """Ranges asked for by any of ``items``; None if there are none.

    Raises:
        ValueError: If two items ask for different ones.
    """
    asked = [ranges for ranges in (item.passes(times) for item in items if hasattr(item, "passes")) if ranges]
    if any(ranges != asked[0] for ranges in asked):
        raise ValueError("two guidances ask for different passes over the grid; give them the same jump and resample.")
    return asked[0] if asked else None


def plan_passes(solver: Solver, process: Process, times: Tensor, ranges: Ranges | None, **options: Any) -> Plan:
    """The plan of ``solver`` for the whole grid, or for ``ranges`` of it one after another.

    Args:
        solver: Makes the rows.
        process: Schedules, laws and spaces.
        times: Grid (n + 1,) or (n + 1, elements).
        ranges: First and last node of each pass; None for one pass.
        options: Passed to `Solver.plan`.

    Raises:
        ValueError: If the solver chooses its own steps.
    """
    if ranges is None:
        return solver.plan(process, times, **options)
    if solver.is_adaptive:
        raise ValueError(f"solver {type(solver).__name__} chooses its own steps and cannot resample; use a fixed grid.")
    plans: list[Plan] = []
    for k, (first, last) in enumerate(ranges):
        if k and ranges[k - 1][1] > first:
            plans.append(_jump(process, times[ranges[k - 1][1]], times[first], first, solver.depth))
        plan = solver.plan(process, times[first : last + 1], **options)
        visited_again = {step for later in ranges[k + 1 :] for step in range(*later)}
        for row in plan.rows:
            row.step += first
            row.is_last = row.is_last and row.step not in visited_again
        plans.append(plan)
    return dataclasses.replace(
        plans[-1],
        rows=[row for plan in plans for row in plan.rows],
        coefficients={name: torch.cat([plan.coefficients[name] for plan in plans]) for name in plans[-1].coefficients},
        uses_noise=[flag for plan in plans for flag in plan.uses_noise],
    )


def _jump(process: Process, s: Tensor, t: Tensor, step: int, depth: int) -> Plan:
    """One row from s up to t > s."""
    row = Row(s, t, step, evaluate=False, is_last=False, is_jump=True)
    table = {name: _upward(component, s, t, depth) for name, component in process.continuous.items()}
    return Plan([row], table, ("x0",), depth, [True])


def _upward(component: Component, s: Tensor, t: Tensor, depth: int) -> Tensor:
    schedule = component.schedule
    ratio = schedule.alpha(t) / schedule.alpha(s)
    noise = (schedule.sigma(t) ** 2 - ratio**2 * schedule.sigma(s) ** 2).clamp_min(0).sqrt()
    end = schedule.endpoint(t) - ratio * schedule.endpoint(s)
    zero = torch.zeros_like(ratio)
    return torch.stack([ratio, zero, noise, end, *[zero] * depth])[None]
