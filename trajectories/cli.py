"""Verbs of ``scidiff trajectories``; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

from scidiff.cli.domain import Domain, Verb
from scidiff.cli.options import add_options, non_negative_int, positive_int

__all__ = ["DOMAIN"]


def _simulate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", default="charged", help="charged, spring, gravity, lj or double_well")
    parser.add_argument("--num-frames", type=positive_int, default=30, metavar="F", help="frames of a run")
    parser.add_argument("--num-bodies", type=positive_int, metavar="N", help="particles (default: of the system)")
    parser.add_argument("--field", default="0,0,0", metavar="X,Y,Z", help="uniform acceleration")
    parser.add_argument("--observation-noise", type=float, default=0.0, metavar="STD", help="noise of positions")
    parser.add_argument("--smiles", metavar="SMILES", help="a molecule instead, with the force field MMFF94")
    parser.add_argument("--temperature", type=float, default=300.0, metavar="K", help="of the molecule")
    add_options(parser, "num_samples", "seed", "out", seed=43, out=...)


def _prepare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="FILE", help="trajectories: .npz, .npy, .xyz or .pdb")
    parser.add_argument(
        "--scene",
        metavar="NAME",
        help="test windows of eth, hotel, univ, zara1 or zara2; FILE holds ETH/UCY, or a folder",
    )
    parser.add_argument("--max-agents", type=positive_int, default=1, metavar="N", help="agents of a window of --scene")
    parser.add_argument("--every", type=positive_int, default=1, metavar="F", help="keep every so many-th frame")
    parser.add_argument("--window", type=positive_int, metavar="F", help="cut into pieces of so many frames")
    parser.add_argument("--dt", type=float, metavar="TIME", help="time between the frames of FILE, if it is not in it")
    parser.add_argument("--unit", metavar="NAME", help="unit of positions, if it is not in FILE")
    add_options(parser, "out", out=...)


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="trajectories to judge: .npz, .npy, .xyz or .pdb")
    parser.add_argument("--reference", type=Path, required=True, metavar="FILE", help="real trajectories")
    parser.add_argument("--train", type=Path, metavar="FILE", help="trajectories that linear autoregression is fit on")
    parser.add_argument("--cond-frames", type=non_negative_int, metavar="F", help="given frames (default: as in FILE)")
    parser.add_argument("--networks", action="store_true", help="also scores by small networks (minutes)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw speeds, memory and energies")
    parser.add_argument(
        "--slow-modes",
        type=Path,
        metavar="PNG",
        help="also draw free energies and memory of the torsions of a molecule",
    )
    add_options(parser, "num_samples", "seed", "out")


def _model_options(parser: argparse.ArgumentParser, num_samples: int) -> None:
    parser.add_argument(
        "--condition", action="append", default=[], metavar="NAME=NUMBER", help="of every system: temperature=300"
    )
    parser.add_argument("--guidance-scale", type=float, default=1.0, metavar="W", help="of the condition; 1 for none")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the paths of the first system")
    parser.add_argument("--gif", type=Path, metavar="GIF", help="also make a film of the first system")
    names = ("checkpoint", "num_samples", "steps", "solver", "seed", "device", "batch_size", "out")
    add_options(parser, *names, checkpoint=..., num_samples=num_samples, out=..., batch_size=None)


def _source(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=f"{text}: .npz, .npy, .xyz or .pdb")


def _observed(parser: argparse.ArgumentParser) -> None:
    _source(parser, "observed", "observed frames")
    parser.add_argument(
        "--cond-frames", type=positive_int, metavar="F", help="use the first frames only (default: all)"
    )


def _length(parser: argparse.ArgumentParser, default: int, text: str) -> None:
    parser.add_argument("--num-frames", type=positive_int, default=default, metavar="F", help=text)


def _representers(parser: argparse.ArgumentParser) -> None:
    text = "instead of samples, forecasts about the possible futures of which the best is near"
    parser.add_argument("--representers", action="store_true", help=text)


def _generate_options(parser: argparse.ArgumentParser) -> None:
    _source(parser, "like", "systems whose nodes and features are used in turn")
    _length(parser, 20, "frames of a trajectory")
    _model_options(parser, 100)


def _forecast_options(parser: argparse.ArgumentParser) -> None:
    _observed(parser)
    _length(parser, 20, "frames to add")
    _representers(parser)
    _model_options(parser, 1)


def _interpolate_options(parser: argparse.ArgumentParser) -> None:
    _source(parser, "frames", "all frames, of which some are known")
    parser.add_argument("--known", required=True, metavar="F,F,...", help="known frames; -1 is the last one")
    _representers(parser)
    _model_options(parser, 1)


def _refine_options(parser: argparse.ArgumentParser) -> None:
    _source(parser, "frames", "trajectories to improve")
    parser.add_argument(
        "--level", type=float, default=0.3, metavar="T", help="noise level in (0, 1); more changes more"
    )
    parser.add_argument("--known", metavar="F,F,...", help="frames that stay (default: none); -1 is the last one")
    _model_options(parser, 1)


def _rollout_options(parser: argparse.ArgumentParser) -> None:
    _observed(parser)
    _length(parser, 500, "frames to add")
    parser.add_argument("--window", type=positive_int, default=30, metavar="F", help="frames of one block")
    parser.add_argument("--keep", type=positive_int, default=10, metavar="F", help="frames a block starts from")
    parser.add_argument(
        "--rolling",
        action="store_true",
        help="one frame at a time, --steps each, by a model of a noise level per frame",
    )
    _model_options(parser, 1)


DOMAIN = Domain(
    name="trajectories",
    help="trajectories of particles, atoms and people: simulate, train, generate, forecast",
    verbs={
        "prepare": Verb(
            "turn trajectories of your own into .npz, with a look at them",
            "trajectories.commands:prepare",
            _prepare_options,
            "example: scidiff trajectories prepare run.xyz --every 10 --window 30 --out mine.npz",
        ),
        "simulate": Verb(
            "simulate interacting particles, or a molecule",
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
        "refine": Verb(
            "noise trajectories a little and denoise them again",
            "trajectories.requests:refine",
            _refine_options,
            "example: scidiff trajectories refine --checkpoint m.safetensors --frames filled.npz --level 0.2 "
            "--known=0,1,-2,-1 --out better.npz",
        ),
        "rollout": Verb(
            "go on for long, block by block",
            "trajectories.requests:rollout",
            _rollout_options,
            "example: scidiff trajectories rollout --checkpoint m.safetensors --observed runs.npz --num-frames 500 "
            "--out long.npz",
        ),
        "evaluate": Verb(
            "judge anybody's trajectories",
            "trajectories.commands:evaluate",
            _evaluate_options,
            "example: scidiff trajectories evaluate f.npz --reference runs.npz --out report.json",
        ),
    },
    export="trajectories.commands:export",
    demo="trajectories.commands:demo",
    demo_checkpoint="charged",
)
