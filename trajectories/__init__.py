"""Trajectories of particles, atoms and people."""

from typing import TYPE_CHECKING

from scidiff.lazy import lazy_exports

if TYPE_CHECKING:
    from trajectories.data.nbody import NBodyRegression
    from trajectories.regression import PositionRegression

__all__ = ["NBodyRegression", "PositionRegression"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"NBodyRegression": "trajectories.data.nbody", "PositionRegression": "trajectories.regression"},
)
