import itertools

import torch

from scidiff import VPSDE, Denoiser, Process, sample
from scidiff.guidance import DPS, Observation

GRID = torch.tensor([0.8, 0.5, 0.2], dtype=torch.float64)


def test_step_by_hand():
    """x0 = a x_t: r = y - h(a x), grad |r|^2 = -2 a h'(a x) r; ddim steps, then - zeta/|r| grad |r|^2."""
    a, zeta, schedule = 0.6, 0.4, VPSDE()
    den = Denoiser(lambda x, t, cond: a * x, Process(schedule))
    start = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.3, -0.7]], dtype=torch.float64)
    y = torch.tensor([[0.1, 0.9, 0.2], [0.0, -1.0, 0.4]], dtype=torch.float64)
    guide = DPS(Observation(lambda x0: x0.sin(), y=y), zeta=zeta)  # H need not be linear
    guided = sample(den, start, solver="ddim", grid=GRID, guidance=guide)
    x = start
    for t, s in itertools.pairwise(GRID):
        x0 = a * x
        eps = (x - schedule.alpha(t) * x0) / schedule.sigma(t)
        r = y - x0.sin()
        gradient = -2 * a * x0.cos() * r
        x = schedule.alpha(s) * x0 + schedule.sigma(s) * eps - zeta / r.norm(dim=1, keepdim=True) * gradient
    torch.testing.assert_close(guided, x, rtol=1e-12, atol=1e-12)


def test_masked_entries_pull_on_their_own():
    """Only the observed entry of a separable denoiser moves; a perfect fit is left alone and stays finite."""
    den = Denoiser(lambda x, t, cond: 0.5 * x, Process(VPSDE()))
    start = torch.ones(1, 2, dtype=torch.float64)
    mask = torch.tensor([[True, False]])
    plain = sample(den, start, solver="ddim", grid=GRID)
    guided = sample(den, start, solver="ddim", grid=GRID, guidance=DPS(Observation(mask, y=torch.full((1, 2), 3.0))))
    assert guided[0, 1] == plain[0, 1]
    assert guided[0, 0] > plain[0, 0]
    fit = sample(den, start, solver="ddim", grid=GRID[:2], guidance=DPS(Observation(mask, y=torch.full((1, 2), 0.5))))
    torch.testing.assert_close(fit, sample(den, start, solver="ddim", grid=GRID[:2]), rtol=0, atol=1e-12)
