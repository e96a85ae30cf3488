"""S4D against its own recurrence, dense two-sided matrices, complex arithmetic and the definition of HiPPO-LegS."""

import copy
import math

import numpy as np
import pytest
import torch

from scidiff.nn.s4d import INITIALIZATIONS, S4D, initial_frequencies

DISCRETIZATIONS = ("zoh", "bilinear")


def layer(**options):
    """A float64 layer with seeded weights."""
    made = S4D(options.pop("width", 3), options.pop("state_size", 8), **options).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.log_dt.uniform_(math.log(1e-3), math.log(0.1), generator=generator)
        made.C.normal_(generator=generator)
        made.D.normal_(generator=generator)
        made.log_decay.add_(0.3 * torch.randn(made.log_decay.shape, generator=generator, dtype=torch.float64))
    return made


def signal(batch=2, length=37, width=3, dtype=torch.float64):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(2), dtype=dtype)


def discrete(made):
    """dA, dB (width, modes) and C (directions, width, modes) in complex arithmetic, from the textbook formulas."""
    a = torch.complex(-made.log_decay.exp(), made.frequency).detach()
    dt = made.log_dt.exp()[:, None].detach()
    if made.discretization == "zoh":
        da = torch.exp(dt * a)
        db = (da - 1) / a
    else:
        da = (1 + dt * a / 2) / (1 - dt * a / 2)
        db = dt / (1 - dt * a / 2)
    return da, db, torch.view_as_complex(made.C.detach())


def recurrence(made, u, direction=0):
    """y_l = 2 Re(C z_l) with z_l = dA z_{l-1} + dB u_l, one step after the other, without D."""
    da, db, c = discrete(made)
    z = torch.zeros(len(u), *da.shape, dtype=da.dtype)
    rows = []
    for l in range(u.shape[1]):  # noqa: E741
        z = da * z + db * u[:, l, :, None]
        rows.append(2 * (c[direction] * z).sum(-1).real)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("init", INITIALIZATIONS)
@pytest.mark.parametrize("method", ["dense", "fft"])
def test_convolution_is_the_recurrence(init, discretization, method):
    made = layer(init=init, discretization=discretization, bidirectional=False, method=method)
    u = signal()
    wanted = recurrence(made, u) + made.D * u
    assert torch.allclose(made(u), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("length", [1, 2, 16, 37, 50])
def test_kernel_is_c_da_to_the_l_db(discretization, length):
    made = layer(discretization=discretization)
    da, db, c = discrete(made)
    powers = da[..., None] ** torch.arange(length)
    wanted = 2 * torch.einsum("khn,hn,hnl->khl", c, db, powers).real
    assert torch.allclose(made.kernels(length), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["dense", "fft"])
@pytest.mark.parametrize("length", [1, 2, 31, 64])
def test_both_directions_are_the_dense_two_sided_matrix(method, length):
    """K0[u-v] below and on the diagonal, K1[v-u-1] above it, and lag 0 counted once."""
    made, u = layer(method=method), signal(length=length)
    kernels = made.kernels(length).detach()
    table = torch.zeros(3, length, length, dtype=torch.float64)
    for i in range(length):
        for j in range(length):
            table[:, i, j] = kernels[0, :, i - j] if j <= i else kernels[1, :, j - i - 1]
    table += torch.diag_embed(made.D.detach()[:, None].expand(-1, length))
    assert torch.allclose(made.matrix(length), table, rtol=0, atol=1e-12)
    assert torch.allclose(made(u), torch.einsum("huv,bvh->buh", table, u), rtol=0, atol=1e-10)


def test_the_backward_kernel_runs_the_recurrence_on_the_reversed_sequence():
    made, u = layer(), signal()
    ahead = recurrence(made, u.flip(1), direction=1).flip(1)
    ahead = torch.cat([ahead[:, 1:], torch.zeros_like(ahead[:, :1])], dim=1)  # y_u sees v > u only
    wanted = recurrence(made, u) + ahead + made.D * u
    assert torch.allclose(made(u), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_fourier_transform_and_dense_matrix_agree_with_gradients(bidirectional):
    dense = layer(bidirectional=bidirectional, method="dense")
    fourier = layer(bidirectional=bidirectional, method="fft")
    fourier.load_state_dict(dense.state_dict())
    u = signal(length=45)
    inputs = [u.clone().requires_grad_() for _ in range(2)]
    weight = torch.randn(u.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for made, x in zip((dense, fourier), inputs):
        (made(x) * weight).sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-10)
    for (name, p), q in zip(dense.named_parameters(), fourier.parameters()):
        assert torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-10), name


def test_gradients_of_all_parameters_against_differences():
    for discretization in DISCRETIZATIONS:
        made = layer(width=2, state_size=4, discretization=discretization)
        names, values = zip(*made.named_parameters())
        u = signal(length=9, width=2)

        def output(*given, made=made, names=names, u=u):
            return torch.func.functional_call(made, dict(zip(names, given)), u)

        assert torch.autograd.gradcheck(output, values, atol=1e-7)


def test_frequencies_of_the_initialisations():
    n = torch.arange(4, dtype=torch.float64)
    assert torch.equal(initial_frequencies("lin", 8), math.pi * n)
    assert torch.allclose(initial_frequencies("inv", 8), 8 / math.pi * (8 / (2 * n + 1) - 1), rtol=1e-15)


@pytest.mark.parametrize("state_size", [2, 8, 64])
def test_legs_frequencies_are_eigenvalues_of_the_normal_part_of_hippo(state_size):
    """HiPPO-LegS A_nk = -sqrt((2n+1)(2k+1)) below, -(n+1) on the diagonal; A + p p^T, p = sqrt(n + 1/2), is normal."""
    n = np.arange(state_size)
    root = np.sqrt(2.0 * n + 1)
    hippo = -np.tril(np.outer(root, root), -1) - np.diag(n + 1.0)
    p = np.sqrt(n + 0.5)
    normal = hippo + np.outer(p, p)
    values = np.linalg.eigvals(normal)
    assert np.allclose(values.real, -0.5, atol=1e-10 * state_size)
    wanted = np.sort(values.imag)[state_size // 2 :]
    assert np.allclose(initial_frequencies("legs", state_size).numpy(), wanted, rtol=1e-9, atol=1e-9)


def test_float32_agrees_with_its_float64_twin():
    """Phases up to dt_max * frequency * L carry a relative error of 2^-24 each."""
    torch.manual_seed(0)
    single = S4D(4, 64).requires_grad_(False)
    double = copy.deepcopy(single).double()
    length = 360
    u = signal(length=length, width=4, dtype=torch.float32)
    angle = float((single.log_dt.exp()[:, None] * single.frequency).abs().max()) * length
    scale = float(double.kernels(length).abs().sum(-1).max()) * float(u.abs().max())
    assert (single(u).double() - double(u.double())).abs().max() < 4 * scale * (angle + 8) * 2**-24


def test_cached_kernels_follow_the_weights():
    """Evaluation keeps the kernel; every way of changing a weight, a dtype or the mode is noticed."""
    made, u = layer(), signal()
    fresh = made(u).detach()
    made.eval().requires_grad_(False)
    calls = []
    compute = made.matrix
    made.matrix = lambda length: calls.append(length) or compute(length)
    assert torch.equal(made(u), fresh)
    assert torch.equal(made(u), fresh)
    assert calls == [37]
    assert made(u[:, :20]).shape == (2, 20, 3)
    assert calls == [37, 20]
    made.load_state_dict({name: 1.01 * value for name, value in made.state_dict().items()})
    changed = made(u)
    assert not torch.allclose(changed, fresh)
    assert torch.equal(made.float()(u.float()), made(u.float()))
    assert torch.allclose(made(u.float()).double(), changed, atol=1e-4)


def test_no_cache_where_parameters_need_gradients():
    made, u = layer().eval(), signal()
    made(u).sum().backward()
    assert made.C.grad is not None
    made.requires_grad_(False)
    x = u.clone().requires_grad_()
    with torch.inference_mode():
        made(u)  # what is kept here must serve under autograd
    made(x).sum().backward()
    assert torch.allclose(x.grad, made.matrix(37).sum(1).T.expand_as(u), atol=1e-10)


@pytest.mark.parametrize("method", ["dense", "fft"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_compiles_as_one_graph(method, mode):
    made = layer(method=method)
    u = signal().requires_grad_()
    if mode == "eval":
        made.eval().requires_grad_(False)
    wanted = made(u)
    (gradient,) = torch.autograd.grad(wanted.sum(), u)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    found = compiled(u)
    (again,) = torch.autograd.grad(found.sum(), u)
    assert torch.allclose(found, wanted, atol=1e-12)
    assert torch.allclose(again, gradient, atol=1e-12)


def test_initial_values_have_the_stated_law():
    torch.manual_seed(0)
    made = S4D(512, 64)
    steps = made.log_dt.detach()
    assert float(steps.min()) >= math.log(1e-3)
    assert float(steps.max()) <= math.log(0.1)
    middle, spread = (math.log(1e-3) + math.log(0.1)) / 2, math.log(100) / 12**0.5
    assert float(steps.mean()) == pytest.approx(middle, abs=5 * spread / 512**0.5)
    energy = made.C.detach().square().sum(-1)  # exponential with mean 1
    assert float(energy.mean()) == pytest.approx(1, abs=5 / energy.numel() ** 0.5)
    assert torch.allclose(made.log_decay.exp(), torch.tensor(0.5))


@pytest.mark.parametrize(
    "options",
    [
        {"state_size": 7},
        {"state_size": 0},
        {"init": "hippo"},
        {"discretization": "euler"},
        {"method": "scan"},
        {"dt_min": 0.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_wrong_arguments_are_refused(options):
    with pytest.raises(ValueError, match=r"expected|must be|unknown"):
        S4D(4, **options)
