"""The result of an evaluation: every figure with its uncertainty, its floor, and the forecasts without a network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scidiff.cli.output import table
from scidiff.files import atomic_path

__all__ = ["Figure", "Report"]


@dataclass(frozen=True)
class Figure:
    """One number and what it has to be read beside; None where it has no meaning.

    Attributes:
        value: The figure.
        error: Standard error over systems (or over repetitions, for scores by networks).
        floor: The same figure of one half of the reference against the other.
        baselines: The same figure of forecasts without a network, by name.
    """

    value: float
    error: float | None = None
    floor: float | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What `trajectories.evaluate.evaluate` found.

    Attributes:
        figures: Figures by name.
        about: Plain data: numbers of systems and samples, conventions, solver, NFE, seed, versions, files.
        notes: Sentences that a reader has to know.
    """

    figures: Mapping[str, Figure]
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __getitem__(self, name: str) -> float:
        """Value of a figure.

        Raises:
            ValueError: If there is none of this name.
        """
        if name not in self.figures:
            raise ValueError(f"the report has no figure {name!r}. It has {', '.join(self.figures)}.")
        return self.figures[name].value

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not finite is None."""
        figures = {
            name: {
                "value": _plain(figure.value),
                "error": _plain(figure.error),
                "floor": _plain(figure.floor),
                "baselines": {key: _plain(value) for key, value in figure.baselines.items()},
            }
            for name, figure in self.figures.items()
        }
        return {"metrics": figures, **dict(self.about), "notes": list(self.notes)}

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict`, atomically."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def table(self) -> str:
        """One line a figure, for a terminal."""
        names = list(dict.fromkeys(name for figure in self.figures.values() for name in figure.baselines))
        header = ["", "value", "+-", "real-real", *(name.replace("_", " ") for name in names)]
        rows = []
        for name, figure in self.figures.items():
            numbers = [figure.value, figure.error, figure.floor, *(figure.baselines.get(key) for key in names)]
            rows.append([name, *("" if x is None else f"{x:.4g}" for x in numbers)])
        kept = [k for k in range(len(header)) if k < 2 or any(row[k] for row in rows)]
        text = table([[row[k] for k in kept] for row in rows], header=[header[k] for k in kept])
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])

    def __str__(self) -> str:
        return self.table()


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
