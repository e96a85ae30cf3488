"""Equivariant networks by name, with one call signature: see `scidiff.nn.base`.

A network is imported when it is first used, so that its dependencies (e3nn) are only needed by those who use it.
"""

from typing import TYPE_CHECKING

from scidiff.lazy import lazy_exports
from scidiff.nn.base import EquivariantNetwork, NodeOutput
from scidiff.nn.registry import NETWORKS, get_network, network_names

if TYPE_CHECKING:
    from scidiff.nn.e3nn_conv import E3NNConv
    from scidiff.nn.egnn import EGNN
    from scidiff.nn.eqgat import EQGAT
    from scidiff.nn.painn import PaiNN
    from scidiff.nn.ponita import PONITA
    from scidiff.nn.temporal import TemporalAttention
    from scidiff.nn.torchmd_et import TorchMDET

__all__ = [
    "EGNN",
    "EQGAT",
    "PONITA",
    "E3NNConv",
    "EquivariantNetwork",
    "NodeOutput",
    "PaiNN",
    "TemporalAttention",
    "TorchMDET",
    "get_network",
    "network_names",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {path.rpartition(".")[2]: path.rpartition(".")[0] for path in NETWORKS.values()}
    | {"TemporalAttention": "scidiff.nn.temporal"},
)
