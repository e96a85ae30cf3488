"""Graphs: generation with systems of stochastic differential equations, and honest evaluation.

The public names are imported on first use, so that ``--help`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scidiff.lazy import lazy_exports

if TYPE_CHECKING:
    from graphs.data import GraphDataModule, GraphSet, GraphSpec
    from graphs.diffusion import GDSSDiffusion, GraphDiffusion
    from graphs.generator import GraphGenerator
    from graphs.graph_list import GraphList

_HOMES = {
    "GDSSDiffusion": "graphs.diffusion",
    "GraphDataModule": "graphs.data",
    "GraphDiffusion": "graphs.diffusion",
    "GraphGenerator": "graphs.generator",
    "GraphList": "graphs.graph_list",
    "GraphSet": "graphs.data",
    "GraphSpec": "graphs.data",
}

__all__ = [
    "GDSSDiffusion",
    "GraphDataModule",
    "GraphDiffusion",
    "GraphGenerator",
    "GraphList",
    "GraphSet",
    "GraphSpec",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
