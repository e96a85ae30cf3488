"""Entry point of ``scidiff``: finds the command, parses its options, turns errors into exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from scidiff.assets import suggestion
from scidiff.cli.domain import Domain, Verb, domains, load_target
from scidiff.cli.errors import UserError, report
from scidiff.cli.options import Parser, add_options
from scidiff.cli.output import table, write

__all__ = ["main", "thread_policy"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after ``scidiff``; those of the process by default.

    Returns:
        0 for success, 2 for bad input, 1 for a failure, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] != ["doctor"] and "torch" not in sys.modules and hasattr(os, "getloadavg"):
        os.environ.update(thread_policy(os.environ, os.getloadavg()[0], os.cpu_count() or 1))
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as request:  # argparse after --help
        return request.code if isinstance(request.code, int) else 0
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        return report(error)


def thread_policy(environment: Mapping[str, str], load: float, cores: int) -> dict[str, str]:
    """What the environment needs before torch is imported: nothing, or the advice to idle threads to sleep.

    Idle threads of OpenMP spin. Where another program has their core, two threads then take many times as long as one;
    where the cores are free, threads that sleep are slower to wake. What the user has set stays.

    Args:
        environment: Variables that are set.
        load: Processes that ran or waited in the last minute, on average.
        cores: Processors of the machine.
    """
    is_set = any(name in environment for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"))
    return {"OMP_WAIT_POLICY": "passive"} if load > cores / 2 and not is_set else {}


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        write(_overview())
        return 0
    if arguments[0] == "--version":
        write(f"scidiff {_version()}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in _COMMANDS:
        return _run(_COMMANDS[name], f"scidiff {name}", rest)
    known = domains()
    if name not in known:
        raise UserError(f"there is no command {name!r}{suggestion(name, [*known, *_COMMANDS])}.")
    return _dispatch_domain(known[name], rest)


def _dispatch_domain(domain: Domain, arguments: list[str]) -> int:
    prog = f"scidiff {domain.name}"
    verbs = domain.all_verbs
    if arguments and arguments[0] in ("-h", "--help"):
        write(f"usage: {prog} VERB [options]\n\n{domain.help}\n\nverbs:\n{_listing(verbs)}\n")
        write(f"'{prog} VERB --help' shows the options of a verb.")
        return 0
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"give a verb after '{prog}': {', '.join(verbs)}.")
    name, rest = arguments[0], arguments[1:]
    if name in domain.verbs:
        return _run(domain.verbs[name], f"{prog} {name}", rest, keep_memory=True)
    if name in verbs:
        from scidiff.cli.lightning import run_lightning

        return run_lightning(domain, name, rest)
    raise UserError(f"{prog} has no verb {name!r}{suggestion(name, list(verbs))}.")


def _run(verb: Verb, prog: str, arguments: list[str], *, keep_memory: bool = False) -> int:
    parser = Parser(prog=prog, description=verb.help[:1].upper() + verb.help[1:] + ".", epilog=verb.epilog or None)
    verb.add_options(parser)
    options = parser.parse_args(arguments)
    target = load_target(verb.run)
    if keep_memory:  # after the options: --help imports no torch
        from scidiff.kernels.memory import tune_malloc

        tune_malloc()
    return target(options) or 0


def _overview() -> str:
    listing = {name: domain.help for name, domain in domains().items()}
    commands = {name: verb.help for name, verb in _COMMANDS.items()}
    return (
        "usage: scidiff DOMAIN VERB [options]\n       scidiff COMMAND [options]\n\n"
        "Diffusion and flow generators for scientific data.\n\n"
        f"domains:\n{_listing(listing) or '  (none installed)'}\n\ncommands:\n{_listing(commands)}\n\n"
        "'scidiff DOMAIN --help' lists the verbs of a domain. SCIDIFF_DEBUG=1 shows tracebacks."
    )


def _listing(lines: dict[str, str]) -> str:
    return "\n".join(f"  {line}" for line in table(lines.items()).splitlines())


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("scidiff-toolkit")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("domains", nargs="*", metavar="DOMAIN", help="only these domains")
    add_options(parser, "out", out="out")


def _info_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="packaged name or .safetensors file")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compile", action="store_true", help="compile all numba bodies now (about a minute)")


_COMMANDS = {
    "demo": Verb("write example results of every domain", "scidiff.cli.demo:run", _demo_options),
    "info": Verb("show what a checkpoint holds", "scidiff.cli.info:run", _info_options),
    "doctor": Verb("check the installation, the device and the data folder", "scidiff.cli.doctor:run", _doctor_options),
}
