"""Many undirected graphs with attributes in flat arrays; the same arrays, compressed, are the ``.npz`` file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from graphs.data.attributes import Attributes
from scidiff.arrays import read_npz
from scidiff.files import atomic_path

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["SPLITS", "GraphSet", "joined"]

SPLITS: tuple[str, ...] = ("train", "valid", "test")
"""Names of the split codes 0, 1, 2."""

_PARTS = {"node_label": "nodes", "x": "nodes", "edge_label": "edges", "edge_x": "edges", "graph_label": "graphs"}


class GraphSet(Sequence["nx.Graph"]):
    """Undirected simple graphs, stored flat; as a sequence it holds `networkx.Graph` with their attributes.

    Graph k owns the rows ``offsets[k]:offsets[k + 1]`` of the node arrays (V rows in all) and
    ``edge_offsets[k]:edge_offsets[k + 1]`` of the edge arrays (E rows, each undirected edge once). Nodes without edges
    are nodes like the others.

    Args:
        num_nodes: (G,) nodes of each graph, at least 1.
        num_edges: (G,) edges of each graph.
        edges: (E, 2) node numbers, local to the graph.
        node_label: (V,) class of each node, an index into ``attributes.node_classes``.
        x: (V, F) real node features in their own units.
        edge_label: (E,) class of each edge, from 1; row ``edge_label - 1`` of ``attributes.edge_classes``.
        edge_x: (E, K) real edge features in their own units.
        graph_label: (G,) class of each graph.
        attributes: Names and vocabularies.
        split: (G,) uint8, 0 train, 1 valid, 2 test, or None.
        meta: Plain data about the origin.

    Raises:
        ValueError: If lengths disagree, a node number is out of range, or there are self-loops or double edges.
    """

    def __init__(
        self,
        num_nodes: np.ndarray,
        num_edges: np.ndarray,
        edges: np.ndarray,
        *,
        node_label: np.ndarray | None = None,
        x: np.ndarray | None = None,
        edge_label: np.ndarray | None = None,
        edge_x: np.ndarray | None = None,
        graph_label: np.ndarray | None = None,
        attributes: Attributes | None = None,
        split: np.ndarray | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.sizes = np.asarray(num_nodes, dtype=np.int64)
        self.num_edges = np.asarray(num_edges, dtype=np.int64)
        self.edges = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
        self.node_label = _array(node_label, np.int64)
        self.x = _array(x, np.float64)
        self.edge_label = _array(edge_label, np.int64)
        self.edge_x = _array(edge_x, np.float64)
        self.graph_label = _array(graph_label, np.int64)
        self.split = _array(split, np.uint8)
        self.attributes = Attributes() if attributes is None else attributes
        self.meta = dict(meta or {})
        self._check()

    # Files

    @classmethod
    def from_npz(cls, path: str | Path) -> GraphSet:
        """Read a flat archive: ours, or any with ``num_nodes``, ``num_edges``, ``edges`` (and ``node_label``).

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or holds other arrays.
        """
        arrays = read_npz(path)
        missing = {"num_nodes", "num_edges", "edges"} - set(arrays)
        if missing:
            raise ValueError(
                f"{path} is no file of graphs: it lacks {', '.join(sorted(missing))}. Expected the arrays num_nodes, "
                "num_edges, edges and optionally node_label, edge_label, x, edge_x, graph_label."
            )
        optional = {name: arrays.get(name) for name in (*_PARTS, "split")}
        if "attributes" in arrays:
            attributes = Attributes.from_dict(json.loads(str(arrays["attributes"])))
        else:
            attributes = _plain_attributes(optional)
        meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
        try:
            return cls(
                arrays["num_nodes"], arrays["num_edges"], arrays["edges"], **optional, attributes=attributes, meta=meta
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def to_npz(self, path: str | Path) -> None:
        """Write everything, losslessly."""
        arrays: dict[str, Any] = {
            "num_nodes": self.sizes.astype(np.int32),
            "num_edges": self.num_edges.astype(np.int32),
            "edges": self.edges.astype(np.int16 if len(self) and self.sizes.max() < 2**15 else np.int32),
            **{name: getattr(self, name) for name in (*_PARTS, "split") if getattr(self, name) is not None},
            "attributes": np.array(json.dumps(self.attributes.to_dict())),
            "meta": np.array(json.dumps(self.meta)),
        }
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)

    # Sequence

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> nx.Graph: ...

    @overload
    def __getitem__(self, index: slice) -> GraphSet: ...

    def __getitem__(self, index: int | slice) -> nx.Graph | GraphSet:
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        from graphs.data.convert import to_networkx

        return to_networkx(self, range(len(self))[index])

    def __iter__(self) -> Iterator[nx.Graph]:
        return (self[k] for k in range(len(self)))

    def __repr__(self) -> str:
        if not len(self):
            return "GraphSet(0 graphs)"
        return f"GraphSet({len(self)} graphs of {self.sizes.min()}-{self.sizes.max()} nodes)"

    # Structure

    @cached_property
    def offsets(self) -> np.ndarray:
        """(G + 1,) first node row of each graph, and the number of all nodes."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @cached_property
    def edge_offsets(self) -> np.ndarray:
        """(G + 1,) first edge row of each graph, and the number of all edges."""
        return np.concatenate([[0], np.cumsum(self.num_edges)])

    @cached_property
    def edge_owner(self) -> np.ndarray:
        """(E,) graph of each edge."""
        return np.repeat(np.arange(len(self)), self.num_edges)

    @cached_property
    def degrees(self) -> np.ndarray:
        """(V,) degree of each node."""
        rows = self.edges + self.offsets[:-1][self.edge_owner][:, None]
        return np.bincount(rows.reshape(-1), minlength=int(self.offsets[-1]))

    def adjacency(self, k: int) -> np.ndarray:
        """(n, n) symmetric 0/1 matrix of graph k, float64."""
        adj = np.zeros((self.sizes[k], self.sizes[k]))
        i, j = self.edges[self.edge_offsets[k] : self.edge_offsets[k + 1]].T
        adj[i, j] = adj[j, i] = 1.0
        return adj

    def classes(self) -> np.ndarray:
        """(E,) edge classes from 1; all 1 without edge attributes."""
        return np.ones(len(self.edges), dtype=np.int64) if self.edge_label is None else self.edge_label

    # Parts

    def subset(self, index: np.ndarray | Sequence[int]) -> GraphSet:
        """The graphs of ``index`` (numbers or a mask) in that order, with the same vocabularies."""
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        nodes, edges = _rows(self.offsets, index), _rows(self.edge_offsets, index)
        chosen = {"nodes": nodes, "edges": edges, "graphs": index}
        arrays = {name: _take(getattr(self, name), chosen[kind]) for name, kind in _PARTS.items()}
        return GraphSet(
            self.sizes[index],
            self.num_edges[index],
            self.edges[edges],
            **arrays,
            split=_take(self.split, index),
            attributes=self.attributes,
            meta=self.meta,
        )

    def part(self, name: str) -> GraphSet:
        """One part of the split.

        Raises:
            ValueError: If there is no split or the name is unknown.
        """
        if self.split is None:
            raise ValueError("these graphs have no split; take all of them, or split them with GraphDataModule.")
        if name not in SPLITS:
            raise ValueError(f"expected a part among {', '.join(SPLITS)}, got {name!r}.")
        return self.subset(self.split == SPLITS.index(name))

    def with_split(self, split: np.ndarray | None) -> GraphSet:
        """The same graphs under another split (G,)."""
        arrays = {name: getattr(self, name) for name in _PARTS}
        return GraphSet(
            self.sizes, self.num_edges, self.edges, **arrays, attributes=self.attributes, split=split, meta=self.meta
        )

    def without_attributes(self) -> GraphSet:
        """The bare structures, with the same split."""
        return GraphSet(self.sizes, self.num_edges, self.edges, split=self.split, meta=self.meta)

    def without_isolated(self) -> GraphSet:
        """The graphs without nodes of degree 0 and without their attributes; an empty graph keeps one node."""
        keep = self.degrees > 0
        first = self.offsets[:-1]
        sizes = np.add.reduceat(keep.astype(np.int64), first) if len(self) else self.sizes
        number = np.cumsum(keep) - 1
        start = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        rows = self.edges + first[self.edge_owner][:, None]
        return GraphSet(np.maximum(sizes, 1), self.num_edges, number[rows] - start[self.edge_owner][:, None])

    def _check(self) -> None:
        if not len(self.sizes) == len(self.num_edges) or self.num_edges.sum() != len(self.edges):
            raise ValueError(
                f"num_nodes and num_edges must have one entry a graph and sum to the rows, got {len(self.sizes)} and "
                f"{len(self.num_edges)} graphs, and {self.num_edges.sum()} edges for {len(self.edges)} rows."
            )
        rows = {"nodes": int(self.sizes.sum()), "edges": len(self.edges), "graphs": len(self.sizes)}
        for name, kind in _PARTS.items():
            array = getattr(self, name)
            if array is not None and len(array) != rows[kind]:
                raise ValueError(f"{name} must have one row for each of the {rows[kind]} {kind}, got {len(array)}.")
        if self.split is not None and len(self.split) != len(self.sizes):
            raise ValueError(f"split must have one entry for each of the {len(self)} graphs, got {len(self.split)}.")
        if (self.sizes < 1).any():
            raise ValueError(f"graph {int(np.argmax(self.sizes < 1))} has no nodes; leave empty graphs out.")
        owner, edges = self.edge_owner, self.edges
        outside = ((edges < 0) | (edges >= self.sizes[owner][:, None])).any(axis=1)
        loops = edges[:, 0] == edges[:, 1]
        for bad, what in ((outside, "names a node that does not exist"), (loops, "is a self-loop")):
            if bad.any():
                k = int(np.argmax(bad))
                raise ValueError(f"edge {tuple(edges[k].tolist())} of graph {owner[k]} {what}.")
        low, high = edges.min(axis=1, initial=2**31), edges.max(axis=1, initial=0)
        keys = (owner * 2**20 + low) * 2**20 + high
        _, first, counts = np.unique(keys, return_index=True, return_counts=True)
        if (counts > 1).any():
            k = int(first[np.argmax(counts > 1)])
            raise ValueError(
                f"edge {tuple(edges[k].tolist())} of graph {owner[k]} occurs more than once; each undirected edge "
                "stands once. Is the graph a multigraph?"
            )


def joined(parts: Sequence[GraphSet]) -> GraphSet:
    """All graphs of sets with one vocabulary, one after the other.

    Raises:
        ValueError: If there is no set, or the vocabularies differ.
    """
    if not parts or any(part.attributes != parts[0].attributes for part in parts):
        raise ValueError("expected at least one set, all with the same attributes.")
    flat = [np.concatenate([getattr(part, name) for part in parts]) for name in ("sizes", "num_edges", "edges")]
    columns = {name: [getattr(part, name) for part in parts] for name in (*_PARTS, "split")}
    arrays = {name: None if any(v is None for v in rows) else np.concatenate(rows) for name, rows in columns.items()}
    return GraphSet(*flat, **arrays, attributes=parts[0].attributes, meta=parts[0].meta)


def _array(value: np.ndarray | None, dtype: Any) -> np.ndarray | None:
    return None if value is None else np.asarray(value, dtype=dtype)


def _take(value: np.ndarray | None, index: np.ndarray) -> np.ndarray | None:
    return None if value is None else value[index]


def _rows(offsets: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Rows of the graphs ``index``, one after the other."""
    counts = offsets[index + 1] - offsets[index]
    start = np.repeat(offsets[index] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) if len(index) else counts
    return start + np.arange(int(counts.sum()))


def _plain_attributes(arrays: dict[str, np.ndarray | None]) -> Attributes:
    """Vocabularies of a file that has none: the values that occur; ``arrays`` then holds class indices."""
    found: dict[str, Any] = {}
    for key, first in (("node_label", 0), ("edge_label", 1), ("graph_label", 0)):
        values = arrays[key]
        if values is None:
            continue
        classes, index = np.unique(values, return_inverse=True)
        arrays[key] = index.reshape(-1) + first
        kind = key.split("_", maxsplit=1)[0]
        if kind == "graph":
            found |= {"graph_name": "label", "graph_classes": tuple(classes.tolist())}
        else:
            found |= {f"{kind}_names": ("label",), f"{kind}_classes": tuple((v,) for v in classes.tolist())}
    for key, kind in (("x", "node"), ("edge_x", "edge")):
        if arrays[key] is not None:
            found[f"{kind}_features"] = (("x", np.asarray(arrays[key]).shape[1]),)
    return Attributes(**found)
