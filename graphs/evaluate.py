"""Evaluation of generated graphs: one report, from memory or from files.

Protocols: ``"large"`` compares all generated graphs with the reference; ``"published"`` cuts them into groups as
large as the reference set, as in the papers, and gives mean, standard deviation and every value: with 20 to 40 graphs
the noise is as large as the differences between papers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphs.data.convert import as_graph_set
from graphs.data.graph_set import SPLITS, GraphSet
from graphs.data.sources import SOURCES, load_named, split_codes
from graphs.io import read_graphs
from graphs.metrics import (
    VERSION,
    Distance,
    Share,
    attribute_distances,
    descriptor_distances,
    ratio,
    shares,
    size_distance,
)
from graphs.mmd import DESCRIPTORS, KERNELS, Comparison, Kernel
from graphs.random_network import neighbour_figures, random_features, rbf_mmd2
from graphs.vun import FAMILIES
from scidiff.cli.output import pairs, table
from scidiff.files import atomic_path

__all__ = ["PROTOCOLS", "GraphReport", "evaluate", "evaluate_file", "load_reference"]

PROTOCOLS: tuple[str, ...] = ("large", "published")
_FAMILY_OF = {"planar": "planar", "tree": "tree", "lobster": "lobster", "grid": "grid", "sbm": "sbm"} | {
    f"community_{kind}": "community" for kind in ("small", "fresh", "spectre")
}
_NEIGHBOURS = 5
_MAX_MMD = 3000  # graphs of a set in kernel matrices
_NAMES = ("generated", "low", "high", "unbiased", "train floor", "as many train", "+-", "Erdos-Renyi")


@dataclass(frozen=True)
class GraphReport:
    """Everything that was measured.

    Attributes:
        distances: MMD^2 by descriptor, with context.
        shares: Shares of graphs, with intervals.
        figures: Single numbers: sizes, attributes, isolated nodes, ratio, molecules.
        groups: Protocol ``"published"``: values of each group, by descriptor.
        settings: Counts, kernel, protocol, version of the definitions.
    """

    distances: dict[str, Distance]
    shares: dict[str, Share]
    figures: dict[str, float]
    groups: dict[str, list[float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready data."""
        return {"version": VERSION, **asdict(self)}

    def to_json(self, path: str | Path) -> None:
        """Write the report."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def table(self) -> str:
        """The report on one screen."""
        kernel = self.settings.get("kernel", "")
        rows = [[name, *(_cell(v) for v in asdict(d).values())] for name, d in self.distances.items()]
        parts = [table(rows, header=(f"MMD^2 ({kernel})", *_NAMES))] if rows else []
        if self.groups:
            cells = [
                [name, f"{np.mean(v):.4f}", f"{np.std(v, ddof=1):.4f}" if len(v) > 1 else "-", len(v)]
                for name, v in self.groups.items()
            ]
            parts.append(table(cells, header=("groups as large as the reference", "mean", "std", "groups")))
        cells = [
            [name, f"{s.value:.1%}", f"{s.low:.1%}-{s.high:.1%}", "-" if s.reference is None else f"{s.reference:.1%}"]
            for name, s in self.shares.items()
        ]
        if cells:
            parts.append(table(cells, header=("share", "generated", "95 %", "reference")))
        parts.append(pairs({**self.figures, **{k: v for k, v in self.settings.items() if v is not None}}))
        return "\n\n".join(parts)

    def __str__(self) -> str:
        return self.table()


def evaluate(
    generated: Any,
    reference: Any,
    train: Any = None,
    *,
    kernel: Kernel = "emd",
    family: str | None = None,
    protocol: Literal["large", "published"] = "large",
    drop_isolated: bool = False,
    attributes: bool = True,
    descriptors: Sequence[str] = tuple(DESCRIPTORS),
    resamples: int = 1000,
    seed: int = 0,
) -> GraphReport:
    """Judge generated graphs against real ones.

    Args:
        generated: `GraphList`, `GraphSet`, or a list of networkx graphs or PyG ``Data``.
        reference: Real graphs, for example a test set.
        train: Training graphs: floors, novelty and the share of copies need them.
        kernel: ``"emd"`` (tables of community, ego, ENZYMES, grid), ``"tv"`` (planar, SBM, tree), or ``"rbf"``.
        family: Rule of validity, see `graphs.vun.FAMILIES`.
        protocol: ``"large"`` or ``"published"``, see above.
        drop_isolated: Remove isolated nodes of the generated graphs first, as published protocols do; the report says
            how many there were.
        attributes: Whether graphs that differ in their classes only count as different.
        descriptors: Among `graphs.mmd.DESCRIPTORS`; molecules have figures of their own beside these.
        resamples: Bootstrap resamples.
        seed: Seed.

    Raises:
        ValueError: If an option is unknown or a set is empty.
    """
    sets = [None if graphs is None else as_graph_set(graphs) for graphs in (generated, reference, train)]
    ours, real, train_set = sets
    assert ours is not None
    assert real is not None
    _check(ours, real, kernel, family, protocol, descriptors)
    train_set = train_set if train_set is not None and len(train_set) else None
    isolated = int((ours.degrees == 0).sum())
    judged = ours.without_isolated() if drop_isolated else ours
    sample = [_sample(graphs, seed) for graphs in (judged, real, train_set)]
    assert sample[0] is not None
    assert sample[1] is not None
    found = descriptor_distances(
        sample[0], sample[1], sample[2], kernel=kernel, names=descriptors, resamples=resamples, seed=seed
    )
    figures: dict[str, float] = {
        "isolated nodes": isolated,
        "nodes per graph": float(judged.sizes.mean()),
        "edges per graph": float(judged.num_edges.mean()),
        "size TV": size_distance(judged, real),
        **{f"TV of {name}": value for name, value in attribute_distances(ours, real).items()},
    }
    if (whole := ratio(found)) is not None:
        figures["ratio"] = whole
    figures |= _random_network(sample[0], sample[1], sample[2])
    if ours.attributes.is_molecular and real.attributes.is_molecular:
        figures |= _molecules(ours, real, train_set)
    settings = {
        "graphs": len(ours),
        "reference graphs": len(real),
        "training graphs": None if train_set is None else len(train_set),
        "kernel": kernel,
        "protocol": protocol,
        "isolated nodes dropped": isolated if drop_isolated else None,
        "definitions": VERSION,
    }
    is_large = protocol == "large"
    return GraphReport(
        distances=found,
        shares=shares(judged, real, train_set, family=family, attributes=attributes and not drop_isolated),
        figures=figures,
        groups={} if is_large else _groups(judged, real, kernel, descriptors),
        settings=settings,
    )


def evaluate_file(
    path: str | Path,
    reference: str,
    *,
    train: str | None = None,
    kernel: str | None = None,
    family: str | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> GraphReport:
    """Evaluate a file of graphs.

    Args:
        path: Generated graphs, see `graphs.io.read_graphs`.
        reference: ``NAME``, ``NAME:part`` or a file; a name alone means its test part.
        train: The same for the training graphs; None takes the training part of a named reference.
        kernel: None takes that of the named set, else ``"emd"``.
        family: Rule of validity; None takes that of the named set, if it has one.
        out: JSON file to write.
        options: Further options of `evaluate`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or an option is wrong.
    """
    name = reference.partition(":")[0]
    _check_options(kernel or "emd", family)
    chosen: Any = kernel or (SOURCES[name].kernel if name in SOURCES else "emd")
    generated = read_graphs(path)
    real = load_reference(reference, "test")
    training = load_reference(train or name, "train") if train or name in SOURCES else None
    report = evaluate(
        generated,
        real,
        training,
        kernel=chosen,
        family=family or _FAMILY_OF.get(name),
        **options,
    )
    if out is not None:
        report.to_json(out)
    return report


def load_reference(text: str, part: str) -> GraphSet:
    """Graphs of ``NAME``, ``NAME:part``, ``FILE`` or ``FILE:part``; the default part applies if there is a split.

    Raises:
        FileNotFoundError: If there is neither a set nor a file of that name.
        ValueError: If the part is unknown or the set has no split.
    """
    name, _, asked = text.rpartition(":") if text.rpartition(":")[2] in SPLITS else (text, "", "")
    if name in SOURCES:
        graphs = load_named(name)
        graphs = graphs.with_split(split_codes(graphs, SOURCES[name].split, 0.0))
    else:
        if not Path(name).exists():
            raise FileNotFoundError(f"no data set and no file {name!r}; sets are {', '.join(SOURCES)}.")
        graphs = read_graphs(name)
    if asked or graphs.split is not None:
        graphs = graphs.part(asked or part)
    if not len(graphs):
        raise ValueError(f"the {asked or part} part of {name} is empty.")
    return graphs


def _check(
    ours: GraphSet, real: GraphSet, kernel: str, family: str | None, protocol: str, descriptors: Sequence[str]
) -> None:
    _check_options(kernel, family)
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    unknown = sorted(set(descriptors) - set(DESCRIPTORS))
    if unknown:
        raise ValueError(f"descriptors are {', '.join(DESCRIPTORS)}, got {', '.join(unknown)}.")
    if not len(ours) or not len(real):
        raise ValueError(f"expected generated and reference graphs, got {len(ours)} and {len(real)}.")
    if protocol == "published" and len(ours) < len(real):
        raise ValueError(
            f"the published protocol needs at least as many generated graphs as there are reference graphs, got "
            f"{len(ours)} for {len(real)}; generate more, or use the protocol 'large'."
        )


def _check_options(kernel: str, family: str | None) -> None:
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}.")
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}.")


def _sample(graphs: GraphSet | None, seed: int) -> GraphSet | None:
    """At most 3,000 random graphs: kernel matrices grow with the square."""
    if graphs is None or len(graphs) <= _MAX_MMD:
        return graphs
    return graphs.subset(np.sort(np.random.default_rng(seed).permutation(len(graphs))[:_MAX_MMD]))


def _groups(ours: GraphSet, real: GraphSet, kernel: Kernel, descriptors: Sequence[str]) -> dict[str, list[float]]:
    """MMD^2 of consecutive groups as large as the reference set."""
    size = len(real)
    starts = range(0, len(ours) - size + 1, size)
    found = {}
    for name in descriptors:
        rows = DESCRIPTORS[name].histogram(ours)
        theirs = DESCRIPTORS[name].histogram(real)
        sets = {str(start): rows[start : start + size] for start in starts}
        both = Comparison({**sets, "reference": theirs}, DESCRIPTORS[name], kernel)
        found[name] = [both.mmd2(str(start), "reference") for start in starts]
    return found


def _random_network(ours: GraphSet, real: GraphSet, train: GraphSet | None) -> dict[str, float]:
    """Figures on features of an untrained network, see `graphs.random_network`."""
    features = [random_features(graphs) for graphs in (ours, real)]
    figures = {"random GIN MMD^2": rbf_mmd2(*features)}
    if train is not None:
        figures["random GIN MMD^2 (training floor)"] = rbf_mmd2(random_features(train), features[1])
    if min(len(ours), len(real)) > _NEIGHBOURS:
        neighbours = neighbour_figures(*features, k=_NEIGHBOURS)
        figures |= {f"random GIN {name}": value for name, value in neighbours.items()}
    return figures


def _molecules(ours: GraphSet, real: GraphSet, train: GraphSet | None) -> dict[str, float]:
    from graphs.chemistry import judge, known_smiles, molecule_figures
    from graphs.nspdk import nspdk_distances

    verdicts = judge(ours)
    found = {smiles for verdict in verdicts for smiles in (verdict.raw_smiles, verdict.corrected_smiles) if smiles}
    known = None if train is None else known_smiles(found, train)
    figures = {f"molecules {key}": value for key, value in molecule_figures(verdicts, known).items()}
    sets = {"valid molecules": [verdict.mol for verdict in verdicts if verdict.mol is not None]}
    if train is not None:
        some = _sample(train, 0)
        assert some is not None
        sets["training floor"] = [verdict.mol for verdict in judge(some) if verdict.mol is not None]
    theirs = [verdict.mol for verdict in judge(real) if verdict.mol is not None]
    sets = {name: mols for name, mols in sets.items() if mols and theirs}
    values = nspdk_distances(sets.values(), theirs) if sets else []
    return figures | {f"NSPDK MMD^2 ({name})": value for name, value in zip(sets, values)}


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}".replace("-0.0000", "0.0000")
