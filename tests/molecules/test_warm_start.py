"""Fine-tuning starts exactly at the pretrained model."""

from __future__ import annotations

import dataclasses

import pytest
import pytorch_lightning as pl
import torch

from molecules import MoleculeDiffusion, MoleculeGenerator
from molecules.data import MoleculeSpec, packaged_qm9
from molecules.networks import PairFormer
from scidiff.warm_start import WarmStart
from tests.molecules.models import SMALL, small_denoiser, small_generator, small_network, small_spec


@pytest.fixture
def checkpoint(tmp_path):
    return small_generator().save(tmp_path / "start.safetensors")


def _module(spec=None, **options):
    torch.manual_seed(1)
    return MoleculeDiffusion(PairFormer(**SMALL), spec=spec or small_spec(), **options)


def _start(module, checkpoint):
    warm = WarmStart(checkpoint)
    warm.on_fit_start(pl.Trainer(logger=False, enable_checkpointing=False), module)
    return warm


def test_new_conditions_have_no_effect_before_the_first_step(checkpoint):
    """The conditioned network is the pretrained one bit for bit, whatever property is wished and atom is held."""
    spec = dataclasses.replace(small_spec(), properties={"logp": (1.0, 2.0)})
    module = _module(spec, fixed_share=0.3)
    warm = _start(module, checkpoint)
    assert {name.split(".")[2] for name in warm.fresh} == {"property", "fixed", "fixed_pair"}
    assert not warm.unused
    generator = torch.Generator().manual_seed(0)
    pos = torch.randn(3, 5, 3, generator=generator)
    state = {"pos": pos, "atom": torch.ones(3, 5).long(), "charge": torch.ones(3, 5).long()}
    state["bond"] = torch.zeros(3, 5, 5).long()
    t, held = torch.tensor([0.1, 0.5, 0.9]), torch.arange(5).expand(3, 5) < 2
    cond = {"node_mask": torch.ones(3, 5, dtype=torch.bool)}
    more = {"property": torch.tensor([[0.3], [-2.0], [torch.nan]]), "fixed": held}
    with torch.no_grad():
        before = small_generator().denoiser.network(state, t, cond)
        after = module.denoiser.network(state, t, {**cond, **more, "fixed_pair": held[:, :, None] & held[:, None]})
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_conditions_are_left_out_exactly():
    """A model without conditions starts as the conditioned one is without wishes and fixed atoms, in float64."""
    conditioned = small_denoiser(num_properties=2, fixed=True).network.double()
    with torch.no_grad():
        for module in (conditioned.fixed, conditioned.fixed_pair, *conditioned.property):
            for parameter in module.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    plain = small_network(seed=5).double()
    plain.load_state_dict({k: v for k, v in plain.folded(conditioned.state_dict()).items() if k in plain.state_dict()})
    generator = torch.Generator().manual_seed(0)
    state = {"pos": torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)}
    state |= {name: torch.randint(0, 3, (2, 4), generator=generator) for name in ("atom", "charge")}
    state["bond"] = torch.ones(2, 4, 4).long()
    cond = {"node_mask": torch.tensor([[True] * 4, [True] * 3 + [False]])}
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    with torch.no_grad():
        before, after = conditioned(state, t, cond), plain(state, t, cond)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-12, msg=name)


def test_an_unconditional_model_starts_from_a_conditioned_checkpoint(tmp_path):
    """What `fit --init_from qm9_controlled` does: the names of the module's weights, the conditions left over."""
    spec = dataclasses.replace(small_spec(), properties={"logp": (1.0, 2.0)})
    teacher = _module(spec, fixed_share=0.3)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "fixed" in name or "property" in name:
                parameter.fill_(0.5)
    path = MoleculeGenerator(teacher).save(tmp_path / "teacher.safetensors")
    module = _module()
    warm = _start(module, path)
    assert {name.split(".")[2] for name in warm.unused} == {"property", "fixed", "fixed_pair"}
    own, given = module.denoiser.network.state_dict(), teacher.denoiser.network.state_dict()
    torch.testing.assert_close(own["bond.weight"], given["bond.weight"] + 0.5, rtol=0, atol=0)
    assert not torch.equal(own["size.bias"], given["size.bias"])


def test_training_moves_the_new_conditions(checkpoint):
    """Zeros are a start, not an end: the last layer of the condition has a gradient."""
    spec = dataclasses.replace(small_spec(), properties={"logp": (1.0, 2.0)})
    module = _module(spec)
    _start(module, checkpoint)
    last = module.denoiser.network.property[-1]
    assert not last.weight.any()
    state = {"pos": torch.randn(2, 4, 3), "atom": torch.ones(2, 4).long(), "charge": torch.ones(2, 4).long()}
    state["bond"] = torch.zeros(2, 4, 4).long()
    cond = {"node_mask": torch.ones(2, 4, dtype=torch.bool), "property": torch.tensor([[0.3], [-2.0]])}
    module.denoiser.network(state, torch.tensor([0.2, 0.7]), cond)["atom"].square().sum().backward()
    assert last.weight.grad.abs().max() > 0


def _other_classes():
    """One element more, one charge less and one more."""
    spec = small_spec()
    assert (spec.elements, spec.charges) == (("C", "N", "O"), (-1, 0, 1))
    return dataclasses.replace(
        spec,
        elements=("C", "N", "O", "F"),
        charges=(0, 1, 2),
        atom_marginal=(0.4, 0.3, 0.2, 0.1),
        charge_marginal=(0.8, 0.1, 0.1),
        pos_std=2.0,
    )


def test_classes_are_matched_by_name(checkpoint):
    """Atoms and charges that both know are read and predicted as before, whatever their places; new ones are said."""
    module = _module(_other_classes())
    fresh = {name: value.clone() for name, value in module.state_dict().items()}
    warm = _start(module, checkpoint)
    assert warm.new_classes == ["F", "charge +2"]
    assert module.spec.pos_std == small_spec().pos_std  # distances were learnt in this unit
    assert MoleculeDiffusion.from_config(module.to_config()).spec == module.spec
    generator = torch.Generator().manual_seed(0)
    pos = torch.randn(2, 4, 3, generator=generator)
    atom, bond = torch.randint(0, 3, (2, 4), generator=generator), torch.randint(0, 4, (2, 4, 4), generator=generator)
    charge = torch.randint(0, 2, (2, 4), generator=generator)  # 0 and +1 here, one place further in the checkpoint
    bond = bond.triu(1) + bond.triu(1).mT
    shares = [torch.rand(2, 4, k, generator=generator) for k in (3, 2)]
    pairs = torch.rand(2, 4, 4, 4, generator=generator)
    zero = torch.zeros(2, 4, 1)
    told = {"pos": pos.flip(1), "bond": pairs + pairs.transpose(1, 2)}
    own = {"atom": torch.cat([shares[0], zero], -1), "charge": torch.cat([shares[1], zero], -1)}
    given = {"atom": shares[0], "charge": torch.cat([zero, shares[1]], -1)}
    t, mask = torch.tensor([0.2, 0.7]), torch.ones(2, 4, dtype=torch.bool)
    state = {"pos": pos, "atom": atom, "charge": charge, "bond": bond}
    with torch.no_grad():
        after = module.denoiser.network(state, t, {"node_mask": mask, "self_cond": {**told, **own}})
        before = small_generator().denoiser.network(
            {**state, "charge": charge + 1}, t, {"node_mask": mask, "self_cond": {**told, **given}}
        )
    for name, columns in {"pos": slice(None), "bond": slice(None), "atom": slice(0, 3)}.items():
        torch.testing.assert_close(after[name][..., columns], before[name], rtol=0, atol=1e-5, msg=name)
    torch.testing.assert_close(after["charge"][..., :2], before["charge"][..., 1:], rtol=0, atol=1e-5)
    row = module.state_dict()["denoiser.network.atom.weight"][3]
    assert torch.equal(row, fresh["denoiser.network.atom.weight"][3])  # fluorine starts as it was


def test_hydrogens_are_a_new_element(checkpoint):
    """Heavy atoms, charges and bonds keep their weights, hydrogen starts as it was."""
    module = _module(MoleculeSpec.from_dataset(packaged_qm9().subset("train")))
    assert module.spec.elements == ("H", "C", "N", "O")
    fresh = {name: value.clone() for name, value in module.state_dict().items()}
    assert _start(module, checkpoint).new_classes == ["H"]
    weights, given = module.state_dict(), small_generator().denoiser.network.state_dict()
    atoms = weights["denoiser.network.atom.weight"]
    assert torch.equal(atoms[1:], given["atom.weight"])
    assert torch.equal(atoms[0], fresh["denoiser.network.atom.weight"][0])
    assert torch.equal(weights["denoiser.network.bond.weight"], given["bond.weight"])
    assert module.spec.pos_std == small_spec().pos_std
    assert module.spec.explicit_h


def test_other_shapes_and_bond_classes_are_refused(checkpoint):
    torch.manual_seed(1)
    wide = MoleculeDiffusion(PairFormer(**{**SMALL, "width": 32}), spec=small_spec())
    with pytest.raises(ValueError, match=r"has shape \(.*\) in .*start.safetensors', but \("):
        _start(wide, checkpoint)
    aromatic = dataclasses.replace(small_spec(), aromatic=True, bond_marginal=(*small_spec().bond_marginal, 0.0))
    with pytest.raises(ValueError, match=r"bond classes none, single, double, triple, but the data has .*aromatic"):
        _start(_module(aromatic), checkpoint)
    with pytest.raises(ValueError, match=r"no weight of .* has a place"):
        _start(pl.LightningModule(), checkpoint)
