r"""Sampling of windows given what is known of them: it guides an unconditional model, a conditional one sees it.

Forecasting, imputing and continuing a sample are the same thing: windows with a mask of what is known. The mask covers
lag channels too, through which the model sees history before its context.

References: Kollovieh et al. 2023 (observation self-guidance); Rozet et al. 2024 (moment matching).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance import MomentMatching, Observation, SelfGuidance
from scidiff.samplers import sample
from timeseries.bases import Base
from timeseries.conditioning import FEATURES, conditions
from timeseries.data.scaling import SeriesSpec
from timeseries.data.windows import Windows
from timeseries.diffusion import NUM_STEPS, scaled
from timeseries.guidance import WienerGuidance
from timeseries.networks.wiener import WienerNetwork
from timeseries.starts import EULER_STEPS, check_start, draw_start

__all__ = ["GUIDANCES", "SamplingOptions", "draw_windows", "is_conditional", "profile"]

GUIDANCES = ("auto", "mmps", "wiener", "quantile", "ms", "none")
GuidanceFactory = Callable[[Observation, Tensor], Any]


@dataclass(frozen=True)
class SamplingOptions:
    """How windows are drawn.

    Attributes:
        steps: Solver steps.
        solver: Name or object, see `scidiff.samplers.solver_names`.
        guidance: How an unconditional model is told what is known: ``"mmps"`` (moment matching, no scale), ``"wiener"``
            (the same with the known covariance of a `timeseries.networks.WienerNetwork`, no backward passes),
            ``"auto"`` (the latter where it applies), ``"quantile"`` or ``"ms"`` (self-guidance), ``"none"``, or a
            function of (observation, quantile levels) that returns a guidance of the core. A conditional model takes
            none.
        guidance_scale: Strength of self-guidance.
        parity: Form of self-guidance, see `scidiff.guidance.SelfGuidance`.
        krylov: ``"gmres"`` or ``"cg"`` for the linear system of moment matching. The Jacobian of a trained network is
            neither symmetric nor definite, on which conjugate gradients diverge; least residuals do not.
        iterations: Krylov iterations; each costs one backward pass.
        grid: Times, see `scidiff.grids.time_grid`.
        solver_options: Options of the solver.
        start: Langevin steps that move the noise towards what is known before the solver starts (TSFlow takes 4), see
            `timeseries.starts`; for unconditional models with ``preset="flow"``.
        rows: Windows times samples that are computed together.
    """

    steps: int = 20
    solver: Any = "dpmpp_2m"
    guidance: str | GuidanceFactory = "auto"
    guidance_scale: float = 4.0
    parity: str = "paper"
    krylov: str = "gmres"
    iterations: int = 3
    grid: str | Tensor = "edm"
    solver_options: dict[str, Any] = field(default_factory=dict)
    start: int = 0
    rows: int = 512

    def __post_init__(self) -> None:
        if isinstance(self.guidance, str) and self.guidance not in GUIDANCES:
            raise ValueError(f"unknown guidance {self.guidance!r}; known: {', '.join(GUIDANCES)}, or a function.")
        if self.krylov not in ("gmres", "cg"):
            raise ValueError(f"krylov must be 'gmres' or 'cg', got {self.krylov!r}.")
        if self.steps < 1 or self.rows < 1 or self.iterations < 1 or self.start < 0:
            raise ValueError(
                "steps, rows and iterations must be at least 1 and start at least 0, got "
                f"{self.steps}, {self.rows}, {self.iterations} and {self.start}."
            )


def profile(name: str, **changes: Any) -> SamplingOptions:
    """Named options: ``"default"``, or ``"parity"``: TSDiff's 100-step ancestral sampling with quantile self-guidance.

    Raises:
        ValueError: If the name is unknown.
    """
    if name == "default":
        return SamplingOptions(**changes)
    if name == "parity":
        levels = torch.arange(NUM_STEPS, -1, -1, dtype=torch.float64) / NUM_STEPS
        published = {"steps": NUM_STEPS, "solver": "ancestral", "guidance": "quantile", "parity": "ddpm"}
        return SamplingOptions(**{**published, "grid": levels, **changes})
    raise ValueError(f"unknown profile {name!r}; known: default, parity.")


class Drawn(NamedTuple):
    """Values (rows, L, D) in the units of the data, and the network evaluations a row took."""

    values: Tensor
    nfe: int


def draw_windows(
    denoiser: Denoiser,
    spec: SeriesSpec,
    windows: Windows,
    num_samples: int,
    seeds: Sequence[tuple[int, int]],
    options: SamplingOptions,
    *,
    levels: Tensor | None = None,
    anywhere: bool = False,
    base: Base | None = None,
    callback: Callable[[], None] | None = None,
) -> Drawn:
    """Draw ``num_samples`` versions of each window, given what is observed of it.

    Args:
        denoiser: Model.
        spec: Its windows.
        windows: (W, L, D, channels) in the units of the data.
        num_samples: S; the rows of the result are W blocks of S.
        seeds: One a row (W S). A row depends on its own seed, window and level only.
        options: Solver and guidance.
        levels: Quantile level (W S,) of each row; (j + 1)/(S + 1) for sample j if absent.
        anywhere: Scale by the whole window where the context is empty.
        base: Base of a conditional model.
        callback: Called after each step of each part.
    """
    device = next(denoiser.parameters()).device
    if levels is None:
        levels = (torch.arange(num_samples, dtype=torch.float64) + 1) / (num_samples + 1)
        levels = levels.repeat(len(windows.values))
    per_part = max(1, options.rows // num_samples)
    parts, nfe = [], 0
    with torch.inference_mode(False), torch.no_grad():  # guidance differentiates, also inside somebody's inference mode
        for begin in range(0, len(windows.values), per_part):
            part = windows.at(slice(begin, begin + per_part)).to(device)
            rows = slice(begin * num_samples, (begin + len(part.values)) * num_samples)
            state, scale = scaled(part, spec, anywhere=anywhere)
            told = _tell(denoiser, spec, state, part.observed, num_samples, levels[rows], options, base)
            shape = (len(part.values) * num_samples, *told.shape)
            start = None
            if options.start and told.observation is not None:
                start = draw_start(denoiser, told.observation, levels[rows], shape, seeds[rows], options.start)
            x, info = sample(
                denoiser,
                shape if start is None else start,
                solver=options.solver,
                solver_options=options.solver_options or None,
                steps=options.steps,
                grid=options.grid,
                seed=list(seeds[rows]),
                cond=told.cond,
                guidance=told.guidance,
                save="none",
                callback=None if callback is None else lambda step: callback(),
            )
            if told.mean is not None:
                x = x + told.mean
            location, width = (v.repeat_interleave(num_samples, 0) for v in scale)
            parts.append((x[..., 0].double() * width + location).cpu())
            nfe = info.nfe + (0 if start is None else options.start * EULER_STEPS)
    return Drawn(torch.cat(parts), nfe)


class _Told(NamedTuple):
    """How a model is told what is known: shape of a window, condition, guidance, what is added to its samples, and what
    an unconditional one observes."""

    shape: tuple[int, ...]
    cond: dict[str, Tensor] | None = None
    guidance: Any = None
    mean: Tensor | None = None
    observation: Observation | None = None


def _tell(
    denoiser: Denoiser,
    spec: SeriesSpec,
    state: Tensor,
    observed: Tensor,
    num_samples: int,
    levels: Tensor,
    options: SamplingOptions,
    base: Base | None,
) -> _Told:
    """By features for a conditional model, else by guidance."""
    if options.start:
        check_start(denoiser)
    if is_conditional(denoiser):
        if options.start:
            raise ValueError("a conditional model sees what is known: leave start out.")
        seen = conditions(state, observed, observed[..., 0], spec, base)
        features, mean = (v.repeat_interleave(num_samples, 0) for v in seen)
        return _Told((*state.shape[1:3], 1), {FEATURES: features}, None, mean)
    if not bool(observed.any()):
        return _Told(tuple(state.shape[1:]))
    y = state.repeat_interleave(num_samples, 0)
    observation = Observation(observed.repeat_interleave(num_samples, 0), y=y)
    guidance = _guidance(denoiser, observation, levels, options)
    return _Told(tuple(state.shape[1:]), guidance=guidance, observation=observation)


def is_conditional(denoiser: Denoiser) -> bool:
    """Whether the network sees what is known as features."""
    return getattr(denoiser.network, FEATURES, 0) > 0


def _guidance(denoiser: Denoiser, observation: Observation, levels: Tensor, options: SamplingOptions) -> Any:
    kind = options.guidance
    if kind == "auto":
        kind = "wiener" if isinstance(denoiser.network, WienerNetwork) else "mmps"
    if not isinstance(kind, str):
        return kind(observation, levels)
    if kind == "none":
        return None
    if kind == "wiener":
        return WienerGuidance(observation)
    if kind == "mmps":
        return MomentMatching(observation, options.iterations, options.krylov)  # type: ignore[arg-type]
    return SelfGuidance(observation, kind, options.guidance_scale, options.parity, levels=levels)  # type: ignore[arg-type]
