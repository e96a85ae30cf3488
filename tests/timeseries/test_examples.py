"""The example scripts run as they stand, and what they print is what they promise."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def call(name):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capfd.readouterr().out

    return call


@pytest.mark.slow
def test_forecast_demand(run, tmp_path):
    """The packaged model beats both walks on the last day (recorded .067, .152), and GluonTS gets its samples."""
    out = run("forecast_demand")
    loss = {m[1]: float(m[2]) for m in re.finditer(r"^(\w[\w ]*?)  +(\d?\.\d{5}) ", out, re.MULTILINE)}
    assert loss["model"] < 0.7 * min(loss["random walk"], loss["Gaussian random walk"])
    assert "(50, 24)" in out
    for name in ("filled.png", "forecast.png"):
        assert (tmp_path / "out" / "example_timeseries" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_impute_gaps(run, tmp_path):
    """The model errs by a third less than both simple rules; its intervals are too narrow."""
    out = run("impute_gaps")
    errors = [float(value) for value in re.findall(r" (\.?\d\.\d{3})$", out, re.MULTILINE)]
    assert len(errors) == 3
    assert errors[0] < 0.7 * min(errors[1:])
    held = int(re.search(r"(\d+)%", out)[1])  # type: ignore[index]
    assert 55 <= held <= 95
    assert (tmp_path / "out" / "example_imputation" / "filled.csv").is_file()
    assert (tmp_path / "out" / "example_imputation" / "filled.png").read_bytes().startswith(b"\x89PNG")
