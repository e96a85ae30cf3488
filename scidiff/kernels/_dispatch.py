"""The way of one call: which body runs, the order of edges, dtypes.

In this order: a transform of ``torch.func`` or forward-mode differentiation takes the torch definition (registered
operations have no tangent: it would silently be zero); then ``backend=`` of the call, `use_backend`, the environment
variable ``SCIDIFF_KERNELS``; ``auto`` takes the first body of its table that can run. A body asked for by name that
cannot run raises with the reason; where the name comes from `use_backend` or the environment, operations that have no
body of that name choose as in ``auto`` (a network has many operations), and `report` says so.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from scidiff.kernels.full import FullGraph
from scidiff.kernels.graph import NeighborList, as_neighbor_list
from scidiff.kernels.registered import transforms_active

__all__ = ["BACKENDS", "Call", "maybe", "operation", "report", "transforms_active", "use_backend"]

BACKENDS = ("auto", "triton", "numba", "chunked", "dense", "torch", "interpret")
_GPU = {"neighbor_attention": ("dense", "triton", "torch")}  # others: triton, torch
# bodies of each operation, in the order in which ``auto`` tries them; "interpret" stands for Triton on the CPU
_CPU: dict[str, tuple[str, ...]] = {
    "gather_multiply_sum": ("numba", "chunked", "torch"),
    "weighted_sum": ("dense", "numba", "chunked", "torch"),
    "edge_dot": ("numba", "chunked", "torch"),
    "cfconv": ("numba", "torch"),
    "painn_message": ("numba", "torch"),
    "edge_mlp": ("numba", "chunked", "torch"),
    "softmax_gather_sum": ("numba", "torch"),
    "neighbor_attention": ("numba", "dense", "torch"),
    "ponita_conv": ("numba", "torch"),
    "gather": ("torch", "numba"),  # on the CPU torch adds gradients in one order, and fast
    "segment_sum": ("numba", "torch"),
    "segment_mean": ("numba", "torch"),
    "segment_max": ("numba", "torch"),
    "segment_softmax": ("numba", "torch"),
}

_log = logging.getLogger("scidiff.kernels")
_context: list[str] = []  # names asked for by `use_backend`, the innermost last; the compiler guards a list
_ran: dict[tuple[str, str], dict[str, str]] = {}
_logged: set[tuple[str, str, str]] = set()
_obstacles: dict[str, str] = {}  # why a package cannot be used; empty if it can
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _constant(function: Callable[[], str]) -> Callable[[], str]:
    """Decorator: the compiler calls the function while it traces and keeps the result.

    As ``torch.compiler.assume_constant_result``, which would import the compiler here, for seconds; a test fails if the
    mark changes its name.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Ask for one body by name in all operations called inside, compiled or not: ``with use_backend("torch"): ...``.

    It holds for all threads of the process.

    Args:
        name: ``"auto"``, ``"triton"``, ``"numba"``, ``"chunked"``, ``"dense"``, ``"torch"``, or ``"interpret"``
            (Triton's interpreter, on the CPU).

    Raises:
        ValueError: If the name is unknown.
    """
    _context.append(_known(name))
    try:
        yield
    finally:
        _context.pop()


def report() -> list[dict[str, str]]:
    """What ran: for each operation and device ``op``, ``device``, ``backend`` of its last call, and the ``reason``."""
    return [{"op": op, "device": device, **entry} for (op, device), entry in sorted(_ran.items())]


def operation(function: _Function) -> _Function:
    """A public operation: autocast is off inside, because sums of messages stay in float32."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        if not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapped  # pyright: ignore[reportReturnType]


class Call:
    """One call of an operation.

    Args:
        op: Name of the public function.
        g: `NeighborList` (edge features in its order), or ``edge_index`` (2, E) (edge features in its order).
        num_nodes: N.
        tensors: All tensor arguments; they decide dtype and device.
        backend: Body asked for.
        refusal: Why only the torch definition can run this call, if so.
        limit: Why Triton cannot run this call, if so.

    Attributes:
        op: Name of the public function.
        graph: The `NeighborList`.
        dtype: In which it is computed: at least float32, float64 if any input is.
        body: Name of the body that runs.

    Raises:
        ValueError: If the body asked for is unknown or cannot run.
    """

    def __init__(
        self,
        op: str,
        g: NeighborList | Tensor,
        num_nodes: int | None,
        tensors: tuple[Any, ...],
        backend: str | None,
        refusal: str = "",
        limit: str = "",
    ) -> None:
        self.op = op
        self.is_user_order = not isinstance(g, NeighborList)
        self.graph = as_neighbor_list(g, num_nodes)
        given = [t for t in tensors if isinstance(t, Tensor)]
        self.dtype = functools.reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
        self.needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in given)
        self.body = "torch"
        if op in _CPU:
            device, asked = given[0].device.type, _asked(backend)
            is_spared = backend is None and asked not in ("auto", "torch") and bool(_no_body(op, asked))
            self.body = _choose(op, device, self.graph, asked, refusal, limit, is_spared)

    def widths(self, name: str, x: Tensor, rank: int) -> tuple[int, ...]:
        """Sizes of node features (N, *) behind the first, once N, ``rank`` and device are right (see `check`)."""
        if x.dim() != rank:
            raise ValueError(f"{self.op} needs {name} with {rank} dimensions, got {tuple(x.shape)}.")
        self.check((name, x, (self.graph.num_nodes, *x.shape[1:])))
        return x.shape[1:]

    def check(self, *needed: tuple[str, Tensor | None, tuple[int, ...]]) -> None:
        """Compare tensors (name, tensor, shape) with what the graph asks for; nothing is read from the device.

        Bodies trust their inputs: without this they would read beyond them.

        Raises:
            ValueError: If a shape differs, or if a tensor and the graph are on different devices.
        """
        device = self.graph.device
        for name, tensor, shape in needed:
            if tensor is None:
                continue
            if tensor.shape != shape:
                raise ValueError(
                    f"{self.op} needs {name} of shape {shape} on a graph of {self.graph.num_nodes} nodes and "
                    f"{self.graph.num_edges} edges, got {tuple(tensor.shape)}: nothing is broadcast, so expand it, or "
                    "pass the graph it was made for."
                )
            if tensor.device != device:
                raise ValueError(
                    f"{self.op} needs {name} on {device}, where the graph is, and it is on {tensor.device}: move one."
                )

    @property
    def source(self) -> Tensor:
        """Source of each edge."""
        return self.graph.source

    @property
    def target(self) -> Tensor:
        """Target of each edge; for the torch body, N for padding, which ends in a row that is cut off."""
        if self.graph.is_padded and self.body == "torch":
            return torch.where(self.graph.edge_mask, self.graph.target, self.graph.num_nodes)
        return self.graph.target

    @property
    def num_rows(self) -> int:
        """N, with one more row for padding in the torch body."""
        return self.graph.num_nodes + int(self.graph.is_padded and self.body == "torch")

    def arrays(self) -> tuple[Tensor | None, ...]:
        """source, ptr, target and, if a gradient may be asked for, t_ptr, t_target, t_edge (else None)."""
        graph = self.graph
        forward = graph.source, graph.ptr, graph.target
        return (*forward, *((graph.t_ptr, graph.t_target, graph.t_edge) if self.needs_grad else (None,) * 3))

    def node(self, x: Tensor) -> Tensor:
        """Node features as the body takes them."""
        x = x.to(self.dtype)
        return F.pad(x, (0, 0) * (x.dim() - 1) + (0, 1)) if self.num_rows > x.shape[0] else x

    def edge(self, w: Tensor) -> Tensor:
        """Edge features as the body takes them."""
        return (self.graph.to_canonical(w) if self.is_user_order else w).to(self.dtype)

    def weight(self, w: Tensor) -> Tensor:
        """Weights as the body takes them."""
        return w.to(self.dtype)

    def node_result(self, x: Tensor, like: Tensor) -> Tensor:
        """Node features as the caller expects them."""
        return (x[: self.graph.num_nodes] if x.shape[0] > self.graph.num_nodes else x).to(like.dtype)

    def edge_result(self, w: Tensor, like: Tensor) -> Tensor:
        """Edge features as the caller expects them."""
        return (self.graph.to_user(w) if self.is_user_order else w).to(like.dtype)


def maybe(convert: Callable[[Tensor], Tensor], x: Tensor | None) -> Tensor | None:
    """``convert(x)``, or None for an absent argument."""
    return None if x is None else convert(x)


def _asked(backend: str | None) -> str:
    context = _context[-1] if _context else ""
    return _known(backend or context or os.environ.get("SCIDIFF_KERNELS") or "auto")


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}.")
    return name


def _choose(
    op: str, device: str, graph: NeighborList, asked: str, refusal: str, limit: str, is_spared: bool = False
) -> str:
    if transforms_active():
        return _note(op, device, "torch", "a transform of torch.func or forward-mode differentiation is active")
    if asked == "torch":
        return _note(op, device, "torch", "asked for")
    if asked != "auto" and not is_spared:
        reason = refusal or _obstacle(op, device, graph, asked, limit)
        if reason:
            raise ValueError(f"backend {asked!r} cannot run {op}: {reason}. Use backend='auto' to let it be chosen.")
        return _note(op, device, asked, "asked for")
    skipped = [f"{asked}: {_no_body(op, asked)}"] if is_spared else []
    for body in _CPU[op] if device == "cpu" else _GPU.get(op, ("triton", "torch")):
        reason = "" if body == "torch" else refusal or _obstacle(op, device, graph, body, limit)
        if not reason and body == "dense":
            reason = _wasteful(graph)
        if not reason and (op, body) == ("neighbor_attention", "numba"):
            reason = _better_dense(graph)
        if not reason:
            return _note(op, device, body, "; ".join(skipped) or "first choice")
        skipped.append(f"{body}: {reason}")
    raise AssertionError("the torch body always runs")


def _note(op: str, device: str, body: str, reason: str) -> str:
    if not torch.compiler.is_compiling():
        _ran[op, device] = {"backend": body, "reason": reason}
        if ":" in reason and (op, device, reason) not in _logged:
            _logged.add((op, device, reason))
            _log.info("%s on %s runs the %s body (%s)", op, device, body, reason)
    return body


def _obstacle(op: str, device: str, graph: NeighborList, body: str, limit: str) -> str:
    """Why a body cannot run this call; empty if it can."""
    if _no_body(op, body):
        return _no_body(op, body)
    if body == "dense":
        return "" if isinstance(graph, FullGraph) else "it needs a full_graph, where each pair has one edge"
    if graph.is_padded:
        return "lists of fixed size run through the torch definition"
    if body in ("triton", "interpret"):
        return limit or _no_triton(device, body)
    if body == "numba" and device != "cpu":
        return f"it runs on the CPU, and the tensors are on {device}"
    return _no_numba() if body == "numba" else ""


def _no_body(op: str, body: str) -> str:
    has_body = body in (*_CPU[op], "triton", "interpret")
    return "" if has_body else f"this operation has the bodies {', '.join(_CPU[op])} and triton"


def _no_triton(device: str, body: str) -> str:
    if (device == "cuda") != (body == "triton"):
        return f"it needs tensors on {'cuda' if body == 'triton' else 'cpu'}, and they are on {device}"
    if _no_package():
        return _no_package()
    if body == "interpret" and os.environ.get("TRITON_INTERPRET") != "1":
        return "the interpreter needs TRITON_INTERPRET=1 in the environment before triton is imported"
    return ""


@_constant
def _no_package() -> str:
    if "triton" not in _obstacles:
        found = importlib.util.find_spec("triton"), importlib.util.find_spec("scidiff.kernels.triton")
        _obstacles["triton"] = "" if all(found) else "triton or the kernels written in it are not installed"
    return _obstacles["triton"]


def _wasteful(graph: NeighborList) -> str:
    """Dense matrices pay if padding to the largest graph wastes less than half."""
    pairs = graph.num_graphs * graph.max_nodes**2
    if pairs <= 1.5 * (graph.num_edges + graph.num_nodes):
        return ""
    return f"padding to the largest graph would make {pairs} pairs of {graph.num_edges}"


def _better_dense(graph: NeighborList) -> str:
    """Attention row by row beats products of matrices up to some two dozen nodes, and where most pairs are no edges."""
    is_small = graph.max_nodes <= 24
    return "" if is_small or not isinstance(graph, FullGraph) or _wasteful(graph) else "matrices are faster"


@_constant
def _no_numba() -> str:
    if "numba" not in _obstacles:
        try:
            importlib.import_module("numba")
            _obstacles["numba"] = ""
        except Exception as error:
            _obstacles["numba"] = f"numba cannot be imported ({type(error).__name__}: {error})"
    return _obstacles["numba"]
