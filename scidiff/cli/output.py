"""The one place where the toolkit writes to the terminal: results to stdout, remarks to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["note", "pairs", "table", "write"]


def write(text: str = "") -> None:
    """Write one result, with a line end, to stdout."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Write a remark, with a line end, to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def table(rows: Iterable[Sequence[Any]], header: Sequence[str] | None = None) -> str:
    """Rows as aligned plain text; numbers to the right with four significant digits, text to the left.

    Args:
        rows: Cells, the same number in each row.
        header: Column names.
    """
    body = [list(row) for row in rows]
    cells = [[_text(cell) for cell in row] for row in body]
    lines = ([list(header)] if header else []) + cells
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    numeric = [bool(body) and all(_is_number(row[column]) for row in body) for column in range(len(widths))]
    shown = [_line(line, widths, numeric) for line in lines]
    if header:
        shown.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(shown)


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values, one a line, aligned."""
    return table((name, _text(value)) for name, value in values.items())


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    aligned = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(cells, widths, numeric))
    return "  ".join(aligned).rstrip()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
