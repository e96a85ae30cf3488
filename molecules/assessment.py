"""Evaluation of a set of generated molecules: runs the protocols and the distances, and builds the `Report`.

Each protocol is computed once per molecule; intervals and spreads come from the per-molecule findings. Records are
never changed. A record without atoms stands for an entry that could not be read and counts as a failure ``parse``.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from rdkit import Chem

from molecules.chemistry import BOND_CLASSES, MoleculeRecord, Verdict, Vocabulary, judge
from molecules.descriptors import descriptor_means, descriptor_table, frechet_descriptor_distance, ring_sizes
from molecules.distributions import collect, compare
from molecules.energy import strain_summary
from molecules.geometry_mmd import geometry_mmd, internal_coordinates
from molecules.harmonize import harmonize
from molecules.pb_lite import pb_lite_summary
from molecules.report import Figure, Report, wilson_interval
from molecules.similarity import internal_diversity, kl_score, nearest_similarities
from molecules.stability import set_stability
from molecules.validity import SetValidity, canonical_set, edm_validity, legacy_set_validity, set_validity

__all__ = ["PROTOCOLS", "evaluate"]

PROTOCOLS = ("corrected", "legacy-midi", "edm")
"""Names of the protocols; ``corrected`` is ours and the default."""

_RECOMMENDED = 1000
_NOT_BINOMIAL = frozenset({"unique"})
_FRAGMENT = "largest_fragment"
_STREAM = 5


@dataclass(frozen=True, eq=False)
class _Findings:
    """What one protocol says about each molecule."""

    stable_atoms: np.ndarray
    stable: np.ndarray
    num_atoms: np.ndarray
    validity: SetValidity

    def counts(self, training: frozenset[str] | None, index: np.ndarray) -> dict[str, tuple[int, int]]:
        """Parts and wholes of all shares."""
        atoms = (int(self.stable_atoms[index].sum()), int(self.num_atoms[index].sum()))
        molecules = (int(self.stable[index].sum()), len(index))
        shares = self.validity.counts(training, index)
        return {"atom_stability": atoms, "molecule_stability": molecules, **shares}


def evaluate(
    records: Sequence[MoleculeRecord],
    *,
    reference: Sequence[MoleculeRecord] | None = None,
    training_smiles: Iterable[str] | None = None,
    protocols: Sequence[str] = ("corrected",),
    verdicts: Sequence[Verdict] | None = None,
    vocabulary: Vocabulary | None = None,
    descriptors: bool = True,
    energy: bool = False,
    geometry_checks: bool = False,
    num_parts: int = 5,
    max_reference: int = 10_000,
    seed: int = 0,
) -> Report:
    """Evaluate generated molecules.

    Args:
        records: The molecules; 10,000 are usual, under 1,000 a warning says so.
        reference: Real molecules to compare distributions with; their own figures stand beside the generated ones. If
            the two sets differ in hydrogens (explicit, implicit), distributions are compared on heavy atoms.
        training_smiles: SMILES of the training set for novelty, any notation; a frozenset is taken to come from
            `canonical_set` and used as it is.
        protocols: Some of `PROTOCOLS`; the first one gives the reasons of failure. The reference has no figure where it
            lacks the coordinates or bonds that a protocol reads.
        verdicts: Strict verdicts on ``records`` if they are known already.
        vocabulary: Elements and charges that are allowed at all.
        descriptors: Whether to compute RDKit descriptors and ring sizes (the slowest part, about 2 ms a molecule).
        energy: Whether to relax the valid molecules with MMFF94 (slow).
        geometry_checks: Whether to run the checks of `molecules.pb_lite`.
        num_parts: Number of disjoint random parts behind the spreads.
        max_reference: Number of reference molecules used, drawn at random if there are more.
        seed: Seed of the random parts.

    Raises:
        ValueError: If there are no molecules, a protocol is unknown or none is named, or ``"edm"`` lacks coordinates.
    """
    _check(records, reference, protocols)
    rng = np.random.default_rng([seed, _STREAM])
    notes = []
    if len(records) < _RECOMMENDED:
        notes.append(f"{len(records)} molecules give wide intervals; 1,000 are the least, 10,000 usual.")
        warnings.warn(notes[-1], stacklevel=2)
    if reference is not None and len(reference) > max_reference:
        chosen = np.sort(rng.choice(len(reference), max_reference, replace=False))
        reference = [reference[i] for i in chosen]
    unread = sum(len(record) == 0 for record in records)
    if unread:
        notes.append(f"{unread} entries could not be read and count as failures.")
    training = training_smiles if isinstance(training_smiles, frozenset | None) else canonical_set(training_smiles)
    needed = "corrected" in protocols or descriptors or energy or geometry_checks
    verdicts = _strict(records, vocabulary, verdicts, needed)
    known = _strict(reference or [], None, None, needed)
    parts = np.array_split(rng.permutation(len(records)), num_parts)
    sections: dict[str, Mapping[str, Figure]] = {}
    reasons: Counter[str] = Counter()
    for name in protocols:
        found = _findings(records, name, verdicts)
        beside = _findings(reference, name, known) if reference and _readable(reference, name) else None
        sections[name] = _protocol_figures(found, beside, training, parts)
        reasons = reasons if name != protocols[0] else found.validity.reasons
    histograms: dict[str, Mapping[str, Mapping[str, float]]] = {}
    if reference:
        sections["distributions"], bonds = _distances(records, reference, parts, rng, notes)
        histograms.update({"bonds": bonds} if bonds else {})
    mols, reference_mols = ([verdict.mol for verdict in group] for group in (verdicts, known))
    if descriptors:
        sections["descriptors"], histograms["rings"] = _descriptor_figures(mols, reference_mols)
    if energy:
        sections["energy"] = _beside(strain_summary(mols), strain_summary(reference_mols) if reference else {})
    if geometry_checks:
        sections["pb_lite"] = _beside(pb_lite_summary(mols), pb_lite_summary(reference_mols) if reference else {})
    return Report(
        num_molecules=len(records),
        sections=sections,
        reasons=dict(reasons.most_common()),
        histograms=histograms,
        num_reference=len(reference or ()),
        num_training=None if training is None else len(training),
        num_parts=num_parts,
        notes=notes,
    )


def _check(
    records: Sequence[MoleculeRecord], reference: Sequence[MoleculeRecord] | None, protocols: Sequence[str]
) -> None:
    if not len(records):
        raise ValueError("there is no molecule to evaluate.")
    if reference is not None and not len(reference):
        raise ValueError("the reference holds no molecule; give None for no reference.")
    if not protocols or any(name not in PROTOCOLS for name in protocols):
        raise ValueError(f"protocols must be among {', '.join(PROTOCOLS)}, got {', '.join(protocols) or 'none'}.")
    if "edm" in protocols and not _readable(records, "edm"):
        raise ValueError("the edm protocol reads bonds off coordinates, but some molecules have none. Leave edm out.")


def _readable(records: Sequence[MoleculeRecord], protocol: str) -> bool:
    """Whether the records have what the protocol reads: coordinates for edm, bonds for the others."""
    if protocol == "edm":
        return all(record.pos is not None for record in records)
    return _bonded(records)


def _bonded(records: Sequence[MoleculeRecord]) -> bool:
    return any(record.bonds.any() for record in records)


def _strict(
    records: Sequence[MoleculeRecord], vocabulary: Vocabulary | None, verdicts: Sequence[Verdict] | None, needed: bool
) -> list[Verdict]:
    """Strict verdicts, ``parse`` for records without atoms; failures without a reason where none are needed."""
    if verdicts is None:
        verdicts = [judge(record, vocabulary) for record in records] if needed else []
    unread = Verdict(False, "parse", "the entry could not be read.")
    return [verdict if len(record) else unread for record, verdict in zip(records, verdicts)]


def _findings(records: Sequence[MoleculeRecord], protocol: str, verdicts: Sequence[Verdict]) -> _Findings:
    """Stability and validity of a set under one protocol."""
    stable_atoms, stable = set_stability(records, protocol)
    if protocol == "corrected":
        validity = set_validity(records, verdicts)
    else:
        validity = edm_validity(records) if protocol == "edm" else legacy_set_validity(records)
    return _Findings(stable_atoms, stable, np.array([len(record) for record in records]), validity)


def _protocol_figures(
    found: _Findings, reference: _Findings | None, training: frozenset[str] | None, parts: Sequence[np.ndarray]
) -> dict[str, Figure]:
    """Shares with intervals, spreads and ceilings.

    Atoms of a molecule are not independent and uniqueness is no binomial share: these carry the spread only.
    """
    everything = np.concatenate(parts)
    whole = found.counts(training, everything)
    pieces = [found.counts(training, part) for part in parts]
    ceiling = {} if reference is None else reference.counts(training, np.arange(len(reference.stable)))
    result = {}
    for name, (part, total) in whole.items():
        binomial = name != "atom_stability" and name not in _NOT_BINOMIAL and total > 0
        low, high = wilson_interval(part, total) if binomial else (None, None)
        beside = _ratio(ceiling[name]) if name in ceiling else None
        result[name] = Figure(_ratio((part, total)), low, high, _spread([_ratio(row[name]) for row in pieces]), beside)
    largest = found.validity.largest_fragment
    beside = None if reference is None else float(reference.validity.largest_fragment.mean())
    spread = _spread([largest[part].mean() if len(part) else np.nan for part in parts])
    result[_FRAGMENT] = Figure(float(largest.mean()), spread=spread, reference=beside)
    return result


def _distances(
    records: Sequence[MoleculeRecord],
    reference: Sequence[MoleculeRecord],
    parts: Sequence[np.ndarray],
    rng: np.random.Generator,
    notes: list[str],
) -> tuple[dict[str, Figure], dict[str, dict[str, float]]]:
    """Distances to the reference, beside them those between its two random halves, and the histogram of bonds."""
    chosen = [[i for i in part if len(records[i])] for part in parts]
    readable = [records[i] for part in chosen for i in part]
    readable, reference, changes = harmonize(readable, reference)
    notes += changes
    cuts = np.cumsum([0, *map(len, chosen)])
    groups = [readable[start:stop] for start, stop in itertools.pairwise(cuts)]
    pieces = [collect(group) for group in groups]
    order = rng.permutation(len(reference))
    cut = len(order) // 2
    halves = [collect([reference[i] for i in half]) for half in (order[:cut], order[cut:])]
    whole, target = reduce(add, pieces), halves[0] + halves[1]
    values, floor = compare(whole, target), compare(*halves)
    rows = [compare(piece, target) for piece in pieces]
    mmd = geometry_mmd(internal_coordinates(readable), internal_coordinates(reference))
    if not (_bonded(records) and _bonded(reference)):
        notes.append("one of the sets has no bonds: only atoms and sizes are compared.")
        values, mmd = {name: values[name] for name in ("atom_tv", "size_w1")}, {}
    figures = {
        name: Figure(value, spread=_spread([row.get(name, np.nan) for row in rows]), reference=floor.get(name))
        for name, value in values.items()
        if np.isfinite(value)
    }
    figures.update({name: Figure(value) for name, value in mmd.items() if np.isfinite(value)})
    if "bond_tv" not in values:
        return figures, {}
    shares = [counts / max(counts.sum(), 1) for counts in (whole.bonds, target.bonds)]
    bonds = {
        name: {"generated": float(ours), "reference": float(theirs)}
        for name, ours, theirs in zip(BOND_CLASSES, *shares)
        if ours or theirs
    }
    return figures, bonds


def _descriptor_figures(
    mols: Sequence[Chem.Mol | None], reference: Sequence[Chem.Mol | None]
) -> tuple[dict[str, Figure], dict[str, dict[str, float]]]:
    """Descriptor means and ring sizes of the valid molecules."""
    groups = [[mol for mol in group if mol is not None] for group in (mols, reference)]
    tables = [descriptor_table(group) for group in groups]
    figures = _beside(*(descriptor_means(table) for table in tables))
    diversity = [internal_diversity(group) for group in groups]
    figures["internal_diversity"] = Figure(diversity[0], reference=diversity[1] if groups[1] else None)
    if len(tables[1]) > 1 and len(tables[0]) > 1:
        figures["frechet_descriptors"] = Figure(frechet_descriptor_distance(*tables))
        figures["nearest_tanimoto"] = Figure(float(nearest_similarities(*groups).mean()))
        figures["kl_score"] = Figure(kl_score(*groups))
    ours, theirs = (ring_sizes(group) if group else {} for group in groups)
    rings = {}
    for size in sorted({*ours, *theirs}):
        rings[size] = {"generated": ours.get(size, 0.0)}
        if groups[1]:
            rings[size]["reference"] = theirs.get(size, 0.0)
    return figures, rings


def _beside(values: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, Figure]:
    """Figures without intervals beside those of the reference."""
    return {name: Figure(value, reference=reference.get(name)) for name, value in values.items()}


def _ratio(counts: tuple[int, int]) -> float:
    return counts[0] / counts[1] if counts[1] else float("nan")


def _spread(values: Sequence[float]) -> float | None:
    """Standard deviation over the parts (n - 1), None with fewer than two defined values."""
    defined = [value for value in values if np.isfinite(value)]
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else None
