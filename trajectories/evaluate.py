"""Evaluation of anybody's trajectories: forecasts against what happened, generated motion against real motion.

Every figure stands beside what it has to beat. Forecasts: the last frame, constant velocity and linear autoregression
(fitted on other systems than it is judged on). Distributions: one half of the real trajectories against the other.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trajectories.baselines import LinearAutoregression, constant_velocity, stay
from trajectories.batch import TrajectoryBatch
from trajectories.metrics import (
    calibration,
    displacement_errors,
    energy_scores,
    marginal_score,
    momentum_drift,
    motion_distances,
    relative_energy_drift,
)
from trajectories.molecular import Topology, molecule_scores, slow_scores
from trajectories.network_scores import NetworkScore, classification_score, prediction_score
from trajectories.report import Figure, Report

__all__ = ["evaluate"]

_RESAMPLES = 20
_MOST_TRAJECTORIES = 2000
_LONG = 200  # frames from which slow modes are looked at
Scores = dict[str, float]


def evaluate(
    generated: TrajectoryBatch,
    reference: TrajectoryBatch,
    *,
    train: TrajectoryBatch | None = None,
    cond_frames: int | None = None,
    num_samples: int | None = None,
    networks: bool = False,
    seed: int = 0,
) -> Report:
    """Compare trajectories with real ones.

    If the first ``cond_frames`` frames are those of the reference, system by system, they are forecasts: displacement
    errors by each convention, energy score, CRPS, coverage; and the motion of the new frames. Else they are
    trajectories of their own, and distributions are compared.

    Args:
        generated: Trajectories; forecasts with the samples of a system one after the other.
        reference: Real trajectories; for forecasts the same systems in the same order, at least as long.
        train: Trajectories that the linear autoregression is fitted on; without them each half of the reference is
            predicted by a fit on the other.
        cond_frames: Given frames; taken from what the generator wrote, if None.
        num_samples: Samples of each system; likewise.
        networks: Also train the small networks of `trajectories.network_scores` (minutes).
        seed: Seed of halves, resampling and small networks.

    Raises:
        ValueError: If nodes or dimensions differ, or a forecast does not start with the frames of the reference.
    """
    _check_same(generated, reference)
    seen = generated.meta.get("cond_frames", 0) if cond_frames is None else cond_frames
    count = generated.meta.get("num_samples", 1) if num_samples is None else num_samples
    rng = np.random.default_rng(seed)
    about: dict[str, Any] = {
        "systems": len(generated) // count if seen else len(generated),
        "reference_systems": len(reference),
        "samples": count if seen else 1,
        "cond_frames": seen,
        "seed": seed,
        "origin": dict(generated.meta),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    figures: dict[str, Figure] = {}
    notes: list[str] = []
    if seen:
        samples, target = _paired(generated, reference, seen, count)
        others = _baselines(reference.frames, target.shape[2], seen, train, reference.z is not None, len(target))
        figures |= _forecast_figures(samples, target, others, reference.node_mask, rng)
        reference = replace(reference.index(torch.arange(len(target))), pos=torch.from_numpy(target))
        generated = replace(generated, pos=generated.pos[:, :, seen : seen + target.shape[2]])
    figures |= _motion_figures(generated, reference, count if seen else 1, rng, notes)
    if networks and not seen:
        figures |= _network_figures(generated, reference, rng, seed)
    return Report(figures, about, notes)


# Forecasts


def _paired(generated: TrajectoryBatch, reference: TrajectoryBatch, seen: int, count: int) -> tuple[Any, Any]:
    """Samples (B, K, N, P, D) and what happened (B, N, P, D), after a check of the given frames."""
    total, frames = len(generated), min(generated.pos.shape[2], reference.pos.shape[2])
    systems = total // count
    if total % count or systems > len(reference) or frames <= seen:
        raise ValueError(
            f"{total} forecasts with {count} samples a system and {seen} given frames do not fit a reference of "
            f"{len(reference)} systems with {reference.pos.shape[2]} frames. Give the reference that was forecast, "
            "and cond_frames and num_samples if the file does not say them."
        )
    p, g = (batch.pos.double().cpu().numpy()[:, :, :frames] for batch in (generated, reference))
    p, g = p.reshape(systems, count, *p.shape[1:]), g[:systems]
    size = max(float(np.abs(g).max()), 1e-9)
    if np.abs(p[:, :, :, :seen] - g[:, None, :, :seen]).max() > 1e-3 * size:
        raise ValueError(
            f"the first {seen} frames of the forecasts are not those of the reference: the systems must be the same, "
            "in the same order."
        )
    return p[..., seen:, :], g[..., seen:, :]


def _baselines(
    frames: np.ndarray, num_frames: int, seen: int, train: TrajectoryBatch | None, per_node: bool, systems: int
) -> dict[str, np.ndarray]:
    """Forecasts (B, 1, N, P, D) without a network."""
    pos = frames.swapaxes(1, 2).astype(np.float64)[:systems, :, : seen + num_frames]
    past = pos[:, :, :seen]
    found = {"stay": stay(past, num_frames)}
    if seen < 2:
        return {name: value[:, None] for name, value in found.items()}
    found["constant_velocity"] = constant_velocity(past, num_frames)
    if train is not None:
        learned = train.pos.double().numpy()[:, :, : seen + num_frames]
        found["linear"] = LinearAutoregression(per_node=per_node).fit(learned, seen).predict(past)
    elif systems >= 4:
        even = np.arange(systems) % 2 == 0
        guess = np.empty_like(pos[:, :, seen:])
        for part in (even, ~even):
            guess[part] = LinearAutoregression(per_node=per_node).fit(pos[~part], seen).predict(past[part])
        found["linear"] = guess
    return {name: value[:, None] for name, value in found.items()}


def _forecast_figures(
    samples: np.ndarray,
    target: np.ndarray,
    others: Mapping[str, np.ndarray],
    node_mask: Tensor | None,
    rng: np.random.Generator,
) -> dict[str, Figure]:
    mask = None if node_mask is None else node_mask.numpy()[: len(target)]
    rows = np.arange(len(target))

    def errors(kept: np.ndarray) -> Scores:
        return displacement_errors(samples[kept], target[kept], None if mask is None else mask[kept])

    beside = {name: displacement_errors(guess, target, mask) for name, guess in others.items()}
    figures = _resampled(errors, rows, rng)
    figures = {
        name: replace(figure, baselines={key: scores[name] for key, scores in beside.items()})
        for name, figure in figures.items()
    }
    if samples.shape[1] > 1 and mask is None:
        spread = energy_scores(samples, target)
        figures["energy_score"] = Figure(float(spread.mean()), _standard_error(spread))
        figures |= _resampled(lambda kept: calibration(samples[kept], target[kept]), rows, rng)
    return figures


# Distributions


def _motion_figures(
    generated: TrajectoryBatch, reference: TrajectoryBatch, group: int, rng: np.random.Generator, notes: list[str]
) -> dict[str, Figure]:
    """Distributions; every ``group`` rows that follow each other are samples of one system."""
    if generated.node_mask is not None or reference.node_mask is not None:
        notes.append("systems of different size: distributions of motion are left out.")
        return {}
    y, x = _drawn(generated, rng, group), _drawn(reference, rng)
    dt = reference.dt if reference.dt is not None else 1.0
    if reference.dt is None:
        notes.append("the reference says no time step: speeds and accelerations are per frame.")
    real, made = (batch.pos.double().cpu().numpy() for batch in (x, y))
    frames = min(real.shape[2], made.shape[2])
    z = None if x.z is None or real.shape[-1] != 3 else x.z[0].numpy()
    topology = None if z is None else Topology.of(real.swapaxes(1, 2).reshape(-1, *real.shape[1::2]), z)

    def motion(a: np.ndarray, b: np.ndarray) -> Scores:
        scores = {"marginal_score": marginal_score(_axes_last(a, frames), _axes_last(b, frames))}
        if frames >= 3:
            scores |= {f"{name}_w1": value for name, value in motion_distances(a, b, dt).items()}
        if z is not None and topology is not None:
            scores |= molecule_scores(a.swapaxes(1, 2), b.swapaxes(1, 2), z, dt, topology)
        return scores

    def rows(systems: np.ndarray) -> np.ndarray:
        return (group * systems[:, None] + np.arange(group)).ravel()

    halves = rng.permutation(len(real))
    floor = motion(real[halves[::2]], real[halves[1::2]]) if len(real) > 1 else {}
    found = _resampled(lambda kept: motion(real, made[rows(kept)]), np.arange(len(made) // group), rng)
    figures = {name: replace(figure, floor=floor.get(name)) for name, figure in found.items()}
    figures |= _conserved_figures(y, x, dt)
    if z is not None and frames >= _LONG:
        figures |= _slow_figures(real, made, z)
    return figures


def _conserved_figures(generated: TrajectoryBatch, reference: TrajectoryBatch, dt: float) -> dict[str, Figure]:
    """Drift of momentum, and of energy for a simulated system; the floor is that of the reference."""
    if reference.pos.shape[2] < 3 or generated.pos.shape[2] < 3:
        return {}
    figures = {}
    made, real = (momentum_drift(batch.pos, dt).max(1) for batch in (generated, reference))
    figures["momentum_drift"] = Figure(float(made.mean()), _standard_error(made), float(real.mean()))
    drifts = [relative_energy_drift(batch, reference.meta, dt) for batch in (generated, reference)]
    if drifts[0] is not None and drifts[1] is not None:
        own, true = drifts[0][:, -1], drifts[1][:, -1]
        figures["energy_drift"] = Figure(float(np.median(own)), _median_error(own), float(np.median(true)))
    return figures


def _slow_figures(real: np.ndarray, made: np.ndarray, z: np.ndarray) -> dict[str, Figure]:
    """Slow modes of long trajectories; the floor compares the first halves of the real ones with the second."""
    a, b = real.swapaxes(1, 2), made.swapaxes(1, 2)
    lag = min(a.shape[1], b.shape[1]) // 10
    half = a.shape[1] // 2
    floor = slow_scores(a[:, :half], a[:, half:], z, min(lag, half // 4))
    return {name: Figure(value, None, floor.get(name)) for name, value in slow_scores(a, b, z, lag).items()}


def _network_figures(
    generated: TrajectoryBatch, reference: TrajectoryBatch, rng: np.random.Generator, seed: int
) -> dict[str, Figure]:
    y, x = (_drawn(batch, rng) for batch in (generated, reference))
    order = torch.from_numpy(rng.permutation(len(x)))
    halves = x.index(order[::2]), x.index(order[1::2])
    pairs: dict[str, tuple[NetworkScore, NetworkScore]] = {
        "scidiff_classification": (
            classification_score(x, y, seed=seed),
            classification_score(*halves, seed=seed),
        ),
        "scidiff_prediction": (
            prediction_score(y.index(torch.arange(min(len(y), len(halves[0])))), halves[1], seed=seed),
            prediction_score(*halves, seed=seed),
        ),
    }
    return {name: Figure(score.mean, score.std, floor.mean) for name, (score, floor) in pairs.items()}


# Helpers


def _check_same(generated: TrajectoryBatch, reference: TrajectoryBatch) -> None:
    a, b = ((x.pos.shape[1], x.pos.shape[3]) for x in (generated, reference))
    if a != b:
        raise ValueError(f"the trajectories have {a[0]} nodes in {a[1]} dimensions, the reference {b[0]} in {b[1]}.")


def _drawn(batch: TrajectoryBatch, rng: np.random.Generator, group: int = 1) -> TrajectoryBatch:
    """At most 2,000 trajectories, whole groups of rows."""
    if len(batch) <= _MOST_TRAJECTORIES:
        return batch
    kept = np.sort(rng.choice(len(batch) // group, max(1, _MOST_TRAJECTORIES // group), replace=False))
    return batch.index(torch.from_numpy((group * kept[:, None] + np.arange(group)).ravel()))


def _axes_last(pos: np.ndarray, frames: int) -> np.ndarray:
    """Positions about the centre of each trajectory, which a generated one does not know."""
    pos = pos[:, :, :frames]
    return pos - pos.mean((1, 2), keepdims=True)


def _resampled(score: Callable[[np.ndarray], Scores], rows: np.ndarray, rng: np.random.Generator) -> dict[str, Figure]:
    """Scores of all rows, with the standard deviation over resampled sets of rows."""
    value = score(rows)
    if len(rows) < 2:
        return {name: Figure(v) for name, v in value.items()}
    again = [score(rng.choice(rows, len(rows))) for _ in range(_RESAMPLES)]
    return {name: Figure(v, float(np.std([s[name] for s in again], ddof=1))) for name, v in value.items()}


def _standard_error(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None


def _median_error(values: np.ndarray) -> float | None:
    """Standard error of a median, 1.253 times that of the mean of the middle half's normal law."""
    if len(values) < 4:
        return None
    low, high = np.quantile(values, [0.25, 0.75])
    return float(1.253 * (high - low) / 1.349 / len(values) ** 0.5)
