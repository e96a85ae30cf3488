"""Training on several processes: every weight takes part, and the processes share the batches of an epoch."""

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback

from molecules.data import QM9
from molecules.diffusion import MoleculeDiffusion
from molecules.networks import PairFormer

RANKS = 2


def module(**options):
    network = PairFormer(width=8, pair_width=8, num_layers=1, num_heads=2, num_rbf=4)
    return MoleculeDiffusion(network, coupling="independent", **options)


def data():
    return QM9(root="2k", batch_pairs=16_000)


@pytest.mark.parametrize("self_conditioning", [0.0, 0.5, 1.0])
def test_every_weight_has_a_gradient_in_every_step(self_conditioning):
    """DDP waits for all gradients: a weight that a step leaves out stops the next one."""
    source = data()
    model = module(spec=source.spec, self_conditioning=self_conditioning)
    batch = {name: value[:4] for name, value in next(iter(source.train_dataloader())).items()}
    for seed in range(4):
        model.zero_grad(set_to_none=True)
        model.training_loss(batch, torch.Generator().manual_seed(seed)).loss.mean().backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


class Record(Callback):
    """Saves a number for each batch that a process saw, and its weights at the end."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(batch["pos"].double().square().sum().item())

    def on_train_end(self, trainer, pl_module):
        weights = {name: value.clone() for name, value in pl_module.state_dict().items()}
        torch.save({"seen": self.seen, "weights": weights}, self.folder / f"rank{trainer.global_rank}.pt")


def fit(folder, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "limit_val_batches": 0, "accelerator": "cpu", "max_epochs": 1}
    folder.mkdir()
    torch.manual_seed(0)
    Trainer(callbacks=[Record(folder)], **quiet, **options).fit(module(), datamodule=data())
    return [torch.load(path, weights_only=True) for path in sorted(folder.iterdir())]


@pytest.mark.slow
def test_processes_share_the_batches_of_an_epoch(tmp_path):
    """The batches of one process, each once, but for those that fill up the last round; the same weights at the end."""
    (one,) = fit(tmp_path / "one")
    first, second = fit(tmp_path / "two", devices=RANKS, strategy="ddp_spawn")
    assert len(first["seen"]) == len(second["seen"]) == -(-len(one["seen"]) // RANKS)
    assert set(first["seen"]) | set(second["seen"]) == set(one["seen"])  # Lightning deals them out in its own order
    assert len(set(first["seen"]) & set(second["seen"])) == 2 * len(first["seen"]) - len(one["seen"])
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    assert any(not torch.equal(value, one["weights"][name]) for name, value in first["weights"].items())
