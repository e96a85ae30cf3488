import itertools

import networkx as nx
import numpy as np
import pytest

from graphs.data import from_networkx
from graphs.data.generators import community_fresh, erdos_renyi, grid, lobster, planar, sbm, tree
from graphs.data.sources import load_named, split_codes
from graphs.sbm import block_partition, sbm_verdict
from graphs.vun import FAMILIES, connected, isomorphism_classes, novel, unique, valid, wl_colors
from scidiff.assets import data_folder

needs_data = pytest.mark.skipif(data_folder() is None, reason="needs the data folder")


def shuffled(graph, seed):
    order = np.random.default_rng(seed).permutation(len(graph))
    mapped = nx.relabel_nodes(graph, dict(zip(graph, order.tolist())))
    return mapped.__class__(nx.relabel_nodes(mapped, {}).subgraph(sorted(mapped)))


def test_classes_equal_pairwise_isomorphism():
    """All graphs of 4 nodes, and the pair that colours cannot tell apart: two triangles and a hexagon."""
    pairs = list(itertools.combinations(range(4), 2))
    graphs = []
    for chosen in itertools.product((0, 1), repeat=len(pairs)):
        graph = nx.empty_graph(4)
        graph.add_edges_from(pair for pair, used in zip(pairs, chosen) if used)
        graphs.append(graph)
    (classes,) = isomorphism_classes(from_networkx(graphs))
    assert len(set(classes)) == 11  # graphs of 4 nodes up to isomorphism
    for i, j in itertools.combinations(range(0, 64, 5), 2):
        assert (classes[i] == classes[j]) == nx.is_isomorphic(graphs[i], graphs[j])
    hard = from_networkx([nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3)), nx.cycle_graph(6)])
    assert len(set(wl_colors(hard).tolist())) == 1
    assert len(set(isomorphism_classes(hard)[0])) == 2


def test_order_of_nodes_does_not_matter_but_attributes_do():
    graphs = [nx.gnp_random_graph(15, 0.3, seed=k) for k in range(10)]
    a, b = isomorphism_classes(from_networkx(graphs), from_networkx([shuffled(g, 1) for g in graphs]))
    assert np.array_equal(a, b)
    assert unique(a).all()
    assert not novel(b, a).any()
    colored = nx.path_graph(3)
    nx.set_node_attributes(colored, {0: "a", 1: "b", 2: "a"}, "kind")
    other = colored.copy()
    other.nodes[2]["kind"] = "b"
    sets = from_networkx([colored]), from_networkx([other])
    first, second = isomorphism_classes(*sets)
    assert first != second
    first, second = isomorphism_classes(*sets, attributes=False)
    assert first == second
    first, second = isomorphism_classes(from_networkx([colored]), from_networkx([colored, other])[:1])
    assert first == second  # vocabularies differ, values agree


def test_unique_keeps_the_first():
    assert unique(np.array([3, 1, 3, 1, 2])).tolist() == [True, True, False, False, True]
    assert novel(np.array([3, 1, 2]), np.array([1, 7])).tolist() == [True, False, True]


@needs_data
@pytest.mark.parametrize(("name", "copies"), [("community_small", 0.5), ("ego_small", 0.7)])
def test_share_of_test_graphs_that_are_copies(name, copies):
    graphs = load_named(name)
    graphs = graphs.with_split(split_codes(graphs, "gdss", 0.0))
    train, test = isomorphism_classes(graphs.part("train"), graphs.part("test"))
    assert 1 - novel(test, train).mean() == copies


REAL = {"planar": planar(5), "tree": tree(5), "lobster": lobster(5), "grid": grid(3, sides=(3, 6))}
FALSE = {
    "planar": [nx.complete_graph(5), nx.disjoint_union(nx.path_graph(2), nx.path_graph(2))],
    "tree": [nx.cycle_graph(4), nx.disjoint_union(nx.path_graph(2), nx.path_graph(2))],
    "lobster": [nx.balanced_tree(2, 4), nx.cycle_graph(4)],
    "grid": [nx.cycle_graph(6), nx.grid_2d_graph(3, 20), nx.circular_ladder_graph(4)],
}


@pytest.mark.parametrize("family", REAL)
def test_families(family):
    assert valid(REAL[family], family).all()
    wrong = from_networkx([nx.convert_node_labels_to_integers(graph) for graph in FALSE[family]])
    assert not valid(wrong, family).any()
    with pytest.raises(ValueError, match=", ".join(FAMILIES)):
        valid(wrong, "forest")


def test_communities():
    graphs = community_fresh(100, seed=3)
    assert valid(graphs, "community").mean() > 0.9
    assert valid(erdos_renyi(graphs, 100), "community").mean() < 0.2


def test_connected_graphs_are_those_of_networkx():
    graphs = [nx.gnp_random_graph(n, 1.6 / n, seed=k) for k in range(8) for n in (1, 2, 3, 7)]
    found = connected(from_networkx(graphs))
    assert found.tolist() == [nx.is_connected(graph) for graph in graphs]
    assert 0 < found.sum() < len(found)


def test_blocks_are_found_and_the_verdict_is_the_published_one():
    """The partition equals the planted one; about 92 % of true graphs pass with it (recorded over 400 draws)."""
    rng = np.random.default_rng(7)
    graphs = sbm(30, seed=7)
    planted, found = [], []
    for k in range(30):
        sizes = rng.integers(20, 41, int(rng.integers(2, 6)))
        block = np.repeat(np.arange(len(sizes)), sizes)
        rng.random((len(block), len(block)))  # the draws of the edges
        ours = block_partition(graphs.adjacency(k))
        assert len(set(zip(block.tolist(), ours.tolist()))) == len(sizes) == ours.max() + 1
        planted.append(sbm_verdict(graphs.adjacency(k), block))
        found.append(sbm_verdict(graphs.adjacency(k), ours))
    assert planted == found
    assert np.mean(planted) > 0.92 - 3 * (0.92 * 0.08 / 30) ** 0.5
    assert valid(erdos_renyi(graphs, 10), "sbm").sum() == 0
    assert valid(sbm(20, seed=3, p_intra=0.2, p_inter=0.02), "sbm").mean() < 0.3


def test_wald_statistic_by_hand():
    """Two complete blocks of 20 without links: p = 1 and 0 instead of 0.3 and 0.005."""
    adj = np.kron(np.eye(2), np.ones((20, 20)) - np.eye(20))
    assert not sbm_verdict(adj, np.repeat([0, 1], 20))
    exact = np.zeros((40, 40))
    exact[:20, :20] = nx.to_numpy_array(nx.random_regular_graph(6, 20, seed=0))  # p = 6 / 19
    exact[20:, 20:] = exact[:20, :20]
    exact[0, 20] = exact[20, 0] = exact[1, 21] = exact[21, 1] = 1.0  # p = 2 / 400, exactly 0.005
    # W = (6/19 - 0.3)^2 / (6/19 13/19) = 0.00115, 1 - F = 0.973 twice, and 1 twice
    assert sbm_verdict(exact, np.repeat([0, 1], 20))
    assert not sbm_verdict(exact, np.repeat([0, 1], [19, 21]))
