"""The table of networks compares like with like."""

from benchmarks.kernels.networks import make_networks, num_parameters


def test_networks_have_equal_size():
    sizes = {label: num_parameters(network) for label, network in make_networks().items()}
    assert list(sizes) == ["PairFormer", "EGNN", "PaiNN", "EQGAT"]
    assert all(0.85 * sizes["PairFormer"] < size <= sizes["PairFormer"] for size in sizes.values())
