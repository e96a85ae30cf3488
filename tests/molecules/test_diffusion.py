import itertools
import json

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy.optimize import linear_sum_assignment

from molecules import QM9, MoleculeDataModule, MoleculeDataset, MoleculeDiffusion, MoleculeGenerator
from molecules.chemistry import MoleculeRecord
from molecules.data import packaged_qm9
from molecules.networks import PairFormer
from molecules.recipes import Flow
from scidiff.checkpoint import load_state, state_of
from scidiff.configurable import build
from scidiff.training import warmup_cosine
from tests.molecules.models import SMALL, small_network, small_spec


def module(**options):
    """Small module with random weights, in double precision."""
    model = MoleculeDiffusion(PairFormer(**SMALL), spec=small_spec(), **options)
    load_state(model.denoiser.network, state_of(small_network()))
    return model.double()


@pytest.fixture(scope="module")
def batch():
    """Two molecules of each size of the packaged data, in double precision."""
    data = QM9(root="2k", batch_pairs=100_000)
    dense = data.dense("train")
    sizes = data.part("train").sizes
    wanted = np.concatenate([np.flatnonzero(sizes == n)[:2] for n in (5, 7, 9)])
    found = []
    for k, bucket in enumerate(dense.buckets):
        for place in np.flatnonzero(np.isin(bucket.rows, wanted)):
            found.append(dense[(k, torch.tensor([place]))])
    width = max(part["atom"].shape[1] for part in found)
    grown = {name: torch.cat([grow(part[name], width) for part in found]) for name in found[0]}
    return {**grown, "pos": grown["pos"].double()}


def grow(value, width):
    """Pad the atom axes (1, and 2 of bonds) to ``width``."""
    shape = [
        len(value),
        width,
        *((width,) if value.ndim == 3 and value.shape[2] == value.shape[1] else value.shape[2:]),
    ]
    out = value.new_zeros(shape)
    out[tuple(slice(n) for n in value.shape)] = value
    return out


def test_marginals_are_those_of_the_data():
    """Straight paths; classes kept with probability 1 - t, else drawn from the shares of the training data."""
    spec, process = small_spec(), Flow().process(small_spec())
    shares = {"atom": spec.atom_marginal, "charge": spec.charge_marginal, "bond": spec.bond_marginal}
    count, n, t = 4_000, 5, 0.4
    times = torch.full((count,), t, dtype=torch.float64)
    pos = torch.randn(1, n, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    pos = (pos - pos.mean(1, keepdim=True)).repeat(count, 1, 1)
    clean = {name: torch.ones(count, n, dtype=torch.int64) for name in ("atom", "charge")}
    clean |= {"pos": pos, "bond": torch.ones(count, n, n, dtype=torch.int64) - torch.eye(n, dtype=torch.int64)}
    noisy, _ = process.perturb(clean, times, generator=torch.Generator().manual_seed(1))
    for name, share in shares.items():
        wanted = t * np.array(share) / sum(share)
        wanted[1] += 1 - t
        drawn = noisy[name][:, *np.triu_indices(n, 1)] if name == "bond" else noisy[name]
        found = np.bincount(drawn.flatten(), minlength=len(share)) / drawn.numel()
        assert found == pytest.approx(wanted, abs=4 * 0.5 / drawn.numel() ** 0.5)
    assert torch.equal(noisy["bond"], noisy["bond"].mT)
    assert not noisy["bond"].diagonal(dim1=1, dim2=2).any()
    error = noisy["pos"] - (1 - t) * pos
    assert error.sum(1).abs().max() < 1e-12
    assert float(error.square().mean()) == pytest.approx(t**2 * (1 - 1 / n), rel=4 * (2 / (count * 12)) ** 0.5)


@pytest.mark.parametrize(
    ("coupling", "self_conditioning", "seed"),
    [("independent", 0.0, 1), ("equivariant_ot", 0.5, 1), ("equivariant_ot", 0.5, 2), ("independent", 1.0, 3)],
)
def test_loss_is_the_one_computed_by_hand(batch, coupling, self_conditioning, seed):
    """Times, coupled noise, x_t, self-conditioning, preconditioning and cross entropies, from the same generator."""
    weights = {"pos": 0.7, "atom": 0.3, "charge": 1.1, "bond": 1.9}
    model = module(coupling=coupling, self_conditioning=self_conditioning, loss_weights=weights)
    result = model.training_loss(batch, torch.Generator().manual_seed(seed))
    total, parts, t, _ = by_hand(model, batch, coupling, self_conditioning, torch.Generator().manual_seed(seed))
    assert torch.equal(result.t, t)
    for name, part in parts.items():
        assert torch.allclose(result.parts[name], part, rtol=1e-10), name
    assert torch.allclose(result.loss, total, rtol=1e-10)
    wanted = sum(weights[name] * part for name, part in parts.items())
    assert torch.allclose(total, wanted, rtol=1e-12)


def test_both_branches_of_self_conditioning_are_tested(batch):
    """The seeds of the test above: one step with the earlier prediction, one without."""
    drawn = [by_hand(module(), batch, "equivariant_ot", 0.5, torch.Generator().manual_seed(seed))[3] for seed in (1, 2)]
    assert sorted(drawn) == [False, True]


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_distortion_pushes_a_share_of_the_atoms_near_the_data(batch, share):
    """E |push|^2 = 3 (n - 1) share (0.5 A)^2 a centred molecule of n atoms where t < 0.5; nothing elsewhere."""
    models = [module(coupling="independent", self_conditioning=0.0, distortion=d) for d in (0.0, share)]
    seen = []
    for model in models:
        model.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    counts, ratios = batch["node_mask"].sum(1), []
    for seed in range(40):
        seen.clear()
        for model in models:
            model.training_loss(batch, torch.Generator().manual_seed(seed))
        (plain, t), (pushed, again) = (inputs[:2] for inputs in seen)
        assert torch.equal(t, again)
        push = small_spec().pos_std * (pushed["pos"] - plain["pos"])
        assert not push[t >= 0.5].any()
        assert not push[~batch["node_mask"]].any()
        assert push.sum(1).abs().max() < 1e-12
        square = push.square().sum((1, 2)) / (3 * (counts - 1) * share * 0.25)
        ratios += square[t < 0.5].tolist()
    # a square of mean 1: kurtosis 3/share at most a component, of which there are at least 12 a molecule
    assert np.mean(ratios) == pytest.approx(1, abs=4 * (3 / share / 12 / len(ratios)) ** 0.5)


def by_hand(model, batch, coupling, self_conditioning, g):
    spec, mask = small_spec(), batch["node_mask"]
    b = len(mask)
    pos = batch["pos"] / spec.pos_std
    u = torch.rand(b, generator=g, dtype=torch.float64)
    u = (torch.randperm(b, generator=g) + u) / b
    t = (1 - (1 - u).sqrt()).float()  # density 2 (1 - t)
    z = torch.randn(pos.shape, generator=g, dtype=torch.float64)
    noise = torch.zeros_like(z)
    for k, count in enumerate(mask.sum(1).tolist()):
        own = z[k, :count] - z[k, :count].mean(0)
        noise[k, :count] = transported(pos[k, :count], own) if coupling == "equivariant_ot" else own
    time = t.double()[:, None, None]
    x_t = {"pos": (1 - time) * pos + time * noise}
    for name in ("atom", "charge", "bond"):
        share = torch.tensor(getattr(spec, f"{name}_marginal"))
        u = torch.rand(batch[name].shape, generator=g)
        kept = (1 - t).reshape(b, *[1] * (u.ndim - 1))
        drawn = torch.searchsorted(share.cumsum(0)[:-1].contiguous(), ((u - kept) / (1 - kept)).clamp(0, 1), right=True)
        mixed = torch.where(u < kept, batch[name], drawn)
        pairs = (mask[:, :, None] & mask[:, None, :]).triu(1)
        x_t[name] = mixed * mask if name != "bond" else mixed * pairs + (mixed * pairs).mT
    with_previous = bool(torch.rand((), generator=g, dtype=torch.float32) < self_conditioning)
    cond = {"node_mask": mask}
    if with_previous:
        clean, logits = predicted(model, x_t, t, cond)
        cond["self_cond"] = {"pos": clean, **{name: value.softmax(-1) for name, value in logits.items()}}
    clean, logits = predicted(model, x_t, t, cond)
    weight = ((1 - time) ** 2 + time**2) / time**2
    square = torch.where(mask[..., None], weight * (clean - pos) ** 2, 0)
    parts = {"pos": square.sum((1, 2)) / (3 * mask.sum(1))}
    for name, value in logits.items():
        error = -value.log_softmax(-1).gather(-1, batch[name][..., None])[..., 0]
        live = (mask[:, :, None] & mask[:, None, :]).triu(1) if name == "bond" else mask
        parts[name] = torch.where(live, error, 0).flatten(1).sum(1) / live.flatten(1).sum(1)
    total = sum(model.loss.weights[name] * part for name, part in parts.items())
    return total, parts, t, with_previous


def predicted(model, x_t, t, cond):
    """D = c_skip x_t + c_out F(c_in x_t) for data of unit variance, and the logits."""
    time = t.double()[:, None, None]
    variance = (1 - time) ** 2 + time**2
    with torch.no_grad():
        out = model.denoiser.network({**x_t, "pos": x_t["pos"] / variance.sqrt()}, t.double(), cond)
    clean = (1 - time) / variance * x_t["pos"] + time / variance.sqrt() * out.pop("pos")
    return clean, out


def transported(pos, noise):
    """Assignment of the noise to the atoms, then its best proper rotation (Kabsch)."""
    order = linear_sum_assignment(torch.cdist(pos, noise).square())[1]
    noise = noise[order]
    u, _, vh = torch.linalg.svd(noise.T @ pos)
    sign = torch.ones(3, dtype=torch.float64)
    sign[2] = torch.det(u @ vh).sign()
    return noise @ (u * sign) @ vh


def test_coupling_shortens_the_way_and_keeps_the_noise(batch):
    """Cost against brute force over assignments; distances within the noise, its mean and chirality do not change."""
    model, mask = module(), batch["node_mask"]
    pos = batch["pos"] / small_spec().pos_std
    space = model.denoiser.process.continuous["pos"].space
    cond = {"node_mask": mask}
    noise = space.project(torch.randn(pos.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64), cond)
    coupled = model.coupling.couple(pos, noise, cond)
    before, after = (((x - pos) ** 2).sum((1, 2)) for x in (noise, coupled))
    assert (after < before).all()
    assert coupled.sum(1).abs().max() < 1e-12
    assert not coupled[~mask].any()
    for k, count in enumerate(mask.sum(1).tolist()):
        distances = [torch.pdist(x[k, :count]).sort().values for x in (noise, coupled)]
        assert torch.allclose(*distances, atol=1e-12)
        if count == 5:
            costs = (((noise[k, list(p)] - pos[k, :5]) ** 2).sum() for p in itertools.permutations(range(5)))
            assert float(after[k]) <= float(min(costs)) + 1e-12  # the rotation only improves the best assignment
    assert torch.equal(module(coupling="independent").coupling.couple(pos, noise, cond), noise)


def test_configuration_and_weights_come_back(batch):
    """From plain JSON, with the spec and the class counts that the data gave."""
    model = module(lr=0.002, loss_weights={"pos": 3.0}, coupling="independent", self_conditioning=0.25)
    config = json.loads(json.dumps(model.to_config()))
    assert config["init_args"]["network"]["init_args"]["atom_classes"] == 3
    assert model.loss.weights == {**Flow.loss_weights, "pos": 3.0}
    again = build(config).double()
    assert again.to_config() == config
    assert again.spec == small_spec()
    load_state(again, state_of(model))
    losses = [m.training_loss(batch, torch.Generator().manual_seed(4)).loss for m in (model, again)]
    assert torch.equal(*losses)


def test_no_self_conditioning_is_told_to_the_sampler():
    assert not module(self_conditioning=0.0).denoiser.self_conditioning
    assert module(self_conditioning=0.1).denoiser.self_conditioning


@pytest.fixture
def trainer(tmp_path):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return pl.Trainer(
        max_steps=2, limit_val_batches=1, enable_model_summary=False, default_root_dir=tmp_path, **options
    )


def test_vocabulary_comes_from_the_data_once(trainer, tmp_path):
    """Class counts of the network from the data module; then data of another vocabulary is refused."""
    data = QM9(hydrogens="explicit", root="2k", batch_pairs=3_000)
    model = MoleculeDiffusion(PairFormer(**SMALL))
    assert model.spec is None
    trainer.fit(model, datamodule=data)
    assert model.spec == data.spec
    assert model.denoiser.network.classes == {"atom": 4, "charge": 3, "bond": 4}
    assert MoleculeGenerator(model).sample(2, steps=1).vocabulary == data.spec
    with pytest.raises(ValueError, match=r"built for MoleculeSpec\(H C N O.*data is MoleculeSpec\(C N O"):
        trainer.fit(model, datamodule=QM9(root="2k"))
    checkpoint = {}
    model.on_save_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="elements, charges, hydrogens"):
        module().on_load_checkpoint(checkpoint)
    model.on_load_checkpoint(checkpoint)


def test_equal_class_counts_are_not_the_same_vocabulary(trainer):
    """C N S instead of C N O: the shapes fit, the meaning does not."""
    part = packaged_qm9().subset("train").without_hydrogens()
    records = [part.record(i) for i in range(len(part))]
    changed = [MoleculeRecord(np.where(r.numbers == 8, 16, r.numbers), *parts(r)) for r in records]
    data = MoleculeDataModule.from_dataset(MoleculeDataset.from_records(changed))
    with pytest.raises(ValueError, match="elements of the model"):
        trainer.fit(module(), datamodule=data)


def parts(record):
    return record.formal_charge, record.bonds, record.pos, record.explicit_h


def test_neutral_molecules_of_one_charge_can_be_learnt(trainer):
    """Most data has no formal charge at all: the charge is then a constant of one class."""
    part = packaged_qm9().without_hydrogens()
    charged = np.bincount(np.repeat(np.arange(len(part)), part.sizes), np.abs(part.formal_charge)) > 0
    data = MoleculeDataModule.from_dataset(part.subset(~charged))
    assert data.spec.charges == (0,)
    model = MoleculeDiffusion(PairFormer(**SMALL))
    trainer.fit(model, datamodule=data)
    assert all((record.formal_charge == 0).all() for record in MoleculeGenerator(model).sample(5, steps=2))


def test_a_module_without_vocabulary_says_so(trainer):
    loader = QM9(root="2k").train_dataloader()
    with pytest.raises(ValueError, match="fit with a MoleculeDataModule, or build the module with spec="):
        trainer.fit(MoleculeDiffusion(PairFormer(**SMALL)), train_dataloaders=loader)
    with pytest.raises(ValueError, match="has not seen any data"):
        MoleculeGenerator(MoleculeDiffusion(PairFormer(**SMALL)))


@pytest.mark.parametrize(
    ("options", "telling"),
    [
        ({"loss_weights": {"charges": 1.0}}, "got .*charges"),
        ({"self_conditioning": 1.5}, "a probability, got 1.5"),
        ({"coupling": "ot"}, "'independent', got 'ot'"),
        ({"lr": 0.0}, "lr must be positive"),
    ],
)
def test_bad_options_are_refused(options, telling):
    with pytest.raises(ValueError, match=telling):
        MoleculeDiffusion(PairFormer(**SMALL), **options)


@pytest.mark.slow
def test_a_few_molecules_are_learnt():
    """The 32 smallest molecules of the subset, four noise levels of each a step: 90 % of 256 samples are valid."""
    part = packaged_qm9().subset("train").without_hydrogens()
    part = part.subset(np.argsort(part.sizes, kind="stable")[:32])
    data = MoleculeDataModule.from_dataset(part, batch_pairs=10_000)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PairFormer(width=96, pair_width=32, num_layers=3, num_heads=4, num_rbf=16)
        model = MoleculeDiffusion(network, spec=data.spec, self_conditioning=0.9, ema=None)
    (batch,) = data.train_dataloader()
    batch = {name: torch.cat([value] * 4) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.99))
    generator, steps = torch.Generator().manual_seed(0), 1_000
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * warmup_cosine(step, 30, step / steps)
        optimizer.zero_grad()
        model.training_loss(batch, generator).loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    mols = MoleculeGenerator(model).sample(256, seed=0)
    assert mols.valid_fraction >= 0.9, mols.failures()
    assert len({smiles for smiles in mols.smiles if smiles}) > 10
