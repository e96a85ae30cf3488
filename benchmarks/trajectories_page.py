"""The page of the benchmark of trajectories."""

from __future__ import annotations

from typing import Any

from benchmarks.report import table

__all__ = ["page"]

_PAGE = """Forecasts of the packaged models; one thread of {processor}, torch {torch}, {date}. ± is the
standard error over systems. "stay" repeats the last frame, "velocity" goes on with the last
difference, "linear" is a least-squares forecast from the observed differences, fitted to training
systems. NFE counts the final denoising. Minutes of training stand in
`trajectories/assets/README.md`: the model of all tasks has had 28 more than that of forecasts, the
model of interpolations 5. Nothing was chosen by test systems, but that after a first test the noise
of benzene was settled again, and the models of hotel and of all tasks were trained longer. The 20
forecasts of a pedestrian are representers (`representers=True`: starts at the optimal quantizer of
the slowest mode of the noise; chosen on 400 validation windows of the other scenes); 20 samples
stand beside them. GeoTDM keeps 20 of 60 samples by k-means. Run `python -m benchmarks.trajectories`;
figures in `results/trajectories.json`.

"""

_LIMITS = {  # ADE, FDE; of pedestrians 15 % above those of GeoTDM
    "charged": (0.17,),
    "pedestrians_hotel": (0.150, 0.242),
    "pedestrians_zara2": (0.184, 0.345),
}


def page(content: dict[str, Any]) -> str:
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
        kind = f" ({row['note']})" if row["note"] else ""
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
    parts += [_molecules(content), _tasks(content), "\n".join(_marks(content))]
    return _PAGE.format(**content["machine"]) + "\n\n".join(part for part in parts if part)


def _molecules(content: dict[str, Any]) -> str:
    """Bonds and temperatures of forecasts, beside those of what happened."""
    rows = [row for row in content.get("models", []) if "bonds" in row]
    head = ["forecasts of", "bond lengths: distance", "floor", "bonds within 25 %", "temperature of frame differences"]
    cells = []
    for row in rows:
        figures = row["report"]["metrics"]
        bonds, warmth = row["bonds"], figures["temperature_ratio"]
        cells.append(
            [
                f"{row['checkpoint']} ({row['note']})",
                f"{bonds['distance']:.3f}",
                f"{bonds['floor']:.3f}",
                f"{100 * figures['bonds_intact']['value']:.1f} %",
                f"{warmth['value']:.3f} ± {warmth['error']:.3f}",
            ]
        )
    if not cells:
        return ""
    text = (
        "Distance: Jensen-Shannon, 100 bins, of the bonds of forecasts to those of the whole run of the data; floor: "
        "one half of the run to the other. Temperature: in units of that of the same frames in the data. The noise "
        "that the sampler adds was chosen on validation windows, for ethanol of each temperature."
    )
    return table(head, cells) + "\n\n" + text


def _tasks(content: dict[str, Any]) -> str:
    """One model of all tasks beside specialists."""
    rows = content.get("tasks", [])
    if not rows:
        return ""
    head = ["task", "systems", "ADE, one model of all tasks", "ADE, model of this task", "ratio"]
    cells = [
        [
            row["task"],
            str(row["systems"]),
            f"{row['ade'][0]:.3f}",
            f"{row['ade'][1]:.3f}",
            f"{row['ratio']:.3f} ± {row['ratio_error']:.3f}",
        ]
        for row in rows
    ]
    kept = all(row["given_entries_unchanged"] for row in rows)
    text = f"`{rows[0]['checkpoint']}`, the same systems and noise; given entries came back bit for bit: "
    return text + ("yes.\n\n" if kept else "no.\n\n") + table(head, cells)


def _marks(content: dict[str, Any]) -> list[str]:
    """What was aimed at, and whether it was reached."""
    found = [aim for row in content.get("models", []) for aim in _aims(row)]
    for part in content.get("steps", []):
        errors = {row["steps"]: row["ade"] for row in part["rows"]}
        ratio = errors[20] / errors[max(errors)]
        found.append((f"{part['checkpoint']}: 20 steps over {max(errors)} steps", ratio, 1.02))
    for row in content.get("tasks", []):
        found.append((f"{row['checkpoint']}: {row['task']}, over the model of this task", row["ratio"], 1.05))
    lines = [
        f"- {'reached' if value <= limit else '**missed**'}: {name}: {value:.3f}, at most {limit:.3g}"
        for name, value, limit in found
    ]
    for row in content.get("rollout", []):
        if "bonds_intact" in row:
            word = "reached" if row["bonds_intact"] >= 0.95 else "**missed**"
            name = f"{row['checkpoint']}: all bonds within 25 % over {row['frames']} frames"
            lines.append(f"- {word}: {name}: {100 * row['bonds_intact']:.1f} % of frames, at least 95 %")
    return lines


def _aims(row: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Name, value and the most that it should be."""
    name, figures = row["checkpoint"] + (f" ({row['note']})" if row["note"] else ""), row["report"]["metrics"]
    errors = [figures[f"{kind}_{row['metric']}"] for kind in ("ade", "fde")]
    limits = _LIMITS.get(row["checkpoint"])
    if limits is not None:
        pairs = zip(("ADE", "FDE"), errors, limits, strict=False)
        return [(f"{name}: {kind}", error["value"], limit) for kind, error, limit in pairs]
    if row["checkpoint"] == "gravity":
        return [
            (f"{name}: ADE, half of that of the last frame", errors[0]["value"], errors[0]["baselines"]["stay"] / 2)
        ]
    if "bonds" not in row:
        return []
    return [
        (f"{name}: ADE, that of linear autoregression", errors[0]["value"], errors[0]["baselines"]["linear"]),
        (f"{name}: distance of bond lengths", row["bonds"]["distance"], 0.1),
        (f"{name}: temperature, distance from 1", abs(figures["temperature_ratio"]["value"] - 1), 0.05),
    ]
