"""Properties: values of RDKit, files and their order, the null condition, guidance."""

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import Crippen, rdMolDescriptors

from molecules import MoleculeDataModule, MoleculeDataset, MoleculeDiffusion, MoleculeGenerator, MoleculeList
from molecules.data import packaged_qm9, prepare_file
from molecules.diffusion import drop_properties
from molecules.networks import PairFormer
from molecules.properties import COMPUTED, property_table
from scidiff.guidance import ClassifierFree
from scidiff.samplers import sample
from tests.molecules.models import SMALL

SMILES = ["CCO", "c1ccccc1O", "not a molecule", "C[N+](=O)[O-]"]


def test_values_are_those_of_rdkit():
    table = property_table(SMILES, list(COMPUTED))
    mols = [Chem.MolFromSmiles(text) for text in (SMILES[0], SMILES[1], SMILES[3])]
    index = [0, 1, 3]
    assert table["logp"][index].tolist() == pytest.approx([Crippen.MolLogP(m) for m in mols], abs=1e-6)
    assert table["tpsa"][index].tolist() == pytest.approx([rdMolDescriptors.CalcTPSA(m) for m in mols], rel=1e-6)
    assert table["heteroatoms"][index].tolist() == [1, 1, 3]
    assert table["mol_weight"][0] == pytest.approx(46.069, abs=1e-3)
    assert all(np.isnan(values[2]) for values in table.values())
    with pytest.raises(ValueError, match="did you mean 'logp'"):
        property_table(SMILES, ["log_p"])


@pytest.fixture(scope="module")
def data():
    part = packaged_qm9().without_hydrogens()
    own = np.where(np.arange(len(part)) % 3 == 0, np.nan, np.arange(len(part)))
    return MoleculeDataModule.from_dataset(part.with_properties({"mine": own}), properties=["mine", "logp"])


def test_batches_carry_the_properties_of_their_molecules(data):
    """Own column with gaps and a computed one: rows of a batch against the dataset, mean and std of known values."""
    train = data.part("train")
    dense = data.dense("train")
    item = (0, torch.tensor([2, 0, 1]))
    rows, batch = dense.rows(item).numpy(), dense[item]
    assert list(data.spec.properties) == ["mine", "logp"]
    for column, name in enumerate(data.spec.properties):
        np.testing.assert_array_equal(batch["property"][:, column].numpy(), train.properties[name][rows])
        known = train.properties[name][np.isfinite(train.properties[name])].astype(float)
        assert data.spec.properties[name] == pytest.approx((known.mean(), known.std()), rel=1e-6)
    assert train.properties["logp"][5] == pytest.approx(Crippen.MolLogP(Chem.MolFromSmiles(train.smiles[5])), abs=1e-5)
    values = torch.tensor([[data.spec.properties["mine"][0], torch.nan]])
    assert data.spec.normalised(values).tolist()[0] == pytest.approx([0.0, np.nan], nan_ok=True)


def test_columns_survive_files_and_selections(tmp_path):
    part = packaged_qm9().subset(np.arange(6))
    part = part.with_properties({"a": np.arange(6.0), "b": np.full(6, np.nan)})
    again = MoleculeDataset.from_npz(part.save(tmp_path / "p.npz"))
    np.testing.assert_array_equal(again.properties["a"], np.arange(6))
    assert np.isnan(again.properties["b"]).all()
    chosen = again.subset([4, 1]).without_hydrogens()
    assert chosen.properties["a"].tolist() == [4, 1]
    joined = MoleculeDataset.concatenate([again, part.with_properties({"a": np.ones(6)})])
    assert list(joined.properties) == ["a"]
    assert joined.properties["a"].tolist() == [0, 1, 2, 3, 4, 5, 1, 1, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="one entry for each of the 6"):
        part.with_properties({"a": np.ones(5)})


def test_numbers_in_the_fields_of_an_sdf_become_columns(tmp_path):
    """A dropped molecule leaves no gap in the order; text is no number; a missing field is NaN."""
    part = packaged_qm9().subset(np.arange(8))
    MoleculeList([part.record(k) for k in range(8)]).to_sdf(tmp_path / "raw.sdf")
    blocks = (tmp_path / "raw.sdf").read_text().split("$$$$\n")[:8]
    for k in range(8):
        field = "" if k == 2 else f">  <gap>\n{0.5 * k}\n\n"
        blocks[k] = blocks[k] + field + ">  <note>\nplain text\n\n"
    lines = blocks[4].split("\n")
    blocks[4] = "\n".join([*lines[:3], lines[3].replace("V2000", "V9999"), *lines[4:]])
    (tmp_path / "own.sdf").write_text("$$$$\n".join(blocks) + "$$$$\n")
    report = prepare_file(tmp_path / "own.sdf", tmp_path / "own.npz")
    dataset = MoleculeDataset.from_npz(tmp_path / "own.npz")
    assert report.kept == len(dataset)
    assert "note" not in dataset.properties
    wanted = [np.nan if k == 2 else 0.5 * k for k in dataset.ids]
    np.testing.assert_array_equal(dataset.properties["gap"], np.array(wanted, dtype=np.float32))


def test_a_property_that_cannot_be_learnt_is_refused():
    part = packaged_qm9().without_hydrogens()
    constant = part.with_properties({"x": np.ones(len(part))})
    with pytest.raises(ValueError, match=r"known for 1600 of 1600 .* the same for all"):
        MoleculeDataModule.from_dataset(constant, properties=["x"])
    with pytest.raises(ValueError, match="unknown property 'dipole'"):
        MoleculeDataModule.from_dataset(part, properties=["dipole"])


def test_what_is_shown_in_training():
    """Binomial share without any; number of shown ones uniform over 1..3; each is shown equally often (4.5 sigma)."""
    count = 30_000
    values = torch.arange(3.0).expand(count, 3)
    shown = torch.isfinite(drop_properties(values, 0.2, torch.Generator().manual_seed(0)))
    number = shown.sum(1)
    for k, wanted in enumerate([0.2, 0.8 / 3, 0.8 / 3, 0.8 / 3]):
        assert float((number == k).double().mean()) == pytest.approx(wanted, abs=4.5 * (0.25 / count) ** 0.5)
    assert shown.double().mean(0).tolist() == pytest.approx([0.8 * 2 / 3] * 3, abs=4.5 * (0.25 / count) ** 0.5)
    single = drop_properties(values[:, :1], 0.2, torch.Generator().manual_seed(0))
    assert float(torch.isnan(single).double().mean()) == pytest.approx(0.2, abs=4.5 * (0.16 / count) ** 0.5)


@pytest.fixture(scope="module")
def generator(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MoleculeDiffusion(PairFormer(**SMALL), spec=data.spec)
        for parameter in model.denoiser.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    loss = model.training_loss(data.dense("train")[(0, torch.arange(4))], torch.Generator().manual_seed(0)).loss
    assert torch.isfinite(loss).all()
    generator = MoleculeGenerator(model)
    generator.denoiser.double()
    return generator


def same(a, b):
    return all(np.array_equal(x.numbers, y.numbers) and np.abs(x.pos - y.pos).max() < 1e-9 for x, y in zip(a, b))


def test_scales_of_guidance(generator):
    """0 is the unconditional model, 1 the conditional one, 2 goes on along their difference; evaluations counted."""
    options = {"n": 4, "steps": 3, "seed": 2}
    plain = generator.sample(**options)
    one = generator.sample(**options, condition={"logp": 3.0})
    zero = generator.sample(**options, condition={"logp": 3.0}, guidance_scale=0.0)
    two = generator.sample(**options, condition={"logp": 3.0}, guidance_scale=2.0)
    assert same(zero, plain)
    assert not same(one, plain)
    assert not same(two, one)
    assert (plain.nfe, one.nfe, two.nfe) == (4, 4, 8)


def test_guided_prediction_by_hand(generator):
    """x0_u + 2 (x0_c - x0_u) from two calls of the denoiser; a wish of one property leaves the other open."""
    den, n = generator.denoiser, 6
    wishes = generator._wishes({"logp": [1.0, 2.0]}, 2)
    mean, std = generator.spec.properties["logp"]
    assert torch.isnan(wishes[:, 0]).all()
    assert wishes[:, 1].tolist() == pytest.approx([(1 - mean) / std, (2 - mean) / std], rel=1e-6)
    mask = torch.ones(2, n, dtype=torch.bool)
    x = sample(
        den, generator.recipe.shapes(2, n, generator.spec), solver="ddim", steps=2, grid="log", cond={"node_mask": mask}
    )
    t = torch.full((2,), 0.5, dtype=torch.float64)
    cond = {"node_mask": mask, "property": wishes}
    with torch.no_grad():
        guided = ClassifierFree(2.0, keys=["property"]).wrap(den)(x, t, cond)
        with_wish, without = den(x, t, cond), den(x, t, {"node_mask": mask})
    assert (guided.x0["pos"] - (2 * with_wish.x0["pos"] - without.x0["pos"])).abs().max() < 1e-12
    wanted = 2 * with_wish.logits["bond"] - without.logits["bond"]
    assert (guided.logits["bond"] - wanted).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("condition", "telling"),
    [({"tpsa": 1.0}, "it knows mine, logp"), ({"logp": [1.0]}, "one for each of the 4"), ({"logp": "nan"}, "finite")],
    ids=str,
)
def test_impossible_wishes_are_refused(generator, condition, telling):
    with pytest.raises(ValueError, match=telling):
        generator.sample(4, steps=1, condition=condition)
