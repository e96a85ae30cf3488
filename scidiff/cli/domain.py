"""What a domain tells the command line about itself, and how domains are found."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from scidiff.cli.errors import UserError
from scidiff.cli.output import note

__all__ = ["Domain", "Verb", "domains", "load_target"]

GROUP = "scidiff.domains"
BUILT_IN = ("molecules", "trajectories", "timeseries", "graphs")
LIGHTNING_VERBS = {
    "fit": "train a model (LightningCLI)",
    "validate": "losses on the validation set (LightningCLI)",
    "test": "losses on the test set (LightningCLI)",
}


def _no_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


@dataclass(frozen=True)
class Verb:
    """One verb of a domain.

    Attributes:
        help: One line for the list of verbs.
        run: The function that does the work, as ``"package.module:function"`` (imported when called) or itself. It
            takes the parsed options and returns an exit status, or None for 0.
        add_options: Adds the options to the parser; must not import anything heavy.
        epilog: Text below the options of ``--help``, for example one command that works.
    """

    help: str
    run: str | Callable[[argparse.Namespace], int | None]
    add_options: Callable[[argparse.ArgumentParser], None] = _no_options
    epilog: str = ""


@dataclass(frozen=True)
class Domain:
    """A domain on the command line; the module that holds it as ``DOMAIN`` must import nothing heavy.

    Attributes:
        name: Import package and first word on the command line.
        help: One line.
        verbs: Verbs beside ``fit``, ``validate`` and ``test``.
        trainable: Whether ``fit``, ``validate`` and ``test`` exist.
        export: ``"module:function"``, called as ``f(module, path, metadata=...)`` after ``fit``: the user checkpoint.
        demo: ``"module:function"``, called as ``f(folder)``; writes example results and returns their paths.
        demo_checkpoint: Packaged checkpoint without which the demo is left out.
    """

    name: str
    help: str
    verbs: Mapping[str, Verb] = field(default_factory=dict)
    trainable: bool = True
    export: str | None = None
    demo: str | None = None
    demo_checkpoint: str | None = None

    @property
    def all_verbs(self) -> dict[str, str]:
        """Every verb with its line of help."""
        training = LIGHTNING_VERBS if self.trainable else {}
        return {**training, **{name: verb.help for name, verb in self.verbs.items()}}


def domains() -> dict[str, Domain]:
    """Installed domains by name; one that fails to import is left out with a remark on stderr."""
    found: dict[str, Domain] = {}
    for name, value in sorted(_entries().items(), key=lambda item: _rank(item[0])):
        try:
            module = importlib.import_module(value.partition(":")[0])
            domain = getattr(module, value.partition(":")[2] or "DOMAIN")
        except Exception as error:  # a broken plug-in must not take the others down
            note(f"scidiff: domain {name!r} cannot be loaded ({type(error).__name__}: {error}).")
            continue
        if isinstance(domain, Domain):
            found[name] = domain
    return found


def load_target(target: str | Callable[..., Any]) -> Callable[..., Any]:
    """Function named ``"package.module:function"``.

    Raises:
        UserError: If an optional dependency of the module is not installed.
    """
    if callable(target):
        return target
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == module.split(".")[0]:
            raise
        raise UserError(
            f"this command needs the package {error.name!r}, which is not installed; run: pip install -e '.[all]'."
        ) from error


def _entries() -> dict[str, str]:
    """Entry points, and the built-in domains even where the source tree is not installed."""
    built_in = {name: f"{name}.cli" for name in BUILT_IN if find_spec(name) and find_spec(f"{name}.cli")}
    installed = {point.name: point.value for point in metadata.entry_points(group=GROUP)}
    return built_in | {name: value for name, value in installed.items() if name not in BUILT_IN}


def _rank(name: str) -> tuple[int, str]:
    return (BUILT_IN.index(name) if name in BUILT_IN else len(BUILT_IN), name)
