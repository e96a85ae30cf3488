"""Molecules as data: datasets, their preparation, and Lightning data modules.

The names are imported on first use: the processes that prepare a file need no Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molecules.data.batches import DenseMolecules
    from molecules.data.cleaning import CleaningReport, CleaningRules, clean
    from molecules.data.datamodule import QM9, MoleculeDataModule, packaged_qm9
    from molecules.data.dataset import MoleculeDataset
    from molecules.data.prepare import edm_split, prepare_file, prepare_qm9, random_split
    from molecules.data.spec import MoleculeSpec

__all__ = [
    "QM9",
    "CleaningReport",
    "CleaningRules",
    "DenseMolecules",
    "MoleculeDataModule",
    "MoleculeDataset",
    "MoleculeSpec",
    "clean",
    "edm_split",
    "packaged_qm9",
    "prepare_file",
    "prepare_qm9",
    "random_split",
]

_MODULES = {
    "batches": ("DenseMolecules",),
    "cleaning": ("CleaningReport", "CleaningRules", "clean"),
    "datamodule": ("QM9", "MoleculeDataModule", "packaged_qm9"),
    "dataset": ("MoleculeDataset",),
    "prepare": ("edm_split", "prepare_file", "prepare_qm9", "random_split"),
    "spec": ("MoleculeSpec",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
