import itertools
import math

import pytest
import torch

from scidiff import Denoiser, Interpolant, Linear, Process, sample
from scidiff.couplings import BatchOT, EquivariantOT, Independent, Reflow, Sinkhorn, kabsch
from tests.scidiff.closed_forms import F64, Mixture, network

GENERATOR = torch.Generator


def draws(n, *shape, seed=0):
    return [torch.randn(n, *shape, generator=GENERATOR().manual_seed(seed + i), dtype=F64) for i in range(2)]


def rotation(seed=0):
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=GENERATOR().manual_seed(seed), dtype=F64))
    q = q * r.diagonal().sign()
    return q * torch.det(q).sign()


def test_batch_transport_is_the_best_permutation():
    x_0, x_1 = draws(6, 2)
    cost = (x_0 - BatchOT().couple(x_0, x_1)).square().sum()
    best = min(float((x_0 - x_1[list(p)]).square().sum()) for p in itertools.permutations(range(6)))
    assert float(cost) == pytest.approx(best, rel=1e-12)
    assert torch.equal(Independent().couple(x_0, x_1), x_1)
    with pytest.raises(ValueError, match="at most 512"):
        BatchOT().couple(torch.zeros(513, 1), torch.zeros(513, 1))


def test_sinkhorn_has_its_marginals_and_limits():
    x_0, x_1 = draws(24, 2)
    for regularisation in (0.3, 1.0, 1e6):
        plan = Sinkhorn(regularisation, max_iterations=5000).plan(x_0, x_1).exp()
        torch.testing.assert_close(plan.sum(0), torch.full((24,), 1 / 24, dtype=F64), rtol=1e-5, atol=0)
        torch.testing.assert_close(plan.sum(1), torch.full((24,), 1 / 24, dtype=F64), rtol=1e-5, atol=0)
    torch.testing.assert_close(plan, torch.full_like(plan, 1 / 24**2), rtol=1e-3, atol=0)
    sharp = Sinkhorn(0.1, max_iterations=5000).plan(x_0, x_1).exp()
    best = BatchOT().couple(x_0, x_1)
    exact = float((x_0 - best).square().sum() / 24)
    # the plan's cost lies between the optimum and the optimum plus regularisation times the entropy log(24)
    cost = float((sharp * torch.cdist(x_0, x_1).square()).sum())
    assert exact - 1e-3 <= cost <= exact + 0.1 * math.log(24)


def test_sinkhorn_is_the_static_schroedinger_bridge_of_gaussians():
    """Optimality: log P = f + g - cost/regularisation, so the 2 x 2 minors of log P are those of the cost."""
    x_0, x_1 = draws(8, 2)
    log_plan = Sinkhorn(0.7).plan(x_0, x_1)
    cost = torch.cdist(x_0, x_1).square()

    def minors(m):
        return m[1:, 1:] - m[:1, 1:] - m[1:, :1] + m[:1, :1]

    torch.testing.assert_close(minors(log_plan), -minors(cost) / 0.7, rtol=1e-9, atol=1e-9)


def test_sinkhorn_draws_from_its_rows():
    x_0, x_1 = draws(8, 2)
    coupling, n = Sinkhorn(1.0, tolerance=1e-4), 500
    rows = torch.softmax(coupling.plan(x_0, x_1), 1)
    generator = GENERATOR().manual_seed(0)
    counts = torch.zeros(8, 8, dtype=F64)
    for _ in range(n):
        pairs = torch.cdist(coupling.couple(x_0, x_1, generator=generator), x_1).argmin(1)
        counts[torch.arange(8), pairs] += 1
    assert (counts / n - rows).abs().max() < 4.5 * (0.25 / n) ** 0.5
    with pytest.raises(ValueError, match="above 0"):
        Sinkhorn(0.0)


def test_kabsch_recovers_a_rotation():
    x = draws(2, 5, 3)[0]
    x = x - x.mean(1, keepdim=True)
    R = rotation()
    torch.testing.assert_close(kabsch(x, x @ R.T), R.expand(2, 3, 3), rtol=1e-10, atol=1e-10)
    mirrored = kabsch(x, -x)
    torch.testing.assert_close(torch.det(mirrored), torch.ones(2, dtype=F64))


def test_equivariant_transport_undoes_permutation_and_rotation():
    """Noise that is a turned, shuffled copy of the data is brought back onto it; padding stays."""
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    x_0 = draws(2, 6, 3)[0] * mask[..., None]
    x_0 = (x_0 - x_0.sum(1, keepdim=True) / mask.sum(1)[:, None, None]) * mask[..., None]
    small = torch.linalg.matrix_exp(0.1 * torch.tensor([[0, 1.0, -0.5], [-1, 0, 0.3], [0.5, -0.3, 0]], dtype=F64))
    order = torch.stack([torch.tensor([2, 0, 1, 4, 5, 3]), torch.tensor([3, 2, 0, 1, 4, 5])])
    x_1 = x_0.gather(1, order[..., None].expand_as(x_0)) @ small.T
    result = EquivariantOT().couple(x_0, x_1, {"node_mask": mask})
    torch.testing.assert_close(result, x_0, rtol=0, atol=1e-10)


def test_reflow_pairs_lie_on_the_flow():
    """Encoding and generation are inverse to each other."""
    target = Mixture()
    process = Process(Linear())
    den = Denoiser(network(target, process), process)
    reflow = Reflow(den, steps=100)
    x_1 = torch.randn(16, 2, generator=GENERATOR().manual_seed(0), dtype=F64)
    x_0, same = reflow.pairs(x_1)
    assert same is x_1
    back = reflow.couple(x_0, torch.zeros_like(x_0))
    torch.testing.assert_close(back, x_1, rtol=0, atol=0.05)  # Heun, order 2, at 100 steps
    torch.testing.assert_close(x_0, sample(den, x_1, solver="heun", steps=100, grid="uniform"))


def test_coupled_pairs_keep_the_marginals():
    """A transport only pairs: the set of noises is the one that was drawn."""
    x_0, x_1 = draws(32, 2)
    coupled = BatchOT().couple(x_0, x_1)
    assert torch.equal(coupled.sort(0).values, x_1.sort(0).values)
    process = Process(Interpolant("linear", "zero"))
    x_t, _ = process.perturb(x_0, torch.full((32,), 0.25, dtype=F64), x_1=coupled)
    torch.testing.assert_close(x_t, 0.75 * x_0 + 0.25 * coupled)
