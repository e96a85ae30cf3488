"""`sample`: runs a solver's plan with a denoiser, per-sample noise, guidance and fixed parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scidiff.brownian import BrownianPath
from scidiff.denoiser import Denoiser, Prediction
from scidiff.discrete import Categorical
from scidiff.grids import time_grid
from scidiff.noise import NoiseSource
from scidiff.process import Process, State
from scidiff.random import Seeds
from scidiff.samplers.base import Plan, Solver, SolverLike, get_solver
from scidiff.samplers.checks import check_conversions, check_options, ends_clean
from scidiff.samplers.passes import merge_passes, plan_passes
from scidiff.samplers.rows import Row

__all__ = ["SampleInfo", "StepInfo", "follow", "sample"]

_ENGINE_OPTIONS = {
    "final_denoise": False,
    "discrete": "posterior",
    "discrete_eta": 0.0,
    "final_class": "argmax",
    "grid_component": None,
}


@dataclass
class StepInfo:
    """What a callback sees after grid interval ``i`` of ``n``: time, state and the prediction that led there."""

    i: int
    n: int
    t: Tensor
    x: State
    prediction: Prediction | None


@dataclass
class SampleInfo:
    """Record of a run: number of evaluations, grid, saved states (first, ..., last), noises in order of use."""

    nfe: int
    grid: Tensor
    path: list[State] = field(default_factory=list)
    noise: list[Any] = field(default_factory=list)


@torch.no_grad()
def sample(
    den: Denoiser,
    init: Any,
    *,
    solver: SolverLike = "dpmpp_2m",
    solver_options: Mapping[str, Any] | None = None,
    steps: int = 20,
    grid: str | Tensor = "logsnr",
    seed: Seeds = 0,
    cond: Mapping[str, Any] | None = None,
    x_1: State | None = None,
    guidance: Any = None,
    noise: Sequence[Any] | BrownianPath | None = None,
    save: str | int = "last",
    progress: bool = False,
    callback: Callable[[StepInfo], None] | None = None,
) -> Any:
    """Draw samples by integrating from noise (t = 1) to data.

    Args:
        den: Denoiser of a process.
        init: A shape (tuple, or dict of tuples), or a state at the first grid time.
        solver: Name or object; see `scidiff.samplers.solver_names`.
        solver_options: Options of the solver, and of the run: ``final_denoise`` (one more evaluation, returns x0 and
            the final classes), ``discrete`` ("posterior" or "ctmc" steps of categorical components), ``discrete_eta``
            (0 is used in the last step), ``final_class`` ("argmax" or "draw"), ``grid_component`` (whose schedule
            rules the grid).
        steps: Number of grid intervals.
        grid: Name or tensor of times, see `scidiff.grids.time_grid`.
        seed: An int, or one int (or pair) per sample; the noise of a sample depends on its own seed only.
        cond: Masks and context for spaces and network.
        x_1: Known endpoints.
        guidance: One object or a list with ``wrap(den)`` and optionally ``constrain(x, t, source)`` and
            ``passes(times)``; see `scidiff.guidance`.
        noise: Recorded noises for an exact replay, one entry a draw (``SampleInfo.noise`` of an earlier
            run); or a `BrownianPath`, whose increments agree across numbers of steps.
        save: ``"last"`` returns the samples; ``"all"`` or an int k (every k-th step) returns ``(samples, SampleInfo)``
            with the path; ``"none"`` returns ``(samples, SampleInfo)`` without it.
        progress: Show a bar.
        callback: Called after every grid interval.

    Returns:
        The state at the last grid time (B, ...), or ``(state, SampleInfo)``.

    Raises:
        ValueError: If a name is unknown, the grid is not falling, or the solver does not apply to the process.
    """
    options = dict(solver_options or {})
    run = {key: options.pop(key, default) for key, default in _ENGINE_OPTIONS.items()}
    check_options(run, save)
    method = get_solver(solver, options)
    wrapped, items = _guided(den, guidance)
    times = time_grid(den.process, grid, method.num_intervals(steps), run["grid_component"])
    if isinstance(grid, str) and grid == "edm" and not ends_clean(den.process):
        if steps < 2:
            raise ValueError("grid 'edm' needs at least 2 steps for a schedule with sigma(0) > 0.")
        times, run["final_denoise"] = times[:-1], True  # the same evaluations, landing on x0 although sigma(0) > 0
    known_ends = [k for k, end in den.process.split(x_1).items() if end is not None]
    ranges = merge_passes(items, times)
    plan = plan_passes(method, den.process, times, ranges, heuristic=den.heuristic, known_ends=known_ends)
    check_conversions(den, plan)
    like, is_shape = _like(den, init)
    state = den.process.split(like)
    first = next(iter(state.values()))
    if isinstance(noise, BrownianPath):
        source = NoiseSource(seed, len(first), device=first.device, path=noise)
    else:
        source = NoiseSource(seed, len(first), device=first.device, recorded=noise)
    if is_shape:
        state = den.process.split(den.process.prior(like, source, cond, x_1))
    loop = _Loop(wrapped, method, plan.cast(_float_dtype(state), first.device), source, cond, x_1, run, items)
    return loop.run(state, times, save, progress, callback)


def follow(
    den: Denoiser,
    method: Solver,
    plan: Plan,
    state: State,
    times: Tensor,
    *,
    cond: Mapping[str, Any] | None = None,
    x_1: State | None = None,
) -> State:
    """Carry out a deterministic ``plan``, in either direction of time, from ``state`` at ``times[0]``."""
    parts = den.process.split(state)
    first = next(iter(parts.values()))
    source = NoiseSource(0, len(first), device=first.device)
    loop = _Loop(
        den, method, plan.cast(_float_dtype(parts), first.device), source, cond, x_1, dict(_ENGINE_OPTIONS), []
    )
    return loop.run(parts, times, "last", False, None)


class _Loop:
    """State of one run."""

    def __init__(
        self,
        den: Denoiser,
        method: Solver,
        plan: Plan,
        source: NoiseSource,
        cond: Mapping[str, Any] | None,
        x_1: State | None,
        options: Mapping[str, Any],
        guidance: Sequence[Any],
    ) -> None:
        self.den, self.method, self.plan, self.source = den, method, plan, source
        self.cond, self.options = cond, options
        self.constraints = [item.constrain for item in guidance if hasattr(item, "constrain")]
        self.process: Process = den.process
        self.x_1, self.ends = x_1, self.process.split(x_1)
        self.nfe = 0
        self.prediction: Prediction | None = None
        self.self_cond: Any = None
        self.memory: dict[str, Any] = {}  # of an adaptive solver
        self.classes_at = plan.rows[0].t  # time of the categorical components

    def run(
        self,
        state: dict[str, Tensor],
        times: Tensor,
        save: str | int,
        progress: bool,
        callback: Callable[[StepInfo], None] | None,
    ) -> Any:
        given = state
        anchor, history = state, ()
        path = [self.process.join(state)] if save not in ("last", "none") else []
        rows = self.plan.rows
        for i in _bar(range(len(rows)), progress):
            row = rows[i]
            if row.is_jump:
                self.self_cond = None  # a prediction from less noise knows more than the state does now
            if row.evaluate:
                self.prediction = self.evaluate(state, self.batched(row.t, state))
                models = ("x0",) if row.is_start else self.plan.models
                history = (*(self.prediction.get(m) for m in models), *history)[: self.plan.depth]
            anchor = state if row.mark else anchor
            state = self.advance(i, state, anchor, history, given)
            if row.is_last:
                if path and ((row.step + 1) % (save if isinstance(save, int) else 1) == 0):
                    path.append(self.process.join(state))
                if callback is not None:
                    n = len(times) - 1
                    callback(StepInfo(row.step, n, row.s, self.process.join(state), self.prediction))
        if self.options["final_denoise"]:
            state = self.finish(state, rows[-1].s, given)
            if path:
                path.append(self.process.join(state))
        result = self.process.join(state)
        return result if save == "last" else (result, SampleInfo(self.nfe, times, path, self.source.history))

    def batched(self, t: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Time (B,) or (B, elements) on the device of the state."""
        first = next(iter(state.values()))
        return t.to(device=first.device, dtype=_float_dtype(state)).expand(len(first), *t.shape)

    def evaluate(self, state: dict[str, Tensor], time: Tensor) -> Prediction:
        cond = dict(self.cond or {})
        if self.den.self_conditioning:
            cond["self_cond"] = self.self_cond if self.self_cond is not None else _empty_self_cond(self.process, state)
        prediction = self.den(self.process.join(state), time, cond=cond, x_1=self.x_1)
        if self.den.self_conditioning:
            self.self_cond = prediction.x0
        self.nfe += self.den.evaluations
        return prediction

    def advance(
        self,
        i: int,
        state: dict[str, Tensor],
        anchor: dict[str, Tensor],
        history: Sequence[dict[str, Tensor]],
        given: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        row, target = self.plan.rows[i], self.class_target(i)
        noise = None
        if self.plan.uses_noise[i] or target is not None:
            drawn = state if self.plan.uses_noise[i] else {k: state[k] for k in self.process.discrete}
            self.source.interval = self.path_interval(row)
            noise = self.process.noise(drawn, self.source, self.cond)
            self.source.interval = None
        continuous = {k: state[k] for k in self.process.continuous}
        if self.method.is_adaptive:
            new = self.method.integrate(self.field(state), continuous, row, self.norm, self.memory)
        else:
            new = self.method.step(self.plan, i, continuous, anchor, history, noise, self.ends, self.size)
        for name, component in self.process.continuous.items():
            projected = component.space.project(new[name], self.cond)
            fixed = component.space.fixed(projected, self.cond)
            new[name] = projected if fixed is None else torch.where(fixed, given[name], projected)
        for name, component in self.process.discrete.items():
            new[name] = state[name]
            if target is not None and noise is not None:
                new[name] = self.move(name, component, state[name], self.classes_at, target, noise[name])
        self.classes_at = self.classes_at if target is None else target
        new = {name: new[name] for name in state}
        for constrain in self.constraints:
            new = self.process.split(constrain(self.process.join(new), row.s, self.source))
        return new

    def path_interval(self, row: Row) -> tuple[float, float] | None:
        """The interval of a Brownian path that the noise of ``row`` is taken from; None for other draws."""
        if self.source.path is None or not bool((row.s < row.t).any()):
            return None
        if row.t.ndim > 0:
            raise ValueError("a Brownian path needs one time for all elements; leave noise=None for vector times.")
        return float(row.t), float(row.s)

    def class_target(self, i: int) -> Tensor | None:
        """Where categorical components go with row ``i``: to the time of an evaluation that follows, or the end."""
        rows = self.plan.rows
        is_end = i + 1 == len(rows)
        if not self.process.discrete or not (is_end or rows[i + 1].evaluate or rows[i + 1].is_jump):
            return None
        target = rows[i].s if is_end else rows[i + 1].t
        return target if bool((target != self.classes_at).any()) else None

    def field(self, state: dict[str, Tensor]) -> Callable[[dict[str, Tensor], Tensor], dict[str, Tensor]]:
        """Velocity of the continuous components at times (B,); classes and the earlier prediction are held."""
        held = self.self_cond

        def velocity(x: dict[str, Tensor], time: Tensor) -> dict[str, Tensor]:
            self.self_cond = held  # or the right-hand side would change from call to call
            prediction = self.evaluate({**state, **x}, time.to(_float_dtype(state)))
            return prediction.get("velocity")

        return velocity

    def norm(self, x: dict[str, Tensor]) -> Tensor:
        """Root mean square (B,) over the live numbers of all continuous components."""
        spaces = {name: component.space for name, component in self.process.continuous.items()}
        total = sum(spaces[k].total(v.square(), self.cond) for k, v in x.items())
        count = sum(spaces[k].count(v, self.cond) for k, v in x.items())
        return (torch.as_tensor(total) / torch.as_tensor(count).clamp_min(1)).sqrt()

    def size(self, name: str, z: Tensor) -> Tensor:
        """Norm (B,) of a noise or of eps: whitened, over the live numbers."""
        component = self.process.continuous[name]
        live = component.space.live(z, self.cond)
        return component.space.total(z * component.law.whiten(z, live), self.cond).clamp_min(0).sqrt()

    def move(self, name: str, component: Categorical, z: Tensor, t: Tensor, s: Tensor, u: Tensor) -> Tensor:
        now, then = (v.to(z.device).expand(len(z), *v.shape) for v in (t, s))
        if bool((s > t).any()):
            return component.forward_transition(z, now, then, u, self.cond)
        assert self.prediction is not None
        probabilities = self.prediction.probabilities[name]
        if self.options["discrete"] == "ctmc":
            is_final = bool((s == self.plan.rows[-1].s).all())  # the last step only moves to the prediction
            table = component.ctmc(
                probabilities, z, now, then, 0.0 if is_final else float(self.options["discrete_eta"])
            )
        else:
            table = component.posterior(probabilities, z, now, then)
        return component.choose(table, u, z, self.cond)

    def finish(self, state: dict[str, Tensor], t: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """One more evaluation: x0, and the most probable (or drawn) classes."""
        prediction = self.evaluate(state, self.batched(t, state))
        final = prediction.get("x0")
        for name, component in self.process.continuous.items():
            fixed = component.space.fixed(state[name], self.cond)
            if fixed is not None:
                final[name] = torch.where(fixed, given[name], final[name])
        drawn = None
        if self.process.discrete and self.options["final_class"] == "draw":
            drawn = self.process.noise({k: state[k] for k in self.process.discrete}, self.source, self.cond)
        for name, component in self.process.discrete.items():
            if drawn is None:
                final[name] = component.argmax(final[name], state[name], self.cond)
            else:
                final[name] = component.choose(final[name], drawn[name], state[name], self.cond)
        final = {name: final[name] for name in state}
        for constrain in self.constraints:
            final = self.process.split(constrain(self.process.join(final), torch.zeros_like(t), self.source))
        return final


def _guided(den: Denoiser, guidance: Any) -> tuple[Denoiser, list[Any]]:
    """The denoiser wrapped by every guidance in turn, and their list."""
    items = [] if guidance is None else list(guidance) if isinstance(guidance, list | tuple) else [guidance]
    for item in items:
        den = item.wrap(den)
    return den, items


def _like(den: Denoiser, init: Any) -> tuple[State, bool]:
    """A state to imitate, and whether only its shape was given."""
    is_shape = not isinstance(init, Tensor) and not (
        isinstance(init, Mapping) and any(isinstance(v, Tensor) for v in init.values())
    )
    parts = den.process.split(init)
    if set(parts) != set(den.process.components):
        raise ValueError(f"init must have the components {sorted(den.process.components)}, got {sorted(parts)}.")
    if not is_shape:
        return den.process.join(parts), False
    reference = next((p for p in (*den.parameters(), *den.buffers()) if p.is_floating_point()), None)
    dtype = reference.dtype if reference is not None else torch.get_default_dtype()
    device = reference.device if reference is not None else torch.device("cpu")
    like = {
        name: torch.zeros(tuple(shape), dtype=torch.int64 if name in den.process.discrete else dtype, device=device)
        for name, shape in parts.items()
    }
    return den.process.join(like), True


def _empty_self_cond(process: Process, state: dict[str, Tensor]) -> Any:
    """Zeros in the shape of an x0 prediction: class axis appended for categorical components."""
    dtype = _float_dtype(state)
    empty = {
        name: x.new_zeros(*x.shape, c.num_classes, dtype=dtype) if isinstance(c, Categorical) else torch.zeros_like(x)
        for (name, c), x in zip(process.components.items(), (state[k] for k in process.components), strict=True)
    }
    return process.join(empty)


def _float_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    return next((x.dtype for x in state.values() if x.dtype.is_floating_point), torch.get_default_dtype())


def _bar(rows: range, progress: bool) -> Any:
    if not progress:
        return rows
    from tqdm.auto import tqdm

    return tqdm(rows, desc="sampling", unit="step")
