"""Couplings of data and noise: which noise is paired with which sample.

``couple(x_0, x_1, cond)`` returns ``x_1`` re-ordered (and rotated, for point clouds). Straighter pairs give flows that
need fewer steps; the marginals stay the same.

References: Tong et al. 2024 (minibatch optimal transport); Klein et al. 2023 and Song et al. 2023 (equivariant optimal
transport and flow matching for point clouds).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scidiff.configurable import Configurable
from scidiff.denoiser import Denoiser
from scidiff.encoding import encode
from scidiff.process import State
from scidiff.samplers import sample

__all__ = ["BatchOT", "Coupling", "EquivariantOT", "Independent", "Reflow", "Sinkhorn", "kabsch"]

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


class Sinkhorn(Coupling):
    r"""Entropic optimal transport of the batch: x_1 is drawn from the row of the plan that belongs to x_0.

    The plan minimises sum P |x_0 - x_1|^2 + regularisation sum P log P with uniform marginals; it tends to `BatchOT`
    for a small and to `Independent` pairs (drawn with replacement) for a large regularisation. A Schroedinger bridge of
    diffusion sigma needs the regularisation 2 sigma^2. The iteration runs on logarithms, in float64.

    Args:
        regularisation: Weight of the entropy (squared units of the data), above 0.
        max_iterations: Largest number of iterations.
        tolerance: Largest error of a marginal, relative, at which the iteration stops.

    Raises:
        ValueError: If ``regularisation`` is not above 0.

    References: Cuturi 2013, "Sinkhorn Distances"; Tong et al. 2024 (Schroedinger bridge conditional flow matching).
    """

    def __init__(self, regularisation: float = 0.1, max_iterations: int = 1000, tolerance: float = 1e-6) -> None:
        if regularisation <= 0:
            raise ValueError(f"regularisation must be above 0, got {regularisation}; BatchOT is the limit 0.")
        self.regularisation, self.max_iterations, self.tolerance = regularisation, max_iterations, tolerance

    def plan(self, x_0: Tensor, x_1: Tensor) -> Tensor:
        """Log of the plan (B, B) with marginals 1/B."""
        cost = torch.cdist(x_0.flatten(1).double(), x_1.flatten(1).double()).square() / self.regularisation
        log_mass = -math.log(len(x_0))
        row, column = (torch.zeros(len(x_0), dtype=torch.float64, device=x_0.device) for _ in range(2))
        for _ in range(self.max_iterations):
            row = log_mass - torch.logsumexp(column[None] - cost, 1)
            error = torch.logsumexp(row[:, None] + column[None] - cost, 0) - log_mass
            if float(error.abs().max()) < self.tolerance:
                break
            column = column - error
        return row[:, None] + column[None] - cost

    def couple(
        self,
        x_0: Tensor,
        x_1: Tensor,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """x_1 (B, ...) drawn with replacement from the rows of the plan."""
        rows = torch.softmax(self.plan(x_0, x_1), dim=1)
        return x_1[torch.multinomial(rows, 1, generator=generator)[:, 0]]


class Reflow(Coupling):
    """Pairs from a model's own flow: x_1 is where the flow takes x_0, so that a second model can be nearly straight.

    ``couple`` encodes data upward and ignores the given noise; ``pairs`` goes the other way and needs no data.

    Args:
        den: Trained denoiser.
        solver: Deterministic solver.
        steps: Number of grid intervals.
        grid: Name of the grid; it should reach from t = 1 down to t_min.

    References: Liu et al. 2023, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow".
    """

    def __init__(self, den: Denoiser, solver: str = "heun", steps: int = 50, grid: str = "uniform") -> None:
        self.den, self.solver, self.steps, self.grid = den, solver, steps, grid

    def couple(self, x_0: State, x_1: State, cond: Mapping[str, Any] | None = None) -> State:
        """Noise from which the flow ends at ``x_0``."""
        return encode(self.den, x_0, solver=self.solver, steps=self.steps, grid=self.grid, cond=cond)

    def pairs(self, x_1: State, cond: Mapping[str, Any] | None = None) -> tuple[State, State]:
        """(x_0, x_1) with x_0 the end of the flow from ``x_1``."""
        x_0 = sample(self.den, x_1, solver=self.solver, steps=self.steps, grid=self.grid, cond=cond)
        return x_0, x_1


def kabsch(x: Tensor, y: Tensor) -> Tensor:
    """Rotations R (B, d, d) that minimise |x R^T - y|^2 for centred clouds (B, N, d), det R = +1, zero-padded.

    References: Kabsch 1976.
    """
    u, _, vh = torch.linalg.svd((y.transpose(1, 2) @ x).double())
    sign = torch.det(u @ vh).sign()
    scale = torch.ones_like(u[..., 0])
    scale[:, -1] = sign
    return ((u * scale[:, None]) @ vh).to(x.dtype)
