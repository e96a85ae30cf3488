"""Fixed atoms: their space, coupling, random parts, and the sampler that completes them."""

import itertools

import networkx as nx
import numpy as np
import pytest
import torch

from molecules import MoleculeDiffusion, MoleculeGenerator
from molecules.anchors import Anchored, AnchoredOT, centred_on_fixed, random_parts
from molecules.data import QM9
from molecules.fragments import fixed_parts, fixed_state
from molecules.networks import PairFormer
from scidiff.couplings import EquivariantOT
from scidiff.noise import ZeroMean
from scidiff.samplers import sample
from scidiff.testing import random_rotation
from tests.molecules.models import SMALL, small_spec
from tests.molecules.test_fragments import embedded

MASK = torch.arange(6) < torch.tensor([6, 5, 6])[:, None]
FIXED = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0]]).bool()
COND = {"node_mask": MASK, "fixed": FIXED}


@pytest.fixture(scope="module")
def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MoleculeDiffusion(PairFormer(**SMALL), spec=small_spec(), fixed_share=0.6)
        for parameter in model.denoiser.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.double()


@pytest.fixture(scope="module")
def batch():
    data = QM9(root="2k", batch_pairs=20_000).dense("train")
    found = data[(len(data.buckets) - 1, torch.arange(64))]
    return {**found, "pos": found["pos"].double()}


def test_space_of_molecules_with_and_without_fixed_atoms():
    """An idempotent projection: zero at fixed atoms; mean zero, with 3 dimensions less, only where nothing is fixed."""
    space, x = Anchored(), torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = space.project(x, COND)
    assert torch.equal(space.project(y, COND), y) or (space.project(y, COND) - y).abs().max() < 1e-15
    assert not y[FIXED].any()
    assert torch.equal(y[0, 2:], x[0, 2:])
    assert y[1].sum(0).abs().max() < 1e-14
    assert space.dims(x, COND).tolist() == [12, 12, 9]
    plain = {"node_mask": MASK}
    assert torch.equal(space.project(x, plain), ZeroMean().project(x, plain))
    assert torch.equal(space.dims(x, plain), ZeroMean().dims(x, plain))


def test_random_parts_are_connected_or_leave_a_connected_rest(batch):
    """Against networkx: one kind or the other; sizes cover 1..n - 1; the share is the one asked for, 4.5 sigma."""
    rows = {k: v.repeat(40, *[1] * (v.ndim - 1)) for k, v in batch.items()}
    parts = random_parts(rows["bond"], rows["node_mask"], 0.7, torch.Generator().manual_seed(0))
    fixed, count = parts["fixed"], len(rows["bond"])
    chosen = fixed.any(1)
    assert float(chosen.double().mean()) == pytest.approx(0.7, abs=4.5 * (0.21 / count) ** 0.5)
    assert torch.equal(parts["fixed_pair"], fixed[:, :, None] & fixed[:, None])
    kinds, sizes, nodes = np.zeros(2), set(), rows["node_mask"].sum(1)
    for k in torch.nonzero(chosen).flatten().tolist():
        n = int(nodes[k])
        graph = nx.from_numpy_array(rows["bond"][k, :n, :n].numpy() > 0)
        part = set(torch.nonzero(fixed[k]).flatten().tolist())
        rest = set(range(n)) - part
        assert part
        assert rest
        whole = [nx.is_connected(graph.subgraph(nodes)) for nodes in (part, rest)]
        assert any(whole)
        kinds += [not whole[0], not whole[1]]
        sizes.add((n, len(part)))
    assert (kinds > 20).all()  # both kinds occur, told apart where only one of the two is connected
    n = int(nodes.max())
    assert {size for m, size in sizes if m == n} == set(range(1, n))


def test_fixed_atoms_stay_clean_in_training_and_carry_no_loss(module, batch):
    """x_t equals the data at fixed atoms, bonds included; their predictions do not enter the loss."""
    g = torch.Generator().manual_seed(1)
    state, _, cond = module.prepare(batch)
    cond |= random_parts(batch["bond"], batch["node_mask"], 1.0, g)
    state["pos"] = centred_on_fixed(state["pos"], cond["fixed"])
    assert (state["pos"] * cond["fixed"][..., None]).sum(1).abs().max() < 1e-12
    t = torch.full((len(batch["pos"]),), 0.9, dtype=torch.float64)
    x_t, _ = module.denoiser.process.perturb(state, t, generator=g, cond=cond)
    for name, value in x_t.items():
        held = cond["fixed_pair" if name == "bond" else "fixed"]
        assert torch.equal(value[held], state[name][held])
        free = ~held & (batch["node_mask"] if name != "bond" else batch["node_mask"][:, :, None])
        assert (value[free] != state[name][free]).any()
    with torch.no_grad():
        result = module.loss(module.denoiser, state, t, x_t=x_t, cond=cond)
        prediction = module.denoiser(x_t, t, cond)
    row = int(torch.nonzero(cond["fixed"].sum(1) >= 2)[0])
    free = batch["node_mask"][row] & ~cond["fixed"][row]
    error = -prediction.logits["atom"][row].log_softmax(-1).gather(-1, state["atom"][row][:, None])[:, 0]
    assert float(result.parts["atom"][row]) == pytest.approx(float(error[free].mean()), rel=1e-10)
    pairs = (batch["node_mask"][row][:, None] & batch["node_mask"][row]).triu(1) & ~cond["fixed_pair"][row]
    error = -prediction.logits["bond"][row].log_softmax(-1).gather(-1, state["bond"][row][..., None])[..., 0]
    assert float(result.parts["bond"][row]) == pytest.approx(float(error[pairs].mean()), rel=1e-10)


def test_coupling_beside_fixed_atoms_is_the_best_assignment():
    """Brute force over permutations of the free atoms; fixed atoms keep theirs; without fixed atoms as ever."""
    g = torch.Generator().manual_seed(2)
    pos, noise = (torch.randn(3, 6, 3, generator=g, dtype=torch.float64) for _ in range(2))
    noise = Anchored().project(noise, COND)
    coupled = AnchoredOT().couple(pos, noise, COND)
    for k in (0, 2):
        free = np.flatnonzero(~FIXED[k].numpy())
        costs = {p: float((noise[k, list(p)] - pos[k, free]).square().sum()) for p in itertools.permutations(free)}
        best = min(costs, key=lambda p: costs[p])
        assert torch.equal(coupled[k, free], noise[k, list(best)])
        assert not coupled[k][FIXED[k]].any()

    whole = EquivariantOT().couple(pos[1:2], noise[1:2], {"node_mask": MASK[1:2]})
    assert (coupled[1] - whole[0]).abs().max() < 1e-12


def test_prediction_turns_with_part_and_noise(module):
    """Rotation and reflection of the whole state; the prediction at fixed atoms is where they are."""
    g = torch.Generator().manual_seed(3)
    x = {
        "pos": torch.randn(3, 6, 3, generator=g, dtype=torch.float64),
        "atom": torch.randint(3, (3, 6), generator=g),
        "charge": torch.randint(3, (3, 6), generator=g),
        "bond": torch.zeros(3, 6, 6, dtype=torch.long),
    }
    x["pos"] = torch.where(MASK[..., None], centred_on_fixed(x["pos"], FIXED), 0)
    cond, t = {**COND, "fixed_pair": FIXED[:, :, None] & FIXED[:, None]}, torch.full((3,), 0.6, dtype=torch.float64)
    rotation = random_rotation(torch.Generator().manual_seed(4), reflect=True)
    with torch.no_grad():
        first = module.denoiser(x, t, cond).x0
        second = module.denoiser({**x, "pos": x["pos"] @ rotation.T}, t, cond).x0
    assert (second["pos"] - first["pos"] @ rotation.T).abs().max() < 1e-9
    assert (second["bond"] - first["bond"]).abs().max() < 1e-9


@pytest.mark.parametrize("smiles", ["c1cc[nH]c1", "C1CC1"])
def test_sampler_holds_the_part_at_every_step(module, smiles):
    """Positions, classes and inner bonds of the state itself, from the start on; nothing is moved or turned."""
    generator = MoleculeGenerator(module)
    (part,) = fixed_parts(embedded(smiles), None, 1, small_spec())
    k, n = len(part), 8
    cond = {"node_mask": torch.ones(3, n, dtype=torch.bool)}
    seeds = [(0, i) for i in range(3)]
    start, fixed = generator._start([part] * 3, n, seeds, cond)
    seen = []
    options = {"solver": "ancestral", "steps": 4, "grid": "log", "solver_options": {"final_denoise": True}}
    end = sample(generator.denoiser, start, cond=cond | fixed, callback=lambda i: seen.append(i.x), **options)
    wanted = part.pos / small_spec().pos_std
    wanted = wanted - wanted.mean(0)
    for x in [start, *seen, end]:
        assert np.abs(x["pos"][:, :k].numpy() - wanted).max() < 1e-6
        assert (x["atom"][:, :k].numpy() == small_spec().atom_index(part.numbers)).all()
        assert (x["bond"][:, :k, :k].numpy() == part.bonds).all()
    free = start["pos"][:, k:]
    assert free.mean(1).abs().max() > 0.05  # noise of the free atoms is not centred
    assert len(seen) == 4


def test_start_has_the_prior_of_the_free_atoms(module):
    """Variance 1 of 3 (n - k) numbers a molecule, classes from their shares: 4.5 standard errors."""
    generator = MoleculeGenerator(module)
    (part,) = fixed_parts(embedded("CO"), None, 1, small_spec())
    count, n = 400, 7
    cond = {"node_mask": torch.ones(count, n, dtype=torch.bool)}
    start, _ = generator._start([part] * count, n, [(0, i) for i in range(count)], cond)
    free = start["pos"][:, 2:]
    assert float(free.square().mean()) == pytest.approx(1.0, abs=4.5 * (2 / free.numel()) ** 0.5)
    share = np.bincount(start["atom"][:, 2:].flatten(), minlength=3) / (count * 5)
    assert share == pytest.approx(np.array(small_spec().atom_marginal), abs=4.5 * (0.25 / (count * 5)) ** 0.5)


def test_completed_molecules_lie_on_the_part(module, tmp_path):
    """Exactly as given, in the given frame; a saved generator does the same; without a part it still works."""
    generator, mol = MoleculeGenerator(module), embedded("C1CCOC1")
    wanted = mol.GetConformer().GetPositions()[:5]
    mols = generator.sample(4, fixed=mol, steps=3, seed=1)
    for record in mols:
        np.testing.assert_array_equal(record.pos[:5], wanted)
    again = MoleculeGenerator.from_pretrained(generator.save(tmp_path / "m.safetensors"))
    other = again.sample(4, fixed=mol, steps=3, seed=1, batch_size=2)
    for a, b in zip(mols, other):
        np.testing.assert_array_equal(a.numbers, b.numbers)
        np.testing.assert_allclose(a.pos, b.pos, rtol=0, atol=1e-4)
    assert len(again.sample(2, steps=2)) == 2


def test_masks_of_parts():
    (part,) = fixed_parts(embedded("CO"), None, 1, small_spec())
    state, masks = fixed_state([part], 4, small_spec(), 1.0)
    assert masks["fixed"].tolist() == [[True, True, False, False]]
    assert int(masks["fixed_pair"].sum()) == 4
    assert state["bond"][0, 0, 1] == 1
