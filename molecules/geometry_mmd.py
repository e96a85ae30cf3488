r"""Maximum mean discrepancy of bond lengths, bond angles and dihedrals, type by type.

MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y) with k the sum of five Gaussian kernels exp(-d^2 / b_i),
b_i = b 2^i / 4, i = 0..4, b the mean squared difference of the pooled values. It is computed for the most frequent
types of the reference and averaged over them, as in JODO; values are sub-sampled because the cost is quadratic.

Reference: Huang et al. 2023, "Learning Joint 2D & 3D Diffusion Models for Complete Molecule Generation" (JODO).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from molecules.batches import padded_batches
from molecules.chemistry import MoleculeRecord
from molecules.geometry import measure

__all__ = ["InternalCoordinates", "gaussian_mmd", "geometry_mmd", "internal_coordinates"]

_KERNELS = 5
_FACTOR = 2.0
_KINDS = ("length", "angle", "dihedral")

InternalCoordinates = dict[str, dict[tuple[int, ...], np.ndarray]]
"""Values by kind (length, angle, dihedral) and type (atomic numbers and bond orders along the path)."""


def internal_coordinates(records: Sequence[MoleculeRecord]) -> InternalCoordinates:
    """Lengths (angstrom), angles and absolute dihedrals (degree) of a set, grouped by type."""
    parts = [measure(batch) for batch in padded_batches(records)]
    result: InternalCoordinates = {}
    for kind in _KINDS:
        values = np.concatenate([getattr(part, kind) for part in parts] or [np.zeros(0)])
        result[kind] = {}
        if len(values):
            types = np.concatenate([getattr(part, f"{kind}_type") for part in parts])
            unique, group = np.unique(types, axis=0, return_inverse=True)
            order = np.argsort(group.reshape(-1), kind="stable")
            cuts = np.cumsum(np.bincount(group.reshape(-1)))[:-1]
            chunks = np.split(values[order], cuts)
            result[kind] = {tuple(row.tolist()): chunk for row, chunk in zip(unique, chunks)}
    return result


def geometry_mmd(
    generated: InternalCoordinates,
    reference: InternalCoordinates,
    *,
    num_types: int = 8,
    num_samples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """MMD of lengths, angles and dihedrals, each averaged over the most frequent types of the reference.

    A type that the generated set has fewer than two times is left out.

    Args:
        generated: Values of the generated set.
        reference: Values of the reference set.
        num_types: Number of types per kind.
        num_samples: Largest number of values per type and set.
        seed: Seed of the sub-sampling.

    Returns:
        ``mmd_length``, ``mmd_angle``, ``mmd_dihedral``; NaN where no type is left.
    """
    rng = np.random.default_rng(seed)
    result = {}
    for kind in _KINDS:
        frequent = sorted(reference[kind], key=lambda key: -len(reference[kind][key]))[:num_types]
        scores = []
        for key in frequent:
            pair = generated[kind].get(key, np.zeros(0)), reference[kind][key]
            if min(map(len, pair)) > 1:
                x, y = (rng.choice(v, num_samples, replace=False) if len(v) > num_samples else v for v in pair)
                scores.append(gaussian_mmd(x, y))
        result[f"mmd_{kind}"] = float(np.mean(scores)) if scores else float("nan")
    return result


def gaussian_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Biased MMD^2 of two samples of numbers, shapes (n,) and (m,), with five Gaussian kernels."""
    pooled = np.concatenate([x, y])
    squared = (pooled[:, None] - pooled[None]) ** 2
    total = len(pooled)
    bandwidth = squared.sum() / (total**2 - total) / _FACTOR ** (_KERNELS // 2)
    if bandwidth == 0.0:
        return 0.0
    kernel = np.zeros_like(squared)
    for i in range(_KERNELS):
        kernel += np.exp(-squared / (bandwidth * _FACTOR**i))
    n = len(x)
    return float(kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2.0 * kernel[:n, n:].mean())
