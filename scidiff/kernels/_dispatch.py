"""The way of one call: graph, order of edges, dtypes and the body that runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from scidiff.kernels.graph import NeighborList, as_neighbor_list

__all__ = ["Call", "operation"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def operation(function: _Function) -> _Function:
    """A public operation: autocast is off inside, because sums of messages stay in float32."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        device = next(a.device.type for a in args if isinstance(a, Tensor))
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

    Attributes:
        graph: The `NeighborList`.
        dtype: In which it is computed: at least float32, float64 if any input is.
        body: Name of the body that runs.
    """

    def __init__(
        self, op: str, g: NeighborList | Tensor, num_nodes: int | None, tensors: tuple[Any, ...], backend: str | None
    ) -> None:
        self.is_user_order = not isinstance(g, NeighborList)
        self.graph = as_neighbor_list(g, num_nodes)
        given = [t for t in tensors if isinstance(t, Tensor)]
        self.dtype = functools.reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
        self.body = "torch"

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
