"""Validity, uniqueness and novelty up to isomorphism, and the share of copies of training graphs.

Graphs are sorted by a Weisfeiler-Lehman hash first; inside a bucket isomorphism is decided exactly, with the colours as
node labels, so that almost nothing is left to search. Categorical attributes of nodes and edges count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import networkx as nx
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from graphs.data.graph_set import GraphSet
from graphs.sbm import is_sbm

__all__ = ["FAMILIES", "connected", "isomorphism_classes", "novel", "unique", "valid", "wl_colors", "wl_hashes"]

_ROUNDS = 5


def isomorphism_classes(*sets: GraphSet, attributes: bool = True) -> list[np.ndarray]:
    """One class number a graph, the same for isomorphic graphs of all sets.

    Args:
        sets: Sets of graphs.
        attributes: Whether node and edge classes must agree, too.
    """
    keys = [_keys(graphs, attributes) for graphs in sets]
    _, place, counts = np.unique(np.concatenate(keys), axis=0, return_inverse=True, return_counts=True)
    numbers = place.reshape(-1).astype(np.int64)  # graphs with a key of their own need no more
    shared = np.split(counts[numbers] > 1, np.cumsum([len(part) for part in keys])[:-1])
    found = np.split(numbers, np.cumsum([len(part) for part in keys])[:-1])
    buckets: dict[int, list[tuple[nx.Graph, int]]] = {}
    more = len(counts)
    for graphs, is_shared, own in zip(sets, shared, found):
        colors = wl_colors(graphs, attributes=attributes)
        edge_codes = _codes(graphs, "edge") if attributes else np.zeros(len(graphs.edges), dtype=np.uint64)
        for k in np.flatnonzero(is_shared).tolist():
            graph, known = _colored(graphs, k, colors, edge_codes), buckets.setdefault(int(own[k]), [])
            match = next((number for other, number in known if _isomorphic(graph, other)), None)
            if match is None:
                match, more = (own[k], more) if not known else (more, more + 1)
                known.append((graph, match))
            own[k] = match
    return found


def unique(classes: np.ndarray) -> np.ndarray:
    """Which graphs are not isomorphic to an earlier one, (G,) bool."""
    is_first = np.zeros(len(classes), dtype=bool)
    is_first[np.unique(classes, return_index=True)[1]] = True
    return is_first


def novel(classes: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Which graphs are isomorphic to no training graph, (G,) bool."""
    return ~np.isin(classes, training)


def wl_colors(graphs: GraphSet, *, attributes: bool = True, rounds: int = _ROUNDS) -> np.ndarray:
    """Weisfeiler-Lehman colours (V,) uint64; equal numbers mean equal neighbourhoods, in all sets and on all machines.

    Args:
        graphs: The graphs.
        attributes: Whether node and edge classes are part of the colours.
        rounds: Rounds of refinement.
    """
    first = graphs.offsets[:-1][graphs.edge_owner]
    i, j = graphs.edges[:, 0] + first, graphs.edges[:, 1] + first
    edge = _codes(graphs, "edge") if attributes else np.zeros(len(i), dtype=np.uint64)
    colors = graphs.degrees.astype(np.uint64)
    if attributes:
        colors = _mix(colors) + _codes(graphs, "node")
    for _ in range(rounds):
        mixed = _mix(colors)
        heard = np.zeros_like(colors)
        np.add.at(heard, i, _mix(mixed[j] ^ edge))
        np.add.at(heard, j, _mix(mixed[i] ^ edge))
        colors = _mix(mixed + np.uint64(3) * heard)
    return colors


def wl_hashes(graphs: GraphSet, *, attributes: bool = True) -> np.ndarray:
    """One number a graph (G,) uint64, the same for isomorphic graphs, in all sets and on all machines."""
    if not len(graphs):
        return np.zeros(0, dtype=np.uint64)
    return np.add.reduceat(_mix(wl_colors(graphs, attributes=attributes)), graphs.offsets[:-1])


def connected(graphs: GraphSet) -> np.ndarray:
    """Which graphs are connected, (G,) bool."""
    rows = graphs.edges + graphs.offsets[:-1][graphs.edge_owner][:, None]
    total = int(graphs.offsets[-1])
    links = coo_matrix((np.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape=(total, total))
    _, component = connected_components(links, directed=False)
    owner = np.repeat(np.arange(len(graphs)), graphs.sizes)
    return np.bincount(owner[np.unique(component, return_index=True)[1]], minlength=len(graphs)) == 1


def valid(graphs: GraphSet, family: str) -> np.ndarray:
    """Which graphs belong to a family, (G,) bool; see `FAMILIES`.

    Raises:
        ValueError: If the family is unknown.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}.")
    return np.array([FAMILIES[family](graph) for graph in graphs.without_attributes()], dtype=bool)


def _keys(graphs: GraphSet, attributes: bool) -> np.ndarray:
    """Nodes, edges and hash (G, 3) of every graph."""
    counts = [graphs.sizes.astype(np.uint64), graphs.num_edges.astype(np.uint64)]
    return np.stack([*counts, wl_hashes(graphs, attributes=attributes)], axis=1)


def _is_planar(graph: nx.Graph) -> bool:
    return nx.is_connected(graph) and nx.check_planarity(graph)[0]


def _is_lobster(graph: nx.Graph) -> bool:
    """A tree that becomes a path, or nothing, when its leaves are removed twice."""
    if not nx.is_tree(graph):
        return False
    rest = graph.copy()
    for _ in range(2):
        rest.remove_nodes_from([node for node, degree in rest.degree if degree <= 1])
    return all(degree <= 2 for _, degree in rest.degree)


def _is_grid(graph: nx.Graph, largest: int = 19) -> bool:
    """Isomorphic to an a x b lattice with 2 <= a, b <= 19."""
    n, m = graph.number_of_nodes(), graph.number_of_edges()
    for a in range(2, min(largest, int(n**0.5)) + 1):
        b = n // a
        if a * b == n and b <= largest and m == 2 * n - a - b:
            lattice = nx.convert_node_labels_to_integers(nx.grid_2d_graph(a, b))
            if _isomorphic_plain(graph, lattice):
                return True
    return False


def _is_community(graph: nx.Graph) -> bool:
    """Connected, and the bisection of best modularity gives two connected halves, dense inside (density at least 0.4)
    and sparse between (at most 0.15), whose sizes differ by at most 2.
    """
    n = graph.number_of_nodes()
    if n < 4 or not nx.is_connected(graph):
        return False
    adj = nx.to_numpy_array(graph)
    side = _bisection(adj)
    sizes = side.sum(), n - side.sum()
    if abs(int(sizes[0]) - int(sizes[1])) > 2:
        return False
    inside = [adj[np.ix_(part, part)] for part in (side, ~side)]
    dense = all(part.sum() >= 0.4 * len(part) * (len(part) - 1) for part in inside)
    together = all(nx.is_connected(nx.from_numpy_array(part)) for part in inside)
    return bool(dense and together and adj[np.ix_(side, ~side)].mean() <= 0.15)


FAMILIES: dict[str, Callable[[nx.Graph], bool]] = {
    "planar": _is_planar,
    "tree": nx.is_tree,
    "lobster": _is_lobster,
    "grid": _is_grid,
    "community": _is_community,
    "sbm": is_sbm,
}
"""Validity by family. ``sbm`` is approximate (`graphs.sbm`): read its rate beside that of the training graphs."""


def _bisection(adj: np.ndarray) -> np.ndarray:
    """Two parts of high modularity: the sign of the leading eigenvector, then single moves while they help."""
    degree = adj.sum(0)
    modularity = adj - np.outer(degree, degree) / max(degree.sum(), 1.0)
    sign = np.where(np.linalg.eigh(modularity)[1][:, -1] >= 0, 1.0, -1.0)
    for _ in range(len(adj)):
        gain = np.diag(modularity) - sign * (modularity @ sign)
        best = int(np.argmax(gain))
        if gain[best] <= 1e-9:
            break
        sign[best] = -sign[best]
    return sign > 0


def _isomorphic_plain(first: nx.Graph, second: nx.Graph) -> bool:
    from graphs.data.convert import from_networkx

    a, b = isomorphism_classes(from_networkx([first]), from_networkx([second]), attributes=False)
    return bool(a[0] == b[0])


def _isomorphic(first: nx.Graph, second: nx.Graph) -> bool:
    return nx.is_isomorphic(
        first, second, node_match=lambda a, b: a["c"] == b["c"], edge_match=lambda a, b: a["c"] == b["c"]
    )


def _colored(graphs: GraphSet, k: int, colors: np.ndarray, edge_codes: np.ndarray) -> nx.Graph:
    """Graph k with its colours and edge codes as labels."""
    nodes = colors[graphs.offsets[k] : graphs.offsets[k + 1]].tolist()
    rows = slice(graphs.edge_offsets[k], graphs.edge_offsets[k + 1])
    graph = nx.Graph()
    graph.add_nodes_from((i, {"c": color}) for i, color in enumerate(nodes))
    pairs = zip(graphs.edges[rows].tolist(), edge_codes[rows].tolist())
    graph.add_edges_from((i, j, {"c": code}) for (i, j), code in pairs)
    return graph


def _codes(graphs: GraphSet, kind: str) -> np.ndarray:
    """A number for the categorical values of each node or edge, the same under every vocabulary."""
    names = getattr(graphs.attributes, f"{kind}_names")
    labels = graphs.node_label if kind == "node" else graphs.edge_label
    if labels is None or not names:
        return np.zeros(int(graphs.offsets[-1]) if kind == "node" else len(graphs.edges), dtype=np.uint64)
    classes: Sequence[tuple] = getattr(graphs.attributes, f"{kind}_classes")
    table = [_code(sorted(zip(names, values))) for values in classes]
    return np.array(table, dtype=np.uint64)[labels - (1 if kind == "edge" else 0)]


def _code(value: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=8).digest(), "little")


def _mix(x: np.ndarray) -> np.ndarray:
    """Bijection of 64-bit words that scatters them (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
