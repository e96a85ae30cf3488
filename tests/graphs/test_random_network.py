import networkx as nx
import numpy as np
import pytest

from graphs.data import from_networkx
from graphs.data.generators import community_fresh, erdos_renyi
from graphs.random_network import neighbour_figures, random_features, rbf_mmd2
from tests.graphs.test_vun import shuffled


def test_features_do_not_depend_on_the_order_of_nodes():
    graphs = [nx.gnp_random_graph(n, 0.3, seed=n) for n in (5, 9, 14)]
    features = random_features(from_networkx(graphs))
    assert features.shape == (3, 105)
    again = random_features(from_networkx([shuffled(graph, 2) for graph in graphs]))
    assert np.abs(again - features).max() < 1e-9 * np.abs(features).max()
    assert np.abs(random_features(from_networkx(graphs), seed=1) - features).max() > 1e-3
    alone = [random_features(from_networkx([graph]))[0] for graph in graphs]
    assert np.abs(np.stack(alone) - features).max() < 1e-9 * np.abs(features).max()


def test_one_layer_by_hand():
    """A path of 3: degrees 1 2 1 become 3 4 3 under A + 1; the first weights are one orthonormal row."""
    rng = np.random.default_rng(0)
    column = rng.normal(size=(35, 1))
    row = (column / np.linalg.norm(column)).T
    q, r = np.linalg.qr(rng.normal(size=(35, 35)))
    hidden = np.maximum(np.array([[3.0], [4.0], [3.0]]) @ row, 0.0)
    exact = np.maximum(hidden @ (q * np.sign(np.diag(r))), 0.0).sum(0)
    found = random_features(from_networkx([nx.path_graph(3)]))[0, :35]
    assert found == pytest.approx(exact, abs=1e-12)


def test_mmd_tells_random_graphs_from_communities():
    real, again = random_features(community_fresh(60, seed=1)), random_features(community_fresh(60, seed=2))
    other = random_features(erdos_renyi(community_fresh(60, seed=1), 60, seed=3))
    assert rbf_mmd2(real, real) == pytest.approx(0.0, abs=1e-12)
    assert rbf_mmd2(other, real) > rbf_mmd2(again, real)
    assert rbf_mmd2(np.ones((3, 2)), np.ones((4, 2))) == 0.0


def test_figures_equal_loops_over_balls():
    rng = np.random.default_rng(0)
    fake, real, k = rng.normal(size=(12, 2)), rng.normal(size=(15, 2)) + 0.5, 3

    def radius(points, i):
        return sorted(np.linalg.norm(points - points[i], axis=1))[k]

    def inside(x, points, i):
        return np.linalg.norm(x - points[i]) <= radius(points, i)

    figures = neighbour_figures(fake, real, k)
    hits = np.array([[inside(x, real, i) for i in range(15)] for x in fake])
    assert figures["precision"] == pytest.approx(np.mean(hits.any(1)))
    assert figures["density"] == pytest.approx(hits.sum() / (k * 12))
    assert figures["coverage"] == pytest.approx(np.mean(hits.any(0)))
    assert figures["recall"] == pytest.approx(np.mean([any(inside(y, fake, i) for i in range(12)) for y in real]))
    itself = {"precision": 1.0, "recall": 1.0, "coverage": 1.0, "density": (k + 1) / k}
    assert neighbour_figures(real, real, k) == pytest.approx(itself)
    with pytest.raises(ValueError, match="more than 5 graphs"):
        neighbour_figures(fake[:5], real)
