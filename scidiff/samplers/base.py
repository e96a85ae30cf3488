"""Plans and solvers: every solver here is a table of numbers, applied row by row.

A row evaluates the model (or not) at the current state and then sets, for each continuous component,

    x <- a x + b anchor + sum_j c_j m_j + d x_1 + n z,

where m_0, m_1, ... are the newest model values (x0, eps or velocity, as the solver asks), ``anchor`` is a state that an
earlier row marked, and z is unit noise. Single-step, multistep, predictor-corrector and stochastic solvers are rows of
such numbers, computed in float64 on the CPU before the loop; the loop itself never looks at data.
"""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from scidiff.configurable import Configurable
from scidiff.process import Component, Process
from scidiff.schedules import expand_like

__all__ = ["Curve", "Plan", "Row", "Solver", "SolverLike", "apply_row", "get_solver", "register", "solver_names"]


@dataclass
class Row:
    """One row: where it is evaluated and where it leads.

    Args:
        t: Time () or (elements,) of the state when the row starts; the model is evaluated there.
        s: Time of the state after the row.
        step: Index of the grid interval that the row belongs to.
        evaluate: Whether the model is called.
        mark: Whether the state at the start of the row becomes the anchor.
        is_last: Whether the row completes its grid interval.
    """

    t: Tensor
    s: Tensor
    step: int
    evaluate: bool = True
    mark: bool = False
    is_last: bool = True


@dataclass
class Plan:
    """All rows, with coefficients per component: (rows, 4 + order [, elements]) as [a, b, n, d, c_0, c_1, ...]."""

    rows: list[Row]
    coefficients: dict[str, Tensor]
    model: str
    order: int
    uses_noise: list[bool] = field(default_factory=list)

    def cast(self, dtype: torch.dtype, device: torch.device) -> Plan:
        """The same plan in the dtype and on the device of the state."""
        table = {k: v.to(device=device, dtype=dtype) for k, v in self.coefficients.items()}
        return Plan(self.rows, table, self.model, self.order, self.uses_noise)

    @property
    def nfe(self) -> int:
        """Number of model evaluations."""
        return sum(row.evaluate for row in self.rows)


class Curve:
    """alpha, beta and sigma of one component along a list of rows, float64 on the CPU."""

    def __init__(self, component: Component, rows: Sequence[Row]) -> None:
        schedule = component.schedule
        self.t, self.s = torch.stack([r.t for r in rows]), torch.stack([r.s for r in rows])
        self.alpha_t, self.alpha_s = schedule.alpha(self.t), schedule.alpha(self.s)
        self.sigma_t, self.sigma_s = schedule.sigma(self.t), schedule.sigma(self.s)
        self.beta_t, self.beta_s = schedule.endpoint(self.t), schedule.endpoint(self.s)
        self.schedule = schedule

    @property
    def decay(self) -> Tensor:
        """e^{-h} = alpha_t sigma_s/(alpha_s sigma_t), h = lambda_s - lambda_t; 1 where s = t, 0 where sigma_s = 0."""
        ratio = self.alpha_t * self.sigma_s / (self.alpha_s * self.sigma_t)
        return torch.where(self.s == self.t, torch.ones_like(ratio), ratio)

    @property
    def shrink(self) -> Tensor:
        """sigma_s/sigma_t; 1 where s = t."""
        return torch.where(self.s == self.t, torch.ones_like(self.sigma_t), self.sigma_s / self.sigma_t)

    @property
    def lam_t(self) -> Tensor:
        """lambda at t (may be infinite)."""
        return self.alpha_t.log() - self.sigma_t.log()

    @property
    def lam_s(self) -> Tensor:
        """lambda at s (may be infinite)."""
        return self.alpha_s.log() - self.sigma_s.log()


class Solver(Configurable):
    """Base class of solvers.

    Attributes:
        model: Which quantity of the prediction is combined: "x0", "eps" or "velocity".
        order: Number of model values that a row may use.
        is_stochastic: Whether rows draw noise.
        needs_score: Whether the method rests on eps/sigma being a score (refused for finite D).
    """

    model: ClassVar[str] = "x0"
    order: int = 1
    needs_score: bool = False

    @abstractmethod
    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        """The sequence of evaluations for a grid (n + 1,) or (n + 1, elements)."""

    @abstractmethod
    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Coefficients of one component: any of "x", "anchor", "noise" (rows [, elements]) and "m0", "m1", ..."""

    def plan(self, process: Process, grid: Tensor) -> Plan:
        """Coefficients of the whole run, float64 on the CPU.

        Raises:
            ValueError: If a coefficient is not finite, or the method does not apply to the process.
        """
        rows = self.rows(process, grid)
        table: dict[str, Tensor] = {}
        for name, component in process.continuous.items():
            if self.needs_score and not component.law.is_gaussian:
                raise ValueError(
                    f"solver {type(self).__name__} needs a score, but component {name!r} has the law {component.law!r}, "
                    "whose field is not one. Use a deterministic solver (heun, dpmpp_2m, ...)."
                )
            table[name] = self._table(name, component, rows)
        noisy = [any(bool((v[i, 2] != 0).any()) for v in table.values()) for i in range(len(rows))]
        return Plan(rows, table, self.model, self.order, noisy)

    def step(
        self,
        plan: Plan,
        i: int,
        x: dict[str, Tensor],
        anchor: dict[str, Tensor],
        history: Sequence[dict[str, Tensor]],
        noise: dict[str, Tensor] | None,
        x_1: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Row ``i`` for every continuous component."""
        result = {}
        for name, value in x.items():
            row = plan.coefficients[name][i]
            values = [h[name] for h in history]
            z = noise[name] if noise is not None and plan.uses_noise[i] else None
            end = x_1.get(name) if x_1 else None
            result[name] = apply_row(row, value, anchor[name], values, z, end)
        return result

    def _table(self, name: str, component: Component, rows: Sequence[Row]) -> Tensor:
        curve = Curve(component, rows)
        filled = self.fill(curve, rows)
        zero = torch.zeros_like(curve.t)
        a, b, n = (filled.get(key, zero) for key in ("x", "anchor", "noise"))
        models = [filled.get(f"m{j}", zero) for j in range(self.order)]
        end = zero
        if component.schedule.has_endpoint and self.model != "velocity":
            end = curve.beta_s - a * curve.beta_t - b * _anchor_values(curve.beta_t, rows)
        table = torch.stack([a, b, n, end, *models], dim=1)
        if not bool(torch.isfinite(table).all()):
            bad = int((~torch.isfinite(table).flatten(1).all(1)).nonzero()[0])
            raise ValueError(
                f"solver {type(self).__name__} is singular for {component.schedule!r} between t = {_show(rows[bad].t)} and "
                f"s = {_show(rows[bad].s)}: start below t = 1, end above t = 0, or use another solver."
            )
        return table


SolverLike = str | Solver
_REGISTRY: dict[str, tuple[type[Solver], dict[str, Any]]] = {}


def register(name: str, **defaults: Any) -> Any:
    """Class decorator: make a solver known as ``name``, with ``defaults`` for its options."""

    def decorate(cls: type[Solver]) -> type[Solver]:
        _REGISTRY[name] = (cls, defaults)
        return cls

    return decorate


def solver_names() -> list[str]:
    """Names that `get_solver` knows."""
    return sorted(_REGISTRY)


def get_solver(solver: SolverLike, options: Mapping[str, Any] | None = None) -> Solver:
    """A solver object from a name and options.

    Raises:
        ValueError: If the name or an option is unknown.
    """
    if isinstance(solver, Solver):
        if options:
            raise ValueError(f"solver options {sorted(options)} were given beside a solver object; set them on the object.")
        return solver
    if solver not in _REGISTRY:
        closest = difflib.get_close_matches(solver, _REGISTRY, n=1)
        hint = f" Did you mean {closest[0]!r}?" if closest else ""
        raise ValueError(f"unknown solver {solver!r}; known: {', '.join(solver_names())}.{hint}")
    cls, defaults = _REGISTRY[solver]
    try:
        return cls(**{**defaults, **(options or {})})
    except TypeError as error:
        raise ValueError(f"solver {solver!r} does not take these options: {error}.") from error


def apply_row(
    row: Tensor, x: Tensor, anchor: Tensor, models: Sequence[Tensor], z: Tensor | None, x_1: Tensor | None = None
) -> Tensor:
    """a x + b anchor + sum_j c_j m_j + n z + d x_1 with ``row`` = [a, b, n, d, c_0, ...] (4 + order [, elements])."""
    shaped = [expand_like(c[None], x) if c.ndim else c for c in row.unbind(0)]
    result = shaped[0] * x + shaped[1] * anchor
    for coefficient, value in zip(shaped[4:], models, strict=False):
        result = result + coefficient * value
    if z is not None:
        result = result + shaped[2] * z
    if x_1 is not None:
        result = result + shaped[3] * x_1
    return result


def _anchor_values(values: Tensor, rows: Sequence[Row]) -> Tensor:
    """``values`` at the start of the row that last marked the anchor."""
    index, marked = [], 0
    for i, row in enumerate(rows):
        marked = i if row.mark else marked
        index.append(marked)
    return values[index]


def _show(t: Tensor) -> str:
    return f"{float(t.reshape(-1)[0]):.4g}"
