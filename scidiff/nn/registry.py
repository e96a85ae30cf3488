"""The networks of `scidiff.nn` by name."""

from __future__ import annotations

import importlib
from typing import Any

from scidiff.assets import suggestion
from scidiff.nn.base import EquivariantNetwork

__all__ = ["NETWORKS", "get_network", "network_class", "network_names"]

NETWORKS = {
    "egnn": "scidiff.nn.egnn.EGNN",
    "eqgat": "scidiff.nn.eqgat.EQGAT",
    "painn": "scidiff.nn.painn.PaiNN",
    "ponita": "scidiff.nn.ponita.PONITA",
    "torchmd_et": "scidiff.nn.torchmd_et.TorchMDET",
    "e3nn": "scidiff.nn.e3nn_conv.E3NNConv",
}
"""Class path by name; a class is imported when it is first asked for."""


def network_names() -> list[str]:
    """Names that `get_network` knows."""
    return sorted(NETWORKS)


def network_class(name: str) -> type[EquivariantNetwork]:
    """The class behind a name.

    Raises:
        ValueError: If the name is unknown; lists the known ones.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}{suggestion(name, network_names())}.")
    module, _, cls = NETWORKS[name].rpartition(".")
    return getattr(importlib.import_module(module), cls)


def get_network(name: str, in_channels: int, **options: Any) -> EquivariantNetwork:
    """Build a network by name.

    Args:
        name: One of `network_names`.
        in_channels: Scalar input channels of a node.
        **options: Further arguments of the class: the common ones of `EquivariantNetwork`, and its own.

    Raises:
        ValueError: If the name or an option is unknown.

    Example:
        >>> net = get_network("egnn", 5, hidden=64, num_layers=4, vector_channels=1)
    """
    cls = network_class(name)
    try:
        return cls(in_channels, **options)
    except TypeError as error:
        raise ValueError(f"network {name!r} does not take these options: {error}.") from error
