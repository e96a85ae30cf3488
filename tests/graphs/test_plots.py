from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from graphs.data import from_networkx
from graphs.data.attributes import Attributes
from graphs.data.generators import community_fresh
from graphs.data.molecules import from_smiles
from graphs.layout import num_components, stress_layout
from graphs.path import DenoisingPath
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


def test_film_fades_in_the_edges_of_the_sample(tmp_path):
    """Edges darken with their probability, unlikely ones vanish; nodes stay; the last picture is the sample alone."""
    adj = nx.to_numpy_array(nx.path_graph(6))[None, None]
    weight = np.array([0.1, 0.4, 0.7, 1.0])[:, None, None, None]
    kinds = np.ones((4, 1, 6, 6), dtype=np.uint8)
    path = DenoisingPath(weight * adj, kinds, np.zeros((4, 1, 6), dtype=np.uint8), np.array([6]), Attributes(("a",)))
    draw_path(path, tmp_path / "a.gif")
    draw_path(replace(path, probability=adj, edge_class=kinds[:1], node_class=path.node_class[:1]), tmp_path / "b.gif")
    pages = [[np.asarray(page.convert("RGB")).astype(float) for page in frames(tmp_path / f"{k}.gif")] for k in "ab"]
    first, last = pages[0], pages[1][0]
    assert (len(first), len(pages[1])) == (4, 1)
    np.testing.assert_allclose(first[-1][20:], last[20:], atol=2)  # below the title
    ink = [255 - page[20:-12].mean() for page in first]
    assert ink == sorted(ink)
    nodes = [(np.abs(page - (0x3D, 0x5A, 0x80)).max(-1) < 12)[20:-12] for page in first]
    assert nodes[0].sum() > 100
    assert all((found != nodes[0]).mean() < 1e-3 for found in nodes)
    bars = [(np.abs(page[-6] - (209, 73, 91)).max(-1) < 40).mean() for page in first]
    assert bars == pytest.approx([0.25 * bars[-1], 0.5 * bars[-1], 0.75 * bars[-1], bars[-1]], abs=0.02)
    with pytest.raises(ValueError, match=r"ends in \.gif"):
        draw_path(path, tmp_path / "b.png")
    with pytest.raises(ValueError, match="at least one graph"):
        draw_path(path, tmp_path / "c.gif", max_graphs=0)


def frames(path):
    with Image.open(path) as picture:
        for k in range(picture.n_frames):
            picture.seek(k)
            yield picture.copy()
