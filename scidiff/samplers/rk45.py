"""Dormand-Prince 5(4) for the probability flow, with a step size for each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidiff.process import Process
from scidiff.samplers.base import Solver, register
from scidiff.samplers.predictor_corrector import refuse_vector_time
from scidiff.samplers.rows import Curve, Row, grid_rows
from scidiff.schedules import expand_like

__all__ = ["RK45"]

State = dict[str, Tensor]
Field = Callable[[State, Tensor], State]
Norm = Callable[[State], Tensor]

_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the solution of order 5 is the last stage
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # order 5 minus order 4
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0
_PROPORTIONAL, _INTEGRAL = 0.17, 0.04  # exponents 1/5 - 0.75 b and b of the PI controller, b = 0.04
_FIRST_STEP = 0.01  # of |x|/|v|


@register("rk45")
class RK45(Solver):
    r"""Adaptive Runge-Kutta method of order 5 for dx/dt = v(x, t), error estimated by the embedded method of order 4.

    Every sample has its own time and step size: with the error e of a step and the scale atol + rtol max(|x|,
    |x_new|), a step is accepted where the root mean square of e/scale over the live numbers of all components is at
    most 1, so that a sample does not depend on its batch. A batch evaluation counts once. The times of the grid are
    hit exactly (states are saved, constraints applied and categorical components moved there): ``steps=1`` runs freely
    from first to last time.

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance (units of the state).
        max_nfe: Largest number of evaluations between two grid times.

    Raises:
        ValueError: If a tolerance is not positive, or times differ between elements.
        RuntimeError: If ``max_nfe`` is exceeded.

    References: Dormand and Prince 1980; Hairer, Norsett and Wanner 1993, sections II.4 and II.5 (table 5.2), and
    section IV.2 of Hairer and Wanner 1996 (PI control).
    """

    model = "velocity"
    is_adaptive = True

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, max_nfe: int = 20_000) -> None:
        if rtol <= 0 or atol <= 0 or max_nfe < 8:
            raise ValueError(f"expected rtol > 0, atol > 0 and max_nfe >= 8, got {rtol}, {atol} and {max_nfe}.")
        self.rtol, self.atol, self.max_nfe = rtol, atol, max_nfe

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        refuse_vector_time(self, grid)
        rows = grid_rows(grid)
        for row in rows:
            row.evaluate = bool(process.discrete)  # categorical components need a prediction at the start
        return rows

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        return {"x": torch.ones_like(curve.t)}

    def integrate(self, field: Field, x: State, row: Row, norm: Norm, memory: dict[str, Any]) -> State:
        """The state at ``row.s``; step sizes (and the slope, if the state is untouched) carry over."""
        first = next(iter(x.values()))
        t = row.t.to(first.device).expand(len(first)).clone()
        end, direction = float(row.s), -1.0 if float(row.s) < float(row.t) else 1.0
        is_same = "x" in memory and all(memory["x"][k] is v for k, v in x.items())
        slope = memory["slope"] if is_same else field(x, t)
        step = memory["step"] if memory else self._first_step(x, slope, norm, abs(end - float(row.t)))
        error_before = memory.get("error", torch.full_like(step, 1e-4))
        nfe = 0 if is_same else 1
        while bool((t != end).any()):
            if nfe >= self.max_nfe:
                raise RuntimeError(
                    f"rk45 needed more than max_nfe = {self.max_nfe} evaluations between t = {float(row.t):.4g} and "
                    f"s = {end:.4g} at rtol = {self.rtol:g}; loosen the tolerances or use a state of higher precision."
                )
            remaining = (end - t).abs()
            is_final = step >= remaining
            h = torch.where(is_final, remaining, step) * direction
            new, new_slope, difference = self._stages(field, x, t, h, slope)
            nfe += 6
            scale = {k: self.atol + self.rtol * torch.maximum(x[k].abs(), new[k].abs()) for k in x}
            error = norm({k: difference[k] / scale[k] for k in x}).to(step.dtype).clamp_min(1e-10)
            active = t != end
            accepted = (error <= 1) & active
            x, slope = _choose(accepted, new, x), _choose(accepted, new_slope, slope)
            t = torch.where(accepted, torch.where(is_final, end, t + h), t)
            factor = _SAFETY * error**-_PROPORTIONAL * torch.where(accepted, error_before, 1.0) ** _INTEGRAL
            proposed = h.abs() * factor.clamp(_SHRINK, _GROW)
            # a step that was cut short at the end says nothing against the longer one
            step = torch.where(active, torch.where(accepted & is_final, torch.maximum(proposed, step), proposed), step)
            error_before = torch.where(accepted, error, error_before)
        memory.update(x=x, slope=slope, step=step, error=error_before)
        return x

    def _stages(self, field: Field, x: State, t: Tensor, h: Tensor, slope: State) -> tuple[State, State, State]:
        """Solution of order 5, slope there, and difference to the solution of order 4."""
        slopes, state = [slope], x
        for node, weights in zip(_NODES[1:], _STAGES[1:], strict=True):
            state = {k: x[k] + _scaled(h, x[k], weights, [v[k] for v in slopes]) for k in x}
            slopes.append(field(state, t + node * h))
        return state, slopes[-1], {k: _scaled(h, x[k], _ERROR, [v[k] for v in slopes]) for k in x}

    def _first_step(self, x: State, slope: State, norm: Norm, span: float) -> Tensor:
        """_FIRST_STEP |x|/|v| in scaled norms, at most the whole way; float64 (B,)."""
        scale = {k: self.atol + self.rtol * v.abs() for k, v in x.items()}
        size = norm({k: x[k] / scale[k] for k in x}).double()
        speed = norm({k: slope[k] / scale[k] for k in x}).double()
        return (_FIRST_STEP * size / speed.clamp_min(1e-30)).clamp(min=1e-6 * span, max=span)


def _scaled(h: Tensor, like: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(like)
    for weight, value in zip(weights, slopes, strict=True):
        if weight != 0:
            total = total + weight * value
    return expand_like(h.to(like.dtype), like) * total


def _choose(where: Tensor, new: State, old: State) -> State:
    return {k: torch.where(expand_like(where, new[k]), new[k], old[k]) for k in new}
