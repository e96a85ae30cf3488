"""Reductions over the edges of each target, and products of node and edge features that are reduced at once.

``g`` is a `NeighborList`, or an ``edge_index`` (2, E) of (source, target) in any order. Edge features have the order
of what was given. Empty rows give 0. Sums run in float32 or better; results have the dtype of the features.
"""

from __future__ import annotations

import math

from torch import Tensor

from scidiff.kernels import dense, ops, ref, segment_ops
from scidiff.kernels._dispatch import Call, operation
from scidiff.kernels.graph import NeighborList

__all__ = [
    "edge_dot",
    "gather",
    "gather_multiply_sum",
    "segment_max",
    "segment_mean",
    "segment_softmax",
    "segment_sum",
    "weighted_sum",
]


@operation
def segment_sum(
    v: Tensor, g: NeighborList | Tensor, *, num_nodes: int | None = None, backend: str | None = None
) -> Tensor:
    """out_i = sum_{e -> i} v_e.

    Args:
        v: Edge features (E, *).
        g: Graph; with an ``edge_index``, say ``num_nodes`` if the last nodes may have no edges.
        num_nodes: N, for an ``edge_index``.
        backend: Body to run; see `scidiff.kernels.report`.

    Returns:
        Node features (N, *).
    """
    return _reduced("segment_sum", v, g, num_nodes, backend)


@operation
def segment_mean(
    v: Tensor, g: NeighborList | Tensor, *, num_nodes: int | None = None, backend: str | None = None
) -> Tensor:
    """Mean of v (E, *) over the edges of each target (N, *), 0 without edges; arguments of `segment_sum`."""
    return _reduced("segment_mean", v, g, num_nodes, backend)


@operation
def segment_max(
    v: Tensor, g: NeighborList | Tensor, *, num_nodes: int | None = None, backend: str | None = None
) -> Tensor:
    """Largest v (E, *) over the edges of each target (N, *), 0 without edges; arguments of `segment_sum`.

    Ties share the gradient.
    """
    return _reduced("segment_max", v, g, num_nodes, backend)


@operation
def segment_softmax(
    logits: Tensor, g: NeighborList | Tensor, *, num_nodes: int | None = None, backend: str | None = None
) -> Tensor:
    """exp(l_e) / sum over the edges with the same target, per channel: (E, *) -> (E, *)."""
    call = _segment_call("segment_softmax", logits, g, num_nodes, backend)
    edges = call.edge(logits)
    if call.body == "torch":
        return call.edge_result(ref.segment_softmax(edges, call.target, call.num_rows), logits)
    out = segment_ops.segment_softmax(_flat(edges), call.graph.ptr, call.graph.target, call.body)
    return call.edge_result(out.view(edges.shape), logits)


def _reduced(op: str, v: Tensor, g: NeighborList | Tensor, num_nodes: int | None, backend: str | None) -> Tensor:
    call = _segment_call(op, v, g, num_nodes, backend)
    edges = call.edge(v)
    if call.body == "torch":
        return call.node_result(getattr(ref, op)(edges, call.target, call.num_rows), v)
    reduce = segment_ops.segment_max if op == "segment_max" else segment_ops.segment_sum
    out = reduce(_flat(edges), call.graph.ptr, call.graph.target, call.body)
    if op == "segment_mean":
        out = out / call.graph.degree.clamp_min(1)[:, None]
    return call.node_result(out.view(call.graph.num_nodes, *v.shape[1:]), v)


def _segment_call(op: str, v: Tensor, g: NeighborList | Tensor, num_nodes: int | None, backend: str | None) -> Call:
    call = Call(op, g, num_nodes, (v,), backend)
    call.check(("v", v, (call.graph.num_edges, *v.shape[1:])))
    return call


def _flat(v: Tensor) -> Tensor:
    return v.reshape(v.shape[0], math.prod(v.shape[1:]))


@operation
def gather(x: Tensor, g: NeighborList | Tensor, end: str = "source", *, backend: str | None = None) -> Tensor:
    """x_source (or x_target) of each edge, with a gradient that is a sum over rows: the same bits in every run.

    Args:
        x: Node features (N, *).
        g: Graph.
        end: ``"source"`` or ``"target"``.
        backend: Body to run.

    Returns:
        Edge features (E, *).

    Raises:
        ValueError: If ``end`` is unknown.
    """
    if end not in ("source", "target"):
        raise ValueError(f'end must be "source" or "target", got {end!r}.')
    call = Call("gather", g, x.shape[0], (x,), backend)
    call.check(("x", x, (call.graph.num_nodes, *x.shape[1:])))
    features, graph = _flat(x).to(call.dtype), call.graph
    if call.body == "torch":
        out = features.index_select(0, graph.source if end == "source" else graph.target)
    elif end == "target":
        out = segment_ops.segment_expand(features, graph.ptr, graph.target, call.body)
    else:
        transpose = (graph.t_ptr, graph.t_edge) if call.needs_grad else (None, None)
        out = segment_ops.gather(features, graph.source, *transpose, call.body)
    return call.edge_result(out.view(graph.num_edges, *x.shape[1:]), x)


@operation
def gather_multiply_sum(x: Tensor, w: Tensor, g: NeighborList | Tensor, *, backend: str | None = None) -> Tensor:
    """out_i = sum_{e -> i} x_source * w_e, channel-wise: continuous-filter convolution with given filters.

    Args:
        x: Node features (N, F).
        w: Filters (E, F).
        g: Graph.
        backend: Body to run; see `scidiff.kernels.report`.

    Returns:
        Node features (N, F).

    References: Schütt et al. 2017, "SchNet", eq. 2.
    """
    call = Call("gather_multiply_sum", g, x.shape[0], (x, w), backend)
    call.check(("w", w, (call.graph.num_edges, *call.widths("x", x, 2))))
    features = call.node(x), call.edge(w)
    if call.body == "torch":
        return call.node_result(ref.gather_multiply_sum(*features, call.source, call.target), x)
    body = "even" if call.body == "chunked" and dense.is_even(call.graph) else call.body
    return call.node_result(ops.gms(*features, *call.arrays(), False, body), x)


@operation
def weighted_sum(x: Tensor, a: Tensor, g: NeighborList | Tensor, *, backend: str | None = None) -> Tensor:
    """out_i = sum_{e -> i} a_e x_source, with one weight an edge, or one for each of H blocks of F / H channels.

    Args:
        x: Node features (N, F).
        a: Weights (E,) or (E, H).
        g: Graph.
        backend: Body to run.

    Returns:
        Node features (N, F).
    """
    call = Call("weighted_sum", g, x.shape[0], (x, a), backend)
    (width,) = call.widths("x", x, 2)
    call.check(("a", a, (call.graph.num_edges, *a.shape[1:2])))
    _check_heads(width, 1 if a.dim() == 1 else a.shape[1])
    features = call.node(x), call.edge(a)
    if call.body == "torch":
        return call.node_result(ref.weighted_sum(*features, call.source, call.target), x)
    features = features[0], features[1] if a.dim() == 2 else features[1][:, None]
    if call.body == "dense":
        return call.node_result(dense.weighted_sum(*features, call.graph), x)
    return call.node_result(ops.weighted_sum(*features, *call.arrays(), False, call.body), x)


@operation
def edge_dot(
    a: Tensor, b: Tensor, g: NeighborList | Tensor, heads: int | None = None, *, backend: str | None = None
) -> Tensor:
    """a_target . b_source for each edge.

    Args:
        a: Features of targets (N, F).
        b: Features of sources (N, F).
        g: Graph.
        heads: Number H of blocks of channels with a product each.
        backend: Body to run.

    Returns:
        (E,), or (E, H) with ``heads``.
    """
    call = Call("edge_dot", g, a.shape[0], (a, b), backend)
    (width,) = call.widths("a", a, 2)
    call.check(("b", b, a.shape))
    _check_heads(width, 1 if heads is None else heads)
    features = call.node(a), call.node(b)
    if call.body == "torch":
        return call.edge_result(ref.edge_dot(*features, call.source, call.target, heads), a)
    out = ops.edge_dot(*features, *call.arrays(), 1 if heads is None else heads, call.body)
    return call.edge_result(out[:, 0] if heads is None else out, a)


def _check_heads(width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        raise ValueError(f"heads must be blocks of equal width, got {heads} heads for {width} channels.")
