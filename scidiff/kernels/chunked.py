"""Bodies in plain torch that work through the edges in pieces which stay in the cache; any device, no other package."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["edge_product", "gms"]

_CHUNK_BYTES = 1 << 18


def gms(x: Tensor, w: Tensor, source: Tensor, ptr: Tensor, edge: Tensor | None = None) -> Tensor:
    """out_i = sum_{e -> i} x_source w_e; with ``edge``, w of edge ``edge[e]``."""
    count, width = source.shape[0], max(x.shape[1], 1)
    rows = torch.arange(ptr.shape[0] - 1, device=x.device).repeat_interleave(ptr.diff(), output_size=count)
    out = x.new_zeros(ptr.shape[0] - 1, x.shape[1])
    step = max(_CHUNK_BYTES // (width * x.element_size()), 1)
    buffer = x.new_empty(min(step, count), x.shape[1])
    for first in range(0, count, step):
        part = slice(first, min(first + step, count))
        message = buffer[: part.stop - first]
        torch.index_select(x, 0, source[part], out=message)
        message.mul_(w[part] if edge is None else w.index_select(0, edge[part]))
        out.scatter_add_(0, rows[part, None].expand_as(message), message)
    return out


def edge_product(g: Tensor, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """g_target x_source."""
    return g.index_select(0, target).mul_(x.index_select(0, source))
