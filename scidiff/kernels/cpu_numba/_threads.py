"""How numba bodies are compiled and on how many threads they run.

A parallel region in a forked child is fatal: GNU OpenMP kills a child of a parent that used it, and a child of a parent
that used only torch's threads hangs. So forked children (workers of a data loader) run serial bodies. The ``workqueue``
layer of numba aborts when two Python threads enter it: parallel calls are then made one after the other.

A serial body is a function of a range of rows; its parallel body is another function, with another name, that hands
ranges to it (numba's disk cache would mix up two compilations of one function).

One team of threads serves torch and numba. torch brings its own copy of GNU OpenMP; were numba's layer to load another,
the idle threads of each team would spin on the cores of the other, and alternating calls would wait for milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import torch

__all__ = ["MIN_WORK", "SUMS", "compiled", "cut", "in_parallel", "launch", "part_count", "part_rows", "thread_count"]

MIN_WORK = 200_000
"""Multiply-adds below which a parallel region costs more than it saves."""

SUMS = {"contract", "reassoc", "nsz"}
"""Liberties that let sums over channels use vector instructions; NaN and infinity keep their meaning."""

_PARTS = 4
"""Parts of the rows for each thread: they have as many edges each, but not as much luck with the cache."""

_lock = threading.Lock()
_forked = False


def _mark_forked() -> None:
    global _forked, _lock
    _forked, _lock = True, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def compiled(
    *, parallel: bool = False, fastmath: set[str] | bool = False, inline: str = "never"
) -> Callable[[Callable], Any]:
    """Decorator: ``numba.njit`` without the GIL, cached on disk where there is a place for it.

    A function that is called with slices counts their references, which takes longer than a row of channels: those
    called for each edge are put into their callers with ``inline="always"``.
    """
    options: dict[str, Any] = {"nogil": True, "parallel": parallel, "fastmath": fastmath, "error_model": "numpy"}
    options["inline"] = inline

    def decorate(function: Callable) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # "no locator available": a read-only installation without a home
            return numba.njit(**options)(function)

    return decorate


def thread_count(work: float = MIN_WORK) -> int:
    """Threads that a body with ``work`` multiply-adds may use: torch's number, or 1 in a forked child."""
    if _forked or work < MIN_WORK:
        return 1
    return max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))  # pyright: ignore


def part_count(work: float) -> int:
    """Parts into which a parallel body with ``work`` multiply-adds cuts its rows (see `cut`)."""
    return _PARTS * thread_count(work)


@compiled()
def cut(ptr, begin, end, part, parts):  # type: ignore
    """First row of one of the parts of the rows ``begin`` to ``end``, which have about as many edges each."""
    if part == 0:
        return begin
    if part == parts:
        return end
    edge = ptr[begin] + (ptr[end] - ptr[begin]) * part // parts
    low, high = begin, end
    while low < high:
        middle = (low + high) // 2
        if ptr[middle] < edge:
            low = middle + 1
        else:
            high = middle
    return low


@compiled()
def part_rows(ptr, part, parts):  # type: ignore
    """First row of one of the parts of all rows, and the row behind its last."""
    rows = ptr.shape[0] - 1
    return cut(ptr, 0, rows, part, parts), cut(ptr, 0, rows, part + 1, parts)


def launch(serial: Callable, parallel: Callable, work: float, *args: Any) -> Any:
    """Call ``parallel(*args)`` with the threads that ``work`` multiply-adds deserve, or ``serial(*args)`` for one."""
    threads = thread_count(work)
    return serial(*args) if threads == 1 else in_parallel(parallel, threads, *args)


def in_parallel(parallel: Callable, threads: int, *args: Any) -> Any:
    """Call ``parallel(*args)`` with some threads; never in a forked child (see `thread_count`)."""
    _join_team()
    numba.set_num_threads(threads)
    with _exclusive():
        return parallel(*args)


@functools.cache
def _join_team() -> None:
    """Let numba's layer find torch's copy of OpenMP before its own, and keep torch's number of threads.

    Symbols of a library that is loaded globally come before those that the layer is linked with. Other systems and
    other builds of torch have one library for both, or none to share.
    """
    for library in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL | os.RTLD_NOLOAD)
    threads = torch.get_num_threads()
    numba.set_num_threads(threads if threads <= numba.config.NUMBA_NUM_THREADS else 1)  # pyright: ignore
    torch.set_num_threads(threads)  # starting the layer sets the number of the team


def _exclusive() -> contextlib.AbstractContextManager:
    """A lock unless parallel regions are known to be safe for several Python threads."""
    try:
        safe = numba.threading_layer() != "workqueue"  # pyright: ignore[reportPrivateImportUsage]
    except ValueError:  # no parallel body has run yet
        safe = False
    return contextlib.nullcontext() if safe else _lock
