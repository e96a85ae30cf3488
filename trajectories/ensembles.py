"""Few representatives of many samples: what a best-of-K score sees when K samples are spread evenly.

Published pedestrian forecasts draw 60 samples, group their final positions by k-means into 20 groups, and keep from
each group the sample that is nearest to its centre. A best-of-20 score of such samples is lower than that of 20
independent ones: say which convention a figure has.

Reference: Han et al. 2024, "Geometric Trajectory Diffusion Models", appendix (ETH/UCY).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trajectories.batch import TrajectoryBatch

__all__ = ["kmeans", "representatives"]

_ROUNDS = 20


def representatives(drawn: TrajectoryBatch, num_samples: int) -> TrajectoryBatch:
    """The ``num_samples`` most different samples of every system, by k-means of their final positions.

    Lloyd's algorithm from the sample nearest to the mean and, one after the other, the sample farthest from all chosen
    ones; nothing is random. Group by group the sample nearest to its centre is kept, so all that is returned was drawn.

    Args:
        drawn: Samples of a generator, those of a system one after the other; ``meta["num_samples"]`` says how many.
        num_samples: How many to keep of each system.

    Raises:
        ValueError: If a system has fewer samples.
    """
    count = int(drawn.meta.get("num_samples", 1))
    if not 1 <= num_samples <= count:
        raise ValueError(f"num_samples must be in [1, {count}], the samples of each system, got {num_samples}.")
    ends = drawn.pos[:, :, -1].double()
    if drawn.node_mask is not None:
        ends = torch.where(drawn.node_mask[..., None], ends, 0)
    points = ends.flatten(1).reshape(len(drawn) // count, count, -1)
    chosen = _nearest_members(points, _grouped(points, num_samples))
    rows = (torch.arange(len(points), device=points.device)[:, None] * count + chosen).flatten()
    return replace(drawn.index(rows), meta={**drawn.meta, "num_samples": num_samples, "drawn_samples": count})


def kmeans(points: Tensor, size: int) -> Tensor:
    """Centres (B, K, P) of ``size`` groups of points (B, M, P), by Lloyd's algorithm as in `representatives`."""
    member = torch.nn.functional.one_hot(_grouped(points, size), size).to(points)
    return member.mT @ points / member.sum(1)[..., None]


def _grouped(points: Tensor, size: int) -> Tensor:
    """Groups (B, K), numbers below ``size``, of points (B, K, P); no group is empty."""
    centres = points.gather(1, _far_apart(points, size)[..., None].expand(-1, -1, points.shape[-1]))
    group = torch.cdist(points, centres).argmin(-1)
    for _ in range(_ROUNDS):
        member = torch.nn.functional.one_hot(group, size).to(points)
        number = member.sum(1)[..., None]
        centres = torch.where(number > 0, member.mT @ points / number.clamp_min(1), centres)
        group = torch.cdist(points, centres).argmin(-1)
    return _filled(points, centres, group)


def _far_apart(points: Tensor, size: int) -> Tensor:
    """Rows (B, size): the one nearest to the mean, then always the one farthest from all chosen ones."""
    first = (points - points.mean(1, keepdim=True)).square().sum(-1).argmin(1)
    chosen = [first]
    gap = torch.full(points.shape[:2], torch.inf, dtype=points.dtype, device=points.device)
    for _ in range(size - 1):
        last = points.gather(1, chosen[-1][:, None, None].expand(-1, 1, points.shape[-1]))
        gap = torch.minimum(gap, (points - last).square().sum(-1))
        gap = gap.scatter(1, chosen[-1][:, None], -1.0)  # chosen once, also where points coincide
        chosen.append(gap.argmax(1))
    return torch.stack(chosen, 1)


def _filled(points: Tensor, centres: Tensor, group: Tensor) -> Tensor:
    """Groups without members get the point farthest from its centre, out of groups of two or more."""
    size = centres.shape[1]
    for number in range(size):
        counts = torch.nn.functional.one_hot(group, size).sum(1)
        distance = (points - centres.gather(1, group[..., None].expand_as(points))).square().sum(-1)
        distance = torch.where(counts.gather(1, group) > 1, distance, -1.0)
        is_empty = counts[:, number] == 0
        moved = torch.arange(points.shape[1], device=points.device) == distance.argmax(1, keepdim=True)
        group = torch.where(is_empty[:, None] & moved, number, group)
    return group


def _nearest_members(points: Tensor, group: Tensor) -> Tensor:
    """Rows (B, size), in ascending order: of each group the member nearest to its centre."""
    size = int(group.max()) + 1
    member = torch.nn.functional.one_hot(group, size).to(points)
    centres = member.mT @ points / member.sum(1)[..., None]
    distance = torch.cdist(points, centres).masked_fill(member == 0, torch.inf)
    return distance.argmin(1).sort(1).values
