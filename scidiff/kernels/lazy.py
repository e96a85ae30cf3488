"""Attributes computed at their first use that `torch.compile` can trace (`functools.cached_property` takes a lock)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import torch

__all__ = ["lazy"]

_Value = TypeVar("_Value")


class lazy(Generic[_Value]):  # noqa: N801  (used as a decorator)
    """Decorator: a method whose result is kept in the instance, also in frozen dataclasses.

    Tensors made in inference mode would be useless for gradients later, so that mode is off while the method runs.
    """

    def __init__(self, function: Callable[[Any], _Value]) -> None:
        self.function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> lazy[_Value]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> _Value: ...
    def __get__(self, instance: object | None, owner: type) -> lazy[_Value] | _Value:
        if instance is None:
            return self
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            value = self.function(instance)
        else:
            with torch.inference_mode(False):
                value = self.function(instance)
        object.__setattr__(instance, self.name, value)
        return value
