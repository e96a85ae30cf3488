"""Generated graphs: quality against evaluations and seconds, for the default models and for GDSS.

    python -m benchmarks.graphs models              # table, results/graphs_models.json

Each row draws groups of graphs with different seeds and compares every group with the test set; checkpoints that are
not packaged and sets that are not under $SCIDIFF_DATA are left out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks.report import machine, table, write_json, write_section
from graphs import GraphGenerator
from graphs.chemistry import judge
from graphs.data.generators import erdos_renyi
from graphs.data.graph_set import GraphSet
from graphs.data.sources import load_named, split_codes
from graphs.metrics import wilson
from graphs.mmd import DESCRIPTORS, Comparison
from graphs.vun import connected, isomorphism_classes, novel

TITLE = "Graphs: generated graphs"
NAMES = ("degree", "clustering", "orbit")
DRAWS = 100
_PAGE = """MMD^2 (V-statistic, EMD kernels) against the test set. Groups have as many graphs as said and one seed each;
± is the half width of the 95 % interval over groups (Student t), absent for one group. Shares are over all graphs
(95 % interval, Wilson). Copies are isomorphic to a training graph. Seconds are processor time a graph on one thread.
"Training draws" are as many random training graphs: a perfect sampler of the training law cannot do better on average.
The GDSS model is trained by its published configuration ({gdss_steps} updates, one training seed). {processor}, torch
{torch}, {date}. Run `python -m benchmarks.graphs models`; figures in `results/graphs_models.json`.

"""


@dataclass(frozen=True)
class Run:
    """One row: a checkpoint, its data, and how it samples."""

    checkpoint: str
    source: str
    groups: int
    size: int
    options: dict[str, Any] = field(default_factory=dict)


_S4 = {"solver": "s4", "solver_options": {"snr": 0.05, "scale_eps": 0.7, "legacy_variance": True}}
RUNS = (
    *(Run("community_small", "community_small", 10, 20, {"steps": steps}) for steps in (15, 31, 63)),
    Run("gdss_community_small", "community_small", 3, 20),
    Run("gdss_community_small", "community_small", 3, 20, _S4),
    Run("community_fresh", "community_fresh", 1, 512, {"steps": 31}),
    Run("community_fresh", "community_fresh", 3, 512, {"steps": 63}),
    *(Run("ego_small", "ego_small", 1, 1000, {"steps": steps}) for steps in (31, 63)),
)


def parts_of(source: str) -> tuple[GraphSet, GraphSet]:
    """Training and test part under the published split."""
    graphs = load_named(source)
    rule = "gdss" if graphs.split is None else "given"
    graphs = graphs.with_split(split_codes(graphs, rule, 0.0))
    return graphs.part("train"), graphs.part("test")


def distances(groups: list[GraphSet], train: GraphSet, test: GraphSet) -> dict[str, Any]:
    """MMD^2 of every group, and its context."""
    found: dict[str, Any] = {}
    for name in NAMES:
        rows = {str(k): DESCRIPTORS[name].histogram(group) for k, group in enumerate(groups)}
        rows |= {"train": DESCRIPTORS[name].histogram(train), "test": DESCRIPTORS[name].histogram(test)}
        rows["random"] = DESCRIPTORS[name].histogram(erdos_renyi(train, len(groups[0]), seed=0))
        both = Comparison(rows, DESCRIPTORS[name], "emd")
        values = [both.mmd2(str(k), "test") for k in range(len(groups))]
        draws = both.draws("train", "test", len(groups[0]), count=DRAWS)
        found[name] = {
            "values": values,
            "mean": float(np.mean(values)),
            "half_width": _half_width(values),
            "floor": both.mmd2("train", "test"),
            "training_draws": [float(draws.mean()), float(draws.std(ddof=1))],
            "random": both.mmd2("random", "test"),
        }
    return found


def measure(run: Run, generator: GraphGenerator | None = None) -> dict[str, Any]:
    """Draw and judge."""
    generator = generator if generator is not None else GraphGenerator.from_pretrained(run.checkpoint)
    train, test = parts_of(run.source)
    start = time.process_time()
    drawn = [generator.sample(run.size, seed=seed, **run.options) for seed in range(run.groups)]
    seconds = (time.process_time() - start) / (run.groups * run.size)
    groups = [part.graph_set for part in drawn]
    known = isomorphism_classes(train, *groups, attributes=False)
    copies = np.concatenate([~novel(part, known[0]) for part in known[1:]])
    together = np.concatenate([connected(group) for group in groups])
    return {
        "checkpoint": run.checkpoint,
        "groups": run.groups,
        "size": run.size,
        "solver": run.options.get("solver", generator.sampling["solver"]),
        "steps": run.options.get("steps", generator.sampling["steps"]),
        "nfe": drawn[0].nfe,
        "seconds_per_graph": round(seconds, 4),
        "distances": distances(groups, train, test),
        "connected": wilson(int(together.sum()), len(together)),
        "copies": wilson(int(copies.sum()), len(copies)),
    }


def measure_molecules(generator: GraphGenerator, n: int = 1000, **options: Any) -> dict[str, Any]:
    """Validity without correction, of one checkpoint of molecules."""
    start = time.process_time()
    drawn = generator.sample(n, seed=0, **options)
    seconds = (time.process_time() - start) / n
    verdicts = judge(drawn.graph_set)
    smiles = [verdict.raw_smiles for verdict in verdicts if verdict.raw_smiles is not None]
    whole = sum(verdict.valid and verdict.connected for verdict in verdicts)
    return {
        "n": n,
        "steps": options.get("steps", generator.sampling["steps"]),
        "nfe": drawn.nfe,
        "seconds_per_graph": round(seconds, 4),
        "valid": wilson(len(smiles), n),
        "valid_and_connected": wilson(whole, n),
        "unique": wilson(len(set(smiles)), max(1, len(smiles))),
    }


def measure_models() -> None:
    """Measure all packaged checkpoints; write JSON and the section of the README."""
    rows = []
    for run in RUNS:
        try:
            rows.append(measure(run))
        except FileNotFoundError as error:
            print(f"left out: {error}")
            continue
        print(rows[-1], flush=True)
    molecules = GraphGenerator.from_pretrained("qm9_2d")
    content = {
        "machine": machine(),
        "gdss_steps": GraphGenerator.from_pretrained("gdss_community_small").metadata["provenance"]["steps"],
        "rows": rows,
        "qm9_2d": [measure_molecules(molecules, steps=steps) for steps in (31, 63)],
    }
    write_json("graphs_models", content)
    write_section(TITLE, text(content))


def text(content: dict[str, Any]) -> str:
    """The section of the README."""
    head = ["checkpoint", "graphs", "solver", "NFE", *NAMES, "connected", "copies", "seconds"]
    lines, shown = [], set()
    for row in content["rows"]:
        figures = [row["distances"][name] for name in NAMES]
        counts = f"{row['groups']} x {row['size']}" if row["groups"] > 1 else str(row["size"])
        cells = [_with_error(f["mean"], f["half_width"]) for f in figures]
        shares = [_share(row["connected"]), _share(row["copies"])]
        lines.append(
            [
                row["checkpoint"],
                counts,
                row["solver"],
                str(row["nfe"]),
                *cells,
                *shares,
                f"{row['seconds_per_graph']:.3f}",
            ]
        )
        key = (row["checkpoint"].split(" ")[0].removeprefix("gdss_"), row["size"])
        if key not in shown:
            shown.add(key)
            draws = [f"{f['training_draws'][0]:.4f}" for f in figures]
            lines.append([f"{key[0]}: training draws", str(row["size"]), "", "", *draws, "", "", ""])
            randoms = [f"{f['random']:.4f}" for f in figures]
            lines.append([f"{key[0]}: Erdos-Renyi", str(row["size"]), "", "", *randoms, "", "", ""])
    head_molecules = [
        "checkpoint",
        "molecules",
        "NFE",
        "valid without correction",
        "and connected",
        "unique",
        "seconds",
    ]
    molecules = [
        [
            "qm9_2d",
            str(row["n"]),
            str(row["nfe"]),
            *(_share(row[key]) for key in ("valid", "valid_and_connected", "unique")),
            f"{row['seconds_per_graph']:.3f}",
        ]
        for row in content["qm9_2d"]
    ]
    place = {**content["machine"], "gdss_steps": f"{content['gdss_steps']:,}"}
    return _PAGE.format(**place) + table(head, lines) + "\n\n" + table(head_molecules, molecules)


def _half_width(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    return float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def _with_error(value: float, half_width: float | None) -> str:
    return f"{value:.4f}" if half_width is None else f"{value:.4f} ± {half_width:.4f}"


def _share(figure: list[float]) -> str:
    value, low, high = (100 * part for part in figure)
    return f"{value:.1f} ({low:.1f}-{high:.1f})"
