"""Chunks: the same results as in one piece, and an interrupted run goes on from what is there."""

import numpy as np
import pytest

from scidiff.chunks import Chunks
from tests.timeseries.models import seasonal_data
from tests.timeseries.test_generator import untrained
from timeseries.bulk import forecast_in_chunks, impute_in_chunks, synthesize_in_chunks
from timeseries.data.series import as_series

CPU = {"accelerator": "cpu", "devices": 1}
OPTIONS = {"steps": 2, "rows": 6, "seed": 3}


def data(count=4):
    return as_series(list(seasonal_data(count, 40)), "h")


def run(function, *args, folder, sampling, **trainer):
    drawn = function(*args, folder, origin="test", sampling=sampling, trainer={**CPU, **trainer})
    assert drawn is not None
    return drawn


def test_chunks_give_what_one_piece_gives(tmp_path):
    """Two series a chunk, a longer horizon and a lead time: same paths, calendar and evaluations."""
    m, series = untrained(), data()
    sampling = {"prediction_length": 9, "lead_time": 1, **OPTIONS}
    result, chunks = run(forecast_in_chunks, m, series, 3, folder=tmp_path / "a", sampling=sampling)
    whole = m.forecast(series, 3, **sampling)
    assert len(list(chunks.folder.glob("chunk_*.npz"))) == 2
    assert np.allclose(result.samples, whole.samples, rtol=1e-5, atol=1e-6)
    assert (result.starts, result.item_ids, result.nfe) == (whole.starts, whole.item_ids, whole.nfe)

    gappy = [s.values.copy() for s in series]
    gappy[0][10:25] = np.nan
    gappy[3] = np.r_[gappy[3][:5], np.nan, gappy[3][6:20]]
    gaps = as_series(gappy, "h")
    filled, _ = run(impute_in_chunks, m, gaps, 3, folder=tmp_path / "b", sampling=OPTIONS)
    for one, two in zip(filled.samples, m.impute(gaps, 3, **OPTIONS).samples):
        assert np.allclose(one, two, rtol=1e-5, atol=1e-6)

    windows, _ = run(synthesize_in_chunks, m, 14, folder=tmp_path / "c", sampling=OPTIONS)
    assert np.allclose(windows, m.synthesize(14, **OPTIONS), rtol=1e-5, atol=1e-6)


def test_an_interrupted_forecast_goes_on(tmp_path, monkeypatch):
    m, series, notes = untrained(), data(), []
    whole = m.forecast(series, 3, **OPTIONS).samples
    forecast = type(m).forecast
    asked = []

    def interrupted(self, part, *args, **options):
        asked.append(options["numbers"])
        if len(asked) == 2:
            raise RuntimeError("power cut")
        return forecast(self, part, *args, **options)

    monkeypatch.setattr(type(m), "forecast", interrupted)
    with pytest.raises(RuntimeError, match="power cut"):
        run(forecast_in_chunks, m, series, 3, folder=tmp_path / "a", sampling=OPTIONS, note=notes.append)
    assert "2 of 4 samples are kept" in notes[-1]
    result, chunks = run(forecast_in_chunks, m, series, 3, folder=tmp_path / "a", sampling=OPTIONS, note=notes.append)
    assert "going on from 2 samples" in notes[-1]
    assert asked == [[0, 1], [2, 3], [2, 3]]
    assert np.allclose(result.samples, whole, rtol=1e-5, atol=1e-6)
    other = data()
    other[2].values[5] += 1  # other data, other request
    run(forecast_in_chunks, m, other, 3, folder=tmp_path / "a", sampling=OPTIONS, note=notes.append)
    assert "belongs to another request" in notes[-1]
    assert asked[3:] == [[0, 1], [2, 3]]
    assert isinstance(chunks, Chunks)
    chunks.remove()
    assert not (tmp_path / "a").exists()
