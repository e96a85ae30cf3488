"""Generation in chunks: what is drawn, kept, resumed; the draw is a counter of the real one."""

import json
import logging
import signal

import numpy as np
import pytest
import torch
from torch import nn

from scidiff import random
from scidiff.chunks import Chunks, fingerprint, partial_folder
from scidiff.generation import generate

CPU = {"accelerator": "cpu", "devices": 1}
REQUEST = {"seed": 3, "sizes": (1, 2)}


class Draw:
    """Noise of the seeds (3, i) times the weight of the model; remembers what it was asked for, may break."""

    def __init__(self, breaks_at=None):
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.model.weight, 2.0)
        self.asked, self.breaks_at = [], breaks_at

    @property
    def all(self):
        return [i for part in self.asked for i in part]

    def __call__(self, index, advance):
        if self.breaks_at is not None and len(self.asked) == self.breaks_at:
            raise KeyboardInterrupt
        self.asked.append(index.tolist())
        advance()
        keys = random.seed_table([(3, int(i)) for i in index], len(index))
        return {"x": self.model.weight.detach().item() * random.standard_normal(keys, 0, 0, 4).numpy()}


def run(folder, n=11, draw=None, request=REQUEST, order=None, **options):
    draw = draw or Draw()
    chunks, notes = Chunks(folder, request), []
    order = np.arange(n)[::-1] if order is None else order
    options = {"batch_size": 4, **CPU, **options}
    assert generate(draw, draw.model, order, chunks, note=notes.append, **options)
    return draw, chunks, notes


def joined(chunks, n=11):
    x = np.full((n, 4), np.nan)
    for index, arrays in chunks:
        assert np.isnan(x[index]).all()  # every sample once
        x[index] = arrays["x"]
    return x


def expected(n=11):
    return 2.0 * random.standard_normal(random.seed_table(3, n), 0, 0, 4).numpy()


def test_every_sample_is_drawn_once_in_the_given_order(tmp_path):
    draw, chunks, notes = run(tmp_path / "a.partial")
    assert draw.all == list(range(11))[::-1]
    assert sorted(map(len, draw.asked)) == [3, 4, 4]
    assert np.array_equal(joined(chunks), expected())
    assert notes == []
    chunks.remove()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_keeps_its_chunks_and_goes_on(tmp_path):
    """Stopped in the third chunk; the second run draws what is left, even with another batch size."""
    folder, notes = tmp_path / "a.partial", []
    broken = Draw(breaks_at=2)
    with pytest.raises(KeyboardInterrupt):
        generate(broken, broken.model, np.arange(11), Chunks(folder, REQUEST), batch_size=4, note=notes.append, **CPU)
    kept = broken.all
    assert Chunks(folder, REQUEST).done().tolist() == sorted(kept) == list(range(8))
    assert "8 of 11 samples are kept" in notes[0]
    draw, chunks, notes = run(folder, batch_size=2)
    assert sorted(draw.all) == [8, 9, 10]
    assert "going on from 8 samples" in notes[0]
    assert np.array_equal(joined(chunks), expected())
    again, _, _ = run(folder)
    assert again.asked == []


def test_a_run_that_fails_at_once_leaves_nothing(tmp_path):
    broken, handler = Draw(breaks_at=0), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a.partial", draw=broken)
    assert signal.getsignal(signal.SIGINT) is handler  # a notebook can be interrupted again
    assert list(tmp_path.iterdir()) == []


def test_another_request_starts_anew_and_says_so(tmp_path):
    folder = tmp_path / "a.partial"
    run(folder)
    _, chunks, notes = run(folder, n=5, request={"seed": 4})
    assert "belongs to another request and is replaced" in notes[0]
    assert chunks.done().tolist() == list(range(5))
    assert json.loads((folder / "request.json").read_text()) == {"seed": 4}


def test_a_damaged_chunk_is_drawn_again(tmp_path):
    _, chunks, _ = run(tmp_path / "a.partial")
    victim = sorted(chunks.folder.glob("chunk_*.npz"))[1]
    with np.load(victim) as data:
        lost = data["index"].tolist()
    victim.write_bytes(victim.read_bytes()[:100])
    draw, chunks, _ = run(tmp_path / "a.partial")
    assert sorted(draw.all) == sorted(lost)
    assert np.array_equal(joined(chunks), expected())


def test_a_folder_of_the_user_is_left_alone(tmp_path):
    mine = tmp_path / "a.partial" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    with pytest.raises(FileExistsError, match="does not come from an unfinished generation"):
        run(tmp_path / "a.partial")
    with pytest.raises(FileExistsError):
        Chunks(tmp_path / "a.partial", REQUEST).remove()
    assert mine.read_text() == "years of work"


def test_random_streams_and_log_levels_are_left_alone(tmp_path):
    level = logging.getLogger("pytorch_lightning").level
    draw, before = Draw(), torch.get_rng_state()
    run(tmp_path / "a.partial", draw=draw)
    assert torch.equal(before, torch.get_rng_state())
    assert logging.getLogger("pytorch_lightning").level == level


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(tmp_path):
    """Ten samples over two processes in chunks of three: two rounds of two, no sample twice, the same bits."""
    _, one, _ = run(tmp_path / "one", n=10)
    _, two, _ = run(tmp_path / "two", n=10, batch_size=3, devices=2, strategy="ddp_spawn")
    assert np.array_equal(joined(two, 10), joined(one, 10))
    assert len(list(two)) == 4
    _, few, _ = run(tmp_path / "few", n=1, devices=2, strategy="ddp_spawn")  # one process has nothing to do
    assert few.done().tolist() == [0]


def test_small_helpers(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    assert fingerprint(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert partial_folder(tmp_path / "a.sdf") == tmp_path / "a.sdf.partial"
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        run(tmp_path / "b.partial", batch_size=0)
