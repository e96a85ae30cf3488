r"""Scores of trajectories: displacement errors of forecasts, and how real generated motion looks.

Positions are (B, N, F, D): systems, nodes, frames, space; samples of forecasts (B, K, N, F, D). Arrays and tensors are
both taken, results are floats or float64 arrays in the units of the data.

The marginal score is nearly blind: independent Gaussian numbers of the right variance score better than two halves of a
set of real trajectories. `motion_distances` and `energy_drift` stand beside it.

References: Gupta et al. 2018, "Social GAN" (minimum over samples of a scene); Han et al. 2024, "Geometric Trajectory
Diffusion Models", section 5 (mean and minimum over samples, marginal score); Gneiting and Raftery 2007, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from scidiff.testing import random_rotation
from trajectories.batch import TrajectoryBatch
from trajectories.data.simulators import total_energy
from trajectories.data.systems import SYSTEMS

__all__ = [
    "accelerations",
    "calibration",
    "central_velocities",
    "displacement_errors",
    "energy_drift",
    "energy_scores",
    "equivariance_error",
    "marginal_score",
    "momentum_drift",
    "motion_distances",
    "pair_distances",
    "relative_energy_drift",
    "speeds",
    "velocity_autocorrelation",
]


# Forecasts


def displacement_errors(samples: Any, target: Any, node_mask: Any = None) -> dict[str, float]:
    """Average and final displacement errors |p - g|, by each convention in use.

    ``ade_mean``: mean over nodes, frames and samples of a system, then over systems. ``ade_min``: the best sample of
    each system. ``ade_min_agent``: the best sample of each node, mean over all nodes. ``ade_min_scene``: errors are
    summed over the nodes of a system before the best sample is taken, and divided by the number of all nodes. The same
    names with ``fde`` look at the last frame; its best sample is chosen on its own.

    Args:
        samples: Forecasts (B, K, N, F, D).
        target: What happened (B, N, F, D).
        node_mask: True for real nodes, (B, N); all if None. Every system has at least one.

    Raises:
        ValueError: If shapes do not fit, or a system has no node.
    """
    p, g = _array(samples, 5, "samples"), _array(target, 4, "target")
    if p.shape[:1] + p.shape[2:] != g.shape:
        raise ValueError(f"samples must have shape (B, K, N, F, D) for target {g.shape}, got {p.shape}.")
    real = np.ones(g.shape[:2], bool) if node_mask is None else np.asarray(node_mask, dtype=bool)
    if real.shape != g.shape[:2] or not real.any(1).all():
        raise ValueError(f"node_mask must have shape {g.shape[:2]} and a real node in every system, got {real.shape}.")
    distance = np.linalg.norm(p - g[:, None], axis=-1)
    count = real.sum(1)
    scores: dict[str, float] = {}
    for name, error in (("ade", distance.mean(-1)), ("fde", distance[..., -1])):  # (B, K, N)
        total = np.where(real[:, None], error, 0).sum(2)
        scores[f"{name}_mean"] = float((total.mean(1) / count).mean())
        scores[f"{name}_min"] = float((total.min(1) / count).mean())
        scores[f"{name}_min_agent"] = float(error.min(1)[real].mean())
        scores[f"{name}_min_scene"] = float(total.min(1).sum() / count.sum())
    return scores


def energy_scores(samples: Any, target: Any) -> np.ndarray:
    """Energy score (B,) of the trajectory as one vector: mean |x_i - y| - sum_ij |x_i - x_j| / (2 K (K - 1)).

    The fair form, unbiased for the distribution behind the samples; smaller is better.

    Args:
        samples: Forecasts (B, K, N, F, D), K at least 2.
        target: What happened (B, N, F, D).

    Raises:
        ValueError: If there is one sample only.
    """
    p, g = _array(samples, 5, "samples"), _array(target, 4, "target")
    count = p.shape[1]
    if count < 2:
        raise ValueError("the energy score needs at least 2 samples a system.")
    p, g = p.reshape(*p.shape[:2], -1), g.reshape(len(g), -1)
    error = np.linalg.norm(p - g[:, None], axis=-1).mean(1)
    spread = np.stack([np.linalg.norm(paths[:, None] - paths, axis=-1).sum() for paths in p])
    return error - spread / (2 * count * (count - 1))


def calibration(samples: Any, target: Any) -> dict[str, float]:
    """Fair CRPS of a coordinate (``crps``) and the share of targets inside the central 50 and 90 % of the samples.

    A central interval runs between interpolated quantiles; with few samples its coverage is below nominal even for
    perfect forecasts.

    Args:
        samples: Forecasts (B, K, N, F, D), K at least 2.
        target: What happened (B, N, F, D).

    Raises:
        ValueError: If there is one sample only.
    """
    p, g = np.sort(_array(samples, 5, "samples"), axis=1), _array(target, 4, "target")
    count = p.shape[1]
    if count < 2:
        raise ValueError("calibration needs at least 2 samples a system.")
    weights = (2 * np.arange(count) - count + 1).reshape(1, -1, 1, 1, 1)  # sum_{i<j} (x_j - x_i) of sorted values
    crps = np.abs(p - g[:, None]).mean(1) - (weights * p).sum(1) / (count * (count - 1))
    scores = {"crps": float(crps.mean())}
    for share in (0.5, 0.9):
        low, high = np.quantile(p, [0.5 - share / 2, 0.5 + share / 2], axis=1)
        scores[f"coverage_{round(100 * share)}"] = float(((low <= g) & (g <= high)).mean())
    return scores


# Distributions


def marginal_score(real: Any, generated: Any, *, num_bins: int = 50) -> float:
    """Mean absolute difference of the densities of each coordinate axis, in ``num_bins`` bins of the real range.

    Systems, nodes and frames are pooled. Generated values outside the range of the real ones count in the total, but
    fall into no bin. Smaller is better.

    Args:
        real: Real positions (..., D).
        generated: Generated positions (..., D).
        num_bins: Bins between the least and the largest real value of an axis.

    Raises:
        ValueError: If the numbers of axes differ or an axis of the real data is constant.
    """
    x, y = (_finite(value).reshape(-1, np.shape(value)[-1]) for value in (real, generated))
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"expected equally many axes, got {x.shape[1]} real and {y.shape[1]} generated ones.")
    scores = []
    for a, b in zip(x.T, y.T, strict=True):
        if a.min() == a.max():
            raise ValueError("the real data is constant along an axis: there is no range to divide into bins.")
        edges = np.linspace(a.min(), a.max(), num_bins + 1)
        density = [np.histogram(v, edges)[0] / (len(v) * (edges[1] - edges[0])) for v in (a, b)]
        scores.append(np.abs(density[0] - density[1]).mean())
    return float(np.mean(scores))


def motion_distances(real: Any, generated: Any, dt: float) -> dict[str, float]:
    """Wasserstein-1 distances of ``speed``, ``acceleration`` (its size) and ``pair_distance``, in units of the data.

    Args:
        real: Real positions (B, N, F, D), F at least 3.
        generated: Generated positions (B', N', F', D).
        dt: Time between frames.
    """
    sides = [_array(value, 4, "positions") for value in (real, generated)]
    measures = {
        "speed": [speeds(x, dt) for x in sides],
        "acceleration": [np.linalg.norm(accelerations(x, dt), axis=-1) for x in sides],
    }
    if min(x.shape[1] for x in sides) > 1:
        measures["pair_distance"] = [pair_distances(x) for x in sides]
    return {name: float(wasserstein_distance(a.ravel(), b.ravel())) for name, (a, b) in measures.items()}


def central_velocities(pos: Any, dt: float) -> np.ndarray:
    """Velocities (x_{f+1} - x_{f-1}) / (2 dt) of the inner frames, (B, N, F - 2, D)."""
    x = _array(pos, 4, "pos", least_frames=3)
    return (x[:, :, 2:] - x[:, :, :-2]) / (2 * dt)


def speeds(pos: Any, dt: float) -> np.ndarray:
    """Sizes |x_{f+1} - x_f| / dt of the velocities between frames, (B, N, F - 1)."""
    return np.linalg.norm(np.diff(_array(pos, 4, "pos", least_frames=2), axis=2), axis=-1) / dt


def velocity_autocorrelation(pos: Any) -> np.ndarray:
    """E[v_f . v_{f+k}] / E[|v_f|^2] of the steps between frames, (F - 1,), over all nodes and frames; 1 at k = 0."""
    v = np.diff(_array(pos, 4, "pos", least_frames=2), axis=2)
    count = v.shape[2]
    power = np.fft.rfft(v, 2 * count, axis=2)
    sums = np.fft.irfft(np.abs(power) ** 2, axis=2)[:, :, :count].sum((0, 1, 3))
    mean = sums / (count - np.arange(count))
    return mean / mean[0]


def accelerations(pos: Any, dt: float) -> np.ndarray:
    """Accelerations (x_{f+1} - 2 x_f + x_{f-1}) / dt^2 of the inner frames, (B, N, F - 2, D)."""
    return np.diff(_array(pos, 4, "pos", least_frames=3), n=2, axis=2) / dt**2


def pair_distances(pos: Any) -> np.ndarray:
    """Distances of all pairs i < j, (B, N (N - 1) / 2, F)."""
    x = _array(pos, 4, "pos")
    i, j = np.triu_indices(x.shape[1], 1)
    return np.linalg.norm(x[:, i] - x[:, j], axis=-1)


# Physics


def energy_drift(pos: Any, dt: float, energy: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
    """Relative change |E_f - E_0| / |E_0| of the energy, (B, F - 2), with velocities from central differences.

    Frame differences are poor velocities where the motion is fast: compare with the drift of real frames under the same
    estimate, never with 0.

    Args:
        pos: Positions (B, N, F, D), F at least 3.
        dt: Time between frames.
        energy: Energy (B, F - 2) of positions and velocities (B, N, F - 2, D), float64 tensors; for a simulated system
            `trajectories.data.simulators.total_energy` with its kind and edge features filled in.
    """
    x = _array(pos, 4, "pos", least_frames=3)
    values = energy(torch.from_numpy(x[:, :, 1:-1].copy()), torch.from_numpy(central_velocities(x, dt))).numpy()
    return np.abs(values - values[:, :1]) / np.abs(values[:, :1])


def relative_energy_drift(batch: TrajectoryBatch, meta: Mapping[str, Any], dt: float) -> np.ndarray | None:
    """`energy_drift` (B, F - 2) of a simulated system; None if nobody says which system it is.

    Args:
        batch: Trajectories with pair features.
        meta: ``kind`` of the system, and the ``field`` in which it was simulated, see `trajectories.data.simulators`.
        dt: Time between frames.
    """
    kind, edge_attr = meta.get("kind"), batch.edge_attr
    if kind not in SYSTEMS or edge_attr is None or batch.pos.shape[2] < 3:
        return None
    field = torch.as_tensor(meta.get("field", (0.0, 0.0, 0.0)), dtype=torch.float64)

    def energy(pos: Tensor, vel: Tensor) -> Tensor:
        return total_energy(kind, pos, vel, edge_attr) - torch.einsum("bnfd,d->bf", pos, field)

    return energy_drift(batch.pos, dt, energy)


def momentum_drift(pos: Any, dt: float, masses: Any = None) -> np.ndarray:
    """Size |P_f - P_0| of the change of total momentum, (B, F - 1); for equal masses of 1 unless given as (N,)."""
    x = _array(pos, 4, "pos", least_frames=2)
    m = np.ones(x.shape[1]) if masses is None else np.asarray(masses, dtype=np.float64)
    total = np.einsum("n,bnfd->bfd", m, np.diff(x, axis=2)) / dt
    return np.linalg.norm(total - total[:, :1], axis=-1)


@torch.no_grad()
def equivariance_error(
    function: Callable[[Tensor], Tensor], pos: Tensor, *, num_rotations: int = 4, seed: int = 0
) -> float:
    """Largest |f(R x + a) - R f(x)| / (|f(x)| + 1e-8) over random rotations, one reflection and shifts.

    Norms are over the whole output of a system.

    Args:
        function: From positions (B, ..., D) to displacements (B, ..., D).
        pos: Positions to start from.
        num_rotations: Random rotations, each with a random shift of the size of the system; a reflection comes last.
        seed: Seed of the transformations.
    """
    generator = torch.Generator().manual_seed(seed)
    plain = function(pos)
    size = plain.flatten(1).norm(dim=1) + 1e-8
    worst = 0.0
    for trial in range(num_rotations + 1):
        turn = random_rotation(generator, torch.float64, pos.shape[-1], reflect=trial == num_rotations).to(pos)
        shift = torch.randn(pos.shape[-1], generator=generator, dtype=torch.float64).to(pos) * pos.std()
        error = (function(pos @ turn.T + shift) - plain @ turn.T).flatten(1).norm(dim=1)
        worst = max(worst, float((error / size).max()))
    return worst


def _finite(value: Any) -> np.ndarray:
    array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("positions must be finite numbers, got NaN or infinity.")
    return array


def _array(value: Any, ndim: int, name: str, least_frames: int = 1) -> np.ndarray:
    array = _finite(value)
    shape = "(B, N, F, D)" if ndim == 4 else "(B, K, N, F, D)"
    if array.ndim != ndim or 0 in array.shape or array.shape[-2] < least_frames:
        raise ValueError(
            f"{name} must have shape {shape} without empty axes and F of at least {least_frames}, got {array.shape}."
        )
    return array
