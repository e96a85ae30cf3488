r"""Regression targets of lower variance: stable-target fields and antithetic losses of interpolants.

The x0 target of a noisy x_t is one clean sample; `StableTarget` replaces it by the posterior mean over a reference
batch, which has the same expectation in the limit and less variance. `AntitheticLoss` trains velocity, score and eps
heads of an interpolant with +eps and -eps at the same (x_0, x_1, t), so that terms of order 1/sigma cancel.

References: Xu, Tong, Jaakkola 2023, "Stable Target Field for Reduced Variance Score Estimation in Diffusion Models";
Albergo, Boffi, Vanden-Eijnden 2023, "Stochastic Interpolants" (losses and antithetic sampling).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from scidiff.configurable import Configurable
from scidiff.denoiser import Denoiser, PairPart, Part
from scidiff.losses import LossOutput
from scidiff.process import Component, Process, State, Times
from scidiff.schedules import expand_like

__all__ = ["AntitheticLoss", "StableTarget"]


class StableTarget(Configurable):
    r"""sum_i w_i y_i with w_i prop. to p(x_t | y_i) over the clean states y_i of the batch.

    The weights follow the law of the noise: exp(-|x_t - alpha y_i|^2/(2 sigma^2)) for Gaussian noise,
    (|x_t - alpha y_i|^2 + D sigma^2)^{-(N+D)/2} for PFGM++. A state counts only for samples with the same mask. The
    batch must be exchangeable: all samples with the same condition.

    Args:
        process: Process without categorical components and endpoints.

    Raises:
        ValueError: If the process has categorical components or endpoints.

    Example:
        >>> loss = DenoisingLoss(weighting="edm")
        >>> loss(den, x_0, t, target=StableTarget(den.process))
    """

    def __init__(self, process: Process) -> None:
        paired = [name for name, c in process.continuous.items() if c.schedule.has_endpoint]
        if process.discrete or paired:
            raise ValueError(
                "a stable target needs exchangeable clean states: categorical components "
                f"({sorted(process.discrete)}) and endpoints that belong to one sample ({paired}) have none."
            )
        self.process = process

    def __call__(
        self,
        x_0: State,
        x_t: State,
        t: Times,
        cond: Mapping[str, Any] | None = None,
        reference: State | None = None,
    ) -> State:
        """Posterior mean (B, ...) over ``reference`` (R, ...); by default over the batch ``x_0`` itself.

        Raises:
            ValueError: If a time is not one number a sample.
        """
        clean = self.process.split(x_0 if reference is None else reference)
        noisy, times = self.process.split(x_t), self.process.times(t)
        log_weights: Tensor | None = None
        for name, component in self.process.continuous.items():
            if times[name].ndim != 1:
                raise ValueError(
                    "a stable target needs one time a sample (B,): elements with own times are not one draw."
                )
            terms = self._log_weights(component, clean[name], noisy[name], times[name], cond, reference is None)
            log_weights = terms if log_weights is None else log_weights + terms
        assert log_weights is not None
        weights = torch.softmax(log_weights, 1)
        means = {
            name: (weights.to(y.dtype) @ y.reshape(len(y), -1)).reshape(noisy[name].shape) for name, y in clean.items()
        }
        return self.process.join(means)

    @staticmethod
    def _log_weights(
        component: Component, clean: Tensor, x_t: Tensor, t: Tensor, cond: Mapping[str, Any] | None, is_own: bool
    ) -> Tensor:
        """log p(x_t | y_i), (B, R) in float64; -inf between samples of one batch that differ in their masks."""
        alpha, _, sigma = component.coefficients(t, x_t.double())
        scale = sigma.reshape(len(x_t))
        live = component.space.live(x_t, cond)
        columns = []
        for i in range(len(clean)):
            term = component.log_prob(x_t.double() - alpha * clean[i].double(), scale, cond)
            if is_own and live is not None and len(live) == len(clean):
                same = (live == live[i]).reshape(len(live), -1).all(1)
                term = torch.where(same, term, -torch.inf)
            columns.append(term)
        return torch.stack(columns, dim=1)


class AntitheticLoss(Configurable):
    r"""Squared errors of velocity, score and eps heads, each averaged over +eps and -eps.

    Targets: alpha' x_0 + beta' x_1 + sigma' eps (velocity), -eps/sigma (score), eps. The parts |sigma' eps|^2 and
    |eps/sigma|^2, which do not depend on the network and diverge at the ends of a brownian path, are left out: values
    may be negative, gradients are those of the squared error. The network does not see x_1.

    Args:
        weights: Weight of each head.
        reduction: ``"mean"`` over the live dimensions of a sample, or ``"sum"``.

    References: Albergo, Boffi, Vanden-Eijnden 2023.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, reduction: Literal["mean", "sum"] = "mean") -> None:
        self.weights, self.reduction = dict(weights or {}), reduction

    def __call__(
        self,
        den: Denoiser,
        x_0: State,
        t: Times,
        *,
        x_1: State | None = None,
        eps: State | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> LossOutput:
        """Two evaluations of the network, at +eps and -eps.

        Raises:
            ValueError: If a prediction is not a velocity, a score, eps, or a pair of them.
        """
        process = den.process
        x_plus, drawn = process.perturb(x_0, t, eps, generator=generator, x_1=x_1, cond=cond)
        noise = process.split(drawn)
        minus = process.join({name: -value for name, value in noise.items()})
        x_minus, _ = process.perturb(x_0, t, minus, x_1=x_1, cond=cond)
        clean, times, ends = process.split(x_0), process.times(t), process.split(x_1)
        predictions = [den(x_plus, t, cond=cond), den(x_minus, t, cond=cond)]
        parts: dict[str, Tensor] = {}
        for name, component in process.continuous.items():
            outputs = [_heads(p.parts[name]) for p in predictions]
            for kind in outputs[0]:
                pair = [output[kind] for output in outputs]
                unit = noise[name]
                if kind == "score":
                    unit = component.law.whiten(unit, component.space.live(unit, cond))
                error = _error(kind, pair, component, clean[name], unit, times[name], ends.get(name))
                value = component.space.total(error, cond)
                if self.reduction == "mean":
                    value = value / component.space.count(torch.ones_like(error), cond).clamp_min(1)
                parts[f"{name}_{kind}" if name else kind] = self.weights.get(kind, 1.0) * value
        return LossOutput(torch.stack(list(parts.values())).sum(0), parts, predictions[0], t)


def _heads(part: Part) -> dict[str, Tensor]:
    """Raw outputs by kind, on the space of the component."""
    if isinstance(part, PairPart):
        raw = {"velocity": part.raw, part.noise_kind: part.noise}
    elif part.kind in ("velocity", "score", "eps"):
        raw = {part.kind: part.raw}
    else:
        raise ValueError(
            f"the losses of interpolants train velocity, score and eps heads, got prediction {part.kind!r}. "
            "Use DenoisingLoss for the others."
        )
    return {kind: part.component.space.project(value, part.cond) for kind, value in raw.items()}


def _error(
    kind: str, outputs: list[Tensor], component: Component, x_0: Tensor, eps: Tensor, t: Tensor, x_1: Tensor | None
) -> Tensor:
    """Mean over both signs of |output|^2 - 2 output target + |regular part of the target|^2."""
    plus, minus = outputs
    schedule, time = component.schedule, t.double()
    squares = (plus**2 + minus**2) / 2
    if kind == "velocity":
        drift = expand_like(schedule.alpha_dot(time).to(x_0.dtype), x_0) * x_0
        if x_1 is not None:
            drift = drift + expand_like(schedule.endpoint_dot(time).to(x_0.dtype), x_0) * x_1
        slope = expand_like(schedule.sigma_dot(time).to(x_0.dtype), x_0)
        return squares - drift * (plus + minus) + drift**2 - slope * eps * (plus - minus)
    if kind == "eps":
        return squares - eps * (plus - minus) + eps**2
    sigma = expand_like(schedule.sigma(time).to(x_0.dtype), x_0)
    return squares + eps / sigma * (plus - minus)  # the noise comes whitened
