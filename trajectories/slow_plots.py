"""Pictures of the slow modes of a molecule: free energies along them, real beside generated, and their memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rdkit import Chem
from scipy.ndimage import gaussian_filter

from scidiff.figures import GENERATED, INK, REFERENCE, new_figure, save_figure
from trajectories.batch import TrajectoryBatch
from trajectories.molecular import Topology
from trajectories.slow_modes import circle_features, decorrelation, tica, torsions

__all__ = ["draw_slow_modes"]

_SIDES, _NAMES = (REFERENCE, GENERATED), ("real", "generated")
_BINS, _HIGHEST = 40, 6.0  # of free energies: bins of an axis, and kT above the minimum
_DASHES = ("-", "--", ":", "-.")


def draw_slow_modes(
    generated: TrajectoryBatch,
    reference: TrajectoryBatch,
    path: str | os.PathLike[str],
    *,
    cond_frames: int = 0,
    lag: int | None = None,
) -> Path:
    """Draw the slow modes of a molecule as a PNG: free energies -log p along them, and the memory of its torsions.

    The two slowest components are those of the real trajectories (TICA on sines and cosines of all torsions), in units
    of their standard deviation; p is a histogram, smoothed by one bin.

    Args:
        generated: Trajectories of one molecule, with ``z``.
        reference: Real ones.
        path: File to write.
        cond_frames: Given frames at the start, which are left out.
        lag: Frames of the lag; a tenth of the shorter trajectories if None.

    Raises:
        ValueError: If the nodes are no atoms of one molecule, it has no torsion, or there are fewer than 20 new frames.
    """
    turns, names = _turns(generated, reference, cond_frames)
    length = min(q.shape[1] for q in turns)
    modes = tica(circle_features(turns[0]), max(1, length // 10) if lag is None else lag, num_modes=2)
    sides = [modes.transform(circle_features(q), kinetic_map=False).reshape(-1, 2) for q in turns]
    figure = new_figure(9.0, 7.2, dpi=110)
    panels = figure.subplots(2, 2)
    _surfaces(panels[0], sides)
    low, high = _range(sides)
    edges = np.linspace(low[0], high[0], _BINS + 1)
    for x, colour, label in zip(sides, _SIDES, _NAMES, strict=True):
        energy = _free_energy(np.histogram(x[:, 0], edges)[0])
        panels[1, 0].plot((edges[1:] + edges[:-1]) / 2, energy, color=colour, label=label, linewidth=1.8)
    panels[1, 0].set(xlabel="slowest component", ylabel="free energy (kT)", ylim=(0, _HIGHEST + 1))
    panels[1, 0].legend(frameon=False, loc="upper center", ncols=2)
    _memories(panels[1, 1], turns, names, reference.dt)
    for axes in panels.ravel():
        axes.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path, format="png")


def _turns(
    generated: TrajectoryBatch, reference: TrajectoryBatch, cond_frames: int
) -> tuple[list[np.ndarray], list[str]]:
    """Torsions (B, F, Q) of real and generated frames, and what they turn about."""
    z = reference.z
    if z is None or reference.pos.shape[-1] != 3 or bool((z != z[:1]).any()) or reference.node_mask is not None:
        raise ValueError("slow modes need the atomic numbers z of one molecule, the same in all systems.")
    numbers = z[0].numpy()
    real, made = (batch.frames[:, cond_frames:] for batch in (reference, generated))
    if min(real.shape[1], made.shape[1]) < 20 or real.shape[2] != made.shape[2]:
        raise ValueError(
            f"slow modes need at least 20 new frames of the same molecule, got {real.shape[1]} frames of "
            f"{real.shape[2]} and {made.shape[1]} of {made.shape[2]} atoms."
        )
    found = Topology.of(real.reshape(-1, *real.shape[2:]), numbers).torsions
    if not len(found):
        raise ValueError("the molecule has no torsion, so it has no slow modes of this kind.")
    table = Chem.GetPeriodicTable()
    names = ["\N{EN DASH}".join(table.GetElementSymbol(int(numbers[i])) for i in row) for row in found]
    return [torsions(frames, found) for frames in (real, made)], names


def _range(sides: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest values (2,) of both sides, with a margin."""
    both = np.concatenate(sides)
    low, high = both.min(0), both.max(0)
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def _free_energy(counts: np.ndarray) -> np.ndarray:
    """-log p of counts in bins, smoothed, above its minimum; NaN where there is next to nothing."""
    smooth = gaussian_filter(counts.astype(np.float64), 1.0, mode="constant")
    energy = np.log(smooth.max()) - np.log(np.where(smooth > 0, smooth, np.nan))
    return np.where(energy <= _HIGHEST, energy, np.nan)


def _surfaces(panels: np.ndarray, sides: list[np.ndarray]) -> None:
    """Free energies over the two slowest components, real and generated on one scale."""
    low, high = _range(sides)
    edges = [np.linspace(a, b, _BINS + 1) for a, b in zip(low, high, strict=True)]
    middle = [(e[1:] + e[:-1]) / 2 for e in edges]
    levels = np.arange(0, _HIGHEST + 0.5)
    for axes, x, name in zip(panels, sides, _NAMES, strict=True):
        energy = _free_energy(np.histogram2d(*x.T, bins=edges)[0])
        filled = axes.contourf(*middle, energy.T, levels=levels, cmap="YlGnBu_r")
        axes.contour(*middle, energy.T, levels=levels, colors=INK, linewidths=0.3)
        axes.set(title=name, xlabel="slowest component", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    panels[0].set_ylabel("second component")
    panels[0].figure.colorbar(filled, ax=list(panels), label="free energy (kT)", pad=0.02)


def _memories(axes: Axes, turns: list[np.ndarray], names: list[str], dt: float | None) -> None:
    """Decorrelation of each torsion, or of their mean if there are many."""
    length = min(q.shape[1] for q in turns)
    lags = np.unique(np.linspace(0, length // 2, 60).round().astype(int))
    many = len(names) > len(_DASHES)
    for q, colour in zip(turns, _SIDES, strict=True):
        curves = decorrelation(q, lags.tolist())
        for k, curve in enumerate(curves.mean(1, keepdims=True).T if many else curves.T):
            axes.plot(lags * (dt or 1.0), curve, _DASHES[k], color=colour, linewidth=1.8)
    for dashes, name in zip(_DASHES, [f"mean of {len(names)} torsions"] if many else names, strict=False):
        axes.plot([], [], dashes, color=INK, linewidth=1.2, label=name)
    axes.axhline(0, color=REFERENCE, linewidth=0.8)
    axes.set(xlabel="lag (frames)" if dt is None else "lag (fs)", ylabel="decorrelation of torsions", ylim=(None, 1.05))
    axes.legend(frameon=False)
