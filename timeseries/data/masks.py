"""Missing-value scenarios of TSDiff: which context positions are hidden; history and horizon stay.

References: Kollovieh et al. 2023, section 5.1 (RM, BM-B, BM-E).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from timeseries.data.series import TimeSeries

__all__ = ["SCENARIOS", "hide_context", "missing_mask"]

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
        device = generator.device if generator is not None else None
        order = torch.rand(num_windows, context_length, generator=generator, device=device).argsort(1)
    else:
        order = torch.arange(context_length).expand(num_windows, -1)
        order = order if scenario == "BM-B" else order.flip(1)
    return order < count


def hide_context(
    series: Sequence[TimeSeries],
    scenario: str,
    context_length: int,
    num_missing: int | None = None,
    seed: int = 0,
) -> list[TimeSeries]:
    """Series whose last ``context_length`` values are partly missing, NaN; earlier history is left alone.

    Lags that look at a hidden value do not see it either.

    Args:
        series: Series that end where the forecast starts.
        scenario: See `missing_mask`.
        context_length: C.
        num_missing: Hidden positions; half of the context if absent.
        seed: Seed of the random positions.

    Raises:
        ValueError: As `missing_mask`.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = missing_mask(scenario, len(series), context_length, num_missing, generator).numpy()
    found = []
    for s, mask in zip(series, hidden):
        values = s.values.copy()
        recent = values[-context_length:]
        recent[mask[context_length - len(recent) :]] = np.nan
        found.append(TimeSeries(values, s.start, s.item_id, s.names))
    return found
