"""Generators of windows at an equal training budget: `python -m benchmarks.timeseries --part generators`.

One backbone, one set of windows, standardised by their context, as many updates of equal batches: what differs is the
process, what the network predicts, and how it is told what is known.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.forecasts import Problem, scored
from timeseries.bases import GPBase
from timeseries.data.datasets import load_benchmark
from timeseries.generator import DiffusionForecaster
from timeseries.networks import S4Backbone, WienerNetwork

__all__ = ["GENERATORS", "Generator", "generators"]

STEPS = (5, 20, 100)
_TRAINING = {"lr": 2e-3, "ema": 0.99, "batch_size": 64}


class Generator(NamedTuple):
    """Options of `DiffusionForecaster`, and of each kind of forecast that is scored."""

    model: dict[str, Any]
    forecasts: Sequence[dict[str, Any]]


def _each(*steps: int, **options: Any) -> list[dict[str, Any]]:
    return [{**options, "steps": number} for number in steps]


_BACKBONE = S4Backbone(width=64, num_layers=3, state_size=64)
GENERATORS: dict[str, Generator] = {
    "EDM around the Wiener filter": Generator(
        {"network": WienerNetwork(_BACKBONE)}, _each(*STEPS, guidance="wiener", solver="dpmpp_2m")
    ),
    "EDM": Generator({"network": _BACKBONE}, _each(5, 20, guidance="mmps", solver="dpmpp_2m")),
    "PFGM++, D = 128": Generator(
        {"network": _BACKBONE, "preset": "pfgmpp"}, _each(5, 20, guidance="mmps", solver="dpmpp_2m")
    ),
    "TSDiff (VP, 100 levels)": Generator(
        {"network": _BACKBONE, "preset": "tsdiff"},
        [
            *_each(5, 20, guidance="quantile", solver="ddim", guidance_scale=1.0),
            *_each(100, profile="parity", guidance="quantile", solver="ancestral", guidance_scale=8.0),
            *_each(5, 20, guidance="mmps", solver="dpmpp_2m"),
        ],
    ),
    "TSDiff-Cond": Generator(
        {"network": _BACKBONE, "preset": "tsdiff", "conditional": True},
        [*_each(5, 20, solver="ddim"), *_each(100, solver="ancestral", grid="uniform")],
    ),
    "flow, Gaussian-process base": Generator(
        {"network": _BACKBONE, "preset": "flow", "conditional": True, "base": GPBase("ou", noise=0.1)},
        _each(*STEPS, solver="euler", grid="uniform"),
    ),
}


def generators(
    name: str, windows: int | None, samples: int, updates: int, chosen: Sequence[str] = tuple(GENERATORS)
) -> list[dict[str, Any]]:
    """Train each generator on a benchmark set and score its forecasts on the test windows.

    Args:
        name: Set; windows are one horizon of context and the horizon, without lags.
        windows: Test windows that are scored, evenly spaced; all if None.
        samples: Paths of a window.
        updates: Of the weights of each.
        chosen: Names out of `GENERATORS`.
    """
    data = load_benchmark(name)
    records = []
    for title in chosen:
        generator = GENERATORS[title]
        length = data.prediction_length
        training = {**_TRAINING, "max_steps": updates}
        model = DiffusionForecaster(data.freq, length, length, training=training, **generator.model)
        start = time.process_time()
        model.fit(data.train)
        cost = {"updates": updates, "training": time.process_time() - start}
        problem = Problem(name, model, windows, samples)
        for options in generator.forecasts:
            row = scored(problem, problem.task, options)
            records.append({"set": name, "generator": title, **options, **cost, **row})
    return records
