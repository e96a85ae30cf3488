"""Numbers that describe a whole system, such as the temperature: from names to tensors, dropout; and guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from scidiff.assets import suggestion
from scidiff.guidance import ClassifierFree
from scidiff.random import drawn

__all__ = ["about_positions", "condition_features", "condition_values", "guided", "with_dropout"]


def condition_values(network: Any, condition: Mapping[str, Any], num_systems: int) -> Tensor:
    """Conditions (num_systems, conditions) in the order of the network; NaN for those that are not named.

    Args:
        network: A network with ``conditions``.
        condition: A number, or one for each system, by name.
        num_systems: Systems.

    Raises:
        ValueError: If the network knows no such condition, or there are too few or too many numbers.
    """
    known = list(getattr(network, "conditions", {}))
    columns = dict.fromkeys(known, torch.full((num_systems,), torch.nan))
    for name, value in condition.items():
        if name not in columns:
            raise ValueError(
                f"the model knows no condition {name!r}{suggestion(name, known)}."
                if known
                else f"the model was trained without conditions, got {name!r}."
            )
        numbers = torch.as_tensor(value, dtype=torch.float32).reshape(-1)
        if len(numbers) not in (1, num_systems):
            raise ValueError(
                f"{name} must be one number, or one for each of {num_systems} systems, got {len(numbers)}."
            )
        columns[name] = numbers.expand(num_systems)
    return torch.stack(list(columns.values()), 1)


def condition_features(
    x_t: Tensor, conditions: Mapping[str, tuple[float, float]], cond: Mapping[str, Tensor]
) -> list[Tensor]:
    """Conditions in their units, 0 if unknown, and whether they are known, (B, F, N, 2 conditions); nothing for none.

    Args:
        x_t: State (B, F, N, D).
        conditions: Centre and scale of each condition that the network knows.
        cond: Context; ``"condition"`` (B, conditions) has NaN where one is not known, and is absent if none is.

    Raises:
        ValueError: If there are more or fewer numbers.
    """
    if not conditions:
        return []
    value = cond.get("condition")
    if value is None:
        value = x_t.new_full((len(x_t), len(conditions)), torch.nan)
    if tuple(value.shape) != (len(x_t), len(conditions)):
        raise ValueError(
            f"condition must have shape {(len(x_t), len(conditions))}, one column each for "
            f"{', '.join(conditions)}; got {tuple(value.shape)}."
        )
    centre, scale = value.new_tensor(list(conditions.values())).T
    is_known = torch.isfinite(value)
    features = torch.cat([torch.where(is_known, (value - centre) / scale, 0), is_known.to(value)], -1).to(x_t)
    return [features[:, None, None].expand(*x_t.shape[:3], -1)]


def with_dropout(cond: dict[str, Tensor], probability: float, generator: torch.Generator) -> dict[str, Tensor]:
    """The context with the conditions of some systems unknown."""
    value = cond.get("condition")
    if value is None or probability == 0:
        return cond
    u = drawn(torch.rand, (len(value), 1), generator=generator, device=value.device)
    return {**cond, "condition": torch.where(u < probability, torch.nan, value)}


def guided(guidance: Any, scale: float) -> Any:
    """``guidance`` with guidance by the condition, for ``scale`` other than 1."""
    if scale == 1:
        return guidance
    return [ClassifierFree(scale, keys=["condition"]), *_listed(guidance)]


def about_positions(guidance: Any, positions: Callable[[Tensor], Tensor]) -> list[Any]:
    """Guidance objects; a function among them is called with ``positions`` and returns one.

    Args:
        guidance: One or several, or None.
        positions: From a state of the model to positions (B, N, F, D) in the units of the data.
    """
    return [item if hasattr(item, "wrap") else item(positions) for item in _listed(guidance)]


def _listed(guidance: Any) -> list[Any]:
    return [] if guidance is None else list(guidance) if isinstance(guidance, list | tuple) else [guidance]
