"""What the verbs of ``scidiff trajectories`` do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scidiff import checkpoint
from scidiff.cli.errors import UserError
from scidiff.cli.options import check_distinct, check_outputs
from scidiff.cli.output import note, pairs, write
from scidiff.files import atomic_path
from trajectories.batch import TrajectoryBatch
from trajectories.data import simulators
from trajectories.io import read_trajectories, with_molecule_features

__all__ = ["demo", "evaluate", "export", "prepare", "simulate"]


def simulate(options: argparse.Namespace) -> int:
    """Write simulated runs as ``.npz``: pos and vel (n, F, N, 3), h, edge_attr, dt, unit, seed, meta (JSON)."""
    check_outputs(options.out, suffixes=(".npz",))
    if options.smiles is not None:
        return _simulate_molecule(options)
    number = 100 if options.num_samples is None else options.num_samples
    arguments = {
        "num_frames": options.num_frames,
        "num_bodies": options.num_bodies,
        "seed": options.seed,
        "field": _vector(options.field),
        "observation_noise": options.observation_noise,
    }
    try:
        runs = simulators.simulate(options.kind, number, **arguments)
    except ValueError as error:
        raise UserError(str(error)) from error
    meta = {"kind": options.kind, "num_runs": number, **arguments}
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


def _simulate_molecule(options: argparse.Namespace) -> int:
    """Write runs of a molecule, each with a seed of its own, 5 fs a frame."""
    from trajectories.data.mmff import MolecularSystem, simulate_molecule

    number = 1 if options.num_samples is None else options.num_samples
    try:
        z = MolecularSystem(options.smiles, options.seed).z
    except ValueError as error:
        raise UserError(str(error)) from error
    seeds = range(options.seed, options.seed + number)
    length = 10 * options.num_frames
    runs = [simulate_molecule(options.smiles, options.temperature, seed=s, steps=length) for s in seeds]
    meta = {"smiles": options.smiles, "temperature": options.temperature, "seed": options.seed}
    given = {"z": z, "dt": runs[0].dt, "unit": "angstrom", "meta": meta}
    batch = with_molecule_features(TrajectoryBatch.of(np.stack([run.pos for run in runs]), **given))
    batch.save(options.out)
    shown = {"molecule": options.smiles, "runs": number, "atoms": len(z), "frames": options.num_frames}
    write(pairs({**shown, "temperature (K)": options.temperature, "time between frames (fs)": batch.dt}))
    write(f"wrote {options.out}")
    return 0


def prepare(options: argparse.Namespace) -> int:
    """Read trajectories, keep the frames that are asked for, cut them, and write them as ``.npz``."""
    check_distinct(options.out, options.source)
    check_outputs(options.out, suffixes=(".npz",))
    batch = read_trajectories(options.source) if options.scene is None else _scene(options)
    given = {name: value for name in ("dt", "unit") if (value := getattr(options, name)) is not None}
    batch = replace(batch, pos=batch.pos[:, :, :: options.every], **given)
    if batch.dt is not None:
        batch = replace(batch, dt=batch.dt * options.every)
    if options.window is not None:
        batch = _cut(batch, options.window)
    batch.save(options.out)
    count, nodes, frames, dims = batch.pos.shape
    steps = batch.pos.diff(dim=2).norm(dim=-1)
    shown = {"trajectories": count, "nodes": nodes, "frames": frames, "dimensions": dims}
    shown |= {
        "time between frames": batch.dt if batch.dt is not None else "not known",
        "unit": batch.unit or "not known",
    }
    if frames > 1:
        shown |= {"mean step of a node": float(steps.mean()), "largest step": float(steps.max())}
    shown |= {"features": ", ".join(batch.features) or "none"}
    write(pairs(shown))
    write(f"wrote {options.out}")
    return 0


def _scene(options: argparse.Namespace) -> TrajectoryBatch:
    """The test windows of a scene of pedestrians, as the packaged models take them."""
    from trajectories.data.eth_ucy import ETHUCYDataModule

    try:
        data = ETHUCYDataModule(options.scene, max_agents=options.max_agents, path=str(options.source))
        found = data.load("test")
    except ValueError as error:
        raise UserError(str(error)) from error
    mask = found["node_mask"] if options.max_agents > 1 else None
    return TrajectoryBatch(found["pos"], found["h"], found["edge_attr"], mask, dt=data.dt, unit=data.unit)


def evaluate(options: argparse.Namespace) -> int:
    """Judge the trajectories of a file."""
    from trajectories.evaluate import evaluate as judged

    check_distinct(options.out, options.plot, options.slow_modes, options.file, options.reference)
    check_outputs(options.out, suffixes=(".json",))
    check_outputs(options.plot, options.slow_modes, suffixes=(".png",))
    generated, reference = read_trajectories(options.file), read_trajectories(options.reference)
    if options.slow_modes is not None and reference.z is None:
        raise UserError(f"--slow-modes needs a molecule, but {options.reference} says no atomic numbers z.")
    report = judged(
        generated,
        reference,
        train=None if options.train is None else read_trajectories(options.train),
        cond_frames=options.cond_frames,
        num_samples=options.num_samples,
        networks=options.networks,
        seed=options.seed,
    )
    files = {name: str(path) for name in ("file", "reference", "train") if (path := getattr(options, name))}
    report = replace(report, about={**report.about, "files": files})
    if options.plot is not None:
        from trajectories.plots import draw_statistics

        draw_statistics(generated, reference, options.plot, cond_frames=report.about["cond_frames"])
    if options.slow_modes is not None:
        from trajectories.slow_plots import draw_slow_modes

        draw_slow_modes(generated, reference, options.slow_modes, cond_frames=report.about["cond_frames"])
    if options.out is not None:
        report.to_json(options.out)
    write(report.table())
    return 0


def export(module: Any, path: str | Path, *, metadata: Mapping[str, Any]) -> None:
    """Write the checkpoint for users after training: a generator, or the module itself if it only predicts."""
    from trajectories.diffusion import TrajectoryDiffusion

    if isinstance(module, TrajectoryDiffusion):
        from trajectories.generator import TrajectoryGenerator

        TrajectoryGenerator(module).save(path, metadata=metadata)
        return
    checkpoint.save(path, config=module.to_config(), tensors=checkpoint.state_of(module), metadata=metadata)


def demo(folder: Path) -> list[Path]:
    """Forecasts of 20 simulated systems from the packaged checkpoint: file, film, pictures, report."""
    from trajectories.evaluate import evaluate as judged
    from trajectories.generator import TrajectoryGenerator
    from trajectories.plots import draw_ensemble, draw_statistics, write_gif

    runs = simulators.simulate("charged", 20, num_frames=30, seed=5)
    meta = {"kind": "charged", "seed": 5}
    truth = TrajectoryBatch(runs.pos, runs.h, runs.edge_attr, dt=runs.dt, unit="arbitrary", meta=meta)
    generator = TrajectoryGenerator.from_pretrained("charged")
    future = generator.forecast(replace(truth, pos=truth.pos[:, :, :10]), 20, 5, seed=0, progress=True)
    names = ("forecast.npz", "forecast.gif", "forecast.png", "statistics.png", "report.json")
    paths = [folder / name for name in names]
    future.save(paths[0])
    write_gif(future.frames[0], paths[1], cond_frames=10)
    draw_ensemble(future.frames[:5], paths[2], cond_frames=10, target=truth.frames[0])
    draw_statistics(future, truth, paths[3], cond_frames=10)
    report = judged(future, truth)
    report.to_json(paths[4])
    error, nfe = report.figures["ade_mean"], future.meta["nfe"]
    beside = error.baselines["constant_velocity"]
    note(f"trajectories: error {error.value:.2f}, of constant velocity {beside:.2f}, at {nfe} evaluations.")
    return paths


def _cut(batch: TrajectoryBatch, window: int) -> TrajectoryBatch:
    """Pieces of ``window`` frames, one after the other; what is left at the end is dropped."""
    pieces = batch.pos.shape[2] // window
    if not pieces:
        raise UserError(f"--window {window} is longer than the trajectories, which have {batch.pos.shape[2]} frames.")
    pos = batch.pos[:, :, : pieces * window].unflatten(2, (pieces, window)).transpose(1, 2).flatten(0, 1)
    rows = torch.arange(len(batch)).repeat_interleave(pieces)
    return replace(batch.index(rows), pos=pos)


def _vector(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--field takes three numbers with commas, such as 0,0,-1, got {text!r}.") from error
