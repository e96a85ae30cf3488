"""Every packaged configuration trains for two steps, and what it writes can be used."""

from pathlib import Path

import pytest
import yaml

import timeseries
from scidiff.assets import data_folder
from scidiff.cli import main
from timeseries import DiffusionForecaster, load_benchmark

CONFIGS = sorted((Path(timeseries.__file__).parent / "configs").glob("*.yaml"))
SHORT = (
    "--trainer.max_steps 2 --trainer.max_time null --trainer.accelerator cpu --trainer.logger false "
    "--trainer.limit_val_batches 1 --trainer.check_val_every_n_epoch null --trainer.val_check_interval 2 "
    "--trainer.enable_progress_bar false --data.init_args.batch_size 4 --data.init_args.batches_per_epoch 2"
)
needs_data = pytest.mark.skipif(
    data_folder() is None or not (data_folder() / "timeseries").is_dir(), reason="needs SCIDIFF_DATA"
)


@needs_data
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_of_every_configuration(path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    network = "--model.init_args.network.init_args." + "network.init_args." * ("WienerNetwork" in path.read_text())
    small = [f"{network}width", "8", f"{network}num_layers", "1"]
    assert main(["timeseries", "fit", "-c", path.stem, *SHORT.split(), *small, "--out", "m.safetensors"]) == 0
    assert "val_loss" in capfd.readouterr().out
    m = DiffusionForecaster.from_pretrained(tmp_path / "m.safetensors")
    assert m.metadata["provenance"]["steps"] == 2
    source = yaml.safe_load(path.read_text())["data"]["init_args"]["source"]
    data = load_benchmark(source)
    assert m.spec is not None
    assert m.spec.prediction_length == data.prediction_length
    if path.stem in (source, f"{source}_cond"):
        assert m.spec.context_length == data.context_length
        assert m.spec.lags == (() if path.stem == "m4_hourly" else data.lags)
    fc = m.forecast(data.inputs[:1], 2, steps=1)
    assert fc.samples.shape == (1, 2, data.prediction_length)
