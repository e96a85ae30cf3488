"""Torsions, divergences and slow modes against definitions, brute force and recorded figures."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

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

ALA2 = Path(os.environ.get("SCIDIFF_DATA", "missing")) / "trajectories" / "ala2" / "ala2_cg5.npz"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("angle", [-2.5, -0.3, 0.0, 1.2, 3.0])
def test_torsion_of_a_made_chain(angle):
    """Looking from b to c (down the z axis), d is turned clockwise from a by the angle."""
    a, b, c = np.array([1.0, 0, 0]), np.zeros(3), np.array([0, 0, -1.5])
    d = c + np.array([np.cos(angle), -np.sin(angle), -0.4])
    frame = np.stack([a, b, c, d])
    assert torsions(frame, [[0, 1, 2, 3]])[0] == pytest.approx(angle)
    assert torsions(frame * [1, -1, 1], [[3, 2, 1, 0]])[0] == pytest.approx(-angle)
    assert distances(frame, [[1, 2], [0, 1]]) == pytest.approx([1.5, 1.0])


def test_divergences(rng):
    """Equal sets are at 0, disjoint ones at sqrt(ln 2); in between scipy's value of the two histograms."""
    x, y = rng.uniform(-3, 3, size=(2, 400, 2))
    assert torsion_divergence(x, x) == pytest.approx([0, 0])
    apart = histogram_divergence(np.linspace(0, 1, 50), np.linspace(2, 3, 50))
    assert apart == pytest.approx(np.log(2) ** 0.5)
    counts = [np.histogram(v[:, 0], 100, range=(-np.pi, np.pi))[0] for v in (x, y)]
    assert torsion_divergence(x, y)[0] == pytest.approx(jensenshannon(*counts))
    assert ramachandran_divergence(x, x) == 0
    joint = [np.histogram2d(*v.T, 50, range=[(-np.pi, np.pi)] * 2)[0].ravel() for v in (x, y)]
    assert ramachandran_divergence(x, y) == pytest.approx(jensenshannon(*joint))
    assert bond_divergence(x, y) == pytest.approx(np.mean([histogram_divergence(x[:, k], y[:, k]) for k in range(2)]))
    with pytest.raises(ValueError, match="inside the limits"):
        histogram_divergence(x[:, 0], y[:, 0], limits=(10, 11))


def process(rng, frames=3000):
    """Two slow coordinates of known rates, mixed with a fast one."""
    x = np.zeros((frames, 3))
    decay = np.array([0.99, 0.8, 0.0])
    for f in range(1, frames):
        x[f] = decay * x[f - 1] + np.sqrt(1 - decay**2) * rng.normal(size=3)
    return x


def test_tica_of_one_coordinate(rng):
    """In one dimension the autocorrelation is the quotient of the symmetrised moments."""
    x = process(rng)[:, 1]
    a, b = x[:-5], x[5:]
    mean = (a.mean() + b.mean()) / 2
    wanted = 2 * ((a - mean) * (b - mean)).mean() / (((a - mean) ** 2).mean() + ((b - mean) ** 2).mean())
    assert tica(x[:, None], 5).autocorrelations == pytest.approx([wanted])
    assert vamp2(x[:, None], 5) == pytest.approx(np.corrcoef(a, b)[0, 1] ** 2)


def test_slow_modes_do_not_depend_on_coordinates(rng):
    """A linear map of the features changes neither the autocorrelations nor VAMP-2; rates are found."""
    x = process(rng)
    mixed = x @ rng.normal(size=(3, 3)) + 7
    plain, other = tica(x, 3), tica(mixed, 3)
    assert other.autocorrelations == pytest.approx(plain.autocorrelations, abs=1e-9)
    assert vamp2(mixed, 3) == pytest.approx(vamp2(x, 3), abs=1e-9)
    assert plain.autocorrelations == pytest.approx([0.99**3, 0.8**3, 0], abs=0.08)
    components = other.transform(mixed, kinetic_map=False)
    assert abs(np.corrcoef(components[:, 0], x[:, 0])[0, 1]) > 0.98
    ends = np.concatenate([components[:-3], components[3:]])
    assert ends.T @ ends / len(ends) == pytest.approx(np.eye(3), abs=1e-9)
    assert other.transform(mixed) == pytest.approx(components * other.autocorrelations)
    doubled = np.concatenate([x, x[:, :1]], 1)
    assert tica(doubled, 3).autocorrelations == pytest.approx(plain.autocorrelations, abs=1e-6)


def test_vamp2_of_a_deterministic_map(rng):
    """A rotation in space: both correlations in its plane are 1, and along the axis nothing varies."""
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    x = np.stack([np.linalg.matrix_power(turn, f) @ [1.0, 2, 3] for f in range(50)])
    assert vamp2(x, 1) == pytest.approx(2)


def test_decorrelation_by_definition(rng):
    angles = rng.uniform(-np.pi, np.pi, size=(60, 2)).cumsum(0) * 0.2
    lag = 4
    for k, value in enumerate(decorrelation(angles, [0, lag]).T):
        q = angles[:, k]
        b = np.cos(q).mean() ** 2 + np.sin(q).mean() ** 2
        c = np.mean([np.cos(q[f] - q[f + lag]) for f in range(60 - lag)])
        assert value == pytest.approx([1, (c - b) / (1 - b)])
    with pytest.raises(ValueError, match="lags"):
        decorrelation(angles, [60])


@pytest.mark.skipif(not ALA2.is_file(), reason="needs trajectories/ala2 under $SCIDIFF_DATA")
def test_alanine_dipeptide():
    """Circular means and memory of phi and psi as recorded for this file (10 ps a frame)."""
    pos = np.load(ALA2)["R"]
    angles = torsions(pos, [[0, 1, 2, 3], [1, 2, 3, 4]])
    means = np.degrees(np.arctan2(np.sin(angles).mean(0), np.cos(angles).mean(0)))
    assert means == pytest.approx([-99, 138], abs=0.5)
    assert (angles[:, 0] > 0).mean() == pytest.approx(0.024, abs=5e-4)
    wanted = [[0.240, 0.747], [0.221, 0.639], [0.215, 0.407], [0.199, 0.184]]
    assert decorrelation(angles, [1, 2, 5, 10]) == pytest.approx(np.array(wanted), abs=5.1e-4)


def test_several_trajectories(rng):
    """Pairs of frames never cross from one trajectory to the next: brute force over all pairs of each."""
    turns, lag = rng.normal(size=(3, 40, 2)).cumsum(1), 7
    x = circle_features(turns)
    early = np.concatenate([run[:-lag] for run in x])
    late = np.concatenate([run[lag:] for run in x])
    mean = (early.mean(0) + late.mean(0)) / 2
    pairs = [(early - mean, late - mean), (late - mean, early - mean)]
    zero, lagged = (sum(a.T @ b for a, b in sides) / (2 * len(early)) for sides in ([(a, a) for a, _ in pairs], pairs))
    modes = tica(x, lag)
    assert lagged @ modes.directions == pytest.approx(zero @ modes.directions * modes.autocorrelations)
    assert modes.transform(x, kinetic_map=False).shape == (3, 40, 4)
    early, late = early - early.mean(0), late - late.mean(0)
    a, b, c = early.T @ early, early.T @ late, late.T @ late
    assert vamp2(x, lag) == pytest.approx(np.trace(np.linalg.inv(a) @ b @ np.linalg.inv(c) @ b.T))
    baseline = np.cos(turns).mean((0, 1)) ** 2 + np.sin(turns).mean((0, 1)) ** 2
    product = np.mean([np.cos(run[lag:] - run[:-lag]).mean(0) for run in turns], 0)
    assert decorrelation(turns, [lag])[0] == pytest.approx((product - baseline) / (1 - baseline))
