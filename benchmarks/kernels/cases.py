"""What is compared: graphs of three sizes, operations of ours, and the same as users of PyG's MessagePassing write it.

q64, q: 64 and 256 molecules of 18 atoms, fully connected, 128 channels. r: 10 000 uniform points at 0.1 per cubic
angstrom, cutoff 5 angstrom, open boundary, 64 channels. Each baseline has the message in one expression.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

import scidiff.kernels as K
from benchmarks.kernels.others import absent, tensor_products

HEADS, ORIENTATIONS, KERNELS = 8, 20, 64


@dataclass
class Size:
    """A graph with geometry and a number of channels."""

    name: str
    graph: K.NeighborList
    pos: Tensor
    cutoff: float
    width: int


@dataclass
class Case:
    """One operation: both callables take the same list of tensors and give tensors to be summed."""

    name: str
    tensors: list[Tensor]
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    definition: Callable[..., Any]
    least_bytes: int


def make_size(name: str, device: str) -> Size:
    """The graph of a size, seeded."""
    generator = torch.Generator().manual_seed(0)
    if name == "r":
        pos = torch.rand(10_000, 3, generator=generator) * (10_000 / 0.1) ** (1 / 3)
        return Size(name, K.radius_graph(pos, 5.0).to(device), pos.to(device), 5.0, 64)
    count = {"q64": 64, "q": 256}[name]
    pos = 1.5 * torch.randn(18 * count, 3, generator=generator)
    return Size(name, K.full_graph(torch.arange(0, 18 * count + 1, 18)).to(device), pos.to(device), 15.0, 128)


class Filtered(MessagePassing):
    """Sum of neighbours times weights."""

    def __init__(self) -> None:
        super().__init__(aggr="add")

    def forward(self, x: Tensor, w: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=x, w=w)

    def message(self, x_j: Tensor, w: Tensor) -> Tensor:
        return x_j * w


class EGNN(MessagePassing):
    """Message and coordinate sums of EGNN with the concatenated first layer."""

    def __init__(self) -> None:
        super().__init__(aggr="add")

    def forward(self, h: Tensor, vec: Tensor, d2: Tensor, weights: list[Tensor], edge_index: Tensor) -> Any:
        self.weights = weights
        out = self.propagate(edge_index, h=h, vec=vec, d2=d2)
        return out[:, :-3], out[:, -3:]

    def message(self, h_i: Tensor, h_j: Tensor, vec: Tensor, d2: Tensor) -> Tensor:
        W1, b1, W2, b2, head = self.weights
        m = F.silu(F.silu(torch.cat([h_i, h_j, d2[:, None]], dim=-1) @ W1 + b1) @ W2 + b2)
        return torch.cat([m, vec * (m @ head)[:, None]], dim=-1)


class PaiNN(MessagePassing):
    """Message of PaiNN with a stored filter."""

    def __init__(self, basis: Any, cutoff: Any) -> None:
        super().__init__(aggr="add")
        self.basis, self.cutoff = basis, cutoff

    def forward(
        self, phi: Tensor, v: Tensor, d: Tensor, unit: Tensor, W: Tensor, bias: Tensor, edge_index: Tensor
    ) -> Any:
        width = v.shape[1]
        w = (self.basis(d) @ W + bias) * self.cutoff(d)[:, None]
        out = self.propagate(edge_index, phi=phi, v=v.flatten(1), w=w, unit=unit)
        return out[:, :width], out[:, width:].unflatten(1, (width, 3))

    def message(self, phi_j: Tensor, v_j: Tensor, w: Tensor, unit: Tensor) -> Tensor:
        a, b, c = (phi_j * w).chunk(3, dim=-1)
        dv = b[:, :, None] * v_j.unflatten(1, (-1, 3)) + c[:, :, None] * unit[:, None]
        return torch.cat([a, dv.flatten(1)], dim=-1)


class Attention(MessagePassing):
    """Dot-product attention over neighbours with an additive bias."""

    def __init__(self) -> None:
        super().__init__(aggr="add", node_dim=0)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, q=q, k=k, v=v, bias=bias)

    def message(self, q_i: Tensor, k_j: Tensor, v_j: Tensor, bias: Tensor, index: Tensor, size_i: int) -> Tensor:
        logits = (q_i * k_j).sum(-1) / q_i.shape[-1] ** 0.5 + bias
        return softmax(logits, index, num_nodes=size_i)[:, :, None] * v_j


class Spatial(MessagePassing):
    """Spatial half of PONITA's convolution."""

    def __init__(self) -> None:
        super().__init__(aggr="add", node_dim=0)

    def forward(self, x: Tensor, basis: Tensor, W: Tensor, fiber: Tensor, edge_index: Tensor) -> Tensor:
        y = self.propagate(edge_index, x=x, kernel=basis @ W)
        return torch.einsum("noc,opc->npc", y, fiber) / x.shape[1]

    def message(self, x_j: Tensor, kernel: Tensor) -> Tensor:
        return x_j * kernel


class Convolution(MessagePassing):
    """Continuous filters of a distance."""

    def __init__(self, basis: Any, cutoff: Any) -> None:
        super().__init__(aggr="add")
        self.basis, self.cutoff = basis, cutoff

    def forward(self, x: Tensor, d: Tensor, W: Tensor, bias: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=x, w=(self.basis(d) @ W + bias) * self.cutoff(d)[:, None])

    def message(self, x_j: Tensor, w: Tensor) -> Tensor:
        return x_j * w


class Channels(MessagePassing):
    """Softmax over neighbours, channel by channel."""

    def __init__(self) -> None:
        super().__init__(aggr="add")

    def forward(self, logits: Tensor, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=x, logits=logits)

    def message(self, x_j: Tensor, logits: Tensor, index: Tensor, size_i: int) -> Tensor:
        return softmax(logits, index, num_nodes=size_i) * x_j


def cases(size: Size, dtype: torch.dtype, names: list[str] | None = None) -> list[Case]:
    """The operations that are meaningful for a size (or those named)."""
    makers = {
        "gms": _gms,
        "gms, no numba": _gms_chunked,
        "weighted_sum": _weighted_sum,
        "edge_mlp": _edge_mlp,
        "painn": _painn,
    }
    if size.name == "q64":
        makers |= {"attention": _attention, "ponita": _ponita, "cfconv": _cfconv}
        makers |= {"softmax_gather_sum": _softmax, "edge_dot": _edge_dot, "e3nn": _tensor_product}
        for peer in ("OpenEquivariance", "cuEquivariance"):
            if peer not in absent() and (peer == "cuEquivariance" or size.graph.device.type == "cuda"):
                makers[peer] = functools.partial(_tensor_product, peer=peer)
    return [make(size, dtype) for name, make in makers.items() if names is None or name in names]


def _draw(size: Size, dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(s, generator=generator).to(size.pos.device, dtype).requires_grad_() for s in shapes]


def _numbers(size: Size) -> tuple[int, int, int, Tensor]:
    return size.graph.num_nodes, size.graph.num_edges, size.width, size.graph.edge_index


def _geometry(size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    ends = size.graph.edge_index
    vec = (size.pos[ends[0]] - size.pos[ends[1]]).to(dtype)
    d = vec.norm(dim=1)
    return vec.requires_grad_(), d.requires_grad_(), (vec / d[:, None]).detach().requires_grad_()


def _case(name: str, tensors: list[Tensor], function: Callable[..., Any], theirs: Any, least: int) -> Case:
    def ours(*args: Tensor) -> Any:
        return function(*args, backend=None)

    def definition(*args: Tensor) -> Any:
        return function(*args, backend="torch")

    return Case(name, tensors, ours, theirs, definition, least)


def _gms(size: Size, dtype: torch.dtype) -> Case:
    n, e, f, ends = _numbers(size)
    module = Filtered()
    least = dtype.itemsize * (e * f + 2 * n * f) + 4 * e
    return _case(
        "gms",
        _draw(size, dtype, (n, f), (e, f)),
        lambda x, w, backend: K.gather_multiply_sum(x, w, size.graph, backend=backend),
        lambda x, w: module(x, w, ends),
        least,
    )


def _gms_chunked(size: Size, dtype: torch.dtype) -> Case:
    case = _gms(size, dtype)
    body = "chunked" if size.pos.device.type == "cpu" else "torch"
    case.ours = lambda x, w: K.gather_multiply_sum(x, w, size.graph, backend=body)
    case.name = "gms, no numba"
    return case


def _weighted_sum(size: Size, dtype: torch.dtype) -> Case:
    n, e, f, ends = _numbers(size)
    module = Filtered()
    return _case(
        "weighted_sum",
        _draw(size, dtype, (n, f), (e,)),
        lambda x, a, backend: K.weighted_sum(x, a, size.graph, backend=backend),
        lambda x, a: module(x, a[:, None], ends),
        dtype.itemsize * (e + 2 * n * f) + 4 * e,
    )


def _edge_mlp(size: Size, dtype: torch.dtype) -> Case:
    n, e, f, ends = _numbers(size)
    module = EGNN()
    vec, _, _ = _geometry(size, dtype)
    d2 = vec.detach().square().sum(1).requires_grad_()
    h, W1, b1, W2, b2, head = _draw(size, dtype, (n, f), (2 * f + 1, f), (f,), (f, f), (f,), (f,))
    scaled = [(w.detach() * f**-0.5).requires_grad_() for w in (W1, W2, head)]

    def ours(h, vec, d2, W1, b1, W2, b2, head, backend):  # type: ignore
        a, b = torch.addmm(b1, h, W1[:f]), h @ W1[f : 2 * f]
        out = K.edge_mlp(a, b, size.graph, d2=d2, wd=W1[2 * f], W2=W2, b2=b2, coord=head, vec=vec, backend=backend)
        return out.h, out.dx

    def theirs(h, vec, d2, W1, b1, W2, b2, head):  # type: ignore
        return module(h, vec, d2, [W1, b1, W2, b2, head], ends)

    tensors = [h, vec, d2, scaled[0], b1, scaled[1], b2, scaled[2]]
    return _case("edge_mlp", tensors, ours, theirs, dtype.itemsize * (4 * n * f + 4 * e) + 4 * e)


def _painn(size: Size, dtype: torch.dtype) -> Case:
    n, e, f, ends = _numbers(size)
    basis, cutoff = K.BesselBasis(20, size.cutoff), K.CosineCutoff(size.cutoff)
    module = PaiNN(basis, cutoff)
    _, d, unit = _geometry(size, dtype)
    phi, v, W, bias = _draw(size, dtype, (n, 3 * f), (n, f, 3), (20, 3 * f), (3 * f,))
    return _case(
        "painn",
        [phi, v, d, unit, W, bias],
        lambda *args, backend: K.painn_message(*args, size.graph, basis, cutoff, backend=backend),
        lambda *args: module(*args, ends),
        dtype.itemsize * (10 * n * f + 4 * e) + 4 * e,
    )


def _attention(size: Size, dtype: torch.dtype) -> Case:
    n, e, f, ends = _numbers(size)
    module = Attention()
    shape = n, HEADS, f // HEADS
    return _case(
        "attention",
        _draw(size, dtype, shape, shape, shape, (e, HEADS)),
        lambda q, k, v, bias, backend: K.neighbor_attention(q, k, v, size.graph, bias, backend=backend)[0],
        lambda *args: module(*args, ends),
        dtype.itemsize * (4 * n * f + e * HEADS),
    )


def _ponita(size: Size, dtype: torch.dtype) -> Case:
    small = K.full_graph(torch.arange(0, 16 * 18 + 1, 18)).to(str(size.pos.device))
    n, e, o, c = small.num_nodes, small.num_edges, ORIENTATIONS, KERNELS
    module, ends = Spatial(), small.edge_index
    return _case(
        "ponita",
        _draw(size, dtype, (n, o, c), (e, o, c), (c, c), (o, o, c)),
        lambda x, basis, W, fiber, backend: K.ponita_conv(x, basis, W, fiber, small, backend=backend),
        lambda *args: module(*args, ends),
        dtype.itemsize * (2 * n * o * c + e * o * c),
    )


def _cfconv(size: Size, dtype: torch.dtype) -> Case:
    n, e, f, ends = _numbers(size)
    basis, cutoff = K.BesselBasis(20, size.cutoff), K.CosineCutoff(size.cutoff)
    module = Convolution(basis, cutoff)
    _, d, _ = _geometry(size, dtype)
    x, W, bias = _draw(size, dtype, (n, f), (20, f), (f,))
    return _case(
        "cfconv",
        [x, d, W, bias],
        lambda *args, backend: K.cfconv(*args, size.graph, basis, cutoff, backend=backend),
        lambda *args: module(*args, ends),
        dtype.itemsize * (2 * n * f + e) + 4 * e,
    )


def _softmax(size: Size, dtype: torch.dtype) -> Case:
    n, e, f, ends = _numbers(size)
    module = Channels()
    return _case(
        "softmax_gather_sum",
        _draw(size, dtype, (e, f), (n, f)),
        lambda logits, x, backend: K.softmax_gather_sum(logits, x, size.graph, backend=backend),
        lambda logits, x: module(logits, x, ends),
        dtype.itemsize * (e * f + 2 * n * f) + 4 * e,
    )


def _edge_dot(size: Size, dtype: torch.dtype) -> Case:
    n, e, f, ends = _numbers(size)
    return _case(
        "edge_dot",
        _draw(size, dtype, (n, f), (n, f)),
        lambda x, y, backend: K.edge_dot(x, y, size.graph, backend=backend),
        lambda x, y: (x[ends[1]] * y[ends[0]]).sum(1),  # as users of PyG score edges
        dtype.itemsize * (2 * n * f + e) + 4 * e,
    )


def _tensor_product(size: Size, dtype: torch.dtype, peer: str = "e3nn") -> Case:
    """Against the same tensor product of e3nn on gathered nodes, then a scatter, as its users write it; or a peer."""
    from e3nn import o3
    from torch_geometric.utils import scatter

    n, e, _, ends = _numbers(size)
    irreps, paths = "16x0e+16x1o", [(0, 0, 0, "uvu", True), (0, 1, 1, "uvu", True), (1, 1, 0, "uvu", True)]
    product = o3.TensorProduct(irreps, "0e+1o", irreps, paths, shared_weights=False).to(size.pos.device)
    exact = o3.TensorProduct(irreps, "0e+1o", irreps, paths, shared_weights=False).to(size.pos.device).double()
    tensors = _draw(size, dtype, (n, product.irreps_in1.dim), (e, 4), (e, product.weight_numel))

    def ours(x: Tensor, y: Tensor, w: Tensor, backend: str | None) -> Tensor:
        return K.tensor_product_scatter(x, y, w, size.graph, exact if x.dtype == torch.float64 else product)

    def theirs(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return scatter(product(x[ends[0]], y, w), ends[1], dim=0, dim_size=n)

    others = {"e3nn": theirs} if peer == "e3nn" else tensor_products(irreps, "0e+1o", paths, *ends, n)
    least = dtype.itemsize * (2 * tensors[0].numel() + tensors[1].numel() + tensors[2].numel()) + 4 * e
    return _case(peer, tensors, ours, others[peer], least)


def modules() -> list[type[nn.Module]]:
    """The baselines."""
    return [Filtered, EGNN, PaiNN, Attention, Spatial, Convolution, Channels]
