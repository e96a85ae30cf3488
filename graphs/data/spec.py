"""`GraphSpec`: vocabulary and statistics of a set of graphs, and the way between graphs and padded classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from graphs.data.attributes import Attributes
from graphs.data.graph_set import GraphSet
from scidiff.configurable import Configurable, config_of

__all__ = ["GraphSpec"]


@dataclass(frozen=True, repr=False)
class GraphSpec(Configurable):
    """Vocabulary and statistics of the training graphs; plain numbers, ready for JSON.

    Args:
        attributes: Names and vocabularies of nodes, edges and graphs.
        sizes: Number of graphs by number of nodes.
        node_marginal: Share of each node class; empty for nodes without categorical attributes.
        edge_marginal: Share of each edge class among all unordered pairs of nodes; class 0 is "no edge".
        label_marginal: Share of each graph label, empty without labels.
        feature_mean: Mean of each real node feature.
        feature_std: Standard deviation of each real node feature, 1 where it is constant.
        edge_feature_mean: Mean of each real edge feature.
        edge_feature_std: Standard deviation of each real edge feature, 1 where it is constant.
        max_degree: Largest degree.
        provenance: Origin: name, number of graphs.
    """

    attributes: Attributes
    sizes: dict[int, int]
    node_marginal: tuple[float, ...]
    edge_marginal: tuple[float, ...]
    label_marginal: tuple[float, ...] = ()
    feature_mean: tuple[float, ...] = ()
    feature_std: tuple[float, ...] = ()
    edge_feature_mean: tuple[float, ...] = ()
    edge_feature_std: tuple[float, ...] = ()
    max_degree: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Accept what JSON gives back: lists for tuples, strings for integer keys."""
        if isinstance(self.attributes, Mapping):
            object.__setattr__(self, "attributes", Attributes.from_dict(self.attributes))
        object.__setattr__(self, "sizes", {int(n): int(count) for n, count in self.sizes.items()})
        for item in fields(self):
            if isinstance(value := getattr(self, item.name), list):
                object.__setattr__(self, item.name, tuple(value))

    @classmethod
    def from_graphs(cls, graphs: GraphSet) -> GraphSpec:
        """Spec of all graphs of a set; give it the training part.

        Raises:
            ValueError: If the set is empty.
        """
        if not len(graphs):
            raise ValueError("a spec cannot be built from no graphs. Is the training part empty?")
        attributes = graphs.attributes
        sizes, counts = np.unique(graphs.sizes, return_counts=True)
        pairs = int((graphs.sizes * (graphs.sizes - 1) // 2).sum())
        edges = np.bincount(graphs.classes(), minlength=attributes.num_edge_classes).astype(np.float64)
        edges[0] = pairs - edges.sum() if pairs else 1.0
        labels = graphs.graph_label
        mean, std = _moments(graphs.x)
        edge_mean, edge_std = _moments(graphs.edge_x)
        return cls(
            attributes=attributes,
            sizes=dict(zip(sizes.tolist(), counts.tolist())),
            node_marginal=() if graphs.node_label is None else _shares(graphs.node_label, attributes.num_node_classes),
            edge_marginal=tuple((edges / max(pairs, 1)).tolist()),
            label_marginal=() if labels is None else _shares(labels, len(attributes.graph_classes)),
            feature_mean=mean,
            feature_std=std,
            edge_feature_mean=edge_mean,
            edge_feature_std=edge_std,
            max_degree=int(graphs.degrees.max(initial=0)),
            provenance={**{key: graphs.meta[key] for key in ("name",) if key in graphs.meta}, "graphs": len(graphs)},
        )

    @property
    def num_node_classes(self) -> int:
        """Number of node classes, 0 for nodes without categorical attributes."""
        return self.attributes.num_node_classes

    @property
    def num_edge_classes(self) -> int:
        """Number of edge classes with "no edge" as class 0, at least 2."""
        return self.attributes.num_edge_classes

    @property
    def num_labels(self) -> int:
        """Number of graph labels, 0 without."""
        return len(self.attributes.graph_classes)

    @property
    def max_nodes(self) -> int:
        """Size of the largest graph."""
        return max(self.sizes)

    def pad(self, graphs: GraphSet, size: int | None = None) -> dict[str, np.ndarray]:
        """Dense arrays of all graphs, padded with zeros; the content of a batch (`graphs.data.batches.Batch`).

        Args:
            graphs: Graphs with the vocabulary of this spec.
            size: Number N of nodes to pad to; default: the largest graph.

        Raises:
            ValueError: If the vocabulary is another one or ``size`` is too small.
        """
        self.check(graphs)
        count, largest = len(graphs), int(graphs.sizes.max(initial=1))
        size = largest if size is None else size
        if size < largest:
            raise ValueError(f"size must be at least the {largest} nodes of the largest graph, got {size}.")
        owner = np.repeat(np.arange(count), graphs.sizes)
        place = np.arange(len(owner)) - np.repeat(graphs.offsets[:-1], graphs.sizes)
        adj = np.zeros((count, size, size), dtype=np.uint8)
        i, j = graphs.edges.T
        adj[graphs.edge_owner, i, j] = adj[graphs.edge_owner, j, i] = graphs.classes()
        arrays = {"adj": adj, "num_nodes": graphs.sizes}
        if graphs.node_label is not None:
            arrays["x"] = np.zeros((count, size), dtype=np.uint8)
            arrays["x"][owner, place] = graphs.node_label
        if graphs.x is not None:
            arrays["features"] = np.zeros((count, size, len(self.feature_mean)), dtype=np.float32)
            arrays["features"][owner, place] = (graphs.x - self.feature_mean) / self.feature_std
        if graphs.edge_x is not None:
            wide = np.zeros((count, size, size, len(self.edge_feature_mean)), dtype=np.float32)
            scaled = (graphs.edge_x - self.edge_feature_mean) / self.edge_feature_std
            wide[graphs.edge_owner, i, j] = wide[graphs.edge_owner, j, i] = scaled
            arrays["edge_features"] = wide
        if graphs.graph_label is not None:
            arrays["label"] = graphs.graph_label
        return arrays

    def unpad(
        self,
        adj: np.ndarray,
        num_nodes: np.ndarray,
        *,
        x: np.ndarray | None = None,
        features: np.ndarray | None = None,
        edge_features: np.ndarray | None = None,
        label: np.ndarray | None = None,
    ) -> GraphSet:
        """Inverse of `pad`: graphs from dense classes; padding and the lower triangle are not read.

        Args:
            adj: (B, N, N) edge classes, 0 = no edge.
            num_nodes: (B,) sizes.
            x: (B, N) node classes.
            features: (B, N, F) standardised node features.
            edge_features: (B, N, N, K) standardised edge features.
            label: (B,) graph labels, or None for graphs without.

        Raises:
            ValueError: If an array is missing for attributes that the spec has.
        """
        attributes = self.attributes
        x = _needed(x, "x", attributes.node_names)
        features = _needed(features, "features", attributes.node_features)
        edge_features = _needed(edge_features, "edge_features", attributes.edge_features)
        num_nodes = np.asarray(num_nodes, dtype=np.int64)
        mask = np.arange(adj.shape[1]) < num_nodes[:, None]
        upper = np.triu(np.ones(adj.shape[1:], dtype=bool), 1) & mask[:, :, None] & mask[:, None, :]
        owner, i, j = np.nonzero(np.where(upper, adj, 0))
        return GraphSet(
            num_nodes,
            np.bincount(owner, minlength=len(adj)),
            np.stack([i, j], axis=1),
            node_label=None if x is None else x[mask],
            x=None if features is None else features[mask] * np.array(self.feature_std) + self.feature_mean,
            edge_label=adj[owner, i, j] if attributes.edge_names else None,
            edge_x=None
            if edge_features is None
            else edge_features[owner, i, j] * np.array(self.edge_feature_std) + self.edge_feature_mean,
            graph_label=label,
            attributes=attributes if label is not None else replace(attributes, graph_name="", graph_classes=()),
        )

    def check(self, graphs: GraphSet) -> None:
        """Refuse graphs of another vocabulary.

        Raises:
            ValueError: If names or classes differ.
        """
        if graphs.attributes != self.attributes:
            ours, theirs = self.attributes.to_dict(), graphs.attributes.to_dict()
            name = next(key for key in ours if ours[key] != theirs[key])
            raise ValueError(
                f"these graphs have other attributes than the model: {name} is {theirs[name]}, expected {ours[name]}."
            )

    def to_config(self) -> dict[str, Any]:
        """Class path and arguments, as for every `scidiff.configurable.Configurable`."""
        arguments = {item.name: getattr(self, item.name) for item in fields(self)}
        arguments["attributes"] = self.attributes.to_dict()
        return {
            "class_path": f"{type(self).__module__}.{type(self).__qualname__}",
            "init_args": {name: config_of(value) for name, value in arguments.items()},
        }

    def __repr__(self) -> str:
        return (
            f"GraphSpec({sum(self.sizes.values())} graphs of {min(self.sizes)}-{self.max_nodes} nodes, "
            f"{self.num_node_classes} node classes, {self.num_edge_classes} edge classes, "
            f"{len(self.feature_mean)} features)"
        )


def _shares(index: np.ndarray | None, classes: int) -> tuple[float, ...]:
    if index is None or not len(index):
        return (1.0,) + (0.0,) * (classes - 1)
    counts = np.bincount(index, minlength=classes)
    return tuple((counts / counts.sum()).tolist())


def _needed(value: np.ndarray | None, name: str, names: tuple) -> np.ndarray | None:
    """The array if the spec has such attributes, else None."""
    if names and value is None:
        raise ValueError(f"these graphs carry attributes that come from {name}, which is missing.")
    return value if names else None


def _moments(values: np.ndarray | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if values is None:
        return (), ()
    std = values.std(axis=0) if len(values) else np.ones(values.shape[1])
    mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
