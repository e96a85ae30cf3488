"""Figures of a set of generated graphs: distances of descriptors, shares, sizes and attributes, molecules.

A distance is never alone: beside it stand the unbiased version, an interval, the floor (training against reference),
what as many random training graphs score, and Erdos-Renyi graphs of the same sizes and densities. Definitions have a
version (`VERSION`) that is written into every report.

References: You et al. 2018, "GraphRNN"; Martinkus et al. 2022, "SPECTRE"; Thompson et al. 2022, "On evaluation
metrics for graph generative models"; O'Bray et al. 2022, "Evaluation metrics for graph generative models".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from graphs.data.generators import erdos_renyi
from graphs.data.graph_set import GraphSet
from graphs.mmd import DESCRIPTORS, Comparison, Kernel
from graphs.vun import connected, isomorphism_classes, novel, unique, valid

__all__ = [
    "VERSION",
    "Distance",
    "Share",
    "attribute_distances",
    "descriptor_distances",
    "ratio",
    "shares",
    "size_distance",
    "wilson",
]

VERSION = "graphs.metrics/1"
_EPSILON = 1e-8  # of the published ratio


@dataclass(frozen=True)
class Distance:
    """MMD^2 of one descriptor with its context; None where it cannot be computed.

    Attributes:
        value: V-statistic of generated against reference graphs.
        low: Lower end of the 95 % bootstrap interval over graphs.
        high: Upper end.
        unbiased: U-statistic, expectation 0 for equal laws.
        floor: Training against reference graphs.
        draw_mean: Mean over 100 draws of as many random training graphs as there are generated ones.
        draw_std: Standard deviation of those draws.
        random: Erdos-Renyi graphs with the sizes and densities of training graphs, as many as generated.
    """

    value: float
    low: float
    high: float
    unbiased: float
    floor: float | None
    draw_mean: float | None
    draw_std: float | None
    random: float


@dataclass(frozen=True)
class Share:
    """A share of graphs with its 95 % Wilson interval, and the same share of the reference graphs where it has one."""

    value: float
    low: float
    high: float
    reference: float | None = None


def descriptor_distances(
    generated: GraphSet,
    reference: GraphSet,
    train: GraphSet | None = None,
    *,
    kernel: Kernel = "emd",
    names: Iterable[str] = tuple(DESCRIPTORS),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Distance]:
    """MMD^2 of every descriptor with its context.

    Args:
        generated: Generated graphs.
        reference: Graphs they are compared with, for example a test set.
        train: Training graphs, for floors; the Erdos-Renyi row then has their sizes and densities.
        kernel: ``"emd"``, ``"tv"`` or ``"rbf"``.
        names: Among `graphs.mmd.DESCRIPTORS`.
        resamples: Bootstrap resamples.
        seed: Seed of resamples, draws and random graphs.
    """
    sets = {"generated": generated, "reference": reference}
    if train is not None:
        sets["train"] = train
    sets["random"] = erdos_renyi(reference if train is None else train, len(generated), seed=seed)
    found = {}
    for name in names:
        descriptor = DESCRIPTORS[name]
        rows = {key: descriptor.histogram(graphs) for key, graphs in sets.items()}
        both = Comparison(rows, descriptor, kernel)
        low, high = both.interval("generated", "reference", resamples=resamples, seed=seed)
        draws = None if train is None else both.draws("train", "reference", len(generated), seed=seed)
        found[name] = Distance(
            value=both.mmd2("generated", "reference"),
            low=low,
            high=high,
            unbiased=both.mmd2("generated", "reference", unbiased=True),
            floor=None if train is None else both.mmd2("train", "reference"),
            draw_mean=None if draws is None else float(draws.mean()),
            draw_std=None if draws is None else float(draws.std(ddof=1)),
            random=both.mmd2("random", "reference"),
        )
    return found


def ratio(found: dict[str, Distance]) -> float | None:
    """Mean over the descriptors of MMD(generated) / (MMD(train) + 1e-8), the "ratio" of published tables; None without
    training graphs. A floor of zero makes it meaningless, as for the clustering of grids.
    """
    pairs = [(d.value, d.floor) for d in found.values() if d.floor is not None]
    return float(np.mean([value / (floor + _EPSILON) for value, floor in pairs])) if pairs else None


def shares(
    generated: GraphSet,
    reference: GraphSet | None = None,
    train: GraphSet | None = None,
    *,
    family: str | None = None,
    attributes: bool = True,
) -> dict[str, Share]:
    """Connected, unique, novel, copies of training graphs; with a family also valid and V.U.N.

    Shares are over all generated graphs. The same share of the reference graphs stands beside each: 50 % of the
    community_small test graphs are copies of training graphs.

    Args:
        generated: Generated graphs.
        reference: Real graphs that calibrate the shares.
        train: Training graphs; without them novelty is left out.
        family: Rule of validity, see `graphs.vun.FAMILIES`.
        attributes: Whether graphs that differ in their classes only are different.
    """
    sets = [graphs for graphs in (generated, reference, train) if graphs is not None]
    classes = isomorphism_classes(*sets, attributes=attributes)
    own = _flags(generated, classes[0], None if train is None else classes[-1], family)
    real = _flags(reference, classes[1], None if train is None else classes[-1], family) if reference else {}
    return {
        name: Share(*wilson(int(flags.sum()), len(flags)), float(real[name].mean()) if name in real else None)
        for name, flags in own.items()
    }


def size_distance(generated: GraphSet, reference: GraphSet) -> float:
    """Total variation distance of the distributions of the number of nodes, in [0, 1]."""
    return _variation(generated.sizes, reference.sizes)


def attribute_distances(generated: GraphSet, reference: GraphSet) -> dict[str, float]:
    """Total variation distances of the shares of node and edge values, by name; empty without such attributes."""
    found = {}
    for kind in ("node", "edge"):
        for name in getattr(reference.attributes, f"{kind}_names"):
            if name not in getattr(generated.attributes, f"{kind}_names"):
                continue
            values = [_values(graphs, kind, name) for graphs in (generated, reference)]
            codes = {value: k for k, value in enumerate(sorted({*values[0], *values[1]}, key=repr))}
            found[f"{kind} {name}"] = _variation(*(np.array([codes[v] for v in part]) for part in values))
    return found


def wilson(count: int, total: int, level: float = 0.95) -> tuple[float, float, float]:
    """Share and its Wilson interval; NaN for no trials."""
    if not total:
        return float("nan"), float("nan"), float("nan")
    z = float(norm.ppf((1 + level) / 2))
    p = count / total
    centre, half = p + z * z / (2 * total), z * (p * (1 - p) / total + z * z / (4 * total * total)) ** 0.5
    scale = 1 + z * z / total
    low = 0.0 if not count else (centre - half) / scale
    return p, low, 1.0 if count == total else (centre + half) / scale


def _flags(
    graphs: GraphSet, classes: np.ndarray, training: np.ndarray | None, family: str | None
) -> dict[str, np.ndarray]:
    flags: dict[str, Any] = {"connected": connected(graphs), "unique": unique(classes)}
    if training is not None:
        flags["novel"] = novel(classes, training)
        flags["copies of training graphs"] = ~flags["novel"]
    if family is not None:
        flags["valid"] = valid(graphs, family)
        if training is not None:
            flags["valid, unique, novel"] = flags["valid"] & flags["unique"] & flags["novel"]
    return flags


def _variation(a: np.ndarray, b: np.ndarray) -> float:
    width = int(max(a.max(initial=0), b.max(initial=0))) + 1
    shares = [np.bincount(values, minlength=width) / max(1, len(values)) for values in (a, b)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def _values(graphs: GraphSet, kind: str, name: str) -> list[Any]:
    place = getattr(graphs.attributes, f"{kind}_names").index(name)
    classes = getattr(graphs.attributes, f"{kind}_classes")
    labels = graphs.node_label if kind == "node" else graphs.edge_label
    first = 0 if kind == "node" else 1
    return [] if labels is None else [classes[k - first][place] for k in labels.tolist()]
