"""Verbs of ``scidiff graphs``; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

from scidiff.cli.domain import Domain, Verb
from scidiff.cli.options import add_options, non_negative_int, positive_int

__all__ = ["DOMAIN"]

_DEFAULT = "community_small"


def _prepare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="data set: community_small, planar, qm9_2d, ...")
    parser.add_argument("--source", type=Path, metavar="FOLDER", help="originals (default: $SCIDIFF_DATA)")
    parser.add_argument("--charges", action="store_true", help="molecules: atom classes with formal charges")
    add_options(parser, "seed", "out")


def _generate_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, checkpoint=_DEFAULT, num_samples=20, batch_size=250, out=...)
    parser.add_argument("--graph-nodes", type=positive_int, metavar="N", help="nodes a graph (default: as in the data)")
    parser.add_argument("--label", help="graph label of the training data to condition on")
    parser.add_argument("--guidance-scale", type=float, default=1.0, metavar="W", help="strength towards the label")
    parser.add_argument("--fixed", type=Path, metavar="FILE", help="known part: a file with one graph")
    parser.add_argument("--largest-component", action="store_true", help="keep the largest component of each graph")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the first graphs")
    parser.add_argument("--gif", type=Path, metavar="GIF", help="also draw how the first eight came out of noise")


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="generated graphs: .npz, .g6, .graphml, a folder, .pt, .smi, .sdf")
    parser.add_argument("--reference", required=True, metavar="NAME[:part]|FILE", help="real graphs to compare with")
    parser.add_argument("--training", metavar="NAME[:part]|FILE", help="graphs that are not novel; floors need them")
    parser.add_argument("--kernel", choices=("emd", "tv", "rbf"), help="default: that of the field for the reference")
    parser.add_argument("--protocol", choices=("large", "published"), default="large", help="all at once, or in groups")
    parser.add_argument(
        "--family", metavar="NAME", help="rule of validity: planar, tree, lobster, grid, community, sbm"
    )
    parser.add_argument("--drop-isolated", action="store_true", help="remove isolated nodes first, as published")
    parser.add_argument("--resamples", type=non_negative_int, default=1000, metavar="N", help="for the intervals")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the statistics of both sets")
    add_options(parser, "seed", "out")


def _plot_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="graphs, in any format that evaluate reads")
    parser.add_argument("--reference", metavar="NAME[:part]|FILE", help="draw statistics against these instead")
    parser.add_argument("--num-graphs", type=positive_int, default=20, metavar="N", help="how many to draw")
    parser.add_argument("--columns", type=positive_int, default=5, metavar="N", help="graphs a row")
    add_options(parser, "out", out=...)


DOMAIN = Domain(
    name="graphs",
    help="graphs: prepare data, train, generate, evaluate, plot",
    verbs={
        "prepare": Verb(
            "write a data set with its split as one flat file",
            "graphs.commands:prepare",
            _prepare_options,
            "example: scidiff graphs prepare qm9_2d --out data/qm9_2d.npz",
        ),
        "generate": Verb(
            "draw graphs from a checkpoint",
            "graphs.commands:generate",
            _generate_options,
            "example: scidiff graphs generate -n 1000 --steps 50 --out samples.npz --plot samples.png\n"
            "Finished chunks wait in OUT.partial: the same command goes on from them after an interruption.",
        ),
        "evaluate": Verb(
            "judge anybody's graphs",
            "graphs.commands:evaluate",
            _evaluate_options,
            "example: scidiff graphs evaluate samples.npz --reference community_small --out metrics.json",
        ),
        "plot": Verb(
            "draw graphs, or their statistics against a reference",
            "graphs.commands:plot",
            _plot_options,
            "example: scidiff graphs plot samples.npz --out grid.png",
        ),
    },
    export="graphs.commands:export",
    demo="graphs.commands:demo",
    demo_checkpoint=_DEFAULT,
)
