"""The numba bodies on disk: which are compiled, and how to compile all of them before the first use."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import torch

from scidiff.kernels._dispatch import use_backend
from scidiff.kernels.basis import BesselBasis, CosineCutoff
from scidiff.kernels.edge_network import edge_mlp
from scidiff.kernels.full import full_graph
from scidiff.kernels.graph import NeighborList
from scidiff.kernels.messages import cfconv, neighbor_attention, painn_message, ponita_conv, softmax_gather_sum
from scidiff.kernels.neighbors import knn_graph, radius_graph
from scidiff.kernels.segments import (
    edge_dot,
    gather_multiply_sum,
    segment_max,
    segment_softmax,
    segment_sum,
    weighted_sum,
)

__all__ = ["Bodies", "compile_bodies", "compiled_bodies", "threading_layer"]

_MODULES = ("_threads", "activations", "attention", "brute", "edge_mlp", "gms", "graph", "lanes", "painn", "segment")


class Bodies(NamedTuple):
    """Compiled functions by the state of their cache.

    Attributes:
        cached: Those with machine code on disk that is as new as their source.
        missing: Those that are compiled at their first use.
    """

    cached: list[str]
    missing: list[str]


def compiled_bodies() -> Bodies:
    """Which functions of `scidiff.kernels.cpu_numba` have machine code on disk; imports numba, compiles nothing."""
    found = Bodies([], [])
    for module in _MODULES:
        content = importlib.import_module(f"scidiff.kernels.cpu_numba.{module}")
        for name, function in vars(content).items():
            own = getattr(getattr(function, "py_func", None), "__module__", None) == content.__name__
            if own and function.targetoptions.get("inline") != "always":  # those have code in their callers alone
                index = getattr(getattr(function, "_cache", None), "_cache_file", None)
                is_cached = index is not None and bool(index._load_index())
                (found.cached if is_cached else found.missing).append(f"{module}.{name}")
    return found


def compile_bodies() -> Bodies:
    """Run every numba body once, serial and parallel, in float32 and float64: their code is then on disk."""
    threads = torch.get_num_threads()
    try:
        with use_backend("numba"):
            for count in (1, 2):
                torch.set_num_threads(count)
                for dtype in (torch.float32, torch.float64):
                    _run(dtype)
                _search()
    finally:
        torch.set_num_threads(threads)
    return compiled_bodies()


def threading_layer() -> str:
    """What numba's parallel regions run on: ``"omp"``, ``"tbb"`` or ``"workqueue"``."""
    import numba
    from numba.np.ufunc.parallel import _launch_threads

    _launch_threads()  # the layer is chosen here
    return numba.threading_layer()  # pyright: ignore[reportPrivateImportUsage]


def _run(dtype: torch.dtype) -> None:
    """All operations with their gradients, on a graph that is large enough for two threads."""
    full = full_graph(torch.tensor([0, 64]))
    generator = torch.Generator().manual_seed(0)
    n, e, f, basis, cutoff = 64, full.num_edges, 128, BesselBasis(8, 4.0), CosineCutoff(4.0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=dtype).add_(0.5).requires_grad_()

    for g in (full, NeighborList.from_edge_index(full.edge_index, n)):  # 32-bit and 64-bit indices where they differ
        x, w, dist, unit, v, q = draw(n, f), draw(e, f), draw(e), draw(e, 3), draw(n, f, 3), draw(n, 8, 16)
        outs = [gather_multiply_sum(x, w, g), weighted_sum(x, dist, g), edge_dot(x, x, g)]
        outs += [softmax_gather_sum(w, x, g), cfconv(x, dist, draw(8, f), draw(f), g, basis, cutoff)]
        outs += painn_message(draw(n, 3 * f), v, dist, unit, draw(8, 3 * f), draw(3 * f), g, basis, cutoff)
        outs += [neighbor_attention(q, q, q, g, draw(e, 8))[0]]
        outs += [segment_sum(w, g), segment_max(w, g), segment_softmax(w, g)]
        network = {"wd": draw(f), "W2": draw(f, f), "b2": draw(f), "gate": (draw(f), draw(1)[0]), "coord": draw(f)}
        outs += [edge_mlp(x, x, g, d2=dist, vec=unit, **network).h]
        outs += [ponita_conv(draw(n, 4, 8), draw(e, 4, 8), draw(8, 8), draw(4, 4, 8), g)]
        torch.stack([out.sum() for out in outs]).sum().backward()
        slopes = torch.autograd.grad(gather_multiply_sum(x, w, g).square().sum(), (x, w), create_graph=True)
        torch.stack([slope.sum() for slope in slopes]).sum().backward()  # sums on the transpose and products on edges
        g.t_edge  # noqa: B018  (sorts the transpose)


def _search() -> None:
    """Neighbour lists of molecules, few and many, and of a liquid, open and periodic."""
    generator = torch.Generator().manual_seed(0)
    for count, side in ((64, 4.0), (600, 16.0), (8000, 40.0)):
        pos = torch.rand(count, 3, generator=generator, dtype=torch.float64) * side
        starts = torch.tensor([0, count // 2, count])
        radius_graph(pos, 3.0, batch_ptr=starts, backend="numba")
        radius_graph(pos.float(), 3.0, torch.arange(2).repeat_interleave(count // 2), backend="numba")
        radius_graph(pos, 3.0, cell=torch.eye(3, dtype=torch.float64) * side, backend="numba")
        radius_graph(pos, 3.0, backend="numba")  # one graph
        knn_graph(pos, 4, backend="numba")
