r"""Judgement of molecules in motion: internal coordinates from the reference, and how far generated motion is from it.

Bonds are the pairs whose mean distance in the reference is at most 1.6 angstrom; angles and torsions follow from them.
The kinetic temperature of frames is T = sum m v^2 / (4.184e-4 (3 N - 3) k_B) with v from frame differences, in amu,
angstrom/fs and kcal/mol: the centre of mass is at rest, so three degrees of freedom are missing. At 5 fs a frame such
velocities miss the stretching of C-H bonds (a period of 11 fs), so a temperature of generated frames is compared with
that of real frames by the same estimate, never with a nominal one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rdkit import Chem

from trajectories.data.md import bond_hops
from trajectories.slow_modes import (
    bond_divergence,
    circle_features,
    decorrelation,
    distances,
    histogram_divergence,
    ramachandran_divergence,
    tica,
    torsion_divergence,
    torsions,
    vamp2,
)

__all__ = [
    "BOLTZMANN",
    "KCAL",
    "Topology",
    "angles",
    "bonds_intact",
    "frame_temperature",
    "masses",
    "molecule_scores",
    "slow_scores",
]

BOLTZMANN = 0.0019872041
"""kcal/mol/K."""
KCAL = 4.184e-4
"""amu angstrom^2/fs^2 in one kcal/mol."""
_TOLERANCE = 0.25


def masses(z: Sequence[int] | np.ndarray) -> np.ndarray:
    """Atomic masses (N,) in amu."""
    table = Chem.GetPeriodicTable()
    return np.array([table.GetAtomicWeight(int(number)) for number in z])


class Topology(NamedTuple):
    """Bonds (P, 2), angles (A, 3), and one torsion (Q, 4) about every bond that has further atoms at both ends."""

    bonds: np.ndarray
    angles: np.ndarray
    torsions: np.ndarray

    @classmethod
    def of(cls, frames: np.ndarray, z: np.ndarray) -> Topology:
        """From reference frames (F, N, 3); the atoms at the ends of a torsion are the heaviest, then the first."""
        bonded = bond_hops(frames) == 1
        bonds = np.argwhere(np.triu(bonded))
        near = [np.flatnonzero(row) for row in bonded]
        bends = [(i, j, k) for j, ends in enumerate(near) for a, i in enumerate(ends) for k in ends[a + 1 :]]
        turns = []
        for b, c in bonds:
            first, last = (near[p][near[p] != q] for p, q in ((b, c), (c, b)))
            if len(first) and len(last):
                a, d = (ends[np.argmax(z[ends])] for ends in (first, last))
                if a != d:
                    turns.append((a, b, c, d))
        return cls(bonds, *(np.array(rows, int).reshape(-1, n) for rows, n in ((bends, 3), (turns, 4))))


def angles(pos: np.ndarray, triples: np.ndarray) -> np.ndarray:
    """Angles (..., A) in [0, pi] at the middle atom of frames (..., N, 3)."""
    i, j, k = np.asarray(triples).reshape(-1, 3).T
    u, v = pos[..., i, :] - pos[..., j, :], pos[..., k, :] - pos[..., j, :]
    return np.arctan2(np.linalg.norm(np.cross(u, v), axis=-1), (u * v).sum(-1))


def bonds_intact(pos: np.ndarray, reference: np.ndarray, bonds: np.ndarray) -> float:
    """Share of frames (..., N, 3) in which every bond is within 25 % of its mean length in the reference (F, N, 3)."""
    length = distances(reference, bonds).mean(0)
    return float((np.abs(distances(pos, bonds) / length - 1) <= _TOLERANCE).all(-1).mean())


def frame_temperature(pos: np.ndarray, dt: float, z: np.ndarray) -> np.ndarray:
    """Kinetic temperature (..., F - 1) in K of frames (..., F, N, 3) that are ``dt`` femtoseconds apart.

    Velocities are frame differences less that of the centre of mass.
    """
    v = np.diff(pos.astype(np.float64), axis=-3) / dt
    m = masses(z)
    v = v - np.einsum("...nd,n->...d", v, m / m.sum())[..., None, :]
    return np.einsum("...nd,n->...", v**2, m) / (KCAL * (3 * len(m) - 3) * BOLTZMANN)


def molecule_scores(
    real: np.ndarray, generated: np.ndarray, z: np.ndarray, dt: float, topology: Topology | None = None
) -> dict[str, float]:
    """Scores of generated trajectories (B, F, N, 3) of one molecule against real ones.

    ``bond_jsd``, ``angle_jsd``, ``torsion_jsd``: mean Jensen-Shannon distance of each coordinate in 100 bins;
    ``ramachandran_jsd`` of the first two torsions in 50 x 50; ``bonds_intact``: share of frames with all bonds within
    25 %; ``temperature_ratio``: mean kinetic temperature of frames over that of the real ones.

    Args:
        real: Real trajectories.
        generated: Generated ones.
        z: Atomic numbers (N,).
        dt: Femtoseconds between frames.
        topology: Bonds, angles and torsions; those of the real trajectories if None.
    """
    shape = real.shape[-2:]
    x, y = real.reshape(-1, *shape), generated.reshape(-1, *shape)
    found = Topology.of(x, z) if topology is None else topology
    scores: dict[str, float] = {}
    if len(found.bonds):
        lengths = distances(x, found.bonds), distances(y, found.bonds)
        scores["bond_jsd"] = bond_divergence(*lengths)
        scores["bonds_intact"] = bonds_intact(y, x, found.bonds)
    if len(found.angles):
        scores["angle_jsd"] = bond_divergence(angles(x, found.angles), angles(y, found.angles))
    if len(found.torsions):
        turns = torsions(x, found.torsions), torsions(y, found.torsions)
        scores["torsion_jsd"] = float(torsion_divergence(*turns).mean())
        if len(found.torsions) > 1:
            scores["ramachandran_jsd"] = ramachandran_divergence(turns[0][:, :2], turns[1][:, :2])
    if real.shape[1] > 1:
        temperature = [float(frame_temperature(part, dt, z).mean()) for part in (real, generated)]
        scores["temperature_ratio"] = temperature[1] / temperature[0]
    return scores


def slow_scores(real: np.ndarray, generated: np.ndarray, z: np.ndarray, lag: int) -> dict[str, float]:
    """Slow modes of long trajectories (F, N, 3) or (B, F, N, 3) of one molecule, from its torsions.

    ``tica_jsd``: Jensen-Shannon distance of both sets along the slowest component of the real one (100 bins);
    ``tica_plane_jsd``: along the first two (50 x 50); ``vamp2_gap``: VAMP-2 score of the real less that of the
    generated trajectory; ``decorrelation_error``: mean absolute difference of the decorrelation up to ``lag``.

    Args:
        real: Real trajectories.
        generated: Generated trajectories.
        z: Atomic numbers (N,).
        lag: Frames of the lag, well below both lengths.
    """
    found = Topology.of(real.reshape(-1, *real.shape[-2:]), z)
    if not len(found.torsions):
        return {}
    turns = [torsions(frames, found.torsions) for frames in (real, generated)]
    features = [circle_features(q) for q in turns]
    modes = tica(features[0], lag, num_modes=2)
    x, y = (modes.transform(values).reshape(-1, modes.directions.shape[1]) for values in features)
    lags = np.unique(np.linspace(1, lag, min(lag, 20)).round().astype(int)).tolist()
    memory = [decorrelation(q, lags) for q in turns]
    scores = {"tica_jsd": histogram_divergence(x[:, 0], y[:, 0])}
    if x.shape[1] > 1:
        scores["tica_plane_jsd"] = histogram_divergence(x[:, :2], y[:, :2], num_bins=(50, 50))
    scores["vamp2_gap"] = vamp2(features[0], lag) - vamp2(features[1], lag)
    scores["decorrelation_error"] = float(np.abs(memory[0] - memory[1]).mean())
    return scores
