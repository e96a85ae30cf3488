"""The page of the benchmark of trajectories says what was reached; rows of a new run take the place of their own."""

import json

from benchmarks import trajectories
from benchmarks.trajectories_page import page

MACHINE = {"date": "2026-01-01", "processor": "P", "threads": 1, "torch": "2"}


def figure(value, **baselines):
    return {"value": value, "error": 0.01, "floor": 0.02, "baselines": baselines}


def row(name, ade, note="", metric="mean", **more):
    beside = {"stay": 0.8, "constant_velocity": 0.9, "linear": 0.4}
    metrics = {f"ade_{metric}": figure(ade, **beside), f"fde_{metric}": figure(2 * ade, **beside), **more}
    report = {"metrics": metrics, "systems": 5, "samples": 2}
    return {"checkpoint": name, "note": note, "metric": metric, "published": "", "nfe": 21, "report": report}


def test_marks_follow_the_figures():
    bonds = {"bonds_intact": figure(0.99), "temperature_ratio": figure(0.97)}
    models = [row("charged", 0.1), row("gravity", 0.41), row("ethanol", 0.39, "300 K", **bonds)]
    models[-1]["bonds"] = {"distance": 0.12, "floor": 0.02}
    models.append(row("pedestrians_hotel", 0.14, "best of 20", "min_agent"))
    steps = [{"steps": n, "nfe": n + 1, "ade": e, "error": 0.0, "difference": 0.0, "difference_error": 0.0}
             | {"seconds_per_sample": 0.1} for n, e in ((20, 0.103), (1000, 0.1))]  # fmt: skip
    task = {"checkpoint": "all", "task": "forecast", "systems": 3, "ade": [0.2, 0.25], "ratio": 0.8, "ratio_error": 0.1}
    roll = {"checkpoint": "ethanol", "frames": 500, "rollouts": 4, "bonds_intact": 0.96}
    roll |= {"temperature": 400.0, "real_temperature": 410.0}
    text = page(
        {
            "machine": MACHINE,
            "models": models,
            "steps": [{"checkpoint": "charged", "systems": 5, "rows": steps}],
            "tasks": [{**task, "given_entries_unchanged": True}],
            "rollout": [roll],
        }
    )
    assert "| pedestrians_hotel (best of 20) | 5 x 2 | 21 | 0.140 ± 0.010 |" in text
    assert "- reached: charged: ADE: 0.100, at most 0.17" in text
    assert "- **missed**: charged: 20 steps over 1000 steps: 1.030, at most 1.02" in text
    assert "- **missed**: gravity: ADE, half of that of the last frame: 0.410, at most 0.4" in text
    assert "- reached: ethanol (300 K): ADE, that of linear autoregression: 0.390, at most 0.4" in text
    assert "- **missed**: ethanol (300 K): distance of bond lengths: 0.120, at most 0.1" in text
    assert "- reached: ethanol (300 K): temperature, distance from 1: 0.030, at most 0.05" in text
    assert "- reached: pedestrians_hotel (best of 20): ADE: 0.140, at most 0.15" in text
    assert "- **missed**: pedestrians_hotel (best of 20): FDE: 0.280, at most 0.242" in text
    assert "- reached: all: forecast, over the model of this task: 0.800, at most 1.05" in text
    assert "- reached: ethanol: all bonds within 25 % over 500 frames: 96.0 % of frames, at least 95 %" in text
    assert "given entries came back bit for bit: yes" in text


def test_a_part_run_keeps_the_rest(tmp_path, monkeypatch):
    """A row of the same model and note is replaced, other cases stay in their order, what is no case goes."""
    monkeypatch.setattr(trajectories, "RESULTS", tmp_path)
    old = {"machine": {}, "models": [row("ethanol", 0.3, "300 K"), row("charged", 0.2)], "steps": [{"checkpoint": "a"}]}
    old["models"].append(row("ethanol", 0.2, "400 K"))
    (tmp_path / "trajectories.json").write_text(json.dumps(old))
    merged = trajectories._recorded({"machine": MACHINE, "models": [row("charged", 0.1), row("ethanol", 0.5, "500 K")]})
    shown = [(r["checkpoint"], r["note"], r["report"]["metrics"]["ade_mean"]["value"]) for r in merged["models"]]
    assert shown == [("charged", "", 0.1), ("ethanol", "300 K", 0.3), ("ethanol", "500 K", 0.5)]
    assert merged["steps"] == [{"checkpoint": "a"}]
    assert merged["machine"] == MACHINE
