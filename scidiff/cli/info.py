"""``scidiff info CHECKPOINT``: configuration, metrics and provenance of a checkpoint file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from scidiff.checkpoint import load, resolve
from scidiff.cli.output import pairs, write
from scidiff.configurable import describe

__all__ = ["run"]


def run(options: argparse.Namespace) -> None:
    """Print the description of a checkpoint, as text or JSON."""
    path = resolve(options.checkpoint)
    checkpoint = load(path)
    if options.json:
        shapes = {name: list(tensor.shape) for name, tensor in checkpoint.tensors.items()}
        facts = {"path": str(path), "config": checkpoint.config, "metadata": checkpoint.metadata, "tensors": shapes}
        write(json.dumps(facts, indent=2))
        return
    numbers = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    size = f"{path.stat().st_size / 1e6:.2f} MB, {numbers:,} numbers in {len(checkpoint.tensors)} tensors"
    write(pairs({"file": path, "class": checkpoint.config["class_path"], "size": size}))
    _section("arguments", {k: describe(v) for k, v in checkpoint.config.get("init_args", {}).items()})
    for name, value in checkpoint.metadata.items():
        _section(name, value if isinstance(value, Mapping) else {"": value})


def _section(title: str, values: Mapping[str, Any]) -> None:
    if values:
        write(f"\n{title}")
        write("\n".join(f"  {line}" for line in pairs(values).splitlines()))
