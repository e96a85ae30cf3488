r"""Convolutions with spherical harmonics and tensor products (e3nn), a reference for the other networks.

    m_i = n_i^{-1/2} sum_j TP_{w(r_ij)}(h_j, Y_l(u_ij)),   h_i <- Gate(Linear(m_i) + Linear'(h_i))

with "uvu" paths whose weights come from a radial MLP, and n_i the number of neighbours (at least 1).

A feature of type ``1o`` transforms by the rotation itself, in the order x, y, z, and Y_1(u) = sqrt(3) u, so vectors
(N, c, 3) and blocks ``c x 1o`` are the same numbers in the same order.

Thomas et al. 2018, "Tensor field networks", section 4; Batzner et al. 2022, "E(3)-equivariant graph neural networks for
data-efficient and accurate interatomic potentials" (NequIP), eq. 4-7.
"""

from __future__ import annotations

from typing import Any

import torch
from e3nn import o3
from e3nn.nn import Gate
from torch import Tensor, nn

from scidiff.kernels import BesselBasis, CosineCutoff, tensor_product_scatter
from scidiff.nn.base import EquivariantNetwork, NodeOutput
from scidiff.nn.batching import GraphBatch

__all__ = ["E3NNConv"]

_DEFAULT_RADIUS = 10.0


class E3NNConv(EquivariantNetwork):
    """Tensor-field network with gates; time grows as (lmax + 1)^6 at worst: meant for references and small systems.

    Hidden features are ``hidden`` scalars and, of each degree l = 1, ..., lmax and natural parity (-1)^l, ``hidden``
    tensors. Edge features are further inputs of the radial MLP.

    Args:
        in_channels: See `EquivariantNetwork`, like the other common arguments.
        hidden: Scalars, and tensors of each degree, of a node.
        num_layers: Number of convolutions.
        edge_channels: Channels of ``edge_attr``.
        time_channels: Features of the time.
        vector_channels: Input vectors.
        out_channels: Scalar output channels.
        out_vectors: Output vectors.
        cutoff: Radius of the neighbourhood, at which the weights end smoothly (cosine).
        lmax: Largest degree of features and harmonics, at least 1.
        num_basis: Bessel functions.
        radial_hidden: Hidden channels of the radial MLP.
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
        hidden: int = 32,
        num_layers: int = 3,
        edge_channels: int = 0,
        time_channels: int = 0,
        vector_channels: int = 0,
        out_channels: int | None = None,
        out_vectors: int = 1,
        cutoff: float | None = None,
        lmax: int = 1,
        num_basis: int = 16,
        radial_hidden: int = 32,
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
        if lmax < 1:
            raise ValueError(f"lmax must be at least 1, got {lmax}.")
        self.basis = BesselBasis(num_basis, radius if cutoff is None else cutoff)
        self.envelope = None if cutoff is None else CosineCutoff(cutoff)
        self.degrees = list(range(lmax + 1))
        harmonics = o3.Irreps.spherical_harmonics(lmax)
        inner: Any = o3.Irreps([(hidden, (degree, (-1) ** degree)) for degree in self.degrees])
        start = o3.Irreps(f"{self.input_channels}x0e + {vector_channels}x1o").remove_zero_multiplicities()
        self.embedding: Any = o3.Linear(start, o3.Irreps(f"{hidden}x0e + {hidden if vector_channels else 0}x1o"))
        present: Any = self.embedding.irreps_out.remove_zero_multiplicities()
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            self.layers.append(_Layer(present, harmonics, inner, num_basis + edge_channels, radial_hidden))
            present = inner
        end = o3.Irreps(f"{self.out_channels}x0e + {out_vectors}x1o")
        self.readout = o3.Linear(inner, end, biases=True)

    def message_passing(self, graphs: GraphBatch) -> NodeOutput:
        """See `EquivariantNetwork`."""
        dist, unit = graphs.geometry[1], graphs.unit
        y = o3.spherical_harmonics(self.degrees, unit, normalize=False, normalization="component")
        edges = torch.cat([self.basis(dist), graphs.edge_attr], -1)
        envelope = None if self.envelope is None else self.envelope(dist)[:, None]
        root = graphs.g.degree.clamp_min(1).to(dist.dtype).sqrt()[:, None]
        x = self.embedding(torch.cat([graphs.inputs, graphs.v.flatten(1)], -1))
        for layer in self.layers:
            x = layer(x, y, edges, envelope, root, graphs.g)
        h, v = self.readout(x).split([self.out_channels, 3 * self.out_vectors], -1)
        return NodeOutput(h, v.unflatten(-1, (-1, 3)))


class _Layer(nn.Module):
    """Tensor product with the harmonics, sum over neighbours, mixing, self-connection, gate."""

    def __init__(self, start: Any, harmonics: Any, inner: Any, num_inputs: int, radial_hidden: int) -> None:
        super().__init__()
        paths, between = [], []
        for i, (mul, left) in enumerate(start):
            for j, (_, right) in enumerate(harmonics):
                for out in left * right:
                    if out in inner:
                        paths.append((i, j, len(between), "uvu", True))
                        between.append((mul, out))
        self.product: Any = o3.TensorProduct(
            start, harmonics, o3.Irreps(between), paths, shared_weights=False, internal_weights=False
        )
        self.radial = nn.Sequential(
            nn.Linear(num_inputs, radial_hidden), nn.SiLU(), nn.Linear(radial_hidden, self.product.weight_numel)
        )
        scalars, tensors = inner[:1], inner[1:]
        gates = o3.Irreps([(tensors.num_irreps, (0, 1))])
        self.gate = Gate(scalars, [torch.nn.functional.silu], gates, [torch.sigmoid], tensors)
        self.mix = o3.Linear(o3.Irreps(between), self.gate.irreps_in, biases=True)
        self.own = o3.Linear(start, self.gate.irreps_in)

    def forward(self, x: Tensor, y: Tensor, edges: Tensor, envelope: Tensor | None, root: Tensor, g: object) -> Tensor:
        weights = self.radial(edges) if envelope is None else self.radial(edges) * envelope
        messages = tensor_product_scatter(x, y, weights, g, self.product) / root  # type: ignore[arg-type]
        return self.gate(self.mix(messages) + self.own(x))
