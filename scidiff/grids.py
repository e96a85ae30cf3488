"""Time grids: n + 1 falling times, from the first time to ``t_min``, float64 on the CPU."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor

from scidiff.process import Process
from scidiff.schedules import Schedule

__all__ = ["GRIDS", "time_grid"]

GRIDS = ("uniform", "quadratic", "logsnr", "karras", "edm", "log")
_KARRAS_EXPONENT = 7.0


def time_grid(process: Process, grid: str | Tensor, steps: int, component: str | None = None) -> Tensor:
    """Times of a sampler, (steps + 1,), falling.

    Args:
        process: Supplies the schedule that rules in lambda or sigma refer to.
        grid: ``"uniform"`` in t, ``"quadratic"`` in sqrt(t), ``"logsnr"`` in lambda, ``"karras"`` (sigma/alpha to the
            power 1/7), ``"edm"`` (the same with ``steps`` nodes, then sigma = 0), ``"log"`` (geometric in t down to
            max(t_min, 0.01)), or a tensor of times, used as it is (then ``steps`` is ignored).
        steps: Number of intervals, at least 1.
        component: Component whose schedule rules; default: the first continuous one.

    Raises:
        ValueError: If the name is unknown, ``steps`` is below 1, or the times do not fall strictly within [0, 1].
    """
    if isinstance(grid, Tensor):
        return _checked(grid.detach().to("cpu", torch.float64))
    if grid not in GRIDS:
        closest = difflib.get_close_matches(str(grid), GRIDS, n=1)
        hint = f" Did you mean {closest[0]!r}?" if closest else ""
        raise ValueError(f"unknown grid {grid!r}; known: {', '.join(GRIDS)}, or a tensor of times.{hint}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    return _checked(_named(_ruling_schedule(process, component), grid, steps))


def _named(schedule: Schedule, grid: str, steps: int) -> Tensor:
    fraction = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if grid == "uniform":
        return torch.lerp(torch.ones_like(fraction), torch.full_like(fraction, schedule.t_min), fraction)
    if grid == "quadratic":
        return torch.lerp(torch.ones_like(fraction), torch.full_like(fraction, schedule.t_min**0.5), fraction) ** 2
    if grid == "log":
        return torch.tensor(max(schedule.t_min, 0.01), dtype=torch.float64) ** fraction
    if steps > 1 and _starts_at_a_point(schedule):  # one step away from the point, then the rule from t_max on
        return torch.cat([fraction.new_ones(1), _from_t_max(schedule, grid, steps - 1)])
    return _from_t_max(schedule, grid, steps)


def _starts_at_a_point(schedule: Schedule) -> bool:
    """True for bridges: alpha(1) = sigma(1) = 0, so x at t = 1 is x_1 itself."""
    one = torch.ones((), dtype=torch.float64)
    return float(schedule.alpha(one)) == 0 and float(schedule.sigma(one)) == 0


def _from_t_max(schedule: Schedule, grid: str, steps: int) -> Tensor:
    fraction = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    first = torch.tensor(1.0 if schedule.t_max >= 1 else schedule.t_max, dtype=torch.float64)
    last = torch.tensor(schedule.t_min, dtype=torch.float64)
    lam = torch.stack([0.5 * schedule.log_snr(first), 0.5 * schedule.log_snr(last)])
    if grid == "logsnr":
        times = schedule.time(torch.lerp(lam[0], lam[1], fraction))
        return torch.cat([first[None], times[1:-1], last[None]])
    root = (-lam).exp() ** (1 / _KARRAS_EXPONENT)
    if grid == "edm":
        fraction = torch.linspace(0, 1, max(steps, 2), dtype=torch.float64)[:steps]
    times = schedule.time(-_KARRAS_EXPONENT * (root[0] + fraction * (root[1] - root[0])).log())
    times = torch.cat([first[None], times[1:]])
    if grid == "edm":
        return torch.cat([times, torch.zeros(1, dtype=torch.float64)])
    return torch.cat([times[:-1], last[None]])


def _ruling_schedule(process: Process, component: str | None) -> Schedule:
    components: dict[str, Any] = process.components if component else process.continuous or process.components
    if component is not None and component not in components:
        raise ValueError(f"the process has no component {component!r}; it has {sorted(components)}.")
    chosen = components[component] if component is not None else next(iter(components.values()))
    return chosen.schedule if hasattr(chosen, "schedule") else chosen.keep


def _checked(times: Tensor) -> Tensor:
    if times.ndim not in (1, 2) or len(times) < 2:
        raise ValueError(f"a time grid has shape (n + 1,) or (n + 1, elements) with n >= 1, got {tuple(times.shape)}.")
    if not bool(torch.isfinite(times).all()) or float(times.min()) < 0 or float(times.max()) > 1:
        raise ValueError(f"grid times must lie in [0, 1], got {float(times.min()):g} to {float(times.max()):g}.")
    differences = times.diff(dim=0)
    if bool((differences > 0).any()) or (times.ndim == 1 and bool((differences == 0).any())):
        raise ValueError("grid times must fall strictly from noise (t = 1) to data (t = 0); did you reverse the grid?")
    return times
