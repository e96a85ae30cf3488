"""What a command may be given as data: a file, a benchmark set, a classic series, or demand made in code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scidiff.assets import suggestion
from timeseries.data import calendar, datasets, frames
from timeseries.data.classics import CLASSICS, load_classic
from timeseries.data.demand import demand
from timeseries.data.series import TimeSeries, as_series

__all__ = ["DEMAND", "known_names", "read_archive", "read_future", "read_named", "read_series"]

DEMAND = "demand"
_SUFFIX_HINT = ".csv, .jsonl or .parquet"


def known_names() -> list[str]:
    """Names that `read_named` knows."""
    return [DEMAND, *datasets.names(), *CLASSICS]


def read_named(name: str, part: str = "train", *, seed: int = 0) -> list[TimeSeries]:
    """Series of a named set: its training part, or the longest test series of each item.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If its files are not there.
    """
    if name == DEMAND:
        return demand(seed=seed)
    if name in CLASSICS:
        return [load_classic(name)]
    if name not in datasets.names():
        raise ValueError(f"no data set and no file {name!r}{suggestion(name, known_names())}.")
    found = datasets.load_benchmark(name)
    return found.train if part == "train" else list({s.item_id: s for s in found.test}.values())


def read_series(source: str, freq: str | None, expected: str | None = None, **columns: Any) -> list[TimeSeries]:
    """Series of a file or name, whose frequency must be that of the model.

    Args:
        source: File, or a name of `known_names` (its test part).
        freq: Frequency as the user says; inferred if absent.
        expected: Frequency of the model; taken where the file does not tell.
        columns: ``target``, ``item_id``, ``timestamp``.

    Raises:
        ValueError: If the frequency is another one, or the content does not fit.
        FileNotFoundError: If there is no such file.
    """
    if not Path(source).exists() and source in known_names():
        series = read_named(source, "test")
    elif not Path(source).exists() and not Path(source).suffix:
        raise FileNotFoundError(f"no file and no data set {source!r}{suggestion(source, known_names())}.")
    else:
        series = _of_file(source, freq, expected, columns)
    if expected is not None and series[0].freq != calendar.normalize_freq(expected):
        raise ValueError(
            f"the data has the frequency {series[0].freq!r}, the model {expected!r}; train one on such data, or "
            "aggregate the data first."
        )
    return series


def read_archive(folder: Path, part: str, freq: str | None) -> list[TimeSeries]:
    """Series of a GluonTS data set on disk: ``FOLDER/train`` and ``FOLDER/test`` with ``metadata``.

    Raises:
        ValueError: If there is no such part, or its frequency is not said.
    """
    from gluonts.dataset.common import FileDataset

    place = folder / part
    if not place.is_dir():
        raise ValueError(f"{str(folder)!r} has no folder {part!r}; expected a GluonTS data set with train/ and test/.")
    if freq is None:
        freq = _archive_freq(folder)
    if freq is None:
        raise ValueError(f"the metadata of {str(folder)!r} does not say a frequency: pass --freq.")
    # GluonTS reads the starts with the period spelling; files of the file system's own are left out
    return as_series(list(FileDataset(place, freq=calendar.normalize_freq(freq), pattern="[!._]*")), freq)


def read_future(path: Path, series: Sequence[TimeSeries], **columns: Any) -> list[np.ndarray]:
    """Known future values (H, D) of each series, NaN where unknown, from a table of some of its variates.

    Args:
        path: Table with ``timestamp``, ``item_id`` (may be absent for one series), and columns named as variates.
        series: Series whose future it is, with named variates.
        columns: ``item_id`` and ``timestamp``, if named otherwise.

    Raises:
        ValueError: If items, variates or times do not fit.
    """
    names = series[0].names
    if not names:
        raise ValueError("known future values need a model of several variates; pass them as --target a,b,...")
    table = frames.read_table(path)
    known = [name for name in names if name in table.columns]
    if not known:
        raise ValueError(f"{path.name!r} holds none of the variates {', '.join(map(repr, names))}.")
    found = {s.item_id: s for s in as_series(table, series[0].freq, target=known, **columns)}
    values = []
    for s in series:
        future = found.get(s.item_id) if len(series) > 1 else next(iter(found.values()))
        begin = calendar.shift(s.start, len(s))
        if future is None or future.start != begin:
            given = "nothing" if future is None else f"values from {future.start} on"
            raise ValueError(f"series {s.item_id!r} ends before {begin}; {path.name!r} has {given} for it.")
        table_of_all = np.full((len(future), len(names)), np.nan)
        table_of_all[:, [names.index(name) for name in known]] = future.table
        values.append(table_of_all)
    return values


def _of_file(source: str, freq: str | None, expected: str | None, columns: dict[str, Any]) -> list[TimeSeries]:
    if freq is not None or expected is None:
        return as_series(source, freq, **columns)
    try:
        return as_series(source, None, **columns)
    except ValueError as error:
        if "pass freq=" not in str(error):
            raise
        return as_series(source, expected, **columns)  # gaps in the calendar hide the frequency


def _archive_freq(folder: Path) -> str | None:
    import json

    for name in ("metadata", "metadata.json", "metadata/metadata.json"):
        file = folder / name
        if file.is_file():
            return json.loads(file.read_text(encoding="utf-8")).get("freq")
    return None
