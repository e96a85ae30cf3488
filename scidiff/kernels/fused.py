"""Registered operations whose second derivative is that of the torch definition; see `scidiff.kernels.ops`.

Each operation has a backward operation, opaque to tracers as well. Under ``create_graph=True`` the backward is the
differentiated definition instead, so any order of derivative is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidiff.kernels import ref
from scidiff.kernels.basis import restore
from scidiff.kernels.ops import GRAPH, body_function, contiguous
from scidiff.kernels.registered import Operation, registered, transforms_active

__all__ = ["cfconv", "edge_mlp", "neighbor_attention", "painn", "ponita", "softmax_gather_sum"]

_RADIAL = "str basis, float[] constants, str cutoff, float[] cutoff_constants, str body"


def differentiated(
    definition: Callable[..., Any], tensors: Sequence[Tensor | None], needs: Sequence[bool], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients of the definition as differentiable functions of ``tensors`` and ``grads``; None where not needed."""
    with torch.enable_grad():
        own = [t if t is None else t.view_as(t) for t in tensors]  # one tensor may be made from another
        out = definition(*own)
        out = [out] if isinstance(out, Tensor) else list(out)
        wanted = [t for t, n in zip(own, needs) if n and t is not None]
        pairs = [(o, g) for o, g in zip(out, grads) if o is not None and o.requires_grad]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True
            )
        )
    return [next(found) if n and t is not None else None for t, n in zip(own, needs)]


def _register(
    num_tensors: int,
    definition: Callable[..., Any],
    backward: Operation,
    forward: Operation,
    num_options: int,
    keeps: int = 0,
) -> None:
    """Gradient of an operation with ``num_tensors`` tensors, the graph, and options.

    ``definition(tensors, graph, options)`` is the torch definition; ``backward`` the backward operation, which also
    takes the last ``keeps`` results (those have no gradient).
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        results = (output,) if isinstance(output, Tensor) else output
        kept = results[len(results) - keeps - 1 :] if keeps else ()
        if keeps:
            ctx.mark_non_differentiable(*results[-keeps:])
        ctx.save_for_backward(*inputs[: num_tensors + 6], *kept)
        ctx.options = inputs[num_tensors + 6 :]

    def gradient(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        tensors, graph, kept = saved[:num_tensors], saved[num_tensors : num_tensors + 6], saved[num_tensors + 6 :]
        needs = ctx.needs_input_grad[:num_tensors]
        grads = grads[: len(grads) - keeps]
        if torch.is_grad_enabled() or transforms_active():  # the backward operation has no tangent
            found = differentiated(lambda *own: definition(own, graph, ctx.options), tensors, needs, grads)
        else:
            found = backward(*grads, *tensors, *kept, *graph, *ctx.options)
            found = [d if n else None for d, n in zip(found, needs)]
        return (*found, *[None] * (6 + num_options))

    forward.register_autograd(gradient, setup)


# -- continuous-filter convolution -------------------------------------------------------------------------------------


def _radial(W: Tensor, options: Sequence[Any]) -> Any:
    return restore(W.shape[0], *options[:4])


@registered("cfconv", f"(Tensor x, Tensor dist, Tensor W, Tensor bias, {GRAPH}, {_RADIAL}) -> Tensor")
def cfconv(x, dist, W, bias, source, ptr, target, t_ptr, t_target, t_edge, *options):  # type: ignore
    """sum_e x_source w(d_e)."""
    run = body_function(options[-1], "cfconv")
    return run(*contiguous(x, dist, W, bias), source, ptr, target, _radial(W, options))


@registered(
    "cfconv_backward",
    f"(Tensor g, Tensor x, Tensor dist, Tensor W, Tensor bias, {GRAPH}, {_RADIAL}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def cfconv_backward(g, x, dist, W, bias, source, ptr, target, t_ptr, t_target, t_edge, *options):  # type: ignore
    """dx, ddist, dW, dbias."""
    graph = source, ptr, target, t_ptr, t_target, t_edge
    return body_function(options[-1], "cfconv_backward")(*contiguous(g, x, dist, W, bias), *graph, _radial(W, options))


@cfconv.register_fake
def _(x, dist, W, bias, source, ptr, target, *rest):  # type: ignore
    return x.new_empty((ptr.shape[0] - 1, x.shape[1]))


@cfconv_backward.register_fake
def _(g, x, dist, W, bias, *rest):  # type: ignore
    return tuple(t.new_empty(t.shape) for t in (x, dist, W, bias))


def _cfconv_definition(tensors: Sequence[Tensor], graph: Sequence[Tensor], options: Sequence[Any]) -> Tensor:
    return ref.cfconv(*tensors, graph[0], graph[2], *_radial(tensors[2], options))  # pyright: ignore[reportCallIssue]


_register(4, _cfconv_definition, cfconv_backward, cfconv, 5)

# -- PaiNN -------------------------------------------------------------------------------------------------------------

_PAINN = "Tensor phi, Tensor v, Tensor dist, Tensor unit, Tensor W, Tensor bias"


@registered("painn", f"({_PAINN}, {GRAPH}, {_RADIAL}) -> (Tensor, Tensor)")
def painn(phi, v, dist, unit, W, bias, source, ptr, target, t_ptr, t_target, t_edge, *options):  # type: ignore
    """dh, dv of the PaiNN message; v (N, 3, F)."""
    run = body_function(options[-1], "painn")
    return run(*contiguous(phi, v, dist, unit, W, bias), source, ptr, target, _radial(W, options))


@registered(
    "painn_backward",
    f"(Tensor gh, Tensor gv, {_PAINN}, {GRAPH}, {_RADIAL}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def painn_backward(gh, gv, phi, v, dist, unit, W, bias, *rest):  # type: ignore
    """dphi, dv, ddist, dunit, dW, dbias."""
    graph, options = rest[:6], rest[6:]
    features = contiguous(gh, gv, phi, v, dist, unit, W, bias)
    return body_function(options[-1], "painn_backward")(*features, *graph, _radial(W, options))


@painn.register_fake
def _(phi, v, dist, unit, W, bias, source, ptr, target, *rest):  # type: ignore
    num_nodes = ptr.shape[0] - 1
    return phi.new_empty((num_nodes, v.shape[2])), phi.new_empty((num_nodes, 3, v.shape[2]))


@painn_backward.register_fake
def _(gh, gv, phi, v, dist, unit, W, bias, *rest):  # type: ignore
    return tuple(t.new_empty(t.shape) for t in (phi, v, dist, unit, W, bias))


def _painn_definition(
    tensors: Sequence[Tensor], graph: Sequence[Tensor], options: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    pair = _radial(tensors[4], options)
    return ref.painn_message(*tensors, graph[0], graph[2], *pair)  # pyright: ignore[reportCallIssue]


_register(6, _painn_definition, painn_backward, painn, 5)

# -- channel-wise softmax ----------------------------------------------------------------------------------------------


@registered("softmax_gather_sum", f"(Tensor logits, Tensor x, {GRAPH}, str body) -> (Tensor, Tensor)")
def softmax_gather_sum(logits, x, source, ptr, target, t_ptr, t_target, t_edge, body):  # type: ignore
    """sum_e softmax(l)_e x_source, and the logarithm of the sum of exponentials of each row."""
    return body_function(body, "softmax_gather_sum")(*contiguous(logits, x), source, ptr)


@registered(
    "softmax_gather_sum_backward",
    f"(Tensor g, Tensor logits, Tensor x, Tensor out, Tensor lse, {GRAPH}, str body) -> (Tensor, Tensor)",
)
def softmax_gather_sum_backward(g, logits, x, out, lse, source, ptr, target, *rest):  # type: ignore
    """dlogits, dx."""
    run = body_function(rest[-1], "softmax_gather_sum_backward")
    return run(*contiguous(g, logits, x, out, lse), source, ptr, target, *rest[:3])


@softmax_gather_sum.register_fake
def _(logits, x, source, ptr, *rest):  # type: ignore
    shape = ptr.shape[0] - 1, x.shape[1]
    return x.new_empty(shape), x.new_empty(shape)


@softmax_gather_sum_backward.register_fake
def _(g, logits, x, *rest):  # type: ignore
    return logits.new_empty(logits.shape), x.new_empty(x.shape)


def _softmax_definition(tensors: Sequence[Tensor], graph: Sequence[Tensor], options: Sequence[Any]) -> Tensor:
    return ref.softmax_gather_sum(*tensors, graph[0], graph[2])  # pyright: ignore[reportCallIssue]


_register(2, _softmax_definition, softmax_gather_sum_backward, softmax_gather_sum, 1, keeps=1)

# -- attention over neighbours -----------------------------------------------------------------------------------------

_ATTENTION = "Tensor q, Tensor k, Tensor v, Tensor? bias"


@registered("neighbor_attention", f"({_ATTENTION}, {GRAPH}, str body) -> (Tensor, Tensor)")
def neighbor_attention(q, k, v, bias, source, ptr, target, t_ptr, t_target, t_edge, body):  # type: ignore
    """sum_e softmax(q_target . k_source / sqrt(D) + bias)_e v_source, and the logarithm of the sum of exponentials."""
    run = body_function(body, "neighbor_attention")
    return run(*contiguous(q, k, v), None if bias is None else bias.contiguous(), source, ptr)


@registered(
    "neighbor_attention_backward",
    f"(Tensor g, {_ATTENTION}, Tensor out, Tensor lse, {GRAPH}, str body) -> (Tensor, Tensor, Tensor, Tensor)",
)
def neighbor_attention_backward(g, q, k, v, bias, out, lse, *rest):  # type: ignore
    """dq, dk, dv, dbias; dbias is empty without a bias."""
    features = *contiguous(g, q, k, v), None if bias is None else bias.contiguous(), *contiguous(out, lse)
    dq, dk, dv, dbias = body_function(rest[-1], "neighbor_attention_backward")(*features, *rest[:6])
    return dq, dk, dv, q.new_empty(0) if dbias is None else dbias


@neighbor_attention.register_fake
def _(q, k, v, *rest):  # type: ignore
    return v.new_empty(v.shape), q.new_empty(q.shape[:2])


@neighbor_attention_backward.register_fake
def _(g, q, k, v, bias, *rest):  # type: ignore
    return tuple(q.new_empty(0) if t is None else t.new_empty(t.shape) for t in (q, k, v, bias))


def _attention_definition(tensors: Sequence[Any], graph: Sequence[Tensor], options: Sequence[Any]) -> Tensor:
    q, k, v, bias = tensors
    return ref.neighbor_attention(q, k, v, graph[0], graph[2], bias)[0]


_register(4, _attention_definition, neighbor_attention_backward, neighbor_attention, 1, keeps=1)

# -- edge networks -----------------------------------------------------------------------------------------------------

_MLP = (
    "Tensor a, Tensor b, Tensor d2, Tensor wd, Tensor? e, Tensor? We, Tensor W2, Tensor b2, Tensor? gate_w, "
    "Tensor? gate_b, Tensor? W3, Tensor? b3, Tensor? w4, Tensor? vec"
)
_MLP_OPTIONS = "str act, float? coord_range, bool return_messages, str body"


def _coord(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [t for t in tensors if t is not None]


@registered("edge_mlp", f"({_MLP}, {GRAPH}, {_MLP_OPTIONS}) -> (Tensor, Tensor, Tensor)")
def edge_mlp(*args):  # type: ignore
    """h (N, F2), dx (N, 3) or (0, 3), m (E, F2) or (0, F2)."""
    tensors = [None if t is None else t.contiguous() for t in args[:14]]
    (source, ptr, target), (*options, body) = args[14:17], args[20:]
    run = body_function(body, "edge_mlp")
    h, dx, m = run(*tensors[:10], _coord(tensors[10:13]), tensors[13], source, ptr, target, *options)
    return h, h.new_empty(0, 3) if dx is None else dx, h.new_empty(0, h.shape[1]) if m is None else m


@registered(
    "edge_mlp_backward",
    f"(Tensor gh, Tensor gx, Tensor gm, {_MLP}, {GRAPH}, {_MLP_OPTIONS}) -> ({', '.join(['Tensor'] * 14)})",
)
def edge_mlp_backward(gh, gx, gm, *args):  # type: ignore
    """Gradients of the fourteen tensors, empty where the tensor is absent."""
    tensors, graph, options = args[:14], args[14:20], args[20:]
    tensors = [None if t is None else t.contiguous() for t in tensors]
    gh, gx, gm = contiguous(gh, gx, gm)
    act, coord_range, return_messages, body = options
    coord = _coord(tensors[10:13])
    grads = body_function(body, "edge_mlp_backward")(
        *(gh, gx if coord else None, gm if return_messages else None),
        *(*tensors[:10], coord, tensors[13], *graph, act, coord_range),
    )
    dcoord = [None] * (3 - len(coord)) + list(grads[10])
    found = *grads[:10], *dcoord, grads[11]
    return tuple(gh.new_empty(0) if d is None else d for d in found)


@edge_mlp.register_fake
def _(*args):  # type: ignore
    W2, w4, source, ptr = args[6], args[12], args[14], args[15]
    num_nodes, width = ptr.shape[0] - 1, W2.shape[1]
    h = W2.new_empty((num_nodes, width))
    dx = W2.new_empty((0 if w4 is None else num_nodes, 3))
    return h, dx, W2.new_empty((source.shape[0] if args[22] else 0, width))


@edge_mlp_backward.register_fake
def _(gh, gx, gm, *args):  # type: ignore
    return tuple(gh.new_empty(0 if t is None else t.shape) for t in args[:14])


def _mlp_definition(
    tensors: Sequence[Any], graph: Sequence[Tensor], options: Sequence[Any]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    a, b, d2, wd, e, We, W2, b2, gate_w, gate_b, *coord, vec = tensors
    gate = None if gate_w is None else (gate_w, gate_b)
    act, coord_range, return_messages, _ = options
    head = tuple(_coord(coord)) or None
    radial = d2, wd, e, We, W2, b2
    h, dx, m = ref.edge_mlp(a, b, graph[0], graph[2], *radial, gate, head, vec, act, coord_range)
    return h, dx, m if return_messages else None


_register(14, _mlp_definition, edge_mlp_backward, edge_mlp, 4)

# -- PONITA ------------------------------------------------------------------------------------------------------------


@registered("ponita", f"(Tensor x, Tensor basis, Tensor W, {GRAPH}, str body) -> Tensor")
def ponita(x, basis, W, source, ptr, target, t_ptr, t_target, t_edge, body):  # type: ignore
    """sum_e (basis_e W) x_source."""
    return body_function(body, "ponita")(*contiguous(x, basis, W), source, ptr, target)


@registered(
    "ponita_backward", f"(Tensor g, Tensor x, Tensor basis, Tensor W, {GRAPH}, str body) -> (Tensor, Tensor, Tensor)"
)
def ponita_backward(g, x, basis, W, *rest):  # type: ignore
    """dx, dbasis, dW."""
    return body_function(rest[-1], "ponita_backward")(*contiguous(g, x, basis, W), *rest[:6])


@ponita.register_fake
def _(x, basis, W, source, ptr, *rest):  # type: ignore
    return x.new_empty((ptr.shape[0] - 1, *x.shape[1:]))


@ponita_backward.register_fake
def _(g, x, basis, W, *rest):  # type: ignore
    return tuple(t.new_empty(t.shape) for t in (x, basis, W))


def _ponita_definition(tensors: Sequence[Tensor], graph: Sequence[Tensor], options: Sequence[Any]) -> Tensor:
    return ref.ponita_spatial(*tensors, graph[0], graph[2])  # pyright: ignore[reportCallIssue]


_register(3, _ponita_definition, ponita_backward, ponita, 1)
