"""`sample`: seeds, replays, constraints, symmetry, systems, vector times, counts and refusals."""

import pytest
import torch
from torch import nn

from scidiff import (
    EDM,
    VESDE,
    VPSDE,
    Categorical,
    Cosine,
    Denoiser,
    Linear,
    Masked,
    Process,
    Symmetric,
    Trig,
    ZeroMean,
    sample,
)
from scidiff.grids import time_grid
from scidiff.oracles import GaussianOracle, MixtureOracle
from scidiff.samplers.base import apply_row, get_solver
from scidiff.testing import random_rotation, record_noise, transform_noise

F64 = torch.float64
SOLVERS = ["euler", "heun", "dpmpp_2m", "ancestral", "euler_maruyama"]
SOLVERS += ["dpm_solver_2", "unipc_3", "pc", "rk45"]


class Cloud(nn.Module):
    """Small equivariant network for positions (B, N, 3), classes (B, N), with messages between all pairs."""

    def __init__(self, num_classes=3, width=6, dtype=F64):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        size = 2 + 2 * num_classes
        self.num_classes = num_classes
        self.hidden = nn.Parameter(torch.randn(size, width, generator=generator, dtype=dtype) / size**0.5)
        self.gate = nn.Parameter(torch.randn(width, generator=generator, dtype=dtype) / width**0.5)
        self.head = nn.Parameter(torch.randn(width, num_classes, generator=generator, dtype=dtype))

    def forward(self, x, t, cond):
        pos, kinds = x["pos"], nn.functional.one_hot(x["z"], self.num_classes).to(x["pos"].dtype)
        n = pos.shape[1]
        mask = cond.get("node_mask", torch.ones(pos.shape[:2], dtype=torch.bool, device=pos.device))
        pairs = (mask[:, :, None] & mask[:, None, :] & ~torch.eye(n, dtype=torch.bool)).to(pos.dtype)[..., None]
        difference = pos[:, :, None] - pos[:, None]
        squares = difference.square().sum(-1, keepdim=True)
        time = t[:, None, None, None].expand_as(squares).to(pos.dtype)
        kinds_i, kinds_j = (kinds[:, :, None].expand(-1, -1, n, -1), kinds[:, None].expand(-1, n, -1, -1))
        message = torch.tanh(torch.cat([squares / (1 + squares), time, kinds_i, kinds_j], -1) @ self.hidden) * pairs
        pull = (difference * (message @ self.gate)[..., None] / (1 + squares.sqrt())).sum(2)
        return {"pos": 0.4 * pos + 0.2 * pull, "z": message.sum(2) @ self.head}


def cloud(keep=None, dtype=F64):
    process = Process({"pos": (VPSDE(), ZeroMean()), "z": Categorical([0.5, 0.3, 0.2], keep)})
    return Denoiser(Cloud(dtype=dtype), process)


def shape(batch, n=5):
    return {"pos": (batch, n, 3), "z": (batch, n)}


def run_on(solver, **options):
    return {"solver": solver, "steps": 12, "solver_options": {"final_denoise": True}, **options}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_does_not_see_its_batch(solver):
    """Batches of 1, 7 and 64: the same noise bit for bit, the same samples to rounding of the matrix products."""
    den = cloud()
    x, noise = record_noise(den, shape(64), **run_on(solver, seed=3))
    for batch in ([0], [5, 0, 63, 7, 8, 9, 10]):
        seeds = [(3, i) for i in batch]
        y, own = record_noise(den, shape(len(batch)), **run_on(solver, seed=seeds))
        for mine, theirs in zip(own, noise, strict=True):
            assert all(torch.equal(mine[k], theirs[k][batch]) for k in mine)
        torch.testing.assert_close(y["pos"], x["pos"][batch], rtol=0, atol=1e-9)
        assert torch.equal(y["z"], x["z"][batch])
    other = sample(den, shape(1), **run_on(solver, seed=4))
    assert not torch.allclose(other["pos"], x["pos"][:1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_padding_does_not_change_a_sample(solver):
    """5 real nodes of 9: padded places stay empty, real ones agree with the bare run."""
    den, mask = cloud(), torch.arange(9).expand(4, 9) < 5
    bare = sample(den, shape(4), **run_on(solver))
    padded = sample(den, shape(4, 9), cond={"node_mask": mask}, **run_on(solver))
    # noise is centred over sums of another order in float64
    torch.testing.assert_close(padded["pos"][:, :5], bare["pos"], rtol=0, atol=1e-9)
    assert torch.equal(padded["z"][:, :5], bare["z"])
    assert not bool(padded["pos"][:, 5:].any())
    assert not bool(padded["z"][:, 5:].any())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("discrete", ["posterior", "ctmc"])
def test_recorded_noise_replays_exactly(solver, discrete):
    den, options = cloud(), {"discrete": discrete, "discrete_eta": 1.0, "final_class": "draw", "final_denoise": True}
    x, noise = record_noise(den, shape(3), solver=solver, steps=9, solver_options=options, seed=1)
    y, again = record_noise(den, shape(3), solver=solver, steps=9, solver_options=options, seed=99, noise=noise)
    assert torch.equal(x["pos"], y["pos"])
    assert torch.equal(x["z"], y["z"])
    assert len(again) == len(noise)
    with pytest.raises(ValueError, match="draws"):
        sample(den, shape(3), solver=solver, steps=9, solver_options=options, noise=noise[:-1])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("reflect", [False, True], ids=["rotation", "reflection"])
def test_sampler_is_equivariant_with_turned_noise(solver, reflect):
    """Rotated noise gives the rotated sample and the same classes (unless a threshold is hit at 1e-15)."""
    den, turn = cloud(), random_rotation(torch.Generator().manual_seed(1), reflect=reflect)
    x, noise = record_noise(den, shape(4), **run_on(solver))
    turned = sample(den, shape(4), noise=transform_noise(noise, {"pos": lambda v: v @ turn.T}), **run_on(solver))
    torch.testing.assert_close(turned["pos"], x["pos"] @ turn.T, rtol=0, atol=1e-9)
    assert torch.equal(turned["z"], x["z"])


@pytest.mark.parametrize("solver", SOLVERS)
def test_sampler_is_permutation_equivariant(solver):
    den, order = cloud(), torch.tensor([3, 0, 4, 1, 2])
    x, noise = record_noise(den, shape(4), **run_on(solver))
    moved = sample(den, shape(4), noise=transform_noise(noise, lambda v: v[:, order]), **run_on(solver))
    torch.testing.assert_close(moved["pos"], x["pos"][:, order], rtol=0, atol=1e-9)
    assert torch.equal(moved["z"], x["z"][:, order])


def test_translation_of_the_start_is_projected_out():
    """A start off the zero-mean space comes back onto it: only the component in the space counts."""
    den = Denoiser(lambda x, t, c: 0.3 * x, Process(VPSDE(), space=ZeroMean()))
    start = ZeroMean().project(torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0), dtype=F64), None)
    x, y = (sample(den, v, solver="ddim", steps=5) for v in (start, start + 7.0))
    torch.testing.assert_close(x, y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("solver", ["ancestral", "dpmpp_2m"])
def test_constraints_hold_after_a_thousand_steps_in_float32(solver):
    """Each step projects anew, so the error is that of one projection: some eps max|x|, not 1000 of them."""
    process = Process({"x": (VPSDE(), ZeroMean()), "e": (VPSDE(), Symmetric()), "m": (VESDE(0.1, 3.0), Masked())})
    den = Denoiser(lambda s, t, c: {k: torch.tanh(v) for k, v in s.items()}, process)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    generator = torch.Generator().manual_seed(0)
    live = torch.rand(2, 6, generator=generator) < 0.5
    init = {k: torch.randn(s, generator=generator) for k, s in {"x": (2, 6, 3), "e": (2, 6, 6), "m": (2, 6)}.items()}
    x = sample(den, init, solver=solver, steps=1000, cond={"node_mask": mask, "live": live})
    eps = torch.finfo(torch.float32).eps
    assert float(x["x"].sum(1).abs().max()) <= 6 * 2 * eps * float(x["x"].abs().max())
    assert torch.equal(x["e"], x["e"].transpose(1, 2))
    assert not bool(x["e"].diagonal(dim1=1, dim2=2).any())
    assert not bool(x["x"][1, 4:].any() or x["e"][1, 4:].any())
    assert torch.equal(x["m"][~live], init["m"][~live])
    assert not bool((x["m"][live] == init["m"][live]).any())


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s not in ("dpm_solver_2", "rk45")])
def test_separable_system_is_two_runs(solver):
    """Two components with own schedules and a separable network: bit for bit the runs of each alone.

    (Inner nodes of single-step methods and adaptive steps are common to a system.)
    """
    parts = {"x": (VPSDE(), ZeroMean()), "y": EDM(0.01, 10.0)}
    shapes, grid = {"x": (3, 4, 2), "y": (3, 5)}, torch.linspace(0.95, 0.05, 9, dtype=F64)
    network = lambda s, t, c: {k: torch.tanh(v) for k, v in s.items()}  # noqa: E731
    whole = sample(Denoiser(network, Process(parts)), shapes, solver=solver, grid=grid, seed=2)
    for name, entry in parts.items():
        alone = sample(
            Denoiser(network, Process({name: entry})), {name: shapes[name]}, solver=solver, grid=grid, seed=2
        )
        assert torch.equal(whole[name], alone[name])


def test_evaluations_and_saved_states():
    """nfe of each solver, first and last saved states, one callback a step."""
    exact = GaussianOracle([1.0], [[0.25]])
    den, seen = exact.denoiser(Process(VPSDE())), []
    for solver, count in (("euler", 8), ("heun", 16), ("dpmpp_2m", 8), ("ancestral", 8)):
        x, info = sample(den, (2, 1), solver=solver, steps=8, save="all")
        assert (info.nfe, len(info.path), len(info.grid)) == (count, 9, 9)
        assert torch.equal(info.path[-1], x)
    x, info = sample(den, (2, 1), steps=8, save=3, solver_options={"final_denoise": True}, callback=seen.append)
    assert info.nfe == 9
    assert len(info.path) == 4  # start, steps 3 and 6, x0
    assert [s.i for s in seen] == list(range(8))
    assert all(s.n == 8 for s in seen)
    assert torch.equal(info.grid, time_grid(Process(VPSDE()), "logsnr", 8))
    assert sample(den, (2, 1), steps=8, save="none")[1].path == []
    t = seen[-1].t.expand(2)
    wanted = exact.posterior_mean(seen[-1].x, VPSDE().alpha(t), VPSDE().sigma(t))
    torch.testing.assert_close(x, wanted, rtol=1e-10, atol=1e-10)  # final_denoise is one x0 prediction


@pytest.mark.parametrize("solver", SOLVERS[:4])
@pytest.mark.parametrize("schedule", [Linear(), Trig(), Cosine()], ids=lambda s: type(s).__name__)
def test_grids_between_the_singular_ends(schedule, solver):
    """From alpha = 0 to sigma = 0 the result is the data mean plus a spread of the right size, without NaN.

    Standard error of the mean of 4,000 draws with std .5 is .008; 100 uniform steps bias the deviation by some percent.
    """
    den = GaussianOracle([2.0], [[0.25]]).denoiser(Process(schedule))
    x = sample(den, (4_000, 1), solver=solver, grid=torch.linspace(1, 0, 101, dtype=F64))
    assert float(x.mean()) == pytest.approx(2.0, abs=4 * 0.008 + 0.01)
    assert float(x.std()) == pytest.approx(0.5, rel=0.08)


def test_a_noise_prediction_at_vanishing_signal_is_refused():
    den = GaussianOracle([2.0], [[0.25]]).denoiser(Process(Linear()), "eps")
    with pytest.raises(ValueError, match=r"t_max = 0\.999"):
        sample(den, (4, 1), grid=torch.tensor([1.0, 0.5, 0.1]))
    assert bool(torch.isfinite(sample(den, (4, 1), grid="logsnr")).all())


@pytest.mark.parametrize("solver", ["ddim", "euler", "dpmpp_2m", "ancestral"])
def test_every_element_may_have_its_own_times(solver):
    """With an elementwise network an element moves as in a run of its own grid; an element at rest does not move."""
    grid = torch.tensor([[0.9, 0.5, 0.0], [0.6, 0.5, 0.0], [0.3, 0.2, 0.0], [0.1, 0.0, 0.0]], dtype=F64)
    schedule = VPSDE()
    den = Denoiser(lambda x, t, c: torch.tanh(x), Process(schedule))
    start = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    x, noise = record_noise(den, start, solver=solver, grid=grid)
    assert torch.equal(x[:, 2], start[:, 2])
    one = sample(den, start[:, 0], solver=solver, grid=grid[:, 0], noise=[z[:, 0] for z in noise])
    torch.testing.assert_close(x[:, 0], one, rtol=0, atol=1e-14)
    late = sample(den, start[:, 1], solver=solver, grid=grid[1:, 1], noise=[z[:, 1] for z in noise[1:]])
    torch.testing.assert_close(x[:, 1], late, rtol=0, atol=1e-14)


def test_self_conditioning_sees_the_previous_prediction():
    seen = []

    def network(x, t, cond):
        seen.append(cond["self_cond"])
        return {"x": 0.5 * x["x"], "z": torch.zeros(*x["z"].shape, 2)}

    process = Process({"x": VPSDE(), "z": Categorical([0.5, 0.5])})
    _, info = sample(
        Denoiser(network, process, self_conditioning=True), {"x": (2, 3), "z": (2, 3)}, steps=3, save="all"
    )
    assert info.nfe == 3
    assert not any(bool(v.any()) for v in seen[0].values())
    assert seen[0]["z"].shape == (2, 3, 2)
    for before, given in zip(info.path[:2], seen[1:], strict=True):
        assert torch.equal(given["x"], 0.5 * before["x"])
        assert torch.equal(given["z"], torch.full((2, 3, 2), 0.5))


def test_runs_in_inference_mode_and_leaves_the_global_generator_alone():
    den, state = MixtureOracle([1.0], [[0.0]], [[[1.0]]]).denoiser(Process(Cosine(nu=2.0))), torch.get_rng_state()
    with torch.inference_mode():
        x = sample(den, (3, 1), solver="heun", steps=4)
    assert torch.equal(x, sample(den, (3, 1), solver="heun", steps=4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "dpmpp2m"}, "Did you mean 'dpmpp_2m'"),
        ({"solver": "ddim", "solver_options": {"etta": 1.0}}, "does not take these options"),
        ({"solver": "ddim", "solver_options": {"eta": 2.0}}, "eta must lie"),
        ({"solver": get_solver("ddim"), "solver_options": {"eta": 1.0}}, "beside a solver object"),
        ({"grid": "karas"}, "Did you mean 'karras'"),
        ({"save": "some"}, "save must be"),
        ({"save": 0}, "save must be"),
        ({"solver_options": {"discrete": "gibbs"}}, "discrete must be one of"),
        ({"seed": [1, 2, 3]}, "one per sample"),
    ],
)
def test_bad_requests_are_refused(options, message):
    den = GaussianOracle([0.0], [[1.0]]).denoiser(Process(VPSDE()))
    with pytest.raises(ValueError, match=message):
        sample(den, (2, 1), **options)


def test_a_state_must_have_the_components():
    with pytest.raises(ValueError, match=r"\['pos', 'z'\]"):
        sample(cloud(), {"pos": (2, 3, 3)})


@pytest.mark.slow
def test_a_row_compiles_without_breaks():
    """The same numbers as eager to 1e-6, for every kind of row, in one graph."""
    compiled = torch.compile(apply_row, fullgraph=True, dynamic=False)
    generator = torch.Generator().manual_seed(0)
    x, anchor, m, z = torch.randn(4, 8, 3, 5, generator=generator)
    for row in (torch.randn(7, generator=generator), torch.randn(7, 3, generator=generator)):
        for noise in (None, z):
            eager = apply_row(row, x, anchor, [m, x, z], noise)
            torch.testing.assert_close(compiled(row, x, anchor, [m, x, z], noise), eager, rtol=1e-6, atol=1e-6)
