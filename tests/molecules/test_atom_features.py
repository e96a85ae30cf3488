"""Labels of atoms: against hand tables, bridges of the bond graph and steric numbers; in data, network and recipe."""

import json

import networkx as nx
import numpy as np
import pytest
import torch
from rdkit import Chem

from molecules import QM9, MoleculeDataModule, MoleculeDataset, MoleculeDiffusion, MoleculeGenerator
from molecules.atom_features import ATOM_FEATURES, label_atoms
from molecules.chemistry import MoleculeRecord, record_of
from molecules.data import MoleculeSpec, packaged_qm9
from molecules.networks import MessagePassing, PairFormer
from molecules.recipes import EQGATDiff
from scidiff.cli import main
from scidiff.testing import random_rotation
from tests.molecules.models import small_spec
from tests.molecules.test_recipes import KNOWN

NAMES = tuple(ATOM_FEATURES)
CLASSES = {name: len(classes) for name, classes in ATOM_FEATURES.items()}
BY_HAND = {  # hybridisations, atoms in rings, aromatic atoms, in the order of the SMILES
    "C": ("sp3", 0, 0),
    "CC#N": ("sp3 sp sp", 0, 0),
    "C=C=O": ("sp2 sp sp2", 0, 0),
    "OC=O": ("sp2 sp2 sp2", 0, 0),
    "c1ccncc1C": ("sp2 sp2 sp2 sp2 sp2 sp2 sp3", 6, 6),
    "c1cc[nH]c1": ("sp2 sp2 sp2 sp2 sp2", 5, 5),
    "C1CC1CO": ("sp3 sp3 sp3 sp3 sp3", 3, 0),
    "C1=CC=CC1": ("sp2 sp2 sp2 sp2 sp3", 5, 0),
    "C12C3C1C23": ("sp3 sp3 sp3 sp3", 4, 0),
    "FP(F)(F)(F)F": ("sp3 sp3d sp3 sp3 sp3 sp3", 0, 0),
    "FS(F)(F)(F)(F)F": ("sp3 sp3d2 sp3 sp3 sp3 sp3 sp3", 0, 0),
}


@pytest.fixture(scope="module")
def dataset():
    """The packaged molecules with hydrogens and labels."""
    data = packaged_qm9()
    return data.with_atom_features(label_atoms(map(data.record, range(len(data))), NAMES))


@pytest.fixture(scope="module")
def data():
    module = QM9(root="2k", batch_pairs=2_000, atom_features=NAMES)
    module.setup()
    return module


@pytest.fixture(scope="module")
def batch(data):
    return data.dense("train")[(len(data.dense("train").buckets) - 1, torch.arange(6))]


@pytest.mark.parametrize("smiles", BY_HAND)
def test_labels_by_hand(smiles):
    mol = Chem.MolFromSmiles(smiles)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    labels = label_atoms([record_of(mol)], NAMES)
    kinds, in_ring, aromatic = BY_HAND[smiles]
    assert [ATOM_FEATURES["hybridisation"][k] for k in labels["hybridisation"]] == kinds.split()
    assert (labels["ring"].sum(), labels["aromatic"].sum()) == (in_ring, aromatic)


def test_rings_are_what_bridges_leave(dataset):
    """An atom is in a ring if one of its bonds lies on a cycle: is no bridge of the bond graph."""
    start = dataset.offsets[dataset.bond_owners()]
    graph = nx.Graph()
    graph.add_nodes_from(range(len(dataset.numbers)))
    graph.add_edges_from(zip((start + dataset.bonds[:, 0]).tolist(), (start + dataset.bonds[:, 1]).tolist()))
    graph.remove_edges_from(list(nx.bridges(graph)))
    assert np.array_equal(dataset.atom_features["ring"], [graph.degree[k] > 0 for k in range(len(dataset.numbers))])


def test_hybridisation_of_neutral_carbons_is_their_number_of_neighbours(dataset):
    """Four: sp3, three: sp2, two: sp; hydrogen is s. Aromatic atoms are sp2 and lie in rings."""
    found = np.array(ATOM_FEATURES["hybridisation"])[dataset.atom_features["hybridisation"]]
    start = dataset.offsets[dataset.bond_owners()]
    ends = np.concatenate([start + dataset.bonds[:, 0], start + dataset.bonds[:, 1]])
    neighbours = np.bincount(ends, minlength=len(found))
    carbon = (dataset.numbers == 6) & (dataset.formal_charge == 0)
    assert np.array_equal(found[carbon], np.array(["", "", "sp", "sp2", "sp3"])[neighbours[carbon]])
    assert set(found[dataset.numbers == 1]) == {"s"}
    aromatic = dataset.atom_features["aromatic"] == 1
    assert set(found[aromatic]) == {"sp2"}
    assert dataset.atom_features["ring"][aromatic].all()


def test_labels_need_neither_hydrogens_nor_an_order_of_the_atoms(dataset):
    """Heavy atoms have the same labels without hydrogens; atoms in another order have theirs in that order."""
    heavy = dataset.without_hydrogens()
    again = label_atoms(map(heavy.record, range(len(heavy))), NAMES)
    assert all(np.array_equal(again[name], heavy.atom_features[name]) for name in NAMES)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(size) for size in dataset.sizes[:100]]
    turned = label_atoms((dataset.record(k).take(order) for k, order in enumerate(orders)), NAMES)
    flat = np.concatenate([first + order for first, order in zip(dataset.offsets, orders)])
    assert all(np.array_equal(turned[name], dataset.atom_features[name][flat]) for name in NAMES)


def test_labels_stay_with_their_molecules(dataset, tmp_path):
    """Selected, joined and saved; a set without labels takes them away from the union."""
    chosen = [5, 3, 900]
    part = dataset.subset(chosen)
    wanted = label_atoms(map(dataset.record, chosen), NAMES)
    loaded = MoleculeDataset.from_npz(part.save(tmp_path / "part.npz"))
    joined = MoleculeDataset.concatenate([dataset.subset(chosen[:1]), dataset.subset(chosen[1:])])
    for other in (part, loaded, joined):
        assert {name: values.tolist() for name, values in other.atom_features.items()} == {
            name: values.tolist() for name, values in wanted.items()
        }
    assert MoleculeDataset.concatenate([part, packaged_qm9()]).atom_features == {}
    with pytest.raises(ValueError, match="one row for each"):
        part.with_atom_features({"ring": np.zeros(3)})


def test_batches_and_shares(data):
    """Each row of a batch has the labels of its molecule and 0 at padding; shares are those of the training part."""
    part, dense = data.part("train"), data.dense("train")
    item = (0, torch.arange(min(20, dense.counts[0])))
    rows = dense.rows(item).tolist()
    wanted = label_atoms(map(part.record, rows), NAMES)
    for name in NAMES:
        values, mask = dense[item][name], dense[item]["node_mask"]
        assert values.dtype == torch.int64
        assert np.array_equal(values[mask].numpy(), wanted[name])
        assert not values[~mask].any()
    labels = label_atoms(map(part.record, range(len(part))), NAMES)
    for name, count in CLASSES.items():
        shares = [float((labels[name] == k).mean()) for k in range(count)]
        assert data.spec.atom_features[name] == pytest.approx(shares, abs=1e-12)
    spec = MoleculeSpec.from_dict(json.loads(json.dumps(data.spec.to_dict())))
    assert spec == data.spec
    assert not spec.has_vocabulary_of(small_spec())


def labelled_network(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        counts = {f"{name}_classes": count for name, count in CLASSES.items()}
        net = MessagePassing(3, 3, 4, options={"hidden": 16, "num_layers": 2}, **counts, **options)
        for parameter in net.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return net.double().eval()


def test_symmetry_of_a_network_with_labels():
    """Logits of labels do not turn, permute with the atoms, ignore padding, and see the labels of the input."""
    g, n, t = torch.Generator().manual_seed(0), 6, torch.tensor([0.3, 0.8], dtype=torch.float64)
    kinds = {"atom": 3, "charge": 3, **CLASSES}
    bond = torch.randint(4, (2, n, n), generator=g).triu(1)
    x = {name: torch.randint(count, (2, n), generator=g) for name, count in kinds.items()}
    x |= {"pos": torch.randn(2, n, 3, generator=g, dtype=torch.float64), "bond": bond + bond.mT}
    net, order = labelled_network(), torch.tensor([3, 0, 5, 1, 4, 2])
    out = net(x, t, {})
    turned = net({**x, "pos": x["pos"] @ random_rotation(g, reflect=True).T}, t, {})
    permuted = net({k: v[:, order][:, :, order] if k == "bond" else v[:, order] for k, v in x.items()}, t, {})
    short = {k: v[:, :4, :4] if k == "bond" else v[:, :4] for k, v in x.items()}
    wide, narrow = net(x, t, {"node_mask": torch.arange(n).expand(2, n) < 4}), net(short, t, {})
    for name, count in CLASSES.items():
        assert out[name].shape == (2, n, count)
        assert (turned[name] - out[name]).abs().max() < 1e-9
        assert (permuted[name] - out[name][:, order]).abs().max() < 1e-9
        assert (wide[name][:, :4] - narrow[name]).abs().max() < 1e-9
        other = net({**x, name: (x[name] + 1) % count}, t, {})
        assert (other["atom"] - out["atom"]).abs().max() > 1e-4


def labelled_module(recipe, spec):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MessagePassing(options={"hidden": 16, "num_layers": 2})
        return MoleculeDiffusion(network, recipe=recipe, spec=spec, self_conditioning=0.0)


def test_tables_weights_and_priors_of_the_labels(data):
    """Labels have the keep probability of atoms and their own shares; w = clamp(abar/(1 - abar), 0.05, 5) of bonds."""
    t = torch.tensor([0, 50, 100, 250, 400, 450], dtype=torch.float64) / 500
    recipe = EQGATDiff(atom_features=["hybridisation", "ring", "aromatic"])
    components = recipe.process(data.spec).discrete
    for name in NAMES:
        assert components[name].keep.alpha(t).tolist() == pytest.approx(KNOWN[1.0], abs=5.1e-7)
        assert components[name].probabilities.tolist() == pytest.approx(data.spec.atom_features[name])
    wanted = [min(max(a / (1 - a), 0.05), 5.0) for a in KNOWN[1.5]]
    assert recipe.time_weight(t).tolist() == pytest.approx(wanted, abs=3e-5)
    assert 5.0 in wanted
    assert wanted[3] == pytest.approx(2.489, abs=1e-3)  # above the cap of the recipe without labels


def test_loss_has_the_published_terms_of_the_labels(data, batch):
    """... + 0.5 ce_ring + 0.7 ce_aromatic + 1.0 ce_hybridisation, means over the atoms of a molecule."""
    model = labelled_module(EQGATDiff(20, atom_features=NAMES), data.spec).double()
    batch = {**batch, "pos": batch["pos"].double()}
    with torch.no_grad():
        result = model.training_loss(batch, torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    state, _, cond = model.prepare(batch)
    t = model.sample_time(len(batch["pos"]), g)
    noise = model._noise(state["pos"], cond, g)
    x_t, _ = model.denoiser.process.perturb(state, t, {"pos": noise}, generator=g, cond=cond)
    with torch.no_grad():
        out = model.denoiser.network(x_t, t.double(), cond)
    weights = {"pos": 3.0, "atom": 0.4, "charge": 1.0, "bond": 1.0, "ring": 0.5, "aromatic": 0.7, "hybridisation": 1.0}
    assert model.recipe.loss_weights == weights
    scale = model.recipe.time_weight(t)
    for k, n in enumerate(batch["node_mask"].sum(1).tolist()):
        total = 0.0
        for name in NAMES:
            error = -out[name][k, :n].log_softmax(-1)[torch.arange(n), batch[name][k, :n]].mean()
            assert float(result.parts[name][k]) == pytest.approx(float(error), rel=1e-6)
            total += weights[name] * float(error)
        rest = sum(weights[name] * float(result.parts[name][k]) for name in ("pos", "atom", "charge", "bond"))
        assert float(result.loss[k]) == pytest.approx(float(scale[k]) * (total + rest), rel=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"prior": "mask"}, {"types": "gaussian"}], ids=["marginal", "mask", "gaussian"]
)
def test_a_model_with_labels_learns_them_and_draws_molecules(options, data, batch, tmp_path):
    """The loss of the labels falls; samples are molecules, survive saving and take a fixed part."""
    model = labelled_module(EQGATDiff(20, atom_features=NAMES, **options), data.spec)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(20):
        optimizer.zero_grad()
        result = model.training_loss(batch, torch.Generator().manual_seed(0))
        result.loss.mean().backward()
        optimizer.step()
        losses.append(sum(result.parts[name].mean().item() for name in NAMES))
    assert losses[-1] < 0.75 * losses[0]
    generator = MoleculeGenerator(model)
    mols = generator.sample(3, steps=4, seed=1)
    again = MoleculeGenerator.from_pretrained(generator.save(tmp_path / "m.safetensors"))
    assert again.recipe.atom_features == NAMES
    for record, other in zip(mols, again.sample(3, steps=4, seed=1)):
        assert set(record.numbers.tolist()) <= set(data.spec.numbers)
        assert np.array_equal(record.pos, other.pos)
        assert np.array_equal(record.bonds, other.bonds)
    if model.recipe.is_discrete:
        part = data.part("train").record(0)
        grown = generator.sample(2, n_atoms=7, steps=4, fixed=part, fixed_atoms=[0, 1, 2])
        assert all(np.array_equal(record.numbers[:3], part.numbers[:3]) for record in grown)


def test_labels_are_trained_from_the_command_line(tmp_path, monkeypatch, capfd):
    """The options that the configuration names; a model with labels refuses to go on with data without."""
    monkeypatch.chdir(tmp_path)
    size = "--model.init_args.network.init_args.options {hidden:16,num_layers:2,edge_hidden:8,vector_hidden:8}"
    short = (
        "--trainer.max_steps 2 --trainer.accelerator cpu --trainer.logger false --trainer.limit_val_batches 1 "
        "--trainer.check_val_every_n_epoch null --trainer.val_check_interval 2 --trainer.enable_progress_bar false "
        "--data.init_args.root 2k --data.init_args.hydrogens implicit --data.init_args.batch_pairs 800 "
    ) + size.replace(",", ", ").replace(":", ": ")
    short = [*short.split(" {")[0].split(), "{" + short.split(" {")[1]]
    both = [f"--{place}.init_args.atom_features" for place in ("data", "model.init_args.recipe")]
    labels = [both[0], "[ring, aromatic, hybridisation]", both[1], "[ring, aromatic, hybridisation]"]
    assert main(["molecules", "fit", "-c", "eqgat_diff", *short, *labels, "--out", "m.safetensors"]) == 0
    generator = MoleculeGenerator.from_pretrained(tmp_path / "m.safetensors")
    assert {"ring", "aromatic", "hybridisation"} < set(generator.denoiser.process.components)
    assert len(generator.sample(2, steps=1)) == 2
    capfd.readouterr()
    assert main(["molecules", "fit", "-c", "eqgat_diff", *short, *labels[2:], "--out", "n.safetensors"]) == 2
    assert "give the data module atom_features" in capfd.readouterr().err
    assert not (tmp_path / "n.safetensors").exists()


def unbound():
    """A carbon with five bonds."""
    bonds = np.zeros((6, 6), dtype=int)
    bonds[0, 1:] = bonds[1:, 0] = 1
    return MoleculeRecord(np.array([6, 1, 1, 1, 1, 1]), np.zeros(6), bonds, np.eye(6, 3))


@pytest.mark.parametrize(
    ("make", "telling"),
    [
        (lambda: EQGATDiff(atom_features=["aromatics"]), "Did you mean 'aromatic'"),
        (lambda: QM9(atom_features=["rings"]), "Did you mean 'ring'"),
        (lambda: EQGATDiff(atom_features=["ring"]).process(small_spec()), "give the data module atom_features"),
        (lambda: EQGATDiff(nu={"ring": 1.0}), "got .'ring'"),
        (lambda: MoleculeDiffusion(PairFormer(), recipe=EQGATDiff(atom_features=["ring"])), "use MessagePassing"),
        (lambda: label_atoms([unbound()], ["ring"]), "molecule 0 fails"),
        (
            lambda: MoleculeDataModule.from_dataset(
                MoleculeDataset.from_records([unbound()] * 10), atom_features=["ring"]
            ),
            "prepare",
        ),
    ],
)
def test_bad_labels_are_refused(make, telling):
    with pytest.raises(ValueError, match=telling):
        make()


def test_fixed_parts_and_labels_exclude_each_other(data):
    with pytest.raises(ValueError, match="fixed parts exclude"):
        EQGATDiff(atom_features=["ring"]).process(data.spec, anchored=True)
