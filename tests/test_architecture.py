"""What holds for every file of every package: direction of imports, size, silence, documentation, descriptions."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from scidiff import configurable
from scidiff.checkpoint import Pretrained, build, config_of, load, load_state, save, state_of
from scidiff.configurable import Configurable
from tests.samples import NOT_DESCRIBED, SAMPLES

ROOT = Path(__file__).parents[1]
DOMAINS = ("molecules", "trajectories", "timeseries", "graphs")
PACKAGES = ("scidiff", *DOMAINS)
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in FILES}
CONFIGS = sorted(path for domain in DOMAINS for path in (ROOT / domain / "configs").glob("*.yaml"))
AIM, LIMIT, FUNCTION_LIMIT = 400, 600, 60
SEEDING = {"torch.manual_seed", "torch.random.manual_seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all"}
SEEDING |= {"random.seed", "np.random.seed", "numpy.random.seed", "pl.seed_everything", "torch.set_default_dtype"}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            yield "relative import"


def calls(tree):
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def modules():
    """All modules of the packages; those whose optional dependency is absent are left out."""
    for package in PACKAGES:
        for info in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if info.name.endswith("__main__"):
                continue
            try:
                yield importlib.import_module(info.name)
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] in PACKAGES:
                    raise


def public_members(module):
    for name in getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]):
        member = getattr(module, name)
        if getattr(member, "__module__", None) == module.__name__:
            yield name, member


@pytest.mark.parametrize("name", TREES)
def test_imports_go_from_domain_to_core(name):
    own = name.split("/")[0]
    forbidden = set(DOMAINS) - {own} | {"tests", "benchmarks", "relative import"}
    assert not forbidden & set(imported(TREES[name]))


@pytest.mark.parametrize("name", TREES)
def test_libraries_are_silent_and_leave_global_state_alone(name):
    assert "lightning" not in set(imported(TREES[name])), "import pytorch_lightning as pl"
    assert "print" not in calls(TREES[name])
    assert not SEEDING & calls(TREES[name])
    assert not any(call.startswith("logging.basicConfig") for call in calls(TREES[name]))


@pytest.mark.parametrize("name", TREES)
def test_files_and_functions_are_short(name):
    lines = len((ROOT / name).read_text().splitlines())
    assert lines <= LIMIT
    if lines > AIM:
        warnings.warn(f"{name} has {lines} lines; {AIM} is a reason to split.", stacklevel=1)
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1
            assert length <= FUNCTION_LIMIT, f"{node.name} has {length} lines"


def test_no_path_of_a_machine_stands_in_a_file():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = [n for n in listed.stdout.split("\0") if n] or [str(p.relative_to(ROOT)) for p in ROOT.rglob("*.py")]
    pattern = re.compile(r"(?<![\w.\-])/(?:work|root|home/\w+|Users/\w+|mnt|scratch)/")
    found = []
    for name in names:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".sh", ".ipynb", ""} and path.is_file():
            text = path.read_text(errors="ignore")
            found += [
                f"{name}: {line}" for line in text.splitlines() if pattern.search(line) and "re.compile" not in line
            ]
    assert found == []


def test_everything_public_is_documented():
    missing = []
    for module in modules():
        if not module.__doc__:
            missing.append(module.__name__)
        for name, member in public_members(module):
            if not (inspect.isclass(member) or inspect.isfunction(member)):
                continue
            if not inspect.getdoc(member):
                missing.append(f"{module.__name__}.{name}")
            for key, method in vars(member).items() if inspect.isclass(member) else ():
                is_public = not key.startswith("_") and (inspect.isfunction(method) or isinstance(method, property))
                if is_public and not inspect.getdoc(getattr(member, key)):
                    missing.append(f"{module.__name__}.{name}.{key}")
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_can_be_imported(package):
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_configuration_instantiates(path, tmp_path, monkeypatch):
    """Through the same door as the command line, so that unknown options and misspelled classes are found."""
    from scidiff.cli.domain import domains
    from scidiff.cli.lightning import build_cli

    monkeypatch.chdir(tmp_path)
    domain = domains()[path.parts[-3]]
    cli = build_cli(domain, "fit", ["-c", str(path), "--trainer.logger", "false"])
    assert f"{type(cli.model).__module__}".split(".")[0] == domain.name
    plain = yaml.safe_load(path.read_text())
    text_numbers = [value for value in leaves(plain) if isinstance(value, str) and re.fullmatch(r"-?\d+e-?\d+", value)]
    assert text_numbers == [], "write floats with a point: plain YAML reads 2e-4 as text"


def leaves(value):
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def configurable_classes():
    found = {}
    for module in modules():
        for _, member in public_members(module):
            if inspect.isclass(member) and issubclass(member, Configurable) and not inspect.isabstract(member):
                found[f"{member.__module__}.{member.__qualname__}"] = member
    return {path: cls for path, cls in sorted(found.items()) if cls not in (Configurable, Pretrained)}


def sample_of(path, cls):
    if path in SAMPLES:
        return SAMPLES[path]()
    required = [
        parameter.name
        for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    assert not required, f"add {path} to tests/samples.py: it needs {', '.join(required)}"
    return cls()


CLASSES = configurable_classes()


@pytest.mark.parametrize("path", sorted(set(CLASSES) - set(NOT_DESCRIBED)))
def test_arguments_describe_the_object(path, tmp_path, monkeypatch):
    """Build, description, JSON, repr, and for modules the weights through a checkpoint file."""
    monkeypatch.setattr(configurable, "_CORE_PACKAGES", (*PACKAGES, "tests"))
    cls = CLASSES[path]
    original = sample_of(path, cls)
    config = config_of(original)
    assert json.loads(json.dumps(config)) == config
    again = build(json.loads(json.dumps(config)))
    assert type(again) is type(original)
    assert config_of(again) == config
    assert repr(again) == repr(original)
    assert repr(original).startswith(cls.__name__)
    assert config_of(cls.from_config(config)) == config
    if isinstance(original, torch.nn.Module):
        saved = save(tmp_path / "a.safetensors", config=config, tensors=state_of(original))
        load_state(again, load(saved).tensors)
        assert all(torch.equal(value, state_of(again)[name]) for name, value in state_of(original).items())


def test_samples_name_existing_classes():
    assert set(SAMPLES) | set(NOT_DESCRIBED) <= set(CLASSES)
