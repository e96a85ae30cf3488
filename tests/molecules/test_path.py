"""Denoising paths: their frames, files and films; views in notebooks."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from molecules.io import read_xyz
from molecules.path import denoising_path, draw_film, write_path
from tests.molecules.models import small_generator
from tests.molecules.test_fragments import embedded


@pytest.fixture(scope="module")
def frames():
    return denoising_path(small_generator(), seed=(3, 2), n_atoms=6, steps=5)


def test_a_path_ends_in_the_molecule_of_its_seed(frames):
    """One state a step and the molecule, which is number 2 of seed 3; the first states are noise."""
    wanted = small_generator().sample(3, n_atoms=6, steps=5, seed=3)[2]
    assert len(frames) == 6
    np.testing.assert_allclose(frames[-1].pos, wanted.pos, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(frames[-1].numbers, wanted.numbers)
    steps = [np.abs(a.pos - b.pos).max() for a, b in itertools.pairwise(frames)]
    assert min(steps) > 0


def test_fixed_atoms_rest_in_every_frame():
    mol = embedded("C1CC1")
    frames = denoising_path(small_generator(), fixed=mol, n_atoms=6, steps=4)
    wanted = mol.GetConformer().GetPositions()[:3]
    for frame in frames:
        np.testing.assert_array_equal(frame.pos[:3], wanted)


def test_files_and_films(frames, tmp_path):
    write_path(frames, tmp_path / "p.xyz")
    entries = read_xyz(tmp_path / "p.xyz")
    assert len(entries) == len(frames)
    for entry, frame in zip(entries, frames):
        np.testing.assert_allclose(entry.record.pos, frame.pos, rtol=0, atol=1e-5)
    draw_film(frames, tmp_path / "p.gif", size=1.5)
    with Image.open(tmp_path / "p.gif") as film:
        assert film.n_frames == len(frames)
        assert film.size == (135, 135)
    with pytest.raises(ValueError, match="a film is named"):
        draw_film(frames, tmp_path / "p.mp4")
    with pytest.raises(ValueError, match="at least one frame"):
        write_path([], tmp_path / "q.xyz")


def test_views_need_their_package_and_show_the_molecule(monkeypatch):
    mols, seen = small_generator().sample(2, n_atoms=4, steps=1), []
    monkeypatch.setitem(sys.modules, "py3Dmol", None)
    with pytest.raises(ImportError, match=r"pip install -e .\.\[viz\]"):
        mols.view()
    scene = SimpleNamespace(addModel=lambda *a: seen.append(a), setStyle=lambda *a: None, zoomTo=lambda: None)
    monkeypatch.setitem(sys.modules, "py3Dmol", SimpleNamespace(view=lambda **options: scene))
    assert mols.view(1) is scene
    ((text, kind),) = seen
    assert kind == "sdf"
    assert text.startswith("molecule_1\n")
    assert text.count("\n") > 4 + 4
