"""Random graphs by the published rules of the benchmarks; every set follows from its seed.

References: Yang et al. 2019, "Conditional structure generation through graph variational generative adversarial nets",
and Jo et al. 2022, "Score-based generative modeling of graphs via the system of SDEs" (community-small, grid);
Martinkus et al. 2022, "SPECTRE" (planar, SBM); Bergmeister et al. 2024, "Efficient and scalable graph generation
through iterative local expansion" (trees).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import networkx as nx
import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.spatial import Delaunay

from graphs.data.graph_set import GraphSet

__all__ = [
    "GENERATORS",
    "community_fresh",
    "community_skeleton",
    "community_small",
    "erdos_renyi",
    "grid",
    "lobster",
    "planar",
    "sbm",
    "tree",
]

_P_COMMUNITY = 0.7
_P_LEG = 0.7
_BRIDGES = 0.05  # expected share of a node's cross pairs, times 2 over the community size


def community_small(num_graphs: int = 100, *, seed: int = 0) -> GraphSet:
    """Two-community graphs of 12 to 20 nodes whose communities come from fixed seeds, as in the published set.

    The communities depend on their size only: there are five skeletons, and graphs of one size differ in the few edges
    between the communities. The published 100 graphs have these skeletons.

    Args:
        num_graphs: How many.
        seed: Seed of sizes and bridges.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(12, 21, num_graphs) // 2
    graphs = [
        (2 * half, [*community_skeleton(2 * half).edges, *_bridges(half, rng).tolist()]) for half in sizes.tolist()
    ]
    return _from_pairs([(n, np.array(pairs)) for n, pairs in graphs])


def community_fresh(num_graphs: int = 1664, *, seed: int = 0, nodes: tuple[int, int] = (12, 20)) -> GraphSet:
    """The rule of `community_small` with new communities for each graph, redrawn until both are connected.

    Args:
        num_graphs: How many.
        seed: Seed of everything.
        nodes: Smallest and largest number of nodes.

    Raises:
        ValueError: If ``nodes`` is no range of sizes from 4.
    """
    low, high = nodes
    if not 4 <= low <= high:
        raise ValueError(f"nodes must be a smallest and a largest size of at least 4, got {nodes}.")
    rng = np.random.default_rng(seed)
    halves = [int(rng.integers(low, high + 1)) // 2 for _ in range(num_graphs)]
    return _from_pairs([(2 * half, _community(half, rng)) for half in halves])


@cache
def community_skeleton(num_nodes: int) -> nx.Graph:
    """The two communities of `community_small` without bridges; do not change it."""
    half = num_nodes // 2
    parts = [nx.gnp_random_graph(half, _P_COMMUNITY, seed=k) for k in (0, 1)]
    return nx.disjoint_union(*parts)


def grid(num_graphs: int = 100, *, seed: int = 0, sides: tuple[int, int] = (10, 19)) -> GraphSet:
    """Rectangular a x b lattices with a and b uniform in ``sides``.

    Args:
        num_graphs: How many.
        seed: Seed of the sides.
        sides: Smallest and largest side, both included.
    """
    rng = np.random.default_rng(seed)
    pairs = rng.integers(sides[0], sides[1] + 1, (num_graphs, 2)).tolist()
    return _flat([nx.convert_node_labels_to_integers(nx.grid_2d_graph(a, b)) for a, b in pairs])


def planar(num_graphs: int = 200, *, seed: int = 0, num_nodes: int = 64) -> GraphSet:
    """Delaunay triangulations of uniform points in the unit square.

    Args:
        num_graphs: How many.
        seed: Seed of the points.
        num_nodes: Points a graph, at least 3.
    """
    rng = np.random.default_rng(seed)
    graphs = []
    for _ in range(num_graphs):
        corners = Delaunay(rng.random((num_nodes, 2))).simplices
        pairs = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]]), axis=1)
        graphs.append((num_nodes, np.unique(pairs, axis=0)))
    return _from_pairs(graphs)


def sbm(
    num_graphs: int = 200,
    *,
    seed: int = 1,
    blocks: tuple[int, int] = (2, 5),
    block_size: tuple[int, int] = (20, 40),
    p_intra: float = 0.3,
    p_inter: float = 0.005,
) -> GraphSet:
    """Stochastic block model; not forced to be connected.

    Args:
        num_graphs: How many.
        seed: Seed of sizes and edges.
        blocks: Smallest and largest number of blocks.
        block_size: Smallest and largest block.
        p_intra: Probability of an edge inside a block.
        p_inter: Probability of an edge between blocks.
    """
    rng = np.random.default_rng(seed)
    graphs = []
    for _ in range(num_graphs):
        sizes = rng.integers(block_size[0], block_size[1] + 1, int(rng.integers(blocks[0], blocks[1] + 1)))
        block = np.repeat(np.arange(len(sizes)), sizes)
        p = np.where(block[:, None] == block, p_intra, p_inter)
        pairs = np.argwhere(np.triu(rng.random(p.shape) < p, 1))
        graphs.append((len(block), pairs))
    return _from_pairs(graphs)


def tree(num_graphs: int = 200, *, seed: int = 0, num_nodes: int = 64) -> GraphSet:
    """Uniform random labelled trees.

    Args:
        num_graphs: How many.
        seed: Seed of the trees.
        num_nodes: Nodes a tree.
    """
    rng = np.random.default_rng(seed)
    return _flat([nx.random_labeled_tree(num_nodes, seed=_word(rng)) for _ in range(num_graphs)])


def lobster(num_graphs: int = 200, *, seed: int = 0, nodes: tuple[int, int] = (10, 100), mean: int = 80) -> GraphSet:
    """Random lobsters (trees that become a path when their leaves are removed twice): a backbone of uniform length,
    legs on it and feet on the legs, one more with probability 0.7 each time, as `networkx.random_lobster_graph`.

    Args:
        num_graphs: How many.
        seed: Seed of the trees.
        nodes: Smallest and largest number of nodes; others are drawn again.
        mean: Expected length of the backbone of the unrestricted rule.
    """
    rng = np.random.default_rng(seed)
    graphs: list[tuple[int, np.ndarray]] = []
    while len(graphs) < num_graphs:
        spine = int(2 * mean * rng.random() + 0.5)
        legs = rng.geometric(1 - _P_LEG, spine) - 1
        feet = rng.geometric(1 - _P_LEG, int(legs.sum())) - 1
        total = spine + int(legs.sum() + feet.sum())
        if nodes[0] <= total <= nodes[1]:
            parents = [np.arange(spine - 1), np.repeat(np.arange(spine), legs)]
            parents.append(np.repeat(spine + np.arange(len(feet)), feet))
            graphs.append((total, np.stack([np.concatenate(parents), np.arange(1, total)], axis=1)))
    return _from_pairs(graphs)


def erdos_renyi(like: GraphSet, num_graphs: int, *, seed: int = 0) -> GraphSet:
    """Random graphs, each with the size and the expected density of a random graph of ``like``: the baseline that knows
    nothing but these two numbers.

    Args:
        like: Where sizes and densities come from.
        num_graphs: How many.
        seed: Seed of everything.
    """
    rng = np.random.default_rng(seed)
    graphs = []
    for k in rng.integers(0, len(like), num_graphs):
        n, m = int(like.sizes[k]), int(like.num_edges[k])
        p = 2 * m / max(1, n * (n - 1))
        graphs.append((n, np.argwhere(np.triu(rng.random((n, n)) < p, 1))))
    return _from_pairs(graphs)


def _community(half: int, rng: np.random.Generator) -> np.ndarray:
    """Edges of two connected G(half, 0.7) communities and their bridges."""
    return np.concatenate([_connected(half, rng), half + _connected(half, rng), _bridges(half, rng)])


def _connected(num_nodes: int, rng: np.random.Generator) -> np.ndarray:
    while True:
        adj = np.triu(rng.random((num_nodes, num_nodes)) < _P_COMMUNITY, 1)
        if connected_components(adj, directed=False, return_labels=False) == 1:
            return np.argwhere(adj)


def _bridges(half: int, rng: np.random.Generator) -> np.ndarray:
    """Each of the half^2 cross pairs with probability 0.05 * 2 / half; if none, the first nodes are joined."""
    chosen = np.argwhere(rng.random((half, half)) < _BRIDGES * 2 / half)
    return (chosen if len(chosen) else np.zeros((1, 2), dtype=np.int64)) + [0, half]


def _word(rng: np.random.Generator) -> int:
    return int(rng.integers(2**32))


def _flat(graphs: list[nx.Graph]) -> GraphSet:
    return _from_pairs([(len(graph), np.array(graph.edges, dtype=np.int64).reshape(-1, 2)) for graph in graphs])


def _from_pairs(graphs: list[tuple[int, np.ndarray]]) -> GraphSet:
    pairs = [part for _, part in graphs]
    flat = np.concatenate(pairs) if pairs else np.zeros((0, 2))
    return GraphSet(np.array([n for n, _ in graphs]), np.array([len(part) for part in pairs]), flat)


GENERATORS: dict[str, Callable[..., GraphSet]] = {
    "community_fresh": community_fresh,
    "planar": planar,
    "sbm": sbm,
    "tree": tree,
    "lobster": lobster,
}
"""Named procedural data sets."""
