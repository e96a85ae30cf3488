"""Networks of trajectories."""

from trajectories.networks.egtn import EGTN, SpatialLayer
from trajectories.networks.vector_egtn import VectorEGTN

__all__ = ["EGTN", "SpatialLayer", "VectorEGTN"]
