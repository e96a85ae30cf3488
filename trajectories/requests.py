"""What the verbs generate, forecast, interpolate, refine and rollout of ``scidiff trajectories`` do."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from scidiff.cli.errors import UserError
from scidiff.cli.options import check_distinct, check_outputs, resolve_device
from scidiff.cli.output import pairs, write
from trajectories.batch import TrajectoryBatch
from trajectories.generator import TrajectoryGenerator
from trajectories.io import WRITABLE, read_trajectories, write_trajectories

__all__ = ["forecast", "generate", "interpolate", "refine", "rollout"]

_ROLLING_STEPS, _ROLLING_SOLVER = 2, "dpmpp_2m"
Run = Callable[[TrajectoryGenerator, TrajectoryBatch, dict[str, Any]], TrajectoryBatch]


def generate(options: argparse.Namespace) -> int:
    """Draw trajectories from nothing, with the nodes and features of a file."""

    def run(generator: TrajectoryGenerator, given: TrajectoryBatch, how: dict[str, Any]) -> TrajectoryBatch:
        return generator.sample(options.num_samples, num_frames=options.num_frames, like=given, **how)

    return _answer(options, options.like, run)


def forecast(options: argparse.Namespace) -> int:
    """Go on from the frames of a file."""

    def run(generator: TrajectoryGenerator, given: TrajectoryBatch, how: dict[str, Any]) -> TrajectoryBatch:
        return generator.forecast(_seen(options, given), options.num_frames, options.num_samples, **how)

    return _answer(options, options.observed, run)


def interpolate(options: argparse.Namespace) -> int:
    """Fill in the frames of a file that are not known."""
    known = _numbers(options.known)

    def run(generator: TrajectoryGenerator, given: TrajectoryBatch, how: dict[str, Any]) -> TrajectoryBatch:
        return generator.interpolate(given, known, options.num_samples, **how)

    return _answer(options, options.frames, run)


def refine(options: argparse.Namespace) -> int:
    """Noise the trajectories of a file to a level and denoise them again, all but the known frames."""
    if not 0 < options.level < 1:
        raise UserError(f"--level must be in (0, 1), got {options.level:g}.")
    known = None if options.known is None else _numbers(options.known)

    def run(generator: TrajectoryGenerator, given: TrajectoryBatch, how: dict[str, Any]) -> TrajectoryBatch:
        return generator.refine(given, options.level, known, num_samples=options.num_samples, **how)

    return _answer(options, options.frames, run)


def rollout(options: argparse.Namespace) -> int:
    """Go on from the frames of a file for long, block by block or with a rolling window."""
    if options.rolling and (options.condition or options.guidance_scale != 1 or options.batch_size is not None):
        raise UserError("--rolling takes no --condition, --guidance-scale or --batch-size.")

    def run(generator: TrajectoryGenerator, given: TrajectoryBatch, how: dict[str, Any]) -> TrajectoryBatch:
        given = _seen(options, given)
        span = {"window": options.window, "keep": options.keep, "num_samples": options.num_samples}
        if not options.rolling:
            return generator.rollout(given, options.num_frames, **span, **how)
        from trajectories.rolling import roll

        span |= {"window": options.window - options.keep, "steps_per_frame": options.steps or _ROLLING_STEPS}
        kept = {name: how[name] for name in ("seed", "device", "progress")}
        return roll(generator, given, options.num_frames, solver=options.solver or _ROLLING_SOLVER, **span, **kept)

    return _answer(options, options.observed, run)


def _seen(options: argparse.Namespace, given: TrajectoryBatch) -> TrajectoryBatch:
    """The first frames, if not all are to be seen."""
    seen = options.cond_frames
    if seen is not None and seen > given.pos.shape[2]:
        raise UserError(f"--cond-frames {seen} is more than the {given.pos.shape[2]} frames of the file.")
    return replace(given, pos=given.pos[:, :, :seen])


def _answer(options: argparse.Namespace, source: Path, run: Run) -> int:
    """Read, check, run, write, and print a table."""
    check_distinct(options.out, source, options.plot, options.gif)
    check_outputs(options.out, suffixes=WRITABLE)
    check_outputs(options.plot, suffixes=(".png",))
    check_outputs(options.gif, suffixes=(".gif",))
    how = {"steps": options.steps, "solver": options.solver, "seed": options.seed, "progress": True}
    how |= {"device": resolve_device(options.device)}
    how |= {"condition": _conditions(options.condition), "guidance_scale": options.guidance_scale}
    how |= {"representers": getattr(options, "representers", False)}
    if options.batch_size is not None:
        how["batch_size"] = options.batch_size
    start = time.perf_counter()
    given = read_trajectories(source)
    generator = TrajectoryGenerator.from_pretrained(options.checkpoint)
    _check_record(generator, given)
    result = run(generator, given, how)
    meta = {**result.meta, "seed": options.seed, "checkpoint": str(options.checkpoint)}
    write_trajectories(replace(result, meta=meta), options.out)
    _draw(options, result)
    count, nodes, frames = result.pos.shape[:3]
    sizes = {"trajectories": count, "nodes": nodes, "frames": frames}
    write(pairs({**sizes, "evaluations (NFE)": meta["nfe"], "seconds": f"{time.perf_counter() - start:.1f}"}))
    write(f"wrote {options.out}")
    return 0


def _draw(options: argparse.Namespace, result: TrajectoryBatch) -> None:
    """Pictures of the samples of the first system."""
    if options.plot is None and options.gif is None:
        return
    from trajectories.plots import draw_ensemble, write_gif

    seen, count = result.meta.get("cond_frames", 0), result.meta["num_samples"]
    frames = result.frames[:count]
    frames = frames if result.node_mask is None else frames[:, :, result.node_mask[0].numpy()]
    if options.plot is not None:
        draw_ensemble(frames, options.plot, cond_frames=seen)
    if options.gif is not None:
        z = None if result.z is None or result.node_mask is not None else result.z[0].numpy()
        write_gif(frames[0], options.gif, cond_frames=seen, z=z)


def _check_record(generator: TrajectoryGenerator, given: TrajectoryBatch) -> None:
    """Data of another time step or unit would silently be taken for that of the training set."""
    if generator.dt is not None and given.dt is not None and not math.isclose(generator.dt, given.dt, rel_tol=1e-6):
        raise UserError(
            f"the model was trained on frames {generator.dt:g} apart, but those of the file are {given.dt:g}."
        )
    if generator.unit is not None and given.unit is not None and generator.unit != given.unit:
        raise UserError(f"the model was trained in the unit {generator.unit}, but the file is in {given.unit}.")


def _conditions(words: list[str]) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in (pair.split("=") for pair in words)}
    except ValueError as error:
        raise UserError(f"--condition takes a name and a number, such as temperature=300, got {words}.") from error


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--known takes frame numbers with commas, such as 0,1,28,29, got {text!r}.") from error
