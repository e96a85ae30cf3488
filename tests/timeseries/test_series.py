"""Frames, files and entries as series: values at their place in the calendar, and every bad row named."""

import json

import numpy as np
import pandas as pd
import pytest

from scidiff.assets import data_folder
from timeseries.data import classics, datasets
from timeseries.data.calendar import normalize_freq, period, shift
from timeseries.data.series import TimeSeries, as_series, to_entries

needs_data = pytest.mark.skipif(
    data_folder() is None or not (data_folder() / "timeseries").is_dir(), reason="needs SCIDIFF_DATA"
)


def long_frame():
    times = pd.date_range("2021-03-01", periods=5, freq="h")
    rows = [("b", t, float(k)) for k, t in enumerate(times)] + [("a", t, 10.0 + k) for k, t in enumerate(times[1:4])]
    return pd.DataFrame(rows, columns=["name", "ds", "y"])


def test_long_frame_keeps_the_order_of_items():
    found = as_series(long_frame(), "H", target="y", item_id="name", timestamp="ds")
    assert [s.item_id for s in found] == ["b", "a"]
    assert found[0].values.tolist() == [0, 1, 2, 3, 4]
    assert found[1].values.tolist() == [10, 11, 12]
    assert found[1].start == pd.Period("2021-03-01 01:00", "h")
    assert found[0].freq == "h"
    assert list(found[1].times) == list(pd.date_range("2021-03-01 01:00", periods=3, freq="h"))


def test_interleaved_rows_and_absent_hours():
    frame = long_frame().iloc[[0, 5, 1, 6, 4, 7]]
    found = as_series(frame, "h", target="y", item_id="name", timestamp="ds")
    assert np.array_equal(found[0].values, [0, 1, np.nan, np.nan, 4], equal_nan=True)
    assert found[1].values.tolist() == [10, 11, 12]


def test_frequency_is_inferred():
    found = as_series(long_frame(), target="y", item_id="name", timestamp="ds")
    assert found[0].freq == "h"
    months = pd.DataFrame({"x": [1.0, 2, 3, 4]}, index=pd.date_range("2020-01-31", periods=4, freq="ME"))
    assert as_series(months)[0].freq == "M"
    with pytest.raises(ValueError, match="pass freq="):
        as_series(months.iloc[:2])


def test_wide_frame_is_cut_to_the_known_values():
    index = pd.date_range("2020-01-06", periods=6, freq="B")
    frame = pd.DataFrame({"u": [np.nan, 1, 2, np.nan, 4, np.nan], "v": range(6)}, index=index)
    u, v = as_series(frame, "B")
    assert u.start == shift(v.start, 1)
    assert np.array_equal(u.values, [1, 2, np.nan, 4], equal_nan=True)
    assert as_series(frame["v"])[0].values.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="holds no number"):
        as_series(frame.assign(w=np.nan))


def test_several_targets_are_variates_of_one_series():
    frame = long_frame().assign(z=lambda f: -f["y"])
    found = as_series(frame, "h", target=["y", "z"], item_id="name", timestamp="ds")
    assert found[0].values.shape == (5, 2)
    assert found[0].names == ("y", "z")
    assert found[0].num_variates == 2
    assert (found[0].values[:, 1] == -found[0].values[:, 0]).all()
    single = as_series(frame.iloc[:5], "h", target=["y", "z"], timestamp="ds")
    assert len(single) == 1
    assert single[0].values.shape == (5, 2)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f.iloc[[0, 2, 1, 3, 4]], "row 2 is out of order"),
        (lambda f: f.iloc[[0, 1, 1, 2]], "row 2 occurs twice"),
        (lambda f: f.assign(ds=f["ds"].where(f["y"] != 3, f["ds"] + pd.Timedelta(minutes=7))), "03:07:00 of row 3"),
        (lambda f: f.assign(ds=f["ds"].where(f["y"] != 3, pd.NaT)), "row 3 has no time stamp"),
        (lambda f: f.assign(ds="yesterday"), "cannot be read"),
        (lambda f: f.assign(y="much"), "not numbers"),
        (lambda f: f.assign(y=np.inf), "infinite"),
        (lambda f: f.assign(name=[None, *f["name"][1:]]), "row 0 has no name"),
    ],
    ids=["unsorted", "doubled", "irregular", "absent", "unreadable", "text", "infinite", "nameless"],
)
def test_bad_rows_are_named(edit, message):
    frame = edit(long_frame().iloc[:5]).reset_index(drop=True)
    with pytest.raises(ValueError, match=message):
        as_series(frame, "h", target="y", item_id="name", timestamp="ds")


def test_two_stamps_in_one_period_are_refused():
    index = pd.to_datetime(["2020-01-01", "2020-01-15", "2020-02-01"])
    with pytest.raises(ValueError, match="row 1 does not fit the frequency 'M'"):
        as_series(pd.DataFrame({"x": [1.0, 2, 3]}, index=index), "M")


@pytest.mark.parametrize("freq", ["MS", "ME", "W-SUN", "QE-DEC", "YE", "2h", "30min", "B", "D"])
def test_any_calendar_round_trips(freq):
    times = pd.date_range("2019-01-01", periods=14, freq=freq)
    (found,) = as_series(pd.DataFrame({"x": np.arange(14.0)}, index=times).drop(times[5]), freq)
    assert len(found) == 14
    assert np.isnan(found.values[5])
    assert found.values[6:].tolist() == list(range(6, 14))


def test_files(tmp_path):
    frame = long_frame()
    frame.to_csv(tmp_path / "long.csv.gz", index=False)
    read = as_series(tmp_path / "long.csv.gz", "h", target="y", item_id="name", timestamp="ds")
    assert read[1].values.tolist() == [10, 11, 12]
    wide = frame.pivot(index="ds", columns="name", values="y")
    wide.to_csv(tmp_path / "wide.csv")
    a, b = as_series(tmp_path / "wide.csv", "h")
    assert (a.item_id, b.item_id) == ("a", "b")
    assert a.values.tolist() == [10, 11, 12]
    lines = [{"start": "2020-01-01", "target": [1, None, "NaN", 4], "item_id": "q"}]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    (q,) = as_series(tmp_path / "x.jsonl", "D")
    assert np.array_equal(q.values, [1, np.nan, np.nan, 4], equal_nan=True)
    with pytest.raises(ValueError, match="ending in"):
        as_series(tmp_path / "x.xlsx", "D")
    with pytest.raises(FileNotFoundError, match="no data file"):
        as_series(tmp_path / "y.csv", "D")


def test_gluonts_data_sets_and_entries():
    common = pytest.importorskip("gluonts.dataset.common")
    entries = [{"start": "2020-01-01", "target": np.arange(4.0), "item_id": "s"}]
    (s,) = as_series(common.ListDataset(entries, freq="D"))
    assert s.freq == "D"
    assert s.values.tolist() == [0, 1, 2, 3]
    two = common.ListDataset([{"start": "2020-01-01", "target": np.ones((2, 5))}], freq="D", one_dim_target=False)
    (t,) = as_series(two)
    assert t.values.shape == (5, 2)
    (again,) = as_series(to_entries([t]))
    assert np.array_equal(again.values, t.values)
    assert to_entries([t])[0]["target"].shape == (2, 5)
    with pytest.raises(ValueError, match="must have 'start'"):
        as_series([{"target": [1.0]}])


def test_arrays_and_mixtures():
    assert [s.item_id for s in as_series(np.ones((3, 7)), "D")] == ["0", "1", "2"]
    assert len(as_series([np.ones(3), np.ones(8)], "D")) == 2
    with pytest.raises(ValueError, match="pass freq="):
        as_series(np.ones(5))
    with pytest.raises(ValueError, match="no time series"):
        as_series([])
    start = pd.Period("2020", "D")
    with pytest.raises(ValueError, match="frequency"):
        as_series([TimeSeries(np.ones(3), start), TimeSeries(np.ones(3), pd.Period("2020", "h"))])
    with pytest.raises(ValueError, match="variates"):
        as_series([TimeSeries(np.ones(3), start), TimeSeries(np.ones((3, 2)), start)])


def test_a_cut_series_keeps_its_calendar():
    s = TimeSeries(np.arange(5.0), pd.Period("2020-01-01", "D"), "x")
    assert s.cut(-2).values.tolist() == [0, 1, 2]
    assert s.cut(4).start == s.start


@needs_data
@pytest.mark.parametrize(
    ("name", "series", "windows", "first", "lengths"),
    [
        ("exchange", 8, 40, "2013-04-09", {6071}),
        ("m4_hourly", 414, 414, "1750-01-30 04:00", {700, 960}),
        ("m4_weekly", 359, 359, "1791-10-03", None),
        ("etth1", 7, 840, "2017-10-24 00:00", {8640}),
        ("pjm", 10, 280, "2018-07-06 01:00", None),
        ("burke_gilman", 1, 28, "2023-11-03 00:00", {86_904 - 672}),
    ],
)
def test_benchmark_sets_have_the_published_splits(name, series, windows, first, lengths):
    data = datasets.load_benchmark(name)
    assert len(data.train) == series
    assert len(data.test) == windows == len(data.past) == len(data.target)
    assert data.target.shape == (windows, data.prediction_length)
    if lengths is not None:
        assert {len(s) for s in data.train} == lengths
    start = shift(data.test[0].start, len(data.test[0]) - data.prediction_length)
    assert start == period(first, data.freq)
    for s, past in zip(data.test, data.past):
        assert len(past) == len(s) - data.prediction_length
    own = {s.item_id: s.values for s in data.train}
    for s in data.test:
        n = min(len(own[s.item_id]), len(s) - data.prediction_length)
        assert np.array_equal(own[s.item_id][:n], s.values[:n], equal_nan=True)


# name: length, first period, first and last value, missing values
CLASSIC_FACTS = {
    "airline_passengers": (144, "1949-01", 112.0, 432.0, 0),
    "sunspots": (2820, "1749-01", 58.0, None, 0),
    "min_temperatures": (3652, "1981-01-01", 20.7, None, 2),
    "taylor": (4032, "2000-01-01 00:00", 22262.0, None, 0),
    "taxi": (10_320, "2014-07-01 00:00", 10844.0, None, 0),
    "gasoline": (1578, "1991-02-08", 6621.0, 8864.0, 0),
    "influenza": (None, "1997-10-06", 1.10148, None, None),
    "shampoo": (36, "2000-01", 266.0, None, 0),
    "water_usage": (79, "1885", 356.0, None, 0),
}


@needs_data
@pytest.mark.parametrize("name", classics.CLASSICS)
def test_classic_series_have_a_calendar(name):
    found = classics.load_classic(name)
    assert found.freq == normalize_freq(classics.CLASSICS[name].freq)
    length, first, head, tail, missing = CLASSIC_FACTS.get(name, (None,) * 5)
    assert length is None or len(found) == length
    assert first is None or found.start == period(first, found.freq)
    assert head is None or found.values[0] == head
    assert tail is None or found.values[-1] == tail
    assert missing is None or np.isnan(found.values).sum() == missing
    assert np.isfinite(found.values).mean() > 0.9


def test_unknown_sets_and_absent_files(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'exchange'"):
        datasets.load_benchmark("exchang")
    with pytest.raises(FileNotFoundError, match="SCIDIFF_DATA"):
        datasets.load_benchmark("exchange", tmp_path)
