"""The result of an evaluation: every figure with its uncertainty and with the figure of the reference beside it.

A share k / n carries the Wilson 95 % interval (centre k' / n', n' = n + z^2, k' = k + z^2 / 2, z = 1.96); every figure
carries the standard deviation over disjoint random parts of the set. The number of molecules is always part of the
report.

Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from scidiff.files import atomic_path

__all__ = ["Figure", "Report", "wilson_interval"]

_Z = 1.959964
_PERCENT = frozenset({"corrected", "legacy-midi", "edm", "pb_lite"})
_TITLES = {
    "corrected": "corrected (strict validity)",
    "legacy-midi": "legacy-midi (for comparison with published tables only)",
    "edm": "edm (bonds from distances)",
    "distributions": "distances to the reference (reference: between its halves)",
    "descriptors": "means over valid molecules",
    "energy": "MMFF94 strain of valid molecules (kcal/mol)",
    "pb_lite": "geometry checks",
}
_SHARES_IN_ENERGY = frozenset({"energy_validity"})


def wilson_interval(part: int, whole: int) -> tuple[float, float]:
    """Wilson 95 % interval of a binomial share; (NaN, NaN) if ``whole`` is 0."""
    if whole == 0:
        return float("nan"), float("nan")
    share, weight = part / whole, 1.0 + _Z**2 / whole
    centre = (share + _Z**2 / (2 * whole)) / weight
    half = _Z / weight * math.sqrt(share * (1.0 - share) / whole + _Z**2 / (4 * whole**2))
    # At 0 and 1 the formula gives the bound itself up to rounding.
    return (0.0 if part == 0 else centre - half), (1.0 if part == whole else centre + half)


class Figure(NamedTuple):
    """One number with what is needed to read it; None where it has no meaning."""

    value: float
    low: float | None = None
    """Lower end of the Wilson 95 % interval."""
    high: float | None = None
    """Upper end of the Wilson 95 % interval."""
    spread: float | None = None
    """Standard deviation over disjoint random parts of the set."""
    reference: float | None = None
    """The same figure of the reference set."""


@dataclass(frozen=True, eq=False)
class Report:
    """What `molecules.metrics.evaluate` found.

    Args:
        num_molecules: Number of molecules, the unreadable ones included.
        sections: Figures by section (a protocol's name, ``distributions``, ``descriptors``, ``energy``, ``pb_lite``).
        reasons: Failed molecules by reason; sums to ``num_molecules`` minus the valid ones.
        histograms: Shares by bond class (``bonds``) and rings per molecule by size (``rings``), each as
            {name: {"generated": value, "reference": value}}.
        num_reference: Molecules of the reference, 0 without one.
        num_training: Distinct SMILES of the training set, None if novelty was not asked for.
        num_parts: Number of parts behind the spreads.
        notes: Sentences a reader has to know.
        files: Names of the files that were read, by role.
    """

    num_molecules: int
    sections: Mapping[str, Mapping[str, Figure]]
    reasons: Mapping[str, int] = field(default_factory=dict)
    histograms: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    num_reference: int = 0
    num_training: int | None = None
    num_parts: int = 5
    notes: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, key: str) -> float:
        """Value of a figure by name, ``"valid"`` or ``"edm/valid"``; the first section that has it wins."""
        section, _, name = key.rpartition("/")
        for title, figures in self.sections.items():
            if name in figures and section in ("", title):
                return figures[name].value
        known = sorted({name for figures in self.sections.values() for name in figures})
        raise ValueError(f"the report has no figure {key!r}. It has {', '.join(known)}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-ready values; what is not defined is None."""
        sections = {
            title: {name: {k: _plain(v) for k, v in figure._asdict().items()} for name, figure in figures.items()}
            for title, figures in self.sections.items()
        }
        return {
            "num_molecules": self.num_molecules,
            "num_reference": self.num_reference,
            "num_training": self.num_training,
            "num_parts": self.num_parts,
            "metrics": sections,
            "reasons": dict(self.reasons),
            "histograms": {k: {name: dict(row) for name, row in v.items()} for k, v in self.histograms.items()},
            "notes": list(self.notes),
            "files": dict(self.files),
        }

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` to a JSON file, atomically."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def table(self) -> str:
        """The report as text for a terminal of 80 columns; distances by bond class stand in `to_dict` only."""
        head = f"{self.num_molecules} molecules, shares in %"
        if self.num_reference:
            head += f", reference {self.num_reference}"
        if self.num_training is not None:
            head += f", training SMILES {self.num_training}"
        lines = [head, f"{'':26s}{'value':>10s}  {'95 % interval':^16s}{'+-':>9s}{'reference':>12s}"]
        for title, figures in self.sections.items():
            lines.append(_TITLES.get(title, title))
            lines += [_row(name, figure, title) for name, figure in figures.items() if "_w1_" not in name]
        if self.reasons:
            ranked = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
            shown = [f"{reason} {count}" for reason, count in ranked[:6]]
            rest = sum(count for _, count in ranked[6:])
            lines.append("failures: " + ", ".join([*shown, f"others {rest}"] if rest else shown))
        for title, rows in self.histograms.items():
            lines.append(f"{title}: " + ", ".join(_bar(name, row) for name, row in rows.items()))
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def __str__(self) -> str:
        return self.table()


def _row(name: str, figure: Figure, section: str) -> str:
    """One line of the table; shares in per cent."""
    percent = section in _PERCENT or name in _SHARES_IN_ENERGY
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f"{100 * figure.low:.2f} .. {100 * figure.high:.2f}"
    cells = [_number(value, percent) for value in (figure.value, figure.spread, figure.reference)]
    return f"  {name:24s}{cells[0]:>10s}  {interval:^16s}{cells[1]:>9s}{cells[2]:>12s}".rstrip()


def _number(value: float | None, percent: bool) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:.2f}" if percent else f"{value:.4g}"


def _bar(name: str, row: Mapping[str, float]) -> str:
    text = f"{name} {row['generated']:.4g}"
    return text + (f" ({row['reference']:.4g})" if "reference" in row else "")


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
