"""Pictures of slow modes: free energies, colours, refusals."""

import numpy as np
import pytest
from PIL import Image

from tests.trajectories.test_plots import colours
from trajectories.batch import TrajectoryBatch
from trajectories.slow_plots import _free_energy, draw_slow_modes


def peroxide(torsions):
    """Frames (..., 4, 3) of hydrogen peroxide with the given torsions about its axis."""
    zero = np.zeros_like(torsions)
    first = np.stack([zero + 0.95, zero, zero - 0.1], -1)
    last = np.stack([0.95 * np.cos(torsions), 0.95 * np.sin(torsions), zero + 1.55], -1)
    axis = np.broadcast_to(np.array([[0.0, 0, 0], [0, 0, 1.45]]), (*torsions.shape, 2, 3))
    return np.concatenate([first[..., None, :], axis, last[..., None, :]], -2)


def test_free_energies():
    """-log p above its minimum, inside plateaus wider than the smoothing; nothing where there is nothing."""
    counts = np.repeat([0, 1000, 10, 0, 1], 12)
    energy = _free_energy(counts)
    assert energy[18] == pytest.approx(0, abs=1e-9)
    assert energy[30] == pytest.approx(np.log(100), abs=1e-6)
    assert np.isnan(energy[[6, 42, 54]]).all()


def test_slow_modes(tmp_path):
    """Both sides in their colours; surfaces of equal sides are equal; what is no molecule is refused."""
    rng = np.random.default_rng(0)
    wells = np.sign(rng.normal(size=(6, 1)).repeat(60, 1)) * 1.9
    turns = wells + 0.3 * rng.normal(size=(6, 60))
    z = np.array([1, 8, 8, 1])
    real, other = (TrajectoryBatch.of(peroxide(q), z=z, dt=5.0) for q in (turns, 0.5 * turns))
    with Image.open(draw_slow_modes(other, real, tmp_path / "a.png")) as picture:
        assert {(0x9A, 0xA5, 0xB1), (0xD1, 0x49, 0x5B)} <= colours(picture)
        apart = np.asarray(picture.convert("RGB")).copy()
    with Image.open(draw_slow_modes(real, real, tmp_path / "b.png")) as picture:
        assert (np.asarray(picture.convert("RGB")) != apart).any()
        assert (0xD1, 0x49, 0x5B) in colours(picture)
    with pytest.raises(ValueError, match="atomic numbers"):
        draw_slow_modes(other, TrajectoryBatch.of(peroxide(turns)), tmp_path / "c.png")
    with pytest.raises(ValueError, match="at least 20 new frames"):
        draw_slow_modes(other, real, tmp_path / "c.png", cond_frames=50)
