"""Forecasts of the packaged models of trajectories beside forecasts without a network, and what steps and length cost.

    python -m benchmarks.trajectories [--quick] [models|steps|rollout ...]

``models``: displacement errors on test systems. ``steps``: the error against the number of evaluations, same systems
and same seeds. ``rollout``: long forecasts, block by block, against the data. Without a name all parts run; ``--quick``
takes few systems and writes nothing. Models that are not packaged and data that is not there are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.report import machine, table, write_json, write_section
from scidiff.assets import data_folder
from trajectories import TrajectoryBatch, TrajectoryGenerator
from trajectories.data.eth_ucy import ETHUCYDataModule
from trajectories.data.md import MDTrajectoryDataModule
from trajectories.data.particles import NBodyDataModule
from trajectories.data.simulators import simulate
from trajectories.evaluate import evaluate
from trajectories.metrics import relative_energy_drift
from trajectories.molecular import Topology, bonds_intact, frame_temperature

TITLE = "Trajectories"
STEPS = (5, 10, 20, 50, 100, 1000)
_PAGE = """Forecasts of the packaged models; one thread of {processor}, torch {torch}, {date}. ± is the standard error
over systems. "stay" repeats the last frame, "velocity" goes on with the last difference, "linear" is a least-squares
forecast from the observed differences, fitted to training systems. NFE counts the final denoising. Nothing was chosen
by test systems. Run `python -m benchmarks.trajectories`; figures in
`results/trajectories.json`.

"""


@dataclass(frozen=True)
class Case:
    """One packaged model: its test systems and how they are judged.

    Attributes:
        checkpoint: Name of the packaged model.
        data: Builds the data module.
        cond_frames: Given frames.
        systems: Test systems; the first ones.
        samples: Samples of a system.
        metric: Convention of the errors.
        published: A figure of others with another training, or an empty string.
    """

    checkpoint: str
    data: Callable[[], Any]
    cond_frames: int
    systems: int
    samples: int
    metric: str = "mean"
    published: str = ""


def _particles(kind: str) -> Callable[[], Any]:
    return lambda: NBodyDataModule(kind)


def _people(scene: str) -> Callable[[], Any]:
    return lambda: ETHUCYDataModule(scene, max_agents=1, path=_recordings())


def _recordings() -> str | None:
    folder = data_folder()
    return None if folder is None else str(folder / "trajectories" / "eth_ucy" / "eth_ucy.npz")


CASES = (
    Case(
        "charged", _particles("charged"), 10, 100, 5, published="EGNN .186/.426, EqMotion .141/.310, GeoTDM .110/.258"
    ),
    Case("gravity", _particles("gravity"), 10, 64, 5, published="EGNN .310/.709, EqMotion .302/.671, GeoTDM .256/.613"),
    Case("ethanol", lambda: MDTrajectoryDataModule("ethanol"), 10, 100, 5),
    Case("pedestrians_hotel", _people("hotel"), 8, 300, 20, "min_agent", "GeoTDM .13/.21, EqMotion .12/.18"),
    Case("pedestrians_zara2", _people("zara2"), 8, 300, 20, "min_agent", "GeoTDM .16/.30, EqMotion .13/.23"),
)


def systems(case: Case, part: str, count: int | None = None) -> TrajectoryBatch:
    """Systems of one part; ``count`` at equal distances, all if None."""
    data = case.data()
    rows = data.part(part)
    chosen = torch.arange(len(rows))
    if count is not None and count < len(rows):
        chosen = torch.linspace(0, len(rows) - 1, count).round().long()
    tensors = rows[chosen]
    z = None
    if isinstance(data, MDTrajectoryDataModule):
        z = torch.from_numpy(data.frames.z).expand(len(chosen), -1)
    meta = {"kind": data.kind} if isinstance(data, NBodyDataModule) else {}
    return TrajectoryBatch(
        tensors["pos"], tensors["h"], tensors["edge_attr"], z=z, dt=float(data.dt), unit=data.unit, meta=meta
    )


def observed(batch: TrajectoryBatch, frames: int) -> TrajectoryBatch:
    """The first frames."""
    return TrajectoryBatch(batch.pos[:, :, :frames], batch.h, batch.edge_attr, z=batch.z, dt=batch.dt, unit=batch.unit)


def measure_model(case: Case, count: int | None = None, samples: int | None = None) -> dict[str, Any]:
    """Errors of one model and of forecasts without a network."""
    generator = TrajectoryGenerator.from_pretrained(case.checkpoint)
    test, train = systems(case, "test", count or case.systems), systems(case, "train", 2000)
    start, added = time.process_time(), test.pos.shape[2] - case.cond_frames
    drawn = generator.forecast(observed(test, case.cond_frames), added, num_samples=samples or case.samples, seed=0)
    seconds = (time.process_time() - start) / len(drawn)
    report = evaluate(drawn, test, train=train, cond_frames=case.cond_frames, num_samples=samples or case.samples)
    centre = _errors(_ensemble_mean(drawn, len(test)), test, case.cond_frames)
    return {
        "checkpoint": case.checkpoint,
        "metric": case.metric,
        "published": case.published,
        "nfe": drawn.meta["nfe"],
        "seconds_per_sample": seconds,
        "ade_of_the_mean": float(centre.mean()),
        "report": report.to_dict(),
    }


def measure_steps(case: Case, steps: tuple[int, ...], count: int) -> dict[str, Any]:
    """Mean error of one sample a system, for each number of steps, and its difference from the finest one."""
    generator = TrajectoryGenerator.from_pretrained(case.checkpoint)
    test = systems(case, "test", count)
    added = test.pos.shape[2] - case.cond_frames
    rows, found = [], {}
    for number in steps:
        start = time.process_time()
        drawn = generator.forecast(observed(test, case.cond_frames), added, steps=number, seed=1)
        seconds = (time.process_time() - start) / len(drawn)
        found[number] = _errors(drawn, test, case.cond_frames).mean((1, 2))
        rows.append({"steps": number, "nfe": drawn.meta["nfe"], "seconds_per_sample": seconds})
    finest = found[max(steps)]
    for row in rows:
        own = found[row["steps"]]
        difference = own - finest
        row |= {"ade": float(own.mean()), "error": _standard_error(own)}
        row |= {"difference": float(difference.mean()), "difference_error": _standard_error(difference)}
    return {"checkpoint": case.checkpoint, "systems": count, "rows": rows}


def measure_molecule_rollout(case: Case, frames: int, count: int) -> dict[str, Any]:
    """Bonds, temperature and growth of a molecule over a long forecast."""
    generator = TrajectoryGenerator.from_pretrained(case.checkpoint)
    data = case.data()
    start = systems(case, "test", count)
    long = generator.rollout(observed(start, case.cond_frames), frames, window=30, keep=case.cond_frames, seed=0)
    made = long.pos[:, :, case.cond_frames :].transpose(1, 2).double().numpy()
    z, real = data.frames.z, data.frames.pos[: int(0.6 * len(data.frames.pos))].astype(np.float64)
    bonds = Topology.of(real[::10], z).bonds
    dt = float(data.dt)
    warmth = [float(frame_temperature(part, dt, z).mean()) for part in (made, real[None])]
    return {
        "checkpoint": case.checkpoint,
        "frames": frames,
        "rollouts": count,
        "bonds_intact": bonds_intact(made, real[::10], bonds),
        "temperature": warmth[0],
        "real_temperature": warmth[1],
    }


def measure_particle_rollout(case: Case, kind: str, frames: int, count: int) -> dict[str, Any]:
    """Median relative drift of the energy of particles over a long forecast, and that of the simulation."""
    generator = TrajectoryGenerator.from_pretrained(case.checkpoint)
    seen = case.cond_frames
    runs = simulate(kind, count, num_frames=seen + frames, seed=43, first_run=3 * 10**6)
    start = TrajectoryBatch(runs.pos[:, :, :seen], runs.h, runs.edge_attr, dt=runs.dt)
    long = generator.rollout(start, frames, window=30, keep=seen, seed=0)
    drifts = {}
    for name, pos in (("model", long.pos), ("simulation", runs.pos)):
        batch = TrajectoryBatch(pos, runs.h, runs.edge_attr, dt=runs.dt)
        drift = relative_energy_drift(batch, {"kind": kind}, float(runs.dt))
        assert drift is not None
        drifts[name] = {str(f): float(np.median(drift[:, f - 2])) for f in (seen + 20, seen + frames - 1)}
    return {"checkpoint": case.checkpoint, "frames": frames, "rollouts": count, "median_energy_drift": drifts}


def _ensemble_mean(drawn: TrajectoryBatch, count: int) -> TrajectoryBatch:
    return TrajectoryBatch(drawn.pos.reshape(count, -1, *drawn.pos.shape[1:]).mean(1))


def _errors(drawn: TrajectoryBatch, test: TrajectoryBatch, seen: int) -> np.ndarray:
    """Distances (B, N, F) of one forecast a system."""
    return (drawn.pos - test.pos)[:, :, seen:].double().norm(dim=-1).numpy()


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def text(content: dict[str, Any]) -> str:
    """The section of the README."""
    head = ["model", "systems x samples", "NFE", "ADE", "FDE", "stay", "velocity", "linear", "published"]
    lines = []
    for row in content.get("models", []):
        figures, metric = row["report"]["metrics"], row["metric"]
        ade, fde = (figures[f"{name}_{metric}"] for name in ("ade", "fde"))
        beside = [
            f"{ade['baselines'][name]:.3f} / {fde['baselines'][name]:.3f}"
            for name in ("stay", "constant_velocity", "linear")
        ]
        size = f"{row['report']['systems']} x {row['report']['samples']}"
        kind = "" if metric == "mean" else " (best sample of an agent)"
        shown = [f"{figure['value']:.3f} ± {figure['error']:.3f}" for figure in (ade, fde)]
        lines.append([row["checkpoint"] + kind, size, str(row["nfe"]), *shown, *beside, row["published"]])
    parts = [table(head, lines)] if lines else []
    for row in content.get("steps", []):
        cells = [
            [
                str(r["nfe"]),
                f"{r['ade']:.4f} ± {r['error']:.4f}",
                f"{r['difference']:+.4f} ± {r['difference_error']:.4f}",
                f"{1e3 * r['seconds_per_sample']:.0f}",
            ]
            for r in row["rows"]
        ]
        title = f"`{row['checkpoint']}`, {row['systems']} systems, one sample each, the same noise:"
        parts += [title, table(["NFE", "ADE", "less that of the last row", "ms a sample"], cells)]
    for row in content.get("rollout", []):
        if "bonds_intact" in row:
            parts.append(
                f"`{row['checkpoint']}`, {row['rollouts']} forecasts of {row['frames']} frames in blocks of 20: all "
                f"bonds within 25 % in {100 * row['bonds_intact']:.1f} % of frames; temperature of frame differences "
                f"{row['temperature']:.0f} K ({row['real_temperature']:.0f} K in the data)."
            )
        else:
            drift = row["median_energy_drift"]
            steps = ", ".join(
                f"{value:.3f} at frame {frame} (simulation {drift['simulation'][frame]:.3f})"
                for frame, value in drift["model"].items()
            )
            parts.append(f"`{row['checkpoint']}`, {row['rollouts']} roll-outs: median relative energy drift {steps}.")
    molecules = [row for row in content.get("models", []) if "bond_jsd" in row["report"]["metrics"]]
    for row in molecules:
        figures = row["report"]["metrics"]
        parts.append(
            f"`{row['checkpoint']}`: Jensen-Shannon distance of bond lengths {figures['bond_jsd']['value']:.3f} "
            f"(halves of the data {figures['bond_jsd']['floor']:.3f}), temperature of frame differences "
            f"{figures['temperature_ratio']['value']:.3f} of that of the data."
        )
    return _PAGE.format(**content["machine"]) + "\n\n".join(parts)


def _attempt(measure: Callable[..., dict[str, Any]], *arguments: Any) -> list[dict[str, Any]]:
    """The result in a list; an empty one if the model or the data is not there."""
    try:
        result = measure(*arguments)
    except FileNotFoundError as error:
        print(f"left out: {error}")
        return []
    print(result, flush=True)
    return [result]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="models, steps, rollout; default: all")
    parser.add_argument("--quick", action="store_true", help="few systems, up to 100 steps; writes nothing")
    options = parser.parse_args()
    known = ("models", "steps", "rollout")
    chosen = options.parts or list(known)
    if not set(chosen) <= set(known):
        parser.error(f"parts are {', '.join(known)}, got {' '.join(options.parts)}.")
    torch.set_num_threads(1)
    content: dict[str, Any] = {"machine": machine()}
    few = 16 if options.quick else None
    if "models" in chosen:
        content["models"] = [row for case in CASES for row in _attempt(measure_model, case, few)]
    if "steps" in chosen:
        steps = STEPS[:-1] if options.quick else STEPS
        content["steps"] = [row for case in CASES[:1] for row in _attempt(measure_steps, case, steps, few or 16)]
    if "rollout" in chosen:
        length, count = (60, 2) if options.quick else (500, 4)
        content["rollout"] = _attempt(measure_molecule_rollout, CASES[2], length, count)
        content["rollout"] += _attempt(measure_particle_rollout, CASES[0], "charged", 60, few or 16)
    print(text(content))
    if not options.quick and not options.parts:
        write_json("trajectories", content)
        write_section(TITLE, text(content))


if __name__ == "__main__":
    main()
