r"""PaiNN: scalars and vectors of the nodes, filters from distances, directions from edges.

    (a, b, c)_ij = phi(h_j) * w(r_ij),  w(r) = f_c(r) (W rbf(r) + bias)
    h_i <- h_i + sum_j a_ij,   v_i <- v_i + sum_j (b_ij v_j + c_ij u_ij),   u_ij = (x_j - x_i) / r_ij
    (a, b, c)_i = phi'([h_i, |V v_i|]),   h_i <- h_i + a + b <U v_i, V v_i>,   v_i <- v_i + c U v_i

Schütt, Unke, Gastegger 2021, "Equivariant message passing for the prediction of tensorial properties and molecular
spectra", eq. 7-10 (there u points the other way round).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from scidiff.kernels import BesselBasis, CosineCutoff, ExpNormBasis, GaussianBasis, NeighborList, painn_message
from scidiff.nn.base import EquivariantNetwork, NodeOutput
from scidiff.nn.batching import GraphBatch

__all__ = ["PaiNN", "PaiNNMessage", "PaiNNUpdate", "lengths", "mix"]

BASES = {"bessel": BesselBasis, "gaussian": GaussianBasis, "expnorm": ExpNormBasis}
_DEFAULT_RADIUS = 10.0
_MIN_SQUARED_LENGTH = 1e-12  # inside the root, which has no gradient at 0
Function = Callable[[Tensor], Tensor]


class PaiNN(EquivariantNetwork):
    """Polarizable atom interaction network; O(E hidden) time for messages, O(N hidden^2) for nodes.

    Input vectors are mixed into the first vector features, output vectors are mixed from the last ones. Edge features
    add to the filters, w(r, e) = f_c(r) (W rbf(r) + W_e e + bias).

    Args:
        in_channels: See `EquivariantNetwork`, like the other common arguments.
        hidden: Scalars and vectors of a node.
        num_layers: Number of layers, each a message and an update.
        edge_channels: Channels of ``edge_attr``.
        time_channels: Features of the time.
        vector_channels: Input vectors.
        out_channels: Scalar output channels.
        out_vectors: Output vectors.
        cutoff: Radius of the neighbourhood, at which the filters end smoothly (cosine).
        num_basis: Radial basis functions.
        basis: ``"bessel"``, ``"gaussian"`` or ``"expnorm"``.
        radius: Range of the basis without a cutoff (unit of ``pos``).

    Raises:
        ValueError: If an argument is out of its range.
    """

    symmetry = "E(3)"
    dims = (3,)

    def __init__(
        self,
        in_channels: int,
        *,
        hidden: int = 64,
        num_layers: int = 3,
        edge_channels: int = 0,
        time_channels: int = 0,
        vector_channels: int = 0,
        out_channels: int | None = None,
        out_vectors: int = 1,
        cutoff: float | None = None,
        num_basis: int = 20,
        basis: Literal["bessel", "gaussian", "expnorm"] = "bessel",
        radius: float = _DEFAULT_RADIUS,
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
        if basis not in BASES:
            raise ValueError(f"basis must be one of {', '.join(map(repr, BASES))}, got {basis!r}.")
        self.basis: Function = BASES[basis](num_basis, radius if cutoff is None else cutoff)
        self.envelope = None if cutoff is None else CosineCutoff(cutoff)
        self.embedding = nn.Linear(self.input_channels, hidden)
        self.lift = nn.Linear(vector_channels, hidden, bias=False) if vector_channels else None
        self.messages = nn.ModuleList(PaiNNMessage(hidden, num_basis + edge_channels) for _ in range(num_layers))
        self.updates = nn.ModuleList(PaiNNUpdate(hidden) for _ in range(num_layers))
        self.readout = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, self.out_channels))
        self.vector_readout = nn.Linear(hidden, out_vectors, bias=False)

    def message_passing(self, graphs: GraphBatch) -> NodeOutput:
        """See `EquivariantNetwork`."""
        h = self.embedding(graphs.inputs)
        v = h.new_zeros(*h.shape, 3) if self.lift is None else mix(self.lift, graphs.v)
        dist, unit = graphs.geometry[1], graphs.unit
        basis = self.basis if not self.edge_channels else _with_features(self.basis, graphs.edge_attr)
        for message, update in zip(self.messages, self.updates):
            dh, dv = message(h, v, dist, unit, graphs.g, basis, self.envelope)
            h, v = h + dh, v + dv
            dh, dv = update(h, v)
            h, v = h + dh, v + dv
        return NodeOutput(self.readout(h), mix(self.vector_readout, v))


class PaiNNMessage(nn.Module):
    """Messages of one layer: steps of scalars and vectors from the neighbours.

    Shapes: h (N, F), v (N, F, 3), dist (E,), unit (E, 3) from target to source, zero for coincident points.
    Symmetry: E(3); O(E F) time and, with a fused body, O(N F) memory.

    Args:
        hidden: Channels F.
        num_basis: Inputs K of the filters.
    """

    def __init__(self, hidden: int, num_basis: int) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 3 * hidden))
        self.filter = nn.Linear(num_basis, 3 * hidden)

    def forward(
        self,
        h: Tensor,
        v: Tensor,
        dist: Tensor,
        unit: Tensor,
        g: NeighborList,
        basis: Function,
        envelope: Function | None,
    ) -> tuple[Tensor, Tensor]:
        """Eq. 7-8: steps (N, F) and (N, F, 3)."""
        return painn_message(self.phi(h), v, dist, unit, self.filter.weight.t(), self.filter.bias, g, basis, envelope)


class PaiNNUpdate(nn.Module):
    """Exchange between the scalars and vectors of a node; O(N F^2).

    Shapes: h (N, F), v (N, F, 3). Symmetry: O(3).

    Args:
        hidden: Channels F.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.vectors = nn.Linear(hidden, 2 * hidden, bias=False)
        self.phi = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, 3 * hidden))

    def forward(self, h: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 9-10: steps (N, F) and (N, F, 3)."""
        u, w = mix(self.vectors, v).chunk(2, dim=1)
        a, b, c = self.phi(torch.cat([h, lengths(w)], -1)).chunk(3, dim=-1)
        return a + b * (u * w).sum(-1), c[..., None] * u


def mix(linear: nn.Linear, v: Tensor) -> Tensor:
    """Channels of vectors (N, c, 3) through a linear map without bias; contiguous in (N, 3, c), as kernels like it."""
    return linear(v.transpose(1, 2)).transpose(1, 2)


def lengths(v: Tensor) -> Tensor:
    """Lengths (...) of vectors (..., D), with gradient 0 for vectors shorter than 1e-6."""
    return v.square().sum(-1).clamp_min(_MIN_SQUARED_LENGTH).sqrt()


def _with_features(basis: Function, edge_attr: Tensor) -> Function:
    """The basis with edge features beside it."""
    return lambda dist: torch.cat([basis(dist), edge_attr], -1)
