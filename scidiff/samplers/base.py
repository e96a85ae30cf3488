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
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scidiff.configurable import Configurable
from scidiff.process import Component, Process
from scidiff.samplers.rows import Curve, Row, anchor_values, like_rows
from scidiff.schedules import Schedule, expand_like

__all__ = ["Plan", "Solver", "SolverLike", "apply_row", "get_solver", "register", "solver_names"]


@dataclass
class Plan:
    """All rows, with coefficients per component: (rows, 4 + depth [, elements]) as [a, b, n, d, c_0, c_1, ...]."""

    rows: list[Row]
    coefficients: dict[str, Tensor]
    models: tuple[str, ...]
    depth: int
    uses_noise: list[bool] = field(default_factory=list)

    def cast(self, dtype: torch.dtype, device: torch.device) -> Plan:
        """The same plan in the dtype and on the device of the state."""
        table = {k: v.to(device=device, dtype=dtype) for k, v in self.coefficients.items()}
        return Plan(self.rows, table, self.models, self.depth, self.uses_noise)

    @property
    def nfe(self) -> int:
        """Number of model evaluations."""
        return sum(row.evaluate for row in self.rows)


class Solver(Configurable):
    """Base class of solvers.

    Attributes:
        model: Which quantity of the prediction is combined: "x0", "eps" or "velocity", or a tuple of several.
        depth: Number of model values that a row may use.
        needs_score: Whether the method rests on eps/sigma being a score (refused for finite D).
        needs_signal: Whether rows of the solver are singular at alpha = 0; such a row becomes a first-order step in x0.
        is_adaptive: Whether rows are carried out by ``integrate`` instead of ``step``.
    """

    model: str | tuple[str, ...] = "x0"
    depth: int = 1
    needs_score: bool = False
    needs_signal: bool = False
    is_adaptive: bool = False

    @property
    def models(self) -> tuple[str, ...]:
        """The quantities of one evaluation, newest first: m_0, m_1, ..."""
        return (self.model,) if isinstance(self.model, str) else self.model

    @abstractmethod
    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        """The sequence of evaluations for a grid (n + 1,) or (n + 1, elements)."""

    @abstractmethod
    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Coefficients of one component: any of "x", "anchor", "noise" (rows [, elements]) and "m0", "m1", ..."""

    def num_intervals(self, steps: int) -> int:
        """Number of grid intervals when ``steps`` are asked for."""
        return steps

    def plan(
        self, process: Process, grid: Tensor, *, heuristic: bool = False, known_ends: Collection[str] | None = None
    ) -> Plan:
        """Coefficients of the whole run, float64 on the CPU.

        Args:
            process: Schedules, laws and spaces.
            grid: Times (n + 1,) or (n + 1, elements).
            heuristic: Allow methods that need a score for laws that have none.
            known_ends: Components whose endpoint x_1 is given; None for all that have one.

        Raises:
            ValueError: If a coefficient is not finite, or the method does not apply to the process.
        """
        rows = self.rows(process, grid)
        for row in rows:
            row.is_start = row.evaluate and self._is_start(process, row, known_ends)
        table: dict[str, Tensor] = {}
        for name, component in process.continuous.items():
            if component.schedule.has_endpoint and known_ends is not None:
                _check_end(self, component.schedule, name, grid[0], name in known_ends)
            if self.needs_score and not heuristic and not component.law.is_gaussian:
                raise ValueError(
                    f"solver {type(self).__name__} needs a score, but component {name!r} has the law "
                    f"{component.law!r}, whose field is not one. Use a deterministic solver (heun, dpmpp_2m, ...), or "
                    "build the Denoiser with heuristic=True to accept the approximation."
                )
            table[name] = self._table(component, rows)
        noisy = [any(bool((v[i, 2] != 0).any()) for v in table.values()) for i in range(len(rows))]
        return Plan(rows, table, self.models, self.depth, noisy)

    def step(
        self,
        plan: Plan,
        i: int,
        x: dict[str, Tensor],
        anchor: dict[str, Tensor],
        history: Sequence[dict[str, Tensor]],
        noise: dict[str, Tensor] | None,
        x_1: Mapping[str, Tensor] | None = None,
        norm: Callable[[str, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Row ``i`` for every continuous component; ``norm(name, x)`` is the size (B,) of noise-like values."""
        result = {}
        for name, value in x.items():
            row = plan.coefficients[name][i]
            values = [h[name] for h in history]
            z = noise[name] if noise is not None and plan.uses_noise[i] else None
            end = x_1.get(name) if x_1 else None
            result[name] = apply_row(row, value, anchor[name], values, z, end)
        return result

    def integrate(
        self,
        field: Callable[[dict[str, Tensor], Tensor], dict[str, Tensor]],
        x: dict[str, Tensor],
        row: Row,
        norm: Callable[[dict[str, Tensor]], Tensor],
        memory: dict[str, Any],
    ) -> dict[str, Tensor]:
        """An adaptive solver's way from ``row.t`` to ``row.s``.

        ``field(x, t)`` is the velocity at times t (B,), ``norm`` the root mean square (B,) over live numbers;
        ``memory`` belongs to the run and is empty at its start.
        """
        raise NotImplementedError

    def _is_start(self, process: Process, row: Row, known_ends: Collection[str] | None) -> bool:
        """True at a point-like prior (alpha = sigma = 0, a bridge), and at alpha = 0 if the solver needs a signal."""
        for name, component in process.continuous.items():
            if component.schedule.has_endpoint and known_ends is not None and name not in known_ends:
                continue  # x_1 is a draw from a base law, which a flow can leave
            gone = (component.schedule.alpha(row.t) == 0) & (row.s != row.t)
            if not self.needs_signal:
                gone = gone & (component.schedule.sigma(row.t) == 0)
            if bool(gone.any()):
                return True
        return False

    def _table(self, component: Component, rows: Sequence[Row]) -> Tensor:
        schedule = component.schedule
        curve = Curve(schedule, torch.stack([r.t for r in rows]), torch.stack([r.s for r in rows]))
        filled = self.fill(curve, rows)
        zero = torch.zeros_like(curve.t)
        keys = ("x", "anchor", "noise", *(f"m{j}" for j in range(self.depth)))
        filled = {key: filled.get(key, zero) for key in keys}
        is_start = like_rows([row.is_start for row in rows], curve.t)
        filled = {k: torch.where(is_start, v, filled[k]) for k, v in _start_row(curve, keys).items()}
        end = zero
        if schedule.has_endpoint:
            end = curve.beta_s - filled["x"] * curve.beta_t - filled["anchor"] * anchor_values(curve.beta_t, rows)
            end = end if "velocity" not in self.models else torch.where(is_start, end, 0.0)
        filled = {"x": filled["x"], "anchor": filled["anchor"], "noise": filled["noise"], "end": end, **filled}
        table = torch.stack(list(filled.values()), dim=1)
        if not bool(torch.isfinite(table).all()):
            bad = int((~torch.isfinite(table).flatten(1).all(1)).nonzero()[0])
            raise ValueError(
                f"solver {type(self).__name__} is singular for {schedule!r} between t = {_show(rows[bad].t)} and "
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
            raise ValueError(
                f"solver options {sorted(options)} were given beside a solver object; set them on the object."
            )
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
    """a x + b anchor + sum_j c_j m_j + n z + d x_1 with ``row`` = [a, b, n, d, c_0, ...] (4 + depth [, elements])."""
    shaped = [expand_like(c[None], x) if c.ndim else c for c in row.unbind(0)]
    result = shaped[0] * x + shaped[1] * anchor
    for coefficient, value in zip(shaped[4:], models, strict=False):
        result = result + coefficient * value
    if z is not None:
        result = result + shaped[2] * z
    if x_1 is not None:
        result = result + shaped[3] * x_1
    return result


def _start_row(curve: Curve, keys: Sequence[str]) -> dict[str, Tensor]:
    """First-order step in x0; from a point (alpha = sigma = 0) noise is drawn, because no flow leaves a point."""
    is_point = (curve.alpha_t == 0) & (curve.sigma_t == 0) & ~curve.still
    carry, weight = curve.first_order("x0")
    start = dict.fromkeys(keys, torch.zeros_like(curve.t))
    start["x"] = torch.where(is_point, 0.0, carry)
    start["m0"] = torch.where(is_point, curve.alpha_s, weight)
    start["noise"] = torch.where(is_point, curve.sigma_s, 0.0)
    return start


def _check_end(solver: Solver, schedule: Schedule, name: str, first: Tensor, is_known: bool) -> None:
    """What a solver needs to know of the endpoint, and a known endpoint of the noise around it."""
    if not is_known:
        if "velocity" in solver.models:
            return
        raise ValueError(
            f"solver {type(solver).__name__} works on x_t - beta x_1, but no x_1 of component {name!r} was given. Pass "
            "x_1=, or solve the flow of a velocity prediction from a base sample as init (euler, heun, rk45, "
            "interpolant_sde)."
        )
    near = torch.tensor(1 - 1e-6, dtype=torch.float64)
    is_point = bool(((schedule.alpha(first) == 0) & (schedule.sigma(first) == 0)).any())
    if is_point and float(schedule.alpha(near)) > 0.1 * float(schedule.sigma(near)):
        raise ValueError(
            f"{schedule!r} of component {name!r} leaves its known endpoint x_1 with too little noise: alpha/sigma does "
            "not vanish at t = 1, so no first step has the law of x_0 given x_1. Use gamma 'brownian', or do not pass "
            "x_1 and solve the flow."
        )


def _show(t: Tensor) -> str:
    return f"{float(t.reshape(-1)[0]):.4g}"
