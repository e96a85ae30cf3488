"""Known parts of graphs that are to be completed: from a networkx graph to observations of the components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import networkx as nx
import torch
from torch import Tensor

from graphs.data.spec import GraphSpec

__all__ = ["KNOWN", "known_part"]

KNOWN = ("induced", "edges", "nodes")
"""What a partial graph says: all its pairs, its edges only, or its nodes only."""

Known = Literal["induced", "edges", "nodes"]


def known_part(
    graph: nx.Graph, spec: GraphSpec, size: int, what: Known = "induced"
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values and masks (True = known) of the components that ``graph`` fixes; its nodes are the first ones.

    Args:
        graph: Partial graph whose nodes and edges carry the attributes of ``spec``.
        spec: Vocabulary.
        size: Number N of nodes to pad to, at least those of ``graph``.
        what: ``"induced"`` knows every pair of its nodes, edge or not; ``"edges"`` knows its edges and leaves the other
            pairs open; ``"nodes"`` knows the attributes of its nodes and no pair.

    Returns:
        Two dicts with ``adj`` (1, N, N) and as far as the spec has them ``x`` (1, N), ``features`` (1, N, F) and
        ``edge_features`` (1, N, N, K); masks without the last axis of features.

    Raises:
        ValueError: If an attribute is missing or has a value outside the vocabulary.
    """
    if what not in KNOWN:
        raise ValueError(f"a known part is one of {', '.join(KNOWN)}, got {what!r}.")
    if graph.is_directed() or graph.is_multigraph() or nx.number_of_selfloops(graph):
        raise ValueError("a known part is an undirected simple graph without self-loops.")
    k, number = len(graph), {node: i for i, node in enumerate(graph)}
    values: dict[str, Tensor] = {"adj": torch.zeros(1, size, size, dtype=torch.int64)}
    masks = {"adj": torch.zeros(1, size, size, dtype=torch.bool)}
    is_known = torch.arange(size)[None] < k
    attributes = spec.attributes
    nodes, edges = [data for _, data in graph.nodes(data=True)], list(graph.edges(data=True))
    if attributes.node_names:
        values["x"], masks["x"] = torch.zeros(1, size, dtype=torch.int64), is_known
        classes = [_class(data, attributes.node_names, attributes.node_classes, "node") for data in nodes]
        values["x"][0, :k] = torch.tensor(classes, dtype=torch.int64)
    if attributes.node_features:
        values["features"] = torch.zeros(1, size, len(spec.feature_mean))
        rows = [_reals(data, attributes.node_features, "node") for data in nodes]
        values["features"][0, :k] = _standard(rows, spec.feature_mean, spec.feature_std)
        masks["features"] = is_known
    if attributes.edge_features:
        values["edge_features"] = torch.zeros(1, size, size, len(spec.edge_feature_mean))
        masks["edge_features"] = torch.zeros(1, size, size, dtype=torch.bool)
    if what == "nodes":
        return values, masks
    i, j = (torch.tensor([number[edge[end]] for edge in edges], dtype=torch.int64) for end in (0, 1))
    classes = [_class(data, attributes.edge_names, attributes.edge_classes, "edge") + 1 for *_, data in edges]
    values["adj"][0, i, j] = values["adj"][0, j, i] = torch.tensor(classes, dtype=torch.int64)
    if what == "induced":
        masks["adj"] = is_known[:, :, None] & is_known[:, None, :]
    else:
        masks["adj"][0, i, j] = masks["adj"][0, j, i] = True
    if attributes.edge_features:
        rows = [_reals(data, attributes.edge_features, "edge") for *_, data in edges]
        scaled = _standard(rows, spec.edge_feature_mean, spec.edge_feature_std)
        values["edge_features"][0, i, j] = values["edge_features"][0, j, i] = scaled
        masks["edge_features"] = values["adj"] > 0
    return values, masks


def _class(data: dict[str, Any], names: Sequence[str], classes: Sequence[tuple], kind: str) -> int:
    if not names:
        return 0
    missing = [name for name in names if name not in data]
    if missing:
        raise ValueError(f"a known {kind} lacks the attribute {missing[0]!r} that the model was trained with.")
    value = tuple(data[name] for name in names)
    if value not in classes:
        shown = ", ".join(str(known[0] if len(names) == 1 else known) for known in classes[:12])
        raise ValueError(f"a known {kind} has {dict(zip(names, value))}, which the model does not know: {shown}.")
    return list(classes).index(value)


def _reals(data: dict[str, Any], features: Sequence[tuple[str, int]], kind: str) -> list[float]:
    row: list[float] = []
    for name, width in features:
        if name not in data:
            raise ValueError(f"a known {kind} lacks the attribute {name!r} that the model was trained with.")
        row += [float(value) for value in data[name]] if width else [float(data[name])]
    return row


def _standard(rows: list[list[float]], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    table = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(mean))
    return ((table - torch.tensor(mean, dtype=torch.float64)) / torch.tensor(std, dtype=torch.float64)).float()
