"""Networks and inputs of the shared tests. A network of the registry joins them by its name alone; `VARIANTS` adds
options to be tested beside the defaults, `TOLERANCE` the error of those that are equivariant only approximately."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.nn import get_network, network_names
from scidiff.nn.base import EquivariantNetwork
from scidiff.nn.batching import GraphBatch

__all__ = ["CASES", "NOT_COMPILED", "SEES_ALL", "TOLERANCE", "Dense", "batch_of", "flat", "network", "sparse"]

COMMON = {"hidden": 16, "num_layers": 2, "edge_channels": 3, "time_channels": 8, "vector_channels": 2}
IN_CHANNELS = 4

VARIANTS: dict[str, tuple[str, dict]] = {
    "ponita-none": ("ponita", {"num_orientations": 0}),
    "torchmd_et-published": ("torchmd_et", {"vector_cutoff": False}),
    "egnn-bounded": ("egnn", {"attention": True, "norm_diff": True, "tanh": True, "clip": 0.01, "aggregation": "mean"}),
    "eqgat-mirror": ("eqgat", {"cross_product": True, "edge_passing": True, "adaptive_norm": True}),
    "eqgat-pairs": ("eqgat", {"pair_channels": 5, "out_vectors": 2}),
    "egnn-edm": ("egnn", {"separate_coords": True, "initial_distance": True, "norm_diff": True, "tanh": True}),
}
CASES: dict[str, tuple[str, dict]] = {**{name: (name, {}) for name in network_names()}, **VARIANTS}
TOLERANCE: dict[str, float] = {"ponita": 0.13}
"""Twice the largest distance, over 60 rotations and reflections, to the same weights on a grid so fine that its error
does not count: for an equivariant g, |f(Rx) - R f(x)| <= |f(Rx) - g(Rx)| + |g(x) - f(x)|."""
SEES_ALL = {"eqgat"}
"""Networks in which a node knows of its whole graph (its centre, its mean features) beside its neighbours."""
NOT_COMPILED: dict[str, str] = {}
"""Networks whose message passing does not compile into one graph, with the reason."""


@dataclass
class Dense:
    """A padded batch and the arguments of a call."""

    h: Tensor
    pos: Tensor
    t: Tensor
    edge_attr: Tensor
    v: Tensor
    node_mask: Tensor | None = None

    def call(self, net: EquivariantNetwork) -> tuple[Tensor, ...]:
        """Scalars, vectors and, if there are any, edge features."""
        out = net(self.h, self.pos, self.t, edge_attr=self.edge_attr, v=self.v, node_mask=self.node_mask)
        return out[:2] if out.edge_attr is None else tuple(out)


def network(case: str, dtype: torch.dtype = torch.float64, **options) -> EquivariantNetwork:
    """A network with weights large enough that all of its parts matter."""
    name, own = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = get_network(name, IN_CHANNELS, **{**COMMON, **own, **options}).eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net.to(dtype)


def batch_of(sizes: list[int], dtype: torch.dtype = torch.float64, dims: int = 3, seed: int = 0) -> Dense:
    """Random graphs of the given sizes, padded to the largest; padded entries hold numbers too."""
    generator = torch.Generator().manual_seed(seed)
    b, n = len(sizes), max(sizes, default=0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    mask = torch.arange(n) < torch.tensor(sizes).reshape(-1, 1)
    t = torch.rand(b, generator=generator, dtype=torch.float64).to(dtype)
    pos = 1.5 * randn(b, n, dims)
    node_mask = None if bool(mask.all()) else mask
    return Dense(randn(b, n, IN_CHANNELS), pos, t, randn(b, n, n, 3), randn(b, n, 2, dims), node_mask)


def flat(net: EquivariantNetwork, x: Dense) -> GraphBatch:
    """What the network computes on."""
    return net._flatten_dense(x.h, x.pos, x.t, None, x.edge_attr, x.v, None, x.node_mask)[0]


def sparse(x: Dense, seed: int = 0) -> tuple[tuple[Tensor, ...], dict]:
    """The same graphs as flat nodes and shuffled edges: arguments, and keyword arguments of a call."""
    b, n = x.pos.shape[:2]
    mask = torch.ones(b, n, dtype=torch.bool) if x.node_mask is None else x.node_mask
    graphs, nodes = mask.nonzero().unbind(1)
    pairs = (graphs[:, None] == graphs) & ~torch.eye(len(graphs), dtype=torch.bool)
    edge_index = pairs.nonzero().T
    edge_index = edge_index[:, torch.randperm(edge_index.shape[1], generator=torch.Generator().manual_seed(seed))]
    source, target = edge_index
    edge_attr = x.edge_attr[graphs[target], nodes[target], nodes[source]]
    options = {"edge_index": edge_index, "edge_attr": edge_attr, "v": x.v[mask], "batch": graphs}
    return (x.h[mask], x.pos[mask], x.t), options
