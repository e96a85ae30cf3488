"""Pictures: sizes, marks of failures, and no trace in matplotlib's global state."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from molecules.chemistry import judge
from molecules.depict import _drawable
from molecules.molecule_list import MoleculeList
from molecules.plots import (
    draw_grid,
    draw_grid_3d,
    draw_molecule_3d,
    grid_png,
    plot_distributions,
    plot_properties,
)
from tests.molecules.toys import aromatic_water, from_smiles, make, methane, packaged, two_methanes


@pytest.fixture
def mols():
    methyl = make("C H H H", [(0, 1, 1), (0, 2, 1), (0, 3, 1)])
    alien = make("C", []).take([])
    return MoleculeList([from_smiles("CCO"), methyl, aromatic_water(), two_methanes(), alien])


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_grid_marks_failures_and_only_them(mols, tmp_path):
    """Panel 0 is white, the others have the pale red ground; only failures with known atoms carry the red discs."""
    draw_grid(mols, tmp_path / "g.png", columns=5, cell=200)
    image = pixels(tmp_path / "g.png")
    assert image.shape == (208, 5 * 204 + 4, 3)
    panels = [image[10:200, 4 + 204 * k : 204 + 204 * k] for k in range(5)]
    assert [tuple(panel[0, 0]) == (255, 255, 255) for panel in panels] == [True, False, False, False, False]

    def reddish(panel):
        return int(((panel[..., 0] > 230) & (panel[..., 1] < 150) & (panel[..., 2] < 150)).sum())

    counts = [reddish(panel) for panel in panels]
    assert min(counts[1], counts[3]) > 100 + max(counts[2], counts[4])


def test_failed_molecules_are_drawn_as_generated():
    """Five bonds at carbon stay five; ordinary hydrogens go into labels, offending atoms are the marked ones."""
    record = make("C H H H O H", [(0, 1, 1), (0, 2, 1), (0, 3, 1), (0, 4, 2), (4, 5, 1)])
    verdict = judge(record)
    mol, marked = _drawable(record, verdict)
    assert verdict.atoms == (0, 4)
    assert marked == [0, 1]
    assert [atom.GetNumExplicitHs() for atom in mol.GetAtoms()] == [3, 1]
    assert mol.GetBondBetweenAtoms(0, 1).GetBondTypeAsDouble() == 2.0


def test_valid_molecules_are_drawn_without_hydrogens():
    record = from_smiles("CCO")
    mol, marked = _drawable(record, judge(record))
    assert mol.GetNumAtoms() == 3
    assert marked == []


def test_grid_rows_and_limits(mols, tmp_path):
    draw_grid(mols, tmp_path / "g.png", max_molecules=3, columns=2, cell=100)
    assert pixels(tmp_path / "g.png").shape == (2 * 104 + 4, 2 * 104 + 4, 3)
    assert Image.open(io.BytesIO(grid_png(mols[:1]))).size == (268, 268)
    with pytest.raises(ValueError, match="expected molecules"):
        grid_png(mols[:0])


def test_grid_3d(mols, tmp_path):
    draw_grid_3d(mols, tmp_path / "g.png", columns=3, cell=1.5, dpi=100)
    assert pixels(tmp_path / "g.png").shape == (300, 450, 3)
    assert (pixels(tmp_path / "g.png") < 250).any(axis=-1).sum() > 1000
    with pytest.raises(ValueError, match="coordinates"):
        draw_grid_3d(MoleculeList([from_smiles("C", embed=False)]), tmp_path / "h.png")
    assert not (tmp_path / "h.png").exists()


def test_the_view_keeps_distances_and_handedness():
    """The picture is an orthogonal projection of a rotated molecule: gyration and chirality are those of the record."""
    from molecules.ball_and_stick import _oriented

    record = from_smiles("C[C@H](N)O")
    turned = _oriented(record.pos, np.ones(len(record), dtype=bool))
    centred = record.pos - record.pos.mean(axis=0)
    np.testing.assert_allclose(turned @ turned.T, centred @ centred.T, atol=1e-9)
    volume = [np.linalg.det(pos[1:4] - pos[0]) for pos in (turned, centred)]
    assert volume[0] == pytest.approx(volume[1])


def test_diverged_atoms_are_left_out():
    broken = methane()
    broken.pos[1] = np.nan
    axis = Figure().subplots()
    draw_molecule_3d(axis, broken, marked=(0,))
    # Four patches an atom and one ring; three bonds remain.
    assert len(axis.patches) == 4 * 4 + 1
    assert len(axis.lines) == 3


def test_histograms(tmp_path):
    records = packaged(100)
    plot_distributions(records[:50], records[50:], tmp_path / "d.png", dpi=60)
    assert pixels(tmp_path / "d.png").shape[2] == 3
    with pytest.raises(ValueError, match="two sets"):
        plot_distributions([], records, tmp_path / "e.png")


def test_global_state_is_untouched(mols, tmp_path):
    before = dict(mpl.rcParams)
    draw_grid_3d(mols[:2], tmp_path / "g.png", cell=1.0)
    plot_distributions([methane()], [methane()], tmp_path / "d.png")
    assert dict(mpl.rcParams) == before
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []


def test_notebooks_show_a_picture(mols):
    assert mols._repr_png_()[:4] == b"\x89PNG"
    assert MoleculeList([])._repr_png_() is None


def test_histograms_of_properties_show_both_sets_and_the_wish(tmp_path):
    """The line of the wish stands where its value lies on the axis; failures are left out; gaps are refused."""
    rng = np.random.default_rng(0)
    theirs, ours = {"logp": rng.normal(0, 1, 500)}, {"logp": np.append(rng.normal(1, 0.3, 200), np.nan)}
    plot_properties(ours, theirs, tmp_path / "with.png", wishes={"logp": 1.0})
    plot_properties(ours, theirs, tmp_path / "without.png")
    with_wish, without = pixels(tmp_path / "with.png"), pixels(tmp_path / "without.png")
    assert with_wish.shape == without.shape
    changed = np.abs(with_wish[60:260] - without[60:260]).sum((0, 2)).argmax() / with_wish.shape[1]
    assert 0.5 < changed < 0.9  # right of the middle of an axis from about -3 to 3
    with pytest.raises(ValueError, match="tpsa has none"):
        plot_properties({"tpsa": np.ones(3)}, theirs, tmp_path / "no.png")
