"""Messages of the published networks: made, weighted and summed in one operation.

``g`` is a `NeighborList`, or an ``edge_index`` (2, E) of (source, target) in any order; edge features have the order of
what was given. ``backend`` names the body to run (`scidiff.kernels.report`). Nodes without edges get 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scidiff.kernels import dense, fused, ref
from scidiff.kernels._dispatch import Call, maybe, operation
from scidiff.kernels.basis import Basis, RadialPair, fusible
from scidiff.kernels.graph import NeighborList

__all__ = [
    "cfconv",
    "neighbor_attention",
    "painn_message",
    "ponita_conv",
    "softmax_gather_sum",
    "tensor_product_scatter",
]

Function = Callable[[Tensor], Tensor]


@operation
def cfconv(
    x: Tensor,
    dist: Tensor,
    W: Tensor,
    bias: Tensor,
    g: NeighborList | Tensor,
    basis: Function,
    cutoff: Function | None,
    *,
    backend: str | None = None,
) -> Tensor:
    """out_i = sum_{e -> i} x_source * f_c(d_e) (basis(d_e) W + bias): the filters are made on the way.

    Args:
        x: Node features (N, F).
        dist: Distances (E,).
        W: Weights of the filters (K, F).
        bias: Bias of the filters (F,).
        g: Graph.
        basis: Radial basis (E,) -> (E, K): an object of `scidiff.kernels.basis`, or any function.
        cutoff: Envelope (E,) -> (E,), or None for 1.
        backend: Body to run.

    Returns:
        Node features (N, F).
    """
    call = Call("cfconv", g, x.shape[0], (x, dist, W, bias), backend, _not_fusible(basis, cutoff))
    (width,) = call.widths("x", x, 2)
    call.check(
        ("dist", dist, (call.graph.num_edges,)), ("W", W, (_num_basis(basis, W), width)), ("bias", bias, (width,))
    )
    args = call.node(x), call.edge(dist), call.weight(W), call.weight(bias)
    if call.body == "torch":
        return call.node_result(ref.cfconv(*args, call.source, call.target, basis, cutoff), x)
    pair = RadialPair(basis, cutoff)  # pyright: ignore[reportArgumentType]
    return call.node_result(fused.cfconv(*args, *call.arrays(), *pair.schema, call.body), x)


@operation
def painn_message(
    phi: Tensor,
    v: Tensor,
    dist: Tensor,
    unit: Tensor,
    W: Tensor,
    bias: Tensor,
    g: NeighborList | Tensor,
    basis: Function,
    cutoff: Function | None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """(a, b, c) = phi_source * f_c(d) (basis(d) W + bias); dh_i = sum a; dv_i = sum (b v_source + c unit).

    Args:
        phi: Node features (N, 3F), in blocks a, b, c.
        v: Vector features (N, F, 3); a layout contiguous in (N, 3, F) is used without a copy.
        dist: Distances (E,).
        unit: Directions (E, 3), from the target to the source; 0 for coincident points.
        W: Weights of the filters (K, 3F).
        bias: Bias of the filters (3F,).
        g: Graph.
        basis: Radial basis (E,) -> (E, K): an object of `scidiff.kernels.basis`, or any function.
        cutoff: Envelope (E,) -> (E,), or None for 1.
        backend: Body to run.

    Returns:
        dh (N, F) and dv (N, F, 3), the latter contiguous in (N, 3, F).

    References: Schütt et al. 2021, "Equivariant message passing for the prediction of tensorial properties and
    molecular spectra", eq. 7-8.
    """
    tensors = phi, v, dist, unit, W, bias
    call = Call("painn_message", g, phi.shape[0], tensors, backend, _not_fusible(basis, cutoff))
    width, _ = call.widths("v", v, 3)
    num_nodes, num_edges = call.graph.num_nodes, call.graph.num_edges
    call.check(
        *(("phi", phi, (num_nodes, 3 * width)), ("v", v, (num_nodes, width, 3))),
        *(("dist", dist, (num_edges,)), ("unit", unit, (num_edges, 3))),
        *(("W", W, (_num_basis(basis, W), 3 * width)), ("bias", bias, (3 * width,))),
    )
    nodes = call.node(phi), call.node(v.transpose(1, 2).contiguous())
    edges = call.edge(dist), call.edge(unit), call.weight(W), call.weight(bias)
    if call.body == "torch":
        dh, dv = ref.painn_message(*nodes, *edges, call.source, call.target, basis, cutoff)
    else:
        pair = RadialPair(basis, cutoff)  # pyright: ignore[reportArgumentType]
        dh, dv = fused.painn(*nodes, *edges, *call.arrays(), *pair.schema, call.body)
    return call.node_result(dh, phi), call.node_result(dv, v).transpose(1, 2)


@operation
def softmax_gather_sum(logits: Tensor, x: Tensor, g: NeighborList | Tensor, *, backend: str | None = None) -> Tensor:
    """out_if = sum_{e -> i} softmax_e(l_ef) x_source,f: attention with a weight for each channel.

    Args:
        logits: (E, F).
        x: Node features (N, F).
        g: Graph.
        backend: Body to run.

    Returns:
        Node features (N, F).

    References: Le et al. 2022, "Equivariant Graph Attention Networks for Molecular Property Prediction" (EQGAT).
    """
    call = Call("softmax_gather_sum", g, x.shape[0], (logits, x), backend)
    call.check(("logits", logits, (call.graph.num_edges, *call.widths("x", x, 2))))
    args = call.edge(logits), call.node(x)
    if call.body == "torch":
        return call.node_result(ref.softmax_gather_sum(*args, call.source, call.target), x)
    return call.node_result(fused.softmax_gather_sum(*args, *call.arrays(), call.body)[0], x)


@operation
def neighbor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: NeighborList | Tensor,
    bias: Tensor | None = None,
    v_vec: Tensor | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """out_i = sum_{e -> i} softmax_e(q_target . k_source / sqrt(D) + bias_e) v_source.

    Args:
        q: Queries of targets (N, H, D).
        k: Keys of sources (N, H, D).
        v: Values of sources (N, H, D).
        g: Graph.
        bias: (E, H).
        v_vec: Vector values of sources (N, H, D, 3), summed with the same weights.
        backend: Body to run.

    Returns:
        (N, H, D), and (N, H, D, 3) or None.

    References: Vaswani et al. 2017, "Attention Is All You Need", eq. 1.
    """
    call = Call("neighbor_attention", g, q.shape[0], (q, k, v, bias, v_vec), backend)
    heads, _ = call.widths("q", q, 3)
    num_nodes = call.graph.num_nodes
    call.check(
        *(("k", k, q.shape), ("v", v, (num_nodes, heads, v.shape[-1]))),
        ("bias", bias, (call.graph.num_edges, heads)),
    )
    if v_vec is not None:
        call.check(("v_vec", v_vec, (num_nodes, heads, *v_vec.shape[2:])))
    features, vectors = (call.node(q), call.node(k), call.node(v)), maybe(call.node, v_vec)
    biases = maybe(call.edge, bias)
    if call.body == "dense":
        out, vec = dense.neighbor_attention(*features, call.graph, biases, vectors)
    elif call.body == "torch":
        out, vec = ref.neighbor_attention(*features, call.source, call.target, biases, vectors)
    else:  # vectors are further channels of the values
        values = features[2] if vectors is None else torch.cat([features[2], vectors.flatten(2)], 2)
        sums = fused.neighbor_attention(*features[:2], values, biases, *call.arrays(), call.body)[0]
        out, vec = sums[..., : v.shape[2]], None
        if vectors is not None:
            vec = sums[..., v.shape[2] :].unflatten(2, vectors.shape[2:])
    return call.node_result(out, v), None if vec is None or v_vec is None else call.node_result(vec, v_vec)


@operation
def ponita_conv(
    x: Tensor,
    basis: Tensor,
    W: Tensor,
    fiber: Tensor,
    g: NeighborList | Tensor,
    *,
    mlp: Function | None = None,
    bias: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Separable convolution over positions and orientations.

    y_ioc = sum_{e -> i} (basis_eo W)_c x_source,oc;  z_ipc = (1/O) sum_o fiber_opc y_ioc + bias_c.

    Args:
        x: Features on N nodes and O orientations (N, O, C).
        basis: Values of the spatial basis (E, O, Db), shared by all layers; with ``mlp``, its input, such as the two
            invariants (E, O, 2).
        W: Weights of the spatial kernels (Db, C).
        fiber: Kernels between orientations (O, O, C): [o, p] from o to p.
        g: Graph.
        mlp: Function that makes the basis from ``basis``.
        bias: (C,).
        backend: Body to run.

    Returns:
        (N, O, C).

    References: Bekkers et al. 2024, "Fast, Expressive SE(n) Equivariant Networks through Weight-Sharing in
    Position-Orientation Space", eq. 6-8.
    """
    if mlp is not None:
        basis = mlp(basis)
    widest = max(W.shape)
    limit = f"its weights stay on the chip, at most 128 x 128, and these need {widest}" if widest > 128 else ""
    call = Call("ponita_conv", g, x.shape[0], (x, basis, W, fiber, bias), backend, limit=limit)
    num_orientations, width = call.widths("x", x, 3)
    call.check(
        ("basis", basis, (call.graph.num_edges, num_orientations, W.shape[0])),
        ("W", W, (W.shape[0], width)),
        ("fiber", fiber, (num_orientations, num_orientations, width)),
        ("bias", bias, (width,)),
    )
    args, kernels = (call.node(x), call.edge(basis), call.weight(W)), (call.weight(fiber), maybe(call.weight, bias))
    if call.body == "torch":
        return call.node_result(ref.ponita_conv(*args, kernels[0], call.source, call.target, kernels[1]), x)
    y = fused.ponita(*args, *call.arrays(), call.body)
    return call.node_result(ref.fiber_conv(y, *kernels), x)


@operation
def tensor_product_scatter(
    x: Tensor, Y: Tensor, w: Tensor, g: NeighborList | Tensor, tp: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """out_i = sum_{e -> i} tp(x_source, Y_e, w_e), such as an ``e3nn.o3.TensorProduct`` with weights for each edge.

    Args:
        x: Node features (N, irreps_in).
        Y: Spherical harmonics of edge vectors (E, irreps_edge).
        w: Weights of the paths (E, num_weights).
        g: Graph.
        tp: The product, with ``shared_weights=False``.

    Returns:
        Node features (N, irreps_out).
    """
    call = Call("tensor_product_scatter", g, x.shape[0], (x, Y, w), None)
    call.widths("x", x, 2)
    call.check(*((name, t, (call.graph.num_edges, *t.shape[1:])) for name, t in (("Y", Y), ("w", w))))
    out = ref.tensor_product_scatter(call.node(x), call.edge(Y), call.edge(w), call.source, call.target, tp)
    return call.node_result(out, x)


def _not_fusible(basis: Function, cutoff: Function | None) -> str:
    return "" if fusible(basis, cutoff) else "the basis or cutoff is not one of scidiff.kernels.basis"


def _num_basis(basis: Function, W: Tensor) -> int:
    return basis.num_basis if isinstance(basis, Basis) else W.shape[0]
