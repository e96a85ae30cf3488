"""Between `GraphSet` and the objects of the field: networkx graphs and PyTorch Geometric `Data`.

Nodes are numbered in their order; attributes come and go as they are. What the models cannot represent (directed
graphs, multigraphs, self-loops, empty graphs) is refused with one sentence.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np

from graphs.data.attributes import Attributes, encode, encode_labels, table
from graphs.data.graph_set import GraphSet

__all__ = ["as_graph_set", "from_networkx", "from_pyg", "to_networkx", "to_pyg"]

_LABEL = "label"


def as_graph_set(graphs: Any, **options: Any) -> GraphSet:
    """A `GraphSet` from anything that holds graphs.

    Args:
        graphs: A `GraphSet` or `GraphList`, one or several networkx graphs, PyG ``Data``, or a PyG ``Batch``.
        options: Those of `from_networkx`.

    Raises:
        TypeError: If it is something else.
        ValueError: If a graph cannot be represented.
    """
    if isinstance(graphs, GraphSet):
        return graphs
    if hasattr(graphs, "graph_set"):  # a `graphs.GraphList`
        return graphs.graph_set
    if isinstance(graphs, nx.Graph):
        return from_networkx([graphs], **options)
    if hasattr(graphs, "to_data_list"):
        return from_pyg(graphs.to_data_list(), **options)
    if hasattr(graphs, "edge_index"):
        return from_pyg([graphs], **options)
    if isinstance(graphs, Iterable) and not isinstance(graphs, str | bytes | Mapping):
        items = list(graphs)
        if all(isinstance(item, nx.Graph) for item in items):
            return from_networkx(items, **options)
        if all(hasattr(item, "edge_index") for item in items):
            return from_pyg(items, **options)
        kinds = ", ".join(sorted({type(item).__name__ for item in items}))
        raise TypeError(f"expected networkx graphs or PyG Data, got a list of {kinds}.")
    raise TypeError(f"expected a list of networkx graphs or PyG Data, got {type(graphs).__name__}.")


def from_networkx(
    graphs: Sequence[nx.Graph],
    *,
    symmetrize: bool = False,
    remove_self_loops: bool = False,
    node_attributes: Sequence[str] | None = None,
    edge_attributes: Sequence[str] | None = None,
) -> GraphSet:
    """Flat arrays of networkx graphs; a graph attribute ``label`` becomes the graph label.

    Args:
        graphs: Undirected simple graphs with any node names.
        symmetrize: Take a directed graph as undirected.
        remove_self_loops: Leave self-loops out.
        node_attributes: Attributes to keep; None keeps all, an empty list none.
        edge_attributes: Attributes to keep.

    Raises:
        ValueError: If there is no graph, or one is directed, a multigraph, empty, has self-loops, or attributes that
            cannot be represented.
    """
    if not len(graphs):
        raise ValueError("expected at least one graph, got an empty list.")
    plain = [_undirected(graph, k, symmetrize, remove_self_loops) for k, graph in enumerate(graphs)]
    sizes = [graph.number_of_nodes() for graph in plain]
    numbers = [{node: i for i, node in enumerate(graph)} for graph in plain]
    rows = [[(n[a], n[b], data) for a, b, data in graph.edges(data=True)] for n, graph in zip(numbers, plain)]
    counts = [len(part) for part in rows]
    node_rows = [data for graph in plain for _, data in graph.nodes(data=True)]
    edge_rows = [data for part in rows for _, _, data in part]
    owners = np.arange(len(plain))
    nodes = encode(table(node_rows, "node", node_attributes, np.repeat(owners, sizes).tolist()), "node")
    edges = encode(table(edge_rows, "edge", edge_attributes, np.repeat(owners, counts).tolist()), "edge")
    name, classes, index = _labels([graph.graph.get(_LABEL) for graph in plain], _LABEL)
    return GraphSet(
        np.array(sizes),
        np.array(counts),
        np.array([(i, j) for part in rows for i, j, _ in part], dtype=np.int64),
        node_label=nodes.index,
        x=nodes.values,
        edge_label=None if edges.index is None else edges.index + 1,
        edge_x=edges.values,
        graph_label=index,
        attributes=Attributes(
            nodes.names, nodes.classes, nodes.features, edges.names, edges.classes, edges.features, name, classes
        ),
    )


def to_networkx(graphs: GraphSet, k: int) -> nx.Graph:
    """Graph k with nodes 0 .. n - 1 and all its attributes."""
    attributes = graphs.attributes
    nodes = slice(graphs.offsets[k], graphs.offsets[k + 1])
    edges = slice(graphs.edge_offsets[k], graphs.edge_offsets[k + 1])
    graph = nx.Graph()
    node_data = _rows(attributes.node_names, attributes.node_classes, _part(graphs.node_label, nodes), 0)
    node_real = _reals(attributes.node_features, _part(graphs.x, nodes))
    edge_data = _rows(attributes.edge_names, attributes.edge_classes, _part(graphs.edge_label, edges), 1)
    edge_real = _reals(attributes.edge_features, _part(graphs.edge_x, edges))
    for i in range(int(graphs.sizes[k])):
        graph.add_node(i, **_at(node_data, i), **_at(node_real, i))
    for row, (i, j) in enumerate(graphs.edges[edges].tolist()):
        graph.add_edge(i, j, **_at(edge_data, row), **_at(edge_real, row))
    if graphs.graph_label is not None:
        graph.graph[attributes.graph_name or _LABEL] = attributes.graph_classes[int(graphs.graph_label[k])]
    return graph


def from_pyg(
    graphs: Sequence[Any],
    *,
    symmetrize: bool = False,
    remove_self_loops: bool = False,
    node_attributes: Sequence[str] | None = None,
    edge_attributes: Sequence[str] | None = None,
) -> GraphSet:
    """Flat arrays of PyTorch Geometric graphs: ``x`` is the node attribute, ``edge_attr`` the edge attribute, ``y`` the
    label if it holds one class a graph. Classes beside real features, which `to_pyg` calls ``node_label`` and
    ``edge_label``, are read, too.

    Args:
        graphs: ``Data`` objects whose ``edge_index`` holds both directions of each edge.
        symmetrize: Accept edges given in one direction.
        remove_self_loops: Leave self-loops out.
        node_attributes: None, or a list that may hold ``"x"`` and ``"node_label"``.
        edge_attributes: None, or a list that may hold ``"edge_attr"`` and ``"edge_label"``.

    Raises:
        ValueError: As for `from_networkx`.
    """
    if not len(graphs):
        raise ValueError("expected at least one graph, got an empty list.")
    parts = [_pyg_edges(data, k, symmetrize, remove_self_loops) for k, data in enumerate(graphs)]
    use_x = node_attributes is None or "x" in node_attributes
    use_edge = edge_attributes is None or "edge_attr" in edge_attributes
    node_columns = _pyg_column([data.get("x") for data in graphs], "x", use_x)
    chosen = [None if data.get("edge_attr") is None else data.edge_attr[row] for data, (_, row) in zip(graphs, parts)]
    edge_columns = _pyg_column(chosen, "edge_attr", use_edge)
    if node_attributes is None or "node_label" in node_attributes:
        rows = [np.arange(data.num_nodes) for data in graphs]
        node_columns |= _pyg_classes(graphs, "node_label", rows, [len(own) for own in rows])
    if edge_attributes is None or "edge_label" in edge_attributes:
        counts = [0 if data.edge_index is None else data.edge_index.shape[1] for data in graphs]
        edge_columns |= _pyg_classes(graphs, "edge_label", [row for _, row in parts], counts)
    nodes, edges = encode(node_columns, "node"), encode(edge_columns, "edge")
    labels = [_scalar(data.get("y")) for data in graphs]
    name, classes, index = _labels(labels, "y")
    return GraphSet(
        np.array([data.num_nodes for data in graphs]),
        np.array([len(part) for part, _ in parts]),
        np.concatenate([part for part, _ in parts]),
        node_label=nodes.index,
        x=nodes.values,
        edge_label=None if edges.index is None else edges.index + 1,
        edge_x=edges.values,
        graph_label=index,
        attributes=Attributes(
            nodes.names, nodes.classes, nodes.features, edges.names, edges.classes, edges.features, name, classes
        ),
    )


def to_pyg(graphs: GraphSet) -> list[Any]:
    """A list of PyTorch Geometric ``Data``: ``edge_index`` in both directions, ``x``, ``edge_attr``, ``y``.

    An attribute that was read from ``x`` or ``edge_attr`` comes back as it was. Other categorical attributes become
    class indices (int64 ``x``, or ``node_label`` beside real features), because tensors hold no words; the vocabulary
    is ``GraphSet.attributes``.
    """
    import torch
    from torch_geometric.data import Data

    attributes = graphs.attributes
    found = []
    for k in range(len(graphs)):
        nodes = slice(graphs.offsets[k], graphs.offsets[k + 1])
        edges = slice(graphs.edge_offsets[k], graphs.edge_offsets[k + 1])
        pairs = torch.from_numpy(graphs.edges[edges]).t()
        data = Data(edge_index=torch.cat([pairs, pairs.flip(0)], dim=1), num_nodes=int(graphs.sizes[k]))
        own = ("x" if graphs.x is None else "node_label", "edge_attr" if graphs.edge_x is None else "edge_label")
        node = _tensor(attributes.node_names, attributes.node_classes, _part(graphs.node_label, nodes), 0, own[0])
        edge = _tensor(attributes.edge_names, attributes.edge_classes, _part(graphs.edge_label, edges), 1, own[1])
        x = None if graphs.x is None else _features(attributes.node_features, graphs.x[nodes], "x")
        edge_x = None if graphs.edge_x is None else _features(attributes.edge_features, graphs.edge_x[edges], "edge")
        data.x, data.edge_attr = (x if node is None else node), _both(edge_x if edge is None else edge)
        if node is not None and x is not None:
            data.x, data.node_label = x, node
        if edge is not None and edge_x is not None:
            data.edge_attr, data.edge_label = _both(edge_x), _both(edge)
        if graphs.graph_label is not None:
            value = attributes.graph_classes[int(graphs.graph_label[k])]
            data.y = torch.tensor([value if isinstance(value, int | float) else int(graphs.graph_label[k])])
        found.append(data)
    return found


def _undirected(graph: nx.Graph, k: int, symmetrize: bool, remove_self_loops: bool) -> nx.Graph:
    if graph.is_multigraph():
        raise ValueError(f"graph {k} is a multigraph; nx.Graph(graph) keeps one edge a pair.")
    if graph.is_directed():
        if not symmetrize:
            raise ValueError(f"graph {k} is directed; pass symmetrize=True to take its edges as undirected.")
        graph = graph.to_undirected()
    if not graph.number_of_nodes():
        raise ValueError(f"graph {k} has no nodes; leave empty graphs out.")
    loops = list(nx.selfloop_edges(graph))
    if loops:
        if not remove_self_loops:
            raise ValueError(
                f"graph {k} has {len(loops)} self-loops, the first at node {loops[0][0]!r}; pass "
                "remove_self_loops=True to leave them out."
            )
        graph = graph.copy()
        graph.remove_edges_from(loops)
    return graph


def _pyg_edges(data: Any, k: int, symmetrize: bool, remove_self_loops: bool) -> tuple[np.ndarray, np.ndarray]:
    """Edges (e, 2) with i < j, and the column of ``edge_index`` that each comes from."""
    n = int(data.num_nodes or 0)
    if n < 1:
        raise ValueError(f"graph {k} has no nodes; leave empty graphs out.")
    index = data.edge_index
    pairs = np.zeros((0, 2), dtype=np.int64) if index is None else index.cpu().numpy().T.astype(np.int64)
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= n):
        raise ValueError(f"graph {k}: edge_index must hold node numbers in [0, {n}), got {pairs.min()}..{pairs.max()}.")
    rows = np.arange(len(pairs))
    loops = pairs[:, 0] == pairs[:, 1]
    if loops.any() and not remove_self_loops:
        raise ValueError(
            f"graph {k} has {int(loops.sum())} self-loops, the first at node {pairs[loops][0, 0]}; pass "
            "remove_self_loops=True to leave them out."
        )
    rows, pairs = rows[~loops], pairs[~loops]
    keys = pairs[:, 0] * n + pairs[:, 1]
    if len(np.unique(keys)) != len(keys):
        raise ValueError(f"graph {k} is a multigraph: an edge occurs twice in one direction; coalesce it first.")
    one_way = ~np.isin(pairs[:, 1] * n + pairs[:, 0], keys)
    if one_way.any() and not symmetrize:
        a, b = pairs[one_way][0]
        raise ValueError(
            f"graph {k} is directed: it has the edge ({a}, {b}) without ({b}, {a}); pass symmetrize=True to take its "
            "edges as undirected."
        )
    low, high = pairs.min(axis=1, initial=n), pairs.max(axis=1, initial=-1)
    _, first = np.unique(low * n + high, return_index=True)
    first = np.sort(first)
    return np.stack([low, high], axis=1)[first], rows[first]


def _pyg_column(values: list[Any], name: str, use: bool) -> dict[str, np.ndarray]:
    """All rows of an optional tensor attribute as one column."""
    if not use or all(value is None for value in values):
        return {}
    kind = "node" if name == "x" else "edge"
    if any(value is None for value in values):
        k = next(k for k, value in enumerate(values) if value is None)
        raise ValueError(f"{name} is missing on graph {k}; give it to all graphs, or pass {kind}_attributes=[].")
    column = np.concatenate([value.detach().cpu().numpy() for value in values])
    if column.ndim > 2:
        raise ValueError(f"{name} must have shape (rows,) or (rows, features), got {column.shape}.")
    return {name: column}


def _pyg_classes(
    graphs: Sequence[Any], name: str, rows: Sequence[np.ndarray], counts: Sequence[int]
) -> dict[str, np.ndarray]:
    """Some rows of whole numbers; nothing if a graph has none or another number of them, as in link prediction."""
    values = [data.get(name) for data in graphs]
    if any(v is None or v.ndim != 1 or len(v) != n or v.is_floating_point() for v, n in zip(values, counts)):
        return {}
    return {name: np.concatenate([value.cpu().numpy()[row] for value, row in zip(values, rows)])}


def _labels(values: list[Any], name: str) -> tuple[str, tuple, np.ndarray | None]:
    """Name, classes and indices of graph labels; none if no graph has one."""
    if all(value is None for value in values):
        return "", (), None
    found = None if any(value is None for value in values) else encode_labels(values)
    if found is None:
        warnings.warn(
            f"graph attribute {name!r} is not one class for every graph and is left out: labels are whole numbers, "
            "words or truth values.",
            stacklevel=4,
        )
        return "", (), None
    return (name, *found)


def _scalar(value: Any) -> Any:
    if value is None or not hasattr(value, "numel"):
        return value
    return value.reshape(-1)[0].item() if value.numel() == 1 else tuple(value.reshape(-1).tolist())


def _part(array: np.ndarray | None, rows: slice) -> np.ndarray | None:
    return None if array is None else array[rows]


def _rows(names: Sequence[str], classes: Sequence[tuple], index: np.ndarray | None, first: int) -> list[dict]:
    """Categorical attributes of each row; empty without any."""
    if index is None or not names:
        return []
    known = [dict(zip(names, values)) for values in classes]
    return [known[k - first] for k in index.tolist()]


def _reals(features: Sequence[tuple[str, int]], values: np.ndarray | None) -> list[dict]:
    """Real attributes of each row: numbers, or tuples of numbers."""
    if values is None or not features:
        return []
    ends = np.cumsum([max(1, width) for _, width in features])
    rows = []
    for row in values.tolist():
        start, found = 0, {}
        for (name, width), end in zip(features, ends.tolist()):
            found[name] = tuple(row[start:end]) if width else row[start]
            start = end
        rows.append(found)
    return rows


def _at(rows: list[dict], k: int) -> dict:
    return rows[k] if rows else {}


def _tensor(names: Sequence[str], classes: Sequence[tuple], index: np.ndarray | None, first: int, own: str) -> Any:
    """Class values if they come from the tensor attribute ``own`` and are numbers, else class indices from 0."""
    import torch

    if index is None:
        return None
    rows = index - first
    numbers = [values[0] for values in classes]
    if tuple(names) == (own,) and not any(isinstance(value, str) for value in numbers):
        return torch.tensor(numbers)[torch.from_numpy(rows)]
    return torch.from_numpy(rows)


def _features(features: Sequence[tuple[str, int]], values: np.ndarray, own: str) -> Any:
    import torch

    tensor = torch.from_numpy(values).float()
    is_plain = len(features) == 1 and features[0][1] == 0
    return tensor[:, 0] if is_plain and features[0][0].startswith(own) else tensor


def _both(values: Any) -> Any:
    import torch

    return None if values is None else torch.cat([values, values])
