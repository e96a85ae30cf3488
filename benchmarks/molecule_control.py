"""Control of a molecule model: wished properties, and fixed parts beside replacement with an unconditional model.

    python -m benchmarks.molecule_control                                  # results/molecule_control.json
    python -m benchmarks.molecule_control --checkpoint FILE --release OUT  # also a copy of FILE with the figures

Wishes are the properties of real molecules that were held out, each with that molecule's number of atoms. Needs the
prepared QM9 (`scidiff molecules prepare qm9`), else the test part of the packaged subset is asked for.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.molecules import PREPARED, figure, percent
from benchmarks.report import machine, table, write_json, write_section
from molecules import MoleculeGenerator, MoleculeList
from molecules.conformers import embed_smiles
from molecules.data import MoleculeDataset, packaged_qm9
from molecules.fragments import fixed_parts
from molecules.metrics import wilson_interval
from molecules.properties import property_table
from molecules.records import MoleculeRecord

TITLE = "Control of molecules"
SCAFFOLDS = {
    "pyridine": "c1ccncc1",
    "furan": "c1ccoc1",
    "cyclopentane": "C1CCCC1",
    "oxetane": "C1COC1",
    "cyclopropanecarboxamide": "NC(=O)C1CC1",
}
RUNS = ((50, 1.0), (50, 2.0), (20, 1.0), (20, 2.0))
UNCHANGED = 0.05  # angstrom
_PAGE = """`{checkpoint}`, seed {seed}; 95 % intervals. Wishes are properties of {n} molecules of the
{source}, which no training saw; the error is the mean of |property - wish| over valid molecules, by
RDKit. Beside it: the error over that of unconditional samples against the same wishes ("of random", as in the tables of
EDM), and over the standard deviation of unconditional samples. Of those {valid} % are valid;
{spreads}.
{processor}, {threads} thread(s), torch {torch}, {date}. Run `python -m benchmarks.molecule_control`;
figures in `results/molecule_control.json`.

"""
_PARTS = """
Fixed parts: ETKDG and MMFF94 geometries, {parts} samples of each at {steps} steps, nothing discarded. Intact molecules
are valid and connected, hold the part with its elements, charges and bonds, and its atoms lie within an RMSD of
{unchanged} angstrom of the given ones, without alignment. `{checkpoint}` was trained to complete parts; `{other}`
was not, and the part is put back after each step.

"""


class Wishes(NamedTuple):
    """Properties (n,) by name of real molecules, and their numbers of atoms."""

    values: dict[str, np.ndarray]
    sizes: list[int]
    source: str


def held_out(generator: MoleculeGenerator, n: int, seed: int) -> Wishes:
    """The properties of ``n`` random test molecules in the vocabulary of the model."""
    is_full = PREPARED.is_file()
    data = MoleculeDataset.from_npz(PREPARED) if is_full else packaged_qm9()
    part = data.subset("test")
    part = part if generator.spec.explicit_h else part.without_hydrogens()
    part = part.subset(generator.spec.covers(part))
    part = part.subset(np.random.default_rng(seed).choice(len(part), min(n, len(part)), replace=False))
    source = "QM9 test part" if is_full else "test part of the packaged subset"
    return Wishes(property_table(part.smiles or [], list(generator.spec.properties)), part.sizes.tolist(), source)


def spread_of(generator: MoleculeGenerator, wishes: Wishes, seed: int) -> dict[str, Any]:
    """Unconditional samples of the same sizes: spread of each property, and its error against the wishes."""
    mols = generator.sample(len(wishes.sizes), n_atoms=wishes.sizes, steps=50, seed=seed)
    spreads = {}
    for name, wish in wishes.values.items():
        y = mols.values(name)
        known = y[np.isfinite(y)]
        spreads[name] = {
            "std": float(known.std()),
            "deviation": float(np.abs(known - known.mean()).mean()),
            "error": float(np.nanmean(np.abs(y - wish))),
        }
    return {"steps": 50, "nfe": mols.nfe, **_shares(mols), "spreads": spreads}


def follow(
    generator: MoleculeGenerator, names: list[str], wishes: Wishes, steps: int, scale: float, seed: int
) -> dict[str, Any]:
    """Molecules drawn with wishes, one for each."""
    asked = {name: wishes.values[name] for name in names}
    mols = generator.sample(
        len(wishes.sizes), n_atoms=wishes.sizes, steps=steps, condition=asked, guidance_scale=scale, seed=seed
    )
    errors = {}
    for name, wish in asked.items():
        error = np.abs(mols.values(name) - wish)
        error = error[np.isfinite(error)]
        errors[name] = {"value": float(error.mean()), "half": float(1.96 * error.std() / len(error) ** 0.5)}
    return {"wish": names, "steps": steps, "nfe": mols.nfe, "scale": scale, **_shares(mols), "errors": errors}


def complete(generator: MoleculeGenerator, name: str, n: int, steps: int, seed: int) -> dict[str, Any]:
    """Molecules around a scaffold: how many hold it unchanged and are valid."""
    part = embed_smiles(SCAFFOLDS[name])
    mols = generator.sample(n, fixed=part, steps=steps, seed=seed)
    given = fixed_parts(part, None, 1, generator.spec)[0]
    distances = np.array([deviation(record, given) for record in mols])
    intact = int(sum(d < UNCHANGED and verdict.valid for d, verdict in zip(distances, mols.verdicts)))
    low, high = wilson_interval(intact, n)
    smiles = {verdict.smiles for verdict in mols.verdicts if verdict.valid}
    return {
        "scaffold": name,
        "fixed_atoms": len(given),
        "steps": steps,
        "nfe": mols.nfe,
        "n": n,
        "intact": {"value": intact / n, "low": low, "high": high},
        "largest_rmsd": float(distances.max()),
        "distinct": len(smiles),
        **_shares(mols),
        "failures": dict(mols.failures().most_common(4)),
    }


def deviation(record: MoleculeRecord, part: MoleculeRecord) -> float:
    """RMSD in angstrom of the first atoms of ``record`` to ``part`` as they lie; infinite if the part is another."""
    k = len(part)
    is_same = (record.numbers[:k] == part.numbers).all() and (record.formal_charge[:k] == part.formal_charge).all()
    if not is_same or not (record.bonds[:k, :k] == part.bonds).all():
        return float("inf")
    assert record.pos is not None
    assert part.pos is not None
    return float(np.sqrt(((record.pos[:k] - part.pos) ** 2).sum(1).mean()))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="qm9_controlled")
    parser.add_argument("--other", default="qm9_implicit", help="model without fixed parts in its training")
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--parts", type=int, default=100, help="samples of each scaffold")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--release", type=Path, help="write a copy of the checkpoint with these figures")
    options = parser.parse_args()
    generator = MoleculeGenerator.from_pretrained(options.checkpoint)
    content: dict[str, Any] = {"checkpoint": Path(options.checkpoint).stem, "other": options.other}
    content |= {"seed": options.seed, "machine": machine(), "rows": [], "parts": []}
    wishes = held_out(generator, options.n, options.seed)
    content |= {"source": wishes.source, "n": len(wishes.sizes)}
    content["unconditional"] = _told(spread_of(generator, wishes, options.seed))
    names = list(wishes.values)
    plan = [([names[0]], *run) for run in RUNS]
    plan += [([name], *run) for name in names[1:] for run in RUNS[:2]] + [(names, *RUNS[0])]
    for asked, steps, scale in plan:
        content["rows"].append(_told(follow(generator, asked, wishes, steps, scale, options.seed)))
    for label in (options.checkpoint, options.other):
        model = generator if label is options.checkpoint else MoleculeGenerator.from_pretrained(label)
        for name in SCAFFOLDS:
            row = complete(model, name, options.parts, 50, options.seed)
            content["parts"].append(_told({"checkpoint": Path(label).stem, **row}))
    if options.release:
        generator.save(options.release, metadata={**generator.metadata, "figures": content})
        print(f"wrote {options.release}")
    write_json("molecule_control", content)
    write_section(TITLE, text(content))


def text(content: dict[str, Any]) -> str:
    """The section of the page."""
    spreads = content["unconditional"]["spreads"]
    told = "; ".join(
        f"{name}: random error {_number(x['error'])}, standard deviation {_number(x['std'])}"
        for name, x in spreads.items()
    )
    rows = []
    for row in content["rows"]:
        cells = [", ".join(row["wish"]), f"{row['scale']:g}", str(row["steps"]), str(row["nfe"])]
        cells += [percent(row["valid"]), percent(row["good_bonds"])]
        cells.append(
            ", ".join(f"{name} {_number(e['value'])} ± {_number(e['half'])}" for name, e in row["errors"].items())
        )
        for kind in ("error", "std"):
            cells.append(", ".join(f"{e['value'] / spreads[name][kind]:.2f}" for name, e in row["errors"].items()))
        rows.append(cells)
    head = ["wish", "guidance scale", "steps", "NFE", "valid and connected", "bonds within 25 %", "error"]
    head += ["of random", "of the deviation"]
    valid = percent(content["unconditional"]["valid"])
    page = _PAGE.format(**{**content, **content["machine"]}, spreads=told, valid=valid) + table(head, rows) + "\n"
    parts = content["parts"]
    given = {"parts": parts[0]["n"], "steps": parts[0]["steps"], "unchanged": UNCHANGED}
    page += _PARTS.format(**{**content, **given})
    head = ["model", "part", "fixed atoms", "intact", "largest RMSD", "bonds within 25 %", "distinct"]
    return page + table(head, [_part_row(row) for row in parts])


def _part_row(row: dict[str, Any]) -> list[str]:
    rmsd = f"{row['largest_rmsd']:.4f}"
    shares = [percent(row["intact"]), rmsd, percent(row["good_bonds"]), str(row["distinct"])]
    return [row["checkpoint"], row["scaffold"], str(row["fixed_atoms"]), *shares]


def _shares(mols: MoleculeList) -> dict[str, Any]:
    """Validity, geometry and uniqueness with intervals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = mols.report(descriptors=False)
    found = {name: figure(report, name) for name in ("valid", "good_bonds", "valid_3d", "connected", "unique")}
    return {name: None if value is None or np.isnan(value["value"]) else value for name, value in found.items()}


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _told(row: dict[str, Any]) -> dict[str, Any]:
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
