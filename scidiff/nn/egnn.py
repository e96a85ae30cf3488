r"""EGNN: messages from distances, positions moved along the edges.

    m_ij = phi_e(h_i, h_j, |d_ij|^2, e_ij),  d_ij = x_i - x_j
    x_i <- x_i + mean_j d_ij phi_x(m_ij) + sum_k phi_v(h_i)_k v_ik,   h_i <- h_i + phi_h(h_i, sum_j m_ij)

Satorras, Hoogeboom, Welling 2021, "E(n) Equivariant Graph Neural Networks", eq. 3-7; the variant of Hoogeboom et al.
2022, "Equivariant Diffusion for Molecule Generation in 3D" (EDM), appendix B, is `EGNN.edm`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from scidiff.kernels import EdgeMessages, NeighborList, edge_geometry, edge_mlp, segment_mean, segment_sum
from scidiff.nn.base import EquivariantNetwork, NodeOutput
from scidiff.nn.batching import GraphBatch

__all__ = ["EGNN", "EGNNLayer", "EdgeNetwork"]

Aggregation = Literal["sum", "mean"]
_COORDINATE_GAIN = 0.001  # the last weights of phi_x start small, so that positions hardly move at first


class EGNN(EquivariantNetwork):
    """E(n)-equivariant graph network in any number of dimensions; O(E hidden^2) time.

    The output vector is the displacement of the positions, x^(L) - x^(0). A ``cutoff`` ends messages abruptly, as in
    the paper: phi_e sees the distance, but no envelope takes it to zero.

    Args:
        in_channels: See `EquivariantNetwork`, like the other common arguments.
        hidden: Channels of nodes and messages.
        num_layers: Number of layers.
        edge_channels: Channels of ``edge_attr``.
        time_channels: Features of the time.
        vector_channels: Input vectors, each of which moves its node in every layer by its own gate phi_v.
        out_channels: Scalar output channels.
        out_vectors: Must be 1: the displacement.
        cutoff: Radius of the neighbourhood.
        attention: Multiply messages by sigmoid(w . m + b).
        norm_diff: Divide d_ij by |d_ij| + ``norm_constant`` in the update of the positions. Bounded steps: large graphs
            need it.
        norm_constant: See ``norm_diff``; above 0, so that coincident nodes have a direction (0).
        tanh: Take ``coords_range`` tanh(phi_x) in place of phi_x (the published code declares a range and leaves it
            out).
        coords_range: See ``tanh``.
        clip: Largest length of d_ij phi_x, longer ones are shortened; None for none. The published code limits each
            component to 100, which is not equivariant.
        aggregation: Of messages.
        coords_aggregation: Of the updates of positions.
        normalization: Sums (not means) are divided by this.
        separate_coords: phi_x is a network of its own on (h_i, h_j, |d|^2, e), after the update of h, in place of one
            on the messages.
        initial_distance: The squared distance at the input is a further edge feature in every layer.

    Raises:
        ValueError: If an argument is out of its range.
    """

    symmetry = "E(3)"
    dims = None

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
        attention: bool = False,
        norm_diff: bool = False,
        norm_constant: float = 1.0,
        tanh: bool = False,
        coords_range: float = 3.0,
        clip: float | None = None,
        aggregation: Aggregation = "sum",
        coords_aggregation: Aggregation = "mean",
        normalization: float = 1.0,
        separate_coords: bool = False,
        initial_distance: bool = False,
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
        if out_vectors != 1:
            raise ValueError(
                f"EGNN has one output vector, the displacement of the node, got out_vectors={out_vectors}."
            )
        self.initial_distance = initial_distance
        self.embedding = nn.Linear(self.input_channels, hidden)
        self.layers = nn.ModuleList(
            EGNNLayer(
                hidden,
                edge_channels + initial_distance,
                vector_channels,
                attention=attention,
                norm_constant=norm_constant if norm_diff else None,
                coords_range=coords_range if tanh else None,
                clip=clip,
                aggregation=aggregation,
                coords_aggregation=coords_aggregation,
                normalization=normalization,
                separate_coords=separate_coords,
            )
            for _ in range(num_layers)
        )
        self.readout = nn.Linear(hidden, self.out_channels)

    @classmethod
    def edm(cls, in_channels: int, *, hidden: int = 256, num_layers: int = 9, **options: Any) -> EGNN:
        """The network of EDM on QM9: attention, bounded gates, sums, and a separate network for the positions.

        The time is one input feature, as it is. On drug-like molecules EDM has 4 layers.
        """
        published = {
            "time_channels": 1,
            "attention": True,
            "norm_diff": True,
            "tanh": True,
            "coords_range": 15.0,
            "coords_aggregation": "sum",
            "separate_coords": True,
            "initial_distance": True,
        }
        return cls(in_channels, hidden=hidden, num_layers=num_layers, **{**published, **options})

    def message_passing(self, graphs: GraphBatch) -> NodeOutput:
        """See `EquivariantNetwork`."""
        h, edge_attr = self.embedding(graphs.inputs), graphs.edge_attr
        if self.initial_distance:
            edge_attr = torch.cat([edge_attr, graphs.geometry[0].square().sum(-1, keepdim=True)], -1)
        shift = torch.zeros_like(graphs.pos)
        for layer in self.layers:
            h, step = layer(h, graphs.pos + shift, graphs.g, v=graphs.v, edge_attr=edge_attr, cell=graphs.cell)
            shift = shift + step
        return NodeOutput(self.readout(h), shift[:, None])


class EGNNLayer(nn.Module):
    """One layer; O(E F^2) time for F = ``hidden``.

    Symmetry: new scalars and the step of the positions are E(n) invariant and equivariant.

    Args:
        hidden: Channels F.
        edge_channels: Channels of the edge features.
        vector_channels: Vectors a node.
        attention: See `EGNN`, like the rest.
        norm_constant: Constant of normalised differences; None to leave them as they are.
        coords_range: Bound of the gates of the positions; None for none.
        clip: Longest step along an edge; None for none.
        aggregation: Of messages.
        coords_aggregation: Of steps.
        normalization: Divisor of sums.
        separate_coords: Whether the gates of the positions have their own edge network.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        hidden: int,
        edge_channels: int = 0,
        vector_channels: int = 0,
        *,
        attention: bool = False,
        norm_constant: float | None = None,
        coords_range: float | None = None,
        clip: float | None = None,
        aggregation: Aggregation = "sum",
        coords_aggregation: Aggregation = "mean",
        normalization: float = 1.0,
        separate_coords: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("aggregation", aggregation), ("coords_aggregation", coords_aggregation)):
            if value not in ("sum", "mean"):
                raise ValueError(f"{name} must be 'sum' or 'mean', got {value!r}.")
        positive = {
            "norm_constant": norm_constant,
            "normalization": normalization,
            "coords_range": coords_range,
            "clip": clip,
        }
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        self.norm_constant, self.coords_range, self.clip = norm_constant, coords_range, clip
        self.normalization = normalization
        self.norm = normalization if aggregation == "sum" else "mean"
        self.coords_norm = normalization if coords_aggregation == "sum" else "mean"
        self.message = EdgeNetwork(hidden, edge_channels, attention)
        self.node = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.gate = EdgeNetwork(hidden, edge_channels) if separate_coords else nn.Linear(hidden, hidden)
        self.gate_out = nn.Linear(hidden, 1, bias=False)
        nn.init.xavier_uniform_(self.gate_out.weight, gain=_COORDINATE_GAIN)
        self.vector_gate = (
            nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, vector_channels))
            if vector_channels
            else None
        )

    def forward(
        self,
        h: Tensor,
        pos: Tensor,
        g: NeighborList,
        *,
        v: Tensor | None = None,
        edge_attr: Tensor | None = None,
        cell: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """New scalars (N, F) and the step of the positions (N, D).

        Args:
            h: Scalars (N, F).
            pos: Positions (N, D).
            g: Edges.
            v: Vectors (N, vector_channels, D).
            edge_attr: Edge features (E, edge_channels) in the order of ``g``.
            cell: Lattice vectors of periodic edges, (3, 3) or (G, 3, 3).
        """
        vec, dist = (x.to(pos.dtype) for x in edge_geometry(pos, g, cell))
        d2 = vec.square().sum(-1)
        if self.norm_constant is not None:
            vec = vec / (dist + self.norm_constant)[:, None]
        if isinstance(self.gate, EdgeNetwork):
            new = self._updated(h, self.message(h, g, d2, edge_attr, norm=self.norm).h)
            step = self._step(self.gate, (self.gate_out.weight[0],), new, g, d2, edge_attr, vec).dx
        else:
            head = (self.gate.weight.t(), self.gate.bias, self.gate_out.weight[0])
            moved = self._step(self.message, head, h, g, d2, edge_attr, vec)
            new, step = self._updated(h, moved.h), moved.dx
        assert step is not None
        step = -step  # vec points to the neighbour, x_i - x_j away from it
        if self.vector_gate is not None and v is not None:
            step = step + (self.vector_gate(h)[..., None] * v).sum(1)
        return new, step

    def _updated(self, h: Tensor, messages: Tensor) -> Tensor:
        return h + self.node(torch.cat([h, messages], -1))

    def _step(
        self,
        network: EdgeNetwork,
        head: tuple[Tensor, ...],
        h: Tensor,
        g: NeighborList,
        d2: Tensor,
        edge_attr: Tensor | None,
        vec: Tensor,
    ) -> EdgeMessages:
        """Reduced messages, and the reduced vec psi(m)."""
        if self.clip is None:
            coord = head[0] if len(head) == 1 else head
            options = {"vec": vec, "coord": coord, "coord_norm": self.coords_norm, "coord_range": self.coords_range}
            return network(h, g, d2, edge_attr, norm=self.norm, **options)
        out = network(h, g, d2, edge_attr, norm=self.norm, return_messages=True)
        assert out.m is not None
        hidden = out.m if len(head) == 1 else nn.functional.silu(out.m @ head[0] + head[1])
        psi = hidden @ head[-1]
        if self.coords_range is not None:
            psi = self.coords_range * torch.tanh(psi)
        steps = shortened(vec * psi[:, None], self.clip)
        if self.coords_norm == "mean":
            return out._replace(dx=segment_mean(steps, g))
        return out._replace(dx=segment_sum(steps, g) / self.normalization)


class EdgeNetwork(nn.Module):
    """Two-layer network on edges, phi([h_target, h_source, d2, e]), SiLU after both layers, reduced at the targets.

    Args:
        hidden: Channels F of nodes and messages.
        edge_channels: Channels of the edge features.
        attention: Whether messages are multiplied by sigmoid(w . m + b).
    """

    def __init__(self, hidden: int, edge_channels: int = 0, attention: bool = False) -> None:
        super().__init__()
        self.hidden = hidden
        self.first = nn.Linear(2 * hidden + 1 + edge_channels, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.attention = nn.Linear(hidden, 1) if attention else None

    def forward(
        self, h: Tensor, g: NeighborList, d2: Tensor, edge_attr: Tensor | None = None, **options: Any
    ) -> EdgeMessages:
        """`scidiff.kernels.edge_mlp` of nodes (N, F), squared distances (E,) and edge features (E, c)."""
        target, source, radial, edge = self.first.weight.t().split(
            [self.hidden, self.hidden, 1, len(self.first.weight[0]) - 2 * self.hidden - 1]
        )
        has_edges = edge_attr is not None and len(edge) > 0
        return edge_mlp(
            torch.addmm(self.first.bias, h, target),
            h @ source,
            g,
            d2=d2,
            wd=radial[0],
            e=edge_attr if has_edges else None,
            We=edge if has_edges else None,
            W2=self.second.weight.t(),
            b2=self.second.bias,
            gate=None if self.attention is None else (self.attention.weight[0], self.attention.bias[0]),
            **options,
        )


def shortened(x: Tensor, longest: float) -> Tensor:
    """Vectors (..., D), those longer than ``longest`` scaled to that length; differentiable at 0."""
    squared = x.square().sum(-1, keepdim=True)
    is_long = squared > longest**2
    return torch.where(is_long, x * (longest / torch.where(is_long, squared, 1.0).sqrt()), x)
