"""Rigid alignment of masked point sets."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["align"]


def align(
    points: Tensor, target: Tensor, mask: Tensor, *, axes: tuple[int, ...] = (1,), rotate: bool = False
) -> Tensor:
    """``points`` (B, ..., d) moved, and turned if ``rotate``, onto ``target`` by least squares over the masked entries.

    Args:
        points: Points; entries outside the mask are returned as 0.
        target: Where they should lie, same shape.
        mask: True where a point counts, broadcastable.
        axes: Axes over which the common translation is shared.
        rotate: Also apply the best proper rotation of each sample (Kabsch), last axis = coordinates.

    References: Kabsch 1976; the determinant of the rotation is +1, so handedness is kept.
    """
    weight = mask.expand(points.shape).to(points.dtype)
    count = weight.sum(axes, keepdim=True).clamp_min(1)
    center = (points * weight).sum(axes, keepdim=True) / count
    goal = (target * weight).sum(axes, keepdim=True) / count
    centered = (points - center) * weight
    if rotate:
        centered = _rotated(centered, (target - goal) * weight)
    return (centered + goal) * weight


def _rotated(points: Tensor, target: Tensor) -> Tensor:
    d = points.shape[-1]
    flat, goal = points.reshape(len(points), -1, d), target.reshape(len(points), -1, d)
    u, _, vh = torch.linalg.svd(flat.transpose(1, 2) @ goal)
    sign = torch.ones_like(points[:, :1].reshape(len(points), -1)[:, :d])
    sign[:, -1] = torch.linalg.det(u @ vh)
    return (flat @ (u * sign[:, None]) @ vh).reshape(points.shape)
