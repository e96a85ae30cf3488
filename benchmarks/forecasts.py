"""Measurements behind `python -m benchmarks.timeseries`: each returns plain records, none prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from timeseries import metrics
from timeseries.baselines import seasonal_naive
from timeseries.data.datasets import BenchmarkSet, load_benchmark
from timeseries.data.masks import hide_context
from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import TimeSeries
from timeseries.diffusion import make_denoiser
from timeseries.evaluate import Task, baseline_rows, real_windows, ridge_forecast, rolling_task
from timeseries.generator import DiffusionForecaster
from timeseries.networks import S4Backbone, WienerNetwork
from timeseries.synthesis_scores import discriminative_score, linear_predictive_score

__all__ = ["FIGURES", "SAMPLERS", "Problem", "forecasts", "missing", "refinement", "sampling", "speed", "synthesis"]

FIGURES = ("wql", "nd", "coverage_50", "coverage_90")
SAMPLERS: tuple[dict[str, Any], ...] = (
    {"guidance": "wiener", "steps": 10},
    {"guidance": "wiener", "steps": 20},
    {"guidance": "wiener", "steps": 100},
    {"guidance": "wiener", "steps": 20, "solver": "ancestral"},
    {"guidance": "mmps", "steps": 20},
    {"guidance": "quantile", "steps": 20, "guidance_scale": 1.0},
    {"guidance": "mmps", "steps": 100},
)
_MISSING = ("none", "RM", "BM-B", "BM-E")


@dataclass
class Problem:
    """A benchmark set, its packaged model, and how much of it is scored."""

    name: str
    model: DiffusionForecaster
    windows: int | None = None
    samples: int = 100
    seeds: int = 1

    def __post_init__(self) -> None:
        self.data: BenchmarkSet = load_benchmark(self.name)
        self.task = self.part(Task(self.data.inputs, self.data.target, self.data.context_length))

    @property
    def spec(self) -> SeriesSpec:
        """Windows of the model."""
        assert self.model.spec is not None
        return self.model.spec

    @property
    def validation(self) -> Task:
        """The last P training values of each series, which training has held out."""
        whole = [s for s in self.data.train if np.isfinite(s.values[-self.data.prediction_length :]).all()]
        return self.part(rolling_task(whole, self.data.prediction_length))

    def part(self, task: Task) -> Task:
        """``windows`` of them, evenly spaced in the published order; all if None."""
        total = len(task.target)
        if self.windows is None or self.windows >= total:
            return task
        chosen = np.linspace(0, total - 1, self.windows).round().astype(int)
        return Task([task.inputs[k] for k in chosen], task.target[chosen], task.context_length)


def forecasts(problem: Problem) -> dict[str, Any]:
    """The model by its defaults, and every baseline, on the same test windows."""
    task, season = problem.task, problem.data.season
    past = [s.values for s in task.inputs]
    rows = baseline_rows(past, task.target, season, context_length=task.context_length)
    point = linear(problem, past)
    rows["ridge"] = {
        "wql": metrics.normalized_deviation(point, task.target),
        "nd": metrics.normalized_deviation(point, task.target),
    }
    return {"set": problem.name, "windows": len(task.target), "model": scored(problem, task, {}), "baselines": rows}


def sampling(problem: Problem, samplers: Sequence[dict[str, Any]] = SAMPLERS) -> list[dict[str, Any]]:
    """Guidance, solver and steps on the same validation windows and seeds, so that no test window chooses."""
    return [{"set": problem.name, **options, **scored(problem, problem.validation, options)} for options in samplers]


def scored(problem: Problem, task: Task, options: dict[str, Any]) -> dict[str, Any]:
    """Figures of forecasts with seeds 0, 1, ...: mean and half width of the 95 % interval over seeds; seconds each."""
    found: list[metrics.Scores] = []
    nfe, start = 0, time.process_time()
    for seed in range(problem.seeds):
        forecast = problem.model.forecast(task.inputs, problem.samples, seed=seed, **options)
        found.append(forecast.evaluate(task.target))
        nfe = forecast.nfe
    seconds = (time.process_time() - start) / problem.seeds / len(task.inputs)
    names = [name for name in FIGURES if name in found[0]]
    values = {name: np.array([scores[name] for scores in found]) for name in names}
    return {
        "nfe": nfe,
        "samples": problem.samples,
        "windows": len(task.inputs),
        "seeds": problem.seeds,
        "seconds": seconds,
        **{name: float(v.mean()) for name, v in values.items()},
        "half": {name: half_width(v) for name, v in values.items()},
    }


def linear(problem: Problem, past: Sequence[np.ndarray]) -> np.ndarray:
    """Point forecasts (W, P) of a ridge regression on the context of the published configuration, mean-scaled."""
    data = problem.data
    spec = SeriesSpec(data.freq, data.prediction_length, data.context_length, scaling="mean")
    return ridge_forecast(data.train, past, spec)


def refinement(problem: Problem, options: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seasonal naive and ridge before and after refinement."""
    task = problem.task
    past = [s.values for s in task.inputs]
    steps = task.target.shape[1]
    bases = {
        "seasonal naive": seasonal_naive(past, steps, problem.data.season),
        "ridge": linear(problem, past),
    }
    records = []
    for name, base in bases.items():
        before = metrics.normalized_deviation(base, task.target)
        for option in options:
            start = time.process_time()
            refined = problem.model.refine(base, task.inputs, problem.samples, seed=0, **option)
            scores = refined.evaluate(task.target)
            seconds = (time.process_time() - start) / len(task.inputs)
            records.append(
                {"set": problem.name, "base": name, **option, "before": before, "wql": scores["wql"]}
                | {"nd": scores["nd"], "windows": len(past), "samples": problem.samples, "seconds": seconds}
            )
    return records


def synthesis(problem: Problem, count: int) -> dict[str, Any]:
    """Linear predictive score of synthetic and of real windows in the model's scale; and can they be told apart?"""
    spec = problem.spec
    start = time.process_time()
    synthetic = problem.model.synthesize(count, seed=0, rows=1024)
    seconds = time.process_time() - start
    usable = [s for s in problem.data.test if np.isfinite(s.values[-spec.length :]).all()]
    past = [s.values[: -spec.prediction_length] for s in usable]
    target = np.stack([s.values[-spec.prediction_length :] for s in usable])
    real = real_windows(problem.data.train, spec, max(count, 2000))
    scaling: Any = spec.scaling
    scores = {
        name: linear_predictive_score(windows, past, target, scaling=scaling)
        for name, windows in (("synthetic", synthetic), ("real", real[:count]))
    }
    apart = discriminative_score(real[:2000], synthetic[:2000])
    return {"set": problem.name, "windows": count, "lps": scores, "discriminative": apart, "seconds": seconds}


def missing(problem: Problem) -> list[dict[str, Any]]:
    """Forecasts where half of the model's context is hidden; history before it is whole."""
    task, spec = problem.task, problem.spec
    records = []
    for scenario in _MISSING:
        inputs = task.inputs if scenario == "none" else hide_context(task.inputs, scenario, spec.context_length)
        records.append({"set": problem.name, "scenario": scenario, **scored(problem, task._replace(inputs=inputs), {})})
    return records


def speed() -> list[dict[str, Any]]:
    """Seconds (best of 3) for 100 paths of one series at 20 steps; weights do not matter, so they are fresh ones.

    A window of 336 + 24 without guidance; windows of 96 + 24 guided by moment matching and by the Wiener filter.
    """
    series = TimeSeries(np.random.default_rng(0).standard_normal(2000).cumsum(), _hour(), "walk")
    records = []
    for context, guidance in ((336, "none"), (96, "mmps"), (96, "wiener")):
        spec = SeriesSpec("h", 24, context)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            network: Any = S4Backbone(width=64, num_layers=3, state_size=64)
            network = WienerNetwork(network, spec.length) if guidance == "wiener" else network
        model = DiffusionForecaster("h", 24, context, denoiser=make_denoiser(network), spec=spec)
        seconds = best(lambda m=model, g=guidance: m.forecast([series], 100, steps=20, guidance=g))
        records.append({"window": f"{context} + 24", "guidance": guidance, "paths": 100, "steps": 20} | seconds)
    return records


def best(run: Callable[[], Any], repeats: int = 3) -> dict[str, float]:
    """Smallest wall-clock time of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return {"seconds": min(times), "threads": torch.get_num_threads()}


def half_width(values: np.ndarray) -> float | None:
    """Half width of the 95 % interval of the mean (Student t); None for one value."""
    if len(values) < 2:
        return None
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def _hour() -> Any:
    from timeseries.data import calendar

    return calendar.period("2024-01-01", "h")
