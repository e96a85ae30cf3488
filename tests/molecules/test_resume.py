"""An interrupted run of a bucketed data set goes on as if nothing had happened."""

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from molecules.data import QM9
from molecules.diffusion import MoleculeDiffusion
from molecules.networks import PairFormer

STOP, STEPS = 5, 12


class Losses(Callback):
    def __init__(self):
        self.values, self.epochs = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())
        self.epochs.append(trainer.current_epoch)


def fit(folder, max_steps=STEPS, ckpt_path=None):
    torch.manual_seed(len(list(folder.iterdir())))  # the weights of a resumed run must come from the file
    module = MoleculeDiffusion(PairFormer(width=8, pair_width=8, num_layers=1, num_heads=2, num_rbf=4), warmup_steps=4)
    keep = ModelCheckpoint(folder, "step{step}", every_n_train_steps=STOP, save_top_k=-1, auto_insert_metric_name=False)
    losses = Losses()
    trainer = Trainer(
        max_steps=max_steps,
        callbacks=[keep, losses],
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=QM9(root="2k", batch_pairs=16_000), ckpt_path=ckpt_path, weights_only=True)
    return module, losses


@pytest.mark.slow
def test_resume_inside_an_epoch_repeats_the_loss_curve(tmp_path):
    """12 steps straight = 5 and 7 resumed from the file: order of batches, noise, weights, average, to the bit."""
    straight, losses = fit(tmp_path)
    assert losses.epochs[STOP] == 0 < losses.epochs[-1]  # stopped inside an epoch, went on into the next
    resumed, rest = fit(tmp_path, ckpt_path=tmp_path / f"step{STOP}.ckpt")
    assert len(losses.values) == STEPS
    assert rest.values == losses.values[STOP:]
    assert len(set(losses.values)) == STEPS
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert straight.ema is not None
    assert resumed.ema is not None
    for name, value in straight.ema.shadow.items():
        assert torch.equal(value, resumed.ema.shadow[name]), name
