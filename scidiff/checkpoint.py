"""User checkpoints: one ``.safetensors`` file whose JSON header says how to rebuild the object, never a pickle.

Header entries (all strings, as the format demands): ``format`` = "scidiff", ``format_version``, ``config`` (JSON of
``{"class_path", "init_args"}``) and ``metadata`` (JSON: ``metrics``, ``provenance`` and what a domain adds).
Lightning's ``.ckpt`` files are for resuming a training run; these files are for users.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata as installed
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scidiff import assets
from scidiff.configurable import Configurable, allowed_packages, build, config_of, describe
from scidiff.files import atomic_path

__all__ = [
    "Checkpoint",
    "Configurable",
    "Pretrained",
    "build",
    "config_of",
    "describe",
    "load",
    "load_state",
    "resolve",
    "save",
    "state_of",
]

FORMAT = "scidiff"
FORMAT_VERSION = 1
_Self = TypeVar("_Self", bound="Pretrained")


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file: configuration, weights by name, and metadata (metrics, provenance)."""

    config: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)
    metadata: dict[str, Any]

    def build(self) -> Any:
        """Object described by ``config``, with freshly initialised weights."""
        return build(self.config)


def save(
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint atomically.

    Args:
        path: Target, ending in ``.safetensors``.
        config: ``to_config()`` of the object.
        tensors: Weights and statistics by name, any device; copied to the CPU.
        metadata: JSON-ready facts, by convention ``metrics`` and ``provenance``. Versions are added to ``provenance``.

    Returns:
        The path written.

    Raises:
        ValueError: If the suffix is wrong or a class path lies outside the allowed packages (`load` would refuse it).
        TypeError: If ``config`` or ``metadata`` is not plain data.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"a checkpoint is a .safetensors file, got the name {str(path)!r}.")
    _check_config(config, where=str(path))
    facts = dict(metadata or {})
    facts["provenance"] = {**_versions(), **facts.get("provenance", {})}
    header = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(config_of(config)),
        "metadata": json.dumps(config_of(facts)),
    }
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    with atomic_path(target) as temporary:
        save_file(copies, temporary, metadata=header)
    return target


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint written by `save`. Runs no code from the file and imports nothing that it names.

    Raises:
        FileNotFoundError: If there is no such file; lists the packaged checkpoints.
        ValueError: If the file is damaged, is of another kind, or names classes outside the allowed packages.
    """
    path = resolve(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            _check_header(header, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as a safetensors file ({error}). Is it truncated, or another kind of file?"
        ) from error
    try:
        config, facts = json.loads(header["config"]), json.loads(header["metadata"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} has a damaged scidiff header ({error!r}).") from error
    _check_config(config, where=str(path))
    return Checkpoint(config=config, tensors=tensors, metadata=facts)


def resolve(name_or_path: str | os.PathLike[str], package: str | None = None) -> Path:
    """Path of a packaged checkpoint (``PACKAGE/assets/NAME.safetensors``) by name, or of a file.

    Raises:
        FileNotFoundError: If neither exists; lists the known names and the closest one.
    """
    return assets.find(name_or_path, package)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module as detached copies on the CPU."""
    state = module.state_dict()
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items() if isinstance(value, Tensor)}


def load_state(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors`` into ``module``; names and shapes must fit exactly.

    Raises:
        ValueError: Naming the missing, unexpected or misshapen tensors; the module is then unchanged.
    """
    expected = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    _check_fit(expected, tensors, type(module).__name__)
    module.load_state_dict(dict(tensors))


class Pretrained(Configurable):
    """Mixin for generators: ``save`` and ``from_pretrained`` with every ``nn.Module`` attribute as weights.

    The constructor arguments are the configuration. Statistics that are not constructor arguments belong into buffers
    of a module. ``metadata`` (a dict with ``metrics``, ``provenance``) is what the checkpoint was released with.
    """

    metadata: Mapping[str, Any] = {}

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None) -> Path:
        """Write a checkpoint; ``metadata`` is merged into what the object already carries."""
        facts = {**self.metadata, **(metadata or {})}
        parts = _root_modules(self).items()
        tensors = {f"{name}.{key}": value for name, part in parts for key, value in state_of(part).items()}
        return save(path, config=self.to_config(), tensors=tensors, metadata=facts)

    @classmethod
    def from_pretrained(
        cls: type[_Self], name_or_path: str | os.PathLike[str], *, device: str | torch.device = "cpu"
    ) -> _Self:
        """Rebuild a saved object in evaluation mode.

        Args:
            name_or_path: Name of a packaged checkpoint of this domain, or a path.
            device: Where the weights go.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If the file is damaged or describes another class.
        """
        checkpoint = load(resolve(name_or_path, cls.__module__.split(".")[0]))
        instance = cls.from_config(checkpoint.config)
        parts = _root_modules(instance)
        expected = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
        _check_fit(expected, checkpoint.tensors, cls.__name__)
        for name, part in parts.items():
            own = {key: checkpoint.tensors[f"{name}.{key}"] for key in part.state_dict()}
            part.load_state_dict(own)
            part.to(device).eval()
        instance.metadata = checkpoint.metadata
        return instance


def _root_modules(instance: Any) -> dict[str, nn.Module]:
    """``nn.Module`` attributes that are not inside another one, so that shared networks are written once."""
    parts = {name: value for name, value in vars(instance).items() if isinstance(value, nn.Module)}
    roots: dict[str, nn.Module] = {}
    for name, part in parts.items():
        inside_another = any(part is not other and part in set(other.modules()) for other in parts.values())
        if not inside_another and all(part is not root for root in roots.values()):
            roots[name] = part
    return roots


def _check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], owner: str) -> None:
    problems = []
    if missing := sorted(expected.keys() - given.keys()):
        problems.append(f"missing {_some(missing)}")
    if unexpected := sorted(given.keys() - expected.keys()):
        problems.append(f"unexpected {_some(unexpected)}")
    shapes = [
        f"{name} has shape {tuple(given[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & given.keys())
        if given[name].shape != expected[name].shape
    ]
    if shapes:
        problems.append(_some(shapes))
    if problems:
        raise ValueError(
            f"the tensors do not fit {owner}: {'; '.join(problems)}. Was the file written by another version?"
        )


def _check_header(header: Mapping[str, str], path: Path) -> None:
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{str(path)!r} is a safetensors file, but not a scidiff checkpoint (its header has no scidiff format)."
        )
    version = header.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise ValueError(
            f"{str(path)!r} has checkpoint format version {version!r}, "
            f"this scidiff reads up to {FORMAT_VERSION}; please upgrade."
        )


def _check_config(config: Any, where: str) -> None:
    if not isinstance(config, Mapping) or "class_path" not in config:
        raise ValueError(f"the configuration in {where!r} must be a dictionary with 'class_path' and 'init_args'.")
    allowed = allowed_packages()
    for class_path in _class_paths(config):
        if not isinstance(class_path, str) or class_path.split(".")[0] not in allowed or not _is_dotted(class_path):
            raise ValueError(
                f"class path {class_path!r} in {where!r} is refused: only classes of {', '.join(allowed)} may "
                "stand in a checkpoint. A class of your own needs a package with a 'scidiff.domains' entry point."
            )


def _is_dotted(class_path: str) -> bool:
    parts = class_path.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def _class_paths(config: Any) -> list[Any]:
    if isinstance(config, Mapping):
        own = [config["class_path"]] if "class_path" in config else []
        return own + [path for value in config.values() for path in _class_paths(value)]
    if isinstance(config, list | tuple):
        return [path for value in config for path in _class_paths(value)]
    if isinstance(config, Configurable):
        return _class_paths(config.to_config())
    return []


def _some(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _versions() -> dict[str, str]:
    try:
        own = installed.version("scidiff-toolkit")
    except installed.PackageNotFoundError:
        own = "unknown"
    return {"scidiff": own, "torch": torch.__version__}
