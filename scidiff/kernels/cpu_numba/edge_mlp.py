r"""Edge networks in pieces that stay in the cache, as in `scidiff.kernels.edge_chunks`, with few passes over a piece.

Products are those of BLAS. Between them one pass makes the first layer, one the messages with gate, head and sums, and
in the backward one goes from sums to the second layer and one from the first layer to its inputs. An activation and its
slope are made together, from one exponential. Sums over edges for each channel (weights, and features of sources) are
shared out among threads by channels, so that every number has one owner, and one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from scidiff.kernels.cpu_numba._threads import SUMS, compiled, cut, launch, part_count, thread_count
from scidiff.kernels.cpu_numba.activations import CODES, activate, exp, silu, silu_slope
from scidiff.kernels.edge_chunks import Gradients, Network, Piece, bounded, hidden_layer, pieces, row_sums
from scidiff.kernels.products import row_dot, tall_product

__all__ = ["edge_mlp", "edge_mlp_backward"]

_CHUNK = 2400  # edges: the four buffers of 128 channels of float32 are 4.9 MB, and calls cost little beside the work


class _Layers:
    """The layers of a network on one piece after another, in buffers that are used again.

    Attributes:
        h1: First layer (E', F).
        message: Second layer, before the gate (E', F2).
        slope1, slope2: Derivatives of their activations, if kept.
        gate: (E',); 1 without a gate.
        psi: Gated message . head (E',), for a head of one tensor.
    """

    def __init__(
        self, net: Network, e: Tensor | None, d2: Tensor, source: Tensor, ptr: Tensor, *, keeps: bool = False
    ) -> None:
        self.net, self.e, self.keeps, self.code = net, e, keeps, CODES[net.act]
        self.steps = list(pieces(ptr, _CHUNK))
        self.most = max((last - first for *_, first, last in self.steps), default=0)
        self._nodes = arrays(ptr, source, net.a, net.b, d2, net.wd)
        widths = net.W2.shape
        self._buffers = [net.a.new_empty(self.most, width) for width in widths]
        self._slopes = [net.a.new_empty(self.most if keeps else 1, width) for width in widths]
        self._numbers = net.a.new_ones(self.most), net.a.new_empty(self.most)
        self.gate_w, self.gate_b, self.head = net.a.new_empty(0), net.a.new_empty(0), net.a.new_empty(0)
        if net.gate_w is not None and net.gate_b is not None:
            self.gate_w, self.gate_b = net.gate_w, net.gate_b.reshape(1)
        if len(net.coord) == 1:
            self.head = net.coord[0]

    def run(self, begin: int, end: int, first: int, last: int, h: Tensor) -> None:
        """Fill the attributes for the edges ``first`` to ``last`` of the rows ``begin`` to ``end``, sum rows into h."""
        count, net = last - first, self.net
        self.h1, self.message = (buffer[:count] for buffer in self._buffers)
        self.slope1, self.slope2 = (slope[:count] for slope in self._slopes)
        self.gate, self.psi = (numbers[:count] for numbers in self._numbers)
        if self.e is not None and net.We is not None:
            torch.mm(self.e[first:last], net.We, out=self.h1)
        rows, options = (begin, end), (first, self.code, self.keeps)
        inputs = *self._nodes, *arrays(self.h1, self.slope1), self.e is not None
        _launch(_first_all, _first_parallel, 20.0 * self.h1.numel(), (*inputs, *options), rows)
        torch.mm(self.h1, net.W2, out=self.message)
        weights = arrays(net.b2, self.gate_w, self.gate_b, self.head)
        results = arrays(self.message, self.slope2, self.gate, self.psi, h)
        inputs = self._nodes[0], *weights, *results, *options
        _launch(_message_all, _message_parallel, 20.0 * self.message.numel(), inputs, rows)

    def hidden(self) -> Tensor:
        """Gated messages (E', F2)."""
        return self.message if self.net.gate_w is None else self.message * self.gate[:, None]


def arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """The memory of tensors as numba takes it."""
    return tuple(t.numpy() for t in tensors)


def _launch(serial: Any, parallel: Any, work: float, args: tuple[Any, ...], rows: tuple[int, int]) -> None:
    launch(serial, parallel, work, args, *rows, part_count(work))


def edge_mlp(
    a: Tensor,
    b: Tensor,
    d2: Tensor,
    wd: Tensor,
    e: Tensor | None,
    We: Tensor | None,
    W2: Tensor,
    b2: Tensor,
    gate_w: Tensor | None,
    gate_b: Tensor | None,
    coord: Sequence[Tensor],
    vec: Tensor | None,
    source: Tensor,
    ptr: Tensor,
    target: Tensor,
    act: str,
    coord_range: float | None,
    return_messages: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Sums of messages (N, F2), sums of vec psi(m) (N, 3) with ``coord``, messages (E, F2) if asked for."""
    net = Network(a, b, wd, We, W2, b2, gate_w, gate_b, coord, act, coord_range)
    layers = _Layers(net, e, d2, source, ptr)
    h = a.new_zeros(ptr.shape[0] - 1, W2.shape[1])
    dx = a.new_zeros(h.shape[0], 3) if coord else None
    messages = a.new_empty(source.shape[0], W2.shape[1]) if return_messages else None
    for begin, end, first, last in layers.steps:
        layers.run(begin, end, first, last, h)
        if messages is not None:
            messages[first:last] = layers.hidden()
        if dx is not None and vec is not None:
            psi = layers.psi
            if len(coord) == 3:
                psi = row_dot(hidden_layer(net, layers.hidden(), keeps=False)[1], coord[2])
            moves = vec[first:last] * bounded(psi, net)[:, None]
            dx[begin:end] = row_sums(moves, ptr[begin : end + 1] - first)
    return h, dx, messages


def edge_mlp_backward(
    gh: Tensor,
    gx: Tensor | None,
    gm: Tensor | None,
    a: Tensor,
    b: Tensor,
    d2: Tensor,
    wd: Tensor,
    e: Tensor | None,
    We: Tensor | None,
    W2: Tensor,
    b2: Tensor,
    gate_w: Tensor | None,
    gate_b: Tensor | None,
    coord: Sequence[Tensor],
    vec: Tensor | None,
    source: Tensor,
    ptr: Tensor,
    target: Tensor,
    t_ptr: Tensor | None,
    t_target: Tensor | None,
    t_edge: Tensor | None,
    act: str,
    coord_range: float | None,
) -> tuple[Tensor | list[Tensor] | None, ...]:
    """da, db, dd2, dwd, de, dWe, dW2, db2, dgate_w, dgate_b, dcoord (a list), dvec."""
    net = Network(a, b, wd, We, W2, b2, gate_w, gate_b, coord, act, coord_range)
    grads, layers = Gradients(net, d2, e, vec), _Layers(net, e, d2, source, ptr, keeps=True)
    ones, dlogits, none = a.new_ones(layers.most), a.new_empty(layers.most), a.new_empty(0, W2.shape[1])
    for begin, end, first, last in layers.steps:
        part, count = slice(first, last), last - first
        layers.run(begin, end, first, last, gh)
        dpsi, extra, dlogit = a.new_empty(0), none, dlogits[:count]
        if gx is not None and vec is not None and grads.vec is not None:
            dpsi, extra = _head_back(layers, grads, gx.index_select(0, target[part]), vec[part], grads.vec[part], none)
        slopes = arrays(ptr, gh, none if gm is None else gm, extra, dpsi, layers.head, layers.gate_w)
        inputs = *slopes, *arrays(layers.message, layers.slope2, layers.gate, dlogit), first
        _launch(_message_back_all, _message_back_parallel, 5.0 * layers.message.numel(), inputs, (begin, end))
        if grads.gate_w is not None and grads.gate_b is not None:
            _column_sums(layers.message, dlogit, grads.gate_w)
            grads.gate_b += dlogit[:, None].sum(0)[0]
        g2 = layers.slope2
        _column_sums(g2, ones[:count], grads.b2)
        grads.W2 += tall_product(layers.h1, g2)
        g1, back = layers.slope1, torch.mm(g2, W2.t(), out=layers.h1)
        inputs = *arrays(ptr, back, g1, wd, grads.a, grads.d2), first
        _launch(_input_back_all, _input_back_parallel, 3.0 * g1.numel(), inputs, (begin, end))
        _column_sums(g1, d2[part], grads.wd, grads.b, source[part])
        if grads.e is not None and grads.We is not None and e is not None and We is not None:
            grads.We += tall_product(e[part], g1)
            torch.mm(g1, We.t(), out=grads.e[part])
    first_layer = grads.a, grads.b, grads.d2, grads.wd, grads.e, grads.We
    return *first_layer, grads.W2, grads.b2, grads.gate_w, grads.gate_b, grads.coord, grads.vec


def _head_back(
    layers: _Layers, grads: Gradients, gx: Tensor, vec: Tensor, dvec: Tensor, none: Tensor
) -> tuple[Tensor, Tensor]:
    """From dL/ddx of each edge to its vector and to messages: dL/dpsi for a head of one tensor, else dL/dm."""
    net, dpsi = layers.net, (gx * vec).sum(1)
    if len(net.coord) == 3:
        m = layers.hidden()
        pre3, hidden = hidden_layer(net, m, keeps=True)
        psi = bounded(row_dot(hidden, net.coord[2]), net)
        torch.mul(gx, psi[:, None], out=dvec)
        piece = Piece(layers.h1, layers.h1, m, m, None, m, pre3, hidden, psi)
        return none[:, 0], grads.head(net, piece, dpsi, torch.zeros_like(m))
    psi = bounded(layers.psi, net)
    torch.mul(gx, psi[:, None], out=dvec)
    if net.coord_range is not None:
        dpsi = dpsi * (net.coord_range - psi.square() / net.coord_range)
    _column_sums(layers.message, dpsi * layers.gate, grads.coord[0])
    return dpsi, none


def _column_sums(
    x: Tensor, weight: Tensor, total: Tensor, rows: Tensor | None = None, source: Tensor | None = None
) -> None:
    """Add sum_e weight_e x_e to ``total`` (F,) and, if asked for, x_e to the rows ``source_e``."""
    rows = x[:0] if rows is None else rows
    index = torch.empty(0, dtype=torch.int64) if source is None else source
    threads = thread_count(2.0 * x.numel())
    inputs = *arrays(x, weight, total, rows, index), source is not None, threads
    launch(_columns_all, _columns_parallel, 2.0 * x.numel(), *inputs)


# -- bodies: rows ``begin`` to ``end`` of a graph, and buffers of a piece, whose row 0 is edge ``first`` ---------------


@compiled(fastmath=SUMS)
def _first_rows(args, begin, end):  # type: ignore
    ptr, source, a, b, d2, wd, h1, slope, has_extra, first, code, keeps = args
    width = a.shape[1]
    for i in range(begin, end):
        ai = a[i]
        for e in range(ptr[i], ptr[i + 1]):
            row, bj, r = h1[e - first], b[source[e]], d2[e]
            own = slope[e - first] if keeps else slope[0]
            if has_extra:
                for f in range(width):
                    row[f] += ai[f] + bj[f] + r * wd[f]
            else:
                for f in range(width):
                    row[f] = ai[f] + bj[f] + r * wd[f]
            if code != 0:
                activate(row, own, code)
            elif keeps:
                silu_slope(row, own)
            else:
                silu(row)


@compiled()
def _first_all(args, begin, end, parts):  # type: ignore
    _first_rows(args, begin, end)


@compiled(parallel=True)
def _first_parallel(args, begin, end, parts):  # type: ignore
    for p in prange(parts):
        _first_rows(args, cut(args[0], begin, end, p, parts), cut(args[0], begin, end, p + 1, parts))


@compiled(fastmath=SUMS)
def _message_rows(args, begin, end):  # type: ignore
    ptr, b2, gate_w, gate_b, head, message, slope, gate, psi, h, first, code, keeps = args
    width, one, zero = message.shape[1], message.dtype.type(1), message.dtype.type(0)
    for i in range(begin, end):
        if not keeps:
            h[i] = 0
        for e in range(ptr[i], ptr[i + 1]):
            row = message[e - first]
            own = slope[e - first] if keeps else slope[0]
            for f in range(width):
                row[f] += b2[f]
            if code != 0:
                activate(row, own, code)
            elif keeps:
                silu_slope(row, own)
            else:
                silu(row)
            open_ = one
            if gate_w.shape[0] > 0:
                logit = gate_b[0]
                for f in range(width):
                    logit += row[f] * gate_w[f]
                open_ = one / (one + exp(-logit))
                gate[e - first] = open_
            if head.shape[0] > 0:
                total = zero
                for f in range(width):
                    total += row[f] * head[f]
                psi[e - first] = open_ * total
            if not keeps:
                sums = h[i]
                for f in range(width):
                    sums[f] += open_ * row[f]


@compiled()
def _message_all(args, begin, end, parts):  # type: ignore
    _message_rows(args, begin, end)


@compiled(parallel=True)
def _message_parallel(args, begin, end, parts):  # type: ignore
    for p in prange(parts):
        _message_rows(args, cut(args[0], begin, end, p, parts), cut(args[0], begin, end, p + 1, parts))


@compiled(fastmath=SUMS)
def _message_back_rows(args, begin, end):  # type: ignore
    ptr, gh, gm, extra, dpsi, head, gate_w, message, slope, gate, dlogit, first = args
    width, one, zero = gh.shape[1], gh.dtype.type(1), gh.dtype.type(0)
    dm = np.empty(width, gh.dtype)
    for i in range(begin, end):
        for e in range(ptr[i], ptr[i + 1]):
            k = e - first
            dm[:] = gh[i]
            if gm.shape[0] > 0:
                from_message = gm[e]
                for f in range(width):
                    dm[f] += from_message[f]
            if extra.shape[0] > 0:
                from_head = extra[k]
                for f in range(width):
                    dm[f] += from_head[f]
            if head.shape[0] > 0:
                weight = dpsi[k]
                for f in range(width):
                    dm[f] += weight * head[f]
            if gate_w.shape[0] > 0:
                row, open_, total = message[k], gate[k], zero
                for f in range(width):
                    total += dm[f] * row[f]
                total *= open_ * (one - open_)
                dlogit[k] = total
                for f in range(width):
                    dm[f] = dm[f] * open_ + total * gate_w[f]
            own = slope[k]
            for f in range(width):
                own[f] *= dm[f]


@compiled()
def _message_back_all(args, begin, end, parts):  # type: ignore
    _message_back_rows(args, begin, end)


@compiled(parallel=True)
def _message_back_parallel(args, begin, end, parts):  # type: ignore
    for p in prange(parts):
        _message_back_rows(args, cut(args[0], begin, end, p, parts), cut(args[0], begin, end, p + 1, parts))


@compiled(fastmath=SUMS)
def _input_back_rows(args, begin, end):  # type: ignore
    ptr, back, g1, wd, da, dd2, first = args
    width, zero = g1.shape[1], g1.dtype.type(0)
    for i in range(begin, end):
        sums = da[i]
        sums[:] = 0
        for e in range(ptr[i], ptr[i + 1]):
            row, own, total = back[e - first], g1[e - first], zero
            for f in range(width):
                own[f] *= row[f]
                sums[f] += own[f]
            for f in range(width):
                total += own[f] * wd[f]
            dd2[e] = total


@compiled()
def _input_back_all(args, begin, end, parts):  # type: ignore
    _input_back_rows(args, begin, end)


@compiled(parallel=True)
def _input_back_parallel(args, begin, end, parts):  # type: ignore
    for p in prange(parts):
        _input_back_rows(args, cut(args[0], begin, end, p, parts), cut(args[0], begin, end, p + 1, parts))


@compiled(fastmath=SUMS)
def _columns(x, weight, total, rows, source, has_rows, first, last):  # type: ignore
    sums = np.zeros(last - first, x.dtype)
    for e in range(x.shape[0]):
        part, w = x[e, first:last], weight[e]
        for f in range(part.shape[0]):
            sums[f] += w * part[f]
        if has_rows:
            own = rows[source[e], first:last]
            for f in range(part.shape[0]):
                own[f] += part[f]
    total[first:last] += sums


@compiled()
def _columns_all(x, weight, total, rows, source, has_rows, parts):  # type: ignore
    _columns(x, weight, total, rows, source, has_rows, 0, x.shape[1])


@compiled(parallel=True)
def _columns_parallel(x, weight, total, rows, source, has_rows, parts):  # type: ignore
    width = x.shape[1]
    for p in prange(parts):
        _columns(x, weight, total, rows, source, has_rows, width * p // parts, width * (p + 1) // parts)
