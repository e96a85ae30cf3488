"""Recipes: tables, transition matrices, scales and losses against formulas, enumeration and closed forms."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import f as f_law
from scipy.stats import kstest

from molecules import QM9, MoleculeDiffusion, MoleculeGenerator
from molecules.networks import MessagePassing, PairFormer
from molecules.recipes import EDMPoints, EQGATDiff, Flow
from scidiff import Process, sample
from scidiff.oracles import GaussianOracle
from scidiff.student import StudentTNoise
from tests.molecules.models import SMALL, small_spec

KNOWN = {  # abar_k at k = 0, 50, 100, 250, 400, 450 for T = 500
    2.5: (1.000000, 0.999845, 0.998483, 0.918747, 0.380993, 0.124244),
    1.0: (0.999913, 0.971161, 0.897198, 0.492288, 0.093683, 0.023996),
    1.5: (0.999997, 0.996181, 0.976768, 0.713378, 0.183341, 0.050817),
}
NU = {"pos": 2.5, "atom": 1.0, "charge": 1.0, "bond": 1.5}
RECIPES = [
    Flow(),
    Flow(prior="mask"),
    Flow(law=StudentTNoise(16.0)),
    Flow(prior="mask", fake_atoms=0.3),
    EQGATDiff(20),
    EQGATDiff(20, prior="mask"),
    EQGATDiff(20, types="gaussian"),
    EDMPoints(20),
]


@pytest.fixture(scope="module")
def batch():
    data = QM9(root="2k", batch_pairs=2_000)
    return data.dense("train")[(len(data.dense("train").buckets) - 1, torch.arange(6))]


@pytest.mark.parametrize("name", NU)
def test_tables_of_eqgat_diff(name):
    """Signal coefficient of positions, keep probability of classes; recorded values, and the formula for T = 500."""
    t = torch.tensor([0, 50, 100, 250, 400, 450], dtype=torch.float64) / 500
    component = EQGATDiff().process(small_spec()).components[name]
    schedule = component.schedule if name == "pos" else component.keep
    assert schedule.alpha(t).tolist() == pytest.approx(KNOWN[NU[name]], abs=5.1e-7)
    assert (schedule.sigma(t) ** 2).tolist() == pytest.approx((1 - schedule.alpha(t) ** 2).tolist(), abs=1e-14)


def chain(name, prior, first, last):
    """Product of the published one-step matrices a_k I + (1 - a_k) 1 p^T, k = first + 1..last, from the formula."""
    u, s = np.arange(1, 502) / 501, 0.008
    values = np.cos(np.pi / 2 * (u ** NU[name] + s) / (1 + s)) ** 2
    kept = np.clip(values[1:] / values[:-1], 0.05, 1.0)
    matrix = np.eye(len(prior))
    for k in range(first, last):
        matrix = matrix @ (kept[k] * np.eye(len(prior)) + (1 - kept[k]) * np.outer(np.ones(len(prior)), prior))
    return matrix


@pytest.mark.parametrize("prior", ["marginal", "uniform", "mask"])
@pytest.mark.parametrize("name", ["atom", "charge", "bond"])
@pytest.mark.parametrize(("k", "s"), [(500, 490), (250, 249), (60, 10)])
def test_posterior_is_bayes_on_products_of_published_steps(prior, name, k, s):
    """P(z_s | z_k) from sums over paths of single steps, for steps of 1, 10 and 50 levels, from level 0's mixture."""
    component = EQGATDiff(prior=prior).process(small_spec()).components[name]
    share = component.probabilities.numpy()
    count = len(share)
    kappa_0 = float(component.keep.alpha(torch.zeros((), dtype=torch.float64)))
    start = kappa_0 * np.eye(count) + (1 - kappa_0) * np.outer(np.ones(count), share)  # level 0 is not clean
    guess = np.random.default_rng(0).dirichlet(np.ones(count))
    if prior == "mask":
        guess[-1] = 0
        guess /= guess.sum()
    to_s, step = start @ chain(name, share, 0, s), chain(name, share, s, k)
    times = [torch.tensor([v / 500], dtype=torch.float64) for v in (k, s)]
    for j in range(count):
        joint = (
            guess[:, None] * to_s / np.where(to_s @ step[:, j] > 0, to_s @ step[:, j], 1)[:, None] * step[None, :, j]
        )
        joint[(to_s @ step[:, j]) == 0] = 0
        if joint.sum() == 0:
            continue
        wanted = joint.sum(0) / joint.sum()
        found = component.posterior(torch.tensor(guess)[None, None], torch.tensor([[j]]), *times)[0, 0]
        np.testing.assert_allclose(found.numpy() / found.sum().item(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [500, 50], ids=["every level", "every tenth"])
def test_ancestral_steps_over_the_position_table_have_the_published_variance(steps):
    """Exact denoiser of N(0, 1.96): the published posterior step is linear, so its variance follows by recursion."""
    schedule, count = EQGATDiff().tables["pos"], 4_000
    den = GaussianOracle(mean=[0.0], cov=[[1.96]]).denoiser(Process(schedule))
    x = sample(den, (count, 1), solver="ancestral", grid=EQGATDiff().grid(steps), seed=0)
    table = schedule.alpha(torch.linspace(0, 1, 501, dtype=torch.float64))[:: 500 // steps].tolist()
    variance = 1.0
    for a_s, a_k in reversed(list(itertools.pairwise(table))):
        s_s, s_k, ratio = 1 - a_s**2, 1 - a_k**2, a_k / a_s
        between = s_k - ratio**2 * s_s
        slope = ratio * s_s / s_k + a_s * between / s_k * a_k * 1.96 / (a_k**2 * 1.96 + s_k)
        variance = slope**2 * variance + between * s_s / s_k
    assert float(x.var()) == pytest.approx(variance, rel=4.5 * (2 / count) ** 0.5)
    if steps == 500:
        assert variance == pytest.approx(1.96, rel=0.03)


def test_weights_are_clamped_ratios_at_the_levels():
    t = torch.tensor([0, 50, 100, 250, 400, 450], dtype=torch.float64) / 500
    wanted = [min(max(a / (1 - a), 0.05), 1.5) for a in KNOWN[1.0]]
    assert EQGATDiff().time_weight(t).tolist() == pytest.approx(wanted, abs=3e-6)


def small_network(recipe):
    if recipe.is_discrete and not isinstance(recipe, EQGATDiff):
        return PairFormer(**SMALL)
    options = {"hidden": 16, "num_layers": 2}
    if recipe.has_bonds:
        return MessagePassing(backbone="eqgat", options=options)
    bounded = {"norm_diff": True, "tanh": True, "aggregation": "mean"}
    return MessagePassing(backbone="egnn", options={**options, **bounded}, output="field")


def small_module(recipe):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MoleculeDiffusion(small_network(recipe), recipe=recipe, spec=small_spec(), self_conditioning=0.0)


def test_loss_of_eqgat_diff_is_the_published_sum(batch):
    """w [3 mse_pos + 0.4 ce_atom + ce_charge + 2 ce_bond], ce_bond half the mean over atoms of means over edges."""
    model = small_module(EQGATDiff(20)).double()
    batch = {**batch, "pos": batch["pos"].double()}
    with torch.no_grad():
        result = model.training_loss(batch, torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    state, _, cond = model.prepare(batch)
    t = model.sample_time(len(batch["pos"]), g)
    noise = model._noise(state["pos"], cond, g)
    x_t, _ = model.denoiser.process.perturb(state, t, {"pos": noise}, generator=g, cond=cond)
    with torch.no_grad():
        out = model.denoiser.network(x_t, t.double(), cond)
    for k, n in enumerate(batch["node_mask"].sum(1).tolist()):
        pos = out["pos"][k, :n] - out["pos"][k, :n].mean(0)
        total = 3 * (pos - batch["pos"][k, :n]).square().mean(-1).mean()
        for name, weight in (("atom", 0.4), ("charge", 1.0)):
            total = total - weight * out[name][k, :n].log_softmax(-1)[torch.arange(n), batch[name][k, :n]].mean()
        bonds = -out["bond"][k, :n, :n].log_softmax(-1).gather(-1, batch["bond"][k, :n, :n, None])[..., 0]
        incoming = (bonds.sum(1) - bonds.diagonal()) / (n - 1)
        total = total + 2 * 0.5 * incoming.mean()
        level = EQGATDiff(20)._weights.alpha(t[k].double())
        assert float(result.loss[k]) == pytest.approx(float(total * (level / (1 - level)).clamp(0.05, 1.5)), rel=1e-6)


def test_gaussian_types_have_the_published_ratio_of_signal_and_noise(batch):
    """One-hot bonds with noise (E + E^T)/2, off-diagonal variance 1/2: ratio 2, here (sqrt 2)^2 over variance 1."""
    recipe, spec = EQGATDiff(types="gaussian"), small_spec()
    state = recipe.encode(batch, spec)
    cond = {"node_mask": batch["node_mask"]}
    component = recipe.process(spec).continuous["bond"]
    z = torch.randn(2000, 4, 4, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    live = component.space.live(z, None)
    noise = component.shape(torch.where(live, z, 0), None)[:, 0, 1, 0]
    real = (batch["node_mask"][:, :, None] & batch["node_mask"][:, None]).triu(1)
    power = state["bond"].square().sum(-1)[real]
    assert (power - 2).abs().max() < 1e-6
    assert float(noise.var()) == pytest.approx(1.0, rel=4.5 * (2 / 2000) ** 0.5)
    assert torch.equal(component.space.project(state["bond"], cond), state["bond"])


@pytest.mark.parametrize("recipe", [Flow(), EQGATDiff(20), EQGATDiff(20, types="gaussian")], ids=repr)
def test_states_are_read_back(recipe, batch):
    arrays = recipe.decode(recipe.encode(batch, small_spec()), small_spec())
    live = batch["node_mask"].numpy()
    assert np.abs(arrays["pos"] - batch["pos"].numpy()).max() < 1e-6
    for name in ("atom", "charge"):
        assert np.array_equal(arrays[name][live], batch[name].numpy()[live])
    assert np.array_equal(arrays["bond"], batch["bond"].numpy())


def test_points_of_edm_and_their_bonds(batch):
    """Scales 1, 4, 10; alpha^2 of the polynomial schedule by hand; bonds of a sample are those of the distances."""
    recipe, spec = EDMPoints(), small_spec()
    state = recipe.encode(batch, spec)
    numbers = np.array(spec.numbers)[batch["atom"].numpy()] * batch["node_mask"].numpy()
    assert state["number"][..., 0].numpy() == pytest.approx(numbers / 10, abs=1e-6)
    assert state["atom"].sum(-1).numpy() == pytest.approx(0.25 * batch["node_mask"].numpy(), abs=1e-7)
    k = np.array([0, 100, 500, 900])
    squares = (1 - 2e-5) * (1 - (k / 1000) ** 2) ** 2 + 1e-5
    found = recipe.table.alpha(torch.tensor(k / 1000)) ** 2
    assert found.tolist() == pytest.approx(squares.tolist(), rel=1e-9)
    methane = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 1.09 / 3**0.5
    explicit = QM9(hydrogens="explicit", root="2k").spec
    types = torch.zeros(1, 5, explicit.num_atom_classes)
    types[0, 0, explicit.elements.index("C")] = types[0, 1:, explicit.elements.index("H")] = 0.25
    arrays = recipe.decode({"pos": torch.tensor(methane)[None], "atom": types}, explicit)
    assert arrays["bond"][0, 0].tolist() == [0, 1, 1, 1, 1]
    assert arrays["bond"][0, 1:, 1:].sum() == 0
    assert [explicit.charges[c] for c in arrays["charge"][0]] == [0] * 5


def test_poisson_flow_noise_has_the_radial_law():
    """|eps|^2/N of N = 3 (n - 1) numbers is F-distributed with (N, D) degrees of freedom, one draw a molecule."""
    recipe = Flow(law=StudentTNoise(8.0))
    model = MoleculeDiffusion(PairFormer(**SMALL), recipe=recipe, spec=small_spec(), coupling="independent")
    mask = torch.arange(7).expand(4000, 7) < 5
    noise = model._noise(torch.zeros(4000, 7, 3), {"node_mask": mask}, torch.Generator().manual_seed(0))
    assert noise.sum(1).abs().max() < 1e-4
    radial = noise.square().sum((1, 2)).double() / 12
    assert kstest(radial.numpy(), f_law(12, 8).cdf).pvalue > 1e-3


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_every_recipe_trains_and_draws(recipe, batch, tmp_path):
    """A step lowers the loss on the same noise; samples have atoms of the vocabulary, survive saving, never a mask."""
    model = small_module(recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model.training_loss(batch, torch.Generator().manual_seed(0)).loss.mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    generator = MoleculeGenerator(model)
    assert generator.steps == recipe.steps
    mols = generator.sample(3, steps=4, seed=1)
    assert mols.nfe == 4 + int(recipe.is_denoised)
    for record in mols:
        assert set(record.numbers.tolist()) <= set(small_spec().numbers)
        assert np.isfinite(record.pos).all()
        assert np.abs(record.pos.mean(0)).max() < 1e-4
        assert record.bonds.max() < small_spec().num_bond_classes
    again = MoleculeGenerator.from_pretrained(generator.save(tmp_path / "m.safetensors"))
    assert repr(again.recipe) == repr(recipe)
    assert np.abs(again.sample(3, steps=4, seed=1)[0].pos - mols[0].pos).max() == 0


def test_a_mask_is_never_predicted(batch):
    """The last class has probability 0 in the prediction, and no sample keeps it although all start there."""
    model = small_module(Flow(prior="mask"))
    state, _, cond = model.prepare(batch)
    start = {
        **state,
        **{name: torch.full_like(state[name], 3 + (name == "bond")) for name in ("atom", "charge", "bond")},
    }
    out = model.denoiser(start, torch.ones(len(batch["pos"])), cond).x0
    for name in ("atom", "charge", "bond"):
        assert float(out[name][..., -1].max()) == 0
        assert float((out[name].sum(-1) - 1).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("make", "telling"),
    [
        (lambda: Flow(prior="masked"), "'marginal', 'uniform' or 'mask'"),
        (lambda: Flow(fake_atoms=1.5), r"share in \[0, 1\]"),
        (lambda: EQGATDiff(types="normal"), "'categorical' or 'gaussian'"),
        (lambda: EQGATDiff(nu={"positions": 1.0}), "got .'positions'"),
        (lambda: MoleculeDiffusion(recipe=EDMPoints()), "use MessagePassing"),
        (lambda: MoleculeDiffusion(MessagePassing()), "set self_conditioning to 0"),
        (lambda: EDMPoints().process(small_spec(), anchored=True), "needs categorical types"),
    ],
)
def test_bad_recipes_are_refused(make, telling):
    with pytest.raises(ValueError, match=telling):
        make()
