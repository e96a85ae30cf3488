"""What the verbs of ``scidiff trajectories`` do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scidiff import checkpoint
from scidiff.cli.errors import UserError
from scidiff.cli.options import check_outputs
from scidiff.cli.output import pairs, write
from scidiff.files import atomic_path
from trajectories.data import simulators

__all__ = ["export", "simulate"]


def simulate(options: argparse.Namespace) -> int:
    """Write simulated runs as ``.npz``: pos and vel (n, F, N, 3), h, edge_attr, dt, unit, seed, meta (JSON)."""
    check_outputs(options.out, suffixes=(".npz",))
    arguments = {
        "num_frames": options.num_frames,
        "num_bodies": options.num_bodies,
        "seed": options.seed,
        "field": _vector(options.field),
        "observation_noise": options.observation_noise,
    }
    try:
        runs = simulators.simulate(options.kind, options.num_samples, **arguments)
    except ValueError as error:
        raise UserError(str(error)) from error
    meta = {"kind": options.kind, "num_runs": options.num_samples, **arguments}
    with atomic_path(options.out) as temporary:
        np.savez_compressed(
            temporary,
            pos=runs.pos.transpose(1, 2).numpy(),
            vel=runs.vel.transpose(1, 2).numpy(),
            h=runs.h.numpy(),
            edge_attr=runs.edge_attr.numpy(),
            dt=np.float64(runs.dt),
            unit=np.array("arbitrary"),
            seed=np.int64(options.seed),
            meta=np.array(json.dumps(meta)),
        )
    count, bodies, frames = runs.pos.shape[:3]
    write(pairs({"system": options.kind, "runs": count, "particles": bodies, "frames": frames}))
    write(f"wrote {options.out}")
    return 0


def export(module: Any, path: str | Path, *, metadata: Mapping[str, Any]) -> None:
    """Write the checkpoint for users after training: a generator, or the module itself if it only predicts."""
    from trajectories.diffusion import TrajectoryDiffusion

    if isinstance(module, TrajectoryDiffusion):
        from trajectories.generator import TrajectoryGenerator

        TrajectoryGenerator(module).save(path, metadata=metadata)
        return
    checkpoint.save(path, config=module.to_config(), tensors=checkpoint.state_of(module), metadata=metadata)


def _vector(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--field takes three numbers with commas, such as 0,0,-1, got {text!r}.") from error
