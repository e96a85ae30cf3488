"""Pictures of trajectories: paths that fade into the past, and films.

Figures are built on their own canvas; matplotlib's global settings and its current figure are never touched. Positions
in space are shown along the two directions in which they vary most.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from scidiff.files import atomic_path

__all__ = ["draw_paths", "flat_view", "write_gif"]

_COLOURS = (
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
_GIVEN = "#9aa5b1"
_FAINTEST = 0.08
_MOST_FRAMES = 60


def flat_view(frames: np.ndarray) -> np.ndarray:
    """Positions (..., D) about their mean, along their two directions of largest variance, (..., 2)."""
    values = np.asarray(frames, dtype=np.float64)
    flat = values.reshape(-1, values.shape[-1])
    centred = flat - flat.mean(0)
    if values.shape[-1] > 2:
        centred = centred @ np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
    return centred.reshape(*values.shape[:-1], -1)


def draw_paths(frames: np.ndarray, path: str | os.PathLike[str], *, cond_frames: int = 0) -> Path:
    """Draw the paths of one or several systems as a PNG; given frames are grey, later ones darken with time.

    Args:
        frames: Positions (F, N, D), or (B, F, N, D) for a row of panels.
        path: File to write.
        cond_frames: Number of given frames at the start.

    Raises:
        ValueError: If there are fewer than two frames or two dimensions.
    """
    systems = _checked(frames)
    figure = Figure(figsize=(3.2 * len(systems), 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, system in zip(figure.subplots(1, len(systems), squeeze=False)[0], systems, strict=True):
        view = flat_view(system)
        _prepare(axes, view)
        _draw(axes, view, len(view), cond_frames)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return Path(path)


def write_gif(
    frames: np.ndarray, path: str | os.PathLike[str], *, cond_frames: int = 0, seconds: float = 5.0, tail: int = 10
) -> Path:
    """Write a film of one system as a GIF of at most 60 pictures, each with the last frames of every path.

    Args:
        frames: Positions (F, N, D).
        path: File to write.
        cond_frames: Number of given frames at the start, which are grey.
        seconds: Length of the film.
        tail: Frames of the path behind each node.

    Raises:
        ValueError: If there are fewer than two frames or two dimensions.
    """
    view = flat_view(_checked(frames)[0])
    figure = Figure(figsize=(3.0, 3.0), dpi=80)
    canvas = FigureCanvasAgg(figure)
    shown = np.unique(np.linspace(0, len(view) - 1, min(len(view), _MOST_FRAMES)).round().astype(int))
    pictures = []
    for last in shown:
        figure.clear()
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        _prepare(axes, view)
        _draw(axes, view, int(last) + 1, cond_frames, tail)
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    with atomic_path(path) as temporary:
        duration = max(20, round(1000 * seconds / len(pictures)))
        pictures[0].save(temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    return Path(path)


def _checked(frames: np.ndarray) -> np.ndarray:
    values = np.asarray(frames)
    values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[1] < 2 or values.shape[3] < 2 or 0 in values.shape:
        raise ValueError(f"expected frames (F, N, D) or (B, F, N, D) with F and D of at least 2, got {values.shape}.")
    return values


def _prepare(axes: Axes, view: np.ndarray) -> None:
    """The same square for all frames."""
    half = 1.08 * max(float(np.abs(view).max()), 1e-9)
    axes.set(xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)


def _draw(axes: Axes, view: np.ndarray, end: int, cond_frames: int, tail: int | None = None) -> None:
    """Paths (F, N, 2) up to frame ``end`` and the nodes there."""
    start = 0 if tail is None else max(0, end - 1 - tail)
    for n in range(view.shape[1]):
        own = to_rgb(_COLOURS[n % len(_COLOURS)])
        pieces = np.stack([view[start : end - 1, n], view[start + 1 : end, n]], 1)
        strength = np.linspace(_FAINTEST, 1, len(pieces) + 1)[1:]
        paints = [(*(to_rgb(_GIVEN) if start + k + 1 < cond_frames else own), float(a)) for k, a in enumerate(strength)]
        axes.add_collection(LineCollection(list(pieces), colors=paints, linewidths=1.6, capstyle="round"))
        axes.plot(*view[end - 1, n], "o", color=to_rgb(_GIVEN) if end <= cond_frames else own, markersize=5)
