"""Bodies in plain torch that work through the edges in pieces which stay in the cache; any device, no other package."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from scidiff.kernels.edge_chunks import edge_mlp, edge_mlp_backward, pieces, row_sums

__all__ = ["edge_dot", "edge_mlp", "edge_mlp_backward", "edge_product", "gms", "weighted_sum"]

_CHUNK_BYTES = 5 << 17  # of messages for each thread, which stay in its cache beside the weights that pass


def gms(x: Tensor, w: Tensor, source: Tensor, ptr: Tensor, edge: Tensor | None = None) -> Tensor:
    """out_i = sum_{e -> i} x_source w_e; with ``edge``, w of edge ``edge[e]``."""
    out = x.new_zeros(ptr.shape[0] - 1, x.shape[1])
    steps = list(pieces(ptr, chunk(x)))
    buffer = x.new_empty(max((last - first for *_, first, last in steps), default=0), x.shape[1])
    for begin, end, first, last in steps:
        message, part = buffer[: last - first], slice(first, last)
        torch.index_select(x, 0, source[part], out=message)
        message.mul_(w[part] if edge is None else w.index_select(0, edge[part]))
        out[begin:end] = row_sums(message, ptr[begin : end + 1] - first)
    return out


def edge_product(g: Tensor, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """g_target x_source."""
    step, out = chunk(x), x.new_empty(source.shape[0], x.shape[1])
    for part, sources, targets in zip(out.split(step), source.split(step), target.split(step), strict=True):
        torch.index_select(x, 0, sources, out=part)
        part.mul_(g.index_select(0, targets))
    return out


def chunk(x: Tensor) -> int:
    """Edges of a piece, for messages like ``x``; no result depends on it."""
    return max(torch.get_num_threads() * _CHUNK_BYTES // max(x.shape[1] * x.element_size(), 1), 1)


def weighted_sum(x: Tensor, a: Tensor, source: Tensor, ptr: Tensor, edge: Tensor | None = None) -> Tensor:
    """sum_e a_eh x_source,h by the library's embedding bags, one bag for each target and block of channels."""
    heads = a.shape[1]
    a = a if edge is None else a.index_select(0, edge)
    if heads == 1:
        return F.embedding_bag(
            source, x, ptr.to(source.dtype), mode="sum", per_sample_weights=a[:, 0], include_last_offset=True
        )
    blocks = [
        F.embedding_bag(
            source,
            x[:, block].contiguous(),
            ptr.to(source.dtype),
            mode="sum",
            per_sample_weights=a[:, h].contiguous(),
            include_last_offset=True,
        )
        for h, block in enumerate(_blocks(x.shape[1], heads))
    ]
    return torch.cat(blocks, dim=1)


def edge_dot(a: Tensor, b: Tensor, source: Tensor, target: Tensor, heads: int) -> Tensor:
    """a_target . b_source in blocks of channels."""
    return edge_product(a, b, source, target).unflatten(1, (heads, -1)).sum(2)


def _blocks(width: int, heads: int) -> list[slice]:
    step = width // heads
    return [slice(h * step, (h + 1) * step) for h in range(heads)]
