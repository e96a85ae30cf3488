"""What the pictures of all domains share: colours, figures on their own canvas, atomic files, films.

matplotlib's global settings and its current figure are never touched.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from scidiff.files import atomic_path

__all__ = ["CATEGORIES", "GENERATED", "INK", "REFERENCE", "new_figure", "pixels", "save_figure", "write_film"]

GENERATED, REFERENCE, INK = "#d1495b", "#9aa5b1", "#2f3e4e"
"""Colours of what a model made, of real data, and of text and outlines."""

CATEGORIES = (
    "#3d5a80",
    "#e07a5f",
    "#2a9d8f",
    "#e9c46a",
    "#8d6a9f",
    "#577590",
    "#bc4749",
    "#6a994e",
    "#b08968",
    "#118ab2",
)
"""Colours of things that have no order: particles, agents, communities."""


def new_figure(width: float, height: float, *, dpi: int = 130, constrained: bool = True) -> Figure:
    """A white figure on its own canvas.

    Args:
        width: In inch.
        height: In inch.
        dpi: Pixels per inch.
        constrained: Whether matplotlib arranges the axes.
    """
    layout = "constrained" if constrained else None
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], *, format: str | None = None) -> Path:
    """Write a figure, whole or not at all; the suffix chooses the format unless it is given."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=format)
    return Path(path)


def pixels(figure: Figure) -> np.ndarray:
    """A drawn figure as (height, width, 3) bytes."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_film(
    pictures: Sequence[np.ndarray], path: str | os.PathLike[str], *, seconds: float, last: float = 0.0
) -> Path:
    """Write an endless GIF.

    Args:
        pictures: Bytes (height, width, 3) of each, see `pixels`.
        path: Output file.
        seconds: Length of the film; a picture stays for 20 milliseconds at least.
        last: Seconds for which the last picture stays longer.
    """
    pause = max(20, round(1000 * seconds / len(pictures)))
    pauses = [pause] * (len(pictures) - 1) + [pause + round(1000 * last)]
    first, *others = (Image.fromarray(picture) for picture in pictures)
    with atomic_path(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=pauses, loop=0)
    return Path(path)
