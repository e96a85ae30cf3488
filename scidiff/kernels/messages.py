"""Messages of the published networks: made, weighted and summed in one operation.

``g`` is a `NeighborList`, or an ``edge_index`` (2, E) of (source, target) in any order; edge features have the order of
what was given. ``backend`` names the body to run (`scidiff.kernels.report`). Nodes without edges get 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from scidiff.kernels import dense, fused, ref
from scidiff.kernels._dispatch import Call, operation
from scidiff.kernels.basis import Basis, RadialPair, fusible
from scidiff.kernels.graph import NeighborList

__all__ = [
    "EdgeMessages",
    "cfconv",
    "edge_mlp",
    "neighbor_attention",
    "painn_message",
    "ponita_conv",
    "softmax_gather_sum",
    "tensor_product_scatter",
]

Function = Callable[[Tensor], Tensor]


class EdgeMessages(NamedTuple):
    """Result of `edge_mlp`.

    Attributes:
        h: Reduced messages (N, F2).
        dx: Reduced vectors (N, D), None without ``coord``.
        m: Messages (E, F2), None unless asked for.
    """

    h: Tensor
    dx: Tensor | None
    m: Tensor | None


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
def edge_mlp(
    a: Tensor,
    b: Tensor,
    g: NeighborList | Tensor,
    *,
    d2: Tensor,
    wd: Tensor,
    e: Tensor | None = None,
    We: Tensor | None = None,
    W2: Tensor,
    b2: Tensor,
    gate: tuple[Tensor, Tensor] | None = None,
    coord: Tensor | tuple[Tensor, Tensor, Tensor] | None = None,
    vec: Tensor | None = None,
    act: str = "silu",
    norm: str | float = "sum",
    coord_norm: str | float | None = None,
    coord_range: float | None = None,
    return_messages: bool = False,
    backend: str | None = None,
) -> EdgeMessages:
    r"""Messages of a two-layer network on edges, reduced at the targets, and a weighted sum of edge vectors.

    pre = a_target + b_source + d2 wd + e We;  m = act(act(pre) W2 + b2), times sigmoid(m . w_g + b_g) with a gate;
    h_i = sum m;  dx_i = sum vec psi(m). The first layer of the published form, W1 [h_i; h_j; d2; e] + b1, is split
    exactly into a = h W1_i + b1, b = h W1_j, wd and We, so that most of its work is done once a node.

    Args:
        a: First layer of targets, bias included, (N, F).
        b: First layer of sources (N, F).
        g: Graph.
        d2: Radial input (E,), usually the squared distance.
        wd: Its weights (F,).
        e: Edge features (E, Fe).
        We: Their weights (Fe, F).
        W2: Second layer (F, F2).
        b2: Its bias (F2,).
        gate: Weights (F2,) and bias (a number as a tensor) of the gate.
        coord: psi(m) = m . w for a vector w (F2,), or act(m W3 + b3) . w4 for (W3 (F2, F3), b3 (F3,), w4 (F3,)).
        vec: Edge vectors (E, D), from the target to the source; needed with ``coord``. For D > 3 the torch definition
            runs.
        act: ``"silu"``, ``"relu"`` or ``"tanh"``.
        norm: ``"sum"``, ``"mean"``, or a number by which sums are divided; for h.
        coord_norm: The same for dx; by default ``norm``.
        coord_range: R, for psi -> R tanh(psi).
        return_messages: Whether m is returned.
        backend: Body to run.

    Returns:
        h (N, F2), dx (N, D) or None, m (E, F2) or None.

    Raises:
        ValueError: If options are unknown, or if ``e`` and ``We``, or ``coord`` and ``vec``, are not given together.

    References: Satorras et al. 2021, "E(n) Equivariant Graph Neural Networks", eq. 3-5 (vectors there point from the
    source to the target: subtract dx); Hoogeboom et al. 2022, "Equivariant Diffusion for Molecule Generation in 3D".
    """
    _check_edge_mlp(e, We, coord, vec, act, (norm, norm if coord_norm is None else coord_norm))
    coords = () if coord is None else (coord,) if isinstance(coord, Tensor) else tuple(coord)
    dims = 3 if vec is None else vec.shape[-1]
    refusal = f"it takes vectors of at most three components, got {dims}" if dims > 3 else ""
    tensors = (a, b, d2, wd, e, We, W2, b2, *(gate or ()), *coords, vec)
    call = Call("edge_mlp", g, a.shape[0], tensors, backend, refusal)
    (width,), num_edges, hidden = call.widths("a", a, 2), call.graph.num_edges, W2.shape[-1]
    call.check(
        *(("b", b, a.shape), ("d2", d2, (num_edges,)), ("wd", wd, (width,)), ("vec", vec, (num_edges, dims))),
        *(("W2", W2, (width, hidden)), ("b2", b2, (hidden,))),
    )
    if e is not None and We is not None:
        call.check(("e", e, (num_edges, We.shape[0])), ("We", We, (We.shape[0], width)))
    if gate is not None:
        call.check(("the gate's weights", gate[0], (hidden,)), ("the gate's bias", gate[1], ()))
    if len(coords) == 1:
        call.check(("coord", coords[0], (hidden,)))
    elif coords:
        inner = coords[0].shape[-1]
        call.check(*(("coord", c, shape) for c, shape in zip(coords, ((hidden, inner), (inner,), (inner,)))))
    first = call.node(a), call.node(b), call.edge(d2), call.weight(wd)
    edges = _maybe(call.edge, e), _maybe(call.weight, We)
    layer, gates = (call.weight(W2), call.weight(b2)), [call.weight(w) for w in gate or ()]
    heads, vectors = [call.weight(c) for c in coords], _maybe(call.edge, vec)
    if call.body == "torch":
        nodes, radial = (*first[:2], call.source, call.target), first[2:]
        pair = (gates[0], gates[1]) if gates else None
        h, dx, m = ref.edge_mlp(*nodes, *radial, *edges, *layer, pair, tuple(heads) or None, vectors, act, coord_range)
    else:
        slots = [None] * (3 - len(heads)) + heads
        vectors = F.pad(vectors, (0, 3 - dims)) if vectors is not None and dims < 3 else vectors
        tensors = (*first, *edges, *layer, *(gates or (None, None)), *slots, vectors if heads else None)
        h, dx, m = fused.edge_mlp(*tensors, *call.arrays(), act, coord_range, return_messages, call.body)
        dx = dx[:, :dims] if heads else None
    h = _normalised(call, call.node_result(h, a), norm)
    if dx is not None:
        dx = _normalised(
            call, call.node_result(dx, a if vec is None else vec), norm if coord_norm is None else coord_norm
        )
    return EdgeMessages(h, dx, call.edge_result(m, a) if return_messages else None)


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
    features, vectors = (call.node(q), call.node(k), call.node(v)), _maybe(call.node, v_vec)
    biases = _maybe(call.edge, bias)
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
    args, kernels = (call.node(x), call.edge(basis), call.weight(W)), (call.weight(fiber), _maybe(call.weight, bias))
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


def _maybe(convert: Callable[[Tensor], Tensor], x: Tensor | None) -> Tensor | None:
    return None if x is None else convert(x)


def _normalised(call: Call, x: Tensor, norm: str | float) -> Tensor:
    if norm == "mean":
        return x / call.graph.degree.clamp_min(1)[:, None].to(x.dtype)
    return x if isinstance(norm, str) else x / norm


def _check_edge_mlp(
    e: Tensor | None, We: Tensor | None, coord: object, vec: Tensor | None, act: str, norms: tuple[str | float, ...]
) -> None:
    if act not in ref.ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(map(repr, ref.ACTIVATIONS))}, got {act!r}.")
    for norm in norms:
        if isinstance(norm, str) and norm not in ("sum", "mean"):
            raise ValueError(f"norm must be 'sum', 'mean' or a number, got {norm!r}.")
    if (e is None) != (We is None):
        raise ValueError("edge features e and their weights We must be given together.")
    if coord is not None and vec is None:
        raise ValueError("coord makes weights of edge vectors: give vec (E, 3) too.")
