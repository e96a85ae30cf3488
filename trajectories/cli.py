"""Verbs of ``scidiff trajectories``; imports nothing heavy."""

from __future__ import annotations

import argparse

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


DOMAIN = Domain(
    name="trajectories",
    help="trajectories of particles, atoms and people: simulate, train",
    verbs={
        "simulate": Verb(
            "simulate interacting particles",
            "trajectories.commands:simulate",
            _simulate_options,
            "example: scidiff trajectories simulate --kind gravity -n 1000 --seed 0 --out gravity.npz",
        ),
    },
    export="trajectories.commands:export",
)
