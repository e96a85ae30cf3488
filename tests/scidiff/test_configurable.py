import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scidiff import configurable
from scidiff.configurable import Configurable, allowed_packages, build, config_of, describe
from scidiff.schedules import VPSDE, Schedule


class Base(Configurable):
    def __init__(self, a, b=2, *, c=3, **options) -> None:
        self.values = (a, b, c, options)


class Derived(Base):
    def __init__(self, a, d=4) -> None:
        super().__init__(a * 10, b=d)


class Silent(Base):
    """No constructor of its own."""


class Net(Configurable, nn.Module):
    def __init__(self, width: int, schedule: Schedule | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.schedule = schedule


class Fails(Configurable):
    def __init__(self, a: int) -> None:
        raise ValueError("always")


@pytest.fixture(autouse=True)
def _allow_this_module(monkeypatch):
    monkeypatch.setattr(configurable, "_CORE_PACKAGES", (*configurable._CORE_PACKAGES, "tests"))


def test_arguments_are_recorded_however_they_are_passed():
    expected = {"a": 1, "b": 2, "c": 3}
    assert Base(1).to_config()["init_args"] == expected
    assert Base(a=1, b=2).to_config()["init_args"] == expected
    assert Base(1, 5, c=6, extra=[7]).to_config()["init_args"] == {"a": 1, "b": 5, "c": 6, "extra": [7]}
    assert Base(1).to_config()["class_path"] == f"{__name__}.Base"


def test_the_outermost_constructor_is_the_one_recorded():
    derived = Derived(1)
    assert derived.values == (10, 4, 3, {})
    assert derived.to_config()["init_args"] == {"a": 1, "d": 4}
    assert build(derived.to_config()).values == derived.values
    assert Silent(1, c=9).to_config() == {
        "class_path": f"{__name__}.Silent",
        "init_args": {"a": 1, "b": 2, "c": 9},
    }


def test_nested_objects_come_back_through_json():
    original = Base([VPSDE(0.2, 9.0), {"net": Net(3, VPSDE())}], b=(1.5, None), c=Path("x") / "y")
    text = json.dumps(original.to_config())
    again = Base.from_config(json.loads(text))
    assert json.dumps(again.to_config()) == text
    (schedule, named), pair, path, _ = again.values
    assert repr(schedule) == "VPSDE(beta_min=0.2, beta_max=9.0)"
    assert isinstance(named["net"], Net)
    assert named["net"].layer.weight.shape == (3, 3)
    assert (pair, path) == ([1.5, None], str(Path("x") / "y"))


def test_tensors_arrays_and_types_have_a_plain_form():
    value = {"t": torch.tensor([[1.5, 2.0]]), "n": np.float32(0.5), "i": np.arange(2), 3: float, "k": VPSDE}
    plain = {"t": [[1.5, 2.0]], "n": 0.5, "i": [0, 1], "3": "builtins.float", "k": "scidiff.schedules.VPSDE"}
    assert config_of(value) == plain


def test_a_module_keeps_its_weights_names():
    assert list(Net(2).state_dict()) == ["layer.weight", "layer.bias"]


@pytest.mark.parametrize("value", [object(), lambda x: x, nn.Linear(1, 1)])
def test_what_has_no_plain_form_is_named(value):
    with pytest.raises(TypeError, match=f"type {type(value).__name__} as plain data"):
        Base(value).to_config()


@pytest.mark.parametrize(
    ("class_path", "reason"),
    [
        ("os.system", "refused"),
        ("VPSDE", "refused"),
        ("torch.nn.Linear", "refused"),
        ("scidiff.configurable.build", "not name a Configurable"),
        ("scidiff.configurable.importlib.import_module", "does not exist"),
        ("scidiff.schedules.NoSuch", "does not exist"),
        ("scidiff.no_such.VPSDE", "does not exist"),
    ],
)
def test_only_our_configurables_are_built(class_path, reason):
    with pytest.raises(ValueError, match=reason):
        build(
            {"init_args": {"schedule": {"class_path": class_path, "init_args": {}}}, "class_path": f"{__name__}.Base"}
        )


def test_from_config_checks_the_class():
    assert isinstance(Schedule.from_config(VPSDE().to_config()), VPSDE)
    with pytest.raises(ValueError, match="configuration of a Net"):
        Net.from_config(VPSDE().to_config())


def test_errors_of_constructors_stay_their_own():
    with pytest.raises(ValueError, match="always"):
        Fails(1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        Base()


def test_description_is_one_short_line():
    text = repr(Base(list(range(100)), c={"deep": VPSDE(0.2, 9.0)}))
    assert text == "Base(a=[0, 1, 2, ...], b=2, c={'deep': VPSDE(beta_min=0.2, beta_max=9.0)})"
    assert describe("text") == "'text'"


def test_core_packages_are_allowed():
    assert {"scidiff", "molecules", "trajectories", "timeseries", "graphs"} <= set(allowed_packages())
