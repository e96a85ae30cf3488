"""A progress bar on request; library code is silent otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Bar"]


class Bar:
    """A tqdm bar, somebody else's, or nothing; a context manager.

    Args:
        total: Number of steps.
        progress: Show a bar; or a function, called after each step.
    """

    def __init__(self, total: int, progress: bool | Callable[[], None]) -> None:
        self._bar: Any = None
        self._told = progress if callable(progress) else None
        if progress and self._told is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, desc="sampling", unit="step", delay=0.5)  # silent before a quick error

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """One step more."""
        if self._bar is not None:
            self._bar.update()
        if self._told is not None:
            self._told()
