"""Package attributes imported at first use, so that ``import scidiff`` and command-line help need no torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(package: str, exports: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` for a package (PEP 562).

    Args:
        package: ``__name__`` of the package.
        exports: Module by attribute name.

    Example:
        >>> __getattr__, __dir__ = lazy_exports(__name__, {"VPSDE": "scidiff.schedules"})
    """

    def get(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(exports[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def listing() -> list[str]:
        return sorted({*vars(sys.modules[package]), *exports})

    return get, listing
