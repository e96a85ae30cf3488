"""Forecasts without a network against closed forms and recorded figures."""

import numpy as np
import pytest

from trajectories.baselines import LinearAutoregression, constant_velocity, stay
from trajectories.data.simulators import simulate
from trajectories.metrics import displacement_errors


def line(rng, frames=7):
    start, velocity = rng.normal(size=(2, 4, 3, 1, 2))
    return start + velocity * np.arange(frames)[:, None]


def test_lines():
    rng = np.random.default_rng(0)
    pos = line(rng)
    assert constant_velocity(pos[:, :, :3], 4) == pytest.approx(pos[:, :, 3:])
    assert (stay(pos[:, :, :3], 4) == pos[:, :, 2:3]).all()
    with pytest.raises(ValueError, match="at least 2 observed"):
        constant_velocity(pos[:, :, :1], 4)


@pytest.mark.parametrize("per_node", [False, True])
def test_autoregression_extrapolates_polynomials(per_node):
    """Two differences determine a parabola; weights are the same for every node, or each node's own."""
    rng = np.random.default_rng(1)
    bend = rng.normal(size=(40, 3, 1, 2)) * np.arange(7)[:, None] ** 2
    pos = bend + np.concatenate([line(rng) for _ in range(10)])
    model = LinearAutoregression(per_node=per_node).fit(pos[:30], 3)
    assert model.predict(pos[30:, :, :3]) == pytest.approx(pos[30:, :, 3:], abs=1e-9)
    with pytest.raises(ValueError, match="3 observed frames"):
        model.predict(pos[:, :, :4])


def test_nodes_of_their_own():
    """Node 0 stays, node 1 moves on: one set of weights cannot say both."""
    rng = np.random.default_rng(2)
    pos = np.cumsum(rng.normal(size=(200, 2, 3, 1)), 2)
    pos[:, 0, 2] = pos[:, 0, 1]
    pos[:, 1, 2] = 2 * pos[:, 1, 1] - pos[:, 1, 0]
    own = LinearAutoregression(per_node=True).fit(pos, 2)
    assert own.weights.ravel() == pytest.approx([0, 1], abs=1e-12)
    shared = LinearAutoregression().fit(pos, 2)
    assert 0.2 < shared.weights[0, 0] < 0.8
    smaller = LinearAutoregression(ridge=1.0).fit(pos, 2)
    assert 0 < smaller.weights[0, 0] < shared.weights[0, 0]


@pytest.mark.parametrize(
    ("kind", "still", "velocity"),
    [("charged", (0.798, 1.474), (0.493, 1.039)), ("spring", (0.493, 0.910), (0.141, 0.378))],
)
def test_simulated_particles(kind, still, velocity):
    """Recorded on 2,000 runs, 10 observed and 20 predicted frames; here 500 others, so 5 standard errors of both."""
    pos = simulate(kind, 500, num_frames=30, first_run=3000).pos.numpy()
    for forecast, recorded in ((stay, still), (constant_velocity, velocity)):
        predicted = forecast(pos[:, :, :10], 20)
        scores = displacement_errors(predicted[:, None], pos[:, :, 10:])
        distance = np.linalg.norm(predicted - pos[:, :, 10:], axis=-1).mean(1)
        for name, values, wanted in zip(("ade", "fde"), (distance.mean(-1), distance[:, -1]), recorded, strict=True):
            assert scores[f"{name}_mean"] == pytest.approx(
                wanted, abs=5 * float(values.std()) * (1 / 500 + 1 / 2000) ** 0.5
            )


def test_springs_say_nothing_about_interactions():
    """Nine differences of noise-free frames extrapolate like a polynomial: below every published network."""
    pos = simulate("spring", 300, num_frames=30).pos.numpy().astype(np.float64)
    model = LinearAutoregression().fit(pos[:200], 10)
    scores = displacement_errors(model.predict(pos[200:, :, :10])[:, None], pos[200:, :, 10:])
    assert scores["ade_mean"] < 0.003
