"""What real graphs score under the metrics of generated graphs: floors, finite samples, random graphs.

    python -m benchmarks.graphs data                # table, results/graphs_data.json
    python -m benchmarks.graphs models              # generated graphs, see benchmarks.graph_models

Every figure of a model should be read beside these: a model that scores below the second row has not learnt more than
its training set holds. Sets whose files are not under $SCIDIFF_DATA are left out.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.report import machine, table, write_json, write_section
from graphs.data.generators import community_fresh, erdos_renyi
from graphs.data.graph_set import GraphSet
from graphs.data.sources import load_named, split_codes
from graphs.mmd import DESCRIPTORS, Comparison, Kernel
from graphs.vun import isomorphism_classes, novel

TITLE = "Graphs: what real graphs score"
SETS: tuple[tuple[str, str, Kernel], ...] = (
    ("community_small", "gdss", "emd"),
    ("ego_small", "gdss", "emd"),
    ("enzymes", "gdss", "emd"),
    ("enzymes", "random", "emd"),
    ("grid", "gdss", "emd"),
    ("community_fresh", "given", "emd"),
    ("community_spectre", "spectre", "emd"),
    ("planar", "spectre", "tv"),
    ("sbm", "spectre", "tv"),
)
NAMES = ("degree", "clustering", "orbit", "spectral")
DRAWS, RANDOM = 100, 10
_PAGE = """MMD^2 (V-statistic) of {names} against the test set, kernel "emd" (GDSS) or "tv" (SPECTRE). Floor:
the whole training set. Training draws: as many random training graphs as test graphs, mean (standard deviation) of
{draws} draws; a perfect sampler of the training law cannot do better on average. Erdos-Renyi: sizes and densities of
training graphs, mean of {random} draws. Copies: share of test graphs that are isomorphic to a training graph. The
published split of ENZYMES cuts a file that is ordered by enzyme class, hence its second row. The spectral column counts
the eigenvalue 2 of bipartite graphs, which the published code leaves to rounding errors. {processor}, {date}.
Run `python -m benchmarks.graphs data`; figures in `results/graphs_data.json`.

"""


def measure(name: str, rule: Any, kernel: Kernel) -> dict[str, Any]:
    """Floors of one set under one split."""
    graphs = load_named(name)
    graphs = graphs.with_split(split_codes(graphs, rule, 0.0))
    train, test = graphs.part("train"), graphs.part("test")
    start = time.process_time()
    columns: dict[str, Any] = {}
    randoms = [erdos_renyi(train, len(test), seed=k) for k in range(RANDOM)]
    for label in NAMES:
        descriptor = DESCRIPTORS[label]
        rows = {"train": descriptor.histogram(train), "test": descriptor.histogram(test)}
        rows |= {f"random {k}": descriptor.histogram(part) for k, part in enumerate(randoms)}
        both = Comparison(rows, descriptor, kernel)
        draws = both.draws("train", "test", len(test), count=DRAWS)
        columns[label] = {
            "floor": both.mmd2("train", "test"),
            "draws": [float(draws.mean()), float(draws.std(ddof=1))],
            "random": float(np.mean([both.mmd2(f"random {k}", "test") for k in range(RANDOM)])),
        }
    seconds = time.process_time() - start
    known, real = isomorphism_classes(train, test, attributes=False)
    return {
        "set": name,
        "split": rule,
        "kernel": kernel,
        "graphs": [len(train), len(test)],
        "figures": columns,
        "copies": float(1 - novel(real, known).mean()),
        "seconds": round(seconds, 2),
    }


def rule_without_memory(count: int = 1000) -> dict[str, float]:
    """The true rule of community_small with fresh communities, against the published test set."""
    graphs = load_named("community_small")
    test = graphs.with_split(split_codes(graphs, "gdss", 0.0)).part("test")
    fresh: GraphSet = community_fresh(count, seed=1)
    found = {}
    for label in NAMES:
        rows = {"fresh": DESCRIPTORS[label].histogram(fresh), "test": DESCRIPTORS[label].histogram(test)}
        found[label] = Comparison(rows, DESCRIPTORS[label], "emd").mmd2("fresh", "test")
    return found


def measure_data() -> None:
    """Measure all sets that are there; write JSON and the section of the README."""
    rows = []
    for name, rule, kernel in SETS:
        try:
            rows.append(measure(name, rule, kernel))
        except FileNotFoundError as error:
            print(f"left out: {error}")
            continue
        print(rows[-1], flush=True)
    content: dict[str, Any] = {"machine": machine(), "rows": rows}
    if any(row["set"] == "community_small" for row in rows):
        content["community_small by its rule with fresh communities, 1000 graphs"] = rule_without_memory()
    write_json("graphs_data", content)
    write_section(TITLE, _text(content))


def _text(content: dict[str, Any]) -> str:
    head = ["set (split, kernel)", "train / test", "", *NAMES, "copies"]
    lines = []
    for row in content["rows"]:
        figures = row["figures"].values()
        name = f"{row['set']} ({row['split']}, {row['kernel']})"
        counts = f"{row['graphs'][0]} / {row['graphs'][1]}"
        lines.append([name, counts, "floor", *(f"{f['floor']:.4f}" for f in figures), f"{row['copies']:.0%}"])
        draws = (f"{f['draws'][0]:.4f} ({f['draws'][1]:.4f})" for f in figures)
        lines.append(["", "", "training draws", *draws, ""])
        lines.append(["", "", "Erdos-Renyi", *(f"{f['random']:.3f}" for f in figures), ""])
    for title, figures in content.items():
        if title.startswith("community_small"):
            lines.append([title, "", "", *(f"{value:.4f}" for value in figures.values()), "0%"])
    place = content["machine"]
    return _PAGE.format(names=", ".join(NAMES), draws=DRAWS, random=RANDOM, **place) + table(head, lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("data", "models"), help="what real graphs score, or generated ones")
    if parser.parse_args().what == "data":
        measure_data()
    else:
        from benchmarks.graph_models import measure_models

        measure_models()


if __name__ == "__main__":
    main()
