"""Files that ship inside the packages, found by a short name.

``PACKAGE/assets/NAME.safetensors`` is a checkpoint, ``PACKAGE/configs/NAME.yaml`` a training configuration.
Nothing here imports a domain or torch, so that command-line help stays fast.
"""

from __future__ import annotations

import difflib
import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from scidiff.configurable import allowed_packages

__all__ = ["DATA_VARIABLE", "data_folder", "find", "packaged", "suggestion"]

DATA_VARIABLE = "SCIDIFF_DATA"


def packaged(package: str | None = None, *, folder: str = "assets", suffix: str = ".safetensors") -> dict[str, Path]:
    """Names and paths of the packaged files of one kind, sorted by name.

    Args:
        package: Import name of a domain, or None for all installed domains. With None, a name that occurs in two
            packages is listed as ``package/name``.
        folder: Folder inside the package.
        suffix: Ending of the files, with its dot.
    """
    packages = (package,) if package else allowed_packages()
    found: dict[str, dict[str, Path]] = {}
    for name in packages:
        root = _package_folder(name)
        for path in sorted((root / folder).glob(f"*{suffix}")) if root else ():
            found.setdefault(path.name.removesuffix(suffix), {})[name] = path
    listing: dict[str, Path] = {}
    for short, places in found.items():
        for owner, path in places.items():
            listing[short if len(places) == 1 else f"{owner}/{short}"] = path
    return dict(sorted(listing.items()))


def find(
    name_or_path: str | os.PathLike[str],
    package: str | None = None,
    *,
    folder: str = "assets",
    suffix: str = ".safetensors",
    what: str = "checkpoint",
) -> Path:
    """Path of a packaged file by its short name, or of any existing file by its path. A packaged name wins.

    Args:
        name_or_path: A packaged name (``qm9``, or ``molecules/qm9``) or a path.
        package: Import name of a domain, or None for all installed domains.
        folder: Folder inside the package.
        suffix: Ending of the files, with its dot.
        what: Noun for the error message.

    Raises:
        FileNotFoundError: If neither a packaged file nor a path fits; lists the known names and the closest one.
        IsADirectoryError: If the path is a folder.
    """
    known = packaged(package, folder=folder, suffix=suffix)
    text = os.fspath(name_or_path)
    owner, _, short = text.rpartition("/")
    if text in known:
        return known[text]
    if owner in allowed_packages() and package in (None, owner):
        own = packaged(owner, folder=folder, suffix=suffix)
        if short in own:
            return own[short]
    path = Path(text)
    if path.is_dir():
        raise IsADirectoryError(f"{what} {text!r} is a folder; give the {suffix} file itself.")
    if path.exists():
        return path
    raise FileNotFoundError(f"no {what} {text!r}: it is neither a file nor a packaged name{suggestion(text, known)}.")


def data_folder() -> Path | None:
    """Folder of the full data sets: ``$SCIDIFF_DATA``, else ``shared/data`` beside the checkout, else None."""
    named = os.environ.get(DATA_VARIABLE)
    checkout = Path(__file__).parents[1]
    folder = Path(named) if named else checkout.parent / "shared" / "data"
    return folder if folder.is_dir() else None


def suggestion(name: str, known: list[str] | tuple[str, ...] | dict[str, Path]) -> str:
    """End of an error sentence: the known names and the closest one to ``name``."""
    names = list(known)
    if not names:
        return " (none is packaged)"
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f" (known: {', '.join(names)}{hint})"


@lru_cache
def _package_folder(package: str) -> Path | None:
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None
