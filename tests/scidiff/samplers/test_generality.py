"""What every solver must take: singular ends, element times, known endpoints, finite D, compilation."""

import math

import pytest
import torch

from scidiff import EDM, VPSDE, Cosine, Denoiser, Linear, Process, StudentTNoise, Trig, sample
from scidiff.samplers import Row, get_solver, solver_names
from scidiff.samplers.base import apply_row
from scidiff.samplers.rows import known_nodes, leading_nodes
from tests.scidiff.samplers.problems import MEAN, VARIANCE, gaussian_network, starts

F64 = torch.float64
ONE_TIME = {"pc", "s4", "rk45"}
NEEDS_SIGNAL = {"euler_maruyama", "s4"}  # singular drift at alpha = 0
OTHER = {"interpolant_sde"}  # combines two predictions, tested with its family
SOLVERS = [name for name in solver_names() if name not in OTHER]
FLOWS = [name for name in SOLVERS if not get_solver(name).needs_score and name not in ONE_TIME]
STATISTICAL = 0.35  # 400 numbers: four standard errors of the variance are .28 of it


def denoiser(schedule, **options):
    return Denoiser(gaussian_network(schedule), Process(schedule, **options))


@pytest.mark.parametrize("schedule", [Linear(), Trig(), Cosine()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("solver", [s for s in SOLVERS if s not in NEEDS_SIGNAL | {"rk45"}])
def test_from_vanishing_signal_to_clean_data(solver, schedule):
    """alpha(1) = 0 and sigma(0) = 0 are first-order steps: finite, and near the data's law at 40 steps."""
    grid = 1 - torch.linspace(0, 1, 41, dtype=F64)
    x = sample(denoiser(schedule), starts(400), solver=solver, grid=grid)
    if solver == "pc":  # in three dimensions the norms of single samples fluctuate too much for its law
        return
    slack = 1.0 if solver == "reverse_diffusion" else STATISTICAL  # order 1 with a rough last step
    assert (x.mean(0) - torch.tensor(MEAN)).abs().max() < 0.35
    assert ((x.var(0) / torch.tensor(VARIANCE)).log().abs()[1:]).max() < slack


@pytest.mark.parametrize("solver", sorted(NEEDS_SIGNAL))
def test_singular_requests_say_so(solver):
    with pytest.raises(ValueError, match=r"singular for Linear.*start below t = 1"):
        sample(denoiser(Linear()), starts(2), solver=solver, grid=torch.tensor([1.0, 0.5]))


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc_3", "dpm_solver_2", "deis_tab3", "edm_heun", "heun"])
def test_noise_prediction_without_signal_is_refused(solver):
    den = Denoiser(lambda x, t, cond: x, Process(Linear()), "eps")
    with pytest.raises(ValueError, match="prediction 'eps' has no"):
        sample(den, starts(2), solver=solver, grid=torch.tensor([1.0, 0.5, 0.1]))


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s not in ONE_TIME])
def test_elements_with_their_own_times(solver):
    """Columns that rest, then move, then rest are the runs of their own grids; the exact denoiser acts elementwise.

    Inner nodes are common fractions of a step in lambda, so that single-step methods agree as well.
    """
    moving = torch.tensor([0.9, 0.6, 0.3, 0.1], dtype=F64)
    late = torch.tensor([0.9, 0.9, 0.9, 0.6, 0.3, 0.1], dtype=F64)
    early = torch.tensor([0.9, 0.6, 0.3, 0.1, 0.1, 0.1], dtype=F64)
    clean = torch.zeros(6, dtype=F64)
    den, x = denoiser(VPSDE()), starts(4)
    options = {"lower_order_final": False} if solver.startswith("unipc") else {}
    run = {"solver": solver, "solver_options": options}
    y = sample(den, x, grid=torch.stack([late, early, clean], dim=1), **run)
    assert bool(torch.isfinite(y).all())
    assert torch.equal(y[:, 2], x[:, 2])
    if not get_solver(solver, options).needs_score:
        alone = sample(den, x, grid=moving, **run)
        # a corrector runs at the end of `early` but not at the end of its own grid: compare the late column
        assert (y[:, 0] - alone[:, 0]).abs().max() < 1e-9
        if not solver.startswith("unipc"):
            assert (y[:, 1] - alone[:, 1]).abs().max() < 1e-9


class Shifted(VPSDE):
    """VPSDE with a known endpoint of weight t."""

    def __init__(self):
        super().__init__()

    def endpoint(self, t):
        return t.clone()


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != "rk45"])
def test_known_endpoint_is_a_shift(solver):
    """y = x - beta(t) x_1 follows the solver of the process without endpoint, with the same noise."""
    schedule, plain = Shifted(), denoiser(VPSDE())
    end = torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    network = gaussian_network(VPSDE())

    def shifted_network(x, t, cond):
        return network(x - t[:, None] * end, t)

    den = Denoiser(shifted_network, Process(schedule))
    grid = torch.tensor([0.9, 0.7, 0.4, 0.2, 0.05], dtype=F64)
    y = starts(6)
    x = sample(den, y + 0.9 * end, solver=solver, grid=grid, x_1=end, seed=4)
    expected = sample(plain, y, solver=solver, grid=grid, seed=4)
    # velocity solvers integrate beta' x_1 exactly only because beta is linear here
    assert (x - 0.05 * end - expected).abs().max() < 1e-9


@pytest.mark.parametrize("solver", FLOWS)
def test_finite_degrees_of_freedom_leave_flows_as_they_are(solver):
    """PFGM++ changes the law of the noise, not the flow: the same numbers as with Gaussian noise."""
    grid = torch.tensor([1.0, 0.5, 0.1, 0.01], dtype=F64)
    x = 80 * starts(4)
    finite = sample(denoiser(EDM(), law=StudentTNoise(8.0)), x, solver=solver, grid=grid)
    assert torch.equal(finite, sample(denoiser(EDM()), x, solver=solver, grid=grid))


@pytest.mark.parametrize("solver", [s for s in SOLVERS if get_solver(s).needs_score])
def test_finite_degrees_of_freedom_refuse_scores_unless_heuristic(solver):
    process = Process(EDM(), law=StudentTNoise(8.0))
    run = {"solver": solver, "grid": torch.tensor([1.0, 0.5, 0.1], dtype=F64)}
    with pytest.raises(ValueError, match=r"needs a score.*heuristic=True"):
        sample(Denoiser(gaussian_network(EDM()), process), starts(2), **run)
    den = Denoiser(gaussian_network(EDM()), process, heuristic=True)
    assert bool(torch.isfinite(sample(den, 80 * starts(2), **run)).all())


def test_history_is_cut_by_repeats_and_starts():
    times = [1.0, 0.8, 0.8, 0.5, 0.2]
    rows = [Row(torch.tensor(t), torch.tensor(s), i) for i, (t, s) in enumerate(zip(times, [*times[1:], 0.1]))]
    nodes = known_nodes(lambda t: t, rows, 3)
    assert leading_nodes(nodes).tolist() == [1, 2, 1, 2, 3]
    rows[1].is_start = True
    assert leading_nodes(known_nodes(lambda t: t, rows, 3)).tolist() == [1, 1, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != "rk45"])
def test_rows_compile_in_one_graph(solver):
    """``step`` of the corrections too: equal to eager, without a graph break."""
    method, process = get_solver(solver), Process(VPSDE())
    plan = method.plan(process, torch.tensor([0.9, 0.6, 0.3, 0.1], dtype=F64)).cast(torch.float32, torch.device("cpu"))
    x, anchor, m, z = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    history = tuple({"": m * (j + 1)} for j in range(plan.depth))
    for i in (0, len(plan.rows) - 1):
        torch.compiler.reset()
        compiled = torch.compile(lambda a, i=i: method.step(plan, i, a, {"": anchor}, history, {"": z}), fullgraph=True)
        eager = method.step(plan, i, {"": x}, {"": anchor}, history, {"": z})
        assert (compiled({"": x})[""] - eager[""]).abs().max() < 1e-6 * max(1.0, float(eager[""].abs().max()))


def test_apply_row_has_no_host_synchronisation():
    """The traced graph of a row holds no ``item`` (aten::_local_scalar_dense), so no data-dependent branch either."""
    row, x = torch.randn(6), torch.randn(2, 3)
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda r, a: apply_row(r, a, a, [a, a], a))(row, x).graph
    assert not [node for node in graph.nodes if "local_scalar" in str(node.target)]
    assert math.isfinite(float(apply_row(row, x, x, [x, x], x).sum()))
