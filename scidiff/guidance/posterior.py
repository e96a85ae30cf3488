r"""Observations through the posterior covariance of the end point: moment matching and the pseudo-inverse.

With x_0 | x_t taken as N(x0, V), an observation y = H x_0 + noise has

    g = grad_x log p(y | x_t) = J^T H^T (R + H V H^T)^{-1} (y - H x0),        J = d x0/d x_t,

and the guided prediction is x0 + (sigma^2/alpha) S g. Moment matching uses Tweedie's V = (sigma^2/alpha) J S, the
pseudo-inverse method V = r^2 I.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance.base import Guidance, Point, Shift, require_gaussian
from scidiff.guidance.krylov import conjugate_gradients, gmres
from scidiff.guidance.observation import Observation
from scidiff.process import Component

__all__ = ["MomentMatching", "PseudoInverse"]

_FLOOR = 0.02  # standard deviation below which y is trusted no further, data of unit scale


class _LinearObservation(Guidance):
    """What the two share: the observation, its checks and the noise floor."""

    needs_jacobian: ClassVar[bool] = True

    def __init__(self, observation: Observation, floor: float = _FLOOR) -> None:
        self.observation, self.floor = observation, float(floor)

    def check(self, den: Denoiser) -> None:
        """Refuse finite D and observations of unknown or categorical components."""
        require_gaussian(den, self)
        self.observation.check(den.process)
        if self.observation.component in den.process.discrete:
            raise ValueError(
                f"{type(self).__name__} observes continuous components; {self.observation.component!r} is categorical. "
                "Use Replace or Energy."
            )

    def noise_variance(self, point: Point) -> float:
        """R: the largest of noise_std, the floor and the sampler's smallest sigma/alpha, squared."""
        levels = [self.observation.noise_std, self.floor]
        for component in point.process.continuous.values() if self.floor > 0 else ():
            last = torch.tensor(component.schedule.t_min, dtype=torch.float64)
            levels.append(float(component.schedule.sigma(last) / component.schedule.alpha(last)))
        return max(levels) ** 2


class MomentMatching(_LinearObservation):
    """Moment-matching posterior sampling: x0 = x0 + V H^T (R + H V H^T)^{-1} (y - H x0), V = Cov[x_0 | x_t].

    Exact, x0 = E[x_0 | x_t, y], for Gaussian data and enough iterations. The linear system is solved by Krylov
    iterations whose products V w = (sigma^2/alpha) S J^T w cost one backward pass each; the answer is a sum of these:
    one network call and ``cg_iters`` backward passes. For ``H`` linear.

    Args:
        observation: What was measured.
        cg_iters: Iterations, at least 1.
        solver: ``"cg"`` takes J as symmetric, which holds for an exact denoiser; ``"gmres"`` does not.
        floor: Smallest measurement noise that is assumed, in units of the data (0: none); it also limits the condition
            number.

    Raises:
        ValueError: If ``cg_iters`` is below 1 or the solver unknown.

    References: Rozet et al. 2024, "Learning diffusion priors from observations by expectation maximization" (moment
    matching posterior sampling).
    """

    def __init__(
        self,
        observation: Observation,
        cg_iters: int = 5,
        solver: Literal["cg", "gmres"] = "cg",
        floor: float = _FLOOR,
    ) -> None:
        super().__init__(observation, floor)
        if cg_iters < 1 or solver not in ("cg", "gmres"):
            raise ValueError(f"expected cg_iters >= 1 and solver 'cg' or 'gmres', got {cg_iters} and {solver!r}.")
        self.cg_iters, self.solver = cg_iters, solver

    def shift(self, point: Point) -> Shift:
        """V H^T u."""
        observation, variance = self.observation, self.noise_variance(point)
        like = point.x0 if point.keeps_graph else {k: v.detach() for k, v in point.x0.items()}

        def product(u: Tensor) -> tuple[Tensor, Shift]:
            moved = point.covariance(observation.adjoint(u, like))
            return variance * u + observation.forward(moved), moved

        solve = conjugate_gradients if self.solver == "cg" else gmres
        return solve(product, observation.residual(like), self.cg_iters).products


class PseudoInverse(_LinearObservation):
    r"""Pseudo-inverse guidance: u = (r^2 H H^T + R)^{-1} (y - H x0), x0 = x0 + (sigma^2/alpha) S J^T H^T u.

    r^2 = sigma^2 sd^2/(sigma^2 + alpha^2 sd^2) is the posterior variance of data N(0, sd^2). One network call and one
    backward pass. For ``H`` linear.

    Args:
        observation: What was measured.
        data_std: sd, standard deviation of the data; the denoiser's own if absent.
        floor: Smallest measurement noise that is assumed, in units of the data.
        cg_iters: Iterations of conjugate gradients if ``H`` is a callable (masks and matrices are solved directly).

    References: Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse problems".
    """

    def __init__(
        self, observation: Observation, data_std: float | None = None, floor: float = _FLOOR, cg_iters: int = 20
    ) -> None:
        super().__init__(observation, floor)
        self.data_std, self.cg_iters = data_std, cg_iters

    def shift(self, point: Point) -> Shift:
        """(sigma^2/alpha) S J^T H^T u."""
        like = point.x0 if point.keeps_graph else {k: v.detach() for k, v in point.x0.items()}
        u = self._solve(point, self.observation.residual(like), like)
        return point.covariance(self.observation.adjoint(u, like))

    def spread(self, point: Point, name: str) -> Tensor:
        """r^2, shaped to broadcast against the component."""
        component = point.process.continuous[name]
        assert isinstance(component, Component)
        alpha, _, sigma = component.coefficients(point.times[name], point.given[name])
        deviation = self.data_std if self.data_std is not None else point.den.data_std[name]
        return sigma**2 * deviation**2 / (sigma**2 + (alpha * deviation) ** 2)

    def _solve(self, point: Point, residual: Tensor, like: Shift) -> Tensor:
        observation, variance = self.observation, self.noise_variance(point)
        spread = {name: self.spread(point, name) for name in like}
        if observation.mask is not None:
            return residual / (spread[observation.name(like)] + variance)
        if observation.matrix is not None:
            name = observation.name(like)
            matrix = observation.matrix.to(residual)
            r2 = spread[name].expand(like[name].shape).flatten(1)
            system = (matrix * r2[:, None]) @ matrix.T + variance * torch.eye(len(matrix)).to(residual)
            return torch.linalg.solve(system, residual)

        def product(u: Tensor) -> tuple[Tensor, Shift]:
            back = observation.adjoint(u, like)
            return variance * u + observation.forward({k: spread[k] * v for k, v in back.items()}), {}

        return conjugate_gradients(product, residual, self.cg_iters).u
