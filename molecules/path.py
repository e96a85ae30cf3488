"""The way from noise to a molecule: one record a solver step, as a multi-frame XYZ file or a film."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molecules.ball_and_stick import draw_molecule_3d, principal_turn
from molecules.fragments import fixed_parts, laid_onto
from molecules.generator import MoleculeGenerator
from molecules.io import write_trajectory_xyz
from molecules.records import MoleculeRecord
from scidiff.figures import new_figure, pixels, write_film

__all__ = ["denoising_path", "draw_film", "write_path"]

_LAST = 1.5  # seconds for which the finished molecule stays


def denoising_path(generator: MoleculeGenerator, *, seed: Any = 0, **options: Any) -> list[MoleculeRecord]:
    """States of one molecule after every step, in angstrom, and the molecule itself as the last one.

    Args:
        generator: Trained generator.
        seed: Seed of the molecule: ``(s, k)`` for molecule k of ``sample(n, seed=s)``, or an int s for (s, 0).
        **options: Further options of `MoleculeGenerator.sample`.
    """
    frames: list[MoleculeRecord] = []
    pair = seed if isinstance(seed, tuple) else (int(seed), 0)
    mols = generator.sample(1, seed=[pair], watch=lambda records: frames.extend(records), **options)
    frames.append(mols[0])
    fixed = options.get("fixed")
    if fixed is None:
        return frames
    (part,) = fixed_parts(fixed, options.get("fixed_atoms"), 1, generator.spec)
    return [laid_onto(frame, part) for frame in frames]


def write_path(frames: Sequence[MoleculeRecord], path: str | Path) -> None:
    """Write a path as extended XYZ, one frame a state.

    Raises:
        ValueError: If there is no frame.
    """
    _check(frames)
    write_trajectory_xyz(path, np.stack([f.numbers for f in frames]), np.stack([np.asarray(f.pos) for f in frames]))


def draw_film(
    frames: Sequence[MoleculeRecord], path: str | Path, *, seconds: float = 4.0, size: float = 3.2, dpi: int = 90
) -> None:
    """Draw a path as an animated GIF, seen as its last frame is seen best; the last frame stays a while.

    Args:
        frames: States of one molecule.
        path: Output file, .gif.
        seconds: Length of the film.
        size: Width and height in inch.
        dpi: Pixels per inch.

    Raises:
        ValueError: If there is no frame or the name does not end in .gif.
    """
    _check(frames)
    if Path(path).suffix.lower() != ".gif":
        raise ValueError(f"a film is named *.gif, got {str(path)!r}.")
    clouds = [np.asarray(frame.pos) for frame in frames]
    turn = principal_turn(clouds[-1])
    extent = 1.15 * max(float(np.abs(pos - pos.mean(axis=0)).max()) for pos in clouds)
    images = [_image(frame, turn, extent, size, dpi) for frame in frames]
    write_film(images, path, seconds=seconds, last=_LAST)


def _image(record: MoleculeRecord, turn: np.ndarray, extent: float, size: float, dpi: int) -> np.ndarray:
    figure = new_figure(size, size, dpi=dpi, constrained=False)
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axis.axis("off")
    draw_molecule_3d(axis, record, turn=turn, extent=extent)
    return pixels(figure)


def _check(frames: Sequence[MoleculeRecord]) -> None:
    if not len(frames):
        raise ValueError("a path needs at least one frame; see molecules.path.denoising_path.")
