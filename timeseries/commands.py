"""What the verbs of ``scidiff timeseries`` do."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scidiff.checkpoint import resolve
from scidiff.chunks import Chunks, fingerprint, partial_folder
from scidiff.cli.errors import UserError
from scidiff.cli.options import check_distinct, check_outputs, trainer_devices
from scidiff.cli.output import note, pairs, write
from timeseries import inputs, io, plots
from timeseries.baselines import seasonal_naive
from timeseries.bulk import forecast_in_chunks, impute_in_chunks, synthesize_in_chunks
from timeseries.covariates import forecast_with_future
from timeseries.data import calendar
from timeseries.data.demand import demand
from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import TimeSeries
from timeseries.evaluate import judge, real_windows, ridge_forecast, rolling_task
from timeseries.forecast import Forecast
from timeseries.generator import DiffusionForecaster
from timeseries.requests import PICTURES, columns, input_file, load_model, read_data, sampling, trained_spec

__all__ = ["demo", "export", "forecast", "impute", "prepare", "refine", "synthesize"]


def prepare(options: argparse.Namespace) -> int:
    """Write a named set or a checked file as one table."""
    is_file = options.source is None and Path(options.name).is_file()
    stem = Path(options.name).name.split(".")[0]
    out = options.out or Path("data") / f"{stem}.csv"
    check_distinct(out, Path(options.name) if is_file else None)
    io.check_output(out, io.TABLES)
    if options.source is not None:
        series = inputs.read_archive(options.source, options.part, options.freq)
    elif is_file:
        series = inputs.read_series(options.name, options.freq, **columns(options))
    else:
        series = inputs.read_named(options.name, options.part)
    io.write_frame(io.filled_frame(series, wide=options.wide), out)
    write(pairs({**_summary(series), "wrote": str(out)}))
    return 0


def forecast(options: argparse.Namespace) -> int:
    """Sample paths from the end of each series."""
    check_distinct(options.out, options.plot, input_file(options.data), options.future)
    io.check_output(options.out)
    check_outputs(options.plot, suffixes=PICTURES)
    model = load_model(options)
    series = read_data(model, options)
    start = time.perf_counter()
    chunks = None
    if options.future is None:
        asked = {"prediction_length": options.prediction_length, "lead_time": options.lead_time}
        drawn = forecast_in_chunks(model, series, options.num_samples, **_bulk(options, **asked))
        if drawn is None:  # one process of several writes the results
            return 0
        result, chunks = drawn
        cost = {"nfe": result.nfe}
    else:
        known = _future(series, options)
        with _counted(model) as calls:
            result = forecast_with_future(
                model, series, known, options.num_samples, seed=options.seed, **sampling(options)
            )
        cost = {"network evaluations": calls[0]}
    _deliver(result, series, options, cost, start, chunks)
    return 0


def impute(options: argparse.Namespace) -> int:
    """Fill gaps; the output has the layout of the input."""
    check_distinct(options.out, options.bands, options.plot, input_file(options.data))
    io.check_output(options.out, io.TABLES)
    io.check_output(options.bands, io.TABLES)
    check_outputs(options.plot, suffixes=PICTURES)
    model = load_model(options)
    series = read_data(model, options)
    gaps = sum(int(np.isnan(s.values).sum()) for s in series)
    if not gaps:
        raise UserError(f"{options.data!r} has no gap to fill.")
    start = time.perf_counter()
    with _counted(model) as calls:
        drawn = impute_in_chunks(model, series, options.num_samples, **_bulk(options))
    if drawn is None:
        return 0
    result, chunks = drawn
    io.write_frame(io.filled_frame(result.filled, wide=_is_wide(options)), options.out)
    if options.bands:
        io.write_frame(result.frame(options.levels), options.bands)
    if options.plot:
        plots.plot_imputation(result, options.plot)
    chunks.remove()
    cost = {"network evaluations": calls[0], "seconds": round(time.perf_counter() - start, 1)}
    write(
        pairs({"series": len(series), "filled values": gaps, "samples": options.num_samples, **cost, **_wrote(options)})
    )
    return 0


def refine(options: argparse.Namespace) -> int:
    """Improve another model's forecast."""
    check_distinct(options.out, options.plot, input_file(options.data), input_file(options.base))
    io.check_output(options.out)
    check_outputs(options.plot, suffixes=PICTURES)
    if options.step_size <= 0:
        raise UserError(f"--step-size must be above 0, got {options.step_size}.")
    model = load_model(options)
    series = read_data(model, options)
    base = _base(options.base, series, trained_spec(model))
    changes = {"steps": options.iterations, "step_size": options.step_size, "sampler": options.sampler}
    if options.batch_size:
        changes["rows"] = options.batch_size
    start = time.perf_counter()
    with _counted(model) as calls:
        result = model.refine(base, series, options.num_samples, seed=options.seed, **changes)
    _deliver(result, series, options, {"network evaluations": calls[0]}, start)
    return 0


def synthesize(options: argparse.Namespace) -> int:
    """Draw windows."""
    check_distinct(options.out, options.plot, input_file(options.data))
    io.check_output(options.out)
    check_outputs(options.plot, suffixes=PICTURES)
    if (options.plot is None) != (options.data is None):
        raise UserError("--plot draws windows beside real ones: give --data and --plot together.")
    model = load_model(options)
    spec = trained_spec(model)
    if options.plot and spec.num_variates > 1:
        raise UserError("--plot is for models of one variate.")
    series = None if options.data is None else read_data(model, options)
    real = None if series is None else real_windows(series, spec, options.num_samples, options.seed)
    start = time.perf_counter()
    with _counted(model) as calls:
        drawn = synthesize_in_chunks(model, options.num_samples, **_bulk(options))
    if drawn is None:
        return 0
    windows, chunks = drawn
    io.write_windows(windows, options.out, context_length=spec.context_length, freq=spec.freq, scaling=spec.scaling)
    if real is not None:
        plots.plot_windows(real, windows, options.plot, freq=spec.freq)
    chunks.remove()
    cost = {"network evaluations": calls[0], "seconds": round(time.perf_counter() - start, 1)}
    write(pairs({"windows": len(windows), "steps": spec.length, **cost, **_wrote(options)}))
    return 0


def export(module: Any, path: str | Path, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the user checkpoint of a trained `timeseries.diffusion.TimeSeriesDiffusion`."""
    forecaster = DiffusionForecaster.from_module(module)
    data = getattr(getattr(module, "_trainer", None), "datamodule", None)
    if data is not None and not forecaster.conditional:
        forecaster.calibrate(data.series)
    forecaster.save(path, metadata=metadata)


def demo(folder: Path) -> list[Path]:
    """Demand of four made-up sites with gaps: filled, forecast, drawn, and judged on its last day."""
    model = DiffusionForecaster.from_pretrained("demand")
    series = inputs.read_named(inputs.DEMAND)
    names = ("demand.csv", "filled.csv", "filled.png", "forecast.csv", "forecast.png", "synthetic.png")
    paths = [folder / name for name in names]
    io.write_frame(io.filled_frame(series, wide=True), paths[0])
    filled = model.impute(series, 20, seed=0)
    io.write_frame(io.filled_frame(filled.filled, wide=True), paths[1])
    plots.plot_imputation(filled, paths[2])
    steps = trained_spec(model).prediction_length
    task = rolling_task(series, steps)
    held = model.forecast(task.inputs, 60, seed=0, progress=True)
    io.write_forecast(held, paths[3], (0.1, 0.5, 0.9))
    plots.plot_forecast(held, task.inputs, paths[4], truth=task.target)
    real = real_windows(demand(with_gaps=False), trained_spec(model), 200)
    plots.plot_windows(real, model.synthesize(200, seed=0), paths[5], freq=trained_spec(model).freq)
    rows = judge(held, task).rows
    scores = ", ".join(f"{name} {row['wql']:.4f}" for name, row in rows.items())
    note(f"timeseries: weighted quantile loss of the last day at {held.nfe} evaluations: {scores}.")
    return paths


def _future(series: Sequence[TimeSeries], options: argparse.Namespace) -> list[np.ndarray]:
    if options.devices > 1 or options.num_nodes > 1:
        raise UserError("--future works on one device: leave --devices and --num-nodes out.")
    if options.lead_time or options.prediction_length:
        raise UserError("--future says how far to forecast; leave --prediction-length and --lead-time out.")
    if not options.future.is_file():
        raise UserError(f"no file of future values at {str(options.future)!r}.")
    return inputs.read_future(options.future, series, item_id=options.item_id, timestamp=options.timestamp)


def _base(name: str, series: Sequence[TimeSeries], spec: SeriesSpec) -> np.ndarray:
    """Base forecast in the order of the series: samples (items, S, P), or points (items, P) of a baseline."""
    if name in ("seasonal_naive", "random_walk", "ridge") and not Path(name).exists():
        if series[0].values.ndim > 1:
            raise UserError(f"--base {name} is for series of one variate.")
        past = [s.values for s in series]
        if name == "ridge":
            return ridge_forecast(series, past, spec)
        season = calendar.season_length(spec.freq) if name == "seasonal_naive" else 1
        return seasonal_naive(past, spec.prediction_length, season)
    base = io.read_forecast(name, series[0].freq)
    place = {item: k for k, item in enumerate(base.item_ids)}
    for s in series:
        begin = calendar.shift(s.start, len(s))
        if s.item_id not in place or base.starts[place[s.item_id]] != begin:
            raise UserError(f"--base {name!r} has no forecast of {s.item_id!r} from {begin} on.")
    values = base.samples if isinstance(base, Forecast) else np.moveaxis(base.values, 0, 1)
    return values[[place[s.item_id] for s in series]]


def _bulk(options: argparse.Namespace, **asked: Any) -> dict[str, Any]:
    """Where an interrupted run goes on, what decides its samples, and the devices it is drawn on."""
    return {
        "folder": partial_folder(options.out),
        "origin": fingerprint(resolve(options.checkpoint, "timeseries")),
        "sampling": {"seed": options.seed, **asked, **sampling(options)},
        "trainer": {
            "progress": True,
            "note": note,
            "num_nodes": options.num_nodes,
            **trainer_devices(options.device, options.devices),
        },
    }


def _deliver(
    result: Forecast,
    series: Sequence[TimeSeries],
    options: argparse.Namespace,
    cost: dict[str, Any],
    start: float,
    chunks: Chunks | None = None,
) -> None:
    """Write and draw a forecast, print what it took."""
    io.write_forecast(result, options.out, options.levels)
    if options.plot:
        plots.plot_forecast(result, series, options.plot)
    if chunks is not None:
        chunks.remove()
    shape = {"series": len(result), "samples": result.samples.shape[1], "steps": result.samples.shape[2]}
    span = f"{result.starts[0]} to {calendar.shift(result.starts[0], result.samples.shape[2] - 1)}"
    cost = {**cost, "seconds": round(time.perf_counter() - start, 1)}
    write(pairs({**shape, "first series": span, **cost, **_wrote(options)}))


def _wrote(options: argparse.Namespace) -> dict[str, str]:
    paths = [options.out, getattr(options, "bands", None), options.plot]
    return {"wrote": ", ".join(str(path) for path in paths if path is not None)}


def _is_wide(options: argparse.Namespace) -> bool:
    """Whether the input has one column a series."""
    path = Path(options.data)
    if not path.name.endswith((".csv", ".csv.gz")):
        return False
    import pandas as pd

    return options.item_id is None and "item_id" not in pd.read_csv(path, nrows=0).columns


def _summary(series: Sequence[TimeSeries]) -> dict[str, Any]:
    lengths = [len(s) for s in series]
    missing = sum(int(np.isnan(s.values).sum()) for s in series)
    total = sum(s.values.size for s in series)
    first = min((s.start for s in series), key=lambda p: p.ordinal)
    last = max((calendar.shift(s.start, len(s) - 1) for s in series), key=lambda p: p.ordinal)
    return {
        "series": len(series),
        "values": f"{min(lengths)}-{max(lengths)} each" if min(lengths) != max(lengths) else f"{lengths[0]} each",
        "frequency": series[0].freq,
        "from": str(first),
        "to": str(last),
        "missing": f"{missing} of {total}",
    }


@contextmanager
def _counted(model: DiffusionForecaster) -> Iterator[list[int]]:
    """Counts evaluations of the network; a batch counts once."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    assert model.denoiser is not None
    handle = model.denoiser.network.register_forward_hook(count)
    try:
        yield calls
    finally:
        handle.remove()
