r"""PONITA: separable convolutions on positions and orientations.

Features f (N, O, C) live on the nodes and on O fixed orientations. Messages from j to i see r = x_j - x_i only through

    a_1 = r . o,   a_2 = |r - a_1 o|   (in the plane the signed r_y o_x - r_x o_y),   a_3 = o . o'

and kernels are linear in a basis of these invariants that all layers share:

    y_io = sum_j (W_s basis(a_1, a_2)) * f_jo,   z_io' = (1 / O) sum_o (W_f basis(a_3)) * y_io + bias

Bekkers et al. 2024, "Fast, Expressive SE(n) Equivariant Networks through Weight-Sharing in Position-Orientation Space",
eq. 5-8 and section 4.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from scidiff.kernels import NeighborList, PolynomialCutoff, gather_multiply_sum, ponita_conv
from scidiff.nn.base import EquivariantNetwork, NodeOutput
from scidiff.nn.batching import GraphBatch
from scidiff.nn.painn import lengths

__all__ = ["PONITA", "orientation_grid"]


def orientation_grid(num_orientations: int, dims: int = 3) -> Tensor:
    """Unit vectors (O, dims), float64: Fibonacci points of the sphere, or equal angles of the circle.

    The points of the sphere are mapped onto themselves by half a turn about the horizontal axis at the angle
    phi_{O-1} / 2, those of the circle by turns of 2 pi / O.

    Args:
        num_orientations: Number O of points.
        dims: 2 or 3.

    Raises:
        ValueError: If ``dims`` is neither 2 nor 3.
    """
    k = torch.arange(num_orientations, dtype=torch.float64)
    if dims == 2:
        angle = 2 * math.pi * k / num_orientations
        return torch.stack([angle.cos(), angle.sin()], -1)
    if dims != 3:
        raise ValueError(f"orientations exist in 2 or 3 dimensions, got dims={dims}.")
    z, angle = 1 - (2 * k + 1) / num_orientations, math.pi * (1 + math.sqrt(5)) * k
    radius = (1 - z.square()).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], -1)


class PONITA(EquivariantNetwork):
    """Convolutions on positions and orientations; O(E O basis_channels hidden) time for messages.

    Invariance to translations is exact. Rotations (and reflections in space) are exact as far as they map the grid of
    orientations onto itself, otherwise approximate: train with random rotations. With weights drawn at random and 2
    layers the largest relative error over 50 rotations is 0.4 % of the scalars and 8 % of the vectors at 16
    orientations; it falls with their number. Without
    orientations (``num_orientations=0``, PNITA) the kernels see distances only and the network is exactly E(3)
    equivariant; output vectors are then sums along edges and gated input vectors (ours: the paper differentiates an
    energy).

    Every node sends to itself as well, so ``edge_index`` need not (and should not) contain loops. Edge features are
    further inputs of the spatial basis. In the first training batch the kernels are scaled so that a convolution
    keeps the standard deviation of its input; a buffer remembers that this is done. A batch in which one of these
    deviations is zero or not finite (all features zero, a single number) scales nothing and leaves it to the next one.

    Args:
        in_channels: See `EquivariantNetwork`, like the other common arguments.
        hidden: Channels C.
        num_layers: Number of blocks.
        edge_channels: Channels of ``edge_attr``.
        time_channels: Features of the time.
        vector_channels: Input vectors, lifted as v . o.
        out_channels: Scalar output channels.
        out_vectors: Output vectors.
        cutoff: Radius of the neighbourhood, at which the spatial basis ends smoothly.
        num_orientations: Number O of orientations; 0 for none.
        basis_channels: Functions of the shared bases; ``hidden`` if None.
        basis_hidden: Hidden channels of the bases; ``hidden`` if None.
        layer_scale: First value of the scale of a block's step; None for no scale.
        widening: Hidden channels of a block as a multiple of C.
        dims: Dimensions of space, 2 or 3.

    Raises:
        ValueError: If an argument is out of its range.
    """

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
        num_orientations: int = 16,
        basis_channels: int | None = None,
        basis_hidden: int | None = None,
        layer_scale: float | None = 1e-6,
        widening: int = 4,
        dims: int = 3,
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
        if num_orientations < 0 or dims not in (2, 3):
            raise ValueError(
                "PONITA needs num_orientations >= 0 and dims 2 or 3 (it does not put every edge on an orientation of "
                f"its own), got {num_orientations} and {dims}."
            )
        functions = hidden if basis_channels is None else basis_channels
        width = hidden if basis_hidden is None else basis_hidden
        self.dims = (dims,)
        self.num_orientations = num_orientations
        self.symmetry = f"{'E' if dims == 3 else 'SE'}({dims}) approximate" if num_orientations else f"E({dims})"
        self.grid: Tensor
        self.is_calibrated: Tensor
        self.register_buffer("grid", orientation_grid(num_orientations, dims).to(torch.get_default_dtype()))
        self.register_buffer("is_calibrated", torch.tensor(False))
        self._knows_calibrated: bool | None = None
        self.spatial_basis = _basis(2 if num_orientations else 1, edge_channels, width, functions)
        self.fiber_basis = _basis(1, 0, width, functions) if num_orientations else None
        self._loop_inputs = _num_polynomials(2 if num_orientations else 1) + edge_channels
        self.envelope = None if cutoff is None else PolynomialCutoff(cutoff)
        self.embedding = nn.Linear(self.input_channels + vector_channels, hidden, bias=False)
        self.blocks = nn.ModuleList(
            _Block(hidden, functions, num_orientations > 0, layer_scale, widening) for _ in range(num_layers)
        )
        channels = self.out_channels + (out_vectors if num_orientations else vector_channels * out_vectors)
        self.readouts = nn.ModuleList(nn.Linear(hidden, channels) for _ in range(num_layers))
        self.edge_readouts = None
        if not num_orientations:
            self.edge_kernels = nn.ModuleList(nn.Linear(functions, hidden, bias=False) for _ in range(num_layers))
            self.edge_readouts = nn.ModuleList(nn.Linear(hidden, out_vectors, bias=False) for _ in range(num_layers))

    def message_passing(self, graphs: GraphBatch) -> NodeOutput:
        """See `EquivariantNetwork`."""
        spatial, loop, fiber = self._bases(graphs)
        f = self._lift(graphs)
        if self.training and not self._calibrated():
            self._calibrate(f, spatial, loop, fiber, graphs.g)
        h, v = 0.0, 0.0
        for layer, (block, readout) in enumerate(zip(self.blocks, self.readouts)):
            f = block(f, spatial, loop, fiber, graphs.g)
            scalars, others = readout(f).tensor_split([self.out_channels], -1)
            h = h + scalars.mean(1) / self.num_layers
            v = v + self._vectors(layer, f, others, spatial, graphs) / self.num_layers
        assert isinstance(h, Tensor)
        assert isinstance(v, Tensor)
        return NodeOutput(h, v)

    def _lift(self, graphs: GraphBatch) -> Tensor:
        """Features (N, O, C) from scalars, the same for all orientations, and components of the vectors along them."""
        scalars = graphs.inputs[:, None].expand(-1, max(self.num_orientations, 1), -1)
        if self.num_orientations:
            vectors = torch.einsum("ncd,od->noc", graphs.v, self.grid)
        else:
            vectors = lengths(graphs.v)[:, None]
        return self.embedding(torch.cat([scalars, vectors], -1))

    def _bases(self, graphs: GraphBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Spatial basis of the edges (E, O, B) and of a loop (B,); basis between orientations (O, O, B)."""
        vec, dist = graphs.geometry
        if self.num_orientations:
            along = vec @ self.grid.T
            if vec.shape[1] == 2:
                across = vec[:, 1:] * self.grid[:, 0] - vec[:, :1] * self.grid[:, 1]
            else:
                across = lengths(vec[:, None] - along[..., None] * self.grid)
            invariants = torch.stack([along, across], -1)
        else:
            invariants = dist[:, None, None]
        edges = graphs.edge_attr[:, None].expand(-1, invariants.shape[1], -1)
        spatial = self.spatial_basis(torch.cat([_polynomials(invariants), edges], -1))
        if self.envelope is not None:
            spatial = spatial * self.envelope(dist)[:, None, None]
        loop = self.spatial_basis(vec.new_zeros(self._loop_inputs))
        if self.fiber_basis is None:
            return spatial, loop, None
        return spatial, loop, self.fiber_basis(_polynomials((self.grid @ self.grid.T)[..., None]))

    def _vectors(self, layer: int, f: Tensor, others: Tensor, spatial: Tensor, graphs: GraphBatch) -> Tensor:
        """Read-out of vectors (N, out_vectors, D)."""
        if self.num_orientations:
            return torch.einsum("nov,od->nvd", others, self.grid) / self.num_orientations
        vec, dist = graphs.geometry
        kernel = self.edge_kernels[layer](spatial[:, 0]) / (1 + dist)[:, None]
        sums = [gather_multiply_sum(f[:, 0], kernel * vec[:, d : d + 1], graphs.g) for d in range(vec.shape[1])]
        assert self.edge_readouts is not None
        along_edges = self.edge_readouts[layer](torch.stack(sums, 1)).transpose(1, 2)
        gates = others[:, 0].unflatten(-1, (self.out_vectors, self.vector_channels))
        return along_edges + gates @ graphs.v

    # Calibration

    def _calibrated(self) -> bool:
        if self._knows_calibrated is None:  # the buffer is read once, as this waits for the device
            self._knows_calibrated = bool(self.is_calibrated)
        return self._knows_calibrated

    @torch.no_grad()
    def _calibrate(self, f: Tensor, spatial: Tensor, loop: Tensor, fiber: Tensor | None, g: NeighborList) -> None:
        """Scale kernels by ratios of standard deviations, which are those of a pass before any scaling."""
        scales = []
        convolutions = []
        for block in self.blocks:
            assert isinstance(block, _Block)
            convolutions.append(block.conv)
            scales.append(block.conv.spreads(f, spatial, loop, fiber, g))
            f = block(f, spatial, loop, fiber, g)
        spreads = torch.stack(scales)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(spreads)  # processes stay equal; the number of processes cancels
        if not bool(((spreads > 0) & spreads.isfinite()).all()):
            return
        for convolution, (before, between, after) in zip(convolutions, spreads):
            convolution.spatial.weight.mul_(before / between)
            if convolution.fiber is not None:
                convolution.fiber.weight.mul_(between / after)
        self.is_calibrated.fill_(True)
        self._knows_calibrated = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._knows_calibrated = None
        super()._load_from_state_dict(*args, **kwargs)


class _Block(nn.Module):
    """f + scale * MLP(LayerNorm(conv(f))), the block of ConvNeXt."""

    def __init__(
        self, channels: int, functions: int, has_fiber: bool, layer_scale: float | None, widening: int
    ) -> None:
        super().__init__()
        self.conv = _Convolution(channels, functions, has_fiber)
        self.norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, widening * channels), nn.GELU(), nn.Linear(widening * channels, channels)
        )
        self.scale = None if layer_scale is None else nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, f: Tensor, spatial: Tensor, loop: Tensor, fiber: Tensor | None, g: NeighborList) -> Tensor:
        """Features (N, O, C) after the block."""
        step = self.mlp(self.norm(self.conv(f, spatial, loop, fiber, g)))
        return f + (step if self.scale is None else self.scale * step)


class _Convolution(nn.Module):
    """The separable convolution, loops included."""

    def __init__(self, channels: int, functions: int, has_fiber: bool) -> None:
        super().__init__()
        self.spatial = nn.Linear(functions, channels, bias=False)
        self.fiber = nn.Linear(functions, channels, bias=False) if has_fiber else None
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, f: Tensor, spatial: Tensor, loop: Tensor, fiber: Tensor | None, g: NeighborList) -> Tensor:
        """Features (N, O, C) from features (N, O, C)."""
        between = f.new_ones(1, 1, f.shape[-1]) if self.fiber is None or fiber is None else self.fiber(fiber)
        return self._convolve(f, spatial, loop, between, g) + self.bias

    def spreads(self, f: Tensor, spatial: Tensor, loop: Tensor, fiber: Tensor | None, g: NeighborList) -> Tensor:
        """Standard deviations (3,) of the input, after the spatial part, and after both."""
        identity = f.shape[1] * torch.eye(f.shape[1], dtype=f.dtype, device=f.device)[..., None]
        between = self._convolve(f, spatial, loop, identity.expand(-1, -1, f.shape[-1]).contiguous(), g)
        return torch.stack([f.std(), between.std(), (self(f, spatial, loop, fiber, g) - self.bias).std()])

    def _convolve(self, f: Tensor, spatial: Tensor, loop: Tensor, between: Tensor, g: NeighborList) -> Tensor:
        own = torch.einsum("noc,opc->npc", f * self.spatial(loop), between) / f.shape[1]
        return own + ponita_conv(f, spatial, self.spatial.weight.t(), between, g)


def _basis(invariants: int, extra: int, width: int, functions: int) -> nn.Sequential:
    """MLP on all products of up to three invariants, and on further inputs."""
    inputs = _num_polynomials(invariants) + extra
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, functions), nn.GELU())


def _num_polynomials(invariants: int) -> int:
    return invariants + invariants**2 + invariants**3


def _polynomials(a: Tensor) -> Tensor:
    """a, a (x) a and a (x) a (x) a beside each other; (..., k) -> (..., k + k^2 + k^3)."""
    square = (a[..., None] * a[..., None, :]).flatten(-2)
    cube = (square[..., None] * a[..., None, :]).flatten(-2)
    return torch.cat([a, square, cube], -1)
