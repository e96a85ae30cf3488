"""What options of ``scidiff timeseries`` stand for: models, series, ways of sampling."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scidiff.checkpoint import resolve
from scidiff.cli.errors import UserError
from scidiff.cli.options import resolve_device
from timeseries import inputs
from timeseries.data.scaling import SeriesSpec
from timeseries.data.series import TimeSeries
from timeseries.generator import DiffusionForecaster

__all__ = ["PICTURES", "columns", "input_file", "load_model", "read_data", "sampling", "trained_spec"]

PICTURES = (".png", ".pdf", ".svg")


def load_model(options: argparse.Namespace) -> DiffusionForecaster:
    """The forecaster of ``--checkpoint`` on ``--device``."""
    device = resolve_device(options.device)
    return DiffusionForecaster.from_pretrained(resolve(options.checkpoint, "timeseries"), device=device)


def trained_spec(model: DiffusionForecaster) -> SeriesSpec:
    """Windows of a trained forecaster."""
    if model.spec is None:
        raise UserError("the checkpoint holds an untrained forecaster.")
    return model.spec


def read_data(model: DiffusionForecaster, options: argparse.Namespace) -> list[TimeSeries]:
    """The series of ``--data``, which must fit the model."""
    series = inputs.read_series(options.data, options.freq, trained_spec(model).freq, **columns(options))
    taken, given = trained_spec(model).num_variates, series[0].num_variates
    if taken != given:
        raise UserError(
            f"the model takes {taken} variates, the data has {given}; several columns of one item are chosen by "
            "--target a,b,..."
        )
    return series


def columns(options: argparse.Namespace) -> dict[str, Any]:
    """Columns of a frame."""
    target = options.target.split(",") if options.target and "," in options.target else options.target
    return {"target": target, "item_id": options.item_id, "timestamp": options.timestamp}


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """Sampling options that were given; defaults are the model's."""
    names = {"steps": "steps", "solver": "solver", "guidance": "guidance", "guidance_scale": "guidance_scale"}
    names |= {"batch_size": "rows"}
    chosen = {new: value for old, new in names.items() if (value := getattr(options, old, None)) is not None}
    if getattr(options, "profile", "default") != "default":
        chosen["profile"] = options.profile
    return chosen


def input_file(text: str | None) -> Path | None:
    """An input that is a file, for the check that no output overwrites it."""
    return Path(text) if text is not None and Path(text).is_file() else None
