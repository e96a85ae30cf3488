"""Counter-based random numbers: known answers, laws, independence of batch and of each other."""

import numpy as np
import pytest
import torch
from scipy import stats

from scidiff import random

WORD = 0xFFFFFFFF


def words(counter, key):
    as_tensor = lambda values: [torch.tensor(v, dtype=torch.int64) for v in values]  # noqa: E731
    return [f"{int(w):08x}" for w in random.philox(as_tensor(counter), as_tensor(key))]


def test_philox_known_answers():
    """Vectors of the authors' kat_vectors file (Random123)."""
    assert words([0] * 4, [0] * 2) == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert words([WORD] * 4, [WORD] * 2) == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert words(pi, [0xA4093822, 0x299F31D0]) == ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"]


def test_normal_and_uniform_laws():
    """Kolmogorov-Smirnov at p > 1e-3 with fixed seeds; lag and pair correlations within 4 standard errors."""
    seeds = random.seed_table(3, 200)
    z = random.standard_normal(seeds, 7, 0, 501).double()
    u = random.uniform(seeds, 7, 1, 501)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    count = z.numel()
    assert abs(float(z.mean())) < 4 / count**0.5
    assert abs(float(z.var()) - 1) < 4 * (2 / count) ** 0.5
    for other in (z.roll(1, 0), z.roll(1, 1), z.roll(2, 1), z.flip(0)):  # samples, neighbours, Box-Muller partners
        assert abs(float((z * other).mean())) < 4 / count**0.5


def test_streams_do_not_repeat():
    """Seeds, samples, components and draws differ; so do seeds that differ by multiples of 2^32."""
    tables = [random.seed_table([(s, i)], 1) for s in (0, 1, 2**32, 1 + 2**32, -1) for i in (0, 1, 2**32)]
    rows = [random.uniform(t, stream, draw, 8) for t in tables for stream in (0, 1) for draw in (0, 1)]
    values = torch.cat(rows).flatten().numpy()
    assert len(np.unique(values)) == values.size


@pytest.mark.parametrize("make", [random.standard_normal, random.uniform])
def test_a_sample_does_not_see_its_batch(make):
    """Bit for bit the same numbers in batches of 1, 7 and 64, in any order, and with padding."""
    full = make(random.seed_table(5, 64), 11, 3, 33)
    assert torch.equal(make(random.seed_table(5, 7), 11, 3, 33), full[:7])
    for i in (0, 6, 63):
        assert torch.equal(make(random.seed_table([(5, i)], 1), 11, 3, 33)[0], full[i])
    reverse = random.seed_table([(5, i) for i in reversed(range(64))], 64)
    assert torch.equal(make(reverse, 11, 3, 33).flip(0), full)
    assert torch.equal(make(random.seed_table(5, 64), 11, 3, 50)[:, :33], full)  # longer draws extend shorter ones


def test_seeds():
    """An int s is (s, 0), (s, 1), ...; numpy integers count as ints; seeds are taken modulo 2^64."""
    table = random.seed_table
    assert torch.equal(table(4, 2), table([(4, 0), (4, 1)], 2))
    assert torch.equal(table([7, (8, 3)], 2), table([(7, 0), (8, 3)], 2))
    assert torch.equal(table(np.int64(4), 2), table(4, 2))
    assert torch.equal(table(list(np.arange(2)), 2), table([0, 1], 2))
    assert torch.equal(table(2**64 - 1, 1), table(-1, 1))
    with pytest.raises(ValueError, match="one per sample"):
        random.seed_table([1, 2], 3)


def test_uniform_excludes_both_ends():
    """The largest word maps below 1 and the smallest above 0, in float64."""
    extremes = (torch.tensor([0.0, float(WORD)], dtype=torch.float64) + 0.5) / 2**32
    assert float(extremes[0]) > 0
    assert float(extremes[1]) < 1
    u = random.uniform(random.seed_table(0, 100), 0, 0, 1000)
    assert float(u.min()) > 0
    assert float(u.max()) < 1
