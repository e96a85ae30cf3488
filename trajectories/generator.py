"""`TrajectoryGenerator`: a trained model, ready to generate, forecast, interpolate and roll out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from scidiff import random
from scidiff.checkpoint import Pretrained
from scidiff.denoiser import Denoiser
from scidiff.likelihood import log_prob
from scidiff.noise import NoiseSource
from scidiff.samplers import get_solver, sample
from trajectories.bases import RandomBase
from trajectories.batch import TrajectoryBatch
from trajectories.conditions import about_positions, condition_values, guided
from trajectories.diffusion import System, arranged
from trajectories.likelihood import log_prob_bound
from trajectories.priors import Prior, get_prior
from trajectories.process import TrajectorySpace
from trajectories.quantizer import QuantizedSource
from trajectories.starts import start_of
from trajectories.tasks import known_mask

__all__ = ["TrajectoryGenerator"]

_WORD = 1 << 32  # draws of one seed are told apart by the high word of its index: prior and solver, block by block


class TrajectoryGenerator(Pretrained):
    """Draws trajectories: whole ones, or the missing part of given ones.

    Results are `TrajectoryBatch` objects; a request for ``num_samples`` of each system returns them one after the
    other, the samples of system b in the rows b ``num_samples``, ..., (b + 1) ``num_samples`` - 1. Given entries come
    back unchanged. A sample depends on its own seed only, not on ``batch_size``.

    Args:
        denoiser: Trained denoiser; or a trained `TrajectoryDiffusion`, whose averaged weights are then used.
        prior: Moving mean, see `TrajectoryDiffusion`; from the module if that is given.
        scale: Length of one unit of the model.
        dt: Time between frames of the training data, or None.
        unit: Unit of positions, or None.
        steps: Default number of solver steps; the final prediction costs one evaluation more.
        solver: Default solver.
        solver_options: Its options. Noise added by ``edm_heun`` (``s_churn``, ``s_noise``) makes up for what denoisers
            take away too much of: choose it by validation data, as Karras et al. 2022, section 4, do.

    Raises:
        ValueError: If the denoiser is of another kind, or a default is out of range.

    Example:
        >>> generator = TrajectoryGenerator.from_pretrained("charged.safetensors")
        >>> future = generator.forecast(observed, num_frames=20, num_samples=5)
    """

    def __init__(
        self,
        denoiser: Denoiser | Any,
        prior: str | Prior = "walk",
        scale: float = 1.0,
        dt: float | None = None,
        unit: str | None = None,
        steps: int = 20,
        solver: str = "dpmpp_2m",
        solver_options: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(denoiser, Denoiser):
            denoiser, prior, scale, dt, unit = _trained(denoiser)
            self._remember(denoiser=denoiser, prior=prior, scale=scale, dt=dt, unit=unit)
        parts = list(denoiser.process.continuous.values())
        if len(parts) != 1 or not isinstance(parts[0].space, TrajectorySpace):
            raise ValueError(f"expected a denoiser of trajectories, got one of the process {denoiser.process!r}.")
        _check_counts(steps=steps)
        self.solver_options = dict(solver_options or {})
        get_solver(solver, self.solver_options)
        self.denoiser = denoiser.eval()
        self.prior = get_prior(prior).eval()
        self.scale, self.dt, self.unit = float(scale), dt, unit
        self.steps, self.solver = steps, solver

    def sample(self, n: int, *, num_frames: int = 20, like: Any = None, **options: Any) -> TrajectoryBatch:
        """Draw ``n`` trajectories from nothing, about the origin; for models trained with the task ``unconditional``.

        Args:
            n: How many.
            num_frames: Frames.
            like: A `TrajectoryBatch` (or frames) whose nodes and features are used, its systems in turn.
            options: As for `forecast`, except ``num_samples``.

        Raises:
            ValueError: If ``like`` is missing or a number is out of range.
        """
        _check_counts(n=n, num_frames=num_frames)
        if like is None:
            raise ValueError("sample needs like=: a TrajectoryBatch that says which nodes and features a system has.")
        batch = TrajectoryBatch.of(like)
        batch = batch.index(torch.arange(n) % len(batch))
        pos = batch.pos.new_zeros(n, batch.pos.shape[1], num_frames, batch.pos.shape[3])
        given = torch.zeros(n, num_frames, pos.shape[1], dtype=torch.bool)
        return self._complete(replace(batch, pos=pos), given, **options)

    def forecast(self, observed: Any, num_frames: int, num_samples: int = 1, **options: Any) -> TrajectoryBatch:
        """Go on from observed frames.

        Args:
            observed: Frames (F, N, D) or (B, F, N, D), or a `TrajectoryBatch`; all its frames are given.
            num_frames: Frames to add.
            num_samples: Samples of each system.
            options: ``h`` and ``edge_attr`` of the systems, if ``observed`` is an array; ``steps``; ``solver`` (name or
                object); ``solver_options``; ``guidance`` (objects of the core about the state of the model, or
                functions that return one and are called with ``positions``, which turns a state into positions (B, N,
                F, D) of all frames in the units of the data); ``condition`` (such as ``{"temperature": 300.0}``) and
                ``guidance_scale`` (1: none); ``history_level`` (noise level of the given entries, for models trained
                with ``TaskMix(history=...)``); ``representers`` (True for ``num_samples`` forecasts that lie about the
                possible futures so that the best of them is near, instead of samples, see `trajectories.quantizer`);
                ``seed`` (an int, or one per sample); ``device``; ``batch_size`` (samples at a time, 256); ``progress``.

        Returns:
            The observed frames and, after them, the new ones.

        Raises:
            ValueError: If shapes do not fit or a number is out of range.
        """
        _check_counts(num_frames=num_frames)
        batch, options = _with_features(observed, options)
        seen = batch.pos.shape[2]
        pos = torch.cat([batch.pos, batch.pos[:, :, -1:].expand(-1, -1, num_frames, -1)], 2)
        given = (torch.arange(seen + num_frames) < seen)[None, :, None].expand(len(pos), -1, pos.shape[1])
        result = self._complete(replace(batch, pos=pos), given, num_samples=num_samples, **options)
        return replace(result, meta={**result.meta, "cond_frames": seen})

    def interpolate(self, frames: Any, known: Any, num_samples: int = 1, **options: Any) -> TrajectoryBatch:
        """Fill in what is not known.

        Args:
            frames: Frames (F, N, D) or (B, F, N, D), or a `TrajectoryBatch`; unknown entries may have any finite value.
            known: Frame numbers, a slice, or a bool mask (F,) or (F, N).
            num_samples: Samples of each system.
            options: As for `forecast`.

        Raises:
            ValueError: If a frame number is outside the range, or nothing or everything is known.
        """
        batch, options = _with_features(frames, options)
        _, n, f, _ = batch.pos.shape
        mask = known_mask(known, f, n)
        if not bool(mask.any()) or bool(mask.all()):
            raise ValueError("interpolate needs some known and some unknown entries; for none known there is sample.")
        return self._complete(batch, mask.expand(len(batch), f, n), num_samples=num_samples, **options)

    def rollout(
        self, observed: Any, num_frames: int, *, window: int = 30, keep: int = 10, num_samples: int = 1, **options: Any
    ) -> TrajectoryBatch:
        """Go on for many frames, ``window - keep`` at a time, each from the last ``keep`` frames.

        Args:
            observed: As for `forecast`, at least ``keep`` frames.
            num_frames: Frames to add.
            window: Frames of one forecast, as in training.
            keep: Frames that each forecast starts from.
            num_samples: Samples of each system.
            options: As for `forecast`.

        Returns:
            The observed frames and, after them, the new ones.

        Raises:
            ValueError: If ``keep`` is not below ``window``, or there are fewer observed frames.
        """
        _check_counts(num_frames=num_frames, keep=keep, num_samples=num_samples)
        batch, options = _with_features(observed, options)
        if not keep < window or batch.pos.shape[2] < keep:
            raise ValueError(
                f"rollout needs keep < window and at least keep observed frames, got keep={keep}, window={window} and "
                f"{batch.pos.shape[2]} frames."
            )
        seen, nfe = batch.pos.shape[2], 0
        total = seen + num_frames
        batch = batch.index(torch.arange(len(batch)).repeat_interleave(num_samples))
        while batch.pos.shape[2] < total:
            added = min(window - keep, total - batch.pos.shape[2])
            tail = replace(batch, pos=batch.pos[:, :, -keep:])
            block = (batch.pos.shape[2] - keep) * 2
            new = self.forecast(tail, added, block=block, **options)
            nfe += new.meta["nfe"]
            batch = replace(new, pos=torch.cat([batch.pos, new.pos[:, :, keep:]], 2))
        return replace(batch, meta={**batch.meta, "nfe": nfe, "num_samples": num_samples, "cond_frames": seen})

    def refine(self, frames: Any, level: float = 0.3, known: Any = None, **options: Any) -> TrajectoryBatch:
        """Noise trajectories to time ``level`` and denoise them again, all but what is known (SDEdit).

        Args:
            frames: As for `interpolate`; all entries matter, those that are not known are improved.
            level: Diffusion time in (0, 1); more changes more.
            known: What stays, as for `interpolate`; None for nothing, for models that generate from nothing.
            options: As for `forecast`.

        Raises:
            ValueError: If ``level`` is out of range, or everything is known.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be in (0, 1), got {level}.")
        batch, options = _with_features(frames, options)
        _, n, f, _ = batch.pos.shape
        mask = torch.zeros(f, n, dtype=torch.bool) if known is None else known_mask(known, f, n)
        if bool(mask.all()):
            raise ValueError("everything is known: nothing is left to refine.")
        return self._complete(batch, mask.expand(len(batch), f, n), level=level, **options)

    def log_prob(
        self,
        frames: Any,
        known: Any = None,
        *,
        method: Literal["ode", "bound"] = "ode",
        device: str | torch.device | None = None,
        batch_size: int = 256,
        **options: Any,
    ) -> Tensor:
        """Log density (B,) of trajectories in nats a system, in the units of the data.

        Args:
            frames: As for `interpolate`.
            known: What is conditioned on, as for `interpolate`; the density is then that of all other entries. None for
                whole trajectories, up to where they are: on the (F N - 1) D dimensions about their centre.
            method: ``"ode"``, exact along the probability flow (see `scidiff.log_prob`, whose options apply; with
                ``trace="hutchinson"`` for all but small systems), or ``"bound"``, a lower bound
                (`trajectories.likelihood.log_prob_bound`, whose options apply).
            device: Where to compute; stays the device of the generator.
            batch_size: Systems at a time.
            options: Of the method; and ``h`` and ``edge_attr`` of the systems, if ``frames`` is an array.

        Raises:
            ValueError: If everything is known, or the method is unknown.
        """
        if method not in ("ode", "bound"):
            raise ValueError(f"method must be 'ode' or 'bound', got {method!r}.")
        batch, options = _with_features(frames, options)
        _, n, f, _ = batch.pos.shape
        mask = torch.zeros(f, n, dtype=torch.bool) if known is None else known_mask(known, f, n)
        if bool(mask.all()):
            raise ValueError("everything is known: nothing is left that has a density.")
        self._move(device)
        parts = torch.arange(len(batch)).split(batch_size)
        return torch.cat([self._log_prob(batch.index(part), mask, method, options) for part in parts])

    def _log_prob(self, batch: TrajectoryBatch, mask: Tensor, method: str, options: dict[str, Any]) -> Tensor:
        system = self._arranged(batch, mask.expand(len(batch), *mask.shape))
        with torch.no_grad():
            state, x_1, cond = system.state(self.prior)
        function = log_prob if method == "ode" else log_prob_bound
        value = function(self.denoiser, state, cond=cond, x_1=x_1, **options)
        space = next(iter(self.denoiser.process.continuous.values())).space
        return (value - space.dims(state, cond) * math.log(self.scale)).cpu() - system.log_volume(cond).cpu()

    def _move(self, device: str | torch.device | None) -> None:
        if device is not None:
            self.denoiser.to(device)
            self.prior.to(device)

    def _arranged(self, batch: TrajectoryBatch, given: Tensor) -> System:
        """The systems in the gauge, units, precision and place of the model."""
        weights = next(self.denoiser.parameters())
        features = {name: value.to(weights.device) for name, value in batch.features.items()}
        features |= {name: value.to(weights) for name, value in features.items() if value.dtype.is_floating_point}
        return arranged(batch.pos.to(weights), given.to(weights.device), features, self.scale)

    def _complete(
        self,
        batch: TrajectoryBatch,
        given: Tensor,
        *,
        num_samples: int = 1,
        steps: int | None = None,
        solver: Any = None,
        solver_options: dict[str, Any] | None = None,
        guidance: Any = None,
        condition: Mapping[str, Any] | None = None,
        guidance_scale: float = 1.0,
        history_level: float = 0.0,
        representers: bool = False,
        seed: random.Seeds = 0,
        device: str | torch.device | None = None,
        batch_size: int = 256,
        progress: bool = False,
        level: float | None = None,
        block: int = 0,
    ) -> TrajectoryBatch:
        """Draw the entries that are not ``given`` (B, F, N)."""
        steps = self.steps if steps is None else steps
        _check_counts(num_samples=num_samples, steps=steps, batch_size=batch_size)
        self._move(device)
        rows = torch.arange(len(batch)).repeat_interleave(num_samples)
        seeds = random.seed_pairs(seed, len(rows))
        is_flow = isinstance(self.prior, RandomBase)
        own = self.solver_options if solver is None else {}
        default = "heun" if is_flow and self.solver == "dpmpp_2m" else self.solver
        options = {
            "steps": steps,
            "solver": default if solver is None else solver,
            "solver_options": {"final_denoise": not is_flow, **own, **(solver_options or {})},
            "guidance": guided(guidance, guidance_scale),
            "progress": progress,
        }
        if not 0 <= history_level < 1:
            raise ValueError(f"history_level must be in [0, 1), got {history_level}.")
        if representers and num_samples == 1:
            raise ValueError(
                "representers are several forecasts of one system: ask forecast or interpolate for num_samples=20, "
                "say; sample and rollout draw samples only."
            )
        values = condition_values(self.denoiser.network, condition, len(batch)) if condition else None
        drawn, nfe = [], 0
        for start in range(0, len(rows), batch_size):
            part, own = rows[start : start + batch_size], seeds[start : start + batch_size]
            more = {"history": history_level, "condition": None if values is None else values[part]}
            if representers:
                places = torch.arange(start, start + len(part)) % num_samples
                own = [seeds[start + row - place] for row, place in enumerate(places.tolist())]
                more["representers"] = (places, num_samples)
            pos, nfe = self._draw(batch.index(part), given[part], own, level, block, options, **more)
            drawn.append(pos.to(batch.pos))
        meta = {"steps": steps, "nfe": nfe, "solver": str(options["solver"]), "num_samples": num_samples}
        dt = self.dt if batch.dt is None else batch.dt
        unit = self.unit if batch.unit is None else batch.unit
        return replace(batch.index(rows), pos=torch.cat(drawn), dt=dt, unit=unit, meta=meta)

    @torch.no_grad()
    def _draw(
        self,
        batch: TrajectoryBatch,
        given: Tensor,
        seeds: Sequence[tuple[int, int]],
        level: float | None,
        block: int,
        options: dict[str, Any],
        *,
        history: float,
        condition: Tensor | None,
        representers: tuple[Tensor, int] | None = None,
    ) -> tuple[Tensor, int]:
        """Positions (B, N, F, D) of one chunk, and the number of evaluations."""
        system = self._arranged(batch, given)
        if condition is not None:
            system.cond["condition"] = condition.to(system.x_0)
        first, own = ([(s, i + word * _WORD) for s, i in seeds] for word in (block + 1, block))
        source = NoiseSource(first, len(first), device=system.x_0.device)
        if representers is not None:
            source = QuantizedSource(first, *representers, device=system.x_0.device)
        how = {"steps": options["steps"], "level": level, "history": history}
        start = start_of(self.denoiser.process, self.prior, *system.state(self.prior), source, **how)
        cond = start.cond

        def positions(state: Tensor) -> Tensor:
            return (system.positions(state, cond) * self.scale).transpose(1, 2)

        run = {**options, "guidance": about_positions(options["guidance"], positions), "grid": start.grid}
        x, info = sample(self.denoiser, start.init, seed=own, cond=cond, x_1=start.x_1, save="none", **run)
        pos = positions(x)
        known = (cond["given"].transpose(1, 2)[..., None]) | ~_real(cond, pos)
        return torch.where(known, batch.pos.to(pos), pos), info.nfe


def _with_features(value: Any, options: dict[str, Any]) -> tuple[TrajectoryBatch, dict[str, Any]]:
    """The batch with the features among the options, and the other options."""
    names = ("h", "edge_attr", "node_mask", "z")
    features = {name: options[name] for name in names if name in options}
    return TrajectoryBatch.of(value, **features), {k: v for k, v in options.items() if k not in names}


def _real(features: dict[str, Tensor], pos: Tensor) -> Tensor:
    mask = features.get("node_mask")
    return torch.ones_like(pos[..., :1], dtype=torch.bool) if mask is None else mask[:, :, None, None]


def _trained(module: Any) -> tuple[Denoiser, Prior, float, float | None, str | None]:
    """Copies of the denoiser and the prior of a trained module, with averaged weights."""
    with module.averaged():
        denoiser = Denoiser.from_config(module.denoiser.to_config())
        denoiser.load_state_dict(module.denoiser.state_dict())
        prior = type(module.prior).from_config(module.prior.to_config())
        prior.load_state_dict(module.prior.state_dict())
    return denoiser, prior, module.scale, module.dt, module.unit


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {count!r}.")
