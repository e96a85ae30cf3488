"""Neighbour lists against dense torch (batches of molecules), vesin and matscipy (one large system).

All methods of a case run in one process, one after the other in every round; a row gives medians and quartiles in
milliseconds, the ratio of medians, and whether the lists are equal (a wrong list has no time).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernels.others import radius_searches
from scidiff.kernels import NeighborList, knn_graph, radius_graph

__all__ = ["list_rows"]

CUTOFF = 5.0


def list_rows(*, quick: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the table: one a case and competitor.

    Args:
        quick: Fewer rounds.
        seed: Of the random points.
    """
    generator = torch.Generator().manual_seed(seed)
    rounds = 7 if quick else 21
    molecules = torch.rand(256, 18, 3, generator=generator) * 6
    liquid = torch.rand(10_000, 3, generator=generator, dtype=torch.float64) * 100_000 ** (1 / 3)
    return [
        *_molecule_rows(molecules, rounds),
        *_liquid_rows(liquid, rounds, periodic=False),
        *_liquid_rows(liquid, rounds, periodic=True),
        *_nearest_rows(liquid, rounds),
        *_transpose_rows(liquid, rounds),
    ]


def _molecule_rows(molecules: Tensor, rounds: int) -> list[dict[str, Any]]:
    from torch_geometric.utils import to_dense_batch

    pos, starts = molecules.flatten(0, 1), torch.arange(257) * 18
    batch = torch.arange(256).repeat_interleave(18)

    def ours() -> Tensor:
        return radius_graph(pos, CUTOFF, batch_ptr=starts).edge_index

    def dense() -> Tensor:
        close = torch.cdist(molecules, molecules) <= CUTOFF
        close.diagonal(dim1=1, dim2=2).fill_(False)
        graph, target, source = close.nonzero().unbind(1)
        return torch.stack([graph * 18 + source, graph * 18 + target])

    def padded() -> Tensor:
        """What users of PyG write for a batch of molecules of any size."""
        x, mask = to_dense_batch(pos, batch)
        close = (torch.cdist(x, x) <= CUTOFF) & mask[:, :, None] & mask[:, None, :]
        close &= ~torch.eye(x.shape[1], dtype=torch.bool)
        graph, target, source = close.nonzero().unbind(1)
        first = torch.cat([starts[:1], mask.sum(1).cumsum(0)])[graph]
        return torch.stack([first + source, first + target])

    def plain() -> Tensor:
        return radius_graph(pos, CUTOFF, batch_ptr=starts, backend="torch").edge_index

    others = {"dense torch, equal sizes": dense, "dense torch, padded from a batch": padded, "ours, torch": plain}
    equal = {name: torch.equal(ours(), method()) for name, method in others.items()}
    found = _searches(pos, batch, most=17)
    equal |= {name: _same(method(), ours()) for name, method in found.items()}
    others |= found
    methods = {"ours": ours, **others}
    return _rows("radius, 256 x 18 in boxes of 6", methods, equal, rounds)


def _liquid_rows(pos: Tensor, rounds: int, *, periodic: bool) -> list[dict[str, Any]]:
    from matscipy.neighbours import neighbour_list
    from vesin import NeighborList as Vesin

    box = np.eye(3) * float(100_000 ** (1 / 3))
    cell = torch.tensor(box) if periodic else None
    points, finder = pos.numpy(), Vesin(cutoff=CUTOFF, full_list=True)
    quantities = "ijS" if periodic else "ij"

    def ours(backend: str = "auto") -> NeighborList:
        return radius_graph(pos, CUTOFF, cell=cell, backend=backend)

    def vesin() -> Any:
        return finder.compute(points=points, box=box, periodic=periodic, quantities=quantities)

    def matscipy() -> Any:
        return neighbour_list(quantities, cutoff=CUTOFF, positions=points, cell=box, pbc=[periodic] * 3)

    mine = _canonical(ours().target.numpy(), ours().source.numpy(), ours().shifts)
    others = {"vesin": vesin, "matscipy": matscipy}
    equal = {name: np.array_equal(_canonical(*method()), mine) for name, method in others.items()}
    without = {"ours, scipy": lambda: ours("scipy"), "ours, torch": lambda: ours("torch")}
    for name, method in without.items():
        equal[name] = torch.equal(method().edge_index, ours().edge_index)
    if not periodic:
        found = _searches(pos, torch.zeros(len(pos), dtype=torch.int64), most=int(ours().degree.max()))
        equal |= {name: _same(method(), ours().edge_index) for name, method in found.items()}
        others |= found
    methods = {"ours": ours, **others, **without}
    return _rows(f"radius, 10 000 points, {'periodic' if periodic else 'open'}", methods, equal, rounds)


def _nearest_rows(pos: Tensor, rounds: int) -> list[dict[str, Any]]:
    from scipy.spatial import cKDTree

    points, k = pos.numpy(), 16

    def tree() -> np.ndarray:
        return cKDTree(points).query(points, k=k + 1)[1]

    ours = knn_graph(pos, k).source.reshape(-1, k).numpy()
    equal = {"scipy cKDTree.query": np.array_equal(np.sort(tree()[:, 1:], 1), ours)}
    methods = {"ours": lambda: knn_graph(pos, k), "scipy cKDTree.query": tree}
    return _rows("16 nearest, 10 000 points", methods, equal, rounds)


def _transpose_rows(pos: Tensor, rounds: int) -> list[dict[str, Any]]:
    graph = radius_graph(pos, CUTOFF)

    def ours() -> Tensor:
        return NeighborList(graph.source, graph.ptr, graph.num_nodes).t_edge

    def sort() -> Tensor:
        return torch.sort(graph.source, stable=True).indices

    equal = {"torch.sort": torch.equal(ours(), sort())}
    return _rows("transpose, 465 000 edges", {"ours": ours, "torch.sort": sort}, equal, rounds)


def _searches(pos: Tensor, batch: Tensor, most: int) -> dict[str, Callable[[], Any]]:
    return dict(radius_searches(pos, CUTOFF, batch, most))


def _same(found: Tensor, edge_index: Tensor) -> bool:
    return np.array_equal(_canonical(found[1], found[0]), _canonical(edge_index[1], edge_index[0]))


def _canonical(target: Any, source: Any, shifts: Any = None) -> np.ndarray:
    """Edges as sorted rows."""
    columns = [np.asarray(target, np.int64), np.asarray(source, np.int64)]
    columns += [] if shifts is None else list(np.asarray(shifts, np.int64).T)
    return np.stack(columns)[:, np.lexsort(columns[::-1])]


def _rows(case: str, methods: dict[str, Callable], equal: dict[str, bool], rounds: int) -> list[dict[str, Any]]:
    times: dict[str, list[float]] = {name: [] for name in methods}
    for round_ in range(rounds + 2):
        for name, method in methods.items():
            start = time.perf_counter()
            result = method()
            elapsed = 1e3 * (time.perf_counter() - start)
            if round_ >= 2:
                times[name].append(elapsed)
            del result  # outside of its time
    spread = {name: statistics.quantiles(values, n=4) for name, values in times.items()}
    ours = spread["ours"]
    return [
        {
            "case": case,
            "peer": name,
            "ours_ms": ours[1],
            "ours_quartiles_ms": [ours[0], ours[2]],
            "peer_ms": spread[name][1] if equal[name] else None,
            "peer_quartiles_ms": [spread[name][0], spread[name][2]],
            "ratio": spread[name][1] / ours[1] if equal[name] else None,
            "equal": equal[name],
            "rounds": rounds,
            "threads": torch.get_num_threads(),
        }
        for name in methods
        if name != "ours"
    ]
