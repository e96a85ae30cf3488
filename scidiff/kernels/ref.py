r"""The definition of every operation: plain differentiable torch on raw index tensors.

Any dtype, device, order of derivative and ``torch.func`` transform. Edge e goes from ``source[e]`` to ``target[e]``;
features of nodes have N rows, those of edges E. All other bodies must agree with these, forward and gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "ACTIVATIONS",
    "cfconv",
    "edge_dot",
    "edge_mlp",
    "edge_product",
    "fiber_conv",
    "gather_multiply_sum",
    "neighbor_attention",
    "painn_message",
    "ponita_conv",
    "ponita_spatial",
    "segment_max",
    "segment_mean",
    "segment_softmax",
    "segment_sum",
    "softmax_gather_sum",
    "tensor_product_scatter",
    "weighted_sum",
]

Function = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Function] = {"silu": F.silu, "relu": F.relu, "tanh": torch.tanh}


def segment_sum(v: Tensor, target: Tensor, num_nodes: int) -> Tensor:
    """sum_{e -> i} v_e; (E, *) -> (N, *)."""
    return v.new_zeros((num_nodes, *v.shape[1:])).index_add(0, target, v)


def segment_mean(v: Tensor, target: Tensor, num_nodes: int) -> Tensor:
    """Mean of v over the edges of each target, 0 without edges; (E, *) -> (N, *)."""
    degree = v.new_zeros(num_nodes).index_add(0, target, v.new_ones(target.shape[0]))
    return segment_sum(v, target, num_nodes) / degree.clamp_min(1).reshape(-1, *[1] * (v.dim() - 1))


def segment_max(v: Tensor, target: Tensor, num_nodes: int) -> Tensor:
    """Largest v over the edges of each target, 0 without edges; (E, *) -> (N, *). Ties share the gradient."""
    start = v.new_full((num_nodes, *v.shape[1:]), -torch.inf)
    index = target.long().reshape(-1, *[1] * (v.dim() - 1)).expand_as(v)
    highest = start.scatter_reduce(0, index, v, "amax", include_self=True)
    has_edges = target.new_zeros(num_nodes).index_add(0, target, torch.ones_like(target)) > 0
    return torch.where(has_edges.reshape(-1, *[1] * (v.dim() - 1)), highest, 0.0)


def segment_softmax(logits: Tensor, target: Tensor, num_nodes: int) -> Tensor:
    """exp(l_e) / sum over the edges with the same target, per channel; (E, *) -> (E, *)."""
    with torch.no_grad():  # the shift cancels in value and derivative
        shift = segment_max(logits.detach(), target, num_nodes)
    weight = (logits - torch.where(shift.isfinite(), shift, 0.0).index_select(0, target)).exp()
    return weight / segment_sum(weight, target, num_nodes).index_select(0, target)


def gather_multiply_sum(x: Tensor, w: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """out_i = sum_{e -> i} x_source * w_e; x (N, F), w (E, F) -> (N, F)."""
    return segment_sum(x.index_select(0, source) * w, target, x.shape[0])


def edge_product(g: Tensor, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """g_target * x_source; (N, F), (N, F) -> (E, F)."""
    return g.index_select(0, target) * x.index_select(0, source)


def weighted_sum(x: Tensor, a: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """sum_{e -> i} a_eh x_source,h; x (N, F) in H blocks of channels, a (E,) or (E, H) -> (N, F)."""
    heads = 1 if a.dim() == 1 else a.shape[1]
    message = x.index_select(0, source).unflatten(1, (heads, -1)) * a.reshape(-1, heads, 1)
    return segment_sum(message.flatten(1), target, x.shape[0])


def edge_dot(a: Tensor, b: Tensor, source: Tensor, target: Tensor, heads: int | None = None) -> Tensor:
    """a_target . b_source, over all channels -> (E,) or in blocks of channels -> (E, heads)."""
    product = edge_product(a, b, source, target)
    return product.sum(1) if heads is None else product.unflatten(1, (heads, -1)).sum(2)


def filters(dist: Tensor, W: Tensor, bias: Tensor, basis: Function, cutoff: Function | None) -> Tensor:
    """w_e = f_c(d_e) (basis(d_e) W + bias); (E,) -> (E, F)."""
    w = torch.addmm(bias, basis(dist), W)
    return w if cutoff is None else w * cutoff(dist)[:, None]


def cfconv(
    x: Tensor,
    dist: Tensor,
    W: Tensor,
    bias: Tensor,
    source: Tensor,
    target: Tensor,
    basis: Function,
    cutoff: Function | None,
) -> Tensor:
    """sum_{e -> i} x_source * w(d_e); x (N, F), W (K, F) -> (N, F)."""
    return gather_multiply_sum(x, filters(dist, W, bias, basis, cutoff), source, target)


def painn_message(
    phi: Tensor,
    v: Tensor,
    dist: Tensor,
    unit: Tensor,
    W: Tensor,
    bias: Tensor,
    source: Tensor,
    target: Tensor,
    basis: Function,
    cutoff: Function | None,
) -> tuple[Tensor, Tensor]:
    """(a, b, c) = phi_source * w(d); dh_i = sum a, dv_i = sum (b v_source + c unit); v in (N, 3, F)."""
    a, b, c = (phi.index_select(0, source) * filters(dist, W, bias, basis, cutoff)).chunk(3, dim=1)
    message = b[:, None] * v.index_select(0, source) + c[:, None] * unit[:, :, None]
    return segment_sum(a, target, phi.shape[0]), segment_sum(message, target, phi.shape[0])


def edge_mlp(
    a: Tensor,
    b: Tensor,
    source: Tensor,
    target: Tensor,
    d2: Tensor,
    wd: Tensor,
    e: Tensor | None,
    We: Tensor | None,
    W2: Tensor,
    b2: Tensor,
    gate: tuple[Tensor, Tensor] | None,
    coord: tuple[Tensor, ...] | None,
    vec: Tensor | None,
    act: str,
    coord_range: float | None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Sums of messages (N, F2) and of vec * psi(m) (N, 3), and the messages (E, F2); see `scidiff.kernels.edge_mlp`."""
    act_fn = ACTIVATIONS[act]
    pre = a.index_select(0, target) + b.index_select(0, source) + d2[:, None] * wd
    if e is not None and We is not None:
        pre = pre + e @ We
    m = act_fn(torch.addmm(b2, act_fn(pre), W2))
    if gate is not None:
        m = m * torch.sigmoid(m @ gate[0] + gate[1])[:, None]
    h = segment_sum(m, target, a.shape[0])
    if coord is None or vec is None:
        return h, None, m
    hidden = m if len(coord) == 1 else act_fn(torch.addmm(coord[1], m, coord[0]))
    psi = hidden @ coord[-1]
    if coord_range is not None:
        psi = coord_range * torch.tanh(psi)
    return h, segment_sum(vec * psi[:, None], target, a.shape[0]), m


def softmax_gather_sum(logits: Tensor, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """out_if = sum_{e -> i} softmax_e(l_ef) x_source,f; logits (E, F), x (N, F) -> (N, F)."""
    return gather_multiply_sum(x, segment_softmax(logits, target, x.shape[0]), source, target)


def neighbor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    source: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    v_vec: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """softmax_j(q_i . k_j / sqrt(D) + bias_ij) applied to v (N, H, D) and v_vec (N, H, D, 3)."""
    heads, width = q.shape[1:]
    logits = edge_dot(q.flatten(1), k.flatten(1), source, target, heads) * width**-0.5
    p = segment_softmax(logits if bias is None else logits + bias, target, q.shape[0])
    out = weighted_sum(v.flatten(1), p, source, target).unflatten(1, (heads, -1))
    if v_vec is None:
        return out, None
    vec = weighted_sum(v_vec.flatten(1), p, source, target)
    return out, vec.unflatten(1, v_vec.shape[1:])


def ponita_conv(
    x: Tensor, basis: Tensor, W: Tensor, fiber: Tensor, source: Tensor, target: Tensor, bias: Tensor | None = None
) -> Tensor:
    """y_ioc = sum_j (basis W)_eoc x_joc; z_ipc = (1/O) sum_o fiber_opc y_ioc + bias_c."""
    return fiber_conv(ponita_spatial(x, basis, W, source, target), fiber, bias)


def ponita_spatial(x: Tensor, basis: Tensor, W: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """y_ioc = sum_j (basis W)_eoc x_joc."""
    return segment_sum(x.index_select(0, source) * (basis @ W), target, x.shape[0])


def fiber_conv(y: Tensor, fiber: Tensor, bias: Tensor | None) -> Tensor:
    """z_ipc = (1/O) sum_o fiber_opc y_ioc + bias_c."""
    features = y.permute(2, 1, 0).contiguous().transpose(1, 2)  # (C, N, O): rows of a product do not feel each other
    z = torch.bmm(features, (fiber / y.shape[1]).permute(2, 0, 1).contiguous()).permute(1, 2, 0)
    return z if bias is None else z + bias


def tensor_product_scatter(
    x: Tensor, Y: Tensor, w: Tensor, source: Tensor, target: Tensor, tp: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """sum_{e -> i} tp(x_source, Y_e, w_e); (N, irreps_in) -> (N, irreps_out)."""
    return segment_sum(tp(x.index_select(0, source), Y, w), target, x.shape[0])
