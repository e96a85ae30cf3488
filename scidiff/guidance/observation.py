r"""An observation y = H x_0 + noise_std n of part of a state, H a mask, a matrix or a callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from scidiff.process import Process

__all__ = ["Observation"]

Parts = Mapping[str, Tensor]


class Observation:
    """What was measured: y = H x_0 + noise_std n, n standard normal.

    Args:
        H: One of: a bool mask (B or 1, ...) over the leading axes of the state, True = observed; a matrix (m, n) acting
            on the flattened state of n numbers; a callable, batch in and batch out. In a system without ``component``
            the callable gets the dict of continuous x_0.
        HT: Adjoint of a callable ``H``, u (B, ...) to a state; found by automatic differentiation if absent.
        y: Measured values (B or 1, ...): for a mask in the shape of the state (values where the mask is False are
            ignored and may be NaN), for a matrix (B or 1, m), else the shape of ``H(x)``.
        noise_std: Standard deviation of the measurement noise, in units of the data.
        component: Observed component of a system.

    Raises:
        ValueError: If ``y`` is missing, ``noise_std`` is negative or a matrix is not two-dimensional.
        TypeError: If ``H`` is none of the three.
    """

    def __init__(
        self,
        H: Tensor | Callable[..., Tensor],
        HT: Callable[[Tensor], Any] | None = None,
        y: Tensor | None = None,
        noise_std: float = 0.0,
        component: str | None = None,
    ) -> None:
        if y is None or noise_std < 0:
            raise ValueError(f"an Observation needs y and noise_std >= 0, got y={y!r:.40} and noise_std={noise_std}.")
        if not isinstance(H, Tensor) and not callable(H):
            raise TypeError(f"H must be a bool mask, a matrix or a callable, got {type(H).__name__}.")
        self.mask = H if isinstance(H, Tensor) and H.dtype == torch.bool else None
        self.matrix = H if isinstance(H, Tensor) and H.dtype != torch.bool else None
        if self.matrix is not None and self.matrix.ndim != 2:
            raise ValueError(
                f"a matrix H has shape (m, n), got {tuple(self.matrix.shape)}; a mask must have dtype bool."
            )
        self.H, self.HT, self.y, self.noise_std, self.component = H, HT, y, float(noise_std), component

    def check(self, process: Process) -> None:
        """Raise if the process lacks the observed component.

        Raises:
            ValueError: If the component is unknown, or a system's component is not named for a mask or matrix.
        """
        if self.component is not None and self.component not in process.components:
            raise ValueError(
                f"the observation is of component {self.component!r}; known: {sorted(process.components)}."
            )
        if self.component is None and process.is_system and not self._takes_dict:
            raise ValueError(
                f"a mask or matrix observes one component: pass component= (one of {sorted(process.components)})."
            )

    def forward(self, parts: Parts) -> Tensor:
        """H x for a state given by components; a mask gives 0 where nothing was observed."""
        if self._gets_dict(parts):
            return self.H(dict(parts))  # type: ignore[operator]
        x = parts[self.name(parts)]
        if self.mask is not None:
            return torch.where(self.observed(x), x, 0)
        if self.matrix is not None:
            return x.flatten(1) @ self.matrix.to(x).T
        return self.H(x)  # type: ignore[operator]

    def adjoint(self, u: Tensor, like: Parts) -> dict[str, Tensor]:
        """H^T u, one entry for every component that is observed; ``like`` gives the shapes."""
        if self._gets_dict(like) or (self.mask is None and self.matrix is None and self.HT is None):
            return self._automatic_adjoint(u, like)
        name = self.name(like)
        x = like[name]
        if self.mask is not None:
            return {name: torch.where(self.observed(x), u, 0)}
        if self.matrix is not None:
            return {name: (u @ self.matrix.to(x)).reshape(x.shape)}
        assert self.HT is not None
        return {name: self.HT(u)}

    def residual(self, parts: Parts) -> Tensor:
        """y - H x, 0 where nothing was observed."""
        predicted = self.forward(parts)
        y = self.y.to(predicted)
        if self.mask is not None:
            x = parts[self.name(parts)]
            return torch.where(self.observed(x), y - x, 0)
        return y - predicted

    def observed(self, x: Tensor) -> Tensor:
        """The mask shaped to broadcast against the state ``x`` (B, ...).

        Raises:
            ValueError: If this is not a mask, or its axes do not match the leading axes of the state.
        """
        if self.mask is None:
            raise ValueError("this guidance needs an Observation with a bool mask H (True = observed).")
        mask = self.mask.to(x.device)
        leading = zip(mask.shape, x.shape, strict=False)
        if mask.ndim > x.ndim or any(m not in (1, n) for m, n in leading):
            raise ValueError(
                f"mask {tuple(mask.shape)} does not match the leading axes of the state {tuple(x.shape)}; "
                "axis 0 is the sample."
            )
        return mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))

    def name(self, parts: Mapping[str, Any]) -> str:
        """Name of the observed component."""
        return self.component if self.component is not None else next(iter(parts))

    @property
    def _takes_dict(self) -> bool:
        return self.component is None and self.mask is None and self.matrix is None

    def _gets_dict(self, parts: Mapping[str, Any]) -> bool:
        return self._takes_dict and "" not in parts

    def _automatic_adjoint(self, u: Tensor, like: Parts) -> dict[str, Tensor]:
        names = list(like) if self._gets_dict(like) else [self.name(like)]
        keeps_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            variables = {k: v if v.requires_grad else v.detach().requires_grad_(True) for k, v in like.items()}
            gradients = torch.autograd.grad(
                self.forward(variables),
                [variables[k] for k in names],
                u,
                create_graph=keeps_graph,
                materialize_grads=True,
                allow_unused=True,
            )
        return dict(zip(names, gradients, strict=True))
