"""The section of the page from figures that are known, and learning curves from Lightning's files."""

from argparse import Namespace

import pytest

from benchmarks.generators import GENERATORS, generators
from benchmarks.timeseries import _curves, measure, page
from scidiff.assets import data_folder

MACHINE = {"date": "2026-01-01", "processor": "P", "threads": 1, "torch": "2"}
FIGURES = {"nd": 0.04, "coverage_50": 0.5, "coverage_90": 0.9, "nfe": 20, "samples": 8, "windows": 3, "seconds": 0.25}


def row(wql, **more):
    return {**FIGURES, "wql": wql, **more}


def test_marks_follow_the_figures():
    """An aim of .036 and the best Gaussian baseline decide; 20 steps stand beside 100 of the same guidance."""
    baselines = {"Gaussian random walk": {"wql": 0.05, "nd": 0.05}, "ridge": {"wql": 0.01, "nd": 0.01}}
    forecast = {"set": "m4_hourly", "windows": 3, "model": row(0.04, half={"wql": 0.001}), "baselines": baselines}
    steps = [{"set": "m4_hourly", "guidance": "mmps", "steps": n, **row(v)} for n, v in ((20, 0.0416), (100, 0.04))]
    text = page({"records": {"forecasts": [forecast], "sampling": steps}, "machine": MACHINE})
    assert "| m4_hourly | 3 | model, 8 paths | 20 | 0.04000 ± 0.00100 | 0.04000 | 0.50 | 0.90 | 0.25 |" in text
    assert "**missed**: m4_hourly: CRPS 0.04000, at most 0.036" in text
    assert "- reached: m4_hourly: CRPS 0.04000 below the best Gaussian baseline, 0.05000" in text
    assert "**missed**: m4_hourly, mmps: CRPS of 20 guided steps is 1.040 of that of 100 (within .03)" in text
    assert "Learning curves" not in text


def test_generators_stand_together():
    shared = {"set": "exchange", "updates": 10, "training": 3.0}
    records = [
        {**shared, "generator": "A", "guidance": "mmps", "solver": "dpmpp_2m", **row(0.01)},
        {**shared, "generator": "A", "guidance": "mmps", "solver": "dpmpp_2m", **row(0.02, nfe=5)},
        {**shared, "generator": "B", "solver": "euler", **row(0.03)},
    ]
    text = page({"records": {"generators": records}, "machine": MACHINE})
    assert "| A | 3 s | mmps | dpmpp_2m | 20 | 0.01000 | 0.90 | 0.25 |\n|  |  | mmps | dpmpp_2m | 5 | 0.02000 |" in text
    assert "| B | 3 s | sees what is known | euler | 20 | 0.03000 |" in text


def test_learning_curves_are_in_minutes(tmp_path):
    """20 updates in 2 minutes: update 10 after one minute. Rows of the training loss are left out."""
    folder = tmp_path / "pjm" / "lightning_logs" / "version_0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("trainer:\n  max_time: 00:00:02:00\n")
    (folder / "metrics.csv").write_text("step,train_loss,val_loss\n4,0.9,\n9,,0.5\n19,0.2,\n19,,0.25\n")
    first, last = (10, 1.0, 0.5), (20, 2.0, 0.25)
    found = _curves(tmp_path)
    assert found == {"pjm": [dict(zip(("step", "minutes", "val_loss"), point)) for point in (first, last)]}
    text = page({"records": {}, "curves": found, "machine": MACHINE})
    assert "| pjm | 2.0 | 20 | 0.5000 | 0.5000 | 0.5000 | 0.5000 | 0.5000 | 0.2500 |" in text


def test_parts_that_do_not_apply_have_no_records(tmp_path):
    options = Namespace(quick=True, checkpoints=tmp_path, windows=None, samples=None, seeds=None, updates=1)
    for part, name in (("generators", "pjm"), ("missing", "m4_hourly"), ("forecasts", "exchange")):
        assert measure(part, name, options) == []


@pytest.mark.slow
@pytest.mark.skipif(data_folder() is None or not (data_folder() / "timeseries").is_dir(), reason="needs SCIDIFF_DATA")
@pytest.mark.parametrize("title", GENERATORS)
def test_every_generator_forecasts(title):
    """Two updates of each; the number of network calls is the one that the options ask for."""
    for record in generators("exchange", 2, 4, 2, [title]):
        assert record["nfe"] == record["steps"]
        assert record["updates"] == 2
        assert 0 < record["wql"] < 0.2
