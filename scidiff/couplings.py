"""Couplings of data and noise: which noise is paired with which sample.

``couple(x_0, x_1, cond)`` returns ``x_1`` re-ordered (and rotated, for point clouds). Straighter pairs give flows that
need fewer steps; the marginals stay the same.

References: Tong et al. 2024 (minibatch optimal transport); Klein et al. 2023 and Song et al. 2023 (equivariant optimal
transport and flow matching for point clouds).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scidiff.configurable import Configurable

__all__ = ["BatchOT", "Coupling", "EquivariantOT", "Independent", "kabsch"]

_MAX_BATCH = 512


class Coupling(Configurable):
    """Base class: ``couple(x_0, x_1, cond)`` gives x_1 paired with x_0."""

    @abstractmethod
    def couple(self, x_0: Tensor, x_1: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        """Re-ordered (and rotated) ``x_1`` (B, ...), paired with ``x_0`` (B, ...)."""


class Independent(Coupling):
    """No coupling: noise as it was drawn."""

    def __init__(self) -> None:
        pass

    def couple(self, x_0: Tensor, x_1: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        return x_1


class BatchOT(Coupling):
    """Optimal assignment of the batch in squared Euclidean distance (Tong et al. 2024, section 3.2).

    Raises:
        ValueError: If the batch is larger than 512 (the assignment is cubic).
    """

    def __init__(self) -> None:
        pass

    def couple(self, x_0: Tensor, x_1: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        if len(x_0) > _MAX_BATCH:
            raise ValueError(
                f"BatchOT takes batches of at most {_MAX_BATCH}, got {len(x_0)}; use EquivariantOT or smaller ones."
            )
        cost = torch.cdist(x_0.flatten(1).double(), x_1.flatten(1).double()).square()
        _, columns = linear_sum_assignment(cost.cpu().numpy())
        return x_1[torch.as_tensor(columns, device=x_1.device)]


class EquivariantOT(Coupling):
    """Per pair of clouds (B, N, d): optimal assignment of points, then the optimal rotation of the noise.

    Only the points of the noise are moved, so types and bonds, which are exchangeable draws, stay as they are. The
    optimum over permutations and rotations together is approached in ``rounds`` alternations.

    Args:
        rounds: Number of (assignment, rotation) alternations.
        mask: Key of the node mask (B, N) in ``cond``.

    References: Klein, Krämer, Noé 2023, "Equivariant flow matching".
    """

    def __init__(self, rounds: int = 1, mask: str = "node_mask") -> None:
        self.rounds, self.mask = rounds, mask

    def couple(self, x_0: Tensor, x_1: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        mask = None if cond is None else cond.get(self.mask)
        if mask is None:
            mask = torch.ones(x_0.shape[:2], dtype=torch.bool, device=x_0.device)
        for _ in range(self.rounds):
            x_1 = self._assign(x_0, x_1, mask)
            x_1 = x_1 @ kabsch(x_1, x_0).transpose(1, 2)
        return x_1

    @staticmethod
    def _assign(x_0: Tensor, x_1: Tensor, mask: Tensor) -> Tensor:
        """Hungarian assignment on -<x_0, x_1>: for fixed clouds the same optimum as squared distances."""
        cost = -(x_0.double() @ x_1.double().transpose(1, 2)).cpu().numpy()
        counts = mask.sum(1).tolist()
        order = np.tile(np.arange(x_0.shape[1]), (len(x_0), 1))
        for k, count in enumerate(counts):
            order[k, :count] = linear_sum_assignment(cost[k, :count, :count])[1]
        index = torch.as_tensor(order, device=x_1.device)[..., None].expand_as(x_1)
        return x_1.gather(1, index)


def kabsch(x: Tensor, y: Tensor) -> Tensor:
    """Rotations R (B, d, d) that minimise |x R^T - y|^2 for centred clouds (B, N, d), det R = +1, zero-padded.

    References: Kabsch 1976.
    """
    u, _, vh = torch.linalg.svd((y.transpose(1, 2) @ x).double())
    sign = torch.det(u @ vh).sign()
    scale = torch.ones_like(u[..., 0])
    scale[:, -1] = sign
    return ((u * scale[:, None]) @ vh).to(x.dtype)
