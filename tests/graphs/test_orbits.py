import itertools

import networkx as nx
import numpy as np
import pytest

from graphs.data import as_graph_set
from graphs.orbits import NUM_ORBITS, adjacency_stacks, orbit_counts, orbits

# sums over the nodes, computed by enumeration
PAW = [8, 4, 2, 3, 0, 0, 0, 0, 0, 1, 2, 1, 0, 0, 0]
DIAMOND = [10, 4, 2, 6, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0]
KARATE = [156, 786, 393, 135, 1362, 1362, 3294, 1098, 144, 452, 904, 452, 170, 170, 44]
PETERSEN = [30, 60, 30, 0, 120, 120, 30, 10, 0, 0, 0, 0, 0, 0, 0]
KARATE_GRAPH = nx.Graph(list(nx.karate_club_graph().edges))
SUMS = {
    "paw": (nx.Graph([(0, 1), (1, 2), (2, 0), (2, 3)]), PAW),
    "diamond": (nx.Graph([(0, 1), (1, 2), (2, 0), (1, 3), (2, 3)]), DIAMOND),
    "karate": (KARATE_GRAPH, KARATE),
    "petersen": (nx.petersen_graph(), PETERSEN),
}
SHAPES = {  # (degrees inside the subgraph, ascending): orbit by degree
    (1, 1): {1: 0},
    (1, 1, 2): {1: 1, 2: 2},
    (2, 2, 2): {2: 3},
    (1, 1, 2, 2): {1: 4, 2: 5},
    (1, 1, 1, 3): {1: 6, 3: 7},
    (2, 2, 2, 2): {2: 8},
    (1, 2, 2, 3): {1: 9, 2: 10, 3: 11},
    (2, 2, 3, 3): {2: 12, 3: 13},
    (3, 3, 3, 3): {3: 14},
}


def enumerated(graph):
    """Every connected subset of 2 to 4 nodes, named by its degrees."""
    counts = np.zeros((len(graph), NUM_ORBITS), dtype=int)
    for size in (2, 3, 4):
        for nodes in itertools.combinations(graph, size):
            part = graph.subgraph(nodes)
            if nx.is_connected(part):
                shape = SHAPES[tuple(sorted(d for _, d in part.degree))]
                for node, degree in part.degree:
                    counts[node, shape[degree]] += 1
    return counts


@pytest.mark.parametrize("name", SUMS)
def test_recorded_sums(name):
    graph, sums = SUMS[name]
    assert orbits(as_graph_set(graph)).sum(0).tolist() == sums


def test_random_graphs_equal_enumeration():
    """All densities, with isolated nodes, in one set, so that stacks are padded."""
    graphs = [nx.gnp_random_graph(n, p, seed=n) for n in (1, 4, 7, 9, 12) for p in (0.2, 0.5, 0.9)]
    found = orbits(as_graph_set(graphs))
    assert np.array_equal(found, np.concatenate([enumerated(graph) for graph in graphs]))


def test_padding_counts_nothing():
    adj = np.zeros((1, 20, 20))
    adj[0, :10, :10] = nx.to_numpy_array(nx.petersen_graph())
    assert orbit_counts(adj)[0].sum(0).tolist() == PETERSEN
    assert not orbit_counts(adj)[0, 10:].any()


@pytest.mark.parametrize("equal", [True, False])
def test_stacks_hold_every_graph_once(equal):
    graphs = as_graph_set([nx.gnp_random_graph(n, 0.3, seed=n) for n in (9, 3, 5, 5, 30, 4)])
    seen = []
    for index, adj in adjacency_stacks(graphs, equal=equal):
        seen += index.tolist()
        for k, matrix in zip(index, adj):
            n = graphs.sizes[k]
            assert np.array_equal(matrix[:n, :n], graphs.adjacency(k))
            assert not matrix[n:].any()
            assert not equal or len(matrix) == n
    assert sorted(seen) == list(range(6))
