"""Pictures of trajectories: paths that fade into the past, statistics of motion, and films.

Positions in space are shown along the two directions in which they vary most.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb

from scidiff.figures import CATEGORIES, GENERATED, REFERENCE, new_figure, pixels, save_figure, write_film
from trajectories.baselines import constant_velocity, stay
from trajectories.batch import TrajectoryBatch
from trajectories.data.md import bond_hops
from trajectories.metrics import accelerations, pair_distances, relative_energy_drift, speeds, velocity_autocorrelation

__all__ = ["draw_ensemble", "draw_paths", "draw_statistics", "flat_view", "write_gif"]

_SIDES, _NAMES = (REFERENCE, GENERATED), ("real", "generated")
_ELEMENTS = {1: "#c9d1d9", 6: "#3d5a80", 7: "#2a9d8f", 8: "#e07a5f", 9: "#6a994e"}
_FAINTEST = 0.2
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
    figure = new_figure(3.2 * len(systems), 3.2, dpi=120)
    for axes, system in zip(figure.subplots(1, len(systems), squeeze=False)[0], systems, strict=True):
        view = flat_view(system)
        _prepare(axes, view)
        _draw(axes, view, len(view), cond_frames)
    return save_figure(figure, path, format="png")


def draw_ensemble(
    samples: np.ndarray, path: str | os.PathLike[str], *, cond_frames: int = 0, target: np.ndarray | None = None
) -> Path:
    """Draw several futures of one system as a PNG: the given frames once, every sample as a fan of faint paths.

    Args:
        samples: Positions (K, F, N, D).
        path: File to write.
        cond_frames: Number of given frames at the start, the same in all samples.
        target: What happened (F, N, D), dashed.

    Raises:
        ValueError: If there are fewer than two frames or two dimensions.
    """
    values = _checked(samples)
    count = len(values)
    view = flat_view(values if target is None else np.concatenate([values, np.asarray(target)[None]]))
    figure = new_figure(4.2, 4.2, dpi=120, constrained=False)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    _prepare(axes, view)
    joint = max(cond_frames - 1, 0)
    alpha = max(0.12, 1.0 / count**0.5)
    for n in range(view.shape[2]):
        own = to_rgb(CATEGORIES[n % len(CATEGORIES)])
        for sample in view[:count]:
            axes.plot(*sample[joint:, n].T, color=own, alpha=alpha, linewidth=1.4, solid_capstyle="round")
            axes.plot(*sample[-1, n], "o", color=own, alpha=alpha, markersize=5, markeredgewidth=0)
        if cond_frames > 1:
            axes.plot(*view[0, :cond_frames, n].T, color=REFERENCE, linewidth=2.0, solid_capstyle="round")
        if cond_frames:
            axes.plot(*view[0, joint, n], "o", color=REFERENCE, markersize=5)
        if target is not None:
            axes.plot(*view[-1, joint:, n].T, color="black", linewidth=1.0, linestyle=(0, (3, 2)))
    return save_figure(figure, path, format="png")


def draw_statistics(
    generated: TrajectoryBatch, reference: TrajectoryBatch, path: str | os.PathLike[str], *, cond_frames: int = 0
) -> Path:
    """Draw generated beside real motion as a PNG: speeds, pair distances, memory of velocities, and energies or errors.

    The last panel shows the relative energy drift of simulated systems (median and middle half); for other forecasts
    the displacement error by frame, beside that of constant velocity; else accelerations.

    Args:
        generated: Trajectories of at least three new frames.
        reference: Real ones; for forecasts the same systems in the same order.
        path: File to write.
        cond_frames: Given frames at the start, which are left out.

    Raises:
        ValueError: If there are fewer than three new frames.
    """
    dt = reference.dt if reference.dt is not None else 1.0
    length, time = _units(reference)
    frames = min(generated.pos.shape[2], reference.pos.shape[2])
    sides = [batch.pos[:, :, cond_frames:frames].double().cpu().numpy() for batch in (reference, generated)]
    figure = new_figure(9.0, 6.4, dpi=110)
    panels = figure.subplots(2, 2).ravel()
    _densities(panels[0], [speeds(x, dt) for x in sides], _label("speed", length and f"{length} / {time}"))
    if sides[0].shape[1] > 1:
        _densities(panels[1], [pair_distances(x) for x in sides], _label("distance of a pair", length))
    else:
        panels[1].set_axis_off()
    lags = np.arange(max(2, min(x.shape[2] for x in sides) // 2))  # beyond, few pairs of frames are left
    for x, colour, label in zip(sides, _SIDES, _NAMES, strict=True):
        memory = velocity_autocorrelation(x)[: len(lags)]
        panels[2].plot(lags * dt, memory, color=colour, label=label, linewidth=1.8)
    panels[2].axhline(0, color=REFERENCE, linewidth=0.8)
    panels[2].set(xlabel=_label("lag", time), ylabel="autocorrelation of velocities")
    _last_panel(panels[3], generated, reference, sides, dt, cond_frames)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    return save_figure(figure, path, format="png")


def write_gif(
    frames: np.ndarray,
    path: str | os.PathLike[str],
    *,
    cond_frames: int = 0,
    seconds: float = 5.0,
    tail: int = 10,
    z: np.ndarray | None = None,
) -> Path:
    """Write a film of one system as a GIF of at most 60 pictures, each with the last frames of every path.

    A molecule is shown by its atoms and bonds (pairs up to 1.6 angstrom in the given frames), grey as long as it is
    given, about its centre and without its rotation.

    Args:
        frames: Positions (F, N, D).
        path: File to write.
        cond_frames: Number of given frames at the start, which are grey.
        seconds: Length of the film.
        tail: Frames of the path behind each node.
        z: Atomic numbers (N,) of a molecule in space.

    Raises:
        ValueError: If there are fewer than two frames or two dimensions.
    """
    system = _checked(frames)[0]
    is_molecule = z is not None and system.shape[-1] == 3
    view = flat_view(_turned(system) if is_molecule else system)
    bonds = np.argwhere(np.triu(bond_hops(system[: max(cond_frames, 1)]) == 1)) if is_molecule else None
    figure = new_figure(3.0, 3.0, dpi=80, constrained=False)
    shown = np.unique(np.linspace(0, len(view) - 1, min(len(view), _MOST_FRAMES)).round().astype(int))
    pictures = []
    for last in shown:
        figure.clear()
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        _prepare(axes, view)
        if z is None or bonds is None:
            _draw(axes, view, int(last) + 1, cond_frames, tail)
        else:
            _draw_molecule(axes, view[last], bonds, z, last < cond_frames)
        pictures.append(pixels(figure))
    return write_film(pictures, path, seconds=seconds)


def _checked(frames: np.ndarray) -> np.ndarray:
    values = np.asarray(frames)
    values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[1] < 2 or values.shape[3] < 2 or 0 in values.shape:
        raise ValueError(f"expected frames (F, N, D) or (B, F, N, D) with F and D of at least 2, got {values.shape}.")
    return values


def _prepare(axes: Axes, view: np.ndarray) -> None:
    """The same square for all frames, about the middle of what is drawn."""
    flat = view.reshape(-1, 2)
    low, high = flat.min(0), flat.max(0)
    (x, y), half = (low + high) / 2, 0.55 * max(float((high - low).max()), 1e-9)
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)


def _draw(axes: Axes, view: np.ndarray, end: int, cond_frames: int, tail: int | None = None) -> None:
    """Paths (F, N, 2) up to frame ``end`` and the nodes there."""
    start = 0 if tail is None else max(0, end - 1 - tail)
    for n in range(view.shape[1]):
        own = to_rgb(CATEGORIES[n % len(CATEGORIES)])
        pieces = np.stack([view[start : end - 1, n], view[start + 1 : end, n]], 1)
        strength = np.linspace(_FAINTEST, 1, len(pieces) + 1)[1:]
        paints = [_faded(to_rgb(REFERENCE) if start + k + 1 < cond_frames else own, a) for k, a in enumerate(strength)]
        axes.add_collection(LineCollection(list(pieces), colors=paints, linewidths=1.6, capstyle="round"))
        axes.plot(*view[end - 1, n], "o", color=to_rgb(REFERENCE) if end <= cond_frames else own, markersize=5)


def _faded(colour: tuple[float, float, float], strength: float) -> tuple[float, float, float]:
    """The colour on white; opaque, or the ends of pieces that overlap would show as dots."""
    red, green, blue = (1 - float(strength) * (1 - part) for part in colour)
    return red, green, blue


def _draw_molecule(axes: Axes, view: np.ndarray, bonds: np.ndarray, z: np.ndarray, is_given: bool) -> None:
    """Bonds (P, 2) and atoms (N, 2), hydrogens small."""
    axes.add_collection(LineCollection(list(view[bonds]), colors=REFERENCE, linewidths=4.0, capstyle="round"))
    paints = [REFERENCE if is_given else _ELEMENTS.get(int(number), CATEGORIES[0]) for number in z]
    axes.scatter(*view.T, s=np.where(z == 1, 60, 170), c=paints, edgecolors="white", linewidths=0.8, zorder=2)


def _turned(frames: np.ndarray) -> np.ndarray:
    """Frames (F, N, 3) about their centres, each turned onto the one before (Kabsch)."""
    found = [frames[0] - frames[0].mean(0)]
    for frame in frames[1:]:
        moved = frame - frame.mean(0)
        u, _, vt = np.linalg.svd(moved.T @ found[-1])
        u[:, -1] *= np.sign(np.linalg.det(u @ vt))
        found.append(moved @ u @ vt)
    return np.stack(found)


def _units(batch: TrajectoryBatch) -> tuple[str, str]:
    """Units of length and time for labels, "" for arbitrary ones."""
    known = {"angstrom": ("\N{LATIN CAPITAL LETTER A WITH RING ABOVE}", "fs"), "metre": ("m", "s")}
    length, time = known.get(batch.unit or "", ("", ""))
    return length, "frames" if batch.dt is None else time


def _label(text: str, unit: str) -> str:
    return f"{text} ({unit})" if unit else text


def _densities(axes: Axes, values: list[np.ndarray], label: str) -> None:
    """Histograms of both sides, over the range that holds all but the last thousandth of either."""
    high = max(float(np.quantile(v, 0.999)) for v in values)
    low = min(float(v.min()) for v in values)
    edges = np.linspace(low, max(high, low + 1e-9), 61)
    for v, colour, name in zip(values, _SIDES, _NAMES, strict=True):
        density = np.histogram(v, edges)[0] / (v.size * (edges[1] - edges[0]))
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(density, edges, color=colour, label=name, linewidth=1.5)
    axes.set(xlabel=label, ylabel="density", xlim=(edges[0], edges[-1]))


def _last_panel(
    axes: Axes,
    generated: TrajectoryBatch,
    reference: TrajectoryBatch,
    sides: list[np.ndarray],
    dt: float,
    cond_frames: int,
) -> None:
    found = [relative_energy_drift(batch, reference.meta, dt) for batch in (reference, generated)]
    drifts = [drift for drift in found if drift is not None]
    if len(drifts) == 2:
        for drift, colour in zip(drifts, _SIDES, strict=True):
            time = np.arange(1, drift.shape[1] + 1) * dt
            low, middle, high = np.quantile(drift, [0.25, 0.5, 0.75], axis=0)
            axes.plot(time, middle, color=colour, linewidth=1.8)
            axes.fill_between(time, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel=_label("time", _units(reference)[1]), ylabel="relative energy drift", ylim=(0, None))
        return
    if not cond_frames:
        _densities(axes, [np.linalg.norm(accelerations(x, dt), axis=-1) for x in sides], "acceleration")
        return
    count = len(generated) // len(reference)
    truth = np.repeat(sides[0], max(count, 1), axis=0)[: len(sides[1])]
    frames = np.arange(1, truth.shape[2] + 1) * dt
    past = reference.pos[:, :, :cond_frames].double().cpu().numpy()
    guesses = {"generated": sides[1], "last frame": stay(past, truth.shape[2])}
    errors = {
        name: np.linalg.norm(x - (truth if name == "generated" else sides[0]), axis=-1).mean((0, 1))
        for name, x in guesses.items()
    }
    top = 1.15 * max(float(error.max()) for error in errors.values())
    if cond_frames > 1:  # of molecules it is soon far off
        guess = constant_velocity(past, truth.shape[2])
        errors["constant velocity"] = np.linalg.norm(guess - sides[0], axis=-1).mean((0, 1))
    styles = {"generated": (_SIDES[1], "-"), "last frame": (REFERENCE, "-"), "constant velocity": (REFERENCE, "--")}
    for name, error in errors.items():
        axes.plot(frames, error, styles[name][1], color=styles[name][0], label=name, linewidth=1.8)
    length, time = _units(reference)
    after = _label("time after the last given frame", time)
    axes.set(xlabel=after, ylabel=_label("displacement error", length), ylim=(0, top))
    axes.legend(frameon=False)
