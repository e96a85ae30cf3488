import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from scidiff import assets, configurable
from scidiff.checkpoint import load, save
from scidiff.cli import UserError, main
from scidiff.cli import doctor as cli_doctor
from scidiff.cli import domain as cli_domain
from scidiff.cli.dispatch import thread_policy
from scidiff.cli.options import Parser, add_options, check_outputs, resolve_device, trainer_devices
from scidiff.cli.output import table
from scidiff.kernels import warm
from scidiff.schedules import VPSDE

ROOT = Path(__file__).parents[2]

TOY_CLI = """
from scidiff.cli import Domain, Verb
from scidiff.cli.options import add_options

def _options(parser):
    add_options(parser, "checkpoint", "num_samples", "out", num_samples=3, out=...)

DOMAIN = Domain(
    name="toydomain",
    help="numbers",
    verbs={"generate": Verb("draw numbers", "toydomain.work:generate", _options)},
    export="toydomain.work:export",
    demo="toydomain.work:demo",
)
"""

TOY_WORK = """
import torch
import pytorch_lightning as pl
from torch.utils.data import DataLoader, TensorDataset
from scidiff import VPSDE, Denoiser, Process
from scidiff.checkpoint import save, state_of
from scidiff.configurable import Configurable
from scidiff.files import atomic_path
from scidiff.training import DiffusionModule

class Net(Configurable, torch.nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be positive, got {width}.")
        self.layer = torch.nn.Linear(2, width)
        self.out = torch.nn.Linear(width, 2)

    def forward(self, x, t, cond):
        return self.out(torch.tanh(self.layer(x)))

class Model(DiffusionModule):
    def __init__(self, network: Net, **kwargs) -> None:
        super().__init__(**kwargs)
        self.denoiser = Denoiser(network, Process(VPSDE()), prediction="eps")

    def prepare(self, batch):
        return batch[0], None, {}

class Data(pl.LightningDataModule):
    def __init__(self, num_points: int = 16) -> None:
        super().__init__()
        self.x = torch.linspace(-1, 1, 2 * num_points).view(-1, 2)

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.x), batch_size=8)

    val_dataloader = test_dataloader = train_dataloader

def export(module, path, *, metadata):
    save(path, config=module.to_config(), tensors=state_of(module), metadata=metadata)

def generate(options):
    if options.checkpoint == "crash":
        raise RuntimeError("the machine\\nis on fire")
    if options.checkpoint:
        raise FileNotFoundError(f"no checkpoint {options.checkpoint!r}.")
    with atomic_path(options.out) as path:
        path.write_text("x" * options.num_samples)

def demo(folder):
    (folder / "a.txt").write_text("demo")
    return [folder / "a.txt"]
"""

CONFIG = """
seed_everything: 0
trainer: {max_steps: 4, accelerator: cpu, logger: false, enable_progress_bar: false, enable_checkpointing: false}
model:
  class_path: toydomain.Model
  init_args: {network: {class_path: toydomain.Net, init_args: {width: 3}}, lr: 1.0e-2}
data: {class_path: toydomain.Data, init_args: {num_points: 16}}
"""

TOY_INIT = """
from scidiff.lazy import lazy_exports
__getattr__, __dir__ = lazy_exports(__name__, {n: "toydomain.work" for n in ("Model", "Net", "Data")})
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A third-party domain with an entry point, as pip would leave it."""
    site = tmp_path_factory.mktemp("site")
    package, dist = site / "toydomain", site / "toydomain-1.0.dist-info"
    (package / "configs").mkdir(parents=True)
    dist.mkdir()
    for name, text in {"__init__": TOY_INIT, "cli": TOY_CLI, "work": TOY_WORK}.items():
        (package / f"{name}.py").write_text(text)
    (package / "configs" / "tiny.yaml").write_text(CONFIG)
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: toydomain\nVersion: 1.0\n")
    (dist / "entry_points.txt").write_text("[scidiff.domains]\ntoydomain = toydomain.cli\n")
    sys.path.insert(0, str(site))
    yield site
    sys.path.remove(str(site))


@pytest.fixture
def run(installed, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCIDIFF_DEBUG", raising=False)

    def call(*words):
        status = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Namespace(status=status, out=out, err=err)

    return call


def is_one_sentence(err):
    lines = [line for line in err.splitlines() if line]
    return len(lines) == 1 and lines[0].startswith("scidiff: ") and "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["demo", "--help"],
        ["info", "--help"],
        ["doctor", "--help"],
        ["toydomain", "--help"],
        ["toydomain", "generate", "--help"],
    ],
    ids=" ".join,
)
def test_help_imports_no_torch(installed, words):
    code = f"import sys; from scidiff.cli import main; s = main({words!r}); sys.exit(s or 7 * ('torch' in sys.modules))"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{installed}"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=installed
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: scidiff")
    assert result.stderr == ""


def test_every_domain_answers_help_without_torch():
    code = (
        "import sys; from scidiff.cli import main; from scidiff.cli.domain import domains\n"
        "for name, domain in domains().items():\n"
        "    assert main([name, '--help']) == 0\n"
        "    for verb in domain.verbs:\n"
        "        assert main([name, verb, '--help']) == 0, (name, verb)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_overview_lists_domains_and_commands(run):
    result = run("--help")
    assert result.status == 0
    for word in ("toydomain", "numbers", "demo", "info", "doctor"):
        assert word in result.out
    verbs = run("toydomain", "--help").out
    assert all(verb in verbs for verb in ("fit", "validate", "test", "generate"))


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["toydomian"], "did you mean 'toydomain'"),
        (["toydomain"], "give a verb"),
        (["toydomain", "genrate"], "did you mean 'generate'"),
        (["toydomain", "generate"], "--out"),
        (["toydomain", "generate", "--out", "a", "-n", "0"], "at least 1, got '0'"),
        (["toydomain", "generate", "--out", "a", "--step", "3"], "unrecognized arguments: --step"),
        (["toydomain", "generate", "--out", "a", "--checkpoint", "none"], "no checkpoint 'none'"),
        (["info", "nothing"], "neither a file nor a packaged name"),
        (["demo", "nothing"], "no domain 'nothing'"),
        (["toydomain", "fit", "-c", "tin"], "did you mean 'tiny'"),
        (["toydomain", "fit", "-c", "tiny", "--model.lr", "fast"], "'model.lr' of toydomain.Model: Expected a float"),
        (["toydomain", "fit", "-c", "tiny", "--model.network.widht", "3"], "Option 'widht' is not accepted"),
        (["toydomain", "fit", "-c", "tiny", "--model.network.class_path", "toydomain.Nett"], "no attribute 'Nett'"),
        (["toydomain", "fit", "-c", "tiny", "--trainer.max_steps", "x"], "'trainer.max_steps': Expected a int"),
        (
            ["toydomain", "fit", "-c", "tiny", "--model.init_args.network.init_args.width", "-3"],
            "width must be positive",
        ),
        (["toydomain", "fit", "-c", "tiny", "--nonsense", "3"], "nonsense"),
        (["toydomain", "fit"], "model"),
        (["toydomain", "fit", "-c", "tiny", "--out", "a.pt"], "must end in .safetensors"),
        (["toydomain", "fit", "-c", "tiny", "--init_from", "none"], "no checkpoint 'none'"),
        (["toydomain", "test", "-c", "tiny", "--ckpt_path", "no.ckpt"], "no Lightning checkpoint at 'no.ckpt'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_status_2(run, tmp_path, words, telling):
    (tmp_path / "a").write_text("precious")
    result = run(*words)
    assert result.status == 2
    assert is_one_sentence(result.err), result.err
    assert telling in result.err
    assert result.out == ""
    assert (tmp_path / "a").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["a"]


def test_failures_are_status_1_and_tracebacks_are_for_debugging(run, tmp_path, monkeypatch):
    words = ("toydomain", "generate", "--out", "a", "--checkpoint", "crash")
    result = run(*words)
    assert result.status == 1
    assert is_one_sentence(result.err)
    assert "RuntimeError: the machine is on fire" in result.err
    monkeypatch.setenv("SCIDIFF_DEBUG", "1")
    assert "Traceback" in run(*words).err


def test_interrupt_is_status_130(run, monkeypatch):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("scidiff.cli.doctor.run", interrupt)
    result = run("doctor")
    assert result.status == 130
    assert is_one_sentence(result.err)


def test_verb_writes_its_file(run, tmp_path):
    result = run("toydomain", "generate", "--out", tmp_path / "new" / "a.txt", "-n", "5")
    assert (result.status, result.err) == (0, "")
    assert (tmp_path / "new" / "a.txt").read_text() == "xxxxx"


def test_a_broken_domain_does_not_take_the_others_down(run, monkeypatch):
    entries = {"broken": "no_such_package_here.cli", "toydomain": "toydomain.cli"}
    monkeypatch.setattr(cli_domain, "_entries", lambda: entries)
    result = run("--help")
    assert result.status == 0
    assert "toydomain" in result.out
    assert "'broken' cannot be loaded" in result.err


def test_demo_runs_the_hooks(run, tmp_path):
    result = run("demo", "toydomain", "--out", tmp_path / "out")
    assert result.status == 0
    assert (tmp_path / "out" / "toydomain" / "a.txt").read_text() == "demo"
    assert "a.txt" in result.out


def test_demo_leaves_out_a_domain_without_its_checkpoint(run, monkeypatch, tmp_path):
    domain = cli_domain.Domain(name="toydomain", help="", demo="toydomain.work:demo", demo_checkpoint="absent")
    monkeypatch.setattr("scidiff.cli.demo.domains", lambda: {"toydomain": domain})
    result = run("demo", "--out", tmp_path / "out")
    assert result.status == 1
    assert "'absent' is not packaged" in result.err
    assert not (tmp_path / "out").exists()


def test_info_shows_what_was_saved(run, tmp_path):
    path = tmp_path / "v.safetensors"
    facts = {"metrics": {"valid": 0.9731}, "provenance": {"data": "QM9"}}
    save(path, config=VPSDE(0.3, 7.0).to_config(), tensors={"w": torch.zeros(2, 3)}, metadata=facts)
    text = run("info", path).out
    for telling in ("scidiff.schedules.VPSDE", "beta_max  7.0", "0.9731", "QM9", "6 numbers in 1 tensors"):
        assert telling in text
    shown = json.loads(run("info", path, "--json").out)
    assert shown["config"] == VPSDE(0.3, 7.0).to_config()
    assert shown["metadata"]["metrics"] == {"valid": 0.9731}
    assert shown["tensors"] == {"w": [2, 3]}
    path.write_bytes(path.read_bytes()[:-1])
    damaged = run("info", path)
    assert damaged.status == 2
    assert is_one_sentence(damaged.err)


def test_doctor_finds_the_data_and_reports_what_is_broken(run, monkeypatch, tmp_path):
    monkeypatch.setenv("SCIDIFF_DATA", str(tmp_path))
    good = run("doctor")
    assert good.status == 0
    assert torch.__version__ in good.out
    assert str(tmp_path) in good.out
    monkeypatch.setenv("SCIDIFF_DATA", str(tmp_path / "absent"))
    bad = run("doctor")
    assert bad.status == 1
    assert "absent" in bad.out
    (tmp_path / "graphs" / "assets").mkdir(parents=True)
    (tmp_path / "graphs" / "assets" / "ego.safetensors").write_text("not a checkpoint")
    monkeypatch.setenv("SCIDIFF_DATA", str(tmp_path))
    monkeypatch.setattr(assets, "_package_folder", lambda name: tmp_path / name if name == "graphs" else None)
    damaged = run("doctor")
    assert damaged.status == 1
    assert "checkpoint ego" in damaged.out


def test_doctor_speaks_of_threads_and_bodies(run, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    out = run("doctor").out
    cached, missing = warm.compiled_bodies()
    assert f"{len(cached)} of {len(cached) + len(missing)} compiled on disk" in out
    assert ("doctor --compile" in out) == bool(missing)
    assert re.search("slow +OMP_WAIT_POLICY +passive makes", out)
    assert re.search("ok +numba threads +(omp|tbb|workqueue)", out)
    assert re.search(r"ok +numba +\d", out)
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert "OMP_WAIT_POLICY" not in run("doctor").out
    monkeypatch.setattr(cli_doctor, "find_spec", lambda name: None if name == "numba" else True)
    without = run("doctor")
    assert re.search("bad +numba +not installed", without.out)
    assert without.status == 1


def test_verbs_of_domains_keep_memory_in_the_process(run, monkeypatch, tmp_path):
    """Once a command, and not by commands that compute nothing."""
    calls = []
    monkeypatch.setattr("scidiff.kernels.memory.tune_malloc", lambda: calls.append(1))
    monkeypatch.setattr("scidiff.cli.lightning.tune_malloc", lambda: calls.append(2))
    run("toydomain", "generate", "--out", tmp_path / "a.txt", "-n", "5")
    assert calls == [1]
    run("toydomain", "generate", "--help")
    run("--help")
    assert calls == [1]
    run("toydomain", "fit", "-c", "tiny", "--trainer.max_steps", "1")
    assert calls == [1, 2]


def test_fit_then_test_through_lightning(run, tmp_path):
    """Packaged config by name, an override, resume file, user checkpoint with metrics, same loss from either."""
    fit = run("toydomain", "fit", "-c", "tiny", "--model.lr", "0.02", "--trainer.enable_checkpointing", "true")
    assert fit.status == 0, fit.err
    assert "val_loss" in fit.out
    (path,) = tmp_path.rglob("model.safetensors")
    checkpoint = load(path)
    assert checkpoint.config["init_args"]["lr"] == 0.02
    assert checkpoint.config["init_args"]["network"]["init_args"] == {"width": 3}
    assert checkpoint.metadata["provenance"]["steps"] == 4
    (ckpt,) = tmp_path.rglob("*.ckpt")
    out = tmp_path / "metrics.json"
    test = run("toydomain", "validate", "--config=tiny", "--ckpt_path", ckpt, "--out", out)
    assert test.status == 0, test.err
    assert json.loads(out.read_text())["val_loss"] == pytest.approx(
        checkpoint.metadata["metrics"]["val_loss"], rel=1e-6
    )
    resumed = run(
        "toydomain", "fit", "-c", "tiny", "--ckpt_path", ckpt, "--trainer.max_steps", "6", "--out", "b.safetensors"
    )
    assert resumed.status == 0, resumed.err
    assert load(tmp_path / "b.safetensors").metadata["provenance"]["steps"] == 6


@pytest.mark.parametrize(
    ("variables", "load", "cores", "expected"),
    [
        ({}, 0.4, 2, {}),
        ({}, 1.2, 2, {"OMP_WAIT_POLICY": "passive"}),
        ({}, 9.0, 64, {}),
        ({"OMP_WAIT_POLICY": "active"}, 5.0, 2, {}),
        ({"GOMP_SPINCOUNT": "100"}, 5.0, 2, {}),
    ],
)
def test_idle_threads_sleep_on_a_busy_machine_only(variables, load, cores, expected):
    assert thread_policy(variables, load, cores) == expected


def test_fit_starts_from_the_weights_of_a_checkpoint(run, tmp_path):
    """No step after the start: the new checkpoint has the weights of the old one, and says where they are from."""
    first = run("toydomain", "fit", "-c", "tiny", "--out", "first.safetensors")
    assert first.status == 0, first.err
    words = ["--init_from", "first.safetensors", "--trainer.max_steps", "0", "--seed_everything", "5"]
    again = run("toydomain", "fit", "-c", "tiny", *words, "--out", "again.safetensors")
    assert again.status == 0, again.err
    old, new = (load(tmp_path / f"{name}.safetensors") for name in ("first", "again"))
    assert old.tensors.keys() == new.tensors.keys()
    assert all(torch.equal(value, new.tensors[name]) for name, value in old.tensors.items())
    assert new.metadata["provenance"]["init_from"] == "first"
    fresh = run("toydomain", "fit", "-c", "tiny", *words[2:], "--out", "fresh.safetensors")
    assert fresh.status == 0, fresh.err
    other = load(tmp_path / "fresh.safetensors").tensors
    assert not all(torch.equal(value, other[name]) for name, value in old.tensors.items())


def test_print_config_goes_to_stdout_and_can_be_used_again(run, tmp_path):
    printed = run("toydomain", "fit", "-c", "tiny", "--print_config")
    assert printed.status == 0
    (tmp_path / "again.yaml").write_text(printed.out)
    assert run("toydomain", "fit", "-c", "again.yaml", "--print_config").out == printed.out


def test_common_options_have_their_names_and_bounds():
    parser = Parser(prog="p")
    add_options(parser, num_samples=100, out=...)
    options = parser.parse_args(["-n", "7", "--out", "a.sdf", "--batch-size", "2"])
    assert vars(options) == {
        "checkpoint": None,
        "num_samples": 7,
        "steps": None,
        "solver": None,
        "seed": 0,
        "device": "auto",
        "devices": 1,
        "num_nodes": 1,
        "out": Path("a.sdf"),
        "batch_size": 2,
    }
    with pytest.raises(UserError, match=r"--out.*\(see p --help\)"):
        parser.parse_args([])
    with pytest.raises(UserError, match="at least 0, got '-1'"):
        parser.parse_args(["--out", "a", "--seed", "-1"])


def test_outputs_and_devices_are_checked_at_the_door(tmp_path):
    check_outputs(tmp_path / "a.csv", None, suffixes=(".csv",))
    with pytest.raises(UserError, match=r"must end in \.csv or \.npz"):
        check_outputs(tmp_path / "a.sdf", suffixes=(".csv", ".npz"))
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda", "mps")
    with pytest.raises(UserError, match="is not a device"):
        resolve_device("gpu")
    with pytest.raises(UserError, match="does not exist here"):
        resolve_device("cuda:99")


def test_devices_of_the_trainer(monkeypatch):
    assert trainer_devices("cpu", 3) == {"accelerator": "cpu", "devices": 3}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert trainer_devices("cuda") == {"accelerator": "gpu", "devices": 1}
    assert trainer_devices("cuda", 2) == {"accelerator": "gpu", "devices": 2}
    assert trainer_devices("cuda:1") == {"accelerator": "gpu", "devices": [1]}
    for name, count, message in (
        ("cuda", 3, "more than the 2"),
        ("cuda:1", 2, "is one device"),
        ("cuda:2", 1, "exist"),
    ):
        with pytest.raises(UserError, match=message):
            trainer_devices(name, count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert trainer_devices("mps") == {"accelerator": "mps", "devices": 1}
    with pytest.raises(UserError, match="is one device"):
        trainer_devices("mps", 2)


def test_table_aligns_numbers_and_text():
    assert table([["a", 1.23456], ["bcd", 10]], header=("name", "value")) == (
        "name  value\n----  -----\na     1.235\nbcd      10"
    )
    assert table([]) == ""


def test_a_third_party_package_may_stand_in_checkpoints(installed):
    assert "toydomain" in configurable.allowed_packages()
