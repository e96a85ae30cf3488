import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from scidiff.loaders import ResumableLoader, unrepeated


def resumable(num_items=10, batch_size=3, **options):
    return ResumableLoader(TensorDataset(torch.arange(num_items)), batch_size=batch_size, **options)


def items(loader):
    return [batch[0].reshape(-1).tolist() for batch in loader]


@pytest.mark.parametrize("done", range(5))
def test_a_pass_goes_on_where_it_stopped_and_the_next_is_whole(done):
    loader, again = resumable(), resumable()
    iterator = iter(loader)
    for _ in range(done):
        next(iterator)
    again.load_state_dict(loader.state_dict())
    whole = items(resumable())
    assert items(again) == (whole[done:] if done < len(whole) else whole)
    assert items(again) == whole


def test_state_counts_the_left_out_batches_too():
    """Interrupted twice in one epoch: the second state must count from the start of the epoch."""
    loader = resumable()
    loader.load_state_dict({"batches": 1})
    next(iter(loader))
    assert loader.state_dict() == {"batches": 2}


@pytest.mark.parametrize("length", [1, 7, 8, 9, 12])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 4, None])
def test_every_item_counts_once_over_all_processes(length, world, batch_size):
    """Brute force: what is kept of all batches of all processes is the data set, nothing twice."""
    data = torch.arange(length)
    kept = []
    for rank in range(world):
        sampler = DistributedSampler(data, world, rank, shuffle=False)
        loader = DataLoader(data, batch_size=batch_size, sampler=sampler)
        for batch_idx, batch in enumerate(loader):
            if batch_size is None:  # an item stands for a batch of five samples
                assert unrepeated(loader, batch_idx, 5) in (0, 5)
                kept += [int(batch)] * (unrepeated(loader, batch_idx, 5) // 5)
            else:
                kept += batch[: unrepeated(loader, batch_idx, len(batch))].tolist()
    assert sorted(kept) == data.tolist()


def test_loaders_of_one_process_repeat_nothing():
    loader = DataLoader(torch.arange(4), batch_size=2)
    assert [unrepeated(loader, k, 2) for k in range(2)] == [2, 2]
