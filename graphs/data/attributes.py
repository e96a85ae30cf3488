"""Names and vocabularies of what nodes, edges and graphs carry, and how they are read off columns of values.

Whole numbers, words, truth values, integer vectors and one-hot rows are categorical: the combinations that occur are
the classes, so any number of categorical attributes travels as one class index. Other numbers and vectors are real
features. Nothing is guessed for a part of a set: an attribute belongs to every node (edge) or to none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

__all__ = ["MAX_CLASSES", "Attributes", "Columns", "encode", "encode_labels", "table"]

MAX_CLASSES = 256
"""More different combinations than this are numbers or names of nodes, not types."""

Value = Any
"""A class value: int, bool, str, or a tuple of numbers."""

Columns = Mapping[str, np.ndarray]
"""One array a name, first axis = rows."""


@dataclass(frozen=True)
class Attributes:
    """What nodes, edges and graphs carry.

    Args:
        node_names: Categorical node attributes.
        node_classes: One tuple of values (in the order of ``node_names``) a node class; class k is row k.
        node_features: Real node attributes as (name, width), width 0 for a plain number.
        edge_names: Categorical edge attributes.
        edge_classes: One tuple of values an edge class; class k >= 1 is row k - 1, class 0 means "no edge".
        edge_features: Real edge attributes as (name, width).
        graph_name: Name of the graph label, empty without one.
        graph_classes: Values of the graph label.
    """

    node_names: tuple[str, ...] = ()
    node_classes: tuple[tuple[Value, ...], ...] = ()
    node_features: tuple[tuple[str, int], ...] = ()
    edge_names: tuple[str, ...] = ()
    edge_classes: tuple[tuple[Value, ...], ...] = ()
    edge_features: tuple[tuple[str, int], ...] = ()
    graph_name: str = ""
    graph_classes: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        """Accept what JSON gives back: lists for tuples."""
        for item in fields(self):
            if item.name != "graph_name":
                object.__setattr__(self, item.name, _tuples(getattr(self, item.name)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Attributes:
        """Inverse of `to_dict`, also after a trip through JSON."""
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready data."""
        return asdict(self)

    @property
    def num_node_classes(self) -> int:
        """Number of node classes, 0 for nodes without categorical attributes."""
        return len(self.node_classes)

    @property
    def num_edge_classes(self) -> int:
        """Number of edge classes with "no edge" as class 0, at least 2."""
        return 1 + max(1, len(self.edge_classes))

    @property
    def node_width(self) -> int:
        """Number of real numbers a node carries."""
        return sum(max(1, width) for _, width in self.node_features)

    @property
    def edge_width(self) -> int:
        """Number of real numbers an edge carries."""
        return sum(max(1, width) for _, width in self.edge_features)

    @property
    def is_molecular(self) -> bool:
        """Whether the graphs are molecules: atoms with a symbol (and perhaps a charge), bonds of order 1 to 3."""
        return set(self.node_names) in ({"symbol"}, {"symbol", "charge"}) and self.edge_names == ("bond",)


@dataclass(frozen=True)
class _Encoded:
    """Columns as class indices and real numbers."""

    names: tuple[str, ...]
    classes: tuple[tuple[Value, ...], ...]
    index: np.ndarray | None
    features: tuple[tuple[str, int], ...]
    values: np.ndarray | None


def encode(columns: Columns, kind: str) -> _Encoded:
    """Joint class indices (from 0) and real features of some columns.

    Args:
        columns: One array a name.
        kind: ``"node"`` or ``"edge"``, for error messages.

    Raises:
        ValueError: If an attribute has too many classes, is not finite, or is a negative ``weight``.
    """
    categorical: dict[str, tuple[list[Value], np.ndarray]] = {}
    real: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        _check_numbers(name, column, kind)
        if _is_categorical(column):
            values, inverse = np.unique(column, axis=0, return_inverse=True)
            categorical[name] = (_tuples(values.tolist()), inverse.reshape(-1))
        else:
            real[name] = column.astype(np.float64)
    names = tuple(categorical)
    classes, index = _joint(categorical, kind)
    features = tuple((name, 0 if column.ndim == 1 else column.shape[1]) for name, column in real.items())
    flat = [column.reshape(len(column), -1) for column in real.values()]
    return _Encoded(names, classes, index, features, np.concatenate(flat, axis=1) if flat else None)


def encode_labels(values: Sequence[Any]) -> tuple[tuple[Value, ...], np.ndarray] | None:
    """Classes and indices of graph labels; None if they are not categorical."""
    column = _column(list(values))
    if column is None or column.ndim != 1 or not _is_categorical(column):
        return None
    classes, index = np.unique(column, return_inverse=True)
    return (tuple(classes.tolist()), index.astype(np.int64)) if len(classes) <= MAX_CLASSES else None


def table(rows: Sequence[Mapping[str, Any]], kind: str, keep: Sequence[str] | None, where: Sequence[int]) -> Columns:
    """Columns of a list of attribute dictionaries.

    Args:
        rows: One dictionary a node or edge.
        kind: ``"node"`` or ``"edge"``, for error messages.
        keep: Names to take; None takes all.
        where: Graph number of each row, for error messages.

    Raises:
        ValueError: If an attribute is missing on some row, or mixes kinds of values.
    """
    names = list(dict.fromkeys(key for row in rows for key in row)) if keep is None else list(keep)
    columns: dict[str, np.ndarray] = {}
    for name in names:
        missing = next((k for k, row in enumerate(rows) if name not in row), None)
        if missing is not None:
            raise ValueError(
                f"{kind} attribute {name!r} is missing on one {kind} of graph {where[missing]}; give it to every "
                f"{kind}, or leave it out with {kind}_attributes=[...]."
            )
        column = _column([row[name] for row in rows])
        if column is None:
            raise ValueError(
                f"{kind} attribute {name!r} must hold values of one kind (numbers, words, or vectors of one length), "
                f"got for example {rows[0][name]!r}; convert it, or leave it out with {kind}_attributes=[...]."
            )
        columns[str(name)] = column
    return columns


def _column(values: list[Any]) -> np.ndarray | None:
    """Values as an array of truth values, integers, floats or words (or vectors of numbers); None if they are mixed."""
    if any(isinstance(value, str) for value in values) and not all(isinstance(value, str) for value in values):
        return None
    try:
        column = np.array([np.asarray(value) for value in values])
    except (ValueError, TypeError, RuntimeError):
        return None
    is_plain = column.dtype.kind in "biufU" and column.ndim in (1, 2)
    return column if is_plain and not (column.dtype.kind == "U" and column.ndim == 2) else None


def _is_categorical(column: np.ndarray) -> bool:
    """Integers, words and truth values, one-hot rows, and a number that never changes."""
    if column.dtype.kind != "f":
        return True
    if column.ndim == 1:
        return len(column) > 0 and bool((column == column[0]).all())
    ones = ((column == 0) | (column == 1)).all(axis=1) & (column.sum(axis=1) == 1)
    return column.shape[1] > 1 and bool(ones.all())


def _joint(categorical: Mapping[str, tuple[Any, np.ndarray]], kind: str) -> tuple[tuple, np.ndarray | None]:
    if not categorical:
        return (), None
    for name, (values, _) in categorical.items():
        if len(values) > MAX_CLASSES:
            raise ValueError(
                f"{kind} attribute {name!r} has {len(values):,} different values, more than {MAX_CLASSES} classes; "
                f"leave it out with {kind}_attributes=[...], or turn it into floats to make it a real feature."
            )
    stacked = np.stack([inverse for _, inverse in categorical.values()], axis=1)
    combinations, index = np.unique(stacked, axis=0, return_inverse=True)
    if len(combinations) > MAX_CLASSES:
        raise ValueError(
            f"the {kind} attributes {', '.join(categorical)} occur in {len(combinations):,} combinations, more than "
            f"{MAX_CLASSES} classes; leave some out with {kind}_attributes=[...]."
        )
    columns = [values for values, _ in categorical.values()]
    classes = tuple(tuple(column[k] for column, k in zip(columns, row)) for row in combinations.tolist())
    return classes, index.reshape(-1).astype(np.int64)


def _check_numbers(name: str, column: np.ndarray, kind: str) -> None:
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        bad = column[~np.isfinite(column)].flat[0]
        raise ValueError(f"{kind} attribute {name!r} must be finite, got {bad}; remove such values first.")
    if kind == "edge" and name == "weight" and column.dtype.kind in "fi" and (column < 0).any():
        raise ValueError(f"edge weights must not be negative, got {column.min()}; a weight is a strength, not a sign.")


def _tuples(value: Any) -> Any:
    """Nested lists as nested tuples."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("a class value must be a number, got NaN.")
    return value
