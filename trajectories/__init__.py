"""Trajectories of particles, atoms and people."""

from typing import TYPE_CHECKING

from scidiff.lazy import lazy_exports

if TYPE_CHECKING:
    from trajectories.batch import TrajectoryBatch
    from trajectories.data.eth_ucy import ETHUCYDataModule
    from trajectories.data.folder import TrajectoryFolder
    from trajectories.data.md import MDTrajectoryDataModule
    from trajectories.data.mmff import MMFFMDDataModule
    from trajectories.data.nbody import NBodyRegression
    from trajectories.data.particles import NBodyDataModule
    from trajectories.diffusion import TrajectoryDiffusion
    from trajectories.generator import TrajectoryGenerator
    from trajectories.networks.egtn import EGTN
    from trajectories.regression import PositionRegression

__all__ = [
    "EGTN",
    "ETHUCYDataModule",
    "MDTrajectoryDataModule",
    "MMFFMDDataModule",
    "NBodyDataModule",
    "NBodyRegression",
    "PositionRegression",
    "TrajectoryBatch",
    "TrajectoryDiffusion",
    "TrajectoryFolder",
    "TrajectoryGenerator",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ETHUCYDataModule": "trajectories.data.eth_ucy",
        "MDTrajectoryDataModule": "trajectories.data.md",
        "MMFFMDDataModule": "trajectories.data.mmff",
        "NBodyDataModule": "trajectories.data.particles",
        "NBodyRegression": "trajectories.data.nbody",
        "PositionRegression": "trajectories.regression",
        "EGTN": "trajectories.networks.egtn",
        "TrajectoryBatch": "trajectories.batch",
        "TrajectoryDiffusion": "trajectories.diffusion",
        "TrajectoryFolder": "trajectories.data.folder",
        "TrajectoryGenerator": "trajectories.generator",
    },
)
