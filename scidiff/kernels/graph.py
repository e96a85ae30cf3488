"""Graphs in compressed form: the sources of each target in one row, and the transpose that every gradient needs.

A message of edge e goes from ``source[e]`` (row 0 of ``edge_index``) to ``target[e]`` (row 1) and is reduced at the
target. The canonical order is: targets do not decrease, sources ascend among equal targets, images (shifts) ascend
among equal sources. ``ptr`` and ``source`` are then the CSC pair (colptr, row) of PyG, and a CSR matrix with one row a
target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scidiff.kernels import order
from scidiff.kernels.lazy import lazy

__all__ = ["NeighborList", "as_neighbor_list"]

_TENSORS = ("source", "ptr", "batch_ptr", "shifts", "perm", "num_found", "built_at", "scattered_batch", "incomplete")
_STATIC = ("num_nodes", "kind", "symmetric", "max_nodes")


@dataclass(frozen=True, eq=False, repr=False)
class NeighborList:
    """Directed edges sorted by target, N nodes, E edges; a pytree whose tensors live on one device.

    Args:
        source: Source of each edge, int32 or int64 (E,), in canonical order.
        ptr: Edges ``ptr[i]:ptr[i + 1]`` end in node i, (N + 1,), dtype of ``source``.
        num_nodes: N.
        batch_ptr: First node of each graph, and N, (G + 1,); None for one graph, or if graphs are not contiguous.
        shifts: Periodic image of the source in lattice vectors, int32 (E, 3).
        kind: ``"sparse"``, ``"full"`` (all ordered pairs of each graph, no loops) or ``"full_loop"`` (with loops).
        symmetric: Whether (j, i, S) stands in the list for every (i, j, -S).
        max_nodes: Nodes of the largest graph.
        perm: Canonical edge e is edge ``perm[e]`` of the edge list that the user gave, (E,); None if they agree.
        num_found: For lists of fixed size, the number of edges found, 0-d int64; None where all E edges are real.
        built_at: Positions at the time of the search, (N, 3).
        scattered_batch: Graph of each node, (N,), where the nodes of a graph do not stand together.
        incomplete: For lists of fixed size, whether the search could not see all pairs whatever ``max_edges`` is
            (a graph larger than ``max_nodes``, or input that is an error elsewhere), 0-d bool.

    Lists of fixed size (``num_found`` is set) end in padding: loops of the last node, outside of every row of ``ptr``
    and False in `edge_mask`. Reductions over all E edges have to mask them, reductions over rows never see them.
    """

    source: Tensor
    ptr: Tensor
    num_nodes: int
    batch_ptr: Tensor | None = None
    shifts: Tensor | None = None
    kind: str = "sparse"
    symmetric: bool = False
    max_nodes: int = -1
    perm: Tensor | None = None
    num_found: Tensor | None = None
    built_at: Tensor | None = None
    scattered_batch: Tensor | None = None
    incomplete: Tensor | None = None

    def __post_init__(self) -> None:
        if self.max_nodes < 0:
            object.__setattr__(self, "max_nodes", order.largest(self.batch_ptr, self.num_nodes))

    # -- constructors ----------------------------------------------------------------------------------------------

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        num_nodes: int | None = None,
        *,
        batch: Tensor | None = None,
        batch_ptr: Tensor | None = None,
        shifts: Tensor | None = None,
        symmetric: bool = False,
        validate: bool = True,
    ) -> NeighborList:
        """Sort an edge list in any order; its order is kept in ``perm``.

        Args:
            edge_index: Source and target of each edge, integer (2, E); a PyG ``EdgeIndex`` is welcome.
            num_nodes: N; by default that of ``batch``, ``batch_ptr``, the ``EdgeIndex`` or the largest entry plus one.
            batch: Graph of each node, (N,); not needed if ``batch_ptr`` is given.
            batch_ptr: First node of each graph, and N, (G + 1,).
            shifts: Periodic image of each source, (E, 3), in the order of ``edge_index``.
            symmetric: Promise that the reverse of each edge is an edge.
            validate: Check the entries (waits for the device).

        Raises:
            ValueError: If shapes or dtypes are wrong, or if entries lie outside [0, N).
        """
        num_nodes = order.node_count(edge_index, num_nodes, batch, batch_ptr)
        edges = order.checked_edge_index(edge_index, num_nodes, in_range=validate)
        if batch_ptr is None and batch is not None:
            batch_ptr = order.pointers(batch)
        scattered = batch if batch_ptr is None else None
        source, ptr, perm = order.canonical(edges[0], edges[1], num_nodes, shifts)
        if shifts is not None:
            shifts = shifts.to(torch.int32) if perm is None else shifts.to(torch.int32).index_select(0, perm)
        result = cls(
            source, ptr, num_nodes, batch_ptr, shifts, symmetric=symmetric, perm=perm, scattered_batch=scattered
        )
        return result.validate() if validate else result

    # -- edges -----------------------------------------------------------------------------------------------------

    @property
    def num_edges(self) -> int:
        """Length E of the edge arrays, the padding of lists of fixed size included."""
        return self.source.shape[0]

    @property
    def num_graphs(self) -> int:
        """Number of graphs G."""
        if self.scattered_batch is not None:
            return int(self.scattered_batch.max()) + 1 if self.num_nodes else 0
        return 1 if self.batch_ptr is None else self.batch_ptr.shape[0] - 1

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.ptr.device

    @lazy
    def target(self) -> Tensor:
        """Target of each edge, (E,), dtype of ``source``; the last node for padding."""
        if self.is_padded:
            edges = torch.arange(self.num_edges, device=self.device, dtype=self.ptr.dtype)
            rows = torch.searchsorted(self.ptr[1:], edges, right=True)
            return rows.clamp(max=max(self.num_nodes - 1, 0)).to(self.source.dtype)
        nodes = torch.arange(self.num_nodes, device=self.device, dtype=self.source.dtype)
        return nodes.repeat_interleave(self.ptr.diff(), output_size=self.num_edges)

    @lazy
    def edge_index(self) -> Tensor:
        """Source and target of each edge, int64 (2, E), canonical order."""
        return torch.stack([self.source, self.target]).long()

    def keep_edges(self, edge_index: Tensor) -> None:
        """Keep ``edge_index`` int64 (2, E), where a search has made it, for its first use."""
        object.__setattr__(self, "edge_index", edge_index)
        object.__setattr__(self, "target", edge_index[1])

    @lazy
    def degree(self) -> Tensor:
        """Number of edges that end in each node, (N,), dtype of ``ptr``."""
        return self.ptr.diff()

    @property
    def is_padded(self) -> bool:
        """Whether the list has a fixed size, so that edges at the end may be padding."""
        return self.num_found is not None

    @property
    def edge_mask(self) -> Tensor:
        """True for real edges, bool (E,)."""
        edges = torch.arange(self.num_edges, device=self.device)
        return torch.ones_like(edges, dtype=torch.bool) if self.num_found is None else edges < self.num_found

    @property
    def overflow(self) -> Tensor:
        """Whether edges may be missing: more were found than the fixed size holds, or ``incomplete``; 0-d bool."""
        if self.num_found is None:
            return torch.zeros((), dtype=torch.bool, device=self.device)
        is_cut = self.num_found > self.num_edges
        return is_cut if self.incomplete is None else is_cut | self.incomplete

    # -- transpose -------------------------------------------------------------------------------------------------

    @lazy
    def _transpose(self) -> tuple[Tensor, Tensor]:
        return order.transpose(self.source, self.ptr, num_nodes=self.num_nodes, padded=self.is_padded)

    @property
    def t_ptr(self) -> Tensor:
        """Edges ``t_edge[t_ptr[j]:t_ptr[j + 1]]`` leave node j, (N + 1,)."""
        return self._transpose[0]

    @property
    def t_edge(self) -> Tensor:
        """Edges in the order of their sources; edges of one source keep their order (targets ascend), (E,)."""
        return self._transpose[1]

    @lazy
    def t_target(self) -> Tensor:
        """Target of each edge in the order of the transpose, ``target[t_edge]``, (E,)."""
        return self.target.index_select(0, self.t_edge)

    # -- order of the user -----------------------------------------------------------------------------------------

    def to_canonical(self, values: Tensor) -> Tensor:
        """Edge features (E, ...) in the user's order, put into the order of the list."""
        return values if self.perm is None else values.index_select(0, self.perm)

    def to_user(self, values: Tensor) -> Tensor:
        """Edge features (E, ...) in the order of the list, put into the user's order."""
        return values if self._inverse is None else values.index_select(0, self._inverse)

    @lazy
    def _inverse(self) -> Tensor | None:
        if self.perm is None:
            return None
        return torch.empty_like(self.perm).scatter_(0, self.perm, torch.arange(self.num_edges, device=self.device))

    # -- dense batches ---------------------------------------------------------------------------------------------

    @lazy
    def batch(self) -> Tensor:
        """Graph of each node, int64 (N,)."""
        if self.scattered_batch is not None:
            return self.scattered_batch.long()
        if self.batch_ptr is None:
            return torch.zeros(self.num_nodes, dtype=torch.int64, device=self.device)
        graphs = torch.arange(self.num_graphs, device=self.device)
        return graphs.repeat_interleave(self.batch_ptr.diff(), output_size=self.num_nodes)

    @lazy
    def node_slot(self) -> Tensor:
        """Place of each node in a padded batch of G x ``max_nodes`` nodes, int64 (N,).

        Raises:
            ValueError: If the nodes of a graph do not stand together.
        """
        if self.scattered_batch is not None:
            raise ValueError(
                "dense batches need the nodes of each graph side by side: sort the nodes by `batch` first."
            )
        nodes = torch.arange(self.num_nodes, device=self.device)
        if self.batch_ptr is None:
            return nodes
        return nodes + self.batch * self.max_nodes - self.batch_ptr.long().index_select(0, self.batch)

    @lazy
    def edge_slot(self) -> Tensor:
        """Place of each edge in dense matrices with one row a target, G x ``max_nodes`` x ``max_nodes``, int64 (E,)."""
        target, source = self.node_slot.index_select(0, self.target), self.node_slot.index_select(0, self.source)
        return target * self.max_nodes + (source % max(self.max_nodes, 1))

    @lazy
    def node_mask(self) -> Tensor:
        """True for the real nodes of a padded batch, bool (G, max_nodes)."""
        mask = torch.zeros(self.num_graphs * self.max_nodes, dtype=torch.bool, device=self.device)
        return mask.index_fill_(0, self.node_slot, True).unflatten(0, (self.num_graphs, self.max_nodes))

    def to_dense(self, x: Tensor) -> Tensor:
        """Node features (N, ...) as a padded batch (G, max_nodes, ...); padding is 0."""
        dense = x.new_zeros(self.num_graphs * self.max_nodes, *x.shape[1:]).index_copy(0, self.node_slot, x)
        return dense.reshape(self.num_graphs, self.max_nodes, *x.shape[1:])

    def from_dense(self, x: Tensor) -> Tensor:
        """Node features (N, ...) from a padded batch (G, max_nodes, ...)."""
        return x.flatten(0, 1).index_select(0, self.node_slot)

    # -- checks and conversions ------------------------------------------------------------------------------------

    def needs_rebuild(self, pos: Tensor, skin: float) -> Tensor:
        """Whether a node moved more than ``skin / 2`` since the search, 0-d bool (no synchronisation).

        A list built with ``cutoff + skin`` holds all pairs within ``cutoff`` until then, if the cell stays the same.

        Raises:
            ValueError: If the list was not made from positions, or if their shape has changed.
        """
        if self.built_at is None:
            raise ValueError(
                "needs_rebuild needs the positions of the search, and this list was not made from positions."
            )
        if pos.shape != self.built_at.shape:
            raise ValueError(
                f"pos must have the shape of the search, {tuple(self.built_at.shape)}, got {tuple(pos.shape)}. "
                "Did the number of nodes change? Build a new list."
            )
        moved = (pos.detach() - self.built_at).double().square().sum(-1)
        return ~(moved <= (skin / 2) ** 2).all()  # a NaN counts as moved

    def to(self, device: torch.device | str, *, index_dtype: torch.dtype | None = None) -> NeighborList:
        """The same list on another device (with ``index_dtype`` in ``source`` and ``ptr``); self if nothing changes."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        moved: dict[str, Any] = {
            name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()
        }
        if index_dtype is not None:
            moved |= {"source": self.source.to(device, index_dtype), "ptr": self.ptr.to(device, index_dtype)}
        if all(moved[name] is tensor for name, tensor in tensors.items()):
            return self
        return NeighborList(**moved, **{name: getattr(self, name) for name in _STATIC})

    def to_pyg(self) -> Any:
        """The edges as ``torch_geometric.EdgeIndex`` sorted by column, its compressed form filled in."""
        from torch_geometric import EdgeIndex

        make: Any = EdgeIndex
        result = make(self.edge_index, sparse_size=(self.num_nodes, self.num_nodes), sort_order="col")
        result._indptr = self.ptr.long()
        return result

    def validate(self) -> NeighborList:
        """Check ranges, order and dtypes, wait for the device, and return the list.

        Raises:
            ValueError: If something is wrong, or if a list of fixed size overflowed (names the size needed).
        """
        order.check_list(self)
        return self

    def __repr__(self) -> str:
        parts = [f"num_nodes={self.num_nodes}", f"num_edges={self.num_edges}", f"num_graphs={self.num_graphs}"]
        parts += [f"kind={self.kind!r}", f"symmetric={self.symmetric}", f"device={str(self.device)!r}"]
        return f"{type(self).__name__}({', '.join(parts)})"


def as_neighbor_list(graph: NeighborList | Tensor, num_nodes: int | None = None) -> NeighborList:
    """A `NeighborList` as it is, or an ``edge_index`` (2, E) sorted into one: the door of every public operation."""
    if isinstance(graph, NeighborList):
        return graph
    return NeighborList.from_edge_index(graph, num_nodes)


def _flatten(graph: NeighborList) -> tuple[list[Tensor], tuple]:
    named = [(name, getattr(graph, name)) for name in _TENSORS]
    names = tuple(name for name, tensor in named if tensor is not None)
    static = tuple(getattr(graph, name) for name in _STATIC)
    return [tensor for _, tensor in named if tensor is not None], (names, static)


def _unflatten(children: Any, context: tuple) -> NeighborList:
    names, static = context
    return NeighborList(**dict(zip(names, children)), **dict(zip(_STATIC, static)))


pytree.register_pytree_node(
    NeighborList, _flatten, _unflatten, serialized_type_name="scidiff.kernels.graph.NeighborList"
)
