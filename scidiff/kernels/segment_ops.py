"""Registered reductions over the edges of each target, closed under differentiation; see `scidiff.kernels.ops`.

A sum and its transpose, the value of each edge's target, are each other's gradients: where bodies are deterministic,
so are derivatives of any order (torch's own gradient of a gather adds with atomics on CUDA devices).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidiff.kernels import ref
from scidiff.kernels.ops import body_function
from scidiff.kernels.registered import registered, transforms_active

__all__ = ["gather", "segment_expand", "segment_max", "segment_softmax", "segment_sum"]

_ROWS = "Tensor ptr, Tensor target, str body"


@registered("segment_sum", f"(Tensor v, {_ROWS}) -> Tensor")
def segment_sum(v, ptr, target, body):  # type: ignore
    """sum_{e -> i} v_e; (E, F) -> (N, F)."""
    return body_function(body, "segment_sum")(v.contiguous(), ptr)


@registered("segment_expand", f"(Tensor x, {_ROWS}) -> Tensor")
def segment_expand(x, ptr, target, body):  # type: ignore
    """x_target; (N, F) -> (E, F)."""
    return x.index_select(0, target)


@registered("gather", "(Tensor x, Tensor source, Tensor? t_ptr, Tensor? t_edge, str body) -> Tensor")
def gather(x, source, t_ptr, t_edge, body):  # type: ignore
    """x_source; (N, F) -> (E, F)."""
    return x.index_select(0, source)


@registered("segment_max", f"(Tensor v, {_ROWS}) -> Tensor")
def segment_max(v, ptr, target, body):  # type: ignore
    """max_{e -> i} v_e, 0 without edges; (E, F) -> (N, F)."""
    return body_function(body, "segment_max")(v.contiguous(), ptr)


@registered("segment_softmax", f"(Tensor logits, {_ROWS}) -> Tensor")
def segment_softmax(logits, ptr, target, body):  # type: ignore
    """exp(l_e) / sum over the edges with the same target; (E, F) -> (E, F)."""
    return body_function(body, "segment_softmax")(logits.contiguous(), ptr)


@registered("segment_softmax_backward", f"(Tensor g, Tensor p, {_ROWS}) -> Tensor")
def segment_softmax_backward(g, p, ptr, target, body):  # type: ignore
    """p (g - sum over the edges with the same target of p g), for a backward pass that is not differentiated."""
    return body_function(body, "segment_softmax_backward")(g.contiguous(), p.contiguous(), ptr)


@segment_sum.register_fake
@segment_max.register_fake
def _(v, ptr, target, body):  # type: ignore
    return v.new_empty((ptr.shape[0] - 1, v.shape[1]))


@segment_expand.register_fake
def _(x, ptr, target, body):  # type: ignore
    return x.new_empty((target.shape[0], x.shape[1]))


@gather.register_fake
def _(x, source, t_ptr, t_edge, body):  # type: ignore
    return x.new_empty((source.shape[0], x.shape[1]))


@segment_softmax.register_fake
def _(logits, ptr, target, body):  # type: ignore
    return logits.new_empty(logits.shape)


@segment_softmax_backward.register_fake
def _(g, p, ptr, target, body):  # type: ignore
    return p.new_empty(p.shape)


# An operation has no tangent: a gradient taken at a level of forward-mode differentiation is that of the definition.


def _sum(v: Tensor, ptr: Tensor, target: Tensor, body: str) -> Tensor:
    if transforms_active():
        return ref.segment_sum(v, target, ptr.shape[0] - 1)
    return segment_sum(v, ptr, target, body)


def _expand(x: Tensor, ptr: Tensor, target: Tensor, body: str) -> Tensor:
    return x.index_select(0, target) if transforms_active() else segment_expand(x, ptr, target, body)


def _save_input(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:3])
    ctx.body = inputs[3]


def _save_both(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3], output)
    ctx.body = inputs[3]


def _sum_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    ptr, target = ctx.saved_tensors
    return _expand(g, ptr, target, ctx.body), None, None, None


def _expand_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    ptr, target = ctx.saved_tensors
    return _sum(g, ptr, target, ctx.body), None, None, None


def _save_ends(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:4])
    ctx.num_nodes, ctx.body = inputs[0].shape[0], inputs[4]


def _gather_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    source, t_ptr, t_edge = ctx.saved_tensors
    if transforms_active():
        return ref.segment_sum(g, source, ctx.num_nodes), None, None, None, None
    leaving = g.index_select(0, t_edge)
    return segment_sum(leaving, t_ptr, source.index_select(0, t_edge), ctx.body), None, None, None, None


def _max_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    v, ptr, target, highest = ctx.saved_tensors
    rows = ptr, target, ctx.body
    with torch.no_grad():  # which entries are largest does not change; ties share the gradient
        is_highest = (v.detach() == _expand(highest.detach(), *rows)).to(v.dtype)
        share = is_highest / _expand(_sum(is_highest, *rows), *rows).clamp_min(1)
    return _expand(g, *rows) * share, None, None, None


def _softmax_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    logits, ptr, target, p = ctx.saved_tensors
    rows = ptr, target, ctx.body
    if not (torch.is_grad_enabled() or transforms_active()):
        return segment_softmax_backward(g, p, *rows), None, None, None
    if transforms_active():
        p = ref.segment_softmax(logits, target, ptr.shape[0] - 1)
    else:
        p = segment_softmax(logits, *rows)
    return p * (g - _expand(_sum(p * g, *rows), *rows)), None, None, None


segment_sum.register_autograd(_sum_backward, _save_input)
segment_expand.register_autograd(_expand_backward, _save_input)
gather.register_autograd(_gather_backward, _save_ends)
segment_max.register_autograd(_max_backward, _save_both)
segment_softmax.register_autograd(_softmax_backward, _save_both)
