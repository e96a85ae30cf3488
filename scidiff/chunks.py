"""Results of a long generation on disk while it is under way: a folder with the request and one file a chunk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scidiff.files import atomic_path

__all__ = ["Chunks", "fingerprint", "partial_folder"]

_REQUEST = "request.json"
_DAMAGE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile)


class Chunks:
    """Arrays of the samples that are done, kept in ``folder`` until the final result is written.

    Iterating yields ``(index, arrays)`` by chunk.

    Args:
        folder: Working folder, made by `open`.
        request: All that decides the samples, as JSON can hold it. Another request does not go on from this folder.
    """

    def __init__(self, folder: str | os.PathLike[str], request: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.request = json.loads(json.dumps(dict(request)))

    def check(self) -> None:
        """Refuse a folder that is not ours, which `open` might empty.

        Raises:
            FileExistsError: If ``folder`` exists and is not a folder of `Chunks`.
        """
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return
        if not (self.folder / _REQUEST).is_file():
            raise FileExistsError(
                f"{str(self.folder)!r} exists and does not come from an unfinished generation; move it, or choose "
                "another output."
            )

    def open(self) -> str:
        """Make the folder, go on from it if the request is the same, else empty it.

        Returns:
            A sentence about what was found; empty for a new folder.
        """
        self.check()
        sentence = ""
        if (self.folder / _REQUEST).is_file():
            if self._stored() == self.request:
                for path in self._paths():
                    if _read_index(path) is None:
                        path.unlink()  # damaged on disk: drawn again
                return f"going on from {len(self.done())} samples in {str(self.folder)!r}."
            sentence = f"{str(self.folder)!r} belongs to another request and is replaced."
            self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.folder / _REQUEST) as temporary:
            temporary.write_text(json.dumps(self.request, indent=2) + "\n", encoding="utf-8")
        return sentence

    def add(self, index: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        """Write one chunk; it appears complete or not at all.

        Args:
            index: Numbers (B,) of the samples.
            arrays: Their arrays, by name; ``index`` is taken.
        """
        with atomic_path(self.folder / f"chunk_{int(index.min()):09d}.npz") as temporary:
            content: dict[str, Any] = {**arrays, "index": index}
            np.savez(temporary, **content)

    def done(self) -> np.ndarray:
        """Numbers of the samples that are there, ascending."""
        parts = [index for path in self._paths() if (index := _read_index(path)) is not None]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)

    def __iter__(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for path in self._paths():
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: data[name] for name in data.files}
            yield arrays.pop("index"), arrays

    def remove(self) -> None:
        """Remove the folder."""
        self.check()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("chunk_*.npz"))

    def _stored(self) -> Any:
        try:
            return json.loads((self.folder / _REQUEST).read_text(encoding="utf-8"))
        except ValueError:
            return None


def partial_folder(out: str | os.PathLike[str]) -> Path:
    """Working folder of an output file: ``OUT.partial`` beside it."""
    path = Path(out)
    return path.with_name(f"{path.name}.partial")


def fingerprint(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, for requests that depend on a checkpoint."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_index(path: Path) -> np.ndarray | None:
    try:
        with np.load(path, allow_pickle=False) as data:
            return data["index"]
    except _DAMAGE:
        return None
