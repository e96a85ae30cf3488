"""Pictures of generated molecules: structure diagrams, ball-and-stick views, histograms against a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molecules.ball_and_stick import draw_grid_3d, draw_molecule_3d
from molecules.chemistry import BOND_CLASSES, MoleculeRecord
from molecules.depict import draw_grid, grid_png
from molecules.distributions import SetStatistics, collect
from molecules.harmonize import harmonize
from scidiff.figures import GENERATED, REFERENCE, new_figure, save_figure

__all__ = ["draw_grid", "draw_grid_3d", "draw_molecule_3d", "grid_png", "plot_distributions", "plot_properties"]

_SMOOTH_LENGTH, _SMOOTH_ANGLE = 2, 20
_BINS = 40


def plot_distributions(
    generated: Sequence[MoleculeRecord], reference: Sequence[MoleculeRecord], path: str | Path, *, dpi: int = 130
) -> None:
    """Sizes, bond lengths by class, bond angles and dihedrals of two sets in one figure.

    Args:
        generated: Generated molecules.
        reference: Real molecules; brought to the same representation of hydrogens and aromatic bonds.
        path: Output file (.png, .pdf or .svg).
        dpi: Pixels per inch.

    Raises:
        ValueError: If one of the sets is empty.
    """
    if not len(generated) or not len(reference):
        raise ValueError(f"expected two sets with molecules, got {len(generated)} and {len(reference)}.")
    generated, reference, _ = harmonize(generated, reference)
    pair = collect(generated), collect(reference)
    classes = [k for k in range(1, len(BOND_CLASSES)) if any(stats.lengths[k].any() for stats in pair)]
    panels = [("atoms per molecule", _sizes)]
    panels += [(f"{BOND_CLASSES[k]} bond length (Å)", _Lengths(k)) for k in classes]
    panels += [("bond angle (degree)", _angles), ("dihedral angle (degree)", _dihedrals)]
    columns = -(-len(panels) // 2)
    rows = 2
    figure = new_figure(3.1 * columns, 2.4 * rows, dpi=dpi)
    axes = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    for axis, (title, curve) in zip(axes, panels):
        _panel(axis, title, *(curve(stats) for stats in pair))
    for axis in axes[len(panels) :]:
        axis.axis("off")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    save_figure(figure, path)


def plot_properties(
    generated: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    path: str | Path,
    *,
    wishes: Mapping[str, float] | None = None,
    dpi: int = 130,
) -> None:
    """Histograms of properties of generated molecules against those of the data, with the wished values as lines.

    Args:
        generated: Values by name, NaN for failures, for example ``{"logp": mols.values("logp")}``.
        reference: Values of the data under the same names, for example ``dataset.properties``.
        path: Output file (.png, .pdf or .svg).
        wishes: Wished value by name.
        dpi: Pixels per inch.

    Raises:
        ValueError: If there is no property, or the reference lacks one or knows no value of it.
    """
    known = {name: _finite(reference.get(name, np.zeros(0))) for name in generated}
    if not known or not all(len(values) for values in known.values()):
        missing = ", ".join(name for name, values in known.items() if not len(values)) or "none was given"
        raise ValueError(f"expected properties with values of the reference, but {missing} has none.")
    figure = new_figure(3.1 * len(known), 2.6, dpi=dpi)
    axes = np.atleast_1d(figure.subplots(1, len(known)))
    for axis, (name, theirs) in zip(axes, known.items()):
        ours = _finite(generated[name])
        both = np.concatenate([ours, theirs])
        edges = np.linspace(both.min(), both.max(), _BINS + 1)
        centres = (edges[:-1] + edges[1:]) / 2
        shares = [np.histogram(values, edges)[0] / max(len(values), 1) for values in (ours, theirs)]
        _panel(axis, name, (centres, shares[0]), (centres, shares[1]))
        if wishes and name in wishes:
            axis.axvline(wishes[name], color="#333333", lw=1.0, ls="--", label="wished")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    save_figure(figure, path)


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return values[np.isfinite(values)]


class _Lengths:
    """Lengths of one bond class: bin centres and shares."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __call__(self, stats: SetStatistics) -> tuple[np.ndarray, np.ndarray]:
        return _coarse(stats.lengths[self.code], 0.01, _SMOOTH_LENGTH)


def _sizes(stats: SetStatistics) -> tuple[np.ndarray, np.ndarray]:
    return _coarse(stats.sizes, 1.0, 1)


def _angles(stats: SetStatistics) -> tuple[np.ndarray, np.ndarray]:
    return _coarse(stats.angles.sum(axis=0), 0.1, _SMOOTH_ANGLE)


def _dihedrals(stats: SetStatistics) -> tuple[np.ndarray, np.ndarray]:
    return _coarse(stats.dihedrals.sum(axis=0), 0.1, _SMOOTH_ANGLE)


def _coarse(counts: np.ndarray, width: float, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Histogram in bins ``group`` times as wide: positions of the bins and shares."""
    padded = np.pad(counts, (0, -len(counts) % group)).reshape(-1, group).sum(axis=1)
    centres = width * (group * np.arange(len(padded)) + (group - 1) / 2)
    return centres, padded / max(padded.sum(), 1)


def _panel(axis: Any, title: str, ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> None:
    """The reference as a filled step, the generated set as a line."""
    used = np.flatnonzero(ours[1] + theirs[1] > 1e-4)
    if len(used):
        window = slice(max(used[0] - 1, 0), used[-1] + 2)
        x, y = theirs[0][window], theirs[1][window]
        axis.fill_between(x, y, step="mid", color=REFERENCE, lw=0, alpha=0.7, label="reference")
        axis.step(ours[0][window], ours[1][window], where="mid", color=GENERATED, lw=1.4, label="generated")
    axis.set_xlabel(title, fontsize=9)
    axis.set_ylim(bottom=0.0)
    axis.set_yticks([])
    axis.tick_params(labelsize=8)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
