"""Bodies of `scidiff.kernels.chunked` for full graphs of one size: sums in the same order, and no gather of sources.

The edges of a graph of n nodes are n rows (targets) of n - 1, and as well n - 1 rows of n: without its first entry, a
flat n x n matrix is n - 1 rows of n pairs and the next entry of the diagonal. Entry c of row r comes from node
r + 1 + c, modulo n: a window of the nodes written twice, one after the other. The transpose is the same graph.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from scidiff.kernels import chunked

__all__ = ["edge_product", "gms"]


def gms(x: Tensor, w: Tensor, source: Tensor, ptr: Tensor, edge: Tensor | None = None) -> Tensor:
    """out_i = sum_{e -> i} x_source w_e; with ``edge``, w of edge ``edge[e]``."""
    if not _is_worth(x, w.shape[0]):
        return chunked.gms(x, w, source, ptr, edge)
    nodes, twice, sources = _windows(x, w.shape[0])
    step, degree, size, width = sources.shape
    message = x.new_empty(sources.shape)
    flat = message.view(step * degree * size, width)
    entries = torch.arange(flat.shape[0], device=x.device)
    starts = torch.arange(0, flat.shape[0] + 1, degree, device=x.device)
    weights = w.view(-1, degree, size, width) if edge is None else edge.view(-1, degree * size)
    out = torch.empty_like(x)
    parts = _pieces(nodes, step), _pieces(weights, step), _pieces(out, step * size)
    for own, part, sums in zip(*parts, strict=True):
        twice.copy_(own)
        if edge is None:
            torch.mul(part, sources, out=message)
        else:
            torch.index_select(w, 0, part.flatten(), out=flat)
            message.mul_(sources)
        sums.copy_(F.embedding_bag(entries, flat, starts, mode="sum", include_last_offset=True))
    return out


def edge_product(g: Tensor, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """g_target x_source."""
    if not _is_worth(x, source.shape[0]):
        return chunked.edge_product(g, x, source, target)
    nodes, twice, sources = _windows(x, source.shape[0])
    step, degree, size, width = sources.shape
    out = x.new_empty(source.shape[0], width)
    by_graph, by_node = out.view(-1, degree, size, width), out.view(-1, degree, width)
    parts = _pieces(nodes, step), _pieces(by_graph, step)
    rows = _pieces(by_node, step * size), _pieces(g.view(-1, 1, width), step * size)
    for own, products, same, at_target in zip(*parts, *rows, strict=True):
        twice.copy_(own)
        products.copy_(sources)
        same.mul_(at_target)
    return out


def _is_worth(x: Tensor, num_edges: int) -> bool:
    """Whether a graph fits into a piece, and there is more than one piece; the result has the same bits either way."""
    degree = num_edges // x.shape[0]
    return degree * (degree + 1) <= chunked.chunk(x) < num_edges


def _windows(x: Tensor, num_edges: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (G, 1, n, F), a buffer for those of a piece, twice (g, 2, n, F), and its windows (g, n - 1, n, F)."""
    degree, width = num_edges // x.shape[0], x.shape[1]
    size, num = degree + 1, x.shape[0] // (degree + 1)
    step = -(-num // -(-num_edges // chunked.chunk(x)))  # graphs in each of as many pieces as there must be
    twice = x.new_empty(step, 2, size, width)
    windows = twice.as_strided((step, degree, size, width), (2 * size * width, width, width, 1), width)
    return x.view(num, 1, size, width), twice, windows


def _pieces(t: Tensor, step: int) -> list[Tensor]:
    """Pieces of ``step`` rows; the last one overlaps the one before, so that each fills the buffers."""
    return [*t.split(step)[:-1], t[t.shape[0] - step :]]
