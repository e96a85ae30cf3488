"""Graphs of equal size take padded matrices without indices; operations do not load the compiler."""

import subprocess
import sys

import pytest
import torch

import scidiff.kernels as K
from tests.scidiff.kernels.loops import normal

EVEN = K.full_graph(torch.tensor([0, 4, 8, 12]))
SIZES = {
    "attention": [(12, 2, 3), (12, 2, 3), (12, 2, 3), (EVEN.num_edges, 2)],
    "weighted_sum": [(12, 6), (EVEN.num_edges, 2)],
}


def run(name, tensors, body=None):
    if name == "attention":
        q, k, v, bias = tensors
        return K.neighbor_attention(q, k, v, EVEN, bias, backend=body)[0]
    return K.weighted_sum(*tensors, EVEN, backend=body)


@pytest.mark.parametrize("name", SIZES)
def test_equals_the_definition(name):
    tensors = [normal(*shape, seed=k).requires_grad_() for k, shape in enumerate(SIZES[name])]
    exact = run(name, tensors, "torch")
    torch.testing.assert_close(run(name, tensors, "dense"), exact, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        found = run(name, tensors, "dense")
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1 if threads > 1 else 2)
            assert torch.equal(run(name, tensors, "dense"), found)
        finally:
            torch.set_num_threads(threads)
    assert torch.autograd.gradcheck(lambda *args: run(name, args, "dense"), tensors)
    assert torch.autograd.gradgradcheck(lambda *args: run(name, args, "dense"), tensors)


def test_an_operation_and_its_gradient_do_not_load_the_compiler():
    code = (
        "import sys, torch, scidiff.kernels as K\n"
        "x, g = torch.randn(8, 4, requires_grad=True), K.full_graph(torch.tensor([0, 4, 8]))\n"
        "K.gather_multiply_sum(x, torch.randn(24, 4), g, backend='chunked').sum().backward()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
