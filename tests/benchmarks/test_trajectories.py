"""The section of the page from figures that are known."""

from benchmarks.trajectories import text

WHERE = {"machine": {"date": "2026-01-01", "processor": "P", "threads": 1, "torch": "2"}}


def figure(value, **baselines):
    return {"value": value, "error": 0.01, "floor": 0.02, "baselines": baselines}


def test_text():
    """Every figure stands beside the forecasts without a network, its error and its NFE; without figures: nothing."""
    beside = {"stay": 0.8, "constant_velocity": 0.5, "linear": 0.48}
    metrics = {"ade_mean": figure(0.15, **beside), "fde_mean": figure(0.35, **beside)}
    metrics |= {"bond_jsd": figure(0.09), "temperature_ratio": figure(1.02)}
    report = {"metrics": metrics, "systems": 100, "samples": 5}
    model = {"checkpoint": "m", "metric": "mean", "published": "X .1/.2", "nfe": 21, "report": report}
    row = {"nfe": 6, "ade": 0.16, "error": 0.01, "difference": 0.002, "difference_error": 0.001}
    steps = {"checkpoint": "m", "systems": 16, "rows": [{**row, "seconds_per_sample": 0.05}]}
    bonds = {"checkpoint": "m", "frames": 500, "rollouts": 4, "bonds_intact": 0.97, "temperature": 490.0}
    page = text({**WHERE, "models": [model], "steps": [steps], "rollout": [{**bonds, "real_temperature": 500.0}]})
    assert "| m | 100 x 5 | 21 | 0.150 ± 0.010 | 0.350 ± 0.010 | 0.800 / 0.800 | 0.500 / 0.500 | 0.480 / 0.480" in page
    assert "| 6 | 0.1600 ± 0.0100 | +0.0020 ± 0.0010 | 50 |" in page
    assert "within 25 % in 97.0 % of frames" in page
    assert "490 K (500 K in the data)" in page
    assert "bond lengths 0.090 (halves of the data 0.020)" in page
    assert "|" not in text(WHERE)
