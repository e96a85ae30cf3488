"""Products and functions: values, and the same bits with one thread and with two, alone and among other rows."""

import pytest
import torch

from scidiff.kernels.products import elementwise, row_dot, tall_product
from tests.scidiff.kernels.loops import normal

ROWS = (0, 1, 3, 17, 100, 255, 306, 511, 513, 700, 1000, 1023, 1025, 1999, 2400)
WIDTHS = ((21, 384), (21, 128), (128, 21), (128, 128), (64, 64), (128, 1), (1, 64), (5, 12), (256, 256), (20, 64))


@pytest.fixture
def both_counts():
    """Runs a function with one thread and with two."""
    before = torch.get_num_threads()

    def run(function):
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(function())
        return found

    yield run
    torch.set_num_threads(before)


@pytest.mark.parametrize(("k", "n"), WIDTHS)
def test_tall_product(k, n, both_counts):
    """The bound of a sum of E products in any order: E u |x|^T |g|."""
    for rows in ROWS:
        x, g = normal(rows, k, dtype=torch.float32), normal(rows, n, seed=1, dtype=torch.float32)
        one, two = both_counts(lambda x=x, g=g: tall_product(x, g))
        assert torch.equal(one, two), rows
        bound = max(rows, 1) * torch.finfo(torch.float32).eps / 2 * (x.double().abs().t() @ g.double().abs())
        assert bool(((one.double() - x.double().t() @ g.double()).abs() <= bound).all())


def test_rows_do_not_feel_each_other(both_counts):
    x, w = normal(2400, 128, dtype=torch.float32), normal(128, seed=1, dtype=torch.float32)
    one, two = both_counts(lambda: row_dot(x, w))
    assert torch.equal(one, two)
    bound = 128 * torch.finfo(torch.float32).eps / 2 * (x.double().abs() @ w.double().abs())
    assert bool(((one.double() - x.double() @ w.double()).abs() <= bound).all())
    sigmoid = elementwise(torch.sigmoid, one)
    torch.testing.assert_close(sigmoid, one.sigmoid(), rtol=4e-7, atol=0)
    for begin, end in ((0, 306), (306, 311), (7, 8), (1000, 2048), (5, 95)):
        assert torch.equal(row_dot(x[begin:end], w), one[begin:end])
        assert torch.equal(elementwise(torch.sigmoid, one[begin:end]), sigmoid[begin:end])
