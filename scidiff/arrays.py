"""Reading of ``.npz`` archives: never a pickle, and a damaged file is one sentence."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

__all__ = ["npz_keys", "read_npz"]

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, NotImplementedError, SyntaxError)


def read_npz(path: str | os.PathLike[str], keys: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an archive by name.

    Args:
        path: The file.
        keys: Names to read, those that are absent are left out; None reads all.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, is no npz archive, or holds objects that would have to be unpickled.
    """
    names = npz_keys(path)
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files if name in (names if keys is None else keys)}
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged, or holds more than plain arrays ({error}).") from error


def npz_keys(path: str | os.PathLike[str]) -> set[str]:
    """Names of the arrays of an archive, without reading them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no npz archive.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: check the name.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no npz archive. Is it truncated, or another kind of file?")
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}
