"""UniPC: a multistep predictor and a corrector that re-uses the evaluation at the predicted point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from scidiff.coefficients import exponential_weights
from scidiff.process import Process
from scidiff.samplers.base import Solver, register
from scidiff.samplers.exponential import Exponential
from scidiff.samplers.rows import Curve, Row, anchor_values, known_nodes, leading_nodes, like_rows

__all__ = ["UniPC"]


@register("unipc_1", order=1)
@register("unipc_2", order=2)
@register("unipc_3", order=3)
class UniPC(Solver):
    r"""x_s = carry x_t + int kernel(u) P(u) du, P through p values (predictor), then also the new one (corrector).

    In the notation of `scidiff.samplers.exponential`, with nodes r_k = (lambda_k - lambda_t)/h, the step is
    carry x_t + gain sum_k w_k m_k with the exact integrals w of the Lagrange polynomials. With two nodes (predictor of
    order 2, corrector of order 1) it is carry x_t + gain [phi_1 m_0 + (B/2) (m_k - m_0)/r_k] instead, where B = 1
    ("bh1") or phi_1 ("bh2"): only there does the variant matter. Order p without corrector, p + 1 with it; one
    evaluation a step. The corrector is not run on the last interval, where it would cost one; a step to sigma = 0 is
    of order 1.

    Args:
        order: p, 1 to 3.
        variant: ``"bh1"`` or ``"bh2"``.
        prediction: ``"x0"`` (data form) or ``"eps"`` (noise form).
        corrector: Whether the corrector is run.
        lower_order_final: Lower the order to 2 and 1 on the last intervals, as the published sampler does.

    Raises:
        ValueError: If an argument is out of range.

    References: Zhao et al. 2023, "UniPC", algorithms 1 and 2.
    """

    def __init__(
        self,
        order: int = 2,
        variant: Literal["bh1", "bh2"] = "bh2",
        prediction: Literal["x0", "eps"] = "x0",
        corrector: bool = True,
        lower_order_final: bool = True,
    ) -> None:
        if order not in (1, 2, 3) or variant not in ("bh1", "bh2") or prediction not in ("x0", "eps"):
            raise ValueError(
                "expected order 1 to 3, variant 'bh1' or 'bh2' and prediction 'x0' or 'eps', got "
                f"{order}, {variant!r} and {prediction!r}."
            )
        self.order, self.variant, self.prediction = order, variant, prediction
        self.corrector, self.lower_order_final = corrector, lower_order_final
        self.model, self.depth = prediction, order + 1
        self.needs_signal = prediction == "eps"

    def rows(self, process: Process, grid: Tensor) -> list[Row]:
        n = len(grid) - 1
        rows = [Row(grid[0], grid[1], 0, mark=True, is_last=not self.corrector or n == 1)]
        for i in range(1, n):
            t, s = grid[i], grid[i + 1]
            if self.corrector:
                rows.append(Row(t, t, i - 1))  # evaluates at the predicted point, then corrects the step that led there
            rows.append(Row(t, s, i, evaluate=not self.corrector, mark=True, is_last=not self.corrector or i == n - 1))
        return rows

    def fill(self, curve: Curve, rows: Sequence[Row]) -> dict[str, Tensor]:
        corrects = like_rows([not row.mark for row in rows], curve.t)
        start = anchor_values(curve.t, rows)  # a corrector repeats the step that began at the anchor
        step = Exponential(Curve(curve.schedule, start, curve.s), self.models[0])
        lam = known_nodes(lambda t: 0.5 * curve.schedule.log_snr(t), rows, self.depth)
        predicted = self._weights(step, rows, lam, False)
        corrected = self._weights(step, rows, lam, True)
        filled = {
            f"m{j}": torch.where(corrects, c, p) for j, (p, c) in enumerate(zip(predicted, corrected, strict=True))
        }
        filled["x"] = torch.where(corrects & step.is_regular, 0.0, torch.where(corrects, 1.0, step.carry))
        filled["anchor"] = torch.where(corrects & step.is_regular, step.carry, 0.0)
        return filled

    def _weights(self, step: Exponential, rows: Sequence[Row], lam: Tensor, is_corrector: bool) -> list[Tensor]:
        """Factors of m_0, m_1, ... (newest first); the newest of a corrector is the value at the end of its step."""
        base = 1 if is_corrector else 0
        known = leading_nodes(lam)
        order = (known - base).clamp(max=self._limits(rows, known))
        nodes = (lam - lam[..., base, None]) / step.h[..., None]
        weights = torch.zeros_like(lam)
        weights[..., base] = torch.where(step.is_regular | (not is_corrector), step.weight, 0.0)
        for p in range(1, self.order + 1):
            count = p + base
            chosen = step.is_regular & (order >= p)
            if count < 2:
                continue
            safe = torch.where(chosen[..., None], nodes[..., :count], torch.arange(count, dtype=torch.float64))
            if count == 2:
                values = self._pair(step, safe, base)
            else:
                values = step.gain[..., None] * exponential_weights(step.z, safe)
            padded = torch.cat([values, torch.zeros_like(weights[..., count:])], dim=-1)
            weights = torch.where(chosen[..., None], padded, weights)
        return list(weights.unbind(-1))

    def _pair(self, step: Exponential, nodes: Tensor, base: int) -> Tensor:
        """Two nodes: gain [phi_1 m_0 + (B/2) (m_k - m_0)/r_k]."""
        other = step.gain / (2 * nodes[..., 1 - base]) * (1 if self.variant == "bh1" else step.term(1) / step.gain)
        pair = [step.weight - other, other]
        return torch.stack(pair if base == 0 else pair[::-1], dim=-1)

    def _limits(self, rows: Sequence[Row], like: Tensor) -> Tensor:
        """Largest order of each row: ``order``, falling at the end."""
        n = rows[-1].step + 1
        limits = [min(self.order, n - row.step) if self.lower_order_final else self.order for row in rows]
        return torch.tensor(limits).reshape(-1, *(1,) * (like.ndim - 1)).expand(like.shape)
