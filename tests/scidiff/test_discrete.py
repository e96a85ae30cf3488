"""Categorical components against enumeration and the master equation."""

import pytest
import torch
from scipy.integrate import solve_ivp

from scidiff import Categorical, Compose, Cosine, DiscreteVP, Linear, Masked, NoiseSource, Process, Symmetric
from scidiff.discrete import draw_class

F64 = torch.float64
PRIORS = {
    "marginal": [0.5, 0.3, 0.2],
    "uniform": [1.0] * 4,
    "with an impossible class": [0.5, 0.0, 0.3, 0.2],
    "mask": [0.0, 0.0, 0.0, 0.0, 1.0],
}
KEEPS = [Linear(), Cosine(power=2.0), DiscreteVP.cosine_adaptive(nu=1.0)]


def priors():
    return pytest.mark.parametrize("prior", list(PRIORS.values()), ids=list(PRIORS))


def forward(kappa, prior):
    """q(z_t = column | z_0 = row)."""
    return kappa * torch.eye(len(prior), dtype=F64) + (1 - kappa) * prior


def scalar(value):
    return torch.tensor([value], dtype=F64)


def data_law(prior):
    """Clean data never hold a class that the prior lacks, unless the prior is the mask."""
    weights = torch.arange(1.0, len(prior) + 1, dtype=F64)
    weights = torch.where(torch.as_tensor(prior) > 0, weights, 0) if sum(p > 0 for p in prior) > 1 else weights
    weights[-1] = weights[-1] if sum(p > 0 for p in prior) > 1 else 0
    return weights / weights.sum()


def exact_prediction(data, kappa, prior, z_t):
    """P(z_0 | z_t) for independent sites."""
    joint = data * forward(kappa, prior)[:, z_t]
    return joint / joint.sum()


@priors()
@pytest.mark.parametrize("keep", KEEPS, ids=lambda k: type(k).__name__)
def test_posterior_equals_enumeration(prior, keep):
    """P(z_s | z_t) = sum over z_0 of phat(z_0) q(z_s | z_0) q(z_t | z_s) / q(z_t | z_0), term by term."""
    component = Categorical(prior, keep)
    p, k = component.probabilities, component.num_classes
    phat = torch.softmax(torch.randn(k, generator=torch.Generator().manual_seed(0), dtype=F64), 0)
    t, s = scalar(0.7), scalar(0.45)
    kappa_t, kappa_s = float(keep.alpha(t)), float(keep.alpha(s))
    down, up, total = forward(kappa_s, p), forward(kappa_t / kappa_s, p), forward(kappa_t, p)
    for j in range(k):
        wanted = torch.zeros(k, dtype=F64)
        for i in range(k):
            if total[i, j] > 0:
                wanted += phat[i] * down[i] * up[:, j] / total[i, j]
        value = component.posterior(phat[None, None], torch.tensor([[j]]), t, s)[0, 0]
        torch.testing.assert_close(value, wanted / wanted.sum(), rtol=1e-12, atol=1e-15)


@priors()
def test_posterior_steps_compose(prior):
    """With the exact prediction, two steps have the law of one, and the marginal at s is the forward one."""
    component = Categorical(prior)
    p, data, times = component.probabilities, data_law(prior), (0.8, 0.6, 0.3)

    def matrix(t, s):
        rows = []
        for j in range(component.num_classes):
            reachable = float(data @ forward(1 - t, p)[:, j]) > 0
            phat = exact_prediction(data, 1 - t, p, j) if reachable else data
            rows.append(component.posterior(phat[None, None], torch.tensor([[j]]), scalar(t), scalar(s))[0, 0])
        return torch.stack(rows)

    start = data @ forward(1 - times[0], p)
    one = start @ matrix(times[0], times[2])
    two = start @ matrix(times[0], times[1]) @ matrix(times[1], times[2])
    torch.testing.assert_close(two, one, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(one, data @ forward(1 - times[2], p), rtol=1e-12, atol=1e-15)


def marginal_at(rate, prior, data, kappas=(0.02, 0.6)):
    """Integrate dq/dkappa = q R with the exact prediction at every kappa."""

    def slope(kappa, q):
        table = torch.stack([rate(kappa, j, exact_prediction(data, kappa, prior, j)) for j in range(len(prior))])
        table = table - torch.diag(table.sum(1))
        return (torch.from_numpy(q) @ table).numpy()

    start = (data @ forward(kappas[0], prior)).numpy()
    return torch.from_numpy(solve_ivp(slope, kappas, start, rtol=1e-10, atol=1e-12).y[:, -1])


@pytest.mark.parametrize("eta", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("prior", [PRIORS["marginal"], PRIORS["uniform"]], ids=["marginal", "uniform"])
def test_ctmc_keeps_the_marginals(prior, eta):
    """Rates read off `Categorical.ctmc` as its derivative in the step, which is linear in h below 1e-3."""
    component = Categorical(prior)
    p, data, h = component.probabilities, data_law(prior), 1e-4

    def rate(kappa, j, phat):
        t = 1 - kappa
        row = component.ctmc(phat[None, None], torch.tensor([[j]]), scalar(t), scalar(t - h), eta)[0, 0] / h
        row[j] = 0
        return row

    end = marginal_at(rate, p, data)
    torch.testing.assert_close(end, data @ forward(0.6, p), rtol=0, atol=1e-7)


def test_the_factor_of_semlaflow_does_not_keep_the_marginals():
    """[1 + 2 eta (K-1) kappa]/(1-kappa) in place of 1 + eta + eta (K-1) kappa: off by more than 1e-2 at eta = 1."""
    prior = torch.full((4,), 0.25, dtype=F64)
    data = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=F64)
    count, eta = 4, 1.0

    def balanced(kappa, j, phat):
        row = (1 + eta + eta * (count - 1) * kappa) / (1 - kappa) * phat + eta * phat[j]
        return torch.where(torch.arange(count) == j, 0.0, row)

    def published(kappa, j, phat):
        row = (1 + 2 * eta * (count - 1) * kappa) / (1 - kappa) * phat + eta * phat[j]
        return torch.where(torch.arange(count) == j, 0.0, row)

    wanted = data @ forward(0.6, prior)
    assert float((marginal_at(balanced, prior, data) - wanted).abs().max()) < 1e-7
    assert float((marginal_at(published, prior, data) - wanted).abs().max()) > 1e-2


@priors()
@pytest.mark.parametrize("eta", [0.0, 30.0])
def test_ctmc_rows_are_probabilities_and_the_last_step_draws_the_prediction(prior, eta):
    component = Categorical(prior)
    k = component.num_classes
    phat = torch.softmax(torch.randn(k, generator=torch.Generator().manual_seed(1), dtype=F64), 0)
    z = torch.arange(k)[None]
    rows = component.ctmc(phat.expand(1, k, k), z, scalar(0.5), scalar(0.4), eta)
    assert bool((rows >= 0).all())
    torch.testing.assert_close(rows.sum(-1), torch.ones(1, k, dtype=F64))
    last = component.ctmc(phat.expand(1, k, k), z, scalar(0.01), scalar(0.0))
    torch.testing.assert_close(last, phat.expand(1, k, k), rtol=1e-12, atol=1e-15)


@priors()
def test_forward_draws_and_renoising_have_their_law(prior):
    """perturb to t, and perturb to s then forward_transition to t: 4.5 standard errors of a frequency."""
    component, n = Categorical(prior), 60_000
    z_0 = torch.zeros(n, 1, dtype=torch.int64)
    u, v, w = torch.rand(3, n, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    direct = component.perturb(z_0, scalar(0.6).expand(n), u)
    half = component.perturb(z_0, scalar(0.2).expand(n), v)
    renoised = component.forward_transition(half, scalar(0.2).expand(n), scalar(0.6).expand(n), w)
    wanted = forward(0.4, component.probabilities)[0]
    for z in (direct, renoised):
        frequencies = torch.bincount(z.flatten(), minlength=component.num_classes) / n
        assert float((frequencies - wanted).abs().max()) < 4.5 * (0.25 / n) ** 0.5


def test_ends_of_the_forward_law():
    component = Categorical(PRIORS["mask"])
    z_0, u = torch.tensor([[0, 1, 2, 3]]), torch.rand(1, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(component.perturb(z_0, torch.zeros(1), u), z_0)
    assert torch.equal(component.perturb(z_0, torch.ones(1), u), torch.full_like(z_0, 4))


def test_draws_never_choose_an_impossible_class():
    """Also at u = 0 and where u rounds up to 1."""
    table = torch.tensor([0.0, 0.4, 0.0, 0.6, 0.0])
    u = torch.tensor([0.0, 1e-30, 0.4, 1 - 2**-24, 1.0])
    assert set(draw_class(table.expand(5, 5), u).tolist()) <= {1, 3}
    u = torch.rand(50_000, generator=torch.Generator().manual_seed(0))
    share = float((draw_class(table.expand(50_000, 5), u) == 1).float().mean())
    assert share == pytest.approx(0.4, abs=4 * (0.24 / 50_000) ** 0.5)


def test_a_prediction_that_excludes_the_present_class_stays():
    """Unmasked class 2, a prediction with no mass there: no posterior exists, and the last class would be a mask."""
    component = Categorical(PRIORS["mask"])
    phat = torch.tensor([[[1.0, 0.0, 0.0, 0.0, 0.0]]])
    row = component.posterior(phat, torch.tensor([[2]]), scalar(0.5), scalar(0.25))
    assert row[0, 0].tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("space", [Symmetric(), Compose([Masked("free"), Symmetric()])], ids=repr)
def test_pairs_stay_symmetric_and_fixed_pairs_stay(space):
    generator = torch.Generator().manual_seed(0)
    z = Symmetric().mirror(torch.randint(3, (4, 5, 5), generator=generator))
    mask = torch.arange(5) < torch.tensor([[5], [4], [3], [2]])
    free = torch.ones(4, 5, 5, dtype=torch.bool)
    free[:, 0, 1] = free[:, 1, 0] = False
    cond = {"node_mask": mask, "free": free}
    process = Process({"z": Categorical([0.4, 0.3, 0.3], space=space)})
    component = process.discrete["z"]
    source = NoiseSource(0, 4)
    u = process.noise({"z": z}, source, cond)["z"]
    noisy = [
        component.prior(z, u, cond),
        component.perturb(z, torch.full((4,), 0.9), u, cond),
        component.choose(torch.rand(4, 5, 5, 3, generator=generator), u, z, cond),
        component.argmax(torch.rand(4, 5, 5, 3, generator=generator), z, cond),
    ]
    pads = ~(mask[:, :, None] & mask[:, None, :])
    for value in noisy:
        assert torch.equal(value, value.transpose(1, 2))
        assert torch.equal(value[pads], z[pads])
        assert not bool(value.diagonal(dim1=1, dim2=2).any())
        assert not torch.equal(value, z)
        if isinstance(space, Compose):
            assert torch.equal(value[~free], z[~free])


def test_sampling_reaches_the_data_law():
    """Posterior and Markov chain sampling of independent sites with the exact prediction: 4.5 standard errors."""
    from scidiff import Denoiser, sample

    component = Categorical(PRIORS["marginal"])
    prior, data, n = component.probabilities, torch.tensor([0.1, 0.2, 0.7], dtype=F64), 6_000

    def network(x, t, cond):
        kappa = (1 - t)[:, None, None].double()
        z = torch.nn.functional.one_hot(x["z"], 3)
        return {"z": (data.log() + (kappa * z + (1 - kappa) * (z * prior).sum(-1, keepdim=True)).log())}

    # P(z_0 | z_t) is proportional to data q(z_t | z_0): kappa + (1-kappa) p_j on the class itself, (1-kappa) p_j off it
    den = Denoiser(network, Process({"z": component}))
    for options in ({"discrete": "posterior"}, {"discrete": "ctmc", "discrete_eta": 2.0}):
        grid = torch.linspace(1, 0, 41, dtype=F64)
        z = sample(den, {"z": (n, 1)}, grid=grid, solver_options=options)["z"]
        frequencies = torch.bincount(z.flatten(), minlength=3) / n
        bias = 0.0 if options["discrete"] == "posterior" else 0.01  # Euler steps of the chain, weak order 1
        assert float((frequencies - data).abs().max()) < 4.5 * (0.25 / n) ** 0.5 + bias


@pytest.mark.parametrize("prior", [[], [0.0, 0.0], [-1.0, 2.0], [[0.5, 0.5]]])
def test_bad_priors_are_refused(prior):
    with pytest.raises(ValueError, match="categorical prior"):
        Categorical(prior)


def test_a_single_class_is_a_constant():
    """Neutral molecules have one formal charge: nothing to noise, nothing to draw."""
    component, z, u = Categorical([2.0]), torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), 0.999)
    t, s, share = torch.full((2,), 0.7), torch.full((2,), 0.3), torch.ones(2, 3, 1)
    for drawn in (component.perturb(z, t, u), component.prior(z, u), component.choose(share, u, z)):
        assert torch.equal(drawn, z)
    for table in (component.posterior(share, z, t, s), component.ctmc(share, z, t, s, eta=1.0)):
        assert torch.equal(table, share)
