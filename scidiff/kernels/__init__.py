"""Neighbour lists and message passing: `NeighborList` holds a graph, and every operation reads its rows."""

from scidiff.kernels.full import FullGraph, full_graph
from scidiff.kernels.graph import NeighborList, as_neighbor_list

__all__ = ["FullGraph", "NeighborList", "as_neighbor_list", "full_graph"]
