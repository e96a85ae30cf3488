"""Flat nodes from edge lists and padded batches, and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.kernels import NeighborList, edge_geometry, full_graph, gather, radius_graph, segment_mean
from scidiff.kernels.lazy import lazy

__all__ = ["GraphBatch", "Layout", "flatten_dense", "flatten_sparse", "time_features"]

_TIME_SCALE = 1000.0  # t in [0, 1] counts as a thousand steps
_LONGEST_PERIOD = 10_000.0


@dataclass(frozen=True)
class GraphBatch:
    """Graphs as flat nodes, what a network computes on; N nodes, E edges.

    Attributes:
        h: Scalars of the user (N, in_channels).
        pos: Positions (N, D).
        v: Vectors (N, vector_channels, D); no channels if there are none.
        edge_attr: Edge features (E, edge_channels) in the order of ``g``; no channels if there are none.
        time: Time features (N, time_channels).
        g: The edges.
        cell: Lattice vectors in rows (3, 3) or (G, 3, 3), where the edges have periodic images; else None.
    """

    h: Tensor
    pos: Tensor
    v: Tensor
    edge_attr: Tensor
    time: Tensor
    g: NeighborList
    cell: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """Scalars and time features of each node, (N, in_channels + time_channels)."""
        return torch.cat([self.h, self.time], -1)

    @lazy
    def geometry(self) -> tuple[Tensor, Tensor]:
        """Edge vectors pos[source] - pos[target] (E, D) and their lengths (E,), 0 and without gradient where equal."""
        return self.geometry_at(self.pos)

    @lazy
    def unit(self) -> Tensor:
        """Edge vectors of length 1, (E, D); 0 for coincident points."""
        vec, dist = self.geometry
        return vec / torch.where(dist > 0, dist, 1.0)[:, None]

    def geometry_at(self, pos: Tensor) -> tuple[Tensor, Tensor]:
        """`geometry` where the nodes have moved to ``pos`` (N, D), in its dtype; periodic images stay as they are."""
        vec, dist = edge_geometry(pos, self.g, self.cell)
        return vec.to(pos.dtype), dist.to(pos.dtype)

    def graph_mean(self, x: Tensor) -> Tensor:
        """Mean over the nodes of each graph, given back to its nodes: (N, ...)."""
        graphs = self._graphs_of_nodes
        return gather(segment_mean(x, graphs, num_nodes=self.g.num_graphs), graphs, "target")

    @lazy
    def _graphs_of_nodes(self) -> NeighborList | Tensor:
        """Each node as an edge that ends in its graph."""
        batch = self.g.batch
        if self.g.scattered_batch is not None:
            return torch.stack([batch, batch])
        ptr = torch.tensor([0, len(batch)], device=batch.device) if self.g.batch_ptr is None else self.g.batch_ptr
        return NeighborList(batch, ptr.to(batch), self.g.num_graphs)


@dataclass(frozen=True)
class Layout:
    """How flat results return to the form of the input.

    Args:
        g: The edges of the flat form.
        shape: (B, N) of a padded batch; None for flat input.
        slots: Place of each flat node among the B N padded ones; None if all are real.
    """

    g: NeighborList
    shape: tuple[int, int] | None = None
    slots: Tensor | None = None

    def nodes(self, x: Tensor) -> Tensor:
        """Node features (N, ...) in the form of the input; padding is 0."""
        if self.shape is None:
            return x
        if self.slots is not None:
            x = x.new_zeros(math.prod(self.shape), *x.shape[1:]).index_copy(0, self.slots, x)
        return x.reshape(*self.shape, *x.shape[1:])

    def edges(self, x: Tensor) -> Tensor:
        """Edge features (E, ...) in the order of the user's edges, or as (B, N, N, ...), 0 where there is no edge."""
        if self.shape is None:
            return self.g.to_user(x)
        b, n = self.shape
        dense = x.new_zeros(b * n * n, *x.shape[1:]).index_copy(0, self.edge_slots, x)
        return dense.reshape(b, n, n, *x.shape[1:])

    @lazy
    def edge_slots(self) -> Tensor:
        """Place of each edge among the B N N entries [b, i, j], message from j to i."""
        assert self.shape is not None
        source, target = self.g.source.long(), self.g.target.long()
        if self.slots is not None:
            source, target = self.slots.index_select(0, source), self.slots.index_select(0, target)
        return target * self.shape[1] + source % max(self.shape[1], 1)


def time_features(t: Tensor, channels: int) -> Tensor:
    r"""Features (..., channels) of times t (...): none, t itself, or sin and cos of 1000 t omega_k.

    omega_k = 10000^{-k / (K - 1)} for k = 0, ..., K - 1 with K = channels / 2, the positional features of Ho et al.
    2020 (DDPM) for a thousand steps.
    """
    if channels < 2:
        return t[..., None].expand(*t.shape, channels)
    half = channels // 2
    steps = torch.arange(half, device=t.device, dtype=t.dtype) / max(half - 1, 1)
    angles = _TIME_SCALE * t[..., None] * torch.exp(-math.log(_LONGEST_PERIOD) * steps)
    return torch.cat([angles.sin(), angles.cos()], -1)


def flatten_dense(
    h: Tensor,
    pos: Tensor,
    t: Tensor | None,
    edge_attr: Tensor | None,
    v: Tensor | None,
    node_mask: Tensor | None,
    cell: Tensor | None,
    time_channels: int,
    cutoff: float | None,
) -> tuple[GraphBatch, Layout]:
    """Flat nodes of a padded batch; shapes as in ``EquivariantNetwork.forward``.

    Raises:
        ValueError: If the shape of ``t`` or ``node_mask`` does not fit.
    """
    b, n, dims = pos.shape
    if node_mask is not None and (node_mask.shape != (b, n) or node_mask.dtype != torch.bool):
        raise ValueError(f"node_mask must be bool {(b, n)}, got {node_mask.dtype} {tuple(node_mask.shape)}.")
    slots = None if node_mask is None else node_mask.flatten().nonzero().squeeze(1)

    def flat(x: Tensor) -> Tensor:
        x = x.flatten(0, 1)
        return x if slots is None else x.index_select(0, slots)

    sizes = torch.full((b,), n, device=pos.device) if node_mask is None else node_mask.sum(1)
    batch_ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    nodes = flat(pos)
    layout = Layout(_edges(nodes, batch_ptr, cutoff, cell), (b, n), slots)
    time = nodes.new_zeros(len(nodes), 0)
    if time_channels:
        time = time_features(flat(_time_of_padded(t, b, n).to(pos.dtype)), time_channels)
    vectors = nodes.new_zeros(len(nodes), 0, dims) if v is None else flat(v)
    edges = nodes.new_zeros(layout.g.num_edges, 0)
    if edge_attr is not None:
        edges = edge_attr.flatten(0, 2).index_select(0, layout.edge_slots)
    return GraphBatch(flat(h), nodes, vectors, edges, time, layout.g, cell), layout


def flatten_sparse(
    h: Tensor,
    pos: Tensor,
    t: Tensor | None,
    edge_index: Tensor | NeighborList | None,
    edge_attr: Tensor | None,
    v: Tensor | None,
    batch: Tensor | None,
    cell: Tensor | None,
    time_channels: int,
    cutoff: float | None,
) -> tuple[GraphBatch, Layout]:
    """Flat nodes and their sorted edges; shapes as in ``EquivariantNetwork.forward``.

    Raises:
        ValueError: If ``batch`` is not sorted, if it is not that of a list, or if the shape of ``batch``, ``t`` or
            ``edge_attr`` does not fit.
    """
    num_nodes, dims = pos.shape
    if isinstance(edge_index, NeighborList):
        g, batch = edge_index, _batch_of_list(edge_index, batch, num_nodes)
        _check_images(g.shifts, cell)
    else:
        batch_ptr = _pointers(batch, num_nodes, pos.device)
        if edge_index is None:
            g = _edges(pos, batch_ptr, cutoff, cell)
        else:
            _check_images(None, cell)
            g = NeighborList.from_edge_index(edge_index, num_nodes, batch_ptr=batch_ptr)
    time = pos.new_zeros(num_nodes, 0)
    if time_channels:
        time = time_features(_time_of_nodes(t, batch, g.num_graphs, num_nodes).to(pos.dtype), time_channels)
    vectors = pos.new_zeros(num_nodes, 0, dims) if v is None else v
    edges = pos.new_zeros(g.num_edges, 0)
    if edge_attr is not None:
        if len(edge_attr) != g.num_edges:
            raise ValueError(f"edge_attr has {len(edge_attr)} rows, but edge_index has {g.num_edges} edges.")
        edges = g.to_canonical(edge_attr)
    return GraphBatch(h, pos, vectors, edges, time, g, cell), Layout(g)


def _edges(pos: Tensor, batch_ptr: Tensor, cutoff: float | None, cell: Tensor | None) -> NeighborList:
    if cutoff is None and cell is not None:
        raise ValueError("a periodic cell needs a network with a cutoff: the complete graph has no end there.")
    if cutoff is None:
        return full_graph(batch_ptr)
    points = torch.nn.functional.pad(pos.detach(), (0, max(0, 3 - pos.shape[1])))  # neighbours are searched in space
    return radius_graph(points, cutoff, batch_ptr=batch_ptr, cell=cell)


def _check_images(shifts: Tensor | None, cell: Tensor | None) -> None:
    """Images and cell come together."""
    if shifts is not None and cell is None:
        raise ValueError("edge_index is a periodic list: give its cell, lattice vectors in rows, (3, 3) or (G, 3, 3).")
    if shifts is None and cell is not None:
        raise ValueError(
            "edges in a periodic cell need images: pass the list of scidiff.kernels.radius_graph(pos, cutoff, "
            "cell=cell) as edge_index, or leave edge_index out."
        )


def _pointers(batch: Tensor | None, num_nodes: int, device: torch.device) -> Tensor:
    """First node of each graph, and N."""
    if batch is None:
        return torch.tensor([0, num_nodes], device=device)
    if batch.shape != (num_nodes,):
        raise ValueError(f"batch must have shape {(num_nodes,)}, one graph index a node, got {tuple(batch.shape)}.")
    if bool((batch.diff() < 0).any()):
        raise ValueError("batch must be sorted: the nodes of a graph stand together, in the order of the graphs.")
    return torch.cat([batch.new_zeros(1), torch.bincount(batch).cumsum(0)])


def _batch_of_list(g: NeighborList, batch: Tensor | None, num_nodes: int) -> Tensor:
    """Graph of each node, which the list knows; ``batch`` may only say the same."""
    if g.num_nodes != num_nodes:
        raise ValueError(f"edge_index is a list of {g.num_nodes} nodes, but pos has {num_nodes}.")
    if batch is not None and not torch.equal(g.batch, batch.to(g.batch)):
        raise ValueError(
            f"batch must be that of edge_index, but the list says otherwise: it has {g.num_graphs} graphs. "
            "Make the list with batch or batch_ptr, or leave batch out."
        )
    return g.batch


def _time_of_nodes(t: Tensor | None, batch: Tensor | None, num_graphs: int, num_nodes: int) -> Tensor:
    if t is not None and t.dim() == 0:
        return t.expand(num_nodes)
    if t is not None and t.shape == (num_graphs,):
        return t.expand(num_nodes) if batch is None else t.index_select(0, batch)
    if t is not None and t.shape == (num_nodes,):
        return t
    given = "None" if t is None else str(tuple(t.shape))
    raise ValueError(f"t must have shape {(num_graphs,)} (graphs), {(num_nodes,)} (nodes) or (), got {given}.")


def _time_of_padded(t: Tensor | None, b: int, n: int) -> Tensor:
    if t is not None and t.shape in ((), (b,), (b, n)):
        return (t[:, None] if t.dim() == 1 else t).expand(b, n)
    given = "None" if t is None else str(tuple(t.shape))
    raise ValueError(f"t must have shape {(b,)} (graphs), {(b, n)} (nodes) or (), got {given}.")
