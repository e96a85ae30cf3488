"""Neighbour lists and message passing: `NeighborList` holds a graph, and every operation reads its rows.

Results and gradients have the same bits in every run and, on the CPU, with one thread and with two; a graph has the
same bits alone and in a batch. Exceptions, in the last bit: `edge_mlp` with channels that are no multiple of 32 (the
last numbers of a tensor, or of a thread's share, take another code for exponentials), a piece of edges with one edge
only (a product with one row is another routine), attention over full graphs of different sizes (the largest decides
whether matrices are made, and they are padded), and the definitions in plain torch, ``backend="torch"``, where products
are left to BLAS as they are.
"""

from scidiff.kernels._dispatch import report, use_backend
from scidiff.kernels.basis import BesselBasis, CosineCutoff, ExpNormBasis, GaussianBasis, PolynomialCutoff
from scidiff.kernels.edge_network import EdgeMessages, edge_mlp
from scidiff.kernels.full import FullGraph, full_graph
from scidiff.kernels.geometry import edge_geometry
from scidiff.kernels.graph import NeighborList, as_neighbor_list
from scidiff.kernels.memory import tune_malloc
from scidiff.kernels.messages import (
    cfconv,
    neighbor_attention,
    painn_message,
    ponita_conv,
    softmax_gather_sum,
    tensor_product_scatter,
)
from scidiff.kernels.neighbors import knn_graph, radius_graph
from scidiff.kernels.segments import (
    edge_dot,
    gather,
    gather_multiply_sum,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
    weighted_sum,
)

__all__ = [
    "BesselBasis",
    "CosineCutoff",
    "EdgeMessages",
    "ExpNormBasis",
    "FullGraph",
    "GaussianBasis",
    "NeighborList",
    "PolynomialCutoff",
    "as_neighbor_list",
    "cfconv",
    "edge_dot",
    "edge_geometry",
    "edge_mlp",
    "full_graph",
    "gather",
    "gather_multiply_sum",
    "knn_graph",
    "neighbor_attention",
    "painn_message",
    "ponita_conv",
    "radius_graph",
    "report",
    "segment_max",
    "segment_mean",
    "segment_softmax",
    "segment_sum",
    "softmax_gather_sum",
    "tensor_product_scatter",
    "tune_malloc",
    "use_backend",
    "weighted_sum",
]
