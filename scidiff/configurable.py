"""Objects that are described completely by their constructor arguments.

A subclass of `Configurable` records the arguments it was built with, so that ``to_config()`` gives
``{"class_path": ..., "init_args": {...}}`` and ``from_config()`` builds an equal object from it. The same dictionary is
what LightningCLI writes into YAML and what a checkpoint keeps as JSON. Building by class path is restricted to an
allow-list of packages, so that a file from a stranger cannot name an arbitrary callable.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from importlib import metadata
from typing import Any, TypeVar

__all__ = ["Configurable", "allowed_packages", "build", "config_of", "describe"]

_CORE_PACKAGES = ("scidiff", "molecules", "trajectories", "timeseries", "graphs")
_DOMAIN_GROUP = "scidiff.domains"
_Self = TypeVar("_Self", bound="Configurable")


class Configurable:
    """Mixin: records the constructor arguments and gives ``to_config``, ``from_config``, ``repr`` and equality of
    configs.

    Works for plain classes and for ``torch.nn.Module`` (inherit as ``class Net(Configurable, nn.Module)``).
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Wrap the ``__init__`` of each subclass so that the outermost call is recorded."""
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        original = cls.__dict__["__init__"]
        signature = inspect.signature(original)

        @functools.wraps(original)
        def recording_init(self: Any, *args: Any, **kw: Any) -> None:
            if type(self).__init__ is recording_init:
                object.__setattr__(self, "_init_args", _bound_arguments(signature, self, args, kw))
            original(self, *args, **kw)

        type.__setattr__(cls, "__init__", recording_init)  # not an assignment, which would hide the signatures

    def to_config(self) -> dict[str, Any]:
        """Class path and constructor arguments as plain, JSON-ready values."""
        arguments = getattr(self, "_init_args", {})
        return {"class_path": _class_path(type(self)), "init_args": {k: config_of(v) for k, v in arguments.items()}}

    def _remember(self, **arguments: Any) -> None:
        """Replace recorded constructor arguments by what they became, such as a network sized by the data."""
        self.__dict__["_init_args"].update(arguments)

    @classmethod
    def from_config(cls: type[_Self], config: Mapping[str, Any]) -> _Self:
        """Build an object from ``to_config()`` output.

        Raises:
            ValueError: If the class path is outside the allowed packages or does not name a subclass of this class.
        """
        instance = build(config)
        if not isinstance(instance, cls):
            raise ValueError(f"expected the configuration of a {cls.__name__}, got {config.get('class_path')!r}.")
        return instance

    def __repr__(self) -> str:
        try:
            return describe(self.to_config())
        except TypeError:  # an argument without a plain form, such as a function
            return f"{type(self).__name__}(...)"


def config_of(value: Any) -> Any:
    """Plain JSON-ready form of a constructor argument: numbers, strings, lists, dicts, configurables, tensors as lists.

    Raises:
        TypeError: If the value has no plain form.
    """
    if isinstance(value, Configurable):
        return value.to_config()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): config_of(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [config_of(v) for v in value]
    if hasattr(value, "tolist"):  # torch tensors and numpy arrays
        return value.tolist()
    if hasattr(value, "__fspath__"):
        return str(value)
    if isinstance(value, type):
        return _class_path(value)
    raise TypeError(
        f"cannot describe a constructor argument of type {type(value).__name__} as plain data. "
        "Pass numbers, strings, lists, dicts, tensors or Configurable objects."
    )


def build(config: Any) -> Any:
    """Inverse of `config_of`: build nested ``{"class_path", "init_args"}`` dictionaries, leave other values alone.

    Raises:
        ValueError: If a class path is outside the allowed packages or does not name a `Configurable`.
    """
    if isinstance(config, Mapping):
        if "class_path" in config:
            cls = _resolve(str(config["class_path"]))
            return cls(**{k: build(v) for k, v in (config.get("init_args") or {}).items()})
        return {k: build(v) for k, v in config.items()}
    if isinstance(config, list):
        return [build(v) for v in config]
    return config


def describe(config: Any) -> str:
    """One-line Python-like text of a config, with class names instead of paths."""
    if isinstance(config, Mapping) and "class_path" in config:
        name = str(config["class_path"]).rsplit(".", 1)[-1]
        return f"{name}({', '.join(f'{k}={describe(v)}' for k, v in config['init_args'].items())})"
    if isinstance(config, Mapping):
        return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in config.items()) + "}"
    if isinstance(config, list):
        shown = config if len(config) <= 8 else [*config[:3], "..."]
        return "[" + ", ".join("..." if v == "..." else describe(v) for v in shown) + "]"
    return repr(config)


def allowed_packages() -> tuple[str, ...]:
    """Packages whose classes a checkpoint may name: ours and those of installed ``scidiff.domains`` plug-ins."""
    plugins = (point.value.split(":")[0].split(".")[0] for point in metadata.entry_points(group=_DOMAIN_GROUP))
    return tuple(dict.fromkeys((*_CORE_PACKAGES, *plugins)))


def _resolve(class_path: str) -> type[Configurable]:
    package = class_path.split(".")[0]
    if package not in allowed_packages() or "." not in class_path:
        raise ValueError(
            f"class path {class_path!r} is refused: only classes of {', '.join(allowed_packages())} may be built "
            "from a configuration. Was the file written by this toolkit?"
        )
    module_name, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"class path {class_path!r} does not exist in this version of the toolkit.") from error
    if not (isinstance(cls, type) and issubclass(cls, Configurable)):
        raise ValueError(f"class path {class_path!r} is refused: it does not name a Configurable class.")
    return cls


def _class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _bound_arguments(signature: inspect.Signature, self: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
    try:
        bound = signature.bind(self, *args, **kwargs)
    except TypeError:
        return {}  # the original __init__ raises the proper error
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for index, (name, parameter) in enumerate(signature.parameters.items()):
        if index == 0:
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(bound.arguments[name])
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            arguments[name] = bound.arguments[name]
    return arguments
