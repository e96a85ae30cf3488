"""What may be done with generated graphs before they are looked at."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from graphs.data.graph_set import GraphSet

__all__ = ["keep_largest_component", "keep_nodes"]


def keep_largest_component(graphs: GraphSet) -> GraphSet:
    """The largest connected component of every graph (of equals, that of the first node), with attributes."""
    first = graphs.offsets[:-1]
    rows = graphs.edges + first[graphs.edge_owner][:, None]
    total = int(graphs.offsets[-1])
    links = coo_matrix((np.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape=(total, total))
    _, component = connected_components(links, directed=False)
    sizes = np.bincount(component)
    owner = np.repeat(np.arange(len(graphs)), graphs.sizes)
    order = np.lexsort((np.arange(total), -sizes[component], owner))
    leader = component[order[np.searchsorted(owner, np.arange(len(graphs)))]]
    return keep_nodes(graphs, component == leader[owner])


def keep_nodes(graphs: GraphSet, keep: np.ndarray) -> GraphSet:
    """The graphs induced by the nodes where ``keep`` (V,) is true; each graph must keep one."""
    first = graphs.offsets[:-1]
    sizes = np.add.reduceat(keep.astype(np.int64), first)
    rows = graphs.edges + first[graphs.edge_owner][:, None]
    chosen = keep[rows].all(axis=1)
    owner = graphs.edge_owner[chosen]
    number = np.cumsum(keep) - 1
    start = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    return GraphSet(
        sizes,
        np.bincount(owner, minlength=len(graphs)),
        number[rows[chosen]] - start[owner][:, None],
        node_label=None if graphs.node_label is None else graphs.node_label[keep],
        x=None if graphs.x is None else graphs.x[keep],
        edge_label=None if graphs.edge_label is None else graphs.edge_label[chosen],
        edge_x=None if graphs.edge_x is None else graphs.edge_x[chosen],
        graph_label=graphs.graph_label,
        attributes=graphs.attributes,
        split=graphs.split,
        meta=graphs.meta,
    )
