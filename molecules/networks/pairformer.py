"""PairFormer: node attention biased by pairs, pair updates from nodes and distances, equivariant position updates.

Dense and padded, for molecules of up to about a hundred atoms. Pair features are symmetric, so they are kept once per
unordered pair. Positions are only ever used through distances and differences, hence E(3) equivariance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.configurable import Configurable
from scidiff.nn.time_features import TimeEmbedding

__all__ = ["PairFormer"]

_DISTANCE_RANGE = 8.0  # scaled units; about 9 angstrom for QM9
_MIN_SQUARED_DISTANCE = 1e-8  # keeps the gradient of the root finite for coincident atoms
_LOWEST_EXPONENT = -60.0  # smaller exponentials count as 0: subnormal numbers halve the speed of matrix products


class PairFormer(Configurable, nn.Module):
    """Predicts positions, atom types, charges and bonds of a molecule; O(N^2) memory and time.

    Called as ``network(state, t, cond)`` with ``state = {"pos": (B, N, 3), "atom": (B, N), "charge": (B, N),
    "bond": (B, N, N)}`` (classes as int64), times (B,), and ``cond`` holding ``node_mask`` (B, N), optionally
    ``self_cond`` (an earlier prediction: positions and class probabilities), ``property`` (B, num_properties), where
    NaN marks the null condition, and ``fixed`` (B, N) with ``fixed_pair`` (B, N, N), the clean atoms and bonds.
    Returns ``pos`` (B, N, 3) and logits of the three categorical components.

    Symmetry: ``pos`` is a zero-mean field that rotates and reflects with the input and ignores translations; logits are
    invariant; atoms permute. Padding never changes a result.

    Args:
        atom_classes: Number of atom types.
        charge_classes: Number of formal charges.
        bond_classes: Number of bond types, none included.
        width: Node channels, a multiple of ``num_heads``.
        pair_width: Pair channels.
        num_layers: Number of blocks.
        num_heads: Attention heads.
        num_rbf: Radial basis functions of a distance.
        num_properties: Number of conditioning scalars.
        fixed: Whether atoms can be fixed.

    Raises:
        ValueError: If ``width`` is not a multiple of ``num_heads``.
    """

    def __init__(
        self,
        atom_classes: int = 5,
        charge_classes: int = 3,
        bond_classes: int = 4,
        width: int = 128,
        pair_width: int = 64,
        num_layers: int = 6,
        num_heads: int = 8,
        num_rbf: int = 24,
        num_properties: int = 0,
        fixed: bool = False,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {width} and {num_heads}.")
        self.classes = {"atom": atom_classes, "charge": charge_classes, "bond": bond_classes}
        self.atom = nn.Embedding(atom_classes, width)
        self.charge = nn.Embedding(charge_classes, width)
        self.bond = nn.Embedding(bond_classes, pair_width)
        self.node_self = nn.Linear(atom_classes + charge_classes, width, bias=False)
        self.bond_self = nn.Linear(bond_classes, pair_width, bias=False)
        self.time = TimeEmbedding(width)
        self.size = nn.Linear(2, width)
        self.num_properties = num_properties
        self.property = _mlp(2 * num_properties, width) if num_properties else None
        self.fixed = nn.Embedding(2, width) if fixed else None
        self.fixed_pair = nn.Embedding(2, pair_width) if fixed else None
        self._silence_conditions()
        self.distances = _Distances(num_rbf)
        self.pair_in = nn.Linear(2 * num_rbf, pair_width)
        self.blocks = nn.ModuleList(_Block(width, pair_width, num_heads, num_rbf) for _ in range(num_layers))
        self.node_head = _head(width, atom_classes + charge_classes)
        self.pair_node = nn.Linear(width, pair_width)
        self.pair_head = _head(pair_width, bond_classes)

    def _silence_conditions(self) -> None:
        """Properties and marks of fixed atoms have no effect at first: a trained network without them can start one."""
        for module in (self.fixed, self.fixed_pair, None if self.property is None else self.property[-1]):
            if module is not None:
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)

    def class_axes(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Which weights count classes, see `molecules.fine_tuning`."""
        sites, pairs = ("atom", "charge"), ("bond",)
        axes = {"node_self.weight": (1, sites), "bond_self.weight": (1, pairs)}
        axes |= {f"{name}.weight": (0, (name,)) for name in (*sites, *pairs)}
        heads = {f"node_head.{len(self.node_head) - 1}": sites, f"pair_head.{len(self.pair_head) - 1}": pairs}
        return axes | {f"{name}.{kind}": (0, kinds) for name, kinds in heads.items() for kind in ("weight", "bias")}

    def folded(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``weights`` of a network with more conditions than this one, without those: the same function of the rest.

        Without known properties and fixed atoms the context, all nodes and all pairs are shifted by constants, which
        become part of the bias of the size and of the embeddings of atoms and bonds.
        """
        result = dict(weights)
        if self.property is None and "property.0.bias" in weights:
            hidden = F.silu(weights["property.0.bias"])
            constant = weights["property.2.weight"] @ hidden + weights["property.2.bias"]
            result["size.bias"] = weights["size.bias"] + constant
        if self.fixed is None and "fixed.weight" in weights:
            result["atom.weight"] = weights["atom.weight"] + weights["fixed.weight"][0]
            result["bond.weight"] = weights["bond.weight"] + weights["fixed_pair.weight"][0]
        return result

    def forward(self, state: Mapping[str, Tensor], t: Tensor, cond: Mapping[str, Any]) -> dict[str, Tensor]:
        """See the class."""
        x = state["pos"]
        mask = cond.get("node_mask")
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        pairs = _Pairs.build(mask)
        previous = cond.get("self_cond") or self._no_prediction(x)
        context = self._context(t, mask, cond, x.dtype)
        h = self.atom(state["atom"]) + self.charge(state["charge"]) + context[:, None]
        e = self.bond(state["bond"][:, pairs.i, pairs.j])
        h = h + self.node_self(torch.cat([previous["atom"], previous["charge"]], -1))
        e = e + self.bond_self(previous["bond"][:, pairs.i, pairs.j])
        if self.fixed is not None and self.fixed_pair is not None:
            held, held_pair = _held(cond, mask)
            h, e = h + self.fixed(held), e + self.fixed_pair(held_pair[:, pairs.i, pairs.j])
        noisy, last = _Points.of(x, pairs, self.distances), _Points.of(previous["pos"], pairs, self.distances)
        e = e + self.pair_in(torch.cat([noisy.basis, last.basis], -1))
        current, field = noisy, torch.zeros_like(x)
        for i, block in enumerate(self.blocks):
            h, e, update, gate = block(h, e, context, (current, noisy, last), pairs)
            field = field + update
            if i + 1 < len(self.blocks):
                current = _Points.of(current.pos + gate[:, None, None] * update, pairs, self.distances)
        atom, charge = self.node_head(h).split([self.classes["atom"], self.classes["charge"]], -1)
        node = self.pair_node(h)
        bond = self.pair_head(e + pairs.first(node) + pairs.second(node))
        return {"pos": field, "atom": atom, "charge": charge, "bond": pairs.full(bond)}

    def _no_prediction(self, x: Tensor) -> dict[str, Tensor]:
        """Zeros: every weight has a gradient in every step, as training on several processes needs."""
        b, n, _ = x.shape
        nodes = {name: x.new_zeros(b, n, self.classes[name]) for name in ("atom", "charge")}
        return {"pos": torch.zeros_like(x), **nodes, "bond": x.new_zeros(b, n, n, self.classes["bond"])}

    def _context(self, t: Tensor, mask: Tensor, cond: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
        count = mask.sum(1, keepdim=True).to(dtype)
        context = self.time(t.to(dtype)) + self.size(torch.cat([count / 20, count.log()], -1))
        values = cond.get("property")
        if self.property is not None:
            if values is None:
                values = torch.full((len(mask), self.num_properties), math.nan, dtype=dtype, device=t.device)
            known = torch.isfinite(values)
            context = context + self.property(torch.cat([torch.where(known, values, 0), known.to(dtype)], -1).to(dtype))
        return context


class _Pairs(NamedTuple):
    """Unordered pairs i < j of a padded batch: indices (P,), mask (B, P), map (N, N) to a pair (P for i = j)."""

    i: Tensor
    j: Tensor
    mask: Tensor
    node_mask: Tensor
    index: Tensor

    @classmethod
    def build(cls, node_mask: Tensor) -> _Pairs:
        n = node_mask.shape[1]
        i, j = torch.triu_indices(n, n, 1, device=node_mask.device).unbind(0)
        index = torch.full((n, n), len(i), device=node_mask.device)
        order = torch.arange(len(i), device=node_mask.device)
        index[i, j] = order
        index[j, i] = order
        return cls(i, j, node_mask[:, i] & node_mask[:, j], node_mask, index)

    def first(self, x: Tensor) -> Tensor:
        """Values (B, P, c) of the first node of each pair."""
        return x.index_select(1, self.i)

    def second(self, x: Tensor) -> Tensor:
        """Values (B, P, c) of the second node of each pair."""
        return x.index_select(1, self.j)

    def full(self, values: Tensor) -> Tensor:
        """Symmetric (B, N, N, c) from (B, P, c), zero on the diagonal."""
        padded = F.pad(values, (0, 0, 0, 1))
        n = len(self.index)
        return padded.index_select(1, self.index.flatten()).unflatten(1, (n, n))


class _Points(NamedTuple):
    """Positions (B, N, 3), radial basis of their pairs (B, P, num_rbf), and 1 + d of all (B, N, N)."""

    pos: Tensor
    basis: Tensor
    reach: Tensor

    @classmethod
    def of(cls, pos: Tensor, pairs: _Pairs, distances: _Distances) -> _Points:
        with torch.autocast(pos.device.type, enabled=False):  # distances stay in full precision
            return cls(pos, distances(pos, pairs), 1 + _all_distances(pos))


class _Block(nn.Module):
    """One layer: attention, node feed-forward, pair update, position update."""

    def __init__(self, width: int, pair_width: int, num_heads: int, num_rbf: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.modulate = nn.Linear(width, 4 * width + 2 * pair_width + 1)
        self.node_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.feed_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.pair_norm = nn.LayerNorm(pair_width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.bias = nn.Linear(pair_width, num_heads, bias=False)
        self.out = nn.Linear(width + num_heads * pair_width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.pair_from_node = nn.Linear(width, 3 * pair_width)
        self.pair_from_pair = nn.Linear(pair_width, 2 * pair_width)
        self.pair_from_distance = nn.Linear(2 * num_rbf, 2 * pair_width, bias=False)
        self.pair_out = nn.Linear(2 * pair_width, pair_width)
        self.position_pair = nn.Linear(2 * pair_width, 3 * num_heads)
        self.position_node = nn.Linear(width, 3 * num_heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Residual branches and modulation start small; the position gate starts near t-independent 1/2."""
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        for layer in (self.out, self.feed[2], self.pair_out):
            assert isinstance(layer, nn.Linear)
            layer.weight.data.mul_(0.5)
        self.position_pair.weight.data.mul_(0.1)
        nn.init.zeros_(self.position_pair.bias)
        nn.init.ones_(self.position_node.bias)

    def forward(
        self,
        h: Tensor,
        e: Tensor,
        context: Tensor,
        points: tuple[_Points, _Points, _Points],
        pairs: _Pairs,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        width, pair_width = h.shape[-1], e.shape[-1]
        factors = self.modulate(F.silu(context)).split([width] * 4 + [pair_width] * 2 + [1], -1)
        scale_a, shift_a, scale_f, shift_f, scale_e, shift_e, gate = (f[:, None] for f in factors)
        edge = self.pair_norm(e) * (1 + scale_e) + shift_e
        h = h + self._attend(self.node_norm(h) * (1 + scale_a) + shift_a, edge, pairs)
        h = h + self.feed(self.feed_norm(h) * (1 + scale_f) + shift_f)
        linear, left = self.pair_from_node(h).split([2 * pair_width, pair_width], -1)
        current, _, last = points
        hidden = self.pair_from_pair(edge) + self.pair_from_distance(torch.cat([current.basis, last.basis], -1))
        hidden = hidden + pairs.first(linear) + pairs.second(linear)
        hidden = F.silu(hidden)
        product = pairs.first(left) * pairs.second(left)
        e = e + self.pair_out(hidden) + product
        update = self._move(h, hidden, points, pairs)
        return h, e, update, torch.sigmoid(gate[:, 0, 0])

    def _attend(self, h: Tensor, edge: Tensor, pairs: _Pairs) -> Tensor:
        b, n, width = h.shape
        q, k, v = self.qkv(h).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        full = pairs.full(torch.cat([self.bias(edge), edge], -1))
        bias, values = full[..., : self.num_heads].permute(0, 3, 1, 2), full[..., self.num_heads :]
        logits = q @ k.transpose(-1, -2) / math.sqrt(width / self.num_heads) + bias
        logits = logits.masked_fill(~pairs.node_mask[:, None, None, :], -1e9)
        weights = logits.softmax(-1)
        nodes = (weights @ v).transpose(1, 2).reshape(b, n, width)
        edges = (weights.transpose(1, 2) @ values).reshape(b, n, -1)
        return self.out(torch.cat([nodes, edges], -1))

    def _move(self, h: Tensor, hidden: Tensor, points: tuple[_Points, ...], pairs: _Pairs) -> Tensor:
        """Sum over j of phi_ij (r_i - r_j)/(1 + d_ij) for the current, noisy and previous positions; zero mean."""
        x = points[0].pos
        gates = self.position_pair(hidden) * pairs.mask[..., None]
        weights = (pairs.full(gates) * self.position_node(h)[:, :, None]).unflatten(-1, (3, -1)).sum(-1).to(x.dtype)
        update = torch.zeros_like(x)
        with torch.autocast(x.device.type, enabled=False):  # positions stay in full precision
            for weight, (r, _, reach) in zip(weights.unbind(-1), points):
                weight = weight / reach
                update = update + weight.sum(-1, keepdim=True) * r - weight @ r
        mask = pairs.node_mask[..., None]
        count = mask.sum(1, keepdim=True).clamp_min(1)
        return torch.where(mask, update - update.sum(1, keepdim=True) / count, 0)


class _Distances(nn.Module):
    """Gaussian radial basis of pair distances."""

    centers: Tensor

    def __init__(self, num_rbf: int) -> None:
        super().__init__()
        # denser at bond lengths: centres quadratic in the index
        steps = torch.linspace(0, 1, num_rbf)
        centers = _DISTANCE_RANGE * (0.5 * steps + 0.5 * steps**2)
        self.register_buffer("centers", centers, persistent=False)
        self.width = 1.5 * _DISTANCE_RANGE / (2 * num_rbf)

    def forward(self, x: Tensor, pairs: _Pairs) -> Tensor:
        difference = pairs.first(x) - pairs.second(x)
        distance = (difference.square().sum(-1, keepdim=True) + _MIN_SQUARED_DISTANCE).sqrt()
        exponent = -0.5 * ((distance - self.centers.to(x.dtype)) / self.width) ** 2
        is_low = exponent < _LOWEST_EXPONENT
        return torch.where(is_low, 0.0, torch.where(is_low, 0.0, exponent).exp())


def _all_distances(r: Tensor) -> Tensor:
    difference = r[:, :, None] - r[:, None]
    return (difference.square().sum(-1) + _MIN_SQUARED_DISTANCE).sqrt()


def _held(cond: Mapping[str, Any], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Marks (B, N) and (B, N, N), int64, of fixed atoms and of bonds between them."""
    fixed, pair = cond.get("fixed"), cond.get("fixed_pair")
    fixed = torch.zeros_like(mask) if fixed is None else fixed
    return fixed.long(), (fixed[:, :, None] & fixed[:, None] if pair is None else pair).long()


def _mlp(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))


def _head(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, classes))
