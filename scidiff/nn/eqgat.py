"""EQGAT with edge features: attention with one weight a channel, vectors, moving positions, edges that are updated.

Le et al. 2022, "Equivariant Graph Attention Networks for Molecular Property Prediction"; Le et al. 2024, "Navigating
the Design Space of Equivariant Diffusion-Based Generative Models for De Novo 3D Molecule Generation" (EQGAT-diff).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scidiff.kernels import NeighborList, gather
from scidiff.nn.base import EquivariantNetwork, NodeOutput
from scidiff.nn.batching import GraphBatch
from scidiff.nn.eqgat_layer import EQGATLayer
from scidiff.nn.painn import mix

__all__ = ["EQGAT"]


class EQGAT(EquivariantNetwork):
    """Equivariant graph attention with edge features, as in EQGAT-diff; O(E hidden^2) time.

    Positions are centred in each graph, so that their lengths and inner products are legitimate inputs: every node sees
    where the centre is, with a ``cutoff`` too; a periodic cell has no centre, and is refused. Output vectors are
    x^(L) - x^(0) + W v. Edge features come out in the order and form of ``edge_attr``.

    The published code divides by the variance and by the mean square in its normalisation of scalars and vectors; here
    the roots are taken. Angles enter by their cosine, which is smooth for collinear atoms. Lengths are exact, not
    floored at 1e-3. All biases start at 0.

    Left to the caller: a context (molecular properties) enters as further scalars of the nodes, at the input only; the
    prediction x0 = pos + v is not centred again; the pocket variant (positions without normalised steps and lengths) is
    not there.

    Args:
        in_channels: See `EquivariantNetwork`, like the other common arguments.
        hidden: Scalars of a node.
        num_layers: Number of layers.
        edge_channels: Channels of ``edge_attr``.
        time_channels: Features of the time, of nodes and edges.
        vector_channels: Input vectors.
        out_channels: Scalar output channels.
        out_vectors: Output vectors.
        cutoff: Radius of the neighbourhood, at which messages end abruptly.
        vector_hidden: Vectors of a node; a quarter of ``hidden`` if None.
        edge_hidden: Scalars of an edge.
        cross_product: Vectors get v_i x v_j, too: mirror images are then told apart, ``symmetry`` is "SE(3)".
        adaptive_norm: Scale and shift of the normalised scalars come from the time.
        edge_passing: In every second layer an edge j -> i hears of the edges k -> j, for the four nearest neighbours.
        pair_channels: The edge output is this many numbers for each pair, equal for (i, j) and (j, i), made from both
            nodes, both edges and the final distance (bond types); None for the edge features.

    Raises:
        ValueError: If ``adaptive_norm`` is set without ``time_channels``; when called, if ``pair_channels`` is set and
            an edge has no reverse.
    """

    symmetry = "E(3)"
    dims = (3,)
    no_cell = "it measures lengths and inner products from the centre of a graph, and a crystal has none"

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
        vector_hidden: int | None = None,
        edge_hidden: int = 32,
        cross_product: bool = False,
        adaptive_norm: bool = False,
        edge_passing: bool = False,
        pair_channels: int | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            hidden=hidden,
            num_layers=num_layers,
            edge_channels=edge_channels,
            time_channels=time_channels,
            vector_channels=vector_channels,
            out_channels=out_channels,
            out_vectors=out_vectors,
            cutoff=cutoff,
        )
        if adaptive_norm and not time_channels:
            raise ValueError("adaptive_norm takes scale and shift from the time: set time_channels.")
        self.symmetry = "SE(3)" if cross_product else "E(3)"
        self.edge_hidden = edge_hidden
        self.vector_hidden = max(1, hidden // 4) if vector_hidden is None else vector_hidden
        self.embedding = nn.Linear(self.input_channels, hidden)
        self.lift = nn.Linear(vector_channels, self.vector_hidden, bias=False) if vector_channels else None
        edge_inputs = edge_channels + time_channels
        self.edge_embedding = nn.Linear(edge_inputs, edge_hidden) if edge_inputs else None
        self.layers = nn.ModuleList(
            EQGATLayer(
                hidden,
                self.vector_hidden,
                edge_hidden,
                has_vectors=i > 0 or vector_channels > 0,
                cross_product=cross_product,
                latent_channels=time_channels if adaptive_norm else None,
                edge_passing=edge_passing and i % 2 == 1,
                is_last=i == num_layers - 1,
            )
            for i in range(num_layers)
        )
        self.shared = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU())
        self.readout = nn.Linear(hidden, self.out_channels)
        self.vector_readout = nn.Linear(self.vector_hidden, out_vectors, bias=False)
        self.pairs = PairHead(hidden, edge_hidden, pair_channels) if pair_channels is not None else None
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def message_passing(self, graphs: GraphBatch) -> NodeOutput:
        """See `EquivariantNetwork`."""
        h = self.embedding(graphs.inputs)
        v = h.new_zeros(len(h), self.vector_hidden, 3) if self.lift is None else mix(self.lift, graphs.v)
        e = self._edges(graphs)
        centred = graphs.pos - graphs.graph_mean(graphs.pos)
        shift = torch.zeros_like(centred)
        for layer in self.layers:
            h, v, e, step = layer(h, v, e, centred + shift, graphs)
            shift = shift + step
        h = self.shared(h)
        vectors = shift[:, None] + mix(self.vector_readout, v)
        if self.pairs is not None:
            e = self.pairs(h, e, centred + vectors[:, 0], graphs.g)
        return NodeOutput(self.readout(h), vectors, e)

    def _edges(self, graphs: GraphBatch) -> Tensor:
        if self.edge_embedding is None:
            return graphs.pos.new_zeros(graphs.g.num_edges, self.edge_hidden)
        time = gather(graphs.time, graphs.g, "target")
        return self.edge_embedding(torch.cat([graphs.edge_attr, time], -1))


class PairHead(nn.Module):
    """Numbers for each pair of nodes, W' SiLU(W [h_i + h_j + W_e (e_ij + e_ji)/2, |x_i - x_j|^2]); symmetric.

    Args:
        hidden: Scalars of a node.
        edge_hidden: Scalars of an edge.
        out_channels: Numbers of a pair.
    """

    def __init__(self, hidden: int, edge_hidden: int, out_channels: int) -> None:
        super().__init__()
        self.edge = nn.Linear(edge_hidden, hidden)
        self.first = nn.Linear(hidden + 1, hidden)
        self.second = nn.Linear(hidden, out_channels)

    def forward(self, h: Tensor, e: Tensor, pos: Tensor, g: NeighborList) -> Tensor:
        """(E, out_channels) from scalars (N, hidden), edges (E, edge_hidden) and positions (N, 3)."""
        source, target = g.source, g.target
        reverse = g.t_edge  # in a symmetric list, edges by source and then target are the reverse of the canonical ones
        is_symmetric = g.symmetric or (torch.equal(source[reverse], target) and torch.equal(target[reverse], source))
        if not is_symmetric:
            raise ValueError("pair_channels needs the reverse of each edge, but edge_index has edges in one direction.")
        pair = 0.5 * (e + e.index_select(0, reverse))
        nodes = gather(h, g) + gather(h, g, "target")
        d2 = (gather(pos, g) - gather(pos, g, "target")).square().sum(-1, keepdim=True)
        return self.second(nn.functional.silu(self.first(torch.cat([nodes + self.edge(pair), d2], -1))))
