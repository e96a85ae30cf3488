r"""Training losses, their weights over time, and laws of the training time.

The loss of a continuous component is w(t) |D(x_t) - x_0|^2, averaged over the live dimensions of a sample; that of a
categorical one is the cross entropy of z_0. Every parameterisation is a weight on the x0 error: with
rho = sigma/alpha, |dx0|^2 = rho^2 |deps|^2, |dw|^2 = (alpha lambda')^2 |dx0|^2 and |dF|^2 = |dx0|^2/c_out^2.

References: Kingma and Gao 2023, "Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation"; Karras
et al. 2022, eq. 8; Hang et al. 2023 (min-SNR).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from scidiff import random
from scidiff.configurable import Configurable
from scidiff.denoiser import Denoiser, Prediction
from scidiff.discrete import Categorical
from scidiff.process import State, Times
from scidiff.schedules import Schedule, expand_like

__all__ = ["WEIGHTINGS", "DenoisingLoss", "LossOutput", "TimeLaw", "weighting"]


def weighting(name: str, schedule: Schedule, t: Tensor, data_std: float = 1.0) -> Tensor:
    """Weight w(t) on the squared x0 error, float64, shape of ``t``; 0 where sigma(t) = 0.

    Args:
        name: Key of `WEIGHTINGS`.
        schedule: Schedule of the component.
        t: Times.
        data_std: Standard deviation of the data (``"edm"``).

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in WEIGHTINGS:
        closest = difflib.get_close_matches(name, WEIGHTINGS, n=1)
        hint = f" Did you mean {closest[0]!r}?" if closest else ""
        raise ValueError(f"unknown weighting {name!r}; known: {', '.join(WEIGHTINGS)}.{hint}")
    time = t.double()
    value = WEIGHTINGS[name](schedule, time, data_std)
    return torch.where(schedule.sigma(time) == 0, 0, value)  # given elements at t = 0 have no error and infinite SNR


def _snr(schedule: Schedule, t: Tensor) -> Tensor:
    return (schedule.alpha(t) / schedule.sigma(t)) ** 2


def _velocity(schedule: Schedule, t: Tensor, data_std: float) -> Tensor:
    slope = schedule.alpha_dot(t) - schedule.alpha(t) * schedule.sigma_dot(t) / schedule.sigma(t)
    return slope**2


def _edm(schedule: Schedule, t: Tensor, data_std: float) -> Tensor:
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return ((alpha * data_std) ** 2 + sigma**2) / (sigma * data_std) ** 2


def _likelihood(schedule: Schedule, t: Tensor, data_std: float) -> Tensor:
    return (schedule.diffusion(t) * schedule.alpha(t) / schedule.sigma(t) ** 2) ** 2


WEIGHTINGS: dict[str, Callable[[Schedule, Tensor, float], Tensor]] = {
    "x0": lambda schedule, t, std: torch.ones_like(t),
    "eps": lambda schedule, t, std: _snr(schedule, t),
    "velocity": _velocity,
    "edm": _edm,
    "min_snr": lambda schedule, t, std: _snr(schedule, t).clamp_max(5.0),
    "truncated_snr": lambda schedule, t, std: _snr(schedule, t).clamp_min(1.0),
    "clamped_snr": lambda schedule, t, std: _snr(schedule, t).clamp(0.05, 1.5),
    "likelihood": _likelihood,
    "vlb": lambda schedule, t, std: 0.5 * _likelihood(schedule, t, std),
}


class TimeLaw(Configurable):
    """Distribution of the training time.

    Args:
        name: ``"uniform"``; ``"beta"`` (a, b; (1, 2) has density 2 (1 - t), towards data); ``"logit_normal"`` (mean,
            std); ``"lognormal_sigma"`` (P_mean, P_std of ln sigma/alpha, mapped by the schedule); ``"uniform_lambda"``.
        a: First parameter.
        b: Second parameter.
        stratified: Spread the batch evenly over the quantiles of the law (lower variance).
        t_min: Smallest time that is drawn.

    Raises:
        ValueError: If the name is unknown.

    References: Karras et al. 2022, table 1 (lognormal); Esser et al. 2024 (logit-normal).
    """

    NAMES = ("uniform", "beta", "logit_normal", "lognormal_sigma", "uniform_lambda")

    def __init__(
        self,
        name: Literal["uniform", "beta", "logit_normal", "lognormal_sigma", "uniform_lambda"] = "uniform",
        a: float | None = None,
        b: float | None = None,
        stratified: bool = True,
        t_min: float = 1e-5,
    ) -> None:
        if name not in self.NAMES:
            raise ValueError(f"unknown time law {name!r}; known: {', '.join(self.NAMES)}.")
        defaults = {"beta": (1.0, 2.0), "logit_normal": (0.0, 1.0), "lognormal_sigma": (-1.2, 1.2)}.get(
            name, (0.0, 1.0)
        )
        self.name, self.stratified, self.t_min = name, stratified, t_min
        self.a, self.b = defaults[0] if a is None else a, defaults[1] if b is None else b

    def sample(
        self,
        num_samples: int,
        schedule: Schedule,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Times (num_samples,) in [t_min, t_max of the schedule], float32; drawn where the generator lives."""
        home = device if generator is None else generator.device
        u = torch.rand(num_samples, generator=generator, device=home, dtype=torch.float64)
        if self.stratified:
            order = torch.randperm(num_samples, generator=generator, device=home)
            u = (order + u) / num_samples
        t = self.quantile(u, schedule).clamp(max(self.t_min, 0.0), 1.0).float()
        return t if device is None else t.to(device)

    def sample_elements(
        self,
        num_samples: int,
        num_elements: int,
        schedule: Schedule,
        *,
        independent: float = 0.2,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Times (num_samples, num_elements): with probability ``independent`` one each, else one for all of a sample.

        References: Liu et al. 2024, "Redefining Temporal Modeling in Video Diffusion: The Vectorized Timestep
        Approach".
        """
        options: dict[str, Any] = {"generator": generator, "device": device}
        shared = self.sample(num_samples, schedule, **options)[:, None].expand(-1, num_elements)
        own = self.sample(num_samples * num_elements, schedule, **options).reshape(num_samples, num_elements)
        is_own = random.drawn(torch.rand, (num_samples, 1), generator=generator, device=device) < independent
        return torch.where(is_own, own, shared)

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Inverse distribution function at ``u`` in (0, 1), float64."""
        if self.name == "uniform":
            return self.t_min + u * (1 - self.t_min)
        if self.name == "beta":
            return _beta_quantile(u, self.a, self.b)
        gauss = math.sqrt(2) * torch.erfinv(2 * u.clamp(1e-9, 1 - 1e-9) - 1)
        if self.name == "logit_normal":
            return torch.sigmoid(self.a + self.b * gauss)
        if self.name == "lognormal_sigma":
            return schedule.time(-(self.a + self.b * gauss))
        ends = torch.tensor([max(self.t_min, schedule.t_min), min(1.0, schedule.t_max)], dtype=u.dtype, device=u.device)
        lam = 0.5 * schedule.log_snr(ends)
        return schedule.time(lam[0] + u * (lam[1] - lam[0]))


class LossOutput(NamedTuple):
    """Total loss (B,), its parts by component (B,), the prediction, the time."""

    total: Tensor
    parts: dict[str, Tensor]
    prediction: Prediction
    t: Times


class DenoisingLoss(Configurable):
    """Sum over components of weight x (weighted squared x0 error, or cross entropy), one number a sample.

    Args:
        weights: Weight of each component; 1 where absent.
        weighting: Name in `WEIGHTINGS`, or a dict by component.
        reduction: ``"mean"`` over the live dimensions of a sample, or ``"sum"``.

    Masked entries never count; symmetric pairs count once.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        weighting: str | Mapping[str, str] = "x0",
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        self.weights, self.weighting, self.reduction = dict(weights or {}), weighting, reduction

    def __call__(
        self,
        den: Denoiser,
        x_0: State,
        t: Times,
        *,
        x_t: State | None = None,
        x_1: State | None = None,
        eps: State | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        target: Callable[[State, State, Times, Mapping[str, Any] | None], State] | None = None,
    ) -> LossOutput:
        """Perturb ``x_0`` to ``t`` (unless ``x_t`` is given), predict, compare with ``x_0``.

        ``target(x_0, x_t, t, cond)`` replaces the clean state in the comparison (`scidiff.targets.StableTarget`).
        """
        if x_t is None:
            x_t, _ = den.process.perturb(x_0, t, eps, generator=generator, x_1=x_1, cond=cond)
        prediction = den(x_t, t, cond=cond, x_1=x_1)
        clean = den.process.split(x_0 if target is None else target(x_0, x_t, t, cond))
        times = den.process.times(t)
        parts = {
            name: self._component(den, name, prediction, clean[name], times[name], cond)
            for name in den.process.components
        }
        total = sum((self.weights.get(name, 1.0) * part for name, part in parts.items()), start=torch.zeros(()))
        assert isinstance(total, Tensor)
        return LossOutput(total, parts, prediction, t)

    def _component(
        self, den: Denoiser, name: str, prediction: Prediction, clean: Tensor, t: Tensor, cond: Mapping[str, Any] | None
    ) -> Tensor:
        component = den.process.components[name]
        if isinstance(component, Categorical):
            logits = prediction.logits[name]
            error = torch.nn.functional.cross_entropy(logits.flatten(0, -2), clean.flatten(), reduction="none")
            error = error.reshape(clean.shape)
        else:
            kind = self.weighting if isinstance(self.weighting, str) else self.weighting.get(name, "x0")
            weight = weighting(kind, component.schedule, t, den.data_std[name]).to(clean.dtype)
            error = expand_like(weight, clean) * (prediction.parts[name].x0 - clean) ** 2
        total = component.space.total(error, cond)
        if self.reduction == "sum":
            return total
        return total / component.space.count(torch.ones_like(error), cond).clamp_min(1)


def _beta_quantile(u: Tensor, a: float, b: float) -> Tensor:
    if a == 1:
        return 1 - (1 - u) ** (1 / b)
    if b == 1:
        return u ** (1 / a)
    from scipy import special

    return torch.as_tensor(special.betaincinv(a, b, u.cpu().numpy()), dtype=u.dtype).to(u.device)
