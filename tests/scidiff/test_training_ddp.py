"""Two processes (gloo, CPU) against one: gradients, averages of weights, validation."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.scidiff.test_training import NUM_BATCHES, Toy, Watch, closed_form, flat, loader, trainer

pytestmark = pytest.mark.slow

STEPS, RANKS, DECAY = 6, 2, 0.9
OPTIONS = {"lr": 0.05, "lr_end": 1.0, "warmup_steps": 0, "ema": DECAY}


class Whole(Dataset):
    """Batches of different sizes as items, as in bucketed data; five, so that one is repeated on two processes."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return [torch.randn(3 + 2 * index, 2, generator=torch.Generator().manual_seed(index))]


class Watched(Toy):
    """Writes down each training batch and the seed of its noise."""

    def training_loss(self, batch, generator):
        if self.training:
            self.__dict__.setdefault("seen", []).append((batch[0].clone(), generator.initial_seed()))
        return super().training_loss(batch, generator)


class Record(Watch):
    """Saves what one process saw and had at the end of training."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        ema = {name: value.clone() for name, value in pl_module.ema.shadow.items()}
        content = {"seen": pl_module.seen, "weights": self.weights, "ema": ema, "updates": pl_module.ema.updates}
        torch.save(content, self.folder / f"rank{trainer.global_rank}.pt")


def watched():
    torch.manual_seed(0)
    return Watched(**OPTIONS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Records of both processes, metrics of the last validation."""
    folder = tmp_path_factory.mktemp("ddp")
    two = trainer(
        folder, [Record(folder)], devices=RANKS, strategy="ddp_spawn", max_steps=STEPS, num_sanity_val_steps=0
    )
    two.fit(watched(), loader(), DataLoader(Whole(), batch_size=None))
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]
    return ranks, {name: value.item() for name, value in two.callback_metrics.items()}


def test_weights_follow_the_mean_gradient_of_both_batches(run):
    """One process, by hand: AdamW on the gradient averaged over the batches that the two processes saw."""
    ranks, _ = run
    module = watched()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05, betas=(0.9, 0.99), weight_decay=1e-12)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in ranks:
            x_0, seed = rank["seen"][step]
            loss = module.eval().training_loss([x_0], torch.Generator().manual_seed(seed)).loss.mean()
            (loss / RANKS).backward()
        optimizer.step()
        for rank in ranks:
            torch.testing.assert_close(rank["weights"][step + 1], flat(module).double(), atol=1e-6, rtol=0)
    assert (flat(module) - flat(watched())).abs().max() > 0.1


def test_processes_see_different_data_and_noise(run):
    ranks, _ = run
    assert len({seed for rank in ranks for _, seed in rank["seen"]}) == RANKS * STEPS
    epoch = torch.cat([x_0 for rank in ranks for x_0, _ in rank["seen"][: STEPS // 2]])
    everything = torch.cat([batch[0] for batch in loader()])
    assert len(epoch) == len(everything) == 8 * NUM_BATCHES
    assert {tuple(row) for row in epoch.tolist()} == {tuple(row) for row in everything.tolist()}


def test_average_is_the_closed_form_and_the_same_in_both_processes(run):
    (first, second), _ = run
    assert first["updates"] == second["updates"] == STEPS
    for name, value in first["ema"].items():
        assert torch.equal(value, second["ema"][name])
    average = torch.cat([value.flatten() for value in first["ema"].values()]).double()
    torch.testing.assert_close(average, closed_form(first["weights"], DECAY), atol=1e-6, rtol=0)


def test_validation_of_two_processes_is_that_of_one(run, tmp_path):
    """Same noise, repeated batches left out, sums reduced: every metric equals that of one process."""
    (first, _), metrics = run
    module = watched()
    for name, value in module.named_parameters():
        value.data.copy_(first["ema"][name])
    one = trainer(tmp_path).validate(module, DataLoader(Whole(), batch_size=None), verbose=False)[0]
    assert {"val_loss", "val_loss_first", "val_loss_second", "val_loss_t0"} <= one.keys()
    for name, value in one.items():
        assert metrics[name] == pytest.approx(value, rel=1e-6), name
