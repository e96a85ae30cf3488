"""Quality and speed of the packaged molecule models against the number of evaluations.

    python -m benchmarks.molecules                                  # table, results/molecules.json
    python -m benchmarks.molecules qm9                              # one model; the others' rows stay
    python -m benchmarks.molecules FILE --release OUT               # also a copy of FILE that carries the figures

Novelty and distances need the prepared QM9 (`scidiff molecules prepare qm9`); without it the packaged subset is the
reference and novelty is left out.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, machine, table, write_json, write_section
from molecules import MoleculeGenerator
from molecules.data import MoleculeDataset, packaged_qm9
from molecules.validity import canonical_set

MODELS = ("qm9_implicit", "qm9")
STEPS = (20, 50, 100)
PREPARED = Path("data/qm9.npz")
TITLE = "Molecules"
_PAGE = """Molecules without hydrogens (`qm9_implicit`) and with them (`qm9`); 95 % intervals (Wilson). One is valid
if it passes the strict verdict: valences, one fragment, sanitisation, no radicals; stable by the corrected protocol.
"Bonds within 25 %" is the share of valid molecules all of whose bonds lie within 25 % of the sum of covalent radii;
"valid 3D" is the share of all molecules that are valid, with bonds at 0.75 to 1.30 and contacts above 1.0 of that sum.
Novelty is against the training part of QM9. {processor}, {threads} thread(s), torch {torch}, {date}.
Run `python -m benchmarks.molecules` (`-n` and `--steps` as in the table); figures in `results/molecules.json`.

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
    names = (
        "molecule_stability",
        "valid",
        "good_bonds",
        "valid_3d",
        "unique",
        "novel",
        "connected",
        "atom_tv",
        "bond_tv",
        "bond_length_w1",
    )
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
    parser.add_argument("checkpoints", nargs="*", default=list(MODELS), metavar="CHECKPOINT")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--release", type=Path, metavar="OUT", help="write a copy of the one checkpoint with figures")
    options = parser.parse_args()
    if options.release and len(options.checkpoints) != 1:
        parser.error("--release takes one checkpoint.")
    for checkpoint in options.checkpoints:
        generator = MoleculeGenerator.from_pretrained(checkpoint)
        reference, training, source = _references(generator)
        rows = []
        for steps in options.steps:
            rows.append(measure(generator, steps, options.n, options.seed, reference, training))
            print(rows[-1], flush=True)
        content = {"seed": options.seed, "reference": source, "machine": machine(), "rows": rows}
        if options.release:
            generator.save(options.release, metadata={**generator.metadata, "figures": content})
            print(f"wrote {options.release}")
        _record(Path(checkpoint).stem, content)


def _record(checkpoint: str, content: dict[str, Any]) -> None:
    """The figures of one model in the place of its older ones."""
    path = RESULTS / "molecules.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    found[checkpoint] = content
    write_json("molecules", found)
    write_section(TITLE, _text(found))


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


def _text(found: dict[str, dict[str, Any]]) -> str:
    head = ["model", "molecules", "NFE", "stable", "valid and connected", "bonds within 25 %", "valid 3D", "unique"]
    head += ["novel", "seconds"]
    keys = ("molecule_stability", "valid", "good_bonds", "valid_3d", "unique", "novel")
    rows = [
        [model, str(r["n"]), str(r["nfe"]), *(percent(r.get(key)) for key in keys), f"{r['seconds']:.1f}"]
        for model, content in found.items()
        for r in content["rows"]
    ]
    return _PAGE.format(**next(iter(found.values()))["machine"]) + table(head, rows)


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
