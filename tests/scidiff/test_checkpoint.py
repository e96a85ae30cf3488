import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scidiff import assets, checkpoint, configurable
from scidiff.checkpoint import Configurable, Pretrained, load, load_state, resolve, save, state_of
from scidiff.schedules import VPSDE


class Net(Configurable, nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2)
        self.register_buffer("scale", torch.ones(()))


class Generator(Pretrained):
    def __init__(self, network: Net, schedule: VPSDE, temperature: float = float("inf")) -> None:
        self.network = network
        self.wrapper = nn.Sequential(network)  # shares the weights: written once
        self.schedule = schedule
        self.temperature = temperature


class Other(Pretrained):
    def __init__(self) -> None:
        self.network = Net()


@pytest.fixture(autouse=True)
def _allow_this_module(monkeypatch):
    monkeypatch.setattr(configurable, "_CORE_PACKAGES", (*configurable._CORE_PACKAGES, "tests"))


@pytest.fixture
def saved(tmp_path):
    generator = Generator(Net(4), VPSDE(0.2, 7.0))
    generator.network.scale.fill_(2.5)
    path = generator.save(tmp_path / "g.safetensors", metadata={"metrics": {"valid": 0.97}})
    return generator, path


def test_generator_comes_back_equal(saved):
    generator, path = saved
    again = Generator.from_pretrained(path)
    assert again.to_config() == generator.to_config()
    assert repr(again) == repr(generator)
    assert again.temperature == float("inf")
    assert again.metadata["metrics"] == {"valid": 0.97}
    assert again.metadata["provenance"]["torch"] == torch.__version__
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.network.linear(x), generator.network.linear(x))
    assert again.network.scale.item() == 2.5
    assert not again.network.training
    assert {name.split(".")[0] for name in load(path).tensors} == {"wrapper"}


def test_metadata_survives_a_second_save(saved, tmp_path):
    _, path = saved
    again = Generator.from_pretrained(path)
    second = again.save(tmp_path / "h.safetensors", metadata={"note": "fine-tuned"})
    assert load(second).metadata["metrics"] == {"valid": 0.97}
    assert load(second).metadata["note"] == "fine-tuned"


def test_the_wrong_generator_is_refused(saved):
    with pytest.raises(ValueError, match="configuration of a Other"):
        Other.from_pretrained(saved[1])


@pytest.mark.parametrize(
    "class_path",
    ["os.system", "builtins.eval", "subprocess.Popen", "scidiff", "scidiff.checkpoint;os", "", 3, "torch.nn.Linear"],
)
@pytest.mark.parametrize("depth", [0, 1])
def test_hostile_class_paths_are_refused_before_anything_is_built(tmp_path, class_path, depth):
    config = {"class_path": class_path, "init_args": {"command": "touch pwned"}}
    if depth:
        config = {"class_path": "scidiff.schedules.VPSDE", "init_args": {"beta_min": [{"deep": config}]}}
    header = {"format": "scidiff", "format_version": "1", "config": json.dumps(config), "metadata": "{}"}
    save_file({"w": torch.zeros(1)}, tmp_path / "evil.safetensors", metadata=header)
    with pytest.raises(ValueError, match="refused"):
        load(tmp_path / "evil.safetensors")


@pytest.mark.parametrize("class_path", ["scidiff.checkpoint.os.system", "scidiff.files.atomic_path", "scidiff.nope.X"])
def test_callables_inside_our_packages_that_are_not_configurable_are_not_built(tmp_path, class_path):
    path = save(tmp_path / "a.safetensors", config={"class_path": class_path, "init_args": {}}, tensors={})
    with pytest.raises(ValueError, match=r"refused|does not exist"):
        load(path).build()


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"scidiff\.domains"):
        save(tmp_path / "a.safetensors", config={"class_path": "__main__.Net", "init_args": {}}, tensors={})
    with pytest.raises(ValueError, match=r"is a \.safetensors file"):
        save(tmp_path / "a.pt", config=VPSDE().to_config(), tensors={})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_file(saved):
    _, path = saved
    before = path.read_bytes()
    with pytest.raises(TypeError, match="plain data"):
        save(path, config=VPSDE().to_config(), tensors={}, metadata={"f": object()})
    assert path.read_bytes() == before


def test_damaged_and_foreign_files_give_one_sentence(saved, tmp_path):
    _, path = saved
    whole = path.read_bytes()
    for name, content in {
        "cut": whole[:-8],
        "head": whole[:6],
        "empty": b"",
        "text": b"hello, this is not a checkpoint",
        "huge": struct.pack("<Q", 2**60) + whole[8:],
    }.items():
        damaged = tmp_path / f"{name}.safetensors"
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a safetensors file"):
            load(damaged)
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="not a scidiff checkpoint"):
        load(tmp_path / "foreign.safetensors")
    newer = {"format": "scidiff", "format_version": "99", "config": "{}", "metadata": "{}"}
    save_file({"w": torch.zeros(1)}, tmp_path / "newer.safetensors", metadata=newer)
    with pytest.raises(ValueError, match="please upgrade"):
        load(tmp_path / "newer.safetensors")


def test_tensors_that_do_not_fit_are_named_and_change_nothing():
    net = Net()
    before = state_of(net)
    good = {name: value + 1 for name, value in before.items()}
    missing = {k: v for k, v in good.items() if k != "linear.bias"}
    with pytest.raises(ValueError, match=r"missing linear\.bias"):
        load_state(net, missing)
    with pytest.raises(ValueError, match=r"unexpected extra"):
        load_state(net, good | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"linear\.bias has shape \(7,\) instead of \(2,\)"):
        load_state(net, good | {"linear.bias": torch.zeros(7)})
    assert all(torch.equal(value, before[name]) for name, value in state_of(net).items())
    load_state(net, good)
    assert torch.equal(net.linear.bias, before["linear.bias"] + 1)


def test_names_are_found_in_packages_with_a_hint(saved, tmp_path, monkeypatch):
    generator, _ = saved
    folder = tmp_path / "molecules" / "assets"
    folder.mkdir(parents=True)
    generator.save(folder / "qm9.safetensors")
    monkeypatch.setattr(assets, "_package_folder", lambda name: tmp_path / name if name == "molecules" else None)
    assert resolve("qm9") == resolve("molecules/qm9") == resolve("qm9", "molecules") == folder / "qm9.safetensors"
    assert resolve(folder / "qm9.safetensors") == folder / "qm9.safetensors"
    with pytest.raises(FileNotFoundError, match=r"known: qm9; did you mean 'qm9'\?"):
        load("qm99")
    with pytest.raises(FileNotFoundError, match="none is packaged"):
        resolve("qm9", "graphs")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        resolve(tmp_path)
    assert Generator.from_pretrained(folder / "qm9.safetensors").to_config() == generator.to_config()


def test_a_name_in_two_packages_must_be_qualified(tmp_path, monkeypatch):
    for owner in ("molecules", "graphs"):
        (tmp_path / owner / "assets").mkdir(parents=True)
        save(tmp_path / owner / "assets" / "qm9.safetensors", config=VPSDE().to_config(), tensors={})
    monkeypatch.setattr(assets, "_package_folder", lambda name: tmp_path / name if (tmp_path / name).is_dir() else None)
    assert list(checkpoint.assets.packaged()) == ["graphs/qm9", "molecules/qm9"]
    assert resolve("graphs/qm9").parts[-3] == "graphs"
    with pytest.raises(FileNotFoundError, match="graphs/qm9, molecules/qm9"):
        resolve("qm9")
