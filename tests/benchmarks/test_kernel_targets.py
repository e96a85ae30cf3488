"""Bars of the benchmark of kernels: who is judged, and who gets a sentence."""

from benchmarks.kernels.targets import LISTS, MEMORY, OPS, TUNED, bars


def content(**records):
    return {"device": "cpu", "ops": [], **records}


def test_sentences_stand_where_a_figure_misses():
    record = {"op": "gms", "mode": "training", "size": "q64"}
    missed, reached, best = (bars(content(ops=[{**record, "ratio": ratio}]))[0] for ratio in (3.9, 5.9, 6.0))
    assert [bar.is_reached for bar in (missed, reached, best)] == [False, True, True]
    assert missed.bound == reached.bound != ""
    assert best.bound == ""
    assert missed.text == "gms training, q64: 3.9 times faster (at least 4, at best 6)"


def test_rows_without_a_right_peer_are_left_out():
    wrong = {"op": "gms", "mode": "training", "size": "q64"}
    unknown = {"op": "edge_dot", "mode": "forward", "size": "q64", "ratio": 2.0}
    row = {"case": "radius, 10 000 points, open", "peer": "vesin", "ratio": None}
    assert bars(content(ops=[wrong, unknown], tuned=[wrong], lists=[row])) == []
    assert bars({"device": "cuda", "ops": [{**wrong, "ratio": 9.0}]}) == []


def test_every_target_is_hoped_to_be_exceeded_and_says_what_bounds_it():
    by_size = [target for sizes in OPS.values() for target in sizes.values()]
    for target in [*by_size, *TUNED.values(), *LISTS.values(), *MEMORY.values()]:
        assert target.must < target.stretch
        assert target.bound.endswith(".")
