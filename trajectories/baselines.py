"""Forecasts that need no network; they stand beside every result.

All take observed positions (B, N, F, D) and return the next frames (B, N, P, D), as arrays of the observed dtype.
"""

from __future__ import annotations

import numpy as np

__all__ = ["LinearAutoregression", "constant_velocity", "stay"]


def stay(observed: np.ndarray, num_frames: int) -> np.ndarray:
    """The last frame, ``num_frames`` times."""
    return np.repeat(observed[:, :, -1:], num_frames, axis=2)


def constant_velocity(observed: np.ndarray, num_frames: int) -> np.ndarray:
    """x_last + k (x_last - x_before) for k = 1, ..., ``num_frames``.

    Raises:
        ValueError: If there is one observed frame only.
    """
    _check_frames(observed, 2)
    steps = np.arange(1, num_frames + 1, dtype=observed.dtype)[:, None]
    return observed[:, :, -1:] + steps * (observed[:, :, -1:] - observed[:, :, -2:-1])


class LinearAutoregression:
    """Least squares from the observed differences to the future displacements x_{last + k} - x_last.

    The same weights serve all coordinates and nodes, so the forecast is equivariant. On noise-free smooth trajectories
    it extrapolates like a polynomial, down to rounding.

    Args:
        per_node: Weights for each node of its own, for systems whose nodes differ (atoms of a molecule).
        ridge: Penalty on the weights, times the number of rows.

    Raises:
        ValueError: If ``ridge`` is negative.

    Attributes:
        weights: (cond_frames - 1, num_frames), with ``per_node`` (N, cond_frames - 1, num_frames); None before `fit`.
    """

    def __init__(self, *, per_node: bool = False, ridge: float = 0.0) -> None:
        if ridge < 0:
            raise ValueError(f"ridge must not be negative, got {ridge}.")
        self.per_node, self.ridge = per_node, ridge
        self.weights: np.ndarray | None = None

    def fit(self, pos: np.ndarray, cond_frames: int) -> LinearAutoregression:
        """Fit on trajectories (B, N, F, D), of which ``cond_frames`` are observed; the others are the targets.

        Raises:
            ValueError: If fewer than 2 frames are observed, or none are left.
        """
        if not 2 <= cond_frames < pos.shape[2]:
            raise ValueError(f"cond_frames must be in [2, {pos.shape[2] - 1}], got {cond_frames}.")
        past, future = _differences(pos[:, :, :cond_frames]), _displacements(pos, cond_frames)
        if self.per_node:
            self.weights = np.stack([self._solve(past[:, n], future[:, n]) for n in range(pos.shape[1])])
        else:
            self.weights = self._solve(past, future)
        return self

    def predict(self, observed: np.ndarray) -> np.ndarray:
        """The frames after ``observed`` (B, N, cond_frames, D).

        Raises:
            ValueError: If the model is not fitted, or was fitted for another number of frames.
        """
        if self.weights is None:
            raise ValueError("the linear autoregression has no weights: call fit first.")
        _check_frames(observed, self.weights.shape[-2] + 1, exact=True)
        kept = "bndf,nfp->bnpd" if self.per_node else "bndf,fp->bnpd"
        moved = np.einsum(kept, _differences(observed), self.weights)
        return (observed[:, :, -1:] + moved).astype(observed.dtype)

    def _solve(self, past: np.ndarray, future: np.ndarray) -> np.ndarray:
        x, y = past.reshape(-1, past.shape[-1]), future.reshape(-1, future.shape[-1])
        if self.ridge == 0:
            return np.linalg.lstsq(x, y, rcond=None)[0]
        return np.linalg.solve(x.T @ x + self.ridge * len(x) * np.eye(x.shape[1]), x.T @ y)


def _differences(pos: np.ndarray) -> np.ndarray:
    """(B, N, D, F - 1), float64."""
    return np.diff(pos.astype(np.float64), axis=2).swapaxes(2, 3)


def _displacements(pos: np.ndarray, cond_frames: int) -> np.ndarray:
    """(B, N, D, P), float64."""
    moved = pos[:, :, cond_frames:].astype(np.float64) - pos[:, :, cond_frames - 1 : cond_frames]
    return moved.swapaxes(2, 3)


def _check_frames(observed: np.ndarray, frames: int, exact: bool = False) -> None:
    if observed.shape[2] < frames or (exact and observed.shape[2] != frames):
        wanted = f"{frames}" if exact else f"at least {frames}"
        raise ValueError(f"expected {wanted} observed frames, got positions of shape {observed.shape}.")
