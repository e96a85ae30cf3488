"""Forecasts, imputations and windows in bulk: cut into chunks for several devices and for interrupted runs.

A chunk holds whole series (or windows), all samples of a series together. Series k has the noise of its own number, so
results depend neither on chunks nor on devices.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from scidiff.chunks import Chunks
from scidiff.generation import Draw, generate
from timeseries.data import calendar
from timeseries.data.series import TimeSeries
from timeseries.forecast import Forecast, Imputation
from timeseries.generator import DiffusionForecaster
from timeseries.tasks import SamplingOptions
from timeseries.walks import num_blocks, num_passes

__all__ = ["forecast_in_chunks", "impute_in_chunks", "synthesize_in_chunks"]

_SAMPLING = tuple(field.name for field in fields(SamplingOptions))


def forecast_in_chunks(
    forecaster: DiffusionForecaster,
    series: Sequence[TimeSeries],
    num_samples: int,
    folder: str | os.PathLike[str],
    *,
    origin: str,
    sampling: dict[str, Any],
    trainer: dict[str, Any],
) -> tuple[Forecast, Chunks] | None:
    """``forecaster.forecast(series, num_samples, **sampling)``, chunk by chunk, on the devices that Lightning is told.

    Args:
        forecaster: Trained forecaster.
        series: Series.
        num_samples: S.
        folder: Working folder, see `scidiff.chunks.Chunks`; an interrupted run goes on from it.
        origin: What tells the forecaster from others, for example the `fingerprint` of its checkpoint.
        sampling: Options of `DiffusionForecaster.forecast`, as JSON can hold them.
        trainer: Further options of `scidiff.generation.generate`: ``devices``, ``note``, ``progress`` ...

    Returns:
        The forecast, and the chunks to be removed when it is in its final file; None in the processes that have no more
        to do.
    """
    draw = _Forecast(forecaster, series, num_samples, sampling)
    chunks = _chunks(folder, "forecast", origin, series, num_samples, sampling)
    if not _run(draw, forecaster, len(series), num_samples, chunks, sampling, trainer):
        return None
    samples: dict[int, np.ndarray] = {}
    nfe = 0
    for index, arrays in chunks:
        nfe = int(arrays["nfe"])
        samples |= dict(zip(index.tolist(), arrays["samples"]))
    lead = sampling.get("lead_time", 0)
    starts = [calendar.shift(s.start, len(s) + lead) for s in series]
    paths = np.stack([samples[k] for k in range(len(series))])
    return Forecast(paths, starts, [s.item_id for s in series], series[0].names, nfe), chunks


def impute_in_chunks(
    forecaster: DiffusionForecaster,
    series: Sequence[TimeSeries],
    num_samples: int,
    folder: str | os.PathLike[str],
    *,
    origin: str,
    sampling: dict[str, Any],
    trainer: dict[str, Any],
) -> tuple[Imputation, Chunks] | None:
    """``forecaster.impute(series, num_samples, **sampling)``, chunk by chunk; arguments as `forecast_in_chunks`."""
    draw = _Impute(forecaster, series, num_samples, sampling)
    assert forecaster.spec is not None
    passes = max(num_passes(s.table, forecaster.spec) for s in series)
    chunks = _chunks(folder, "imputation", origin, series, num_samples, sampling)
    if not _run(draw, forecaster, len(series), num_samples, chunks, sampling, trainer, passes):
        return None
    samples: dict[int, np.ndarray] = {}
    for index, arrays in chunks:
        samples |= {k: arrays[f"samples_{k}"] for k in index.tolist()}
    return Imputation(list(series), [samples[k] for k in range(len(series))]), chunks


def synthesize_in_chunks(
    forecaster: DiffusionForecaster,
    n: int,
    folder: str | os.PathLike[str],
    *,
    origin: str,
    sampling: dict[str, Any],
    trainer: dict[str, Any],
) -> tuple[np.ndarray, Chunks] | None:
    """``forecaster.synthesize(n, **sampling)``, chunk by chunk; arguments as `forecast_in_chunks`."""
    draw = _Synthesize(forecaster, sampling)
    chunks = _chunks(folder, "windows", origin, (), n, sampling)
    if not _run(draw, forecaster, n, 1, chunks, sampling, trainer):
        return None
    windows: dict[int, np.ndarray] = {}
    for index, arrays in chunks:
        windows |= dict(zip(index.tolist(), arrays["windows"]))
    return np.stack([windows[k] for k in range(n)]), chunks


class _Forecast:
    """Forecasts of some series as arrays; picklable, as some strategies need."""

    def __init__(
        self, forecaster: DiffusionForecaster, series: Sequence[TimeSeries], num_samples: int, sampling: dict[str, Any]
    ) -> None:
        self.forecaster, self.series, self.num_samples, self.sampling = forecaster, series, num_samples, sampling

    def __call__(self, index: np.ndarray, advance: Callable[[], None]) -> dict[str, np.ndarray]:
        part = [self.series[int(k)] for k in index]
        numbers = index.tolist()
        result = self.forecaster.forecast(part, self.num_samples, numbers=numbers, progress=advance, **self.sampling)
        return {"samples": result.samples, "nfe": np.array(result.nfe)}


class _Impute(_Forecast):
    def __call__(self, index: np.ndarray, advance: Callable[[], None]) -> dict[str, np.ndarray]:
        part = [self.series[int(k)] for k in index]
        numbers = index.tolist()
        result = self.forecaster.impute(part, self.num_samples, numbers=numbers, progress=advance, **self.sampling)
        return {f"samples_{k}": samples for k, samples in zip(numbers, result.samples)}


class _Synthesize:
    def __init__(self, forecaster: DiffusionForecaster, sampling: dict[str, Any]) -> None:
        self.forecaster, self.sampling = forecaster, sampling

    def __call__(self, index: np.ndarray, advance: Callable[[], None]) -> dict[str, np.ndarray]:
        options = {**self.sampling, "numbers": index.tolist(), "progress": advance}
        return {"windows": self.forecaster.synthesize(len(index), **options)}


def _run(
    draw: Draw,
    forecaster: DiffusionForecaster,
    count: int,
    num_samples: int,
    chunks: Chunks,
    sampling: dict[str, Any],
    trainer: dict[str, Any],
    passes: int | None = None,
) -> bool:
    """Generate, as many series a chunk as are computed together, each in so many passes of the solver."""
    changes = {key: value for key, value in sampling.items() if key in _SAMPLING}
    chosen = forecaster.sampling_options(sampling.get("profile", "default"), **changes)
    assert forecaster.denoiser is not None
    assert forecaster.spec is not None
    length = sampling.get("prediction_length") or forecaster.spec.prediction_length
    passes = passes if passes is not None else num_blocks(forecaster.spec, length + sampling.get("lead_time", 0))
    size = max(1, chosen.rows // num_samples)
    steps = chosen.steps * passes
    return generate(draw, forecaster.denoiser, np.arange(count), chunks, batch_size=size, steps=steps, **trainer)


def _chunks(
    folder: str | os.PathLike[str],
    kind: str,
    origin: str,
    series: Sequence[TimeSeries],
    count: int,
    sampling: dict[str, Any],
) -> Chunks:
    """The working folder of a request; other data or options make another request."""
    digest = hashlib.sha256()
    for s in series:
        digest.update(f"{s.item_id} {s.start} {s.table.shape}".encode())
        digest.update(np.ascontiguousarray(s.table).tobytes())
    return Chunks(folder, {"samples": kind, "origin": origin, "data": digest.hexdigest(), "n": count, **sampling})
