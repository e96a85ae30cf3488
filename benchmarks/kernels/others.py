"""Peers that few machines have: their rows appear where they can be imported."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import Tensor

__all__ = ["absent", "radius_searches", "tensor_products"]

PACKAGES = {
    "torch_cluster": "torch_cluster",
    "pyg_lib": "pyg_lib",
    "cuEquivariance": "cuequivariance_torch",
    "OpenEquivariance": "openequivariance",
}


def absent() -> list[str]:
    """Names of the peers that cannot be imported here."""
    return [name for name, module in PACKAGES.items() if find_spec(module) is None]


def radius_searches(pos: Tensor, cutoff: float, batch: Tensor, most: int) -> dict[str, Callable[[], Tensor]]:
    """Searches that give (source, target) of all pairs within the cutoff, ``most`` neighbours at most."""
    found: dict[str, Callable[[], Tensor]] = {}
    if "torch_cluster" not in absent():
        import torch_cluster  # pyright: ignore[reportMissingImports]

        found["torch_cluster"] = lambda: torch_cluster.radius_graph(pos, cutoff, batch, max_num_neighbors=most)
    if "pyg_lib" not in absent():
        from torch_geometric.nn import radius_graph

        found["pyg_lib"] = lambda: radius_graph(pos, cutoff, batch, max_num_neighbors=most)
    return found


def tensor_products(
    irreps: str, harmonics: str, paths: list[tuple], source: Tensor, target: Tensor, num_nodes: int
) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Products of nodes and harmonics with weights for each edge, summed at the targets; results in the order of e3nn.

    Both are asked for e3nn's conventions; should theirs differ, the result is wrong and gets no time.
    """
    found: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {}
    if "OpenEquivariance" not in absent() and source.is_cuda:
        import openequivariance as oeq  # pyright: ignore[reportMissingImports]

        ends = oeq.Irreps(irreps), oeq.Irreps(harmonics), oeq.Irreps(irreps)
        problem = oeq.TPProblem(*ends, paths, shared_weights=False, internal_weights=False)
        convolution: Any = oeq.TensorProductConv(problem, deterministic=False)
        found["OpenEquivariance"] = lambda x, y, w: convolution.forward(x, y, w, target, source)
    if "cuEquivariance" not in absent():
        import cuequivariance as cue  # pyright: ignore[reportMissingImports]
        import cuequivariance_torch as cuet  # pyright: ignore[reportMissingImports]
        from torch_geometric.utils import scatter

        wanted = list(cue.Irreps("O3", irreps))
        product: Any = cuet.ChannelWiseTensorProduct(
            *(cue.Irreps("O3", text) for text in (irreps, harmonics)),
            [part.ir for part in wanted],
            layout=cue.mul_ir,
            shared_weights=False,
            internal_weights=False,
            device=source.device,
        )
        found["cuEquivariance"] = lambda x, y, w: scatter(product(x[source], y, w), target, dim=0, dim_size=num_nodes)
    return found
