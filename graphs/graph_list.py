"""`GraphList`: generated graphs, as a list of networkx graphs and in the forms of other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx

from graphs.data.batches import Batch, dense_batch
from graphs.data.convert import to_pyg
from graphs.data.graph_set import GraphSet
from graphs.data.spec import GraphSpec
from graphs.path import DenoisingPath

if TYPE_CHECKING:
    from graphs.evaluate import GraphReport

__all__ = ["GraphList"]


class GraphList(list[nx.Graph]):
    """A list of `networkx.Graph` with all attributes.

    Args:
        graphs: The same graphs as flat arrays.
        seeds: Seed of each graph.
        nfe: Network evaluations that a graph took.
        path: Estimates of the clean graphs on the way, if they were kept.

    Attributes:
        graph_set: The graphs as a `GraphSet`, which evaluation and files use.

    Example:
        >>> new = generator.sample(20, seed=0)
        >>> new[0].nodes(data=True)
        >>> new.save("samples.npz")
    """

    def __init__(
        self,
        graphs: GraphSet,
        seeds: Sequence[tuple[int, int]] = (),
        nfe: int = 0,
        path: DenoisingPath | None = None,
    ) -> None:
        super().__init__(graphs)
        self.graph_set = graphs
        self.seeds = list(seeds)
        self.nfe = nfe
        self.path = path

    def __repr__(self) -> str:
        return f"GraphList({self.graph_set!r})"

    def _repr_png_(self) -> bytes | None:
        """Picture of the first graphs, shown by notebooks."""
        from graphs.plots import grid_png

        return grid_png(self.graph_set) if len(self) else None

    def to_pyg(self) -> list[Any]:
        """PyTorch Geometric ``Data`` objects, see `graphs.data.convert.to_pyg`."""
        return to_pyg(self.graph_set)

    def to_dense(self) -> Batch:
        """One padded batch, see `graphs.data.batches.Batch`; real features are standardised by this list."""
        return dense_batch(GraphSpec.from_graphs(self.graph_set).pad(self.graph_set))

    def save(self, path: str | Path) -> Path:
        """Write the graphs in the format of the suffix: ``.npz`` (lossless), or those of `graphs.io`."""
        from graphs.io import write_graphs

        write_graphs(self.graph_set, path)
        return Path(path)

    def plot(self, path: str | Path, **options: Any) -> None:
        """Draw a grid of the first graphs; ``options`` are those of `graphs.plots.draw_grid`."""
        from graphs.plots import draw_grid

        draw_grid(self.graph_set, path, **options)

    def film(self, path: str | Path, **options: Any) -> None:
        """Draw the denoising as an animation (.gif); ``options`` are those of `graphs.plots.draw_path`.

        Raises:
            ValueError: If the graphs were drawn without ``path=True``.
        """
        from graphs.plots import draw_path

        if self.path is None:
            raise ValueError("the way to these graphs was not kept: draw them with sample(..., path=True).")
        draw_path(self.path, path, **options)

    def report(self, reference: Any, **options: Any) -> GraphReport:
        """Judge the graphs against a reference; ``options`` are those of `graphs.evaluate.evaluate`."""
        from graphs.evaluate import evaluate

        return evaluate(self.graph_set, reference, **options)

    @property
    def rdkit(self) -> list[Any]:
        """Molecules: sanitised RDKit molecules, None where the valences fail (see `graphs.chemistry.judge` for why).

        Raises:
            ValueError: If the graphs are no molecules.
        """
        from graphs.chemistry import judge

        return [verdict.mol for verdict in judge(self.graph_set)]

    def smiles(self) -> list[str | None]:
        """Molecules: canonical SMILES as drawn, without correction; None where the valences fail.

        Raises:
            ValueError: If the graphs are no molecules.
        """
        from graphs.chemistry import judge

        return [verdict.raw_smiles for verdict in judge(self.graph_set)]
