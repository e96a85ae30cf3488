"""Fake atoms: how many, where, of which class; and that samples are without them."""

import math

import numpy as np
import pytest
import torch

from molecules import QM9, MoleculeDiffusion, MoleculeGenerator
from molecules.fake_atoms import drawn_counts, extended_marginals, with_fake_atoms
from molecules.networks import PairFormer
from molecules.recipes import Flow
from tests.molecules.models import SMALL, small_spec

SHARE = 0.3


@pytest.fixture(scope="module")
def batch():
    """All packaged training molecules of eight and nine heavy atoms, each forty times."""
    data = QM9(root="2k", batch_pairs=1_000_000)
    dense = data.dense("train")
    return dense[(len(dense.buckets) - 1, torch.arange(len(dense.buckets[-1].sizes)).repeat(40))]


@pytest.fixture(scope="module")
def extended(batch):
    return with_fake_atoms(batch, small_spec(), SHARE, torch.Generator().manual_seed(0))


def test_counts_are_uniform(batch, extended):
    """m on 0..ceil(0.3 n) - 1: 0, 1, 2 for seven to nine atoms, one or two for fewer."""
    count = batch["node_mask"].sum(1)
    drawn = extended["node_mask"].sum(1) - count
    for n in count.unique().tolist():
        own, choices = drawn[count == n], math.ceil(SHARE * n)
        found = torch.bincount(own, minlength=choices) / len(own)
        assert len(found) == choices
        assert found.tolist() == pytest.approx([1 / choices] * choices, abs=4 * 0.5 / len(own) ** 0.5)
    u = np.arange(3000) / 3000
    assert np.bincount(drawn_counts(np.full(3000, 9), SHARE, u)).tolist() == [1000, 1000, 1000]


def test_real_atoms_stay_and_fake_ones_lie_around_them(batch, extended):
    """Distances, classes and bonds of the molecule are unchanged; a fake atom is N(0, 1) from one of its atoms."""
    spec, n = small_spec(), batch["node_mask"].shape[1]
    mask, fake = batch["node_mask"], extended["node_mask"][:, n:]
    for name in ("atom", "charge"):
        assert torch.equal(extended[name][:, :n], batch[name])
    assert (extended["atom"][:, n:][fake] == len(spec.elements)).all()
    assert (extended["charge"][:, n:][fake] == spec.charges.index(0)).all()
    assert torch.equal(extended["bond"][:, :n, :n], batch["bond"])
    assert not extended["bond"][:, n:].any()
    assert extended["pos"].sum(1).abs().max() < 1e-4
    assert not extended["pos"][~extended["node_mask"]].any()
    shift = torch.where(mask[..., None], extended["pos"][:, :n] - batch["pos"], 0)
    rigid = torch.where(mask[..., None], shift[:, :1], 0)
    torch.testing.assert_close(shift, rigid, rtol=0, atol=1e-5)
    # E |fake - centre of the real atoms|^2 = 3 + mean square radius of the real atoms
    real = torch.where(mask[..., None], extended["pos"][:, :n], 0)
    centre = real.sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    radius = (torch.where(mask[..., None], real - centre, 0).square().sum((1, 2)) / mask.sum(1))[:, None].expand(
        fake.shape
    )
    square = (extended["pos"][:, n:] - centre).square().sum(2)
    found = (square - radius)[fake]
    assert float(found.mean()) == pytest.approx(3, abs=4 * float(found.std()) / len(found) ** 0.5)


def test_marginals_are_the_shares_in_extended_data():
    """Every size of the data with its fake atoms, counted one by one."""
    spec = small_spec()
    totals = {"atom": np.zeros(4), "charge": np.zeros(3), "bond": np.zeros(4)}
    for n, count in spec.sizes.items():
        choices = math.ceil(SHARE * n)
        for m in range(choices):
            weight = count / choices
            totals["atom"] += weight * np.array([0, 0, 0, m])
            totals["charge"] += weight * np.array([0, m, 0])
            totals["bond"] += weight * np.array([(n + m) * (n + m - 1) / 2 - n * (n - 1) / 2, 0, 0, 0])
    atoms = sum(n * count for n, count in spec.sizes.items())
    pairs = sum(n * (n - 1) / 2 * count for n, count in spec.sizes.items())
    totals["atom"][:3] += atoms * np.array(spec.atom_marginal)
    totals["charge"] += atoms * np.array(spec.charge_marginal)
    totals["bond"] += pairs * np.array(spec.bond_marginal)
    for name, share in extended_marginals(spec, SHARE).items():
        assert share == pytest.approx(tuple(totals[name] / totals[name].sum()), rel=1e-12), name


class _LastIsFake(PairFormer):
    """Says that the last place of each molecule is empty and that all others are carbon."""

    def forward(self, state, t, cond):
        result = super().forward(state, t, cond)
        last = cond["node_mask"].sum(1, keepdim=True) - 1
        is_last = torch.arange(state["atom"].shape[1]) == last
        logits = torch.full_like(result["atom"], -50.0)
        logits[..., 0] = torch.where(is_last, -50.0, 50.0)
        logits[..., 3] = torch.where(is_last, 50.0, -50.0)
        return {**result, "atom": logits}


def test_samples_are_without_fake_atoms():
    recipe, spec = Flow(fake_atoms=SHARE), small_spec()
    network = _LastIsFake(4, 3, 4, **SMALL)
    mols = MoleculeGenerator(recipe.denoiser(network, spec, self_conditioning=True), spec, recipe=recipe).sample(
        5, n_atoms=[3, 4, 5, 6, 7], steps=3
    )
    assert [len(record) for record in mols] == [2, 3, 4, 5, 6]
    assert all((record.numbers == 6).all() for record in mols)


def test_sizes_come_with_spare_places():
    recipe, spec = Flow(fake_atoms=SHARE), small_spec()
    network = PairFormer(4, 3, 4, **SMALL)
    generator = MoleculeGenerator(recipe.denoiser(network, spec, self_conditioning=True), spec, recipe=recipe)
    widths = []
    generator.sample(400, steps=1, watch=lambda records: widths.append(max(map(len, records))))
    assert max(widths) > spec.max_atoms  # the places of nine atoms and up to two more


def test_fixed_parts_are_refused():
    with pytest.raises(ValueError, match="exclude each other"):
        MoleculeDiffusion(PairFormer(**SMALL), recipe=Flow(fake_atoms=SHARE), spec=small_spec(), fixed_share=0.3)
