"""Dormand-Prince 5(4) for the probability flow, with a step size for each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidiff import ode
from scidiff.process import Process
from scidiff.samplers.base import Solver, register
from scidiff.samplers.predictor_corrector import refuse_vector_time
from scidiff.samplers.rows import Curve, Row, grid_rows

__all__ = ["RK45"]

State = dict[str, Tensor]


@register("rk45")
class RK45(Solver):
    r"""Adaptive Runge-Kutta method of order 5 for dx/dt = v(x, t), error estimated by the embedded method of order 4.

    Every sample has its own time and step size, by `scidiff.ode.integrate`. The error of a component is measured in
    atol + rtol max(|x|, |x_new|) with root mean squares over its live numbers (not number by number, so that rotations
    change nothing), then pooled over the components: a sample depends neither on its batch nor on padding. A batch
    evaluation counts once. The times of the grid are hit exactly (states are saved, constraints applied and categorical
    components moved there) and step sizes carry over; ``steps=1`` runs freely from the first time to the last.

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance (units of the state).
        max_steps: Largest number of attempted steps between two grid times.

    Raises:
        ValueError: If a tolerance is not positive, or times differ between elements.

    References: Dormand and Prince 1980; Song et al. 2021, section 4.3 (probability flow by an adaptive method).
    """

    model = "velocity"
    is_adaptive = True

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 10_000) -> None:
        if rtol <= 0 or atol <= 0 or max_steps < 1:
            raise ValueError(f"expected rtol > 0, atol > 0 and max_steps >= 1, got {rtol}, {atol} and {max_steps}.")
        self.rtol, self.atol, self.max_steps = rtol, atol, max_steps

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        refuse_vector_time(self, grid)
        rows = grid_rows(grid)
        for row in rows:
            row.evaluate = bool(process.discrete)  # categorical components need a prediction at the start
        return rows

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        return {"x": torch.ones_like(curve.t)}

    def integrate(
        self,
        field: Callable[[State, Tensor], State],
        x: State,
        row: Row,
        norm: Callable[[State], Tensor],
        memory: dict[str, Any],
    ) -> State:
        """The state at ``row.s``; step sizes (and the slope, if the state is untouched) carry over."""

        def scale(y: Tensor, y_new: Tensor) -> Tensor:
            old, new = _like(y, x), _like(y_new, x)
            sizes = {k: torch.maximum(norm({k: old[k]}), norm({k: new[k]})) for k in x}
            return torch.cat(
                [(self.atol + self.rtol * sizes[k])[:, None].expand_as(v.flatten(1)) for k, v in x.items()], 1
            )

        is_same = bool(memory) and all(memory["x"][k] is v for k, v in x.items())
        solution = ode.integrate(
            lambda t, y: _flat(field(_like(y, x), t)),
            _flat(x),
            float(row.t),
            float(row.s),
            rtol=self.rtol,
            atol=self.atol,
            norm=lambda error: norm(_like(error, x)),
            scale=scale,
            max_steps=self.max_steps,
            first_step=memory.get("step"),
            first_slope=memory["slope"] if is_same else None,
        )
        result = _like(solution.y, x)
        memory.update(x=result, step=solution.step, slope=solution.slope)
        return dict(result)


def _flat(x: State) -> Tensor:
    return torch.cat([v.flatten(1) for v in x.values()], dim=1)


def _like(flat: Tensor, x: State) -> State:
    """Cut (B, n) into the components of ``x``."""
    parts = flat.split([v[0].numel() for v in x.values()], dim=1)
    return {k: part.reshape(v.shape) for (k, v), part in zip(x.items(), parts, strict=True)}
