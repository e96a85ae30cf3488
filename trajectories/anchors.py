"""Anchors: typical futures of training data, from which a few steps lead to forecasts that differ from each other.

A forecast that starts at an anchor, noised to a level below 1, skips the part of the way that only decides which of the
typical futures it will be: every sample of a system starts from its own anchor, so K samples are spread by design. They
are no independent draws of the model: say so beside a score of the best of K.

Anchors are centres of k-means of the next positions of each node, about its last observed position and turned so that
its mean observed step points along the first axis; so they turn and shift with what is observed.

References: Liao et al. 2025, "DiffusionDrive: Truncated diffusion model for end-to-end autonomous driving"; Mao et al.
2023, "Leapfrog diffusion model for stochastic trajectory prediction" (late start). That they
come from k-means is our choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from trajectories.batch import TrajectoryBatch
from trajectories.generator import TrajectoryGenerator

__all__ = ["Anchors"]

_ROUNDS = 50
_MOST_NODES = 20_000  # training futures that the centres are found from


class Anchors:
    """K typical futures of motion in the plane.

    Args:
        num_anchors: K, which is also the number of samples of each system.

    Raises:
        ValueError: If ``num_anchors`` is below 1.

    Attributes:
        paths: (K, P, 2), about the last observed position, in the units of the data; None before `fit`.

    Example:
        >>> anchors = Anchors(20).fit(train, cond_frames=8)
        >>> future = anchors.forecast(generator, observed, level=0.5, steps=4)
    """

    def __init__(self, num_anchors: int = 20) -> None:
        if num_anchors < 1:
            raise ValueError(f"num_anchors must be at least 1, got {num_anchors}.")
        self.num_anchors = num_anchors
        self.paths: Tensor | None = None

    def fit(self, train: Any, cond_frames: int) -> Anchors:
        """Find the typical futures.

        Args:
            train: Trajectories of which the first ``cond_frames`` are observed, see `TrajectoryBatch.of`.
            cond_frames: Observed frames, at least 2.

        Raises:
            ValueError: If the trajectories are not in the plane, too short, or fewer nodes than anchors.
        """
        batch = TrajectoryBatch.of(train)
        pos = batch.pos.double()
        if pos.shape[-1] != 2 or not 2 <= cond_frames < pos.shape[2]:
            raise ValueError(
                f"anchors need positions (B, N, F, 2) and cond_frames in [2, F), got {tuple(pos.shape)} and "
                f"{cond_frames}."
            )
        moved = pos[:, :, cond_frames:] - pos[:, :, cond_frames - 1 : cond_frames]
        own = moved @ _headings(pos[:, :, :cond_frames])
        real = torch.ones(pos.shape[:2], dtype=torch.bool) if batch.node_mask is None else batch.node_mask
        paths = own[real]
        if len(paths) < self.num_anchors:
            raise ValueError(f"{self.num_anchors} anchors need as many training nodes, got {len(paths)}.")
        paths = paths[torch.linspace(0, len(paths) - 1, min(len(paths), _MOST_NODES)).round().long()]
        centres, _ = kmeans2(
            paths.flatten(1).numpy(), self.num_anchors, iter=_ROUNDS, minit="++", rng=np.random.default_rng(0)
        )
        self.paths = torch.from_numpy(centres).reshape(self.num_anchors, *paths.shape[1:])
        return self

    def place(self, observed: TrajectoryBatch) -> TrajectoryBatch:
        """Observed frames (B, N, F, 2) and an anchor after them: K rows a system, all nodes by the same anchor.

        Raises:
            ValueError: If there are no anchors yet, or fewer than 2 frames in the plane.
        """
        if self.paths is None or observed.pos.shape[2] < 2 or observed.pos.shape[3] != 2:
            raise ValueError("anchors are placed after fit(), behind at least 2 observed frames in the plane.")
        pos = observed.pos.double()
        turned = self.paths[None, :, None] @ _headings(pos).mT[:, None]  # (B, K, N, P, 2)
        future = pos[:, None, :, -1:] + turned
        rows = torch.arange(len(pos)).repeat_interleave(self.num_anchors)
        own = observed.index(rows)
        return replace(own, pos=torch.cat([own.pos, future.flatten(0, 1).to(own.pos)], 2))

    def forecast(
        self, generator: TrajectoryGenerator, observed: Any, level: float = 0.5, steps: int = 4, **options: Any
    ) -> TrajectoryBatch:
        """K forecasts of each system, each from its own anchor noised to time ``level``.

        Args:
            generator: A model of forecasts.
            observed: As for `TrajectoryGenerator.forecast`.
            level: Diffusion time in (0, 1) at which the sampler starts; 1 would be a forecast without anchors.
            steps: Solver steps; the final prediction costs one evaluation more.
            options: As for `TrajectoryGenerator.forecast`, but for ``num_samples``.

        Returns:
            The observed frames and, after them, as many as the anchors have.
        """
        names = ("h", "edge_attr", "node_mask", "z")
        given = TrajectoryBatch.of(observed, **{name: options.pop(name) for name in names if name in options})
        seen = given.pos.shape[2]
        result = generator.refine(self.place(given), level, slice(seen), steps=steps, **options)
        return replace(result, meta={**result.meta, "num_samples": self.num_anchors, "cond_frames": seen})


def _headings(observed: Tensor) -> Tensor:
    """Rotations (B, N, 2, 2) whose first column is the direction of the mean step; the identity without motion."""
    step = observed[:, :, -1] - observed[:, :, 0]
    size = step.norm(dim=-1, keepdim=True)
    still = step.new_tensor([1.0, 0.0])
    x = torch.where(size > 0, step / size.clamp_min(1e-300), still)
    return torch.stack([x, torch.stack([-x[..., 1], x[..., 0]], -1)], -1)
