"""Simulated particles as trajectories to learn."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trajectories.data.datamodule import Part, TrajectoryDataModule
from trajectories.data.nbody import FIRST_RUN
from trajectories.data.simulators import DT, FRAME_STEPS, simulate

__all__ = ["NBodyDataModule"]


class NBodyDataModule(TrajectoryDataModule):
    """Runs of simulated particles, 0.1 time units a frame; simulated at set-up, about a millisecond each.

    Args:
        kind: System, see `trajectories.data.simulators.simulate`.
        num_bodies: Particles; None for the default of the system.
        num_train: Training runs.
        num_val: Validation runs.
        num_test: Test runs.
        num_frames: Frames of a run.
        field: Uniform acceleration.
        observation_noise: Standard deviation of the noise of positions.
        batch_size: Most runs in a batch.
        seed: Seed of the runs and of the order of batches.
        num_workers: Worker processes of the loaders.

    Raises:
        ValueError: If a number is out of its range.
    """

    dt, unit = DT * FRAME_STEPS, "arbitrary"

    def __init__(
        self,
        kind: str = "charged",
        num_bodies: int | None = None,
        *,
        num_train: int = 3000,
        num_val: int = 256,
        num_test: int = 2000,
        num_frames: int = 30,
        field: Sequence[float] = (0.0, 0.0, 0.0),
        observation_noise: float = 0.0,
        batch_size: int = 64,
        seed: int = 43,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed, num_workers=num_workers)
        if min(num_train, num_val, num_test, num_frames) < 1:
            raise ValueError(
                "num_train, num_val, num_test and num_frames must be positive, "
                f"got {num_train}, {num_val}, {num_test} and {num_frames}."
            )
        self.kind, self.num_bodies, self.num_frames = kind, num_bodies, num_frames
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        self.field, self.observation_noise = tuple(field), observation_noise

    def load(self, name: Part) -> dict[str, Tensor]:
        """Simulate one part."""
        runs = simulate(
            self.kind,
            self.sizes[name],
            num_frames=self.num_frames,
            num_bodies=self.num_bodies,
            seed=self.seed,
            first_run=FIRST_RUN[name],
            field=self.field,
            observation_noise=self.observation_noise,
        )
        return {"pos": runs.pos, "h": runs.h, "edge_attr": runs.edge_attr}
