"""Graphs in bulk: `GraphGenerator.sample` cut into chunks for several devices and for interrupted runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from graphs.data.attributes import Attributes
from graphs.data.graph_set import GraphSet, joined
from graphs.graph_list import GraphList
from scidiff import random
from scidiff.chunks import Chunks
from scidiff.generation import generate

if TYPE_CHECKING:
    from graphs.generator import GraphGenerator

__all__ = ["sample_in_chunks"]

_ARRAYS = ("node_label", "x", "edge_label", "edge_x", "graph_label")


def sample_in_chunks(
    generator: GraphGenerator,
    n: int,
    folder: str | os.PathLike[str],
    *,
    origin: str,
    seed: int = 0,
    steps: int | None = None,
    solver: str | None = None,
    graph_nodes: int | None = None,
    label: Any = None,
    guidance_scale: float = 1.0,
    fixed: nx.Graph | None = None,
    keep: str = "all",
    **options: Any,
) -> tuple[GraphList, Chunks] | None:
    """Draw the graphs of ``generator.sample(n, ...)`` chunk by chunk, on the devices that Lightning is told to use.

    Args:
        generator: Trained generator.
        n: How many.
        folder: Working folder, see `scidiff.chunks.Chunks`; an interrupted run goes on from it.
        origin: What tells the generator from others, for example the `fingerprint` of its checkpoint.
        seed: Graph i has the seed (seed, i).
        steps: Solver steps.
        solver: Name of the solver.
        graph_nodes: Number of nodes, or None for the sizes of the training data.
        label: Graph label to condition on.
        guidance_scale: Strength of the label.
        fixed: Known part.
        keep: ``"all"`` or ``"largest_component"``.
        options: Further options of `scidiff.generation.generate`: ``batch_size``, ``devices``, ...

    Returns:
        The graphs, and the chunks to be removed when they are in their final file; None in the processes that have no
        more to do.
    """
    least = 0 if fixed is None else len(fixed)
    sizes = generator._sizes(n, graph_nodes, random.seed_table(seed, n), least)
    chosen = {"steps": steps, "solver": solver, "label": label, "guidance_scale": guidance_scale, "keep": keep}
    draw = _Draw(generator, seed, sizes, {**chosen, "fixed": fixed})
    known = None if fixed is None else repr((list(fixed.nodes(data=True)), list(fixed.edges(data=True))))
    request = {"samples": "graphs", "origin": origin, "n": n, "graph_nodes": graph_nodes, "seed": seed, "fixed": known}
    chunks = Chunks(folder, {**request, **chosen})
    count = generator.sampling["steps"] if steps is None else steps
    order = np.argsort(sizes, kind="stable")
    if not generate(draw, generator.denoiser, order, chunks, steps=count, **options):
        return None
    return draw.collect(chunks, n), chunks


class _Draw:
    """Graphs of some indices as arrays, and back; picklable, as some strategies need."""

    def __init__(self, generator: GraphGenerator, seed: int, sizes: np.ndarray, options: dict[str, Any]) -> None:
        self.generator, self.seed, self.sizes, self.options = generator, seed, sizes, options

    def __call__(self, index: np.ndarray, advance: Callable[[], None]) -> dict[str, np.ndarray]:
        new = self.generator.sample(
            len(index),
            num_nodes=self.sizes[index].tolist(),
            seed=[(self.seed, int(i)) for i in index],
            batch_size=len(index),
            progress=advance,
            **self.options,
        )
        graphs = new.graph_set
        arrays = {name: value for name in _ARRAYS if (value := getattr(graphs, name)) is not None}
        flat = {"num_nodes": graphs.sizes, "num_edges": graphs.num_edges, "edges": graphs.edges}
        attributes = np.array(json.dumps(graphs.attributes.to_dict()))
        return {**flat, **arrays, "attributes": attributes, "nfe": np.array(new.nfe)}

    def collect(self, chunks: Chunks, n: int) -> GraphList:
        """The graphs of all chunks in order."""
        parts, order, nfe = [], [], 0
        for index, arrays in chunks:
            nfe = int(arrays.pop("nfe"))
            attributes = Attributes.from_dict(json.loads(str(arrays.pop("attributes"))))
            parts.append(GraphSet(**arrays, attributes=attributes))  # pyright: ignore[reportArgumentType]
            order.append(index)
        graphs = joined(parts).subset(np.argsort(np.concatenate(order)))
        return GraphList(graphs, random.seed_pairs(self.seed, n), nfe)
