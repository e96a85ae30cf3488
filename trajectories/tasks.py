"""What is given and what is to be found: masks of frames, and the mixture of tasks that a model is trained on.

A mask is bool (B, F, N), True where an entry is given. Without any given entry the task is unconditional generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidiff.assets import suggestion
from scidiff.configurable import Configurable
from scidiff.process import Process
from scidiff.random import drawn
from trajectories.process import CENTRED, LIVE

__all__ = ["TASKS", "TaskMix", "known_mask", "noised_history"]

TASKS = ("unconditional", "forecast", "interpolate", "inpaint")


def known_mask(known: Any, num_frames: int, num_nodes: int) -> Tensor:
    """Mask (F, N) of what is known.

    Args:
        known: Frame numbers (negative ones count from the end), a slice, or a bool mask (F,) or (F, N).
        num_frames: Frames F.
        num_nodes: Nodes N.

    Raises:
        ValueError: If a frame is outside the range, or a mask has another shape.
    """
    frames = torch.zeros(num_frames, dtype=torch.bool)
    if isinstance(known, slice):
        frames[known] = True
        return frames[:, None].expand(-1, num_nodes)
    values = torch.as_tensor(np.asarray(known))
    if values.dtype == torch.bool:
        if tuple(values.shape) not in ((num_frames,), (num_frames, num_nodes)):
            raise ValueError(
                f"a mask of known entries must have shape {(num_frames,)} or {(num_frames, num_nodes)}, "
                f"got {tuple(values.shape)}."
            )
        return values if values.ndim == 2 else values[:, None].expand(-1, num_nodes)
    if values.dtype.is_floating_point or values.ndim > 1:
        raise ValueError(f"known must be frame numbers, a slice or a bool mask, got {known!r}.")
    numbers = values.long().reshape(-1)
    if len(numbers) and (int(numbers.min()) < -num_frames or int(numbers.max()) >= num_frames):
        raise ValueError(f"known frames must be in [-{num_frames}, {num_frames}), got {known!r}.")
    frames[numbers] = True
    return frames[:, None].expand(-1, num_nodes)


def noised_history(
    process: Process, x_0: Tensor, x_1: Tensor | None, cond: dict[str, Tensor], level: Tensor, eps: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The state with its given entries at the noise ``level`` (B,), and the context that says so.

    Args:
        process: Process of the trajectories.
        x_0: State (B, F, N, D).
        x_1: Moving mean, or None.
        cond: Features and masks.
        level: Diffusion times in [0, 1); 0 leaves a system as it is.
        eps: Standard normal numbers like ``x_0``.
    """
    free = {name: value for name, value in cond.items() if name not in (LIVE, CENTRED)}
    x_t, _ = process.perturb(x_0, level, eps, x_1=x_1, cond=free)
    assert isinstance(x_t, Tensor)
    is_noised = cond["given"][..., None] & (level > 0)[:, None, None, None]
    return torch.where(is_noised, x_t, x_0), {**cond, "history": level}


class TaskMix(Configurable):
    """Tasks of training, drawn for each system.

    ``"forecast"`` gives the first ``cond_frames`` frames; ``"interpolate"`` as many, half at each end; ``"inpaint"``
    each frame with probability 1/2, at least one and not all; ``"unconditional"`` none.

    Args:
        weights: Relative frequency of each task.
        cond_frames: Given frames of a forecast.
        independent: Probability that the frames of a system with given entries get noise levels of their own.
        history: Largest noise level of given entries: half of the systems see theirs at a level between 0 and this one,
            and are told so. A model that has learned this can be rolled out from a slightly noisy history.

    Raises:
        ValueError: If a task is unknown or a number is out of its range.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        *,
        cond_frames: int = 10,
        independent: float = 0.0,
        history: float = 0.0,
    ) -> None:
        self.weights = {"forecast": 1.0} if weights is None else dict(weights)
        for name in self.weights:
            if name not in TASKS:
                raise ValueError(f"no task {name!r}{suggestion(name, list(TASKS))}.")
        if cond_frames < 1 or not 0 <= independent <= 1 or not 0 <= history < 1:
            raise ValueError(
                "expected cond_frames >= 1, independent in [0, 1] and history in [0, 1), "
                f"got {cond_frames}, {independent} and {history}."
            )
        if min(self.weights.values(), default=0) < 0 or sum(self.weights.values()) <= 0:
            raise ValueError(f"weights must not be negative and not all 0, got {self.weights}.")
        self.cond_frames, self.independent, self.history = cond_frames, independent, history

    def draw(self, num_systems: int, num_frames: int, generator: torch.Generator, device: Any = None) -> Tensor:
        """Given frames, bool (num_systems, num_frames).

        Raises:
            ValueError: If the trajectories are too short for the tasks.
        """
        self._check_length(num_frames)
        share = torch.tensor([self.weights.get(name, 0.0) for name in TASKS], device=device).cumsum(0)
        u = drawn(torch.rand, (num_systems, 1), generator=generator, device=device)
        task = (u * share[-1] >= share).sum(1, keepdim=True).clamp_max(len(TASKS) - 1)
        number = torch.arange(num_frames, device=device)
        head, tail = self.cond_frames - self.cond_frames // 2, self.cond_frames // 2
        coins = drawn(torch.rand, (num_systems, num_frames), generator=generator, device=device)
        forecast = (number < self.cond_frames).expand_as(coins)
        ends = ((number < head) | (number >= num_frames - tail)).expand_as(coins)
        inside = (coins < 0.5) | (coins == coins.amin(1, keepdim=True))
        inside = inside & (coins != coins.amax(1, keepdim=True))
        given = torch.where(task == 1, forecast, torch.where(task == 2, ends, inside))
        return given & (task > 0)

    def noised_history(
        self, process: Process, x_0: Tensor, x_1: Tensor | None, cond: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """State and context of training, with the given entries of some systems noised."""
        if self.history == 0:
            return x_0, cond
        options: dict[str, Any] = {"generator": generator, "device": x_0.device}
        level, coin = drawn(torch.rand, (2, len(x_0)), **options)
        level = torch.where(coin < 0.5, self.history * level, 0)
        return noised_history(process, x_0, x_1, cond, level, drawn(torch.randn, x_0.shape, **options))

    def _check_length(self, num_frames: int) -> None:
        asked: Sequence[str] = [name for name, weight in self.weights.items() if weight > 0]
        least = {
            "unconditional": 1,
            "forecast": self.cond_frames + 1,
            "interpolate": self.cond_frames + 1,
            "inpaint": 2,
        }
        needed = max(least[name] for name in asked)
        if num_frames < needed:
            raise ValueError(
                f"the tasks {', '.join(asked)} with cond_frames={self.cond_frames} need trajectories of at least "
                f"{needed} frames, got {num_frames}."
            )
