"""Messages of a network on edges, as in EGNN: made, reduced and, with a head, summed as weights of edge vectors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from scidiff.kernels import fused, ref
from scidiff.kernels._dispatch import Call, maybe, operation
from scidiff.kernels.graph import NeighborList

__all__ = ["EdgeMessages", "edge_mlp"]


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
    edges = maybe(call.edge, e), maybe(call.weight, We)
    layer, gates = (call.weight(W2), call.weight(b2)), [call.weight(w) for w in gate or ()]
    heads, vectors = [call.weight(c) for c in coords], maybe(call.edge, vec)
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
