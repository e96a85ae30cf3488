import time

import networkx as nx
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from graphs.data import GraphDataModule, as_graph_set
from graphs.data.sources import load_named, split_codes
from graphs.descriptors import (
    WAVELET_MAX,
    clustering_coefficients,
    eigenvalues,
    spectral_histograms,
    wavelet_filters,
    wavelet_histograms,
)
from graphs.mmd import DESCRIPTORS, Comparison, Descriptor, distances, mmd2, mmd2_unbiased
from scidiff.assets import data_folder

needs_data = pytest.mark.skipif(data_folder() is None, reason="needs the data folder")

# train against test, recomputed twice independently from the same files: degree, clustering, orbit, spectral, wavelet
FLOORS = {
    ("community_small", "emd"): (0.003384, 0.009235, 0.000972, 0.034050),
    ("community_small", "tv"): (0.002300, 0.048176, 0.001584, 0.011851),
    ("ego_small", "emd"): (0.014201, 0.027289, 0.004441, None),  # spectral: see test_eigenvalue_two
    ("ego_small", "tv"): (0.003746, 0.022682, 0.004743, None),
    ("enzymes", "emd"): (0.008211, 0.095877, 0.012253, 0.012328),
    ("enzymes", "tv"): (0.003177, 0.020176, 0.017025, 0.006464),
    ("grid", "emd"): (0.000138, 0.000000, 0.000134, None),
    ("grid", "tv"): (0.000104, 0.000000, 0.000144, None),
    ("community_spectre", "emd"): (0.01760, 0.07147, 0.00628, 0.10535),
    ("community_spectre", "tv"): (0.00256, 0.10282, 0.00578, 0.03372, 0.02253),
    ("planar", "emd"): (0.00038, 0.00050, 0.00123, 0.01878),
    ("planar", "tv"): (0.00012, 0.03873, 0.00197, 0.00527, 0.00087),
    ("sbm", "emd"): (0.01925, 0.00259, 0.02894, 0.02006),
    ("sbm", "tv"): (0.00099, 0.03208, 0.02925, 0.00293, 0.00137),
}
GDSS = ("community_small", "ego_small", "enzymes", "grid")


@pytest.fixture(scope="module")
def histograms():
    """Descriptor histograms of train and test parts, each computed once."""
    kept = {}

    def get(name, descriptor):
        if (name, descriptor) not in kept:
            graphs = load_named(name)
            graphs = graphs.with_split(split_codes(graphs, "gdss" if name in GDSS else "spectre", 0.0))
            parts = [DESCRIPTORS[descriptor].histogram(graphs.part(part)) for part in ("train", "test")]
            kept[name, descriptor] = parts
        return kept[name, descriptor]

    return get


def statistic(train, test, descriptor, kernel):
    return Comparison({"train": train, "test": test}, descriptor, kernel).mmd2("train", "test")


@needs_data
@pytest.mark.parametrize(("name", "kernel"), FLOORS, ids=[f"{name} {kernel}" for name, kernel in FLOORS])
def test_train_against_test_equals_the_recorded_floors(histograms, name, kernel):
    """To one unit of the last recorded digit; eigenvalues and energies at bin edges move the last two by up to 1e-4."""
    digits = 1e-6 if name in GDSS else 1e-5
    for descriptor, floor in zip(DESCRIPTORS, FLOORS[name, kernel]):
        if floor is not None:
            found = statistic(*histograms(name, descriptor), DESCRIPTORS[descriptor], kernel)
            assert found == pytest.approx(floor, abs=1e-4 if descriptor in ("spectral", "wavelet") else digits)


@needs_data
def test_wrong_scales_miss_the_floors(histograms):
    """Sigma 1 instead of 0.1, distances not divided by the number of bins, histograms that are not normalised."""
    train, test = histograms("community_small", "clustering")
    right = FLOORS["community_small", "emd"][1]
    for wrong in (Descriptor(DESCRIPTORS["clustering"].histogram, 1.0, 0.01), Descriptor(lambda g: g, 0.1, 1.0)):
        assert abs(statistic(train, test, wrong, "emd") - right) > 1e-3
    train, test = histograms("community_small", "degree")
    scaled = statistic(15 * train, 15 * test, DESCRIPTORS["degree"], "emd")
    assert abs(scaled - FLOORS["community_small", "emd"][0]) > 1e-3


@needs_data
def test_floors_of_the_four_sets_take_seconds():
    """All descriptors and the emd kernels of the four sets in under 10 s of one core."""
    start = time.process_time()
    for name in GDSS:
        data = GraphDataModule(name, split="gdss", val_fraction=0.0)
        for descriptor in DESCRIPTORS.values():
            statistic(descriptor.histogram(data.train), descriptor.histogram(data.test), descriptor, "emd")
    assert time.process_time() - start < 10


def test_emd_is_the_wasserstein_distance():
    rng = np.random.default_rng(0)
    a, b = rng.dirichlet(np.ones(7), 4), rng.dirichlet(np.ones(9), 5)
    for name in ("degree", "clustering"):
        descriptor = DESCRIPTORS[name]
        found = distances(a, b, descriptor, "emd")
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                exact = wasserstein_distance(np.arange(7), np.arange(9), x, y) * descriptor.bin_width
                assert found[i, j] == pytest.approx(exact, abs=1e-12)
    with pytest.raises(ValueError, match="emd, tv, rbf"):
        distances(a, b, DESCRIPTORS["degree"], "gauss")


def test_statistics_equal_double_loops():
    rng = np.random.default_rng(1)
    a, b = rng.dirichlet(np.ones(5), 6), rng.dirichlet(np.ones(5), 4)

    def k(x, y):
        return np.exp(-(np.abs(x - y).sum() ** 2) / 8)

    biased = np.mean([[k(x, y) for x in a] for y in a]) + np.mean([[k(x, y) for x in b] for y in b])
    cross = np.mean([[k(x, y) for x in a] for y in b])
    pairs = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    both = Comparison({"a": a, "b": b}, Descriptor(lambda g: g), "tv")
    assert both.mmd2("a", "b") == pytest.approx(biased - 2 * cross, abs=1e-12)
    assert both.mmd2("a", "b", unbiased=True) == pytest.approx(sum(pairs) - 2 * cross, abs=1e-12)
    assert both.mmd2("a", "a") == pytest.approx(0.0, abs=1e-15)
    whole = both.draws("a", "b", len(a), count=3)
    assert whole == pytest.approx(both.mmd2("a", "b"), abs=1e-12)
    assert np.isnan(mmd2_unbiased(np.ones((1, 1)), np.ones((2, 2)), np.ones((1, 2))))
    assert mmd2(np.ones((2, 2)), np.ones((3, 3)), np.ones((2, 3))) == 0.0


def test_interval_covers_and_is_centred():
    """For two samples of known laws the 95 % interval holds the exact MMD^2 plus its bias in most repetitions."""
    rng = np.random.default_rng(2)
    laws, hits, n = ((0.6, 0.4), (0.3, 0.7)), 0, 40
    k = np.exp(-np.array([[0.0, 1.0], [1.0, 0.0]]) / 2)  # total variation of two points
    p, q = map(np.array, laws)
    exact = p @ k @ p + q @ k @ q - 2 * p @ k @ q
    bias = ((1 - p @ k @ p) + (1 - q @ k @ q)) / n
    for trial in range(100):
        a, b = (np.eye(2)[rng.choice(2, n, p=law)] for law in laws)
        low, high = Comparison({"a": a, "b": b}, Descriptor(lambda g: g), "tv").interval(
            "a", "b", resamples=400, seed=trial
        )
        hits += low <= exact + bias <= high
    assert hits >= 87  # 95 expected, standard deviation 2.2


def test_clustering_and_eigenvalues_equal_networkx():
    graphs = [nx.gnp_random_graph(n, 0.3, seed=n) for n in (5, 9, 9, 14, 30)]
    ours = as_graph_set(graphs)
    assert clustering_coefficients(ours).tolist() == [v for g in graphs for v in nx.clustering(g).values()]
    exact = [np.linalg.eigvalsh(nx.normalized_laplacian_matrix(g).toarray()) for g in graphs]
    assert np.abs(eigenvalues(ours) - np.concatenate(exact)).max() < 1e-12


def test_eigenvalue_two_is_counted():
    """Even cycles have the eigenvalue 2 exactly once; without rounding errors it belongs to the last bin."""
    graphs = as_graph_set([nx.cycle_graph(2 * n) for n in range(2, 30)] + [nx.cycle_graph(5)])
    last = spectral_histograms(graphs)[:, -1] * graphs.sizes
    exact = [1 + 2 * sum(1 - np.cos(2 * np.pi * k / (2 * n)) > 1.99 for k in range(1, n)) for n in range(2, 30)]
    assert last.tolist() == pytest.approx([*exact, 0])


def test_wavelets_equal_the_matrix_definition():
    """Filters at their knots, and energies from the full matrices U g U^T."""
    x = np.linspace(0.0, 2.0, 20)
    bank = wavelet_filters(x)
    assert bank.shape == (12, 20)
    assert bank[0] == pytest.approx(1.3849001795 * np.exp(-((x / 0.06) ** 4)), abs=1e-9)
    assert bank[1] == pytest.approx(np.where(x < 0.05, (20 * x) ** 2, 4 / np.maximum(20 * x, 1) ** 2), abs=1e-12)
    assert bank[11] == pytest.approx((x / 2) ** 2, abs=1e-12)
    y = np.linspace(1.0, 2.0, 100_001)
    assert (-5 + 11 * y - 6 * y**2 + y**3).max() == pytest.approx(WAVELET_MAX, abs=1e-9)
    graph = nx.karate_club_graph()
    bare = nx.Graph(list(graph.edges))
    values, u = np.linalg.eigh(nx.normalized_laplacian_matrix(bare).toarray())
    rows = []
    for g in wavelet_filters(values):
        energy = ((u * g) @ u.T) ** 2
        rows.append(np.histogram(energy.sum(1), bins=100, range=(0, WAVELET_MAX))[0])
    exact = np.concatenate(rows) / np.sum(rows)
    assert wavelet_histograms(as_graph_set(nx.convert_node_labels_to_integers(bare)))[0] == pytest.approx(exact)
