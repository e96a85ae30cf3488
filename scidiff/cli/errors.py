"""How a command fails: one sentence on stderr and an exit status, a traceback only for developers."""

from __future__ import annotations

import os
import traceback

from scidiff.cli.output import note

__all__ = ["UserError", "report"]

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130
DEBUG_VARIABLE = "SCIDIFF_DEBUG"


class UserError(Exception):
    """Bad input that the user can correct; the message is one sentence that says how."""


def report(error: BaseException) -> int:
    """Tell the user about ``error`` on stderr and return the exit status.

    `UserError`, `ValueError` and `OSError` (missing or unwritable files) mean bad input, status 2. Anything else is a
    failure of ours or of the machine, status 1. The variable ``SCIDIFF_DEBUG=1`` adds the traceback.
    """
    debug = os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    if debug:
        note(traceback.format_exc().rstrip())
    if isinstance(error, KeyboardInterrupt):
        note("scidiff: interrupted.")
        return INTERRUPTED
    if isinstance(error, UserError | ValueError | OSError):
        note(f"scidiff: error: {_one_line(error)}")
        return BAD_INPUT
    hint = "" if debug else f" Set {DEBUG_VARIABLE}=1 to see where."
    note(f"scidiff: failed with {type(error).__name__}: {_one_line(error)}{hint}")
    return FAILED


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__
