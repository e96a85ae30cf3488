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
from scidiff.cli.errors import UserError
from scidiff.cli.options import check_distinct, check_outputs, resolve_device
from scidiff.cli.output import note, pairs, write
from timeseries import inputs, io, metrics, plots
from timeseries.baselines import seasonal_naive
from timeseries.covariates import forecast_with_future
from timeseries.data import calendar, datasets
from timeseries.data.demand import demand
from timeseries.data.series import TimeSeries
from timeseries.evaluate import Task, benchmark_task, judge, judge_windows, match, real_windows, rolling_task
from timeseries.forecast import Forecast
from timeseries.generator import DiffusionForecaster

__all__ = ["demo", "evaluate", "export", "forecast", "impute", "prepare", "refine", "synthesize"]

_PICTURES = (".png", ".pdf", ".svg")


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
        series = inputs.read_series(options.name, options.freq, **_columns(options))
    else:
        series = inputs.read_named(options.name, options.part)
    io.write_frame(io.filled_frame(series, wide=options.wide), out)
    write(pairs({**_summary(series), "wrote": str(out)}))
    return 0


def forecast(options: argparse.Namespace) -> int:
    """Sample paths from the end of each series."""
    check_distinct(options.out, options.plot, _file(options.data), options.future)
    io.check_output(options.out)
    check_outputs(options.plot, suffixes=_PICTURES)
    model = _model(options)
    series = _series(model, options)
    start = time.perf_counter()
    if options.future is None:
        result = model.forecast(
            series,
            options.num_samples,
            prediction_length=options.prediction_length,
            lead_time=options.lead_time,
            seed=options.seed,
            progress=True,
            **_sampling(options),
        )
        cost = {"nfe": result.nfe}
    else:
        known = _future(series, options)
        with _counted(model) as calls:
            result = forecast_with_future(
                model, series, known, options.num_samples, seed=options.seed, **_sampling(options)
            )
        cost = {"network evaluations": calls[0]}
    _deliver(result, series, options, cost, start)
    return 0


def impute(options: argparse.Namespace) -> int:
    """Fill gaps; the output has the layout of the input."""
    check_distinct(options.out, options.bands, options.plot, _file(options.data))
    io.check_output(options.out, io.TABLES)
    io.check_output(options.bands, io.TABLES)
    check_outputs(options.plot, suffixes=_PICTURES)
    model = _model(options)
    series = _series(model, options)
    gaps = sum(int(np.isnan(s.values).sum()) for s in series)
    if not gaps:
        raise UserError(f"{options.data!r} has no gap to fill.")
    start = time.perf_counter()
    with _counted(model) as calls:
        result = model.impute(series, options.num_samples, seed=options.seed, **_sampling(options))
    io.write_frame(io.filled_frame(result.filled, wide=_is_wide(options)), options.out)
    if options.bands:
        io.write_frame(result.frame(options.levels), options.bands)
    if options.plot:
        plots.plot_imputation(result, options.plot)
    cost = {"network evaluations": calls[0], "seconds": round(time.perf_counter() - start, 1)}
    write(
        pairs({"series": len(series), "filled values": gaps, "samples": options.num_samples, **cost, **_wrote(options)})
    )
    return 0


def refine(options: argparse.Namespace) -> int:
    """Improve another model's forecast."""
    check_distinct(options.out, options.plot, _file(options.data), _file(options.base))
    io.check_output(options.out)
    check_outputs(options.plot, suffixes=_PICTURES)
    if options.step_size <= 0:
        raise UserError(f"--step-size must be above 0, got {options.step_size}.")
    model = _model(options)
    series = _series(model, options)
    base = _base(options.base, series, _spec(model).prediction_length)
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
    check_distinct(options.out, options.plot, _file(options.data))
    io.check_output(options.out)
    check_outputs(options.plot, suffixes=_PICTURES)
    if (options.plot is None) != (options.data is None):
        raise UserError("--plot draws windows beside real ones: give --data and --plot together.")
    model = _model(options)
    spec = _spec(model)
    if options.plot and spec.num_variates > 1:
        raise UserError("--plot is for models of one variate.")
    series = None if options.data is None else _series(model, options)
    real = None if series is None else real_windows(series, spec, options.num_samples, options.seed)
    start = time.perf_counter()
    with _counted(model) as calls:
        windows = model.synthesize(options.num_samples, seed=options.seed, progress=True, **_sampling(options))
    io.write_windows(windows, options.out, context_length=spec.context_length, freq=spec.freq, scaling=spec.scaling)
    if real is not None:
        plots.plot_windows(real, windows, options.plot, freq=spec.freq)
    cost = {"network evaluations": calls[0], "seconds": round(time.perf_counter() - start, 1)}
    write(pairs({"windows": len(windows), "steps": spec.length, **cost, **_wrote(options)}))
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Judge a model, a forecast or synthetic windows."""
    check_distinct(options.out, options.plot, _file(options.data), options.file)
    check_outputs(options.out, suffixes=(".json",))
    check_outputs(options.plot, suffixes=_PICTURES)
    if options.file is not None and options.file.suffix == ".npz" and _holds_windows(options.file):
        return _evaluate_windows(options)
    if (options.file is None) == (options.checkpoint is None):
        raise UserError("give a forecast file or --checkpoint, one of the two.")
    start = time.perf_counter()
    if options.file is not None:
        result, task, cost = *_of_file(options), {}
    else:
        model = _model(options)
        task = _task(model, options)
        if (steps := task.target.shape[1]) != _spec(model).prediction_length:
            note(f"scidiff: the model forecasts {_spec(model).prediction_length} steps, the windows have {steps}.")
        chosen = {"prediction_length": steps, "seed": options.seed, "progress": True, **_sampling(options)}
        result = model.forecast(task.inputs, options.num_samples, **chosen)
        cost = {"nfe": result.nfe, "seconds": round(time.perf_counter() - start, 1)}
    if options.plot and not isinstance(result, Forecast):
        raise UserError("--plot needs sample paths: a forecast in .npz, or --checkpoint.")
    levels = options.levels or metrics.DECILES
    name = "model" if options.file is None else options.file.name
    report = judge(result, task, name=name, season=options.season, levels=levels, interpolate=options.interpolate)
    report.facts.update(cost)
    if options.out:
        report.to_json(options.out)
    if options.plot:
        assert isinstance(result, Forecast)
        plots.plot_calibration(*_flat(result, task), options.plot, seed=options.seed)
    write(
        pairs({**{key: value for key, value in report.facts.items() if key != "levels"}, "wql levels": _span(report)})
    )
    write(f"\n{report.table()}")
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
    steps = _spec(model).prediction_length
    task = rolling_task(series, steps)
    held = model.forecast(task.inputs, 60, seed=0, progress=True)
    io.write_forecast(held, paths[3], (0.1, 0.5, 0.9))
    plots.plot_forecast(held, task.inputs, paths[4], truth=task.target)
    real = real_windows(demand(with_gaps=False), _spec(model), 200)
    plots.plot_windows(real, model.synthesize(200, seed=0), paths[5], freq=_spec(model).freq)
    rows = judge(held, task).rows
    scores = ", ".join(f"{name} {row['wql']:.4f}" for name, row in rows.items())
    note(f"timeseries: weighted quantile loss of the last day at {held.nfe} evaluations: {scores}.")
    return paths


def _model(options: argparse.Namespace) -> DiffusionForecaster:
    device = resolve_device(options.device)
    return DiffusionForecaster.from_pretrained(resolve(options.checkpoint, "timeseries"), device=device)


def _spec(model: DiffusionForecaster) -> Any:
    if model.spec is None:
        raise UserError("the checkpoint holds an untrained forecaster.")
    return model.spec


def _series(model: DiffusionForecaster, options: argparse.Namespace) -> list[TimeSeries]:
    series = inputs.read_series(options.data, options.freq, _spec(model).freq, **_columns(options))
    if series[0].num_variates != _spec(model).num_variates:
        raise UserError(
            f"the model takes {_spec(model).num_variates} variates, the data has {series[0].num_variates}; several "
            "columns of one item are chosen by --target a,b,..."
        )
    return series


def _columns(options: argparse.Namespace) -> dict[str, Any]:
    target = options.target.split(",") if options.target and "," in options.target else options.target
    return {"target": target, "item_id": options.item_id, "timestamp": options.timestamp}


def _sampling(options: argparse.Namespace) -> dict[str, Any]:
    """Sampling options that were given; defaults are the model's."""
    names = {"steps": "steps", "solver": "solver", "guidance": "guidance", "guidance_scale": "guidance_scale"}
    names |= {"batch_size": "rows"}
    chosen = {new: value for old, new in names.items() if (value := getattr(options, old, None)) is not None}
    if getattr(options, "profile", "default") != "default":
        chosen["profile"] = options.profile
    return chosen


def _future(series: Sequence[TimeSeries], options: argparse.Namespace) -> list[np.ndarray]:
    if options.lead_time or options.prediction_length:
        raise UserError("--future says how far to forecast; leave --prediction-length and --lead-time out.")
    if not options.future.is_file():
        raise UserError(f"no file of future values at {str(options.future)!r}.")
    return inputs.read_future(options.future, series, item_id=options.item_id, timestamp=options.timestamp)


def _base(name: str, series: Sequence[TimeSeries], steps: int) -> np.ndarray:
    """Samples (items, S, P) of a base forecast, in the order of the series."""
    seasons = {"seasonal_naive": calendar.season_length(series[0].freq), "random_walk": 1}
    if name in seasons and not Path(name).exists():
        if series[0].values.ndim > 1:
            raise UserError(f"--base {name} is for series of one variate.")
        return seasonal_naive([s.values for s in series], steps, seasons[name])
    base = io.read_forecast(name, series[0].freq)
    place = {item: k for k, item in enumerate(base.item_ids)}
    for s in series:
        begin = calendar.shift(s.start, len(s))
        if s.item_id not in place or base.starts[place[s.item_id]] != begin:
            raise UserError(f"--base {name!r} has no forecast of {s.item_id!r} from {begin} on.")
    values = base.samples if isinstance(base, Forecast) else np.moveaxis(base.values, 0, 1)
    return values[[place[s.item_id] for s in series]]


def _task(model: DiffusionForecaster, options: argparse.Namespace) -> Task:
    """Published windows of a benchmark set, or the last ones of each series of a file."""
    if options.data in datasets.names() and not Path(options.data).exists():
        task = benchmark_task(options.data)
        if task.inputs[0].freq != _spec(model).freq:
            raise UserError(f"{options.data!r} is {task.inputs[0].freq!r}, the model {_spec(model).freq!r}.")
    else:
        task = rolling_task(_series(model, options), _spec(model).prediction_length, options.windows)
    count = options.max_windows
    if count is None or count >= len(task.target):
        return task
    chosen = np.linspace(0, len(task.target) - 1, count).round().astype(int)
    return Task([task.inputs[k] for k in chosen], task.target[chosen], task.context_length)


def _of_file(options: argparse.Namespace) -> tuple[Any, Task]:
    result = io.read_forecast(options.file, options.freq)
    series = inputs.read_series(options.data, options.freq, result.starts[0].freqstr, **_columns(options))
    return result, match(result, series)


def _evaluate_windows(options: argparse.Namespace) -> int:
    if options.checkpoint is None:
        raise UserError("synthetic windows are judged in the scale of their model: give its --checkpoint, too.")
    model = _model(options)
    windows = io.read_windows(options.file)["windows"]
    report = judge_windows(windows, _series(model, options), _spec(model), options.seed)
    if options.out:
        report.to_json(options.out)
    write(f"{pairs(report.facts)}\n\n{report.table()}")
    return 0


def _holds_windows(path: Path) -> bool:
    try:
        io.read_windows(path)
    except (ValueError, OSError):
        return False
    return True


def _deliver(
    result: Forecast, series: Sequence[TimeSeries], options: argparse.Namespace, cost: dict[str, Any], start: float
) -> None:
    """Write and draw a forecast, print what it took."""
    io.write_forecast(result, options.out, options.levels)
    if options.plot:
        plots.plot_forecast(result, series, options.plot)
    shape = {"series": len(result), "samples": result.samples.shape[1], "steps": result.samples.shape[2]}
    span = f"{result.starts[0]} to {calendar.shift(result.starts[0], result.samples.shape[2] - 1)}"
    cost = {**cost, "seconds": round(time.perf_counter() - start, 1)}
    write(pairs({**shape, "first series": span, **cost, **_wrote(options)}))


def _wrote(options: argparse.Namespace) -> dict[str, str]:
    paths = [options.out, getattr(options, "bands", None), options.plot]
    return {"wrote": ", ".join(str(path) for path in paths if path is not None)}


def _file(text: str | None) -> Path | None:
    """An input that is a file, for the check that no output overwrites it."""
    return Path(text) if text is not None and Path(text).is_file() else None


def _is_wide(options: argparse.Namespace) -> bool:
    """Whether the input has one column a series."""
    path = Path(options.data)
    if not path.name.endswith((".csv", ".csv.gz")):
        return False
    import pandas as pd

    return options.item_id is None and "item_id" not in pd.read_csv(path, nrows=0).columns


def _flat(forecast: Forecast, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Samples (W, S, P) and target (W, P), variates as windows."""
    if forecast.samples.ndim == 3:
        return forecast.samples, task.target
    return np.concatenate(np.moveaxis(forecast.samples, 3, 0)), np.concatenate(np.moveaxis(task.target, 2, 0))


def _span(report: Any) -> str:
    levels = report.facts["levels"]
    return f"{len(levels)} from {levels[0]:g} to {levels[-1]:g}"


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
