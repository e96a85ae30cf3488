"""Verbs of ``scidiff trajectories``; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

from scidiff.cli.domain import Domain, Verb
from scidiff.cli.options import add_options, positive_int

__all__ = ["DOMAIN"]


def _simulate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", default="charged", help="charged, spring, gravity, lj or double_well")
    parser.add_argument("--num-frames", type=positive_int, default=30, metavar="F", help="frames of a run")
    parser.add_argument("--num-bodies", type=positive_int, metavar="N", help="particles (default: of the system)")
    parser.add_argument("--field", default="0,0,0", metavar="X,Y,Z", help="uniform acceleration")
    parser.add_argument("--observation-noise", type=float, default=0.0, metavar="STD", help="noise of positions")
    add_options(parser, num_samples=100, seed=43, out=...)


def _model_options(parser: argparse.ArgumentParser, num_samples: int) -> None:
    names = ("checkpoint", "num_samples", "steps", "solver", "seed", "device", "batch_size", "out")
    add_options(parser, *names, checkpoint=..., num_samples=num_samples, out=..., batch_size=None)


def _source(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(
        f"--{name}", type=Path, required=True, metavar="FILE", help=f"{text}, .npz with pos (B, F, N, D)"
    )


def _length(parser: argparse.ArgumentParser, default: int, text: str) -> None:
    parser.add_argument("--num-frames", type=positive_int, default=default, metavar="F", help=text)


def _generate_options(parser: argparse.ArgumentParser) -> None:
    _source(parser, "like", "systems whose nodes and features are used in turn")
    _length(parser, 20, "frames of a trajectory")
    _model_options(parser, 100)


def _forecast_options(parser: argparse.ArgumentParser) -> None:
    _source(parser, "observed", "observed frames")
    _length(parser, 20, "frames to add")
    _model_options(parser, 1)


def _interpolate_options(parser: argparse.ArgumentParser) -> None:
    _source(parser, "frames", "all frames, of which some are known")
    parser.add_argument("--known", required=True, metavar="F,F,...", help="known frames; -1 is the last one")
    _model_options(parser, 1)


def _rollout_options(parser: argparse.ArgumentParser) -> None:
    _source(parser, "observed", "observed frames")
    _length(parser, 500, "frames to add")
    parser.add_argument("--window", type=positive_int, default=30, metavar="F", help="frames of one block")
    parser.add_argument("--keep", type=positive_int, default=10, metavar="F", help="frames a block starts from")
    _model_options(parser, 1)


DOMAIN = Domain(
    name="trajectories",
    help="trajectories of particles, atoms and people: simulate, train, generate, forecast",
    verbs={
        "simulate": Verb(
            "simulate interacting particles",
            "trajectories.commands:simulate",
            _simulate_options,
            "example: scidiff trajectories simulate --kind gravity -n 1000 --seed 0 --out gravity.npz",
        ),
        "generate": Verb(
            "draw whole trajectories",
            "trajectories.requests:generate",
            _generate_options,
            "example: scidiff trajectories generate --checkpoint m.safetensors --like runs.npz -n 100 --out new.npz",
        ),
        "forecast": Verb(
            "go on from observed frames",
            "trajectories.requests:forecast",
            _forecast_options,
            "example: scidiff trajectories forecast --checkpoint m.safetensors --observed runs.npz -n 5 --out f.npz",
        ),
        "interpolate": Verb(
            "fill in unknown frames",
            "trajectories.requests:interpolate",
            _interpolate_options,
            "example: scidiff trajectories interpolate --checkpoint m.safetensors --frames runs.npz --known=0,1,-2,-1 "
            "--out filled.npz",
        ),
        "rollout": Verb(
            "go on for long, block by block",
            "trajectories.requests:rollout",
            _rollout_options,
            "example: scidiff trajectories rollout --checkpoint m.safetensors --observed runs.npz --num-frames 500 "
            "--out long.npz",
        ),
    },
    export="trajectories.commands:export",
)
