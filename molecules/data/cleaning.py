"""Cleaning of raw molecules: bonds, strict verdict, geometry, and a report that counts every reason."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from molecules.bonds import BondError, bonds_from_smiles, perceive_bonds
from molecules.conformers import embed_smiles
from molecules.data.dataset import MoleculeDataset
from molecules.data.raw import RawMolecule
from molecules.elements import SYMBOLS
from molecules.records import AROMATIC, MoleculeRecord, kekulise, record_of, within_bond_band
from molecules.verdict import judge

__all__ = ["CleaningReport", "CleaningRules", "clean"]

_CHUNK = 1_000  # molecules a worker gets at a time
_SMALL = 3_000  # below this number a second process costs more than it saves


@dataclass
class CleaningReport:
    """What a preparation kept and why it dropped the rest.

    ``methods`` counts how bonds were found (``order``, ``isomorphism``, ``file``, ``factor 1.30`` ...), ``reasons``
    the dropped molecules by reason, ``dropped`` lists them as (id, reason, detail), ``splits`` counts the kept ones.
    """

    total: int = 0
    kept: int = 0
    methods: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    dropped: list[tuple[int, str, str]] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)

    def table(self) -> str:
        """The report as text of two columns, one screen."""
        rows: list[tuple[str, int]] = [("molecules", self.total), ("kept", self.kept)]
        rows += [(f"  {name}", count) for name, count in self.splits.items()]
        rows += [(f"  bonds by {name}", count) for name, count in self.methods.items()]
        rows += [("dropped", self.total - self.kept)]
        rows += [(f"  {name}", count) for name, count in self.reasons.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {count:>9,}" for name, count in rows)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON-ready data."""
        return {**asdict(self), "dropped": [list(row) for row in self.dropped]}


@dataclass(frozen=True)
class CleaningRules:
    """What is checked beside strict validity.

    Args:
        hydrogens: ``"explicit"`` demands all hydrogens; ``"implicit"`` keeps the heavy atoms only.
        elements: Element symbols to keep (reason ``element``), None for all.
        max_atoms: Largest molecule to keep (reason ``too_large``), None for all; of the atoms that are kept, so heavy
            atoms for ``"implicit"``.
        band: Bonds must lie within +- this share of the sum of covalent radii (reason ``geometry``), None leaves it.
        aromatic: Keep RDKit's aromatic bonds as class 4 instead of kekulised orders.

    Raises:
        ValueError: If ``hydrogens`` is neither of the two words.
    """

    hydrogens: str = "explicit"
    elements: tuple[str, ...] | None = None
    max_atoms: int | None = None
    band: float | None = None
    aromatic: bool = False

    def __post_init__(self) -> None:
        if self.hydrogens not in ("explicit", "implicit"):
            raise ValueError(f"hydrogens is 'explicit' or 'implicit', got {self.hydrogens!r}.")


@dataclass(frozen=True)
class _Outcome:
    """A molecule that was kept (``record`` and ``smiles``) or not (``reason``); ``method`` says how it was bonded."""

    id: int
    split: int | None
    record: MoleculeRecord | None = None
    smiles: str = ""
    method: str = ""
    reason: str = ""
    detail: str = ""
    properties: Mapping[str, float] = field(default_factory=dict)


def clean(
    raw: Iterable[RawMolecule], rules: CleaningRules, *, workers: int | None = None, progress: bool = False
) -> tuple[MoleculeDataset, CleaningReport]:
    """Bond, judge and pack molecules, in the order given.

    Args:
        raw: Molecules of a reader.
        rules: What is checked beside strict validity.
        workers: Processes; None takes one a core, and one alone for fewer than 3,000 molecules.
        progress: Whether to show a bar on stderr.

    Returns:
        The dataset (its split taken from the raw molecules if all have one) and the report.

    Raises:
        ValueError: If no molecule is left.
    """
    chunks = _chunks(raw, rules)
    report, parts, known = CleaningReport(), [], []
    with _bar(progress) as bar:
        for dataset, outcomes in _run(chunks, _cores() if workers is None else workers):
            report.total += len(outcomes)
            bar.update(len(outcomes))
            for outcome in outcomes:
                if outcome.reason:
                    report.dropped.append((outcome.id, outcome.reason, outcome.detail))
                else:
                    report.methods[outcome.method] = report.methods.get(outcome.method, 0) + 1
                    known.append(outcome.properties)
            if dataset is not None:
                parts.append(dataset)
    report.reasons = dict(Counter(reason for _, reason, _ in report.dropped).most_common())
    if not parts:
        reasons = ", ".join(f"{name} {count}" for name, count in report.reasons.items()) or "the source is empty"
        raise ValueError(f"no molecule of {report.total} is left after cleaning ({reasons}).")
    dataset = MoleculeDataset.concatenate(parts)
    names = sorted({name for row in known for name in row})
    dataset = dataset.with_properties({name: np.array([row.get(name, np.nan) for row in known]) for name in names})
    report.kept = len(dataset)
    return dataset, report


def clean_one(raw: RawMolecule, rules: CleaningRules) -> _Outcome:
    """Bond and judge one molecule; never raises for a bad one."""
    method = ""
    if raw.needs_geometry:
        try:
            record = embed_smiles(raw.smiles or "", seed=raw.id)
        except BondError as error:
            return _Outcome(raw.id, raw.split, reason=error.reason, detail=str(error))
        raw, method = replace(raw, numbers=record.numbers, record=record), "file, geometry by ETKDG and MMFF94"
    if not len(raw.numbers):
        return _Outcome(raw.id, raw.split, reason="parse", detail="the source could not be read as a molecule.")
    if raw.numbers.min() < 1 or raw.numbers.max() >= len(SYMBOLS):
        return _Outcome(raw.id, raw.split, reason="element", detail="an atomic number is outside 1..118.")
    count = len(raw.numbers) if rules.hydrogens == "explicit" else int((raw.numbers > 1).sum())
    if rules.max_atoms is not None and count > rules.max_atoms:
        return _Outcome(raw.id, raw.split, reason="too_large", detail=f"{count} atoms.")
    if rules.elements is not None:
        strange = sorted({SYMBOLS[z] for z in raw.numbers.tolist()} - set(rules.elements))
        if strange:
            return _Outcome(raw.id, raw.split, reason="element", detail=", ".join(strange))
    try:
        record, found = _bonded(raw)
    except BondError as error:
        return _Outcome(raw.id, raw.split, reason=error.reason, detail=str(error))
    if rules.hydrogens == "implicit":
        record = _kekulised(record).without_hydrogens()
    elif not record.explicit_h:
        return _Outcome(raw.id, raw.split, reason="implicit_h", detail="hydrogens are missing.")
    verdict = judge(record)
    if verdict.mol is None or verdict.smiles is None:
        return _Outcome(
            raw.id,
            raw.split,
            reason=(verdict.reason or "").split(":")[0],
            detail=f"{verdict.reason}; {verdict.detail}",
        )
    if rules.band is not None and not within_bond_band(record, rules.band):
        return _Outcome(raw.id, raw.split, reason="geometry", detail="a bond is too short or too long.")
    if rules.aromatic:
        record = record_of(verdict.mol, explicit_h=record.explicit_h)
    elif (record.bonds == AROMATIC).any():
        record = kekulise(record)
    return _Outcome(raw.id, raw.split, record, verdict.smiles, method or found, properties=raw.properties)


def _kekulised(record: MoleculeRecord) -> MoleculeRecord:
    """With single and double bonds for aromatic ones, which need the hydrogens of rings like pyrrole; else as it is."""
    if not record.explicit_h or not (record.bonds == AROMATIC).any():
        return record
    try:
        return kekulise(record)
    except ValueError:  # the verdict says what is wrong
        return record


def _bonded(raw: RawMolecule) -> tuple[MoleculeRecord, str]:
    if raw.record is not None:
        return raw.record, "file"
    if raw.smiles is not None:
        return bonds_from_smiles(raw.numbers, raw.pos, raw.smiles)
    record, factor = perceive_bonds(raw.numbers, raw.pos, raw.charge)
    return record, f"factor {factor:.2f}"


def _clean_chunk(chunk: tuple[list[RawMolecule], CleaningRules]) -> tuple[MoleculeDataset | None, list[_Outcome]]:
    """Work of one process: the kept molecules packed, and every outcome without its record."""
    raw, rules = chunk
    outcomes = [clean_one(molecule, rules) for molecule in raw]
    kept = [(outcome, outcome.record) for outcome in outcomes if outcome.record is not None]
    dataset = None
    if kept:
        splits = [outcome.split for outcome, _ in kept]
        dataset = MoleculeDataset.from_records(
            [record for _, record in kept],
            ids=np.array([outcome.id for outcome, _ in kept]),
            split=None if None in splits else np.array(splits),
            smiles=[outcome.smiles for outcome, _ in kept],
        )
    return dataset, [replace(outcome, record=None) for outcome in outcomes]


def _chunks(raw: Iterable[RawMolecule], rules: CleaningRules) -> Iterator[tuple[list[RawMolecule], CleaningRules]]:
    iterator = iter(raw)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk, rules


def _run(chunks: Iterator[Any], workers: int) -> Iterator[tuple[MoleculeDataset | None, list[_Outcome]]]:
    """Chunks through processes, in order; a bounded number waits, so that a large source is not held twice."""
    head = list(itertools.islice(chunks, _SMALL // _CHUNK))
    if workers <= 1 or len(head) < _SMALL // _CHUNK:
        yield from map(_clean_chunk, itertools.chain(head, chunks))
        return
    context = multiprocessing.get_context("spawn")  # forking a process whose libraries run threads can hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        pending: deque[Any] = deque()
        for chunk in itertools.chain(head, chunks):
            pending.append(pool.submit(_clean_chunk, chunk))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bar(progress: bool) -> tqdm:
    return tqdm(desc="molecules", unit="", disable=not progress, delay=0.5)  # silent before a quick error
