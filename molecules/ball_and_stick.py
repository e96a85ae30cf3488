"""Ball-and-stick pictures from generated coordinates, drawn with matplotlib.

Each molecule is turned so that its two longest principal axes lie in the page, seen a little from above, and painted
from back to front; far atoms are paler. The geometry is exactly the generated one, which is what the structure diagram
hides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Circle

from molecules.chemistry import MoleculeRecord, covalent_radii
from scidiff.figures import new_figure, save_figure

if TYPE_CHECKING:
    from molecules.molecule_list import MoleculeList

__all__ = ["draw_grid_3d", "draw_molecule_3d", "principal_turn"]

_COLOURS = {1: "#e8e8e8", 5: "#ffb5b5", 6: "#4d4d4d", 7: "#3b62d9", 8: "#dd2f2f", 9: "#6cc24a", 14: "#d9b48f"}
_COLOURS |= {15: "#f0862a", 16: "#e3b81e", 17: "#2fb04a", 35: "#9c3a2a", 53: "#8a3fb0"}
_UNKNOWN = "#c06fb0"
_STICK = "#8c8c8c"
_BAD = "#c21f1f"
_TILT = np.radians(22.0)
_BALL = 0.42
_PALE = 0.45
_MARGIN = 0.9
_FLAT = 2.0
_SMALLEST = 2.0


def draw_grid_3d(
    mols: MoleculeList,
    path: str | Path,
    *,
    max_molecules: int = 24,
    columns: int = 6,
    cell: float = 2.2,
    dpi: int = 130,
) -> None:
    """Draw the first molecules of a list in three dimensions into an image file.

    Args:
        mols: Molecules with coordinates; failed ones have a red legend and red rings around the offending atoms.
        path: Output file (.png, .pdf or .svg).
        max_molecules: Number of molecules drawn at most.
        columns: Molecules in a row.
        cell: Size of a picture in inch.
        dpi: Pixels per inch.

    Raises:
        ValueError: If the list is empty or a molecule has no coordinates.
    """
    mols = mols[:max_molecules]
    if not len(mols) or any(record.pos is None for record in mols):
        raise ValueError("expected at least one molecule and coordinates for all of them. Use draw_grid for diagrams.")
    columns = min(columns, len(mols))
    rows = -(-len(mols) // columns)
    figure = new_figure(columns * cell, rows * cell, dpi=dpi)
    axes = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    for axis in axes:
        axis.axis("off")
    for axis, record, verdict in zip(axes, mols.records, mols.verdicts):
        draw_molecule_3d(axis, record, marked=verdict.atoms)
        legend = verdict.smiles if verdict.valid else verdict.reason
        axis.set_title((legend or "")[:30], fontsize=8, color="#333333" if verdict.valid else _BAD, y=-0.04, va="top")
    save_figure(figure, path)


def draw_molecule_3d(
    axis: Any,
    record: MoleculeRecord,
    *,
    marked: Sequence[int] = (),
    turn: np.ndarray | None = None,
    extent: float | None = None,
) -> None:
    """Draw one molecule on matplotlib axes.

    Args:
        axis: The axes; limits and aspect are set.
        record: A molecule with coordinates; atoms without finite coordinates are left out.
        marked: Atoms that get a red ring.
        turn: Rotation (3, 3) that is applied to row vectors, see `principal_turn`; that of the molecule by default.
        extent: Half the width of the picture in angstrom; as large as needed by default.
    """
    pos = np.zeros((0, 3)) if record.pos is None else record.pos
    finite = np.asarray(np.isfinite(pos).all(axis=-1))
    page = np.where(finite[:, None], _oriented(pos, finite, turn), np.nan)
    radii = _BALL * np.sqrt(covalent_radii(record.numbers) / covalent_radii(np.array([6]))[0])
    depth = page[:, 2]
    seen = depth[finite]
    back, front = seen.min(initial=0.0), seen.max(initial=0.0)
    nearness = 1.0 - (front - depth) / max(front - back, _FLAT)
    for i, j in zip(*np.nonzero(np.triu(record.bonds))):
        if finite[i] and finite[j]:
            _stick(axis, page[[i, j]], int(record.bonds[i, j]), float(nearness[[i, j]].mean()))
    for i in np.flatnonzero(finite):
        colour = _COLOURS.get(int(record.numbers[i]), _UNKNOWN)
        _ball(axis, page[i], float(radii[i]), _faded(colour, float(nearness[i])), i in marked)
    needed = max(float(np.abs(page[finite, :2]).max(initial=0.0)), _SMALLEST) + _MARGIN
    half = needed if extent is None else extent
    axis.set_xlim(-half, half)
    axis.set_ylim(-half, half)
    axis.set_aspect("equal")


def principal_turn(pos: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) for row vectors: the principal axes of points (n, 3), the longest first, then a tilt.

    The last component then points to the viewer.
    """
    axes = np.linalg.svd(pos - pos.mean(axis=0), full_matrices=True)[2]
    # A proper rotation: a mirror image would be another molecule.
    axes[2] *= np.sign(np.linalg.det(axes))
    cosine, sine = np.cos(_TILT), np.sin(_TILT)
    tilt = np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
    return axes.T @ tilt.T


def _oriented(pos: np.ndarray, finite: np.ndarray, turn: np.ndarray | None = None) -> np.ndarray:
    """Coordinates (n, 3) centred and turned; the last component points to the viewer."""
    if not finite.any():
        return pos
    turn = principal_turn(pos[finite]) if turn is None else turn
    return np.where(finite[:, None], pos - pos[finite].mean(axis=0), 0.0) @ turn


def _stick(axis: Any, ends: np.ndarray, order: int, nearness: float) -> None:
    """A bond as one to three parallel lines, aromatic as a full and a dashed one."""
    direction = ends[1, :2] - ends[0, :2]
    normal = np.array([-direction[1], direction[0]]) / max(float(np.linalg.norm(direction)), 1e-6)
    count = 2 if order == 4 else max(order, 1)
    width = 3.2 if count == 1 else 2.0
    for k in range(count):
        shift = 0.16 * (k - (count - 1) / 2) * normal
        line = ends[:, :2] + shift
        style = (0, (2, 1.2)) if order == 4 and k else "-"
        colour = _faded(_STICK, nearness)
        # Behind both of its atoms, so that balls cover the ends.
        z = 2.0 * float(ends[:, 2].min())
        axis.plot(
            line[:, 0], line[:, 1], color=_rgb(colour), lw=width, ls=style, solid_capstyle="round", zorder=100 + z
        )


def _ball(axis: Any, centre: np.ndarray, radius: float, colour: np.ndarray, marked: bool) -> None:
    """A shaded ball: rim, body and a highlight towards the light."""
    z = 100 + 2.0 * float(centre[2])
    x, y = float(centre[0]), float(centre[1])
    axis.add_patch(Circle((x, y), radius, fc=_rgb(colour), ec=_rgb(0.62 * colour), lw=0.7, zorder=z + 0.2))
    for scale, weight in ((0.62, 0.18), (0.38, 0.34), (0.18, 0.6)):
        light = colour + weight * (1.0 - colour)
        shift = 0.45 * radius * (1.0 - scale)
        axis.add_patch(Circle((x - shift, y + shift), scale * radius, fc=_rgb(light), ec="none", zorder=z + 0.21))
    if marked:
        axis.add_patch(Circle((x, y), radius + 0.16, fc="none", ec=_BAD, lw=1.8, zorder=z + 0.3))


def _rgb(colour: np.ndarray) -> tuple[float, float, float]:
    return float(colour[0]), float(colour[1]), float(colour[2])


def _faded(colour: str, nearness: float) -> np.ndarray:
    """RGB of a colour, paler the farther away; nearness in [0, 1]."""
    rgb = np.array([int(colour[k : k + 2], 16) / 255.0 for k in (1, 3, 5)])
    return rgb + (1.0 - min(max(nearness, 0.0), 1.0)) * _PALE * (1.0 - rgb)
