"""Pictures of trajectories: what is drawn, and in which colours."""

import numpy as np
import pytest
from PIL import Image

from trajectories.batch import TrajectoryBatch
from trajectories.plots import (
    draw_ensemble,
    draw_paths,
    draw_statistics,
    flat_view,
    write_gif,
)


def corkscrew(frames=80):
    """Two nodes on a line and a circle in the plane y, z, hardly moving along x."""
    t = np.linspace(0, 6, frames)
    ring = np.stack([0.01 * t, 3 * np.cos(t), np.sin(t)], 1)
    return np.stack([ring, ring * [1, -0.5, 0]], 1)


def test_flat_view_keeps_the_plane():
    """Distances in the plane of the motion survive; a plane stays as it is, about its mean."""
    frames = corkscrew()
    view = flat_view(frames)
    wanted = np.linalg.norm(frames[:, 0, 1:] - frames[:, 1, 1:], axis=-1)
    assert np.linalg.norm(view[:, 0] - view[:, 1], axis=-1) == pytest.approx(wanted, abs=0.02)
    flat = frames[..., 1:]
    assert flat_view(flat) == pytest.approx(flat - flat.mean((0, 1)))


def colours(picture):
    return {tuple(c) for c in np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()}


def test_paths(tmp_path):
    """Both nodes end in their colour; grey is there only if frames are given."""
    blue, orange, grey = (0x3D, 0x5A, 0x80), (0xE0, 0x7A, 0x5F), (0x9A, 0xA5, 0xB1)
    with Image.open(draw_paths(corkscrew(), tmp_path / "a.png", cond_frames=80)) as given:
        assert grey in colours(given)
        assert blue not in colours(given)
    with Image.open(draw_paths(np.stack([corkscrew()] * 2), tmp_path / "b.png")) as free:
        assert {blue, orange} <= colours(free)
        assert grey not in colours(free)
        assert free.width == 2 * free.height
    with pytest.raises(ValueError, match="F and D of at least 2"):
        draw_paths(np.zeros((1, 2, 3)), tmp_path / "c.png")


def test_film(tmp_path):
    """At most 60 pictures, five seconds, something moves."""
    with Image.open(write_gif(corkscrew(80), tmp_path / "a.gif")) as film:
        assert film.n_frames == 60
        first = np.asarray(film.convert("RGB")).copy()
        assert film.info["duration"] == pytest.approx(5000 / 60, abs=10)
        film.seek(30)
        assert (np.asarray(film.convert("RGB")) != first).any()
    with Image.open(write_gif(corkscrew(7), tmp_path / "b.gif")) as short:
        assert short.n_frames == 7


def test_film_of_a_molecule(tmp_path):
    """Water that only turns stands still, its oxygen in its colour once it is no longer given."""
    angle = np.linspace(0, 3, 12)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    water = np.array([[0.0, 0.0], [0.96, 0.0], [-0.24, 0.93]])
    frames = np.concatenate([water @ turn, np.zeros((12, 3, 1))], -1)
    red = (0xE0, 0x7A, 0x5F)
    with Image.open(write_gif(frames, tmp_path / "a.gif", cond_frames=4, z=np.array([8, 1, 1]))) as film:
        assert film.n_frames == 2  # equal pictures that follow each other are one: the given, and the new frames
        assert not any(np.abs(np.subtract(colour, red)).max() < 8 for colour in colours(film))
        film.seek(1)
        assert any(np.abs(np.subtract(colour, red)).max() < 8 for colour in colours(film))


def test_ensemble(tmp_path):
    """Samples in the colours of their nodes, what was given in grey, what happened in black."""
    frames = np.stack([corkscrew() + 0.02 * k * np.arange(80)[:, None, None] for k in range(3)])
    with Image.open(draw_ensemble(frames, tmp_path / "a.png", cond_frames=20, target=corkscrew())) as picture:
        found = colours(picture)
    assert (0x9A, 0xA5, 0xB1) in found
    assert (0, 0, 0) in found


def test_statistics(tmp_path):
    """Both sides in their colours; pedestrians, one node, forecasts."""
    rng = np.random.default_rng(0)
    for nodes, seen in ((3, 0), (1, 4)):
        sides = [TrajectoryBatch.of(rng.normal(size=(5, 12, nodes, 2)).cumsum(1)) for _ in range(2)]
        with Image.open(draw_statistics(*sides, tmp_path / "a.png", cond_frames=seen)) as picture:
            assert {(0x9A, 0xA5, 0xB1), (0xD1, 0x49, 0x5B)} <= colours(picture)
