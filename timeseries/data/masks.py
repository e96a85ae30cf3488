"""Missing-value scenarios of TSDiff: which context positions are hidden; lags and horizon are left alone.

References: Kollovieh et al. 2023, section 5.1 (RM, BM-B, BM-E).
"""

from __future__ import annotations

import torch
from torch import Tensor

from timeseries.data.windows import Windows

__all__ = ["SCENARIOS", "hide", "missing_mask"]

SCENARIOS = ("RM", "BM-B", "BM-E")


def missing_mask(
    scenario: str,
    num_windows: int,
    context_length: int,
    num_missing: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Positions (B, C) to hide, True = hidden.

    Args:
        scenario: ``"RM"``: random positions; ``"BM-B"``: the first ones; ``"BM-E"``: those next to the horizon.
        num_windows: B.
        context_length: C.
        num_missing: Hidden positions a window; half of the context if absent.
        generator: Source of the random positions.

    Raises:
        ValueError: If the scenario is unknown or more positions are to be hidden than there are.
    """
    count = context_length // 2 if num_missing is None else num_missing
    if scenario not in SCENARIOS or not 0 <= count <= context_length:
        raise ValueError(
            f"expected a scenario of {', '.join(SCENARIOS)} and 0 to {context_length} missing values, got "
            f"{scenario!r} and {count}."
        )
    if scenario == "RM":
        order = torch.rand(num_windows, context_length, generator=generator).argsort(1)
    else:
        order = torch.arange(context_length).expand(num_windows, -1)
        order = order if scenario == "BM-B" else order.flip(1)
    return order < count


def hide(windows: Windows, missing: Tensor) -> Windows:
    """Windows whose value channel is unobserved, and 0, at context positions ``missing`` (B, C)."""
    observed = windows.observed.clone()
    observed[:, : missing.shape[1], :, 0] &= ~missing.to(observed.device)[:, :, None]
    return Windows(torch.where(observed, windows.values, 0), observed)
