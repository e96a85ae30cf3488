"""One call signature for all equivariant networks: flat or padded graphs in, scalars and vectors of the nodes out.

A network is written once, for flat nodes and a `NeighborList` (`GraphBatch`); `EquivariantNetwork` turns edge lists,
complete graphs and padded batches into that form and the result back, so the same parameters serve all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from scidiff.configurable import Configurable
from scidiff.nn.batching import GraphBatch, Layout, flatten_dense, flatten_sparse

__all__ = ["EquivariantNetwork", "NodeOutput"]


class NodeOutput(NamedTuple):
    """What a network says about each node (and, for networks with edge features, about each edge).

    Attributes:
        h: Invariant scalars (N, out_channels), or (B, N, out_channels).
        v: Vectors (N, out_vectors, D), or (B, N, out_vectors, D): they rotate with the input and ignore translations.
        edge_attr: Invariant edge features in the order of the given edges (E, c), or (B, N, N, c); None if the network
            has none.
    """

    h: Tensor
    v: Tensor
    edge_attr: Tensor | None = None


class EquivariantNetwork(Configurable, nn.Module, ABC):
    r"""Base class of the networks: common arguments and the two input forms.

    Called as ``net(h, pos, t, edge_index=..., edge_attr=..., v=..., batch=..., node_mask=...,
    cell=...)``, see `forward`. A
    subclass writes `message_passing`, for flat nodes, and sets ``symmetry`` and ``dims``.

    Attributes:
        symmetry: ``"E(3)"``, ``"SE(3)"`` (mirror images are told apart), or one of them and ``" approximate"``; outputs
            ignore translations in any case.
        dims: Numbers of spatial dimensions D that the network takes; None for any.
        no_cell: Why the network has no meaning in a periodic cell; empty if it has.

    Args:
        in_channels: Scalar input channels of a node.
        hidden: Channels of the hidden layers.
        num_layers: Number of message-passing layers.
        edge_channels: Channels of ``edge_attr``; 0 for none.
        time_channels: Features of the time ``t``: 0 for none (``t`` is then ignored and may be None), 1 for t itself,
            an even number for sines and cosines, see `time_features`.
        vector_channels: Input vectors of a node (velocities, fields, earlier predictions).
        out_channels: Scalar output channels; ``hidden`` if None.
        out_vectors: Output vectors of a node.
        cutoff: Nodes further apart than this (unit of ``pos``) do not interact; None for the complete graph.

    Raises:
        ValueError: If a number is out of its range.
    """

    symmetry: str = "E(3)"
    dims: ClassVar[tuple[int, ...] | None] = (3,)
    no_cell: ClassVar[str] = ""

    def __init__(
        self,
        in_channels: int,
        *,
        hidden: int = 64,
        num_layers: int = 4,
        edge_channels: int = 0,
        time_channels: int = 0,
        vector_channels: int = 0,
        out_channels: int | None = None,
        out_vectors: int = 1,
        cutoff: float | None = None,
    ) -> None:
        super().__init__()
        out_channels = hidden if out_channels is None else out_channels
        _check_at_least(1, in_channels=in_channels, hidden=hidden, num_layers=num_layers, out_vectors=out_vectors)
        _check_at_least(0, edge_channels=edge_channels, vector_channels=vector_channels, out_channels=out_channels)
        if time_channels < 0 or (time_channels > 1 and time_channels % 2):
            raise ValueError(f"time_channels must be 0, 1 or even, got {time_channels}.")
        if cutoff is not None and not cutoff > 0:
            raise ValueError(f"cutoff must be positive, or None for the complete graph, got {cutoff}.")
        self.in_channels = in_channels
        self.hidden = hidden
        self.num_layers = num_layers
        self.edge_channels = edge_channels
        self.time_channels = time_channels
        self.vector_channels = vector_channels
        self.out_channels = out_channels
        self.out_vectors = out_vectors
        self.cutoff = cutoff

    def forward(
        self,
        h: Tensor,
        pos: Tensor,
        t: Tensor | None = None,
        *,
        edge_index: Tensor | None = None,
        edge_attr: Tensor | None = None,
        v: Tensor | None = None,
        batch: Tensor | None = None,
        node_mask: Tensor | None = None,
        cell: Tensor | None = None,
    ) -> NodeOutput:
        """Apply the network to flat graphs (``pos`` of shape (N, D)) or to a padded batch ((B, N, D)).

        Without ``edge_index`` the edges are all pairs of different nodes of a graph, or those within ``cutoff``. An
        edge (j, i) sends from node j, ``edge_index[0]``, to node i, ``edge_index[1]``.

        Args:
            h: Scalars (N, in_channels), or (B, N, in_channels).
            pos: Positions (N, D), or (B, N, D).
            t: Time of each graph (G,), or (B,); of each node (N,), or (B, N); or of all, 0-d. None if
                ``time_channels`` is 0.
            edge_index: Flat form only: source and target of each edge, (2, E), in any order; or a `NeighborList`.
            edge_attr: Edge features (E, edge_channels) in the order of ``edge_index``; or (B, N, N, edge_channels),
                where entry [b, i, j] belongs to the message from node j to node i.
            v: Vectors (N, vector_channels, D), or (B, N, vector_channels, D).
            batch: Flat form only: graph of each node (N,), sorted; None for one graph, or for those of a list.
            node_mask: Padded form only: True for real nodes, bool (B, N). Padded nodes neither send nor receive, and
                get zeros.
            cell: Lattice vectors in rows (unit of ``pos``), (3, 3) or (G, 3, 3): the graphs are periodic, and pairs
                within ``cutoff`` count with all images. An ``edge_index`` is then the list of
                `scidiff.kernels.radius_graph` with this cell.

        Returns:
            Scalars and vectors of the nodes, in the form of the input.

        Raises:
            ValueError: If a shape does not fit.
        """
        self._check_cell(pos, cell)
        if pos.dim() == 3:
            graphs, layout = self._flatten_dense(h, pos, t, edge_index, edge_attr, v, batch, node_mask, cell)
        else:
            graphs, layout = self._flatten_sparse(h, pos, t, edge_index, edge_attr, v, batch, node_mask, cell)
        return self._restore(self.message_passing(graphs), layout)

    @abstractmethod
    def message_passing(self, graphs: GraphBatch) -> NodeOutput:
        """The network on flat nodes.

        Args:
            graphs: Nodes, edges and features, checked; ``graphs.inputs`` holds the ``input_channels`` scalars of a
                node, time features included, ``graphs.v`` and ``graphs.edge_attr`` may have no channels.

        Returns:
            Scalars (N, out_channels), vectors (N, out_vectors, D), and perhaps edge features (E, c) in the order of
            ``graphs.g``.
        """
        raise NotImplementedError

    @property
    def input_channels(self) -> int:
        """Scalars of a node that `message_passing` gets: ``in_channels + time_channels``."""
        return self.in_channels + self.time_channels

    def _flatten_dense(
        self, h, pos, t, edge_index, edge_attr, v, batch, node_mask, cell=None
    ) -> tuple[GraphBatch, Layout]:
        if edge_index is not None or batch is not None:
            raise ValueError(
                "a padded batch (pos of shape (B, N, D)) takes node_mask (B, N) and edge_attr (B, N, N, c), no "
                "edge_index and no batch. Flatten the nodes to pass an edge list."
            )
        self._check(h, pos, edge_attr, v)
        return flatten_dense(h, pos, t, edge_attr, v, node_mask, cell, self.time_channels, self.cutoff)

    def _flatten_sparse(
        self, h, pos, t, edge_index, edge_attr, v, batch, node_mask, cell=None
    ) -> tuple[GraphBatch, Layout]:
        if pos.dim() != 2:
            raise ValueError(f"pos must have shape (N, D) or (B, N, D), got {tuple(pos.shape)}.")
        if node_mask is not None:
            raise ValueError("node_mask belongs to padded batches, pos of shape (B, N, D); leave out absent nodes.")
        if edge_attr is not None and edge_index is None:
            raise ValueError("edge_attr of shape (E, c) needs the edge_index (2, E) whose order it has.")
        self._check(h, pos, edge_attr, v)
        return flatten_sparse(h, pos, t, edge_index, edge_attr, v, batch, cell, self.time_channels, self.cutoff)

    def _check(self, h: Tensor, pos: Tensor, edge_attr: Tensor | None, v: Tensor | None) -> None:
        nodes, dims = tuple(pos.shape[:-1]), pos.shape[-1]
        if self.dims is not None and dims not in self.dims:
            allowed = " or ".join(map(str, self.dims))
            raise ValueError(f"{type(self).__name__} works in {allowed} dimensions, got pos of {tuple(pos.shape)}.")
        _check_shape("h", h, (*nodes, self.in_channels), "in_channels")
        _check_shape("v", v, (*nodes, self.vector_channels, dims), "vector_channels")
        if pos.dim() == 3:
            _check_shape("edge_attr", edge_attr, (*nodes, nodes[1], self.edge_channels), "edge_channels")
        else:
            num_edges = len(edge_attr) if edge_attr is not None else 0
            _check_shape("edge_attr", edge_attr, (num_edges, self.edge_channels), "edge_channels")

    def _check_cell(self, pos: Tensor, cell: Tensor | None) -> None:
        if cell is None:
            return
        if self.no_cell:
            raise ValueError(f"{type(self).__name__} takes no periodic cell: {self.no_cell}.")
        if pos.shape[-1] != 3:
            raise ValueError(f"a periodic cell needs positions in 3 dimensions, got pos of shape {tuple(pos.shape)}.")

    def _restore(self, out: NodeOutput, layout: Layout) -> NodeOutput:
        edges = None if out.edge_attr is None else layout.edges(out.edge_attr)
        return NodeOutput(layout.nodes(out.h), layout.nodes(out.v), edges)


def _check_at_least(least: int, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


def _check_shape(name: str, value: Tensor | None, shape: tuple[int, ...], argument: str) -> None:
    """Absent features are those with no channels."""
    channels = shape[-2] if name == "v" else shape[-1]
    if value is None and channels:
        raise ValueError(f"the network was built with {argument}={channels}, so {name} of shape {shape} is needed.")
    if value is not None and tuple(value.shape) != shape:
        raise ValueError(
            f"{name} must have shape {shape}, got {tuple(value.shape)}. The network was built with "
            f"{argument}={channels}, and pos says how many nodes there are."
        )
