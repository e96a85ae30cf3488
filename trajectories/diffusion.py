"""`TrajectoryDiffusion`: one denoiser of trajectories for generation, forecasts, interpolation and in-painting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.interpolants import Interpolant
from scidiff.laws import NoiseLaw
from scidiff.losses import TimeLaw
from scidiff.random import drawn
from scidiff.schedule_base import Schedule
from scidiff.schedules import expand_like
from scidiff.training import DiffusionModule, StepLoss
from trajectories.bases import RandomBase
from trajectories.conditions import with_dropout
from trajectories.informed import InformedWalk
from trajectories.networks.egtn import EGTN
from trajectories.networks.vector_egtn import VectorEGTN
from trajectories.priors import Learned, Prior, get_prior
from trajectories.process import CENTRED, LIVE, trajectory_process, whitened_process
from trajectories.tasks import TaskMix

__all__ = ["System", "TrajectoryDiffusion", "arranged"]

_FIT_SYSTEMS = 2000  # training systems that an informed walk is fitted to


class System:
    """Trajectories in the gauge of the model, with their masks.

    The origin is the mean of the given entries; without any, that of all real ones.

    Attributes:
        x_0: Positions (B, F, N, D) about the origin, in units of the model; 0 for padding.
        origin: The origin (B, 1, 1, D), in units of the model.
        cond: What network and process read: ``given``, ``live``, ``centred``, ``h``, ``edge_attr``, ``node_mask``.
    """

    def __init__(self, x_0: Tensor, origin: Tensor, cond: dict[str, Tensor]) -> None:
        self.x_0, self.origin, self.cond = x_0, origin, cond

    def state(self, prior: Prior) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """State, known endpoint and context of the process of ``prior``.

        About an `InformedWalk` the state is (x_0 - mean) / spread, 0 at given entries, without an endpoint, and the
        context also has ``mean``, ``spread`` and ``pace``; otherwise it is x_0, with the endpoint x_r.
        """
        given = self.cond["given"]
        if not isinstance(prior, InformedWalk):
            return self.x_0, prior(self.x_0, given, self.cond), self.cond
        mean, spread = prior(self.x_0, given, self.cond), prior.spread(self.x_0, given, self.cond)
        cond = {**self.cond, "mean": mean, "spread": spread, "pace": prior.pace.to(mean)}
        return torch.where(self.cond[LIVE][..., None], (self.x_0 - mean) / spread, 0), None, cond

    def positions(self, state: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Positions (B, F, N, D) of a state of `state`, about the origin of the data, in units of the model."""
        x = cond["mean"] + cond["spread"] * state if "mean" in cond else state
        return x + self.origin

    def log_volume(self, cond: Mapping[str, Tensor]) -> Tensor:
        """Log of the volume of positions over that of states (B,), in units of the model: the sum of log spread."""
        if "spread" not in cond:
            return self.x_0.new_zeros(len(self.x_0))
        size = torch.where(cond[LIVE], cond["spread"][..., 0].log(), 0)
        total = size.sum((1, 2)) - torch.where(cond[CENTRED], size.sum((1, 2)) / cond[LIVE].sum((1, 2)).clamp_min(1), 0)
        return total * self.x_0.shape[-1]


def arranged(pos: Tensor, given: Tensor, features: Mapping[str, Tensor], scale: float = 1.0) -> System:
    """Bring trajectories into the gauge of the model.

    Args:
        pos: Positions (B, N, F, D).
        given: True for given entries, bool (B, F, N).
        features: ``h``, ``edge_attr``, ``node_mask`` and ``condition`` as far as they exist.
        scale: Length of one unit of the model, in the units of ``pos``.
    """
    x = pos.transpose(1, 2) / scale
    real = torch.ones_like(given)
    cond = {name: features[name] for name in ("h", "edge_attr", "node_mask", "condition") if name in features}
    if "node_mask" in cond:
        real = cond["node_mask"][:, None].expand_as(given)
        given = given & real
    is_unknown = ~given.any((1, 2))
    seen = torch.where(is_unknown[:, None, None], real, given)[..., None]
    origin = torch.where(seen, x, 0).sum((1, 2), keepdim=True) / seen.sum((1, 2), keepdim=True).clamp_min(1)
    x_0 = torch.where(real[..., None], x - origin, 0)
    return System(x_0, origin, {**cond, "given": given, LIVE: real & ~given, CENTRED: is_unknown})


class TrajectoryDiffusion(DiffusionModule):
    """Diffusion of trajectories around a moving mean, with the task drawn for each system.

    The loss is the mean square error of the noise over the coordinates that are not given, then over systems; where the
    batch has a ``target_mask`` (B, N) only those nodes count. Systems without given entries live on the subspace of
    zero mean.

    Args:
        network: `EGTN`, or a network with the same call; with an `InformedWalk` a `VectorEGTN`.
        prior: Moving mean: ``"com"``, ``"last"``, ``"walk"``, ``"bridge"``, ``"normal"`` (the origin), ``"learned"``
            (two layers of the size of the network), or a `Prior`. With an `InformedWalk`, which is fitted to the
            training data when training starts, the state is (x_0 - mean) / spread: of unit variance, whatever the
            frame, and 0 at given entries.
            From a `trajectories.bases.RandomBase`, with an `Interpolant` as schedule and ``prediction="velocity"``, a
            flow leads from the base to the data; the network does not see where it started.
        tasks: What is given in training; forecasts from 10 frames by default.
        schedule: Schedule of x - x_r; `VPSDE` by default, `trajectories.process.published_schedule` for the paper's. Or
            `MeanReverting`, with noise of another size: see `trajectories.process.trajectory_process`.
        prediction: What the network's displacement is read as, see `Denoiser`.
        scale: Length of one unit of the model, in the units of the data.
        time_law: Distribution of the training time; uniform by default.
        condition_dropout: Probability that a training system does not tell its ``condition``, for guidance without a
            classifier.
        law: Law of the noise, Gaussian by default; `StudentTNoise` makes it PFGM++ in the space of the trajectories.
        dt: Time between frames; taken from the data module when training starts, if absent. For the record only.
        unit: Unit of positions; likewise.
        lr: Peak learning rate.
        warmup_steps: Steps of the linear warm-up.
        lr_end: Final learning rate as a fraction of ``lr``.
        betas: Decay rates of AdamW's moments.
        ema: Decay of the weight average; None for none.
        noise_seed: Seed of training and validation noise.
        compile: Run the network through ``torch.compile`` in training.

    Raises:
        ValueError: If an argument is outside its range.

    References: Han et al. 2024, "Geometric Trajectory Diffusion Models" (GeoTDM). A noise level per frame: Liu et al.
    2024, "Redefining Temporal Modeling in Video Diffusion: The Vectorized Timestep Approach".
    """

    def __init__(
        self,
        network: EGTN | VectorEGTN,
        *,
        prior: str | Prior = "walk",
        tasks: TaskMix | None = None,
        schedule: Schedule | None = None,
        prediction: str = "eps",
        scale: float = 1.0,
        time_law: TimeLaw | None = None,
        condition_dropout: float = 0.1,
        law: NoiseLaw | None = None,
        dt: float | None = None,
        unit: str | None = None,
        lr: float = 1e-3,
        warmup_steps: int = 100,
        lr_end: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.99),
        ema: float | None = 0.999,
        noise_seed: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__(
            time_law=time_law,
            lr=lr,
            warmup_steps=warmup_steps,
            lr_end=lr_end,
            betas=betas,
            ema=ema,
            noise_seed=noise_seed,
            compile=compile,
        )
        if scale <= 0 or not 0 <= condition_dropout <= 1:
            raise ValueError(
                f"expected scale > 0 and condition_dropout in [0, 1], got {scale} and {condition_dropout}."
            )
        self.condition_dropout = condition_dropout
        self.prior = _learned(network) if prior == "learned" else get_prior(prior)
        is_whitened = isinstance(self.prior, InformedWalk)
        self.tasks = tasks if tasks is not None else TaskMix()
        if is_whitened and self.tasks.history > 0:
            raise ValueError(
                "noise of given entries needs a moving mean, because an informed walk whitens by what is given: use "
                "history=0, or prior='walk'."
            )
        self.scale, self.dt, self.unit = float(scale), dt, unit
        if isinstance(self.prior, RandomBase) and (prediction != "velocity" or not isinstance(schedule, Interpolant)):
            raise ValueError("a random base needs an Interpolant as schedule, and prediction='velocity'.")
        process = whitened_process(schedule, law) if is_whitened else trajectory_process(schedule, law)
        self.denoiser = Denoiser(network, process, prediction=prediction)

    def configure_model(self) -> None:
        """Remember what the data says about time and unit; fit the informed walk."""
        data = getattr(self.trainer, "datamodule", None)
        for name in ("dt", "unit"):
            if getattr(self, name) is None and getattr(data, name, None) is not None:
                setattr(self, name, getattr(data, name))
                self._remember(**{name: getattr(self, name)})
        part = getattr(data, "part", None)
        if isinstance(self.prior, InformedWalk) and not bool(self.prior.is_fitted) and part is not None:
            self._fit_prior(self.prior, part("train"))

    def adapt_start(self, config: Any, weights: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], list[str]]:
        """Weights that training starts from: all, but for an informed walk, which is fitted to the own data."""
        is_kept = isinstance(self.prior, InformedWalk)
        return {name: w for name, w in weights.items() if not (is_kept and name.startswith("prior."))}, []

    def _fit_prior(self, prior: InformedWalk, train: Any) -> None:
        generator = torch.Generator().manual_seed(self.noise_seed)
        batch = train[torch.randperm(len(train), generator=generator)[:_FIT_SYSTEMS]]
        b, n, f, _ = batch["pos"].shape
        given = self.tasks.draw(b, f, generator)[..., None].expand(b, f, n)
        system = arranged(batch["pos"], given, batch, self.scale)
        counted = system.cond[LIVE]
        if "target_mask" in batch:
            counted = counted & batch["target_mask"][:, None]
        prior.fit([(system.x_0, system.cond["given"], counted)])

    def training_loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> StepLoss:
        """Draw tasks, levels and noise; compare the noise."""
        b, n, f, _ = batch["pos"].shape
        given = self.tasks.draw(b, f, generator, self.device)[..., None].expand(b, f, n)
        system = arranged(batch["pos"], given, batch, self.scale)
        process = self.denoiser.process
        x_0, x_1, cond = system.state(self.prior)
        t = self._times(b, f, cond[CENTRED], generator)
        cond = with_dropout(cond, self.condition_dropout, generator)
        base = self.prior if isinstance(self.prior, RandomBase) else None
        if base is not None:
            xi = drawn(torch.randn, x_0.shape, generator=generator, device=x_0.device, dtype=x_0.dtype)
            x_1 = base.draw(x_0, cond["given"], cond, xi)
        elif x_1 is not None:
            x_0, cond = self.tasks.noised_history(process, x_0, x_1, cond, generator)
        x_t, eps = process.perturb(x_0, t, generator=generator, x_1=x_1, cond=cond)
        prediction = self.denoiser(x_t, t, cond, None if base is not None else x_1)
        if base is not None:
            error = (prediction.velocity - self._velocity(x_0, x_1, eps, t)).square().mean(-1)
        elif self.denoiser.prediction[""] == "edm":
            error = ((prediction.x0 - x_0) * self._inverse_size(t)).square().mean(-1)
        else:
            error = (prediction.eps - eps).square().mean(-1)
        counted = cond[LIVE]
        if "target_mask" in batch:
            counted = counted & batch["target_mask"][:, None]
        loss = torch.where(counted, error, 0).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)
        penalty = getattr(self.denoiser.network, "penalty", None)  # of a network that is not quite equivariant
        loss = loss if penalty is None else loss + penalty()
        return StepLoss(loss, {}, t if t.ndim == 1 else t.mean(1))

    def _velocity(self, x_0: Tensor, x_1: Any, eps: Any, t: Tensor) -> Tensor:
        """alpha' x_0 + beta' x_1 + sigma' eps of an interpolant from a random base."""
        schedule, time = next(iter(self.denoiser.process.continuous.values())).schedule, t.double()
        slopes = schedule.alpha_dot(time), schedule.endpoint_dot(time), schedule.sigma_dot(time)
        a, b, c = (expand_like(slope.to(x_0.dtype), x_0) for slope in slopes)
        return a * x_0 + b * x_1 + c * eps

    def _inverse_size(self, t: Tensor) -> Tensor:
        """1 / c_out = 1 / sigma of the preconditioned x0, like (B, 1, 1, 1) or (B, F, 1, 1): F is what is compared."""
        schedule = next(iter(self.denoiser.process.continuous.values())).schedule
        time = t.double()
        variance = schedule.alpha(time) ** 2 + schedule.sigma(time) ** 2
        size = (variance.sqrt() / schedule.sigma(time)).float()
        return size.reshape(size.shape + (1,) * (4 - size.ndim))

    def _times(self, num_systems: int, num_frames: int, centred: Tensor, generator: torch.Generator) -> Tensor:
        """Times (B,), or (B, F) if some frames may have their own; systems without given entries share one."""
        if self.tasks.independent == 0:
            return self.sample_time(num_systems, generator)
        schedule = next(iter(self.denoiser.process.continuous.values())).schedule
        t = self.time_law.sample_elements(
            num_systems,
            num_frames,
            schedule,
            independent=self.tasks.independent,
            generator=generator,
            device=self.device,
        )
        return torch.where(centred[:, None], t[:, :1], t)


def _learned(network: EGTN | VectorEGTN) -> Learned:
    """Two layers of the size of the network."""
    if not isinstance(network, EGTN):
        raise ValueError("the learned prior is built from an EGTN; with another network use another prior.")
    arguments = {**network.to_config()["init_args"], "num_layers": 2}
    return Learned(EGTN(**arguments))
