"""DPM-Solver and DPM-Solver++ as single-step methods: order k with k evaluations inside each grid interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from scidiff.process import Process
from scidiff.samplers.base import Solver, register
from scidiff.samplers.exponential import Exponential
from scidiff.samplers.rows import Curve, Row, interval_ends, is_singular, like_rows

__all__ = ["SingleStep"]

_STAGES = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}  # places of the inner nodes, in units of h
_TOLERANCE = 1e-9  # inner nodes of the ruling component are exact up to the inversion of lambda(t)


@register("dpm_solver_1", order=1, model="eps")
@register("dpm_solver_2", order=2, model="eps")
@register("dpm_solver_3", order=3, model="eps")
@register("dpmpp_2s", order=2, model="x0")
@register("dpmpp_3s", order=3, model="x0")
class SingleStep(Solver):
    r"""Exponential Runge-Kutta methods with inner nodes at r_1, r_2 (1/2; 1/3 and 2/3) of the step in lambda.

    In the notation of `scidiff.samplers.exponential`, d_i = m_i - m_0, and u_i the state at node i,

        order 1: x_s = carry x + gain phi_1 m_0                               (DDIM)
        order 2: x_s = carry x + gain phi_1 [m_0 + d_1/(2 r_1)]               (Taylor: phi_1 m_0 + phi_2 d_1/r_1)
        order 3: u_2 = carry_2 x + gain_2 [phi_1 m_0 + phi_2 (r_2/r_1) d_1],
                 x_s = carry x + gain [phi_1 m_0 + phi_2 d_2/r_2]
                 (Taylor: phi_1 m_0 + phi_2 E_1 + phi_3 E_2 with E_1 = (r_2 d_1/r_1 - r_1 d_2/r_2)/(r_2 - r_1) and
                 E_2 = 2 (d_2/r_2 - d_1/r_1)/(r_2 - r_1)).

    Order and NFE a step are both ``order``. Inner nodes are times shared by a system: the places r_i refer to the first
    component, the others use their own r_i, and the Taylor form where these are not the standard ones (the short third
    order form is right for r_2 = 2/3 only). A step with an infinite h is one first-order stage.

    Args:
        order: 1, 2 or 3.
        model: ``"eps"`` (noise form, DPM-Solver) or ``"x0"`` (data form, DPM-Solver++).
        taylor: Use the Taylor forms everywhere.
        nfe: Total number of evaluations, at least ``order``. The grid then has ceil(nfe/2) or nfe//3 + 1 intervals
            instead of ``steps``, with lower orders on the last ones to meet the budget.

    Raises:
        ValueError: If an argument is out of range, or a given grid does not fit ``nfe``.

    References: Lu et al. 2022, "DPM-Solver", algorithms 1 and 2 and appendix D.3 (budget); Lu et al. 2022,
    "DPM-Solver++", algorithm 1.
    """

    def __init__(
        self, order: int = 2, model: Literal["eps", "x0"] = "eps", taylor: bool = False, nfe: int | None = None
    ) -> None:
        if order not in _STAGES or model not in ("eps", "x0"):
            raise ValueError(f"expected order 1, 2 or 3 and model 'eps' or 'x0', got {order} and {model!r}.")
        if nfe is not None and nfe < order:
            raise ValueError(f"nfe must be at least the order {order}, got {nfe}.")
        self.order, self.model, self.taylor, self.nfe = order, model, taylor, nfe
        self.depth = order
        self.needs_signal = model == "eps"

    def num_intervals(self, steps: int) -> int:
        return steps if self.nfe is None else len(self._split(self.nfe))

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        count = len(grid) - 1
        orders = [self.order] * count if self.nfe is None else self._split(self.nfe)
        if len(orders) != count:
            raise ValueError(f"nfe = {self.nfe} at order {self.order} needs {len(orders)} grid intervals, got {count}.")
        rows = []
        for i, order in enumerate(orders):
            t, s = grid[i], grid[i + 1]
            places = () if is_singular(process, t, s) else _STAGES[order]
            nodes = [t, *(_between(process, t, s, r) for r in places), s]
            last = len(nodes) - 2
            rows += [Row(nodes[j], nodes[j + 1], i, mark=j == 0, is_last=j == last) for j in range(last + 1)]
        return rows

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        begin, end = interval_ends(rows)
        part = Exponential(Curve(curve.schedule, begin, curve.s), self.models[0])  # from the start of the interval
        whole = Exponential(Curve(curve.schedule, begin, end), self.models[0])
        place = torch.where(
            part.is_regular & whole.is_regular, part.h / whole.h, 1.0
        )  # r of the node that a row leads to
        one, two = torch.roll(place, 1, 0), torch.roll(place, 2, 0)  # of the nodes that the last rows led to
        kinds = _kinds(rows)
        zero = torch.zeros_like(curve.t)
        d_1, d_2 = zero, zero  # factors of m_1 - m_0 and m_2 - m_0
        d_1 = torch.where(like_rows([k == (1, 2) for k in kinds], zero), self._second(part, one), d_1)
        d_1 = torch.where(like_rows([k == (1, 3) for k in kinds], zero), part.term(2) * place / one, d_1)
        is_third = like_rows([k == (2, 3) for k in kinds], zero)
        d_1, d_2 = (torch.where(is_third, v, d) for v, d in zip(self._third(part, two, one), (d_1, d_2), strict=True))
        d_1, d_2 = part.higher(d_1), part.higher(d_2)
        newest_first = {0: (part.weight, zero, zero), 1: (d_1, part.weight - d_1, zero)}
        newest_first[2] = (d_2, d_1, part.weight - d_1 - d_2)
        filled = {"x": zero, "anchor": zero}
        for stage, values in newest_first.items():
            here = like_rows([k[0] == stage for k in kinds], zero)
            source = "x" if stage == 0 else "anchor"
            filled[source] = torch.where(here, part.carry, filled[source])
            for j, value in enumerate(values):
                filled[f"m{j}"] = torch.where(here, value, filled.get(f"m{j}", zero))
        return filled

    def _second(self, part: Exponential, r: Tensor) -> Tensor:
        return part.term(2) / r if self.taylor else part.term(1) / (2 * r)

    def _third(self, part: Exponential, r_1: Tensor, r_2: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of d_1 and d_2 in the last stage of order 3."""
        is_short = ((r_2 - _STAGES[3][1]).abs() < _TOLERANCE) & (not self.taylor)
        width = torch.where(r_2 == r_1, 1.0, r_2 - r_1)
        p_2, p_3 = part.term(2), part.term(3)
        d_1 = (p_2 * r_2 - 2 * p_3) / (r_1 * width)
        d_2 = (2 * p_3 - p_2 * r_1) / (r_2 * width)
        return torch.where(is_short, 0.0, d_1), torch.where(is_short, p_2 / r_2, d_2)

    def _split(self, nfe: int) -> list[int]:
        """Orders of the intervals that spend ``nfe`` evaluations."""
        full, rest = divmod(nfe, self.order)
        if self.order < 3:
            return [self.order] * full + [1] * rest
        return [3] * (full - 1) + [2, 1] if rest == 0 else [3] * full + [rest]


def _between(process: Process, t: Tensor, s: Tensor, r: float) -> Tensor:
    """The time at r of the step in lambda of the first component; elements that stand still stay."""
    component = next(iter(process.continuous.values()), None)
    if component is None:
        return t + r * (s - t)
    lam = 0.5 * component.schedule.log_snr(torch.stack([t, s]))
    return torch.where(s == t, t, component.schedule.time(torch.lerp(lam[0], lam[1], r)))


def _kinds(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """(stage, number of stages) of each row."""
    total: dict[int, int] = {}
    stages = []
    for row in rows:
        stages.append(total.get(row.step, 0))
        total[row.step] = stages[-1] + 1
    return [(j, total[row.step]) for j, row in zip(stages, rows, strict=True)]
