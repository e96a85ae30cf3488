"""``scidiff timeseries``: help, refusals, and every verb on a small model from table to table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.commands import check_help, check_refusal, runner
from tests.timeseries.test_generator import untrained
from timeseries import DiffusionForecaster, as_series, metrics
from timeseries.io import read_forecast

C, P = 12, 6


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """Run ``scidiff timeseries WORDS`` in the folder of the inputs."""
    return runner("timeseries", capfd, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Untrained models of one and of two variates."""
    folder = tmp_path_factory.mktemp("models")
    untrained(sampling={"steps": 2}, refine_time=0.4).save(folder / "one.safetensors")
    untrained(2, sampling={"steps": 2}).save(folder / "two.safetensors")
    return folder


@pytest.fixture
def inputs(tmp_path, checkpoints):
    """Good and bad files, by the names that the tables below use."""
    for name in ("old.csv", "old.json", "old.png", "old.npz"):
        (tmp_path / name).write_text("precious")
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes((checkpoints / f"{name}.safetensors").read_bytes())
    times = pd.date_range("2021-01-01", periods=48, freq="h")
    waves = 5 + np.sin(np.arange(48)[:, None] / 4 + [0, 1])
    wide = pd.DataFrame(waves, columns=["a", "b"]).assign(timestamp=times)[["timestamp", "a", "b"]]
    wide.to_csv(tmp_path / "full.csv", index=False)
    gaps = wide.copy()
    gaps.loc[20:23, "a"] = np.nan
    gaps.drop(index=[30]).to_csv(tmp_path / "gaps.csv", index=False)
    wide.assign(timestamp=pd.date_range("2021-01-01", periods=48, freq="D")).to_csv(tmp_path / "daily.csv", index=False)
    wide.iloc[::-1].to_csv(tmp_path / "reversed.csv", index=False)
    wide.iloc[:0].to_csv(tmp_path / "header.csv", index=False)
    wide.to_csv(tmp_path / "semicolons.csv", index=False, sep=";")
    wide.assign(b=np.nan).to_csv(tmp_path / "unknown.csv", index=False)
    items = [wide.assign(item_id="x", target=1.0), wide.assign(item_id="y", target=np.nan)]
    pd.concat(items).drop(columns=["a", "b"]).to_csv(tmp_path / "one_unknown.csv", index=False)
    wide.assign(a="low").to_csv(tmp_path / "text.csv", index=False)
    (tmp_path / "cut.jsonl").write_text('{"start": "2021-01-01", "target": [1, 2,\n')
    late = times.to_series().mask(times == times[10], times[10] + pd.Timedelta(minutes=17))
    wide.assign(timestamp=late.to_numpy()).to_csv(tmp_path / "irregular.csv", index=False)
    wide.iloc[42:].rename(columns={"a": "mean"})[["timestamp", "mean"]].assign(item_id="a").to_csv(
        tmp_path / "points.csv", index=False
    )
    return tmp_path


def pairs(text):
    return {line.split("  ")[0]: line.split("  ")[-1].strip() for line in text.splitlines() if "  " in line}


def test_help_of_every_verb_needs_no_torch():
    options = ("--lead-time", "--future", "--bands", "--base", "--windows", "--guidance", "--item-id", "--wide")
    check_help("timeseries", ["prepare", "forecast", "impute", "refine", "synthesize", "generate", "evaluate"], options)


_ONE = "--checkpoint one.safetensors"
BAD = {
    "forecast --data full.csv --out old.csv": "--checkpoint",
    "forecast --checkpoint nothing --data full.csv --out old.csv": "no checkpoint 'nothing'",
    f"forecast {_ONE} --data absent.csv --out old.csv": "no data file at 'absent.csv'",
    f"forecast {_ONE} --data exchang --out old.csv": "did you mean 'exchange'?",
    f"forecast {_ONE} --data full.csv --out old.txt": "must end in .csv or",
    f"forecast {_ONE} --data full.csv --out new.parquet": "[parquet]",
    f"forecast {_ONE} --data daily.csv --out old.csv": "has the frequency 'D', the model 'h'",
    f"forecast {_ONE} --data reversed.csv --out old.csv": "row 1 is out of order",
    f"forecast {_ONE} --data full.csv --freq xx --out old.csv": "unknown frequency 'xx'",
    f"forecast {_ONE} --data full.csv --out full.csv": "named twice",
    f"forecast {_ONE} --data full.csv --out old.csv --levels 0.9,0.1": "expected ascending levels",
    f"forecast {_ONE} --data full.csv --out old.csv --levels 0,0.5": "expected ascending levels",
    f"forecast {_ONE} --data full.csv --out old.csv -n 0": "at least 1, got '0'",
    f"forecast {_ONE} --data full.csv --out old.csv --solver magic": "magic",
    f"forecast {_ONE} --data full.csv --out old.csv --device tpu": "--device 'tpu'",
    f"forecast {_ONE} --data full.csv --out old.csv --plot old.txt": "must end in .png",
    f"forecast {_ONE} --data full.csv --target c --out old.csv": "target='c' is not a column",
    f"forecast {_ONE} --data full.csv --target a,b --out old.csv": "takes 1 variates, the data has 2",
    f"forecast {_ONE} --data gaps.csv --future full.csv --out old.csv": "need a model of several variates",
    f"forecast {_ONE} --data header.csv --out old.csv": "'header.csv' has 0 rows",
    f"forecast {_ONE} --data semicolons.csv --out old.csv": "separated by commas",
    f"forecast {_ONE} --data unknown.csv --out old.csv": "column 'b' holds no number",
    f"forecast {_ONE} --data one_unknown.csv --out old.csv": "series 'y' holds no number",
    f"forecast {_ONE} --data text.csv --out old.csv": "the values of 'a' are not numbers",
    f"forecast {_ONE} --data cut.jsonl --out old.csv": "line 1 of 'cut.jsonl' is not JSON",
    f"forecast {_ONE} --data irregular.csv --out old.csv": "of row 10 does not fit the frequency 'h'",
    "prepare irregular.csv --out old.csv": "row 10 comes 0 days 01:17:00 after the one before it",
    f"evaluate {_ONE} --data full.csv --missing RM --num-missing 99": "0 to 12 missing values",
    f"evaluate {_ONE} --data full.csv --num-missing 9": "give both",
    "evaluate points.csv --data full.csv --missing RM": "give --checkpoint",
    f"impute {_ONE} --data full.csv --out old.csv": "has no gap to fill",
    f"impute {_ONE} --data gaps.csv --out old.npz": "must end in .csv",
    f"refine {_ONE} --data full.csv --base absent.npz --out old.csv": "no forecast file at 'absent.npz'",
    f"refine {_ONE} --data full.csv --base old.npz --out new.csv": "no NPZ file",
    f"refine {_ONE} --data full.csv --base points.csv --out old.csv": "has no forecast of 'a' from 2021-01-03 00:00 on",
    f"refine {_ONE} --data full.csv --base random_walk --step-size 0 --out old.csv": "--step-size must be above 0",
    f"synthesize {_ONE} --plot old.png --out old.npz": "give --data and --plot together",
    "evaluate --data full.csv --out old.json": "a forecast file or --checkpoint",
    f"evaluate points.csv {_ONE} --data full.csv": "one of the two",
    "evaluate gaps.csv --data full.csv --out old.json": "is no forecast table",
    "evaluate points.csv --data full.csv --plot old.png": "--plot needs sample paths",
    f"evaluate {_ONE} --data full.csv --windows 8 --out old.json": "8 windows of 6 steps and a value before",
    f"evaluate {_ONE} --data full.csv --out old.csv": "must end in .json",
    "prepare forest --out old.csv": "no data set and no file 'forest'",
    "prepare demand --out old.json": "must end in .csv",
    "prepare reversed.csv --out old.csv": "row 1 is out of order",
    "prepare any --source nowhere --out old.csv": "has no folder 'train'",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_sentence_before_any_work(run, inputs, words):
    check_refusal(run, words, BAD[words], inputs)


def test_forecast_table_equals_the_notebook(run, inputs):
    words = f"forecast {_ONE} --data full.csv -n 7 --seed 3 --prediction-length 9 --levels 0.2,0.8"
    result = run(*words.split(), "--out", "new.csv", "--plot", "new.png")
    assert result.status == 0, result.err
    own = DiffusionForecaster.from_pretrained("one.safetensors").forecast(
        "full.csv", 7, prediction_length=9, seed=3, timestamp="timestamp"
    )
    table = pd.read_csv("new.csv", parse_dates=["timestamp"])
    pd.testing.assert_frame_equal(table, own.frame((0.2, 0.8)), check_dtype=False)
    printed = pairs(result.out)
    assert (printed["series"], printed["samples"], printed["steps"]) == ("2", "7", "9")
    assert printed["nfe"] == str(own.nfe)  # two blocks of the horizon
    assert Path("new.png").read_bytes().startswith(b"\x89PNG")
    assert run(*words.split(), "--out", "new.npz").status == 0
    again = read_forecast("new.npz")
    np.testing.assert_array_equal(again.samples, own.samples)
    assert (again.item_ids, again.starts, again.nfe) == (own.item_ids, own.starts, own.nfe)


def test_impute_keeps_the_layout_and_the_known_values(run, inputs):
    words = f"impute {_ONE} --data gaps.csv -n 4 --out new.csv --bands bands.csv --plot new.png --steps 1"
    result = run(*words.split())
    assert result.status == 0, result.err
    given, new = pd.read_csv("gaps.csv"), pd.read_csv("new.csv")
    assert list(new.columns) == ["timestamp", "a", "b"]
    assert len(new) == 48
    assert new.notna().all().all()
    merged = given.merge(new.assign(timestamp=pd.to_datetime(new["timestamp"]).astype(str)), on="timestamp")
    for name in "ab":
        known = merged[f"{name}_x"].notna()
        np.testing.assert_allclose(merged.loc[known, f"{name}_x"], merged.loc[known, f"{name}_y"], rtol=1e-12)
    bands = pd.read_csv("bands.csv")
    assert (~bands["observed"]).sum() == 6 == int(pairs(result.out)["filled values"])
    assert (bands.loc[bands["observed"], "0.1"] == bands.loc[bands["observed"], "0.9"]).all()
    assert Path("new.png").read_bytes().startswith(b"\x89PNG")


def test_refine_starts_from_a_file_or_a_name(run, inputs):
    assert run(*f"forecast {_ONE} --data full.csv -n 5 --out base.npz".split()).status == 0
    for base in ("base.npz", "seasonal_naive"):
        words = f"refine {_ONE} --data full.csv --base {base} -n 5 --iterations 3 --step-size 0.01 --out new.npz"
        result = run(*words.split())
        assert result.status == 0, result.err
        assert int(pairs(result.out)["network evaluations"]) == 3
        new = read_forecast("new.npz")
        assert new.samples.shape == (2, 5, P)
    own = DiffusionForecaster.from_pretrained("one.safetensors").refine(
        np.stack([s.values[24:30] for s in as_series("full.csv", timestamp="timestamp")]),
        "full.csv",
        5,
        timestamp="timestamp",
        steps=3,
        step_size=0.01,
    )
    np.testing.assert_array_equal(new.samples, own.samples)


def test_refine_starts_from_a_ridge_regression_on_the_data(run, inputs):
    """Without a gradient step that moves anything, the refined paths are the base: a straight line goes on."""
    line = pd.date_range("2021-01-01", periods=60, freq="h")
    pd.DataFrame({"timestamp": line, "a": np.arange(60.0)}).to_csv("line.csv", index=False)
    words = (
        f"refine {_ONE} --data line.csv --base ridge -n 3 --iterations 1 --step-size 1e-12 --sampler sgd --out r.npz"
    )
    result = run(*words.split())
    assert result.status == 0, result.err
    expected = np.arange(60.0, 60 + P)  # the penalty 1 beside some 30 standardised windows bends it by some per cent
    np.testing.assert_allclose(read_forecast("r.npz").samples[0], np.stack([expected] * 3), rtol=0.05)


def test_synthesize_and_evaluate_windows(run, inputs):
    words = f"-n 40 --data full.csv --out new.npz --plot new.png --seed 1 {_ONE}"
    assert run("generate", *words.split()).status == 0
    with np.load("new.npz") as data:
        assert data["windows"].shape == (40, C + P)
        own = DiffusionForecaster.from_pretrained("one.safetensors").synthesize(40, seed=1)
        np.testing.assert_array_equal(data["windows"], own)
    assert run("synthesize", *_ONE.split(), *["-n", "3", "--out", "new.csv"]).status == 0
    assert pd.read_csv("new.csv").shape == (3 * (C + P), 3)
    result = run("evaluate", "new.npz", *_ONE.split(), *["--data", "full.csv", "--out", "new.json"])
    assert result.status == 0, result.err
    scores = json.loads(Path("new.json").read_text())["scores"]
    assert scores["synthetic windows"]["discriminative score"] > 0.3  # an untrained model is found out
    assert scores["real windows"]["discriminative score"] < 0.2
    assert scores["synthetic windows"]["linear predictive score"] > scores["real windows"]["linear predictive score"]


def test_a_model_and_its_file_get_the_same_scores(run, inputs):
    """Held-out values of a file: the model's forecast, the same from a file, and the library agree."""
    result = run("evaluate", *_ONE.split(), *["--data", "full.csv", "-n", "9", "--out", "a.json", "--plot", "a.png"])
    assert result.status == 0, result.err
    full = as_series("full.csv", timestamp="timestamp")
    held = [s.cut(-P) for s in full]
    own = DiffusionForecaster.from_pretrained("one.safetensors").forecast(held, 9)
    target, past = np.stack([s.values[-P:] for s in full]), [s.values for s in held]
    scores = metrics.evaluate(own.samples, target, past=past, season=24)
    report = json.loads(Path("a.json").read_text())
    assert report["nfe"] == own.nfe
    assert report["scores"]["model"] == pytest.approx(dict(scores), rel=1e-9)
    assert set(report["scores"]) > {"random walk", "Gaussian random walk", "seasonal naive 24"}
    pd.read_csv("full.csv").iloc[:-P].to_csv("held.csv", index=False)
    assert run("forecast", *_ONE.split(), *["--data", "held.csv", "-n", "9", "--out", "held.npz"]).status == 0
    assert run("evaluate", "held.npz", *["--data", "full.csv", "--out", "b.json"]).status == 0
    again = json.loads(Path("b.json").read_text())["scores"]["held.npz"]
    assert again == pytest.approx(report["scores"]["model"], rel=1e-9)
    result = run("evaluate", "points.csv", *["--data", "full.csv", "--out", "c.json"])
    assert result.status == 0, result.err
    assert json.loads(Path("c.json").read_text())["scores"]["points.csv"]["wql"] == 0  # the truth itself


def test_known_future_values_stay(run, inputs):
    table = pd.read_csv("full.csv")
    table.iloc[:36].to_csv("past.csv", index=False)
    table.iloc[36:45].drop(columns="a").to_csv("future.csv", index=False)
    words = "forecast --checkpoint two.safetensors --data past.csv --timestamp timestamp --target a,b -n 3 --steps 2"
    result = run(*words.split(), *["--future", "future.csv", "--out", "new.npz"])
    assert result.status == 0, result.err
    new = read_forecast("new.npz")
    assert new.samples.shape == (1, 3, 9, 2)
    np.testing.assert_allclose(new.samples[0, :, :, 1], np.tile(table["b"][36:45], (3, 1)), rtol=1e-12)
    assert np.ptp(new.samples[0, :, :, 0], axis=0).min() > 0
    result = run(*words.split(), *["--future", "full.csv", "--out", "newer.npz"])
    assert result.status == 2
    assert "ends before 2021-01-02 12:00" in result.err


def test_prepare_reads_names_files_and_archives(run, inputs):
    assert run(*["prepare", "demand", "--wide", "--out", "demand.csv"]).status == 0
    (first, *rest) = as_series("demand.csv", "h", timestamp="timestamp")
    assert len(rest) == 3
    assert np.isnan(first.values).sum() >= 30
    result = run(*["prepare", "gaps.csv", "--freq", "h", "--out", "long.csv"])
    assert result.status == 0, result.err
    assert pairs(result.out)["missing"] == "6 of 96"
    assert list(pd.read_csv("long.csv").columns) == ["item_id", "timestamp", "target"]
    folder = inputs / "archive" / "train"
    folder.mkdir(parents=True)
    (folder.parent / "metadata.json").write_text('{"freq": "1H", "prediction_length": 6}')
    (folder / "data.json").write_text('{"start": "2020-01-01 00:00:00", "target": [1.0, 2.0, "NaN"], "item_id": "x"}\n')
    (folder / "._data.json").write_text("left by a file manager")
    result = run(*["prepare", "mine", "--source", "archive", "--out", "mine.csv"])
    assert result.status == 0, result.err
    assert pd.read_csv("mine.csv")["target"].tolist()[:2] == [1.0, 2.0]


def test_own_table_trains_and_forecasts(run, inputs):
    """The line of the README, cut short."""
    short = "--trainer.max_steps 1 --trainer.max_time null --trainer.accelerator cpu --trainer.logger false "
    short += "--trainer.limit_val_batches 0 --trainer.callbacks null --trainer.enable_checkpointing false "
    short += "--trainer.enable_progress_bar false --data.batch_size 2 --data.batches_per_epoch 1 --data.lags [] "
    short += "--data.context_length 12 --model.network.network.width 8 "
    short += "--model.network.network.num_layers 1"
    words = "-c pjm_cpu --data.source full.csv --data.freq h --data.prediction_length 6 --out mine.safetensors"
    result = run("fit", *words.split(), *short.split())
    assert result.status == 0, result.err
    words = "--checkpoint mine.safetensors --data full.csv -n 2 --steps 1 --out f.csv"
    result = run("forecast", *words.split())
    assert result.status == 0, result.err
    assert len(pd.read_csv("f.csv")) == 2 * 6
