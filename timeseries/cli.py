"""Verbs of ``scidiff timeseries``; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

from scidiff.cli.domain import Domain, Verb
from scidiff.cli.options import add_options, non_negative_int, positive_int

__all__ = ["DOMAIN"]

_DEMO = "demand"


def _levels(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(word) for word in text.split(","))
    except ValueError:
        levels = ()
    if not levels or not all(0 < level < 1 for level in levels) or list(levels) != sorted(set(levels)):
        raise argparse.ArgumentTypeError(f"expected ascending levels between 0 and 1 such as 0.1,0.5,0.9, got {text!r}")
    return levels


def _data_options(parser: argparse.ArgumentParser, help: str, *, required: bool = True) -> None:
    parser.add_argument("--data", required=required, metavar="FILE|NAME", help=help)
    parser.add_argument("--target", metavar="COLUMN", help="long table: column of the values; several with commas")
    parser.add_argument("--item-id", metavar="COLUMN", help="long table: column that names the series")
    parser.add_argument("--timestamp", metavar="COLUMN", help="column of the time stamps")
    parser.add_argument("--freq", metavar="ALIAS", help="frequency, such as h, D, W-SUN, M (default: inferred)")


def _sampling_options(parser: argparse.ArgumentParser, num_samples: int) -> None:
    add_options(
        parser,
        "checkpoint",
        "num_samples",
        "steps",
        "solver",
        "seed",
        "device",
        checkpoint=...,
        num_samples=num_samples,
    )
    add_options(parser, "batch_size", "devices", "num_nodes")


def _guidance_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--guidance", choices=("wiener", "mmps", "quantile", "ms"), help="how what is known guides (default: best)"
    )
    parser.add_argument("--guidance-scale", type=float, metavar="S", help="strength of quantile and ms guidance")
    parser.add_argument(
        "--profile", choices=("default", "parity"), default="default", help="parity: as published, slow"
    )


def _forecast_options(parser: argparse.ArgumentParser) -> None:
    _data_options(parser, "series up to where the forecast starts: .csv, .jsonl, .parquet; or a benchmark set")
    _sampling_options(parser, 100)
    _guidance_options(parser)
    parser.add_argument("--prediction-length", type=positive_int, metavar="P", help="steps (default: as trained)")
    parser.add_argument("--lead-time", type=non_negative_int, default=0, metavar="G", help="steps left out first")
    parser.add_argument("--future", type=Path, metavar="FILE", help="known future values of some variates (covariates)")
    parser.add_argument("--levels", type=_levels, default="0.1,0.5,0.9", metavar="Q,Q", help="quantile levels")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw fan charts of the first series")
    add_options(parser, "out", out=...)


def _impute_options(parser: argparse.ArgumentParser) -> None:
    _data_options(parser, "series with gaps: empty cells or absent rows")
    _sampling_options(parser, 20)
    _guidance_options(parser)
    parser.add_argument("--levels", type=_levels, default="0.1,0.5,0.9", metavar="Q,Q", help="levels of --bands")
    parser.add_argument("--bands", type=Path, metavar="FILE", help="also write mean and quantiles of every value")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the filled gaps")
    add_options(parser, "out", out=...)


def _refine_options(parser: argparse.ArgumentParser) -> None:
    _data_options(parser, "series up to where the forecast starts")
    text = "forecast to improve (.npz or table), or seasonal_naive, random_walk, ridge (fitted to the data)"
    parser.add_argument("--base", required=True, metavar="FILE|NAME", help=text)
    add_options(parser, "checkpoint", "num_samples", "seed", "device", checkpoint=..., num_samples=100)
    parser.add_argument("--iterations", type=positive_int, default=20, metavar="N", help="gradient steps")
    parser.add_argument("--step-size", type=float, default=0.01, metavar="ETA", help="their size; smaller moves less")
    parser.add_argument("--sampler", choices=("langevin", "sgd"), default="langevin", help="with or without noise")
    parser.add_argument("--levels", type=_levels, default="0.1,0.5,0.9", metavar="Q,Q", help="quantile levels")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw fan charts of the first series")
    add_options(parser, "batch_size")
    add_options(parser, "out", out=...)


def _synthesize_options(parser: argparse.ArgumentParser) -> None:
    _sampling_options(parser, 1000)
    _data_options(parser, "real series, for --plot", required=False)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw them beside real windows")
    add_options(parser, "out", out=...)


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    text = "forecast (.npz or table) or synthetic windows (.npz); without it --checkpoint is evaluated"
    parser.add_argument("file", type=Path, nargs="?", help=text)
    _data_options(parser, "series that hold the realised values, or a benchmark set")
    add_options(parser, "checkpoint", "num_samples", "steps", "solver", "seed", "device", num_samples=100)
    _guidance_options(parser)
    parser.add_argument("--windows", type=positive_int, default=1, metavar="W", help="last windows a series of a file")
    parser.add_argument("--season", type=positive_int, metavar="M", help="season length (default: of the frequency)")
    parser.add_argument("--levels", type=_levels, metavar="Q,Q", help="quantile levels (default: 0.1 to 0.9)")
    parser.add_argument("--interpolate", action="store_true", help="interpolate sample quantiles, as CSDI")
    parser.add_argument("--max-windows", type=positive_int, metavar="N", help="evenly spaced windows of all")
    scenarios = ("RM", "BM-B", "BM-E")
    parser.add_argument("--missing", choices=scenarios, help="hide random, first or last values of the context")
    parser.add_argument("--num-missing", type=positive_int, metavar="M", help="how many (default: half of it)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw coverage and PIT")
    add_options(parser, "batch_size", "out")


def _prepare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME|FILE", help="benchmark set, demand (made in code), or a file to check")
    parser.add_argument("--source", type=Path, metavar="FOLDER", help="GluonTS data set on disk, stored as NAME")
    parser.add_argument("--part", choices=("train", "test"), default="train", help="part of a set")
    for option in ("--target", "--item-id", "--timestamp", "--freq"):
        parser.add_argument(option, metavar="ALIAS" if option == "--freq" else "COLUMN", help="as in forecast")
    parser.add_argument("--wide", action="store_true", help="one column a series instead of one row a value")
    add_options(parser, "out")


_SYNTHESIZE = Verb(
    "draw windows from a checkpoint, in scaled units",
    "timeseries.commands:synthesize",
    _synthesize_options,
    "example: scidiff timeseries synthesize --checkpoint model.safetensors -n 1000 --out windows.npz",
)

DOMAIN = Domain(
    name="timeseries",
    help="time series: train, forecast, impute, refine, synthesize, evaluate, prepare",
    verbs={
        "prepare": Verb(
            "write a data set as one table, after checking its calendar",
            "timeseries.commands:prepare",
            _prepare_options,
            "example: scidiff timeseries prepare demand --wide --out demand.csv",
        ),
        "forecast": Verb(
            "sample paths from the end of each series",
            "timeseries.commands:forecast",
            _forecast_options,
            "example: scidiff timeseries forecast --checkpoint model.safetensors --data demand.csv --out forecast.csv\n"
            "An --out that ends in .npz keeps the sample paths.\n"
            "Finished chunks wait in OUT.partial: the same command goes on from them after an interruption.",
        ),
        "impute": Verb(
            "fill the gaps of series",
            "timeseries.commands:impute",
            _impute_options,
            "example: scidiff timeseries impute --checkpoint model.safetensors --data demand.csv --out filled.csv\n"
            "The output has the layout of the input; known values are unchanged.\n"
            "Finished chunks wait in OUT.partial: the same command goes on from them after an interruption.",
        ),
        "refine": Verb(
            "improve the forecast of another model",
            "timeseries.commands:refine",
            _refine_options,
            "example: scidiff timeseries refine --checkpoint model.safetensors --data demand.csv --base seasonal_naive "
            "--out better.csv",
        ),
        "synthesize": _SYNTHESIZE,
        "generate": Verb("another name of synthesize", _SYNTHESIZE.run, _SYNTHESIZE.add_options, _SYNTHESIZE.epilog),
        "evaluate": Verb(
            "judge a model, anybody's forecast, or synthetic windows, beside the baselines",
            "timeseries.judging:evaluate",
            _evaluate_options,
            "example: scidiff timeseries evaluate --checkpoint model.safetensors --data demand.csv --windows 7",
        ),
    },
    export="timeseries.commands:export",
    demo="timeseries.commands:demo",
    demo_checkpoint=_DEMO,
)
