"""``scidiff demo``: example results of every domain that ships a checkpoint for it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from scidiff.assets import packaged, suggestion
from scidiff.cli.domain import Domain, domains, load_target
from scidiff.cli.errors import UserError
from scidiff.cli.output import note, table, write

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Run the demos into ``OUT/DOMAIN/`` and list the files; 1 if there was none to run.

    Raises:
        UserError: If a domain is unknown or the output is not a folder.
    """
    known, folder = domains(), Path(options.out)
    for name in options.domains:
        if name not in known:
            raise UserError(f"there is no domain {name!r}{suggestion(name, list(known))}.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {str(folder)!r} is a file; the demo writes into a folder.")
    rows: list[tuple[str, str, str]] = []
    for name in options.domains or known:
        rows.extend(_run_one(known[name], folder / name))
    if not rows:
        note("scidiff: no domain has a demo and its checkpoint.")
        return 1
    write(table(rows, header=("domain", "file", "seconds")))
    return 0


def _run_one(domain: Domain, folder: Path) -> list[tuple[str, str, str]]:
    if domain.demo is None:
        return []
    if domain.demo_checkpoint is not None and domain.demo_checkpoint not in packaged(domain.name):
        note(f"scidiff: the demo of {domain.name} is left out: checkpoint {domain.demo_checkpoint!r} is not packaged.")
        return []
    note(f"{domain.name} ...")
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    paths = load_target(domain.demo)(folder)
    seconds = f"{time.perf_counter() - start:.1f}"
    return [(domain.name, str(path), seconds if index == 0 else "") for index, path in enumerate(paths)]
