"""The "network" of an oracle: noise is whitened, the oracle asked, the answer converted to any prediction type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scidiff import preconditioning as pre
from scidiff.process import Component
from scidiff.schedules import expand_like

__all__ = ["ExactNetwork"]

_RANK_TOLERANCE = 1e-10


class ExactNetwork(nn.Module):
    """Calls an oracle with the scales of a component's schedule and converts to the wanted prediction.

    See `scidiff.oracles.Oracle.network` for the arguments; ``name`` makes it the network of a system of one component.
    """

    def __init__(
        self,
        oracle: Any,
        component: Component,
        prediction: str,
        data_std: float = 1.0,
        preconditioning: pre.Preconditioning = "edm",
        cond: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> None:
        super().__init__()
        self.whiten: Tensor | None
        self.colour: Tensor | None
        self.component, self.prediction, self.name = component, prediction, name
        self.data_std = data_std
        self.preconditioning: pre.Preconditioning = preconditioning
        whiten, colour = _noise_map(component, oracle.event_shape, cond)
        oracle = oracle.with_kernel(float(getattr(component.law, "D", math.inf)))
        self.oracle = oracle if whiten is None else oracle.mapped(whiten)
        self.register_buffer("whiten", whiten)
        self.register_buffer("colour", colour)

    def forward(self, x: Any, t: Any, cond: Mapping[str, Any]) -> Any:
        """The prediction, in the dtype of ``x``; computed in float64."""
        if self.name:
            return {self.name: self._predict(x[self.name], t[self.name] if isinstance(t, Mapping) else t, cond)}
        return self._predict(x, t, cond)

    def _predict(self, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        schedule, y = self.component.schedule, x.double()
        is_scaled = self.prediction == "edm"
        time = self._time(t.double()) if is_scaled and not self.name else t.double()
        alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        numbers = pre.coefficients(self.preconditioning, alpha, sigma, time, self.data_std)
        scales = pre.Coefficients(*(expand_like(c, y) for c in numbers))
        end = cond.get("x_1") if schedule.has_endpoint and not is_scaled else None
        if is_scaled:
            y = y / scales.scale
        elif end is not None:
            y = y - expand_like(schedule.endpoint(time), y) * end
        x0, eps = self._posterior(y, alpha, sigma)
        a, s = expand_like(alpha, y), expand_like(sigma, y)
        if self.prediction == "velocity":
            value = expand_like(schedule.alpha_dot(time), y) * x0 + expand_like(schedule.sigma_dot(time), y) * eps
            value = value if end is None else value + expand_like(schedule.endpoint_dot(time), y) * end
        elif is_scaled:
            value = (x0 - scales.skip * y) / scales.out
        else:
            value = {"x0": x0, "eps": eps, "score": -self._whitened(eps, cond) / s, "v": a * eps - s * x0}[
                self.prediction
            ]
        return value.to(x.dtype)

    def _posterior(self, y: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        if alpha.ndim > 1:
            alpha, sigma = (expand_like(v, y).expand_as(y) for v in (alpha, sigma))
        if self.whiten is None or self.colour is None:
            return self.oracle.posterior_mean(y, alpha, sigma), self.oracle.noise_mean(y, alpha, sigma)
        if alpha.ndim > 1:
            raise ValueError("an oracle on a constrained space or with correlated noise needs one time per sample.")
        white = y.reshape(len(y), -1) @ self.whiten.T
        x0, eps = self.oracle.posterior_mean(white, alpha, sigma), self.oracle.noise_mean(white, alpha, sigma)
        return (x0 @ self.colour.T).reshape(y.shape), (eps @ self.colour.T).reshape(y.shape)

    def _whitened(self, eps: Tensor, cond: Mapping[str, Any]) -> Tensor:
        return self.component.law.whiten(eps, self.component.space.live(eps, cond))

    def _time(self, noise: Tensor) -> Tensor:
        """t from c_noise."""
        if self.preconditioning == "vp":
            return noise / 999
        if self.preconditioning == "iddpm":
            raise ValueError("the iddpm preconditioning rounds c_noise: its time cannot be recovered by an oracle.")
        return self.component.schedule.time(-4 * noise if self.preconditioning == "edm" else -noise - math.log(2))


def _noise_map(
    component: Component, shape: Sequence[int], cond: Mapping[str, Any] | None
) -> tuple[Tensor | None, Tensor | None]:
    """Maps (r, d) to coordinates where the noise is white, and (d, r) back; None where it is white already."""
    dims = math.prod(shape)
    basis = torch.eye(dims, dtype=torch.float64).reshape(dims, *shape)
    live = component.space.live(basis, cond)
    noise = component.space.arrange(basis if live is None else torch.where(live, basis, 0), cond)
    if component.law.is_gaussian:
        noise = component.law.shape(noise, live=live)
    flat = noise.reshape(dims, dims)
    cov = flat.T @ flat
    if torch.equal(cov, torch.eye(dims, dtype=torch.float64)):
        return None, None
    values, vectors = torch.linalg.eigh(cov)
    kept = values > _RANK_TOLERANCE * values[-1]
    values, vectors = values[kept].sqrt(), vectors[:, kept]
    return (vectors / values).T.contiguous(), vectors * values
