import json
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from rdkit import Chem

from molecules import QM9, MoleculeDataModule, MoleculeDataset
from molecules.chemistry import MoleculeRecord, assemble
from molecules.data import DenseMolecules, MoleculeSpec, packaged_qm9
from scidiff.buckets import BucketSampler, bucket_bounds
from scidiff.configurable import Configurable, build


@pytest.fixture(scope="module", params=["implicit", "explicit"])
def data(request):
    module = QM9(hydrogens=request.param, batch_pairs=3_000, root="2k")
    module.setup()
    return module


def test_every_batch_is_well_formed(data):
    """Shapes, types, symmetry, limits, centring and zero padding, on every batch of an epoch."""
    spec = data.spec
    for batch in data.train_dataloader():
        count, size = batch["atom"].shape
        mask = batch["node_mask"]
        assert batch["pos"].shape == (count, size, 3)
        assert batch["bond"].shape == (count, size, size)
        assert batch["pos"].dtype == torch.float32
        assert mask.dtype == torch.bool
        assert all(batch[name].dtype == torch.int64 for name in ("atom", "charge", "bond"))
        assert count * size**2 <= 3_000
        assert (mask.long().diff(dim=1) <= 0).all()  # real atoms first
        assert torch.equal(batch["bond"], batch["bond"].transpose(1, 2))
        assert not batch["bond"].diagonal(dim1=1, dim2=2).any()
        assert 0 <= int(batch["bond"].min()) <= int(batch["bond"].max()) <= 3
        assert int(batch["atom"].max()) < spec.num_atom_classes
        assert int(batch["charge"].max()) < spec.num_charge_classes
        for name in ("pos", "atom", "charge"):
            assert not batch[name][~mask].any()
        assert not batch["bond"][~(mask[:, :, None] & mask[:, None, :])].any()
        # float32 rounding of n coordinates below 8 angstrom
        assert batch["pos"].sum(1).abs().max() < 29 * 8 * 2**-23
        assert (batch["bond"].bool().any(2) | ~mask | (mask.sum(1, keepdim=True) == 1)).all()


def test_batches_are_the_molecules(data):
    """Each molecule of the training part once, and each batch row equal to its record."""
    part, spec = data.part("train"), data.spec
    dense = data.dense("train")
    seen = []
    for item in BucketSampler(dense, shuffle=True, seed=1):
        batch = dense[item]
        for b, row in enumerate(dense.rows(item).tolist()):
            seen.append(row)
            record, n = part.record(row), int(batch["node_mask"][b].sum())
            assert n == len(record)
            assert np.array_equal(np.array(spec.numbers)[batch["atom"][b, :n]], record.numbers)
            assert np.array_equal(np.array(spec.charges)[batch["charge"][b, :n]], record.formal_charge)
            assert np.array_equal(batch["bond"][b, :n, :n], record.bonds)
            assert record.pos is not None
            centred = record.pos - record.pos.mean(axis=0)
            assert batch["pos"][b, :n].numpy() == pytest.approx(centred, abs=2e-6)
    assert sorted(seen) == list(range(len(part)))


def test_spec_is_that_of_the_training_part(data):
    """The scale of a model: the batches' own standard deviation, over real atoms."""
    total = squares = 0.0
    for batch in data.train_dataloader():
        values = batch["pos"][batch["node_mask"]].double()
        total += values.numel()
        squares += float((values**2).sum())
    assert (squares / total) ** 0.5 == pytest.approx(data.spec.pos_std, rel=1e-6)
    assert data.spec == MoleculeSpec.from_dataset(data.part("train"))
    assert sum(data.spec.sizes.values()) == 1_600
    assert data.spec.explicit_h == ("H" in data.spec.elements)


def plan(sampler):
    return [(bucket, tuple(index.tolist())) for bucket, index in sampler]


def test_order_depends_on_seed_and_epoch_only(data):
    dense = data.dense("train")
    sampler = BucketSampler(dense, shuffle=True, seed=5)
    first = plan(sampler)
    assert plan(sampler) == first
    assert plan(BucketSampler(dense, shuffle=True, seed=5)) == first
    assert len(first) == len(sampler)
    sampler.set_epoch(1)
    assert plan(sampler) != first
    sampler.set_epoch(0)
    assert plan(sampler) == first
    assert plan(BucketSampler(dense, shuffle=True, seed=6)) != first
    fixed = BucketSampler(dense, shuffle=False, seed=5)
    assert plan(fixed) == plan(BucketSampler(dense, shuffle=False, seed=6))
    assert [bucket for bucket, _ in fixed] == sorted(bucket for bucket, _ in fixed)


def test_batches_of_a_bucket_have_nearly_equal_length(data):
    for bucket, size in enumerate(data.dense("train").batch_sizes):
        lengths = [len(index) for k, index in BucketSampler(data.dense("train"), shuffle=True) if k == bucket]
        assert max(lengths) - min(lengths) <= 1
        assert max(lengths) <= size


def test_bucket_bounds_by_hand():
    """Down to 0.9 of the largest; below that only while there is less than one full batch."""
    sizes = np.array([10] * 30 + [9] * 5 + [8] * 40 + [7] * 2 + [3])
    # full batches are 10 (of size 10), 15 (of size 8) and 20 (of size 7): the 3 joins the two 7s
    assert bucket_bounds(sizes, lambda size: 1_000 // size**2).tolist() == [7, 8, 10]
    assert bucket_bounds(sizes, lambda size: 100 // size**2).tolist() == [3, 7, 8, 10]
    assert bucket_bounds(sizes, lambda size: 100_000 // size**2).tolist() == [10]


def test_limits_are_explained():
    dataset = packaged_qm9()
    spec = MoleculeSpec.from_dataset(dataset)
    with pytest.raises(ValueError, match=r"27 atoms \(729 pairs\)"):
        DenseMolecules(dataset, spec, batch_pairs=728)
    assert len(DenseMolecules(dataset, spec, batch_pairs=729)) == 2_000
    with pytest.raises(ValueError, match="no molecule"):
        DenseMolecules(dataset.subset(np.zeros(2_000, dtype=bool)), spec, batch_pairs=729)
    heavy = MoleculeSpec.from_dataset(dataset.without_hydrogens())
    with pytest.raises(ValueError, match="vocabulary"):
        DenseMolecules(dataset, heavy, batch_pairs=729)


def test_molecules_outside_the_vocabulary_are_counted():
    """Fluorine stands in the test part only: it is not batched, not an error, and not forgotten."""
    fluoride = MoleculeRecord(np.array([1, 9]), np.zeros(2), np.array([[0, 1], [1, 0]]), np.eye(2, 3))
    base = packaged_qm9().subset(np.arange(20))
    records = [base.record(k) for k in range(20)] + [fluoride]
    split = np.array([0] * 16 + [1] * 2 + [2] * 3)
    module = MoleculeDataModule.from_dataset(MoleculeDataset.from_records(records, split=split))
    assert sum(len(batch["pos"]) for batch in module.test_dataloader()) == 2
    assert sum(len(batch["pos"]) for batch in module.train_dataloader()) == 16
    assert module.num_outside == {"test": 1, "train": 0}
    assert "F" not in module.spec.elements


class Recorder(pl.LightningModule):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: dict[int, list[float]] = {}

    def training_step(self, batch, _):
        self.epochs.setdefault(self.current_epoch, []).append(float(batch["pos"].abs().sum()))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lightning_sees_another_order_each_epoch(tmp_path):
    runs = []
    for _ in range(2):
        recorder = Recorder()
        trainer = pl.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(recorder, QM9(root="2k", batch_pairs=4_000))
        runs.append(recorder.epochs)
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]
    assert sum(runs[0][0]) == pytest.approx(sum(runs[0][1]), rel=1e-5)


def test_two_ranks_share_an_epoch():
    """Lightning wraps the sampler for DDP: both ranks together see every batch, and epochs still differ inside."""
    module = QM9(root="2k", batch_pairs=2_000)
    module.setup()
    seen = []
    for epoch in (0, 1):
        ranks = []
        for rank in (0, 1):
            sampler = BucketSampler(module.dense("train"), shuffle=True, epoch=lambda epoch=epoch: epoch)
            wrapped = DistributedSamplerWrapper(sampler, num_replicas=2, rank=rank, seed=0)
            wrapped.set_epoch(epoch)
            ranks.append(plan(wrapped))
        union = set(ranks[0]) | set(ranks[1])
        assert union == set(plan(sampler))
        assert abs(len(ranks[0]) - len(ranks[1])) == 0
        seen.append(union)
    assert seen[0] != seen[1]


def test_missing_full_set_falls_back_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = QM9()
    with pytest.warns(UserWarning, match="prepare qm9"):
        module.setup()
    assert len(module.dataset) == 2_000
    with pytest.raises(FileNotFoundError, match="prepare"):
        QM9(root=tmp_path / "absent.npz").setup()
    small = packaged_qm9().subset(np.arange(0, 2_000, 20))
    small.save(tmp_path / "data" / "qm9.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for root in (None, tmp_path / "data", tmp_path / "data" / "qm9.npz"):
            module = QM9(root=root)
            module.setup()
            assert len(module.dataset) == 100


def test_raw_file_is_cleaned_at_setup(tmp_path):
    source = packaged_qm9().subset(np.arange(30))
    with Chem.SDWriter(str(tmp_path / "mine.sdf")) as writer:
        for k in range(30):
            writer.write(assemble(source.record(k)))
        bare = Chem.MolFromSmiles("CCO")
        bare.AddConformer(Chem.Conformer(3))
        bare.GetConformer().SetPositions(np.array([[0, 0, 0], [1.5, 0, 0], [2.1, 1.2, 0]]))
        writer.write(bare)
    module = MoleculeDataModule.from_sdf(tmp_path / "mine.sdf", hydrogens="implicit", fractions=(0.5, 0.25, 0.25))
    module.setup()
    assert module.report is not None
    assert (module.report.kept, module.report.total) == (31, 31)
    assert [len(module.part(name)) for name in ("train", "valid", "test")] == [16, 7, 8]
    assert not module.spec.explicit_h
    explicit = MoleculeDataModule(tmp_path / "mine.sdf")
    explicit.setup()
    assert explicit.report is not None
    assert explicit.report.reasons == {"implicit_h": 1}


def test_wrong_options_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="hydrogens"):
        QM9(hydrogens="none")
    with pytest.raises(ValueError, match="batch_pairs"):
        QM9(batch_pairs=0)
    with pytest.raises(ValueError, match="sum 1"):
        MoleculeDataModule("a.npz", fractions=(0.5, 0.5, 0.5))
    with pytest.raises(FileNotFoundError):
        MoleculeDataModule(tmp_path / "a.npz").setup()
    packaged_qm9().without_hydrogens().save(tmp_path / "heavy.npz")
    with pytest.raises(ValueError, match="no hydrogens"):
        MoleculeDataModule(tmp_path / "heavy.npz", hydrogens="explicit").setup()
    MoleculeDataModule(tmp_path / "heavy.npz", hydrogens="implicit").setup()


@pytest.mark.parametrize("module", [QM9(root="2k", batch_pairs=999), MoleculeDataModule("a.npz", seed=3)], ids=repr)
def test_config_describes_a_module(module):
    config = json.loads(json.dumps(module.to_config()))
    again = build(config)
    assert isinstance(again, Configurable)
    assert type(again) is type(module)
    assert again.to_config() == module.to_config()
    assert (again.batch_pairs, again.seed) == (module.batch_pairs, module.seed)
