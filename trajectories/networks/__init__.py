"""Networks of trajectories."""

from trajectories.networks.egtn import EGTN, SpatialLayer

__all__ = ["EGTN", "SpatialLayer"]
