r"""Few representatives of many samples: what a best-of-K score sees when K samples are spread well.

Of M samples of a system, those K are kept that are nearest to all of them: with the average displacement d between
whole trajectories,

    S = argmin_{|S| = K}  1/M sum_m min_{s in S} d(m, s),

the error that the best of K would have, in expectation, if the truth were one of the samples. The K are chosen one
after the other, each the best beside those before it, which gains at least 1 - 1/e of what the best choice gains
(Nemhauser, Wolsey and Fisher 1978).

A best-of-K score of representatives is lower than that of K independent samples: say which convention a figure has.
GeoTDM (Han et al. 2024, appendix) draws 60 samples, too, but keeps 20 by k-means of their final positions, which
lowers a mean square and spends groups on outliers; the score is a mean distance.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trajectories.batch import TrajectoryBatch

__all__ = ["representatives"]


def representatives(drawn: TrajectoryBatch, num_samples: int) -> TrajectoryBatch:
    """The ``num_samples`` samples of every system that are nearest to all of its samples; nothing is random.

    Args:
        drawn: Samples of a generator, those of a system one after the other; ``meta["num_samples"]`` says how many.
        num_samples: How many to keep of each system.

    Raises:
        ValueError: If a system has fewer samples.
    """
    count = int(drawn.meta.get("num_samples", 1))
    if not 1 <= num_samples <= count:
        raise ValueError(f"num_samples must be in [1, {count}], the samples of each system, got {num_samples}.")
    chosen = _nearest_to_all(_displacements(drawn, count), num_samples)
    rows = (torch.arange(len(chosen), device=chosen.device)[:, None] * count + chosen).flatten()
    return replace(drawn.index(rows), meta={**drawn.meta, "num_samples": num_samples, "drawn_samples": count})


def _displacements(drawn: TrajectoryBatch, count: int) -> Tensor:
    """Mean distance of nodes and frames between the samples of a system, float64 (B, M, M)."""
    points = drawn.pos.double().unflatten(0, (-1, count)).permute(2, 3, 0, 1, 4)  # (N, F, B, M, D)
    nodes, frames, systems = points.shape[:3]
    mask = torch.ones(systems, nodes) if drawn.node_mask is None else drawn.node_mask[::count]
    weight = (mask.double() / mask.double().sum(1, keepdim=True).clamp_min(1)).to(points.device)
    total = points.new_zeros(systems, count, count)
    for node in range(nodes):
        for frame in range(frames):  # one distance matrix at a time: all of them may not fit into memory
            total += weight[:, node, None, None] * torch.cdist(points[node, frame], points[node, frame]) / frames
    return total


def _nearest_to_all(distance: Tensor, size: int) -> Tensor:
    """Rows (B, size) in ascending order, chosen one after the other from ``distance`` (B, M, M)."""
    systems, count, _ = distance.shape
    gap = distance.new_full((systems, 1, count), torch.inf)  # to the nearest chosen one
    is_chosen = torch.zeros(systems, count, dtype=torch.bool, device=distance.device)
    for _ in range(size):
        cost = torch.minimum(distance, gap).mean(-1).masked_fill(is_chosen, torch.inf)
        best = cost.argmin(1, keepdim=True)
        is_chosen = is_chosen.scatter(1, best, True)
        gap = torch.minimum(gap, distance.gather(1, best[..., None].expand(-1, 1, count)))
    return is_chosen.nonzero()[:, 1].reshape(systems, size)
