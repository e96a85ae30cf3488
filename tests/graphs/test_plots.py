import networkx as nx
import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from graphs.data import from_networkx
from graphs.data.generators import community_fresh
from graphs.data.molecules import from_smiles
from graphs.layout import num_components, stress_layout
from graphs.plots import draw_grid, draw_path, plot_statistics
from tests.graphs.test_data import attributed


def test_layout_of_a_lattice_is_flat():
    """All distances on the page are proportional to those of the lattice up to the diagonal's sqrt(2)."""
    graph = nx.convert_node_labels_to_integers(nx.grid_2d_graph(5, 7))
    pos = stress_layout(nx.to_numpy_array(graph))
    lengths = np.array([np.linalg.norm(pos[a] - pos[b]) for a, b in graph.edges])
    assert lengths.min() > 0.8 * lengths.max()
    ring = stress_layout(nx.to_numpy_array(nx.cycle_graph(12)))
    radius = np.linalg.norm(ring - ring.mean(0), axis=1)
    assert radius == pytest.approx(radius.mean(), rel=1e-3)
    assert np.isfinite(stress_layout(np.zeros((5, 5)))).all()
    assert stress_layout(np.zeros((1, 1))).shape == (1, 2)
    assert num_components(nx.to_numpy_array(nx.disjoint_union(graph, graph))) == 2


@pytest.mark.parametrize("kind", ["plain", "attributes", "molecules"])
def test_grid_draws_every_graph(tmp_path, kind):
    """The picture has ink in every cell and none outside."""
    sets = {
        "plain": community_fresh(6),
        "attributes": from_networkx(attributed()),
        "molecules": from_smiles(["CCO", "C#N", "c1ccccc1", "[NH4+]", "CC(C)=O", "O"], charges=True),
    }
    draw_grid(sets[kind], tmp_path / "a.png", columns=3, dpi=60)
    ink = imread(tmp_path / "a.png")[..., :3].min(axis=-1) < 0.9
    cells = [part for row in np.array_split(ink, 2, axis=0) for part in np.array_split(row, 3, axis=1)]
    assert all(cell.sum() > 20 for cell in cells)


def test_statistics_show_both_sets(tmp_path):
    plot_statistics(community_fresh(20, seed=1), community_fresh(20, seed=2), tmp_path / "a.png", dpi=60)
    colors = imread(tmp_path / "a.png")[..., :3].reshape(-1, 3)
    for wanted in ((0xD1, 0x49, 0x5B), (0x9A, 0xA5, 0xB1)):
        blended = 0.7 * np.array(wanted) / 255 + 0.3 if wanted[0] == 0x9A else np.array(wanted) / 255
        assert (np.abs(colors - blended).max(axis=1) < 0.02).sum() > 50
    with pytest.raises(ValueError, match="got 0 and 2"):
        plot_statistics(community_fresh(2)[:0], community_fresh(2), tmp_path / "b.png")


def test_path_ends_at_the_graph(tmp_path):
    """The last frame shows the edges of the adjacency matrix, padding is white, noise comes first."""
    adj = np.zeros((2, 6, 6))
    adj[0, 0, 1] = adj[0, 1, 0] = adj[1, 2, 3] = adj[1, 3, 2] = 1.0
    noise = np.random.default_rng(0).normal(size=(2, 6, 6))
    frames = np.stack([noise, 0.5 * noise + 0.5 * adj, adj])
    draw_path(frames, tmp_path / "a.gif", num_nodes=np.array([6, 4]), pixels=60)
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 3
        picture.seek(2)
        page = np.asarray(picture.convert("RGB")).astype(float)
    first, second = page[8:68, 8:68], page[8:68, 76:136]
    dark = first.reshape(6, 10, 6, 10, 3).mean(axis=(1, 3)).sum(-1) < 400
    assert np.array_equal(dark, adj[0] > 0)
    assert (second[41:, :] > 250).all()
    with pytest.raises(ValueError, match=r"shape \(T, B, N, N\)"):
        draw_path(adj, tmp_path / "b.gif")
