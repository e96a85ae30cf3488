"""``scidiff timeseries evaluate``: a model, a forecast or synthetic windows beside the baselines."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from scidiff.cli.errors import UserError
from scidiff.cli.options import check_distinct, check_outputs
from scidiff.cli.output import note, pairs, write
from timeseries import inputs, io, metrics, plots
from timeseries.data import datasets
from timeseries.data.masks import hide_context
from timeseries.evaluate import Task, benchmark_task, judge, judge_windows, match, rolling_task
from timeseries.forecast import Forecast
from timeseries.generator import DiffusionForecaster
from timeseries.requests import PICTURES, columns, input_file, load_model, read_data, sampling, trained_spec

__all__ = ["evaluate"]


def evaluate(options: argparse.Namespace) -> int:
    """Judge a model, a forecast or synthetic windows."""
    check_distinct(options.out, options.plot, input_file(options.data), options.file)
    check_outputs(options.out, suffixes=(".json",))
    check_outputs(options.plot, suffixes=PICTURES)
    if options.file is not None and options.file.suffix == ".npz" and _holds_windows(options.file):
        return _evaluate_windows(options)
    if (options.file is None) == (options.checkpoint is None):
        raise UserError("give a forecast file or --checkpoint, one of the two.")
    if options.file is not None and options.missing:
        raise UserError("--missing hides values from a model: give --checkpoint, not a forecast file.")
    if options.num_missing and not options.missing:
        raise UserError("--num-missing says how much --missing hides: give both.")
    start = time.perf_counter()
    if options.file is not None:
        result, task, cost = *_of_file(options), {}
    else:
        model = load_model(options)
        task = _with_gaps(_task(model, options), model, options)
        if (steps := task.target.shape[1]) != trained_spec(model).prediction_length:
            note(
                f"scidiff: the model forecasts {trained_spec(model).prediction_length} steps, the windows have {steps}."
            )
        chosen = {"prediction_length": steps, "seed": options.seed, "progress": True, **sampling(options)}
        result = model.forecast(task.inputs, options.num_samples, **chosen)
        cost = {"nfe": result.nfe, "seconds": round(time.perf_counter() - start, 1)}
    if options.plot and not isinstance(result, Forecast):
        raise UserError("--plot needs sample paths: a forecast in .npz, or --checkpoint.")
    levels = options.levels or metrics.DECILES
    name = "model" if options.file is None else options.file.name
    report = judge(result, task, name=name, season=options.season, levels=levels, interpolate=options.interpolate)
    report.facts.update(cost)
    if options.missing:
        hidden = options.num_missing or "half"
        report.facts["missing"] = f"{options.missing}, {hidden} of the context, also for the baselines"
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


def _task(model: DiffusionForecaster, options: argparse.Namespace) -> Task:
    """Published windows of a benchmark set, or the last ones of each series of a file."""
    if options.data in datasets.names() and not Path(options.data).exists():
        task = benchmark_task(options.data)
        if task.inputs[0].freq != trained_spec(model).freq:
            raise UserError(f"{options.data!r} is {task.inputs[0].freq!r}, the model {trained_spec(model).freq!r}.")
    else:
        task = rolling_task(read_data(model, options), trained_spec(model).prediction_length, options.windows)
    count = options.max_windows
    if count is None or count >= len(task.target):
        return task
    chosen = np.linspace(0, len(task.target) - 1, count).round().astype(int)
    return Task([task.inputs[k] for k in chosen], task.target[chosen], task.context_length)


def _with_gaps(task: Task, model: DiffusionForecaster, options: argparse.Namespace) -> Task:
    """The task with the missing values of a scenario."""
    if options.missing is None:
        return task
    length = trained_spec(model).context_length
    hidden = hide_context(task.inputs, options.missing, length, options.num_missing, options.seed)
    return task._replace(inputs=hidden)


def _of_file(options: argparse.Namespace) -> tuple[Any, Task]:
    result = io.read_forecast(options.file, options.freq)
    series = inputs.read_series(options.data, options.freq, result.starts[0].freqstr, **columns(options))
    return result, match(result, series)


def _evaluate_windows(options: argparse.Namespace) -> int:
    if options.checkpoint is None:
        raise UserError("synthetic windows are judged in the scale of their model: give its --checkpoint, too.")
    model = load_model(options)
    windows = io.read_windows(options.file)["windows"]
    report = judge_windows(windows, read_data(model, options), trained_spec(model), options.seed)
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


def _flat(forecast: Forecast, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Samples (W, S, P) and target (W, P), variates as windows."""
    if forecast.samples.ndim == 3:
        return forecast.samples, task.target
    return np.concatenate(np.moveaxis(forecast.samples, 3, 0)), np.concatenate(np.moveaxis(task.target, 2, 0))


def _span(report: Any) -> str:
    levels = report.facts["levels"]
    return f"{len(levels)} from {levels[0]:g} to {levels[-1]:g}"
