"""Lightning data module of time series: benchmark sets by name, files, frames and GluonTS data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from scidiff.configurable import Configurable
from scidiff.loaders import ResumableLoader
from timeseries.data import calendar, datasets
from timeseries.data.scaling import SeriesSpec, measure
from timeseries.data.series import TimeSeries, as_series
from timeseries.data.windows import Cuts, Windows, WindowStore

__all__ = ["TimeSeriesDataModule"]

_MEASURED = 4096  # windows that the fallback statistics are taken from
_STATISTICS_SEED = 20_231
_VALIDATION_WINDOWS = 512


class TimeSeriesDataModule(Configurable, pl.LightningDataModule):
    """Random training windows of time series; a batch is `Windows`.

    The last ``prediction_length`` values of each series are held out for validation, whose windows end with them.
    Windows are drawn afresh in every epoch, the same for the same seed, epoch and batch.

    Args:
        source: Name of a benchmark set (`timeseries.data.datasets.names`), whose frequency, lengths and lags are then
            the defaults; or a file.
        freq: Frequency.
        prediction_length: P.
        context_length: C; default of a file: 4 P.
        lags: Lags in steps; ``"auto"`` takes the published ones of the set or the frequency, none by default.
        scaling: See `timeseries.data.scaling`.
        batch_size: Windows a batch.
        batches_per_epoch: Batches an epoch.
        holdout: Hold the last values of each series out of training.
        min_past: Values that a window needs before its horizon; default: C and the longest lag.
        target: Column of the values in a long file.
        item_id: Column of the names.
        timestamp: Column of the time stamps.
        seed: Seed of the windows.
        num_workers: Worker processes; a batch is one gather, so 0 is usually fastest.

    Raises:
        ValueError: If an option is wrong; at `setup`, if the data does not fit.

    Example:
        >>> data = TimeSeriesDataModule("exchange", context_length=60)
        >>> data.spec.prediction_length
        30
    """

    def __init__(
        self,
        source: str | Path,
        *,
        freq: str | None = None,
        prediction_length: int | None = None,
        context_length: int | None = None,
        lags: Sequence[int] | Literal["auto"] = (),
        scaling: str = "std",
        batch_size: int = 64,
        batches_per_epoch: int = 128,
        holdout: bool = True,
        min_past: int | None = None,
        target: str | None = None,
        item_id: str | None = None,
        timestamp: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or batches_per_epoch < 1:
            raise ValueError(
                f"batch_size and batches_per_epoch must be at least 1, got {batch_size} and {batches_per_epoch}."
            )
        self.source, self.freq = source, freq
        self.prediction_length, self.context_length = prediction_length, context_length
        self.lags, self.scaling = lags, scaling
        self.batch_size, self.batches_per_epoch, self.holdout = batch_size, batches_per_epoch, holdout
        self.min_past, self.seed, self.num_workers = min_past, seed, num_workers
        self.columns = {"target": target, "item_id": item_id, "timestamp": timestamp}
        self._series: list[TimeSeries] | None = None
        self._test: list[TimeSeries] = []
        self._spec: SeriesSpec | None = None
        self._stores: dict[str, WindowStore] = {}

    @classmethod
    def from_series(cls, series: Sequence[TimeSeries], **options: Any) -> TimeSeriesDataModule:
        """Data module of series in memory, which its config can then only name; options as in the constructor."""
        module = cls("in-memory", **options)
        module._series = list(series)
        return module

    def setup(self, stage: str | None = None) -> None:
        """Read the data and measure the fallback statistics."""
        if self._spec is not None:
            return
        if self._series is None:
            self._load()
        assert self._series is not None
        if self.prediction_length is None:
            raise ValueError("pass prediction_length=: how many steps are to be forecast?")
        lengths = [len(s) for s in self._series]
        lags = calendar.default_lags(self._series[0].freq, lengths) if self.lags == "auto" else self.lags
        spec = SeriesSpec(
            self._series[0].freq,
            self.prediction_length,
            self.context_length if self.context_length is not None else 4 * self.prediction_length,
            [int(lag) for lag in lags],
            self.scaling,
            self._series[0].num_variates,
        )
        store = self._store(spec)
        generator = torch.Generator().manual_seed(_STATISTICS_SEED)
        windows = store.take(store.draw(_MEASURED, generator))
        context = slice(0, spec.context_length)
        self._spec = spec.replaced(
            **measure(windows.values[:, context, :, 0], windows.observed[:, context, :, 0], spec)
        )
        self._stores = {"train": self._store(self._spec)}

    @property
    def spec(self) -> SeriesSpec:
        """Lengths, lags, scaling and statistics of the training windows."""
        self.setup()
        assert self._spec is not None
        return self._spec

    @property
    def series(self) -> list[TimeSeries]:
        """The training series, held-out values included."""
        self.setup()
        assert self._series is not None
        return self._series

    def train_dataloader(self) -> DataLoader[Windows]:
        """Random windows."""
        self.setup()
        data = _RandomWindows(self._stores["train"], self.batch_size, self.seed)
        sampler = _EpochSampler(self.batches_per_epoch, self._current_epoch)
        return ResumableLoader(data, batch_size=None, sampler=sampler, num_workers=self.num_workers)  # type: ignore

    def training_windows(self, num_windows: int) -> Windows:
        """Random windows to take statistics from; the same for every seed and call."""
        self.setup()
        store = self._stores["train"]
        return store.take(store.draw(num_windows, torch.Generator().manual_seed(_STATISTICS_SEED)))

    def val_dataloader(self) -> DataLoader[Windows]:
        """The last window of each series, repeated up to about 512 windows so that the loss has little noise."""
        return self._ends(self.series)

    def test_dataloader(self) -> DataLoader[Windows]:
        """The test windows of a benchmark set; of other data the same as `val_dataloader`."""
        return self._ends(self._test or self.series)

    def _ends(self, series: Sequence[TimeSeries]) -> DataLoader[Windows]:
        store = WindowStore(series, self.spec)
        cuts = store.ends(self.spec.prediction_length)
        long_enough = cuts.cut > 0
        chosen = Cuts(cuts.series[long_enough], cuts.cut[long_enough])
        repeats = max(1, _VALIDATION_WINDOWS // max(1, len(chosen.cut)))
        data = _FixedWindows(store, Cuts(chosen.series.repeat(repeats), chosen.cut.repeat(repeats)), self.batch_size)
        return DataLoader(data, batch_size=None, num_workers=self.num_workers)

    def _load(self) -> None:
        if str(self.source) in datasets.names():
            found = datasets.load_benchmark(str(self.source))
            self._series, self._test = found.train, found.test
            self.prediction_length = self.prediction_length or found.prediction_length
            self.context_length = self.context_length or found.context_length
            if self.lags == "auto":
                self.lags = found.lags
        else:
            self._series = as_series(self.source, self.freq, **self.columns)

    def _store(self, spec: SeriesSpec) -> WindowStore:
        assert self._series is not None
        held = spec.prediction_length if self.holdout else 0
        return WindowStore(self._series, spec, holdout=held, min_past=self.min_past)

    def _current_epoch(self) -> int:
        return 0 if self.trainer is None else self.trainer.current_epoch


class _RandomWindows(Dataset[Windows]):
    """Item (epoch, batch) is a batch of random windows."""

    def __init__(self, store: WindowStore, batch_size: int, seed: int) -> None:
        self.store, self.batch_size, self.seed = store, batch_size, seed

    def __getitem__(self, item: tuple[int, int]) -> Windows:
        state = np.random.SeedSequence((self.seed, *item)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> 1))
        return self.store.take(self.store.draw(self.batch_size, generator))


class _FixedWindows(Dataset[Windows]):
    """Item k is the k-th batch of given windows."""

    def __init__(self, store: WindowStore, cuts: Cuts, batch_size: int) -> None:
        self.store, self.cuts, self.batch_size = store, cuts, batch_size

    def __len__(self) -> int:
        return -(-len(self.cuts.cut) // self.batch_size)

    def __getitem__(self, item: int) -> Windows:
        part = slice(item * self.batch_size, (item + 1) * self.batch_size)
        return self.store.take(Cuts(self.cuts.series[part], self.cuts.cut[part]))


class _EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, 0), (epoch, 1), ...: what is drawn follows from the number of the epoch."""

    def __init__(self, num_batches: int, epoch: Callable[[], int]) -> None:
        self.num_batches, self.epoch = num_batches, epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch()
        return iter([(epoch, index) for index in range(self.num_batches)])
