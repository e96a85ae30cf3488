"""What `sample` refuses before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from scidiff.denoiser import Denoiser
from scidiff.process import Process
from scidiff.samplers.base import Plan

__all__ = ["check_conversions", "check_options", "ends_clean"]


def check_options(run: Mapping[str, Any], save: str | int) -> None:
    """Refuse unknown values of the run's options and of ``save``."""
    for key, known in {"discrete": ("posterior", "ctmc"), "final_class": ("argmax", "draw")}.items():
        if run[key] not in known:
            raise ValueError(f"option {key} must be one of {known}, got {run[key]!r}.")
    if not (save in ("last", "none", "all") or (isinstance(save, int) and save >= 1)):
        raise ValueError(f'save must be "last", "none", "all" or a positive int, got {save!r}.')


def check_conversions(den: Denoiser, plan: Plan) -> None:
    """Refuse evaluations whose prediction does not determine what the solver combines."""
    for row in plan.rows:
        wanted = "x0" if row.is_start else plan.models[0]
        if not row.evaluate or wanted == "eps":
            continue
        for name, component in den.process.continuous.items():
            kind = den.prediction[name]
            needs_signal = kind in ("eps", "score") or (kind == "edm" and den.preconditioning != "edm")
            needs_spread = kind in ("v", "velocity", "edm") and wanted == "x0"
            is_gone = component.schedule.alpha(row.t) == 0
            is_point = is_gone & (component.schedule.sigma(row.t) == 0)
            if (needs_signal and bool(is_gone.any())) or (needs_spread and bool(is_point.any())):
                raise ValueError(
                    f"prediction {kind!r} has no {wanted} at t = {float(row.t.max()):g}, where alpha of "
                    f"{component.schedule!r} (component {name!r}) is 0. Start at t_max = {component.schedule.t_max:g} "
                    "(grid='logsnr' does) or predict x0, v or velocity."
                )


def ends_clean(process: Process) -> bool:
    """True if sigma(0) = 0 for every continuous component."""
    zero = torch.zeros((), dtype=torch.float64)
    return all(float(c.schedule.sigma(zero)) == 0 for c in process.continuous.values())
