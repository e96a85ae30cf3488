"""Quality and speed of a packaged molecule model against the number of evaluations.

    python -m benchmarks.molecules                                  # table, results/molecules.json
    python -m benchmarks.molecules --checkpoint FILE --release OUT  # also a copy of FILE that carries the figures

Novelty and distances need the prepared QM9 (`scidiff molecules prepare qm9`); without it the packaged subset is the
reference and novelty is left out.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.report import machine, table, write_json, write_section
from molecules import MoleculeGenerator
from molecules.data import MoleculeDataset, packaged_qm9
from molecules.validity import canonical_set

STEPS = (20, 50, 100)
PREPARED = Path("data/qm9.npz")
TITLE = "Molecules"
_PAGE = """`{checkpoint}`, {n} molecules, seed {seed}; 95 % intervals (Wilson). A molecule is valid if it passes the
strict verdict: valences, one fragment, sanitisation, no radicals. "Bonds within 25 %" is the share of valid
molecules all of whose bonds lie within 25 % of the sum of covalent radii; "valid 3D" is the share of all
molecules that are valid, with bonds at 0.75 to 1.30 and contacts above 1.0 of that sum. Reference:
{reference}. {processor}, {threads} threads, torch {torch}, {date}. Run `python -m benchmarks.molecules`;
figures in `results/molecules.json`.

"""


def measure(
    generator: MoleculeGenerator, steps: int, n: int, seed: int, reference: Any, training: Any
) -> dict[str, Any]:
    """Draw and judge ``n`` molecules."""
    start = time.perf_counter()
    mols = generator.sample(n, steps=steps, seed=seed)
    seconds = time.perf_counter() - start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = mols.report(reference=reference, training_smiles=training, descriptors=False)
    names = ("valid", "good_bonds", "valid_3d", "unique", "novel", "connected", "atom_tv", "bond_tv", "bond_length_w1")
    figures = {name: figure(report, name) for name in names}
    return {
        "steps": steps,
        "nfe": steps + 1,
        "n": n,
        "seconds": round(seconds, 2),
        **{name: figure for name, figure in figures.items() if figure is not None},
        "failures": dict(mols.failures().most_common()),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="qm9_implicit")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--release", type=Path, help="write a copy of the checkpoint with these figures")
    options = parser.parse_args()
    generator = MoleculeGenerator.from_pretrained(options.checkpoint)
    reference, training, source = _references(generator)
    rows = []
    for steps in options.steps:
        rows.append(measure(generator, steps, options.n, options.seed, reference, training))
        print(rows[-1], flush=True)
    place = machine()
    content = {
        "checkpoint": str(options.checkpoint),
        "seed": options.seed,
        "reference": source,
        "machine": place,
        "rows": rows,
    }
    if options.release:
        generator.save(options.release, metadata={"figures": content})
        print(f"wrote {options.release}")
        return
    write_json("molecules", content)
    write_section(TITLE, _text(content))


def _references(generator: MoleculeGenerator) -> tuple[list[Any], frozenset[str] | None, str]:
    if PREPARED.is_file():
        data = MoleculeDataset.from_npz(PREPARED)
        training = canonical_set(data.subset("train").smiles or [])
        part, source = data.subset("test"), "QM9 test part, novelty against the QM9 training part"
    else:
        training, part, source = None, packaged_qm9(), "packaged subset of QM9"
    part = part if generator.spec.explicit_h else part.without_hydrogens()
    return [part.record(i) for i in range(min(len(part), 5000))], training, source


def figure(report: Any, name: str) -> dict[str, float] | None:
    """A figure of any section of a report without its empty fields; None if it is not there."""
    for figures in report.sections.values():
        if name in figures:
            return {key: value for key, value in figures[name]._asdict().items() if value is not None}
    return None


def _text(content: dict[str, Any]) -> str:
    place = content["machine"]
    head = ["steps", "NFE", "valid and connected", "bonds within 25 %", "valid 3D", "unique", "novel", "seconds"]
    keys = ("valid", "good_bonds", "valid_3d", "unique", "novel")
    rows = [
        [str(r["steps"]), str(r["nfe"]), *(percent(r.get(key)) for key in keys), f"{r['seconds']:.1f}"]
        for r in content["rows"]
    ]
    n = content["rows"][0]["n"]
    return _PAGE.format(n=n, **content, **place) + table(head, rows)


def percent(share: dict[str, float] | None) -> str:
    """A share in percent, with its interval if it has one."""
    if share is None:
        return "-"
    text = f"{100 * share['value']:.1f}"
    if "low" in share and "high" in share:
        text += f" ({100 * share['low']:.1f}-{100 * share['high']:.1f})"
    return text


if __name__ == "__main__":
    main()
