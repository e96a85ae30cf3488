"""3D molecules: data, networks, generators and honest metrics.

The public names are imported on first use, so that ``--help`` and file preparation stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molecules.data import QM9, MoleculeDataModule, MoleculeDataset, MoleculeSpec
    from molecules.diffusion import MoleculeDiffusion
    from molecules.generator import MoleculeGenerator
    from molecules.molecule_list import MoleculeList

__all__ = [
    "QM9",
    "MoleculeDataModule",
    "MoleculeDataset",
    "MoleculeDiffusion",
    "MoleculeGenerator",
    "MoleculeList",
    "MoleculeSpec",
]

_HOMES = {
    "QM9": "molecules.data",
    "MoleculeDataModule": "molecules.data",
    "MoleculeDataset": "molecules.data",
    "MoleculeDiffusion": "molecules.diffusion",
    "MoleculeGenerator": "molecules.generator",
    "MoleculeList": "molecules.molecule_list",
    "MoleculeSpec": "molecules.data",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
