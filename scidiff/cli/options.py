"""Options that have one name and one meaning in every command, and their checks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from scidiff.cli.errors import UserError

__all__ = [
    "Parser",
    "add_options",
    "check_distinct",
    "check_outputs",
    "non_negative_int",
    "positive_int",
    "resolve_device",
    "trainer_devices",
]


_DEVICES = ("cpu", "cuda", "mps")


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that raises `UserError` with one sentence instead of printing its usage and exiting."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Formatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError`."""
        raise UserError(f"{message} (see {self.prog} --help).")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows defaults that are not None, keeps the line breaks of epilogs."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = action.default in (None, argparse.SUPPRESS, False) or "%(default)" in text
        return text if silent or not action.option_strings else f"{text} (default: %(default)s)"


def positive_int(text: str) -> int:
    """Parse an integer of at least 1."""
    return _bounded_int(text, 1)


def non_negative_int(text: str) -> int:
    """Parse an integer of at least 0."""
    return _bounded_int(text, 0)


_OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "checkpoint": (("--checkpoint",), {"metavar": "NAME|PATH", "help": "packaged checkpoint or .safetensors file"}),
    "num_samples": (("--num-samples", "-n"), {"type": positive_int, "metavar": "N", "help": "how many to draw"}),
    "steps": (("--steps",), {"type": positive_int, "metavar": "N", "help": "solver steps"}),
    "solver": (("--solver",), {"metavar": "NAME", "help": "solver name, for example dpmpp_2m"}),
    "seed": (("--seed",), {"type": non_negative_int, "metavar": "N", "default": 0, "help": "seed of the samples"}),
    "device": (("--device",), {"metavar": "NAME", "default": "auto", "help": "auto, cpu, cuda, cuda:1, mps"}),
    "devices": (
        ("--devices",),
        {"type": positive_int, "metavar": "N", "default": 1, "help": "GPUs, or processes on cpu"},
    ),
    "num_nodes": (("--num-nodes",), {"type": positive_int, "metavar": "N", "default": 1, "help": "machines"}),
    "out": (("--out",), {"type": Path, "metavar": "FILE", "help": "file to write"}),
    "batch_size": (("--batch-size",), {"type": positive_int, "metavar": "N", "help": "samples drawn at a time"}),
}


def add_options(parser: argparse.ArgumentParser, *names: str, **defaults: Any) -> None:
    """Add common options to a parser.

    Args:
        parser: The verb's parser.
        names: Of ``checkpoint num_samples steps solver seed device devices num_nodes out
                batch_size``; none means all.
        defaults: Default by name; the value ``...`` makes the option required.

    Example:
        >>> add_options(parser, "checkpoint", "num_samples", "out", checkpoint="qm9", num_samples=100, out=...)
    """
    for name in names or tuple(_OPTIONS):
        flags, settings = _OPTIONS[name]
        extra: dict[str, Any] = {}
        if name in defaults:
            extra = {"required": True} if defaults[name] is ... else {"default": defaults[name]}
        parser.add_argument(*flags, dest=name, **{**settings, **extra})


def check_outputs(*paths: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse output files that cannot be written, before any work.

    Args:
        paths: Output files; None stands for an output that was not asked for.
        suffixes: Endings that can be written, with the dot; empty means any.

    Raises:
        UserError: If a suffix is unknown.
        OSError: If a file cannot be written.
    """
    from scidiff.files import check_writable

    for path in paths:
        if path is None:
            continue
        if suffixes and path.suffix.lower() not in suffixes:
            raise UserError(f"output {str(path)!r} must end in {' or '.join(suffixes)}.")
        check_writable(path)


def check_distinct(*paths: Path | None) -> None:
    """Refuse two names for one file, so that no result overwrites another one or an input.

    Args:
        paths: Files read and written; None stands for one that was not asked for.

    Raises:
        UserError: If two of them are the same file.
    """
    seen: dict[Path, Path] = {}
    for path in paths:
        if path is not None and seen.setdefault(path.resolve(), path) is not path:
            raise UserError(f"{str(path)!r} is named twice; every file of a command needs its own name.")


def resolve_device(name: str) -> str:
    """Turn ``auto`` into the best device there is and check others.

    Raises:
        UserError: If the device does not exist on this machine.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name!r} is not a device; use auto, cpu, cuda, cuda:N or mps.") from error
    if device.type not in _DEVICES:
        raise UserError(f"--device {name!r} is not supported; use auto, cpu, cuda, cuda:N or mps.")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"--device {name!r} does not exist here: this machine has {count} CUDA devices.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device 'mps' does not exist on this machine.")
    return name


def trainer_devices(name: str, count: int = 1) -> dict[str, Any]:
    """Options of a Lightning trainer for ``--device`` and ``--devices``.

    Args:
        name: Value of ``--device``.
        count: Value of ``--devices``: GPUs of each machine, or processes on the CPU.

    Raises:
        UserError: If there are fewer devices, or one is named and several are asked for.
    """
    import torch

    device = torch.device(resolve_device(name))
    if device.type == "cpu":
        return {"accelerator": "cpu", "devices": count}
    if count > 1 and (device.type == "mps" or device.index is not None):
        raise UserError(f"--device {str(device)!r} is one device; --devices {count} needs --device cuda or cpu.")
    if device.type == "mps":
        return {"accelerator": "mps", "devices": 1}
    there = torch.cuda.device_count()
    if count > there:
        raise UserError(f"--devices {count} is more than the {there} CUDA devices of this machine.")
    return {"accelerator": "gpu", "devices": [device.index] if device.index is not None else count}


def _bounded_int(text: str, lowest: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = lowest - 1
    if value < lowest:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {lowest}, got {text!r}")
    return value
