r"""TorchMD-ET: attention with distance filters, on scalars and vectors.

    a_ij = silu(sum_head q_i k_j silu(W_k e_ij)),   (s, b, c)_ij = f_c(r_ij) val_j * silu(W_v e_ij)
    y_i = sum_j a_ij s_ij,   w_i = sum_j (b_ij v_j + c_ij u_ij),   u_ij = (x_j - x_i) / r_ij
    (o_1, o_2, o_3) = W_o y,   (v_1, v_2, v_3) = V v,   h <- h + <v_1, v_2> o_2 + o_3,   v <- v + v_3 o_1 + w

with e_ij = f_c(r) exp(-beta_n (exp(-alpha r) - mu_n)^2), and q, k, val linear in LayerNorm(h).

Thölke and De Fabritiis 2022, "TorchMD-NET: Equivariant Transformers for Neural Network based Molecular Potentials",
eq. 1-10.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from scidiff.kernels import CosineCutoff, ExpNormBasis, NeighborList, gather, gather_multiply_sum
from scidiff.nn.base import EquivariantNetwork, NodeOutput
from scidiff.nn.batching import GraphBatch
from scidiff.nn.painn import mix

__all__ = ["TorchMDET"]

_DEFAULT_RADIUS = 10.0
_LOWEST_EXPONENT = -60.0  # below, exp is returned as exactly 0: subnormal numbers are slow


class TorchMDET(EquivariantNetwork):
    """Equivariant transformer; O(E hidden num_basis) time, O(E hidden) memory.

    Every node attends to itself as well (with u = 0), so ``edge_index`` need not contain loops. Edge features stand
    beside the radial basis; a loop has zeros.

    Args:
        in_channels: See `EquivariantNetwork`, like the other common arguments.
        hidden: Scalars and vectors of a node; a multiple of ``num_heads``.
        num_layers: Number of layers.
        edge_channels: Channels of ``edge_attr``.
        time_channels: Features of the time.
        vector_channels: Input vectors.
        out_channels: Scalar output channels.
        out_vectors: Output vectors.
        cutoff: Radius of the neighbourhood.
        num_heads: Attention heads.
        num_basis: Radial basis functions, whose centres and widths are learnt.
        vector_cutoff: The envelope f_c multiplies the values, so that all messages end smoothly at the cutoff. In the
            published network (False) it multiplies the attention only, and b and c jump there.
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
        num_layers: int = 4,
        edge_channels: int = 0,
        time_channels: int = 0,
        vector_channels: int = 0,
        out_channels: int | None = None,
        out_vectors: int = 1,
        cutoff: float | None = None,
        num_heads: int = 8,
        num_basis: int = 50,
        vector_cutoff: bool = True,
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
        if num_heads < 1 or hidden % num_heads:
            raise ValueError(f"hidden must be a multiple of num_heads, got {hidden} and {num_heads}.")
        self.basis = _TrainableExpNorm(num_basis, radius if cutoff is None else cutoff)
        self.envelope = None if cutoff is None else CosineCutoff(cutoff)
        self.embedding = nn.Linear(self.input_channels, hidden)
        self.lift = nn.Linear(vector_channels, hidden, bias=False) if vector_channels else None
        self.layers = nn.ModuleList(
            _Layer(hidden, num_basis + edge_channels, num_heads, vector_cutoff) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.readout = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, self.out_channels))
        self.vector_readout = nn.Linear(hidden, out_vectors, bias=False)

    def message_passing(self, graphs: GraphBatch) -> NodeOutput:
        """See `EquivariantNetwork`."""
        h = self.embedding(graphs.inputs)
        v = h.new_zeros(*h.shape, 3) if self.lift is None else mix(self.lift, graphs.v)
        dist, unit = graphs.geometry[1], graphs.unit
        envelope = None if self.envelope is None else self.envelope(dist)[:, None]
        radial = self.basis(dist) if envelope is None else envelope * self.basis(dist)
        edges = torch.cat([radial, graphs.edge_attr], -1)
        loop = torch.cat([self.basis(dist.new_zeros(1)), dist.new_zeros(1, self.edge_channels)], -1)
        for layer in self.layers:
            dh, dv = layer(h, v, unit, edges, envelope, loop, graphs.g)
            h, v = h + dh, v + dv
        return NodeOutput(self.readout(self.norm(h)), mix(self.vector_readout, v))


class _Layer(nn.Module):
    """Attention and update of one layer: steps (N, F) and (N, F, 3)."""

    def __init__(self, hidden: int, num_basis: int, num_heads: int, vector_cutoff: bool) -> None:
        super().__init__()
        self.num_heads, self.vector_cutoff = num_heads, vector_cutoff
        self.norm = nn.LayerNorm(hidden)
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, 3 * hidden)
        self.key_filter = nn.Linear(num_basis, hidden)
        self.value_filter = nn.Linear(num_basis, 3 * hidden)
        self.vectors = nn.Linear(hidden, 3 * hidden, bias=False)
        self.output = nn.Linear(hidden, 3 * hidden)
        for linear in (self.query, self.key, self.value, self.key_filter, self.value_filter, self.output, self.vectors):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(
        self, h: Tensor, v: Tensor, unit: Tensor, edges: Tensor, envelope: Tensor | None, loop: Tensor, g: NeighborList
    ) -> tuple[Tensor, Tensor]:
        x = self.norm(h)
        q, k, value = self.query(x), self.key(x), self.value(x)
        scalar, b, c = self._filters(gather(q, g, "target") * gather(k, g), edges, envelope)
        own, own_b, _ = self._filters(q * k, loop, None)
        at_scalar, at_b, at_c = value.chunk(3, -1)
        y = at_scalar * own + gather_multiply_sum(at_scalar, scalar, g)
        flat = (at_b[:, None] * v.transpose(1, 2)).flatten(1)  # (N, 3 F)
        w = gather_multiply_sum(flat, b.repeat(1, 3), g)
        w = w + gather_multiply_sum(at_c.repeat(1, 3), (c[:, None] * unit[..., None]).flatten(1), g)
        w = (at_b * own_b)[..., None] * v + w.unflatten(1, (3, -1)).transpose(1, 2)
        o_1, o_2, o_3 = self.output(y).chunk(3, -1)
        v_1, v_2, v_3 = mix(self.vectors, v).chunk(3, 1)
        return (v_1 * v_2).sum(-1) * o_2 + o_3, v_3 * o_1[..., None] + w

    def _filters(self, product: Tensor, edges: Tensor, envelope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Factors of the values in scalars (times attention), in b and in c, (E, F) each; ``product`` is q_i k_j."""
        logits = (product * silu(self.key_filter(edges))).unflatten(-1, (self.num_heads, -1)).sum(-1, keepdim=True)
        attention, factors = silu(logits), silu(self.value_filter(edges))
        if envelope is not None and self.vector_cutoff:
            factors = factors * envelope
        elif envelope is not None:
            attention = attention * envelope[..., None]
        scalar, b, c = factors.expand(len(product), -1).chunk(3, -1)
        return (scalar.unflatten(-1, (self.num_heads, -1)) * attention).flatten(-2), b, c


class _TrainableExpNorm(nn.Module):
    """exp(-beta_n (exp(-alpha d) - mu_n)^2) with learnt beta and mu, (E,) -> (E, K)."""

    def __init__(self, num_basis: int, cutoff: float) -> None:
        super().__init__()
        start = ExpNormBasis(num_basis, cutoff)
        self.alpha = start.alpha
        self.centres = nn.Parameter(torch.linspace(start.first_centre, 1.0, num_basis))
        self.widths = nn.Parameter(torch.full((num_basis,), start.beta))

    def forward(self, dist: Tensor) -> Tensor:
        exponent = -self.widths * (torch.exp(-self.alpha * dist)[:, None] - self.centres).square()
        is_low = exponent < _LOWEST_EXPONENT
        return torch.where(is_low, 0.0, torch.where(is_low, 0.0, exponent).exp())
