"""Packaged time-series models on the published test windows, beside the baselines they have to beat.

    python -m benchmarks.timeseries                        # every part, results/timeseries.json, the README section
    python -m benchmarks.timeseries --quick                # fewer windows, samples and seeds: a few minutes on one core
    python -m benchmarks.timeseries --part forecasts --set exchange --windows 0 --samples 100 --seeds 5

Parts can be run one by one: each replaces its own records of that set and leaves the others. The part ``generators``
trains six models first, ``--updates`` each. ``--runs FOLDER`` adds learning curves from Lightning's
``FOLDER/SET/**/metrics.csv``; ``--part`` without a name runs nothing else. Needs the sets under $SCIDIFF_DATA.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks import forecasts as parts
from benchmarks.forecasts import Problem
from benchmarks.generators import generators
from benchmarks.report import RESULTS, machine, table, write_json, write_section
from scidiff.assets import packaged
from timeseries.generator import DiffusionForecaster

TITLE = "Time series"
SETS = ("exchange", "m4_hourly", "pjm", "etth1")
PARTS = ("forecasts", "sampling", "generators", "refinement", "synthesis", "missing", "speed")
AIMS = {"exchange": 0.0085, "m4_hourly": 0.036, "pjm": 0.0699, "etth1": 0.257}
REFINED = ({"step_size": 0.01}, {"step_size": 0.1}, {"step_size": 0.01, "sampler": "sgd"})
_QUICK = {"exchange": (40, 40, 2), "m4_hourly": (60, 32, 1), "pjm": (40, 32, 1), "etth1": (60, 32, 1)}
_FULL = {"exchange": (None, 100, 5), "m4_hourly": (None, 100, 3), "pjm": (None, 100, 3), "etth1": (None, 100, 3)}
_SMALLER = 3  # of the windows in the parts that run a model many times
_PAGE = """Packaged models, and the one of `etth1_cpu`, on the test windows of TSDiff's protocol. CRPS is GluonTS's
mean weighted quantile loss (levels .1 to .9, sample quantiles by rank), ND that of the median; for a
point forecast they are equal. ± is the half width of the 95 % interval over sampling seeds (Student t),
absent for one. Seconds are processor time of a forecast with all its paths. Where fewer windows are
scored than the set has, they are evenly spaced. {processor}, {threads} thread(s), torch {torch}, {date}.
Run `python -m benchmarks.timeseries`; figures in `results/timeseries.json`.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer windows, samples and seeds")
    parser.add_argument("--part", choices=PARTS, nargs="*", default=list(PARTS))
    parser.add_argument("--set", choices=SETS, nargs="+", default=list(SETS), dest="sets")
    parser.add_argument("--windows", type=int, help="test windows of a set; 0 for all")
    parser.add_argument("--samples", type=int, help="sample paths of a window")
    parser.add_argument("--seeds", type=int, help="sampling seeds")
    parser.add_argument(
        "--checkpoints", type=Path, help="folder of checkpoints SET.safetensors, instead of packaged ones"
    )
    parser.add_argument("--updates", type=int, default=1000, help="training of each of the generators")
    parser.add_argument("--runs", type=Path, help="folder of Lightning runs by set, for learning curves")
    options = parser.parse_args()
    content = _previous()
    for part in options.part:
        for name in options.sets if part != "speed" else ["any"]:
            records = measure(part, name, options)
            content = _previous()  # parts may run side by side
            if records:
                kept = [r for r in content["records"].get(part, []) if name not in ("any", r.get("set"))]
                content["records"][part] = sorted([*kept, *records], key=lambda r: SETS.index(r.get("set", SETS[0])))
                print(*records, sep="\n", flush=True)
                content["machine"] = machine() if part != "speed" else content.get("machine", machine())
                write_json("timeseries", content)
    if options.runs:
        content["curves"] = {**content.get("curves", {}), **_curves(options.runs)}
        write_json("timeseries", content)
    write_section(TITLE, page(content))


def measure(part: str, name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Records of one part and set; none where the part does not apply or the model is not there."""
    if part == "speed":
        return parts.speed()
    if part == "generators":
        updates = 100 if options.quick else options.updates
        return generators(name, options.windows or None, options.samples or 50, updates) if name == "exchange" else []
    applies: dict[str, tuple[str, ...]] = {"refinement": ("m4_hourly",), "missing": ("exchange",)}
    path = options.checkpoints / f"{name}.safetensors" if options.checkpoints else packaged("timeseries").get(name)
    if name not in applies.get(part, SETS) or path is None or not Path(path).is_file():
        return []
    windows, samples, seeds = (_QUICK if options.quick else _FULL)[name]
    if options.windows is not None:
        windows = options.windows or None
    elif part in ("sampling", "refinement") and windows is not None:
        windows = -(-windows // _SMALLER)
    model = DiffusionForecaster.from_pretrained(path)
    problem = Problem(name, model, windows, options.samples or samples, options.seeds or seeds)
    runs: dict[str, Callable[[], Any]] = {
        "forecasts": lambda: [parts.forecasts(problem)],
        "sampling": lambda: parts.sampling(problem, parts.SAMPLERS[:-1] if options.quick else parts.SAMPLERS),
        "refinement": lambda: parts.refinement(problem, REFINED[:2] if options.quick else REFINED),
        "synthesis": lambda: [parts.synthesis(problem, 2_000 if options.quick else 10_000)],
        "missing": lambda: parts.missing(problem),
    }
    return runs[part]()


def page(content: dict[str, Any]) -> str:
    """The README section."""
    records = content["records"]
    sections = [_PAGE.format(**content["machine"]).strip()]
    writers = {
        "forecasts": _forecasts,
        "curves": _learning,
        "sampling": _sampling,
        "generators": _generators,
        "refinement": _refinement,
        "synthesis": _synthesis,
        "missing": _missing,
        "speed": _speed,
    }
    records = {**records, "curves": content.get("curves")}
    sections += [write(records[part]) for part, write in writers.items() if records.get(part)]
    return "\n\n".join(sections)


def _forecasts(records: list[dict[str, Any]]) -> str:
    head = ["set", "windows", "forecast", "NFE", "CRPS", "ND", "50 % band", "90 % band", "seconds"]
    rows, marks = [], []
    for record in records:
        model = record["model"]
        lines = {f"model, {model['samples']} paths": model, **record["baselines"]}
        for number, (name, row) in enumerate(lines.items()):
            rows.append(
                [
                    record["set"] if number == 0 else "",
                    str(record["windows"]) if number == 0 else "",
                    name,
                    str(row["nfe"]) if "nfe" in row else "-",
                    _figure(row, "wql"),
                    _figure(row, "nd"),
                    *(f"{row[key]:.2f}" if key in row else "-" for key in ("coverage_50", "coverage_90")),
                    f"{row['seconds']:.2f}" if "seconds" in row else "-",
                ]
            )
        gaussian = min(row["wql"] for name, row in record["baselines"].items() if name.startswith("Gaussian"))
        aim, found = AIMS[record["set"]], model["wql"]
        marks.append(_mark(found <= aim, f"{record['set']}: CRPS {found:.5f}, at most {aim:g}"))
        text = f"{record['set']}: CRPS {found:.5f} below the best Gaussian baseline, {gaussian:.5f}"
        marks.append(_mark(found < gaussian, text))
    return f"### Forecasts\n\n{table(head, rows)}\n\n" + "\n".join(marks)


def _sampling(records: list[dict[str, Any]]) -> str:
    head = [
        "set",
        "guidance",
        "solver",
        "steps",
        "NFE",
        "windows",
        "paths",
        "CRPS",
        "50 % band",
        "90 % band",
        "seconds",
    ]
    rows = [
        [
            r["set"],
            r["guidance"],
            r.get("solver", "dpmpp_2m"),
            str(r["steps"]),
            str(r["nfe"]),
            str(r["windows"]),
            str(r["samples"]),
            _figure(r, "wql"),
            f"{r['coverage_50']:.2f}",
            f"{r['coverage_90']:.2f}",
            f"{r['seconds']:.2f}",
        ]
        for r in records
    ]
    marks = []
    for name in dict.fromkeys(r["set"] for r in records):
        for guidance in ("wiener", "mmps"):
            found = {
                r["steps"]: r["wql"]
                for r in records
                if (r["set"], r["guidance"]) == (name, guidance) and "solver" not in r
            }
            if {20, 100} <= set(found):
                ratio = found[20] / found[100]
                text = f"{name}, {guidance}: CRPS of 20 guided steps is {ratio:.3f} of that of 100 (within .03)"
                marks.append(_mark(abs(ratio - 1) <= 0.03, text))
    text = "On the validation windows (the last values of the training series, held out of training)."
    return f"### Guidance, solver and steps\n\n{text}\n\n{table(head, rows)}\n\n" + "\n".join(marks)


def _learning(curves: dict[str, list[dict[str, float]]]) -> str:
    shares = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
    head = ["set", "minutes", "updates", *(f"after {share:.0%}" for share in shares)]
    rows = []
    for name, points in curves.items():
        last = points[-1]
        chosen = [min(points, key=lambda p, s=share: abs(p["step"] - s * last["step"])) for share in shares]
        figures = [f"{point['val_loss']:.4f}" for point in chosen]
        rows.append([name, f"{last['minutes']:.1f}", str(int(last["step"])), *figures])
    text = """Validation loss (with EDM's weighting, of the averaged model) on the held-out ends of the training series,
by share of the training on one core. An untrained model is the Wiener filter."""
    return f"### Learning curves\n\n{text}\n\n{table(head, rows)}"


def _generators(records: list[dict[str, Any]]) -> str:
    head = ["generator", "training", "guidance", "solver", "NFE", "CRPS", "90 % band", "seconds"]
    rows, last = [], ""
    for r in records:
        first = [r["generator"], f"{r['training']:.0f} s"] if r["generator"] != last else ["", ""]
        last = r["generator"]
        figures = [str(r["nfe"]), f"{r['wql']:.5f}", f"{r['coverage_90']:.2f}", f"{r['seconds']:.2f}"]
        rows.append([*first, r.get("guidance", "sees what is known"), r["solver"], *figures])
    r = records[0]
    text = f"""Each trained by {r["updates"]} updates on {r["set"]}, the same backbone and windows (one horizon of
context, standardised), {r["samples"]} paths of {r["windows"]} test windows, one seed. Training and seconds are
processor time. NFE counts network calls; moment matching (mmps) takes three backward passes beside each, quantile
guidance one."""
    return f"### Generators at an equal training budget\n\n{text}\n\n{table(head, rows)}"


def _refinement(records: list[dict[str, Any]]) -> str:
    head = ["set", "base", "sampler", "step size", "windows", "paths", "CRPS before", "CRPS after", "ND after"]
    rows = [
        [
            r["set"],
            r["base"],
            r.get("sampler", "langevin"),
            f"{r['step_size']:g}",
            str(r["windows"]),
            str(r["samples"]),
            *(f"{r[key]:.5f}" if r[key] < 10 else "diverges" for key in ("before", "wql", "nd")),
        ]
        for r in records
    ]
    marks = []
    for base in dict.fromkeys(r["base"] for r in records):
        after = [r for r in records if r["base"] == base and r.get("sampler", "langevin") == "langevin"]
        before, wql = after[0]["before"], after[0]["wql"]
        text = f"refinement of {base} (Langevin, default step size) lowers CRPS: {before:.5f} to {wql:.5f}"
        marks.append(_mark(wql < before, text))
    return f"### Refinement, 20 iterations\n\n{table(head, rows)}\n\n" + "\n".join(marks)


def _synthesis(records: list[dict[str, Any]]) -> str:
    head = ["set", "windows", "LPS of real windows", "LPS of synthetic windows", "ratio", "discriminative score"]
    rows, marks = [], []
    for r in records:
        real, synthetic = r["lps"]["real"], r["lps"]["synthetic"]
        figures = [f"{real:.5f}", f"{synthetic:.5f}", f"{synthetic / real:.3f}", f"{r['discriminative']:.3f}"]
        rows.append([r["set"], str(r["windows"]), *figures])
        marks.append(
            _mark(synthetic <= 1.15 * real, f"{r['set']}: LPS of synthetic windows within 15 % of the real one")
        )
    text = "Linear predictive score: CRPS of a ridge regression trained on synthetic, or on as many real, windows."
    return f"### Synthetic windows\n\n{text}\n\n{table(head, rows)}\n\n" + "\n".join(marks)


def _missing(records: list[dict[str, Any]]) -> str:
    whole = next(r for r in records if r["scenario"] == "none")["wql"]
    head = ["set", "half of the context hidden", "windows", "CRPS", "over the whole context", "90 % band"]
    rows = [
        [
            r["set"],
            r["scenario"],
            str(r["windows"]),
            _figure(r, "wql"),
            f"{r['wql'] / whole:.3f}",
            f"{r['coverage_90']:.2f}",
        ]
        for r in records
    ]
    ratio = next(r for r in records if r["scenario"] == "RM")["wql"] / whole
    mark = _mark(ratio <= 1.1, f"random missing values raise CRPS by {100 * (ratio - 1):.1f} % (at most 10 %)")
    return f"### Missing values\n\n{table(head, rows)}\n\n{mark}"


def _speed(records: list[dict[str, Any]]) -> str:
    head = ["window", "guidance", "paths", "steps", "threads", "seconds"]
    rows = [
        [r["window"], r["guidance"], *(str(r[key]) for key in ("paths", "steps", "threads")), f"{r['seconds']:.2f}"]
        for r in records
    ]
    marks = [
        _mark(r["seconds"] < 5, f"window {r['window']}, guidance {r['guidance']}: {r['seconds']:.2f} s, under 5 s")
        for r in records
    ]
    return f"### Time of one series\n\n{table(head, rows)}\n\n" + "\n".join(marks)


def _figure(row: dict[str, Any], key: str) -> str:
    half = row.get("half", {}).get(key)
    return f"{row[key]:.5f}" + (f" ± {half:.5f}" if half is not None else "")


def _mark(is_reached: bool, text: str) -> str:
    return f"- {'reached' if is_reached else '**missed**'}: {text}"


def _previous() -> dict[str, Any]:
    path = RESULTS / "timeseries.json"
    return json.loads(path.read_text()) if path.is_file() else {"records": {}}


def _curves(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Validation loss by update and minute of the latest run of each set; minutes are those of ``max_time``, evenly."""
    curves = {}
    for name in SETS:
        files = sorted((folder / name).rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
        if not files:
            continue
        with files[-1].open() as file:
            rows = list(csv.DictReader(file))
        total = 1 + max(int(row["step"]) for row in rows)
        days, hours, minutes, seconds = map(int, _max_time(files[-1].with_name("config.yaml")).split(":"))
        minute = (1440 * days + 60 * hours + minutes + seconds / 60) / total
        curves[name] = [
            {"step": step, "minutes": round(minute * step, 2), "val_loss": float(row["val_loss"])}
            for row in rows
            if row.get("val_loss") and (step := int(row["step"]) + 1)
        ]
    return curves


def _max_time(path: Path) -> str:
    return yaml.safe_load(path.read_text())["trainer"]["max_time"]


if __name__ == "__main__":
    main()
