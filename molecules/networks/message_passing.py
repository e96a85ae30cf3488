"""`MessagePassing`: any equivariant network of `scidiff.nn` as a denoiser of molecules, on the complete graph.

Le et al. 2024 (EQGAT-diff), section 3; Hoogeboom et al. 2022 (EDM), appendix B; Bekkers et al. 2024 (PONITA).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu

from scidiff.configurable import Configurable
from scidiff.nn import get_network

__all__ = ["MessagePassing"]

_FIRST_TIME = 1e-3  # smaller times look like this one (Le et al. 2024)


class MessagePassing(Configurable, nn.Module):
    """Predicts positions, atom types, charges and bonds with a message-passing network; O(N^2) edges.

    Called as `molecules.networks.PairFormer` is. Nodes enter with the one-hot vectors of their atom and charge (or
    noisy vectors in their place, for Gaussian types), with atomic numbers and labels (`molecules.atom_features`) if
    the recipe has them, with the conditioning properties and the mark of fixed atoms; edges with the one-hot vector of
    their bond. Bond logits come from the network's edges where it has some (``"eqgat"``), else from both nodes, the
    noisy bond and the final distance.

    Symmetry: that of the network. Padding never changes a result.

    Args:
        atom_classes: Channels of an atom's type.
        charge_classes: Channels of a formal charge; 0 for none.
        bond_classes: Channels of a bond, none included; 0 for no bonds.
        number_classes: Channels of the atomic number, 0 or 1.
        backbone: Name of the network, see `scidiff.nn.network_names`.
        options: Its arguments: hidden, num_layers, ...; ``time_channels`` is 1 by default.
        output: ``"endpoint"``: the position is the noisy one plus the network's vector (x0); ``"field"``: it is the
            vector (noise, or the residual of EDM preconditioning).
        num_properties: Number of conditioning scalars.
        fixed: Whether atoms can be fixed (``cond["fixed"]``).
        ring_classes: Channels of the label "in a ring", 0 for none.
        aromatic_classes: Channels of the label "aromatic", 0 for none.
        hybridisation_classes: Channels of the hybridisation, 0 for none.

    Raises:
        ValueError: If ``output`` or an option is unknown.
    """

    def __init__(
        self,
        atom_classes: int = 5,
        charge_classes: int = 3,
        bond_classes: int = 4,
        number_classes: int = 0,
        backbone: str = "eqgat",
        options: dict[str, Any] | None = None,
        output: Literal["endpoint", "field"] = "endpoint",
        num_properties: int = 0,
        fixed: bool = False,
        ring_classes: int = 0,
        aromatic_classes: int = 0,
        hybridisation_classes: int = 0,
    ) -> None:
        super().__init__()
        if output not in ("endpoint", "field"):
            raise ValueError(f"output must be 'endpoint' or 'field', got {output!r}.")
        self.classes = {"atom": atom_classes, "charge": charge_classes, "number": number_classes}
        self.classes |= {"ring": ring_classes, "aromatic": aromatic_classes, "hybridisation": hybridisation_classes}
        self.bond_classes, self.output = bond_classes, output
        self.num_properties, self.has_fixed = num_properties, fixed
        given = {"time_channels": 1, **(options or {})}
        self.has_edges = backbone == "eqgat"
        scalars = sum(self.classes.values())
        if bond_classes:
            given["edge_channels"] = bond_classes + int(fixed)
        if bond_classes and self.has_edges:
            given["pair_channels"] = bond_classes
        width = int(given.get("hidden", 64))
        is_split = bond_classes > 0 and not self.has_edges
        inputs = scalars + 2 * num_properties + int(fixed)
        self.network = get_network(backbone, inputs, **given, out_channels=scalars + (width if is_split else 0))
        self.pair_head = _PairHead(width, bond_classes, given["edge_channels"]) if is_split else None

    def forward(self, state: Mapping[str, Tensor], t: Tensor, cond: Mapping[str, Any]) -> dict[str, Tensor]:
        """See `molecules.networks.PairFormer`."""
        x, mask = state["pos"], cond.get("node_mask")
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        values = {name: _vectors(state[name], count, x.dtype) for name, count in self.classes.items() if count}
        h = torch.cat([*values.values(), *self._context(mask, cond, x)], -1)
        bond = self._edges(state, cond, x)
        out = self.network(h, x, t.to(x.dtype).clamp_min(_FIRST_TIME), edge_attr=bond, node_mask=mask)
        vector = out.v[:, :, 0]
        pos = x + vector if self.output == "endpoint" else vector
        sizes = [self.classes[name] for name in values]
        *parts, rest = out.h.split([*sizes, out.h.shape[-1] - sum(sizes)], -1)
        result = {"pos": pos, **dict(zip(values, parts, strict=True))}
        if bond is None:
            return result
        result["bond"] = out.edge_attr if self.pair_head is None else self.pair_head(rest, bond, pos)
        return result

    def _context(self, mask: Tensor, cond: Mapping[str, Any], x: Tensor) -> list[Tensor]:
        """Properties of the molecule with marks of the known ones, and the mark of fixed atoms."""
        context = []
        if self.num_properties:
            values = cond.get("property")
            if values is None:
                values = x.new_full((len(x), self.num_properties), math.nan)
            known = torch.isfinite(values)
            marked = torch.cat([torch.where(known, values, 0).to(x.dtype), known.to(x.dtype)], -1)
            context.append(marked[:, None].expand(-1, x.shape[1], -1))
        if self.has_fixed:
            fixed = cond.get("fixed")
            context.append((torch.zeros_like(mask) if fixed is None else fixed)[..., None].to(x.dtype))
        return context

    def _edges(self, state: Mapping[str, Tensor], cond: Mapping[str, Any], x: Tensor) -> Tensor | None:
        if not self.bond_classes:
            return None
        bond = _vectors(state["bond"], self.bond_classes, x.dtype)
        if not self.has_fixed:
            return bond
        fixed = cond.get("fixed_pair")
        mark = torch.zeros_like(bond[..., :1]) if fixed is None else fixed[..., None].to(x.dtype)
        return torch.cat([bond, mark], -1)


class _PairHead(nn.Module):
    """W' SiLU(W [h_i + h_j + W_e b_ij, |x_i - x_j|^2]), symmetric, (B, N, N, classes)."""

    def __init__(self, width: int, classes: int, edge_channels: int) -> None:
        super().__init__()
        self.edge = nn.Linear(edge_channels, width)
        self.first = nn.Linear(width + 1, width)
        self.second = nn.Linear(width, classes)

    def forward(self, h: Tensor, bond: Tensor, pos: Tensor) -> Tensor:
        nodes = h[:, :, None] + h[:, None] + self.edge(bond)
        squared = (pos[:, :, None] - pos[:, None]).square().sum(-1, keepdim=True)
        return self.second(silu(self.first(torch.cat([nodes, squared], -1))))


def _vectors(value: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """One-hot vectors of classes; noisy vectors as they are."""
    return value.to(dtype) if value.is_floating_point() else one_hot(value, classes).to(dtype)
