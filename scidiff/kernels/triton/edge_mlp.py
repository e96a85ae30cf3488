"""The two-layer edge network of EGNN with its hidden layers on the chip only, and its backward with recomputation.

pre = a_target + b_source + d2 wd + e We; m = act(act(pre) W2 + b2), times sigmoid(m . w_g + b_g); h_i = sum m;
dx_i = sum vec psi(m . w). Forward: a program owns 16 consecutive targets, walks their edges 16 to 64 at a time and adds
the messages of a tile to their rows by a product with a 0/1 matrix. Backward: programs walk all edges, recompute, and
write the gradients of both pre-activations once; what is left are matrix products and sums over rows.

A coordinate head of two layers is evaluated on the stored messages, between the passes.

References: Satorras et al. 2021, "E(n) Equivariant Graph Neural Networks", eq. 3-6.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (kernels are typed by Triton's compiler)

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from scidiff.kernels.triton._common import (
    PARTIALS,
    accumulator,
    ceil_div,
    contiguous,
    index_type,
    launch,
    pad,
    precision,
    torch_type,
)
from scidiff.kernels.triton.segment import segment_sum

__all__ = ["edge_mlp", "edge_mlp_backward"]

_ROWS = 16
_ACTIVATIONS = {"silu": torch.nn.functional.silu, "relu": torch.relu, "tanh": torch.tanh}


class _Inputs(NamedTuple):
    """Tensors that both passes read; absent ones are None."""

    a: Tensor
    b: Tensor
    d2: Tensor
    wd: Tensor
    e: Tensor | None
    We: Tensor | None
    W2: Tensor
    b2: Tensor
    gate_w: Tensor | None
    gate_b: Tensor | None
    coord: Tensor | None
    vec: Tensor | None

    def pointers(self) -> tuple[Tensor, ...]:
        """The tensors, with any tensor in place of absent ones (kernels do not read them)."""
        return tuple(self.a if tensor is None else tensor for tensor in self)

    def constants(self, act: str, coord_range: float | None, most: int = 64) -> dict[str, Any]:
        """Sizes, options and tiles of a launch."""
        width, out = self.W2.shape
        acc, columns = accumulator(*self), pad(out)
        edges = max(16, min(most, (2048 if acc == tl.float64 else 4096) // columns))  # what fits into registers
        return {
            "F": width, "F2": out, "FE": 0 if self.e is None else self.e.shape[1], "ACT": act,
            "HAS_GATE": self.gate_w is not None, "HAS_COORD": self.coord is not None,
            "RANGE": 0.0 if coord_range is None else float(coord_range), "ACC": acc, "PRECISION": precision(acc),
            "BLOCK_E": edges, "BLOCK_K": min(32 if columns > 128 or acc == tl.float64 else 64, pad(width)),
            "BLOCK_F": columns,
        }  # fmt: skip


@contiguous
def edge_mlp(
    a: Tensor, b: Tensor, d2: Tensor, wd: Tensor, e: Tensor | None, We: Tensor | None, W2: Tensor, b2: Tensor,
    gate_w: Tensor | None, gate_b: Tensor | None, coord: Sequence[Tensor], vec: Tensor | None,
    source: Tensor, ptr: Tensor, target: Tensor, act: str, coord_range: float | None, return_messages: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """h (N, F2), dx (N, 3) with a coordinate head, m (E, F2) if asked for."""
    num_nodes, num_edges = ptr.shape[0] - 1, source.shape[0]
    is_deep = len(coord) == 3
    inputs = _Inputs(a, b, d2, wd, e, We, W2, b2, gate_w, gate_b, coord[0] if len(coord) == 1 else None, vec)
    h = a.new_empty(num_nodes, W2.shape[1])
    dx = None if inputs.coord is None or vec is None else vec.new_empty(num_nodes, 3)
    m = a.new_empty(num_edges, W2.shape[1]) if return_messages or is_deep else None
    outputs = (h, h if dx is None else dx, h if m is None else m)
    launch(
        _edge_mlp,
        (ceil_div(num_nodes, _ROWS),),
        (*inputs.pointers(), source, ptr, target, *outputs, num_nodes),
        STORE=m is not None, ROWS=_ROWS, INDEX=index_type(a, e, *outputs), warps=8, stages=1,
        **inputs.constants(act, coord_range),
    )  # fmt: skip
    if is_deep and m is not None and vec is not None:
        psi, _ = _head(m, coord, act, coord_range)
        dx = segment_sum(vec * psi[:, None], ptr)
    return h, dx, m if return_messages else None


@contiguous
def edge_mlp_backward(
    gh: Tensor, gx: Tensor | None, gm: Tensor | None, a: Tensor, b: Tensor, d2: Tensor, wd: Tensor, e: Tensor | None,
    We: Tensor | None, W2: Tensor, b2: Tensor, gate_w: Tensor | None, gate_b: Tensor | None, coord: Sequence[Tensor],
    vec: Tensor | None, source: Tensor, ptr: Tensor, target: Tensor, t_ptr: Tensor, t_target: Tensor, t_edge: Tensor,
    act: str, coord_range: float | None,
) -> tuple[Any, ...]:  # fmt: skip
    """Gradients of a, b, d2, wd, e, We, W2, b2, gate_w, gate_b, coord (a list) and vec."""
    d_coord, d_vec = [], None
    if len(coord) == 3 and vec is not None and gx is not None:
        rest = (gate_w, gate_b, (), None, source, ptr, target, act, None, True)
        m = edge_mlp(a, b, d2, wd, e, We, W2, b2, *rest)[2]
        gm, d_coord, d_vec = _head_backward(gm, gx.index_select(0, target), m, coord, vec, act, coord_range)
    single = coord[0] if len(coord) == 1 and gx is not None else None
    inputs = _Inputs(a, b, d2, wd, e, We, W2, b2, gate_w, gate_b, single, vec)
    constants = inputs.constants(act, coord_range, most=32)
    num_edges, (width, out) = source.shape[0], W2.shape
    wide = torch_type(constants["ACC"])
    programs = min(PARTIALS, ceil_div(num_edges, constants["BLOCK_E"]))
    g1, h1 = (a.new_empty(num_edges, width) for _ in range(2))
    g2, d_d2 = a.new_empty(num_edges, out), d2.new_empty(num_edges)
    sums, last = a.new_empty(programs, 3, out, dtype=wide), a.new_empty(programs, dtype=wide)
    if single is not None and vec is not None:
        d_vec = vec.new_empty(num_edges, 3)
    outputs = (g1, h1, g2, d_d2, g1 if d_vec is None else d_vec, sums, last)
    incoming = (gh, gh if gx is None else gx, gh if gm is None else gm)
    launch(
        _edge_mlp_backward,
        (programs,),
        (*incoming, *inputs.pointers(), source, target, *outputs, num_edges),
        HAS_GM=gm is not None, INDEX=index_type(a, e, g1, g2), warps=8, stages=1, **constants,
    )  # fmt: skip
    d_b2, d_gate, d_single = (sums[:, part].sum(0).to(W2.dtype) for part in range(3))  # results share no memory
    return (
        segment_sum(g1, ptr),
        segment_sum(g1, t_ptr, t_edge),
        d_d2,
        d2 @ g1,
        None if We is None else g1 @ We.T,
        None if e is None else e.T @ g1,
        h1.T @ g2,
        d_b2,
        None if gate_w is None else d_gate,
        None if gate_b is None else last.sum().to(gate_b.dtype).reshape(gate_b.shape),
        [d_single] if single is not None else d_coord,
        d_vec,
    )


def _head(m: Tensor, coord: Sequence[Tensor], act: str, coord_range: float | None) -> tuple[Tensor, Tensor]:
    """psi (E,) of the two-layer head, and its hidden layer before the activation."""
    hidden = torch.addmm(coord[1], m, coord[0])
    psi = _ACTIVATIONS[act](hidden) @ coord[2]
    return (psi if coord_range is None else coord_range * torch.tanh(psi)), hidden


def _head_backward(
    gm: Tensor | None, gx: Tensor, m: Tensor, coord: Sequence[Tensor], vec: Tensor, act: str, coord_range: float | None
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Gradients of the messages (that of the caller included), of the three weights, and of the vectors."""
    psi, hidden = _head(m, coord, act, coord_range)
    g_psi = (gx * vec).sum(1)
    if coord_range is not None:
        g_psi = g_psi * (coord_range - psi.square() / coord_range)
    activated = _ACTIVATIONS[act](hidden)
    g_hidden = g_psi[:, None] * coord[2] * _slope(hidden, activated, act)
    g_m = g_hidden @ coord[0].T
    weights = [m.T @ g_hidden, g_hidden.sum(0), g_psi @ activated]
    return (g_m if gm is None else g_m + gm), weights, gx * psi[:, None]


def _slope(x: Tensor, value: Tensor, act: str) -> Tensor:
    if act == "silu":
        s = torch.sigmoid(x)
        return s + value * (1 - s)
    return 1 - value.square() if act == "tanh" else (x > 0).to(x.dtype)


@triton.jit
def _tanh(x):
    power = tl.exp(-2.0 * tl.abs(x))
    value = (1.0 - power) / (1.0 + power)
    return tl.where(x < 0, -value, value)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _activate(x, ACT: tl.constexpr):
    """Value and slope of the activation; 0 at 0."""
    if ACT == "silu":
        s = _sigmoid(x)
        value = x * s
        slope = s + value * (1.0 - s)
    elif ACT == "tanh":
        value = _tanh(x)
        slope = 1.0 - value * value
    else:
        value = tl.maximum(x, 0.0)
        slope = tl.where(x > 0, 1.0, 0.0).to(x.dtype)
    return value, slope


@triton.jit
def _first_layer(
    a, b, d2, wd, edges, We, i, j, e, is_edge, k,
    F: tl.constexpr, FE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Columns k of a_target + b_source + d2 wd + e We; 0 outside of the matrix."""
    mask = is_edge[:, None] & (k < F)[None, :]
    pre = tl.load(a + i[:, None] * F + k[None, :], mask=mask, other=0.0).to(ACC)
    pre += tl.load(b + j[:, None] * F + k[None, :], mask=mask, other=0.0).to(ACC)
    d = tl.load(d2 + e, mask=is_edge, other=0.0).to(ACC)
    pre += d[:, None] * tl.load(wd + k, mask=k < F, other=0.0).to(ACC)[None, :]
    for c in range(FE):
        column = tl.load(edges + e * FE + c, mask=is_edge, other=0.0).to(ACC)
        pre += column[:, None] * tl.load(We + c * F + k, mask=k < F, other=0.0).to(ACC)[None, :]
    return pre


@triton.jit
def _second_layer(
    a, b, d2, wd, edges, We, W2, b2, i, j, e, is_edge, f,
    F: tl.constexpr, F2: tl.constexpr, FE: tl.constexpr, ACT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """act(pre) W2 + b2, in blocks of hidden channels."""
    pre2 = tl.zeros((BLOCK_E, BLOCK_F), dtype=ACC)
    for first in range(0, F, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        h1, _ = _activate(_first_layer(a, b, d2, wd, edges, We, i, j, e, is_edge, k, F, FE, ACC), ACT)
        in_weight = (k < F)[:, None] & (f < F2)[None, :]
        weight = tl.load(W2 + k[:, None] * F2 + f[None, :], mask=in_weight, other=0.0).to(ACC)
        pre2 += tl.dot(h1, weight, input_precision=PRECISION, out_dtype=ACC)
    return pre2 + tl.load(b2 + f, mask=f < F2, other=0.0).to(ACC)[None, :]


@triton.jit
def _edge_mlp(
    a, b, d2, wd, edges, We, W2, b2, gate_w, gate_b, coord, vec, source, ptr, target, h, dx, messages, num_nodes,
    F: tl.constexpr, F2: tl.constexpr, FE: tl.constexpr, ACT: tl.constexpr, HAS_GATE: tl.constexpr,
    HAS_COORD: tl.constexpr, RANGE: tl.constexpr, STORE: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    first_row = tl.program_id(0) * ROWS
    row = first_row + tl.arange(0, ROWS)
    f = tl.arange(0, BLOCK_F)
    start = tl.load(ptr + first_row)
    stop = tl.load(ptr + tl.minimum(first_row + ROWS, num_nodes))
    total = tl.zeros((ROWS, BLOCK_F), dtype=ACC)
    x = tl.zeros((ROWS,), dtype=ACC)
    y = tl.zeros((ROWS,), dtype=ACC)
    z = tl.zeros((ROWS,), dtype=ACC)
    for first in range(start, stop, BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        is_edge = e < stop
        i = tl.load(target + e, mask=is_edge, other=0).to(INDEX)
        j = tl.load(source + e, mask=is_edge, other=0).to(INDEX)
        pre2 = _second_layer(
            a, b, d2, wd, edges, We, W2, b2, i, j, e, is_edge, f,
            F, F2, FE, ACT, ACC, PRECISION, BLOCK_E, BLOCK_K, BLOCK_F,
        )  # fmt: skip
        m, _ = _activate(pre2, ACT)
        mask = is_edge[:, None] & (f < F2)[None, :]
        m = tl.where(mask, m, 0.0)
        if HAS_GATE:
            wg = tl.load(gate_w + f, mask=f < F2, other=0.0).to(ACC)
            m = m * _sigmoid(tl.sum(m * wg[None, :], axis=1) + tl.load(gate_b).to(ACC))[:, None]
        if STORE:
            tl.store(messages + e[:, None] * F2 + f[None, :], m, mask=mask)
        is_own = (row[:, None] == i[None, :]) & is_edge[None, :]
        total += tl.dot(is_own.to(ACC), m, input_precision=PRECISION, out_dtype=ACC)
        if HAS_COORD:
            psi = tl.sum(m * tl.load(coord + f, mask=f < F2, other=0.0).to(ACC)[None, :], axis=1)
            if RANGE > 0:
                psi = RANGE * _tanh(psi)
            own = is_own.to(ACC)
            x += tl.sum(own * (psi * tl.load(vec + e * 3, mask=is_edge, other=0.0).to(ACC))[None, :], axis=1)
            y += tl.sum(own * (psi * tl.load(vec + e * 3 + 1, mask=is_edge, other=0.0).to(ACC))[None, :], axis=1)
            z += tl.sum(own * (psi * tl.load(vec + e * 3 + 2, mask=is_edge, other=0.0).to(ACC))[None, :], axis=1)
    mask = (row < num_nodes)[:, None] & (f < F2)[None, :]
    tl.store(h + row.to(INDEX)[:, None] * F2 + f[None, :], total, mask=mask)
    if HAS_COORD:
        tl.store(dx + row * 3, x, mask=row < num_nodes)
        tl.store(dx + row * 3 + 1, y, mask=row < num_nodes)
        tl.store(dx + row * 3 + 2, z, mask=row < num_nodes)


@triton.jit
def _first_layer_gradient(
    dm, a, b, d2, wd, edges, We, W2, g1, h1, i, j, e, is_edge, f,
    F: tl.constexpr, F2: tl.constexpr, FE: tl.constexpr, ACT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Store the hidden layer and the gradient of pre, in blocks of hidden channels; returns that of d2."""
    change = tl.zeros((BLOCK_E,), dtype=ACC)
    for first in range(0, F, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        hidden, steep = _activate(_first_layer(a, b, d2, wd, edges, We, i, j, e, is_edge, k, F, FE, ACC), ACT)
        in_weight = (k < F)[None, :] & (f < F2)[:, None]
        weight = tl.load(W2 + k[None, :] * F2 + f[:, None], mask=in_weight, other=0.0).to(ACC)
        grad = tl.dot(dm, weight, input_precision=PRECISION, out_dtype=ACC) * steep
        in_hidden = is_edge[:, None] & (k < F)[None, :]
        tl.store(g1 + e[:, None] * F + k[None, :], grad, mask=in_hidden)
        tl.store(h1 + e[:, None] * F + k[None, :], hidden, mask=in_hidden)
        change += tl.sum(grad * tl.load(wd + k, mask=k < F, other=0.0).to(ACC)[None, :], axis=1)
    return change


@triton.jit
def _edge_mlp_backward(
    gh, gx, gm, a, b, d2, wd, edges, We, W2, b2, gate_w, gate_b, coord, vec, source, target,
    g1, h1, g2, d_d2, d_vec, sums, last, num_edges,
    F: tl.constexpr, F2: tl.constexpr, FE: tl.constexpr, ACT: tl.constexpr, HAS_GATE: tl.constexpr,
    HAS_COORD: tl.constexpr, HAS_GM: tl.constexpr, RANGE: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    f = tl.arange(0, BLOCK_F)
    sum_b2 = tl.zeros((BLOCK_F,), dtype=ACC)
    sum_gate = tl.zeros((BLOCK_F,), dtype=ACC)
    sum_coord = tl.zeros((BLOCK_F,), dtype=ACC)
    sum_last = tl.zeros((BLOCK_E,), dtype=ACC)
    span = tl.cdiv(tl.cdiv(num_edges, BLOCK_E), tl.num_programs(0)) * BLOCK_E
    for first in range(program * span, tl.minimum(program * span + span, num_edges), BLOCK_E):
        e = (first + tl.arange(0, BLOCK_E)).to(INDEX)
        is_edge = e < num_edges
        i = tl.load(target + e, mask=is_edge, other=0).to(INDEX)
        j = tl.load(source + e, mask=is_edge, other=0).to(INDEX)
        pre2 = _second_layer(
            a, b, d2, wd, edges, We, W2, b2, i, j, e, is_edge, f,
            F, F2, FE, ACT, ACC, PRECISION, BLOCK_E, BLOCK_K, BLOCK_F,
        )  # fmt: skip
        value, slope = _activate(pre2, ACT)
        mask = is_edge[:, None] & (f < F2)[None, :]
        value = tl.where(mask, value, 0.0)
        dm = tl.load(gh + i[:, None] * F2 + f[None, :], mask=mask, other=0.0).to(ACC)
        if HAS_GM:
            dm += tl.load(gm + e[:, None] * F2 + f[None, :], mask=mask, other=0.0).to(ACC)
        m = value
        if HAS_GATE:
            wg = tl.load(gate_w + f, mask=f < F2, other=0.0).to(ACC)
            gate = _sigmoid(tl.sum(value * wg[None, :], axis=1) + tl.load(gate_b).to(ACC))
            m = value * gate[:, None]
        if HAS_COORD:
            wc = tl.load(coord + f, mask=f < F2, other=0.0).to(ACC)
            psi = tl.sum(m * wc[None, :], axis=1)
            gpsi = tl.zeros((BLOCK_E,), dtype=ACC)
            factor = psi
            if RANGE > 0:
                factor = RANGE * _tanh(psi)
            for axis in tl.static_range(3):
                gi = tl.load(gx + i * 3 + axis, mask=is_edge, other=0.0).to(ACC)
                gpsi += gi * tl.load(vec + e * 3 + axis, mask=is_edge, other=0.0).to(ACC)
                tl.store(d_vec + e * 3 + axis, gi * factor, mask=is_edge)
            if RANGE > 0:
                gpsi = gpsi * (RANGE - factor * factor / RANGE)
            dm += gpsi[:, None] * wc[None, :]
            sum_coord += tl.sum(gpsi[:, None] * m, axis=0)
        if HAS_GATE:
            ds = tl.sum(dm * value, axis=1) * gate * (1.0 - gate)
            dm = dm * gate[:, None] + ds[:, None] * wg[None, :]
            sum_gate += tl.sum(ds[:, None] * value, axis=0)
            sum_last += tl.where(is_edge, ds, 0.0)
        dm = tl.where(mask, dm * slope, 0.0)
        sum_b2 += tl.sum(dm, axis=0)
        tl.store(g2 + e[:, None] * F2 + f[None, :], dm, mask=mask)
        change = _first_layer_gradient(
            dm, a, b, d2, wd, edges, We, W2, g1, h1, i, j, e, is_edge, f,
            F, F2, FE, ACT, ACC, PRECISION, BLOCK_E, BLOCK_K,
        )  # fmt: skip
        tl.store(d_d2 + e, change, mask=is_edge)
    at = sums + program * (3 * F2) + f
    tl.store(at, sum_b2, mask=f < F2)
    tl.store(at + F2, sum_gate, mask=f < F2)
    tl.store(at + 2 * F2, sum_coord, mask=f < F2)
    tl.store(last + program, tl.sum(sum_last, axis=0))
