"""Registration of operations with torch, and the direct way to their functions where nobody watches.

`torch.library.custom_op` would import the compiler with the first call, which takes seconds, and check each result for
aliases. Bodies give fresh tensors by contract (see `scidiff.kernels.ops`), so a plain library is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["Operation", "registered", "transforms_active"]

_LIBRARY = torch.library.Library("scidiff", "FRAGMENT")
_PLAIN = (Tensor, torch.nn.Parameter)


def transforms_active() -> bool:
    """Whether a transform of ``torch.func`` or a level of forward-mode differentiation is active.

    Both names are private to torch; a test fails loudly if they vanish or change their meaning.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class Operation:
    """A function known to torch as ``scidiff::name``: opaque to tracers, with registered shapes and gradients.

    Args:
        name: Name without namespace.
        schema: Arguments and results.
        function: Tensors and options to fresh tensors, without autograd.

    Attributes:
        overload: The operation as torch knows it.
    """

    def __init__(self, name: str, schema: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function
        self._recorded: type[torch.autograd.Function] | None = None
        _LIBRARY.define(f"{name}{schema}")
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        self.overload = getattr(torch.ops.scidiff, name).default
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any) -> Any:
        """The result; past torch's dispatcher, a tenth of a millisecond, if no mode, transform or tracer looks on."""
        tensors = [a for a in args if isinstance(a, Tensor)]
        if not _unwatched(tensors):
            return self.overload(*args)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return self._recorded.apply(*args) if self._recorded is not None else self.overload(*args)
        return self.function(*args)

    def register_fake(self, shapes: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: the results as empty tensors."""
        torch.library.register_fake(f"scidiff::{self.name}", shapes, lib=_LIBRARY)
        return shapes

    def register_autograd(self, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> None:
        """The gradient, as in `torch.library.register_autograd`."""
        name = f"scidiff::{self.name}"
        torch.library.register_autograd(name, backward, setup_context=setup_context, lib=_LIBRARY)

        def forward(ctx: Any, *args: Any) -> Any:
            result = self.function(*args)
            setup_context(ctx, args, result)
            return result

        methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        self._recorded = type(self.name, (torch.autograd.Function,), methods)


def registered(name: str, schema: str) -> Callable[[Callable[..., Any]], Operation]:
    """Decorator: the function as an `Operation`."""
    return lambda function: Operation(name, schema, function)


def _unwatched(tensors: list[Tensor]) -> bool:
    if torch.compiler.is_compiling() or transforms_active():
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None:
        return False
    return all(type(t) in _PLAIN for t in tensors)
