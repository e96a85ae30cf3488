"""Verbs of ``scidiff molecules``; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

from scidiff.cli.domain import Domain, Verb
from scidiff.cli.options import add_options, non_negative_int, positive_int

__all__ = ["DOMAIN"]

_DEFAULT = "qm9_implicit"


def _prepare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="qm9|FILE", help="the QM9 data set, or an .sdf, .xyz, .smi or .npz file of your own"
    )
    parser.add_argument("--source", type=Path, help="qm9: folder or archive of the originals (default: $SCIDIFF_DATA)")
    parser.add_argument("--hydrogens", choices=("explicit", "implicit"), default="explicit", help="FILE: which atoms")
    parser.add_argument("--charge", type=int, default=0, help="FILE: net charge if bonds have to be perceived")
    parser.add_argument("--elements", metavar="C,N,O", help="FILE: elements to keep (default: all)")
    parser.add_argument(
        "--max-atoms", type=positive_int, metavar="N", help="FILE: most (heavy) atoms of a molecule to keep"
    )
    parser.add_argument("--properties", metavar="logp,qed", help="compute these and keep them as columns")
    parser.add_argument("--workers", type=positive_int, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--report", type=Path, metavar="JSON", help="write the cleaning report")
    add_options(parser, "seed", "out")


def _generate_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, checkpoint=_DEFAULT, num_samples=100, batch_size=500, out=...)
    parser.add_argument("--n-atoms", type=positive_int, metavar="N", help="atoms a molecule (default: as in the data)")
    parser.add_argument(
        "--condition", action="append", metavar="logp=2", help="wished property; may be repeated or have commas"
    )
    parser.add_argument("--guidance-scale", type=float, default=1.0, metavar="W", help="above 1: wishes more strongly")
    parser.add_argument("--fixed", type=Path, metavar="SDF", help="part that every molecule contains; several: linked")
    parser.add_argument("--keep", choices=("all", "scaffold"), default="all", help="atoms of --fixed that are kept")
    parser.add_argument("--valid-only", action="store_true", help="write valid molecules only")
    parser.add_argument("--smiles", type=Path, metavar="SMI", help="also write the SMILES of the valid molecules")
    parser.add_argument("--xyz", type=Path, metavar="XYZ", help="also write extended XYZ")
    parser.add_argument("--grid", type=Path, metavar="PNG", help="also draw a grid of the first molecules")
    parser.add_argument("--grid-3d", type=Path, metavar="PNG", help="also draw their geometries")
    parser.add_argument("--trajectory", type=Path, metavar="XYZ", help="also write the denoising of the first molecule")
    parser.add_argument("--film", type=Path, metavar="GIF", help="also draw that denoising as a film")
    parser.add_argument("--report", type=Path, metavar="JSON", help="also write an evaluation")


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="molecules: .sdf, .smi, .xyz (also .gz) or .npz")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="real molecules to compare with")
    parser.add_argument("--training", type=Path, metavar="FILE", help="molecules that are not novel")
    parser.add_argument("--protocol", default="corrected", help="corrected, legacy-midi, edm; several with commas")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test", help="part of the reference")
    parser.add_argument("--hydrogens", choices=("explicit", "implicit"), help="overrides what the file says")
    parser.add_argument("--energy", action="store_true", help="relax the valid molecules with MMFF94 (slow)")
    parser.add_argument(
        "--geometry-checks", action="store_true", help="RDKit geometry checks of valid molecules (slow)"
    )
    parser.add_argument("--max-reference", type=non_negative_int, default=10_000, help="reference molecules used")
    add_options(parser, "seed", "out")


DOMAIN = Domain(
    name="molecules",
    help="3D molecules: prepare data, train, generate, evaluate",
    verbs={
        "prepare": Verb(
            "bonds, charges and splits for QM9 or your own file, with a cleaning report",
            "molecules.commands:prepare",
            _prepare_options,
            "example: scidiff molecules prepare qm9 --out data/qm9.npz",
        ),
        "generate": Verb(
            "draw molecules from a checkpoint",
            "molecules.commands:generate",
            _generate_options,
            "example: scidiff molecules generate -n 1000 --steps 50 --out samples.sdf --grid samples.png\n"
            "Finished chunks wait in OUT.partial: the same command goes on from them after an interruption.",
        ),
        "evaluate": Verb(
            "judge anybody's molecules",
            "molecules.commands:evaluate",
            _evaluate_options,
            "example: scidiff molecules evaluate samples.sdf --reference data/qm9.npz --protocol corrected,edm",
        ),
    },
    export="molecules.commands:export",
    demo="molecules.commands:demo",
    demo_checkpoint=_DEFAULT,
)
