r"""Operations registered with torch (namespace ``scidiff::``): schema, shapes and gradients; bodies do the work.

An operation selects no backend: ``body`` names the package that holds its function, and the same function is written
once in each (``numba``: `scidiff.kernels.cpu_numba`, ``triton`` and ``interpret``: `scidiff.kernels.triton`,
``chunked``: `scidiff.kernels.chunked`, and `scidiff.kernels.even` for full graphs of one size).

Contract of bodies. A body is one plain function of tensors for each operation and pass, without autograd: contiguous
inputs of one floating dtype (float32 or float64; bfloat16 and float16 for node features on CUDA), integer indices
(int32 or int64), fresh contiguous outputs. A graph is passed as ``source`` (E,), ``ptr`` (N + 1,) with the edges
``ptr[i]:ptr[i + 1]`` of target i, ``target`` (E,), and its transpose ``t_ptr`` (N + 1,), ``t_target`` (E,), ``t_edge``
(E,): edges ``t_edge[t_ptr[j]:t_ptr[j + 1]]`` leave node j. ``edge`` in a signature makes row e of the weights
``edge[e]``: with (t_target, t_ptr, t_edge) for (source, ptr, edge) an operation runs on the transpose. Each output row
has one owner and sums run over ascending edges. Vectors are (N, 3, F). In the module named in front:

    gms        gms(x (N,F), w (E,F), source, ptr, edge=None) -> (N,F)               sum_e x_source w_e
               edge_product(g (N,F), x (N,F), source, target) -> (E,F)              g_target x_source
               gms_backward(g, x, w, t_ptr, t_target, t_edge) -> dx, dw            both at once, numba only
               weighted_sum(x (N,F), a (E,H), source, ptr, edge=None) -> (N,F)
               edge_dot(a (N,F), b (N,F), source, target, heads) -> (E,H)           a_target . b_source
    painn      cfconv(x, dist, W, bias, source, ptr, target, radial) -> (N,F)
               cfconv_backward(g, x, dist, W, bias, *graph, radial) -> dx, ddist, dW, dbias
               painn(phi, v, dist, unit, W, bias, source, ptr, target, radial) -> dh, dv
               painn_backward(gh, gv, phi, v, dist, unit, W, bias, *graph, radial)
                   -> dphi, dv, ddist, dunit, dW, dbias
    attention  softmax_gather_sum(logits (E,F), x (N,F), source, ptr) -> out (N,F), lse (N,F)
               softmax_gather_sum_backward(g, logits, x, out, lse, *graph) -> dlogits, dx
               neighbor_attention(q (N,H,D), k (N,H,D), v (N,H,C), bias (E,H), source, ptr) -> out (N,H,C), lse (N,H)
               neighbor_attention_backward(g, q, k, v, bias, out, lse, *graph) -> dq, dk, dv, dbias
    edge_mlp   edge_mlp(a, b, d2, wd, e, We, W2, b2, gate_w, gate_b, coord, vec, source, ptr, target, act, coord_range,
                   return_messages) -> h, dx, m
               edge_mlp_backward(gh, gx, gm, a, b, d2, wd, e, We, W2, b2, gate_w, gate_b, coord, vec, *graph, act,
                   coord_range) -> da, db, dd2, dwd, de, dWe, dW2, db2, dgate_w, dgate_b, dcoord (list), dvec
    ponita     ponita(x (N,O,C), basis (E,O,D), W (D,C), source, ptr, target) -> (N,O,C)
               ponita_backward(g, x, basis, W, *graph) -> dx, dbasis, dW
    segment    segment_sum(v (E,F), ptr) -> (N,F); segment_max(v (E,F), ptr) -> (N,F)
               segment_softmax(logits (E,F), ptr) -> p (E,F); segment_softmax_backward(g, p, ptr) -> dlogits

``*graph`` = source, ptr, target, t_ptr, t_target, t_edge; ``radial`` = a `scidiff.kernels.basis.RadialPair` (basis and
cutoff objects, whose ``code`` and ``constants`` a kernel may read). Absent optional tensors are None, and so are their
gradients; ``coord`` is a list of 0, 1 or 3 tensors.

Derivatives of second order: `gms`, `edge_product`, `weighted_sum` and `edge_dot` are closed under
differentiation, and so are reductions over segments (`scidiff.kernels.segment_ops`).
All others evaluate their backward by the torch definition when a graph of it is asked for (``create_graph=True``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidiff.kernels import ref
from scidiff.kernels.registered import registered, transforms_active

__all__ = ["GRAPH", "body_function", "contiguous", "edge_dot", "edge_product", "gms", "weighted_sum"]

_MODULES = {
    "gms": "gms",
    "edge_product": "gms",
    "gms_backward": "gms",
    "weighted_sum": "gms",
    "edge_dot": "gms",
    "cfconv": "painn",
    "cfconv_backward": "painn",
    "painn": "painn",
    "painn_backward": "painn",
    "softmax_gather_sum": "attention",
    "softmax_gather_sum_backward": "attention",
    "neighbor_attention": "attention",
    "neighbor_attention_backward": "attention",
    "edge_mlp": "edge_mlp",
    "edge_mlp_backward": "edge_mlp",
    "ponita": "ponita",
    "ponita_backward": "ponita",
    "segment_sum": "segment",
    "segment_max": "segment",
    "segment_softmax": "segment",
    "segment_softmax_backward": "segment",
}
_PACKAGES = {"numba": "cpu_numba", "triton": "triton", "interpret": "triton"}
GRAPH = "Tensor source, Tensor ptr, Tensor target, Tensor? t_ptr, Tensor? t_target, Tensor? t_edge"
_loaded: dict[tuple[str, str], Callable[..., Any]] = {}


def body_function(body: str, name: str) -> Callable[..., Any]:
    """The function of a body, imported at its first use.

    Raises:
        ImportError: If the package behind it cannot be imported.
        NotImplementedError: If this body has no such function.
    """
    if (body, name) not in _loaded:
        module = body if body in ("chunked", "even") else f"{_PACKAGES[body]}.{_MODULES[name]}"
        try:
            _loaded[body, name] = getattr(importlib.import_module(f"scidiff.kernels.{module}"), name)
        except (AttributeError, ModuleNotFoundError) as error:
            if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("scidiff"):
                raise
            raise NotImplementedError(f"body {body!r} has no {name}.") from error
    return _loaded[body, name]


def contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in memory order, as bodies take them."""
    return tuple(t.contiguous() for t in tensors)


@registered("gms", f"(Tensor x, Tensor w, {GRAPH}, bool transposed, str body) -> Tensor")
def gms(x, w, source, ptr, target, t_ptr, t_target, t_edge, transposed, body):  # type: ignore
    """out_i = sum_{e -> i} x_source w_e, or with ``transposed`` the same over the edges that leave a node."""
    run = body_function(body, "gms")
    x, w = contiguous(x, w)
    return run(x, w, t_target, t_ptr, t_edge) if transposed else run(x, w, source, ptr)


@gms.register_fake
def _(x, w, source, ptr, target, t_ptr, t_target, t_edge, transposed, body):  # type: ignore
    return x.new_empty((ptr.shape[0] - 1, x.shape[1]))


@registered("gms_backward", f"(Tensor g, Tensor x, Tensor w, {GRAPH}, str body) -> (Tensor, Tensor)")
def gms_backward(g, x, w, source, ptr, target, t_ptr, t_target, t_edge, body):  # type: ignore
    """dx and dw of `gms` at once, for a backward pass that is not differentiated."""
    return body_function(body, "gms_backward")(*contiguous(g, x, w), t_ptr, t_target, t_edge)


@gms_backward.register_fake
def _(g, x, w, *rest):  # type: ignore
    return x.new_empty(x.shape), w.new_empty(w.shape)


@registered("edge_product", f"(Tensor g, Tensor x, {GRAPH}, str body) -> Tensor")
def edge_product(g, x, source, ptr, target, t_ptr, t_target, t_edge, body):  # type: ignore
    """g_target x_source."""
    return body_function(body, "edge_product")(*contiguous(g, x), source, target)


@edge_product.register_fake
def _(g, x, source, ptr, target, t_ptr, t_target, t_edge, body):  # type: ignore
    return x.new_empty((source.shape[0], x.shape[1]))


@registered("weighted_sum", f"(Tensor x, Tensor a, {GRAPH}, bool transposed, str body) -> Tensor")
def weighted_sum(x, a, source, ptr, target, t_ptr, t_target, t_edge, transposed, body):  # type: ignore
    """sum_{e -> i} a_eh x_source,h, or with ``transposed`` the same over the edges that leave a node."""
    run = body_function(body, "weighted_sum")
    x, a = contiguous(x, a)
    return run(x, a, t_target, t_ptr, t_edge) if transposed else run(x, a, source, ptr)


@weighted_sum.register_fake
def _(x, a, source, ptr, target, t_ptr, t_target, t_edge, transposed, body):  # type: ignore
    return x.new_empty((ptr.shape[0] - 1, x.shape[1]))


@registered("edge_dot", f"(Tensor a, Tensor b, {GRAPH}, SymInt heads, str body) -> Tensor")
def edge_dot(a, b, source, ptr, target, t_ptr, t_target, t_edge, heads, body):  # type: ignore
    """a_target . b_source in ``heads`` blocks of channels."""
    return body_function(body, "edge_dot")(*contiguous(a, b), source, target, heads)


@edge_dot.register_fake
def _(a, b, source, ptr, target, t_ptr, t_target, t_edge, heads, body):  # type: ignore
    return a.new_empty((source.shape[0], heads))


# An operation has no tangent: a gradient taken at a level of forward-mode differentiation is that of the definition.


def _sum(x: Tensor, w: Tensor, graph: Sequence[Tensor], transposed: bool, body: str) -> Tensor:
    if transforms_active():
        return ref.gather_multiply_sum(x, w, *_ends(graph, transposed))
    return gms(x, w, *graph, transposed, body)


def _product(g: Tensor, x: Tensor, graph: Sequence[Tensor], body: str) -> Tensor:
    return ref.edge_product(g, x, *_ends(graph)) if transforms_active() else edge_product(g, x, *graph, body)


def _weighted(x: Tensor, a: Tensor, graph: Sequence[Tensor], transposed: bool, body: str) -> Tensor:
    if transforms_active():
        return ref.weighted_sum(x, a, *_ends(graph, transposed))
    return weighted_sum(x, a, *graph, transposed, body)


def _dot(a: Tensor, b: Tensor, graph: Sequence[Tensor], heads: int, body: str) -> Tensor:
    return ref.edge_dot(a, b, *_ends(graph), heads) if transforms_active() else edge_dot(a, b, *graph, heads, body)


def _ends(graph: Sequence[Tensor], transposed: bool = False) -> tuple[Tensor, Tensor]:
    return (graph[2], graph[0]) if transposed else (graph[0], graph[2])


def _save_pair(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:8])
    ctx.options = inputs[8:]


def _gms_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, w, *graph = ctx.saved_tensors
    transposed, body = ctx.options
    need_x, need_w = ctx.needs_input_grad[:2]
    is_last = not torch.is_grad_enabled() and not transforms_active()
    if is_last and need_x and need_w and not transposed and body == "numba":
        return *gms_backward(g, x, w, *graph, body), *[None] * 8
    ends = (x, g) if transposed else (g, x)
    dx = _sum(g, w, graph, not transposed, body) if need_x else None
    dw = _product(*ends, graph, body) if need_w else None
    return dx, dw, *[None] * 8


def _edge_product_backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
    g, x, *graph = ctx.saved_tensors
    (body,) = ctx.options
    need_g, need_x = ctx.needs_input_grad[:2]
    dg = _sum(x, u, graph, False, body) if need_g else None
    dx = _sum(g, u, graph, True, body) if need_x else None
    return dg, dx, *[None] * 7


gms.register_autograd(_gms_backward, _save_pair)
edge_product.register_autograd(_edge_product_backward, _save_pair)


def _weighted_sum_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, a, *graph = ctx.saved_tensors
    transposed, body = ctx.options
    need_x, need_a = ctx.needs_input_grad[:2]
    ends = (x, g) if transposed else (g, x)
    dx = _weighted(g, a, graph, not transposed, body) if need_x else None
    da = _dot(*ends, graph, a.shape[1], body) if need_a else None
    return dx, da, *[None] * 8


def _edge_dot_backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
    a, b, *graph = ctx.saved_tensors
    _, body = ctx.options
    need_a, need_b = ctx.needs_input_grad[:2]
    da = _weighted(b, u, graph, False, body) if need_a else None
    db = _weighted(a, u, graph, True, body) if need_b else None
    return da, db, *[None] * 8


weighted_sum.register_autograd(_weighted_sum_backward, _save_pair)
edge_dot.register_autograd(_edge_dot_backward, _save_pair)
