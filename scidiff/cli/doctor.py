"""``scidiff doctor``: versions, device, threads, numba bodies, data folder, checkpoints; status 1 if one is broken."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
from importlib import metadata
from importlib.util import find_spec

from scidiff.assets import DATA_VARIABLE, data_folder, packaged
from scidiff.cli.domain import domains
from scidiff.cli.output import table, write

__all__ = ["run"]

REQUIRED = (
    "torch",
    "numpy",
    "scipy",
    "pytorch_lightning",
    "jsonargparse",
    "safetensors",
    "yaml",
    "rdkit",
    "matplotlib",
    "numba",
)
OPTIONAL = ("torch_geometric", "networkx", "gluonts", "pandas", "e3nn", "triton")
_DISTRIBUTIONS = {"yaml": "pyyaml", "torch_geometric": "torch-geometric"}
_Check = tuple[str, str, str]


def run(options: argparse.Namespace) -> int:
    """Print one line per check (``options.compile``: compile the numba bodies first); 0 if no check says "bad"."""
    checks = [
        ("python", "ok", platform.python_version()),
        *_packages(),
        *_device(),
        *_bodies(compile_all=getattr(options, "compile", False)),
        _data(),
        *_domains(),
        *_checkpoints(),
    ]
    write(table(((state, name, text) for name, state, text in checks), header=("state", "what", "found")))
    return 1 if any(state == "bad" for _, state, _ in checks) else 0


def _packages() -> list[_Check]:
    checks = [_package(name, "bad") for name in REQUIRED] + [_package(name, "-") for name in OPTIONAL]
    try:
        own = metadata.version("scidiff-toolkit")
    except metadata.PackageNotFoundError:
        return [("scidiff", "-", "a source tree, not installed"), *checks]
    return [("scidiff", "ok", own), *checks]


def _package(name: str, missing: str) -> _Check:
    if find_spec(name) is None:
        return (name, missing, "not installed")
    try:
        return (name, "ok", metadata.version(_DISTRIBUTIONS.get(name, name.replace("_", "-"))))
    except metadata.PackageNotFoundError:
        return (name, "ok", "version unknown")


def _device() -> list[_Check]:
    try:
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
            device = f"cuda ({names})"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
        result = torch.ones(2, 2, device=device.split()[0]).sum().item()
    except Exception as error:  # a broken driver or library is what this command is for
        return [("device", "bad", f"{type(error).__name__}: {error}")]
    state = "ok" if result == 4.0 else "bad"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    return [("device", state, device), ("threads", "ok", threads)]


def _bodies(compile_all: bool) -> list[_Check]:
    checks: list[_Check] = []
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        text = "passive makes operations in chunks 2-4 times slower with two threads: unset it"
        checks.append(("OMP_WAIT_POLICY", "slow", text))
    if find_spec("numba") is None:
        return checks
    try:
        from scidiff.kernels import warm

        bodies = warm.compile_bodies() if compile_all else warm.compiled_bodies()
        layer = warm.threading_layer()
    except Exception as error:  # a broken library is what this command is for
        return [*checks, ("numba bodies", "bad", f"{type(error).__name__}: {error}")]
    total = len(bodies.cached) + len(bodies.missing)
    text = f"{len(bodies.cached)} of {total} compiled on disk"
    if bodies.missing:
        text += ", the others at their first use (or now: scidiff doctor --compile)"
    checks.append(("numba bodies", "-" if bodies.missing else "ok", text))
    remark = ": parallel calls of several Python threads wait for each other" if layer == "workqueue" else ""
    return [*checks, ("numba threads", "ok", f"{layer}{remark}")]


def _data() -> _Check:
    folder = data_folder()
    if folder is not None:
        return ("data", "ok", str(folder))
    named = os.environ.get(DATA_VARIABLE)
    if named:
        return ("data", "bad", f"${DATA_VARIABLE} names {named!r}, which is not a folder")
    return ("data", "-", f"no full data sets (set ${DATA_VARIABLE}); the packaged small ones are used")


def _domains() -> list[_Check]:
    known = domains()
    return [(f"domain {name}", "ok", domain.help) for name, domain in known.items()] or [("domains", "-", "none")]


def _checkpoints() -> list[_Check]:
    from scidiff.checkpoint import load

    checks: list[_Check] = []
    for name, path in packaged().items():
        try:
            load(path)
            checks.append((f"checkpoint {name}", "ok", f"{path.stat().st_size / 1e6:.2f} MB"))
        except (OSError, ValueError) as error:
            checks.append((f"checkpoint {name}", "bad", str(error)))
    return checks or [("checkpoints", "-", "none packaged")]
