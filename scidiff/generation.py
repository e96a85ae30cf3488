"""Generation of many samples on one or many devices, chunk by chunk, from a folder where an interrupted run goes on.

Lightning starts the processes and deals out the chunks (`pl.Trainer.predict`); a chunk is written as soon as it is
drawn. Sample i of a run with seed s has the noise of the seed (s, i): it depends neither on the number of devices nor
on interruptions.
"""

from __future__ import annotations

import logging
import math
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from scidiff.chunks import Chunks

__all__ = ["Draw", "generate", "quiet_lightning"]

Draw = Callable[[np.ndarray, Callable[[], None]], Mapping[str, np.ndarray]]
"""``draw(index, advance)`` returns arrays for the samples ``index`` (B,) and calls ``advance()`` after each step."""

_LOGGERS = ("pytorch_lightning", "lightning_fabric")
_REMARKS = (
    ".*does not have many workers.*",
    "Total length of `DataLoader` across ranks is zero.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
)


def generate(
    draw: Draw,
    model: nn.Module,
    order: Sequence[int] | np.ndarray,
    chunks: Chunks,
    *,
    batch_size: int = 500,
    steps: int = 1,
    progress: bool = False,
    note: Callable[[str], None] | None = None,
    **trainer: Any,
) -> bool:
    """Draw the samples that ``chunks`` does not hold yet.

    Args:
        draw: Draws some samples with ``model`` on the device where Lightning has put it.
        model: Network that is moved to the device of each process.
        order: Indices of all samples; neighbours are drawn together, so order them by cost.
        chunks: Where results are kept, on a file system that all nodes share.
        batch_size: Largest number of samples drawn at a time by one process.
        steps: How often ``draw`` calls ``advance``, for the progress bar.
        progress: Show a bar for the first process.
        note: Receives a sentence about what is resumed, replaced or kept.
        trainer: Options of `pl.Trainer`: ``accelerator``, ``devices``, ``num_nodes``, ``strategy``.

    Returns:
        True in the process that goes on with the results, False in the others, which have no more to do.

    Raises:
        ValueError: If ``batch_size`` is not positive.
        FileExistsError: If the folder is not one of `Chunks`.
        KeyboardInterrupt: If the user stops the run; chunks that are finished stay.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    chunks.check()
    plan = _Plan(np.asarray(order, dtype=np.int64), chunks, batch_size, note)
    handler = signal.getsignal(signal.SIGINT)
    with quiet_lightning():
        run = pl.Trainer(
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,  # guidance differentiates
            **trainer,
        )
        try:
            run.predict(_Drawing(model, draw, plan, steps, progress), datamodule=plan, return_predictions=False)
        except BaseException as error:
            if run.is_global_zero:
                _say_what_is_kept(chunks, len(plan.order), note)
            if isinstance(error, SystemExit) and run.interrupted:  # Lightning exits, and ignores further interrupts
                signal.signal(signal.SIGINT, handler)
                raise KeyboardInterrupt from error
            raise
    return run.is_global_zero


class _Plan(pl.LightningDataModule):
    """The chunks that are left, as numbers; Lightning deals them out in turn."""

    def __init__(self, order: np.ndarray, chunks: Chunks, batch_size: int, note: Callable[[str], None] | None) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # one folder for all nodes
        self.order, self.chunks, self.batch_size, self.note = order, chunks, batch_size, note
        self.parts: list[np.ndarray] = []

    def prepare_data(self) -> None:
        """Open the folder, in the first process only."""
        sentence = self.chunks.open()
        if sentence and self.note is not None:
            self.note(sentence)

    def setup(self, stage: str) -> None:
        """Cut what is left into chunks, equally many a process; barriers of Lightning stand before and after."""
        assert self.trainer is not None
        world = self.trainer.world_size
        left = self.order[~np.isin(self.order, self.chunks.done())]
        rounds = math.ceil(len(left) / (self.batch_size * world))
        self.parts = np.array_split(left, rounds * world) if rounds else []

    def predict_dataloader(self) -> DataLoader[int]:
        """Numbers of chunks."""
        own = torch.Generator()  # the loader would draw from the global one
        return DataLoader(range(len(self.parts)), batch_size=None, generator=own)  # type: ignore[arg-type]


class _Drawing(pl.LightningModule):
    """Draws and writes one chunk a step."""

    def __init__(self, model: nn.Module, draw: Draw, plan: _Plan, steps: int, progress: bool) -> None:
        super().__init__()
        self.model = model
        self.draw, self.plan, self.steps, self.progress = draw, plan, steps, progress
        self._bar: Any = None

    def on_predict_start(self) -> None:
        if self.progress and self.trainer.is_global_zero:
            from tqdm.auto import tqdm

            rounds = len(self.plan.parts) // self.trainer.world_size
            self._bar = tqdm(total=rounds * self.steps, desc="sampling", unit="step", delay=0.5)

    def predict_step(self, batch: int, batch_idx: int) -> int:
        """Draw and write the chunk of this number; returns its length, which may be 0."""
        index = self.plan.parts[int(batch)]
        if len(index):
            self.plan.chunks.add(index, self.draw(index, self._advance))
        return len(index)

    def on_predict_end(self) -> None:
        """Wait until every process has written its last chunk."""
        if self._bar is not None:
            self._bar.close()
        self.trainer.strategy.barrier("generation")

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.update()


def _say_what_is_kept(chunks: Chunks, total: int, note: Callable[[str], None] | None) -> None:
    """Tell how a run that failed can go on; a folder without results is removed."""
    kept = len(chunks.done())
    if not kept:
        chunks.remove()
    elif note is not None:
        note(f"{kept} of {total} samples are kept in {str(chunks.folder)!r}; the same command goes on from them.")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's remarks on hardware, workers and the end of a run, as a library must."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _REMARKS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
