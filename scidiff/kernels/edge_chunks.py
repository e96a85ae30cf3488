r"""Edge networks in pieces that stay in the cache: forward, and a written backward that computes everything again.

Nothing of size E x F lives longer than a piece, but for messages that are asked for. Pieces end where rows end (a
row of very many edges is a piece of its own), so each row is summed at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from scidiff.kernels.products import elementwise, row_dot, tall_product

__all__ = [
    "Gradients",
    "Network",
    "Piece",
    "bounded",
    "edge_mlp",
    "edge_mlp_backward",
    "hidden_layer",
    "pieces",
    "row_sums",
]

_CHUNK = 2400  # edges; 128 channels of float32 are then 1.2 MB, and the calls of torch cost little beside the work


class Network(NamedTuple):
    """Weights of an edge network and its options, as in `scidiff.kernels.edge_mlp`."""

    a: Tensor
    b: Tensor
    wd: Tensor
    We: Tensor | None
    W2: Tensor
    b2: Tensor
    gate_w: Tensor | None
    gate_b: Tensor | None
    coord: Sequence[Tensor]
    act: str
    coord_range: float | None


class Piece(NamedTuple):
    """Values of one piece of edges that the backward needs again."""

    pre1: Tensor
    h1: Tensor
    pre2: Tensor
    message: Tensor
    gate: Tensor | None
    m: Tensor
    pre3: Tensor | None
    hidden: Tensor | None
    psi: Tensor | None


_SILU_BACK, _TANH_BACK = torch.ops.aten.silu_backward, torch.ops.aten.tanh_backward

_ACTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "silu": (F.silu, lambda x: F.silu(x, inplace=True)),
    "relu": (torch.relu, torch.relu_),
    "tanh": (torch.tanh, torch.tanh_),
}
"""Activations, and the same in place."""

_BACK: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": lambda g, x: _SILU_BACK(g, x),
    "relu": lambda g, x: g * (x > 0),
    "tanh": lambda g, x: _TANH_BACK(g, torch.tanh(x)),
}
"""Gradients with respect to results and values before the activation -> with respect to these values."""


def pieces(ptr: Tensor, most: int) -> Iterator[tuple[int, int, int, int]]:
    """First and last row, first and last edge of each piece of at most ``most`` edges, or of one row."""
    ends = ptr.tolist()
    begin, num_nodes = 0, len(ends) - 1
    while begin < num_nodes:
        end = max(bisect_right(ends, ends[begin] + most) - 1, begin + 1)
        if ends[end] > ends[begin]:
            yield begin, end, ends[begin], ends[end]
        begin = end


def _piece(net: Network, source: Tensor, target: Tensor, d2: Tensor, e: Tensor | None, *, keeps: bool = True) -> Piece:
    """Forward pass of a piece; unless it ``keeps`` them, values before an activation are overwritten."""
    act = _ACTS[net.act][0 if keeps else 1]
    pre1 = torch.addcmul(net.a.index_select(0, target), d2[:, None], net.wd)
    pre1 += net.b.index_select(0, source)
    if e is not None and net.We is not None:
        pre1.addmm_(e, net.We)
    h1 = act(pre1)
    pre2 = torch.addmm(net.b2, h1, net.W2)
    m = message = act(pre2)
    gate = pre3 = hidden = psi = None
    if net.gate_w is not None and net.gate_b is not None:
        gate = elementwise(torch.sigmoid, row_dot(message, net.gate_w) + net.gate_b)
        m = message * gate[:, None]
    if net.coord:
        hidden = m
        if len(net.coord) == 3:
            pre3, hidden = hidden_layer(net, m, keeps=keeps)
        psi = bounded(row_dot(hidden, net.coord[-1]), net)
    return Piece(pre1, h1, pre2, message, gate, m, pre3, hidden, psi)


def hidden_layer(net: Network, m: Tensor, *, keeps: bool) -> tuple[Tensor, Tensor]:
    """Layer of a head of three tensors on messages, before its activation (overwritten unless kept) and after."""
    pre3 = torch.addmm(net.coord[1], m, net.coord[0])
    return pre3, _ACTS[net.act][0 if keeps else 1](pre3)


def bounded(psi: Tensor, net: Network) -> Tensor:
    """R tanh(psi) where the network has a range R."""
    return psi if net.coord_range is None else elementwise(torch.tanh, psi) * net.coord_range


def row_sums(values: Tensor, starts: Tensor) -> Tensor:
    """Sums of rows of edges that follow each other; ``starts`` relative to the piece."""
    if values.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"edge networks are summed in float32 or float64, got {values.dtype}.")
    edges = torch.arange(values.shape[0], device=values.device)
    return F.embedding_bag(edges, values, starts.long(), mode="sum", include_last_offset=True)


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
    num_nodes = ptr.shape[0] - 1
    h = a.new_zeros(num_nodes, W2.shape[1])
    dx = a.new_zeros(num_nodes, 3) if coord else None
    messages = a.new_empty(source.shape[0], W2.shape[1]) if return_messages else None
    for begin, end, first, last in pieces(ptr, _CHUNK):
        part = slice(first, last)
        piece = _piece(net, source[part], target[part], d2[part], None if e is None else e[part], keeps=False)
        starts = ptr[begin : end + 1] - first
        h[begin:end] = row_sums(piece.m, starts)
        if dx is not None and piece.psi is not None and vec is not None:
            dx[begin:end] = row_sums(vec[part] * piece.psi[:, None], starts)
        if messages is not None:
            messages[part] = piece.m
    return h, dx, messages


class Gradients:
    """Gradients of all inputs of an edge network, filled piece by piece."""

    def __init__(self, net: Network, d2: Tensor, e: Tensor | None, vec: Tensor | None) -> None:
        def like(t: Tensor | None) -> Tensor | None:
            return None if t is None else torch.zeros_like(t)

        self.a, self.b, self.wd = torch.zeros_like(net.a), torch.zeros_like(net.b), torch.zeros_like(net.wd)
        self.d2, self.W2, self.b2 = torch.empty_like(d2), torch.zeros_like(net.W2), torch.zeros_like(net.b2)
        self.e, self.We, self.vec = like(e), like(net.We), like(vec)
        self.gate_w, self.gate_b = like(net.gate_w), like(net.gate_b)
        self.coord = [torch.zeros_like(c) for c in net.coord]

    def head(self, net: Network, piece: Piece, dpsi: Tensor, dm: Tensor) -> Tensor:
        """Through psi(m): adds to the weights of the head and returns dL/dm."""
        if net.coord_range is not None and piece.psi is not None:
            dpsi = dpsi * (net.coord_range - piece.psi.square() / net.coord_range)
        assert piece.hidden is not None
        self.coord[-1] += tall_product(piece.hidden, dpsi[:, None])[:, 0]
        if piece.pre3 is None:
            return dm.addr_(dpsi, net.coord[0])
        g3 = _BACK[net.act](torch.outer(dpsi, net.coord[2]), piece.pre3)
        self.coord[0] += tall_product(piece.m, g3)
        self.coord[1].add_(g3.sum(0))
        return dm.addmm_(g3, net.coord[0].t())

    def gate(self, net: Network, piece: Piece, dm: Tensor) -> Tensor:
        """Through the gate: adds to its weights and returns dL/dmessage."""
        if piece.gate is None or net.gate_w is None or self.gate_w is None or self.gate_b is None:
            return dm
        dlogit = (dm * piece.message).sum(1) * piece.gate * (1 - piece.gate)
        self.gate_w += tall_product(piece.message, dlogit[:, None])[:, 0]
        self.gate_b += dlogit[:, None].sum(0)[0]
        return dm.mul_(piece.gate[:, None]).addr_(dlogit, net.gate_w)

    def layers(self, net: Network, piece: Piece, dmessage: Tensor) -> Tensor:
        """Through the second layer and the first activation; returns dL/dpre1."""
        g2 = _BACK[net.act](dmessage, piece.pre2)
        self.W2 += tall_product(piece.h1, g2)
        self.b2 += g2.sum(0)
        return _BACK[net.act](torch.mm(g2, net.W2.t()), piece.pre1)

    def inputs(
        self, net: Network, g1: Tensor, rows: slice, part: slice, starts: Tensor, source: Tensor, e: Tensor | None
    ) -> None:
        """From dL/dpre1 to node features, radial input and edge features."""
        self.a[rows] = row_sums(g1, starts)
        self.b.scatter_add_(0, source[part, None].long().expand_as(g1), g1)
        self.d2[part] = row_dot(g1, net.wd)
        if self.e is not None and self.We is not None and e is not None and net.We is not None:
            self.We += tall_product(e[part], g1)
            torch.mm(g1, net.We.t(), out=self.e[part])


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
    grads = Gradients(net, d2, e, vec)
    for begin, end, first, last in pieces(ptr, _CHUNK):
        part, rows = slice(first, last), slice(begin, end)
        i = target[part]
        piece = _piece(net, source[part], i, d2[part], None if e is None else e[part])
        dm = gh.index_select(0, i)
        if gm is not None:
            dm += gm[part]
        if piece.psi is not None and gx is not None and vec is not None and grads.vec is not None:
            gxi = gx.index_select(0, i)
            grads.vec[part] = gxi * piece.psi[:, None]
            dm = grads.head(net, piece, (gxi * vec[part]).sum(1), dm)
        g1 = grads.layers(net, piece, grads.gate(net, piece, dm))
        grads.wd += tall_product(g1, d2[part, None])[:, 0]
        grads.inputs(net, g1, rows, part, ptr[begin : end + 1] - first, source, e)
    first_layer = grads.a, grads.b, grads.d2, grads.wd, grads.e, grads.We
    return *first_layer, grads.W2, grads.b2, grads.gate_w, grads.gate_b, grads.coord, grads.vec
