"""Pictures of graphs: grids, statistics against a reference, films of a denoising."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from graphs.data.attributes import Attributes
from graphs.data.convert import as_graph_set
from graphs.data.graph_set import GraphSet
from graphs.descriptors import clustering_coefficients, eigenvalues
from graphs.layout import num_components, stress_layout
from graphs.orbits import orbits
from graphs.path import DenoisingPath
from scidiff.figures import CATEGORIES, GENERATED, REFERENCE, new_figure, pixels, save_figure, write_film

__all__ = ["draw_grid", "draw_path", "grid_png", "plot_statistics"]

_INK, _WARN = "#52606d", "#c0392b"
_SYMBOLS = {"N": "#3050f8", "O": "#e02020", "F": "#3a9d3a", "S": "#b8960c", "P": "#e07000", "Cl": "#1f8a1f"}
_EDGE_STYLES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
_DEGREE_MAP = "viridis"
_MOST_FRAMES = 60
_FAINTEST = 0.02  # probability below which an edge is not drawn


def draw_grid(
    graphs: Any,
    path: str | Path,
    *,
    max_graphs: int = 20,
    columns: int = 5,
    dpi: int = 130,
    titles: Sequence[str] | None = None,
) -> None:
    """Draw the first graphs into one picture.

    Nodes are coloured by their class (molecules: letters), or by degree without classes; edge classes have line styles,
    bond orders parallel lines. The title says how many nodes and edges there are, and in red if a graph is in pieces.

    Args:
        graphs: Anything `graphs.data.as_graph_set` takes.
        path: Output file (.png, .pdf or .svg).
        max_graphs: How many at most.
        columns: Graphs a row.
        dpi: Pixels per inch.
        titles: Titles instead of the counts.

    Raises:
        ValueError: If there is no graph.
    """
    figure = _grid(as_graph_set(graphs), max_graphs, columns, dpi, titles)
    save_figure(figure, path)


def grid_png(graphs: GraphSet, max_graphs: int = 10) -> bytes:
    """The same as PNG bytes, for notebooks."""
    stream = io.BytesIO()
    _grid(graphs, max_graphs, 5, 90, None).savefig(stream, format="png")
    return stream.getvalue()


def plot_statistics(generated: Any, reference: Any, path: str | Path, *, dpi: int = 130) -> None:
    """Sizes, edges, degrees, clustering, spectrum and orbits of two sets in one figure.

    Args:
        generated: Generated graphs.
        reference: Real graphs.
        path: Output file (.png, .pdf or .svg).
        dpi: Pixels per inch.

    Raises:
        ValueError: If one of the sets is empty.
    """
    pair = [as_graph_set(graphs) for graphs in (generated, reference)]
    if not all(len(graphs) for graphs in pair):
        raise ValueError(f"expected two sets with graphs, got {len(pair[0])} and {len(pair[1])}.")
    figure = new_figure(9.6, 5.0, dpi=dpi)
    axes = figure.subplots(2, 3).reshape(-1)
    _whole(axes[0], "nodes per graph", *(graphs.sizes for graphs in pair))
    _whole(axes[1], "edges per graph", *(graphs.num_edges for graphs in pair))
    _whole(axes[2], "degree", *(graphs.degrees for graphs in pair))
    bins = np.linspace(0, 1, 26)
    _binned(axes[3], "clustering coefficient", bins, *(clustering_coefficients(graphs) for graphs in pair))
    bins = np.linspace(0, 2, 41)
    _binned(axes[4], "eigenvalue of the normalised Laplacian", bins, *(eigenvalues(graphs) for graphs in pair))
    _orbits(axes[5], *(orbits(graphs).mean(axis=0) for graphs in pair))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    save_figure(figure, path)


def draw_path(
    path: DenoisingPath,
    file: str | Path,
    *,
    max_graphs: int = 8,
    columns: int = 4,
    dpi: int = 75,
    seconds: float = 6.0,
) -> None:
    """Draw a denoising as an animation: the estimates of the clean graphs, from noise to the samples.

    Nodes stay where the last frame has them; an edge is as dark as it is probable. Nodes have the colour of their most
    probable class, or of their expected degree. A bar shows the steps.

    Args:
        path: Estimates, see `graphs.generator.GraphGenerator.sample` with ``path=True``.
        file: Output file (.gif).
        max_graphs: How many graphs at most.
        columns: Graphs a row.
        dpi: Pixels per inch; a graph takes 2.1 inches.
        seconds: Length of the film; the last picture stays for another second and a half.

    Raises:
        ValueError: If the file does not end in .gif, or there are no graphs.
    """
    if Path(file).suffix.lower() != ".gif":
        raise ValueError(f"expected a file that ends in .gif, got {str(file)!r}.")
    count = min(max_graphs, len(path.num_nodes))
    sizes = [int(n) for n in path.num_nodes[:count]]
    is_molecular = path.attributes.is_molecular
    ends = [path.probability[-1, k, :n, :n] > 0.5 for k, n in enumerate(sizes)]
    places = [_skeleton(np.argwhere(np.triu(e, 1)), len(e)) if is_molecular else stress_layout(e) for e in ends]
    top = max((int(end.sum(1).max()) for end in ends), default=1)
    figure, axes = _canvas(count, columns, dpi)
    shown = np.unique(np.linspace(0, len(path) - 1, min(len(path), _MOST_FRAMES)).round().astype(int))
    pictures = []
    for frame in shown:
        for k, n in enumerate(sizes):
            axes[k].clear()
            _frame(axes[k], path, frame, k, places[k][:n], top)
        pictures.append(_with_bar(pixels(figure), (frame + 1) / len(path)))
    write_film(pictures, file, seconds=seconds, last=1.5)


def _frame(axis: Any, path: DenoisingPath, frame: int, k: int, pos: np.ndarray, top_degree: int) -> None:
    """One estimate of one graph."""
    n = len(pos)
    probability = path.probability[frame, k, :n, :n]
    edges = np.argwhere(np.triu(probability > _FAINTEST, 1))
    alpha = probability[*edges.T]
    labels = None if path.node_class is None else path.node_class[frame, k, :n]
    degree = probability.sum(1) - probability.diagonal()
    kinds = np.where(alpha > 0.5, path.edge_class[frame, k][*edges.T], 1)  # the rest in the style of the first class
    _paint(axis, pos, edges, kinds, labels, degree, path.attributes, top_degree, alpha)
    axis.axis("off")
    axis.set_title(f"n {n}   m {degree.sum() / 2:.1f}", fontsize=8, color=_INK, pad=3)


def _with_bar(page: np.ndarray, done: float) -> np.ndarray:
    """The page above a bar of progress."""
    bar = np.full((10, page.shape[1], 3), 255, dtype=np.uint8)
    bar[2:6, 8:-8] = (225, 229, 234)
    bar[2:6, 8 : 8 + round(done * (page.shape[1] - 16))] = (209, 73, 91)
    return np.concatenate([page, bar])


def _canvas(count: int, columns: int, dpi: int) -> tuple[Figure, Any]:
    """A white figure with a place for each graph."""
    if not count:
        raise ValueError("expected at least one graph to draw, got none.")
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(2.1 * columns, 2.25 * rows, dpi=dpi)
    axes = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    for axis in axes:
        axis.axis("off")
    return figure, axes


def _grid(graphs: GraphSet, max_graphs: int, columns: int, dpi: int, titles: Sequence[str] | None) -> Figure:
    count = min(max_graphs, len(graphs))
    figure, axes = _canvas(count, columns, dpi)
    top = int(graphs.degrees.max(initial=1))
    for k in range(count):
        _draw(axes[k], graphs, k, top, None if titles is None else titles[k])
    return figure


def _draw(axis: Any, graphs: GraphSet, k: int, top_degree: int, title: str | None) -> None:
    n, adj = int(graphs.sizes[k]), graphs.adjacency(k)
    rows = slice(graphs.edge_offsets[k], graphs.edge_offsets[k + 1])
    nodes = slice(graphs.offsets[k], graphs.offsets[k + 1])
    edges = graphs.edges[rows]
    pos = _skeleton(edges, n) if graphs.attributes.is_molecular else stress_layout(adj)
    labels = None if graphs.node_label is None else graphs.node_label[nodes]
    _paint(axis, pos, edges, graphs.classes()[rows], labels, graphs.degrees[nodes], graphs.attributes, top_degree)
    pieces = num_components(adj)
    text = f"n {n}   m {len(edges)}" + (f"   {pieces} pieces" if pieces > 1 else "")
    axis.set_title(title or text, fontsize=8, color=_WARN if pieces > 1 else _INK, pad=3)


def _paint(
    axis: Any,
    pos: np.ndarray,
    edges: np.ndarray,
    classes: np.ndarray,
    labels: np.ndarray | None,
    degree: np.ndarray,
    attributes: Attributes,
    top_degree: int,
    alpha: np.ndarray | None = None,
) -> None:
    """Edges (E, 2) with their classes and opacities, then nodes by class or degree."""
    scale = float(np.clip(1.7 / len(pos) ** 0.5, 0.12, 0.55))  # dots shrink as graphs grow
    _edges(axis, pos[edges], classes, attributes.is_molecular, scale, np.ones(len(edges)) if alpha is None else alpha)
    if attributes.is_molecular:
        assert labels is not None
        _letters(axis, pos, [attributes.node_classes[c] for c in labels], attributes.node_names)
    else:
        color = [CATEGORIES[c % len(CATEGORIES)] for c in labels.tolist()] if labels is not None else degree
        options = {} if labels is not None else {"cmap": _DEGREE_MAP, "vmin": 0, "vmax": 1.1 * top_degree}
        axis.scatter(*pos.T, s=330 * scale**2, c=color, edgecolors="white", linewidths=1.4 * scale, zorder=3, **options)
    axis.set_aspect("equal")
    axis.margins(0.12)


def _skeleton(edges: np.ndarray, num_nodes: int) -> np.ndarray:
    """Positions (n, 2) of the atoms as chemists draw them; valences do not matter."""
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    mol = Chem.RWMol()
    for _ in range(num_nodes):
        mol.AddAtom(Chem.Atom("C"))
    for i, j in edges.tolist():
        mol.AddBond(i, j, Chem.BondType.SINGLE)
    Chem.FastFindRings(mol)
    rdDepictor.Compute2DCoords(mol)
    return mol.GetConformer().GetPositions()[:, :2]


def _edges(
    axis: Any, segments: np.ndarray, classes: np.ndarray, is_molecular: bool, scale: float, alpha: np.ndarray
) -> None:
    for kind in np.unique(classes).tolist():
        chosen = classes == kind
        lines, strength = list(segments[chosen]), alpha[chosen]
        if not is_molecular:
            style = _EDGE_STYLES[(kind - 1) % len(_EDGE_STYLES)]
            options = {"linestyles": [style], "linewidths": 0.5 + 1.6 * scale, "alpha": 0.75 * strength}
            axis.add_collection(LineCollection(lines, colors=_INK, zorder=1, **options))
            continue
        for width, color in ((4.0 * kind - 2.8, _INK), (4.0 * kind - 5.2, "white"), (1.2, _INK)):
            if width > 0 and not (color == _INK and width == 1.2 and kind == 2):
                options = {"linewidths": width, "alpha": strength, "capstyle": "butt"}
                axis.add_collection(LineCollection(lines, colors=color, zorder=1, **options))


def _letters(axis: Any, pos: np.ndarray, values: list[tuple], names: tuple[str, ...]) -> None:
    """Atoms as letters on white; carbon stays a corner."""
    symbol, charge = names.index("symbol"), names.index("charge") if "charge" in names else None
    axis.scatter(*pos.T, s=8, c=_INK, zorder=2)
    for (x, y), row in zip(pos.tolist(), values):
        sign = 0 if charge is None else int(row[charge])
        if row[symbol] == "C" and not sign:
            continue
        text = row[symbol] + ("+" * sign if sign > 0 else "-" * -sign)
        axis.scatter([x], [y], s=95, c="white", zorder=2.5)
        axis.text(
            x, y, text, color=_SYMBOLS.get(row[symbol], _INK), fontsize=8, weight="bold", ha="center", va="center"
        )


def _whole(axis: Any, title: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Shares of whole numbers; many different ones are binned."""
    low, high = int(min(ours.min(), theirs.min())), int(max(ours.max(), theirs.max()))
    width = max(1, -(-(high - low + 1) // 30))
    _binned(axis, title, np.arange(low, high + width + 1, width) - 0.5, ours, theirs)


def _binned(axis: Any, title: str, bins: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> None:
    """The reference as filled steps, the generated set as a line."""
    shares = [np.histogram(values, bins=bins)[0] / max(1, len(values)) for values in (ours, theirs)]
    axis.stairs(shares[1], bins, fill=True, color=REFERENCE, alpha=0.7, label="reference")
    axis.stairs(shares[0], bins, color=GENERATED, lw=1.5, label="generated")
    _tidy(axis, title)


def _orbits(axis: Any, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Mean orbit counts a node, on a scale that shows 0 and thousands."""
    place = np.arange(len(ours))
    axis.bar(place, theirs, width=0.8, color=REFERENCE, alpha=0.7, label="reference")
    axis.plot(place, ours, "o", color=GENERATED, ms=4, label="generated")
    axis.set_yscale("symlog", linthresh=1.0)
    axis.set_xticks(place[::2])
    _tidy(axis, "orbit (mean count per node)")


def _tidy(axis: Any, title: str) -> None:
    axis.set_xlabel(title, fontsize=9)
    axis.set_ylim(bottom=0.0)
    axis.set_yticks([])
    axis.minorticks_off()
    axis.tick_params(labelsize=8)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
