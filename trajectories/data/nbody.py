"""Regression on simulated particles: positions a while later from positions, velocities and charges now.

With the default arguments this is the task ``nbody_small``: the charged system, input frame 30, target frame 40 (1.0
time units later), 3,000 / 2,000 / 2,000 runs, mean squared error of a coordinate.

References: Satorras et al. 2021, "E(n) Equivariant Graph Neural Networks", section 5.1; Bekkers et al. 2024, "Fast,
Expressive SE(n) Equivariant Networks through Weight-Sharing in Position-Orientation Space", section 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from scidiff.configurable import Configurable
from scidiff.loaders import ResumableLoader
from trajectories.data.batches import Runs, RunSampler
from trajectories.data.simulators import simulate

__all__ = ["FIRST_RUN", "NBodyRegression", "linear_baselines"]

FIRST_RUN = {"train": 0, "val": 10**6, "test": 2 * 10**6}
"""Number of the first run of each part: the parts stay apart and the same, whatever their sizes."""


class NBodyRegression(Configurable, pl.LightningDataModule):
    """States of simulated particles at one frame, and their positions at a later one.

    A batch is ``{"pos" (B, N, 3), "vel" (B, N, 3), "h" (B, N, 1), "edge_attr" (B, N, N, 1), "target" (B, N, 3)}``. The
    runs are simulated at set-up, which takes about a millisecond each.

    Args:
        kind: System, see `trajectories.data.simulators.simulate`.
        num_bodies: Particles; None for the default of the system.
        num_train: Training runs.
        num_val: Validation runs.
        num_test: Test runs.
        input_frame: Frame of the inputs, counted from 0.
        target_frame: Frame of the targets, later than ``input_frame``.
        batch_size: Most runs in a batch.
        field: Uniform acceleration.
        observation_noise: Standard deviation of the noise of positions, in inputs and targets.
        seed: Seed of the runs and of the order of batches.
        num_workers: Worker processes of the loaders; a batch is one indexing, so 0 is fastest.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        kind: str = "charged",
        num_bodies: int | None = None,
        *,
        num_train: int = 3000,
        num_val: int = 2000,
        num_test: int = 2000,
        input_frame: int = 30,
        target_frame: int = 40,
        batch_size: int = 100,
        field: Sequence[float] = (0.0, 0.0, 0.0),
        observation_noise: float = 0.0,
        seed: int = 43,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if min(num_train, num_val, num_test, batch_size) < 1:
            raise ValueError(
                "num_train, num_val, num_test and batch_size must be positive, "
                f"got {num_train}, {num_val}, {num_test} and {batch_size}."
            )
        if not 0 <= input_frame < target_frame:
            raise ValueError(f"expected 0 <= input_frame < target_frame, got {input_frame} and {target_frame}.")
        self.kind = kind
        self.num_bodies = num_bodies
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        self.input_frame = input_frame
        self.target_frame = target_frame
        self.batch_size = batch_size
        self.field = tuple(field)
        self.observation_noise = observation_noise
        self.seed = seed
        self.num_workers = num_workers
        self._parts: dict[str, dict[str, Tensor]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Simulate the parts that the stage needs."""
        for name in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage or "", FIRST_RUN):
            self.part(name)

    def part(self, name: str) -> dict[str, Tensor]:
        """Tensors of one part (``"train" | "val" | "test"``), simulated at the first call."""
        if name not in self._parts:
            runs = simulate(
                self.kind,
                self.sizes[name],
                num_frames=self.target_frame + 1,
                num_bodies=self.num_bodies,
                seed=self.seed,
                first_run=FIRST_RUN[name],
                field=self.field,
                observation_noise=self.observation_noise,
            )
            self._parts[name] = {
                "pos": runs.pos[:, :, self.input_frame].clone(),
                "vel": runs.vel[:, :, self.input_frame].clone(),
                "h": runs.h,
                "edge_attr": runs.edge_attr,
                "target": runs.pos[:, :, self.target_frame].clone(),
            }
        return self._parts[name]

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Shuffled batches; the order depends on the seed and the epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the validation runs, always the same."""
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the test runs, always the same."""
        return self._loader("test", shuffle=False)

    def _loader(self, name: str, shuffle: bool) -> DataLoader[dict[str, Tensor]]:
        data = Runs(self.part(name))
        sampler = RunSampler(len(data), self.batch_size, shuffle=shuffle, seed=self.seed, epoch=self._current_epoch)
        return ResumableLoader(data, batch_size=None, sampler=sampler, num_workers=self.num_workers)

    def _current_epoch(self) -> int | None:
        """Epoch of the trainer; a sampler that Lightning has wrapped for several processes is told no other way."""
        return None if self.trainer is None else self.trainer.current_epoch


def linear_baselines(
    train: Mapping[str, Tensor], test: Mapping[str, Tensor], duration: float = 1.0
) -> dict[str, float]:
    """Mean squared errors of a coordinate without a network.

    ``"stay"`` predicts x, ``"constant_velocity"`` x + v ``duration``, ``"least_squares"`` x + a (x - mean x) + b v with
    the two numbers a, b fitted on the training part (all that an equivariant linear model of one particle and the
    centre of the system can say), and ``"fitted_velocity"`` the same with a = 0.

    Args:
        train: Tensors of the training part, see `NBodyRegression.part`.
        test: Tensors of the part that is judged.
        duration: Time between input and target.
    """
    features, wanted = _features(train), (train["target"] - train["pos"]).double()
    columns = features.flatten(0, -2)
    both = torch.linalg.lstsq(columns, wanted.reshape(-1, 1)).solution[:, 0]
    velocity = torch.linalg.lstsq(columns[:, 1:], wanted.reshape(-1, 1)).solution[:, 0]
    weights = {
        "stay": (0.0, 0.0),
        "constant_velocity": (0.0, duration),
        "fitted_velocity": (0.0, float(velocity)),
        "least_squares": (float(both[0]), float(both[1])),
    }
    residual, shown = (test["target"] - test["pos"]).double(), _features(test)
    return {name: float((residual - shown @ shown.new_tensor(w)).square().mean()) for name, w in weights.items()}


def _features(part: Mapping[str, Tensor]) -> Tensor:
    """Position about the centre of the system and velocity, (B, N, 3, 2)."""
    pos, vel = part["pos"].double(), part["vel"].double()
    return torch.stack([pos - pos.mean(1, keepdim=True), vel], -1)
