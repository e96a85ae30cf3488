"""The comparison of recipes: every training starts as users start it, and rows are kept or replaced as they should."""

import json

import pytest

from benchmarks import molecule_recipes as benchmark
from benchmarks import report
from molecules import MoleculeDiffusion
from molecules.recipes import EDMPoints, EQGATDiff, Flow
from scidiff.cli.lightning import build_cli
from scidiff.configurable import build
from scidiff.student import StudentTNoise

KINDS = {"eqgat_diff": EQGATDiff, "eqgat_diff_features": EQGATDiff, "edm": EDMPoints}


@pytest.mark.parametrize("name", benchmark.RECIPES)
def test_recipes_differ_in_what_they_compare_only(name):
    """The recipe is that of the packaged configuration; schedule, data and budget are the same for all."""
    config = benchmark.configuration(name, 3.0, "2k")
    model = build(config["model"])
    assert isinstance(model, MoleculeDiffusion)
    assert type(model.recipe) is KINDS.get(name, Flow)
    assert isinstance(getattr(model.recipe, "law", None), StudentTNoise) is (name == "pfgmpp")
    assert bool(model.recipe.atom_features) is (name == "eqgat_diff_features")
    common = benchmark.configuration("flow", 3.0, "2k")
    assert {key: config["model"]["init_args"][key] for key in benchmark.SCHEDULE} == benchmark.SCHEDULE
    for place in ("trainer", "data"):
        own, other = (dict(c[place].get("init_args", c[place])) for c in (config, common))
        for key in ("gradient_clip_val", "atom_features"):
            own.pop(key, None)
            other.pop(key, None)
        assert own == other


def test_a_run_writes_what_it_measures(tmp_path, monkeypatch):
    """Training by the command line, two rows; the page names both, and the rows of others stay."""
    from molecules.cli import DOMAIN

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "results")
    old = {"recipe": "flow", "weights": 1, "minutes": 1.0, "training_steps": 1, "nfe": 2, "n": 1, "valid": 0.0}
    old |= {"low": 0.0, "high": 0.8, "unique": None, "per_second": 1.0}
    costs = {"edm_seconds": {"published": 2.0, "unpadded": 1.0}, "rows": []}
    (tmp_path / "results").mkdir()
    start = {"machine": report.machine(), "cost": costs, "rows": [old, {**old, "recipe": "edm"}]}
    (tmp_path / "results/molecule_recipes.json").write_text(json.dumps(start))
    words = "x --minutes 0.02 --recipes edm --root 2k --nfe 5 2 -n 3 --models models"
    monkeypatch.setattr("sys.argv", words.split())
    benchmark.main()
    rows = json.loads((tmp_path / "results/molecule_recipes.json").read_text())["rows"]
    assert [(row["recipe"], row["nfe"], row["n"]) for row in rows] == [("flow", 2, 1), ("edm", 2, 3), ("edm", 5, 3)]
    assert rows[1]["training_steps"] > 0
    assert rows[1]["low"] <= rows[1]["valid"] <= rows[1]["high"]
    page = (tmp_path / "README.md").read_text()
    assert page.count("| edm | egnn |") == 2
    monkeypatch.setattr("sys.argv", [*words.split(), "--sample-only", "--nfe", "3"])
    benchmark.main()
    again = json.loads((tmp_path / "results/molecule_recipes.json").read_text())["rows"]
    assert [row["nfe"] for row in again] == [2, 2, 3, 5]
    assert again[1] == rows[1]
    cli = build_cli(DOMAIN, "fit", ["-c", "models/edm_0.02.yaml"])
    assert isinstance(cli.model, MoleculeDiffusion)


def test_a_new_training_takes_the_place_of_the_old_one():
    row = {"recipe": "edm", "weights": 5, "minutes": 1.0, "training_steps": 10, "nfe": 20}
    others = [{**row, "recipe": "flow", "minutes": 2.0}, {**row, "nfe": 10}, {**row, "nfe": 50, "training_steps": 9}]
    assert benchmark.merged(others, row) == [others[0], others[1], row]
    assert benchmark.merged([row], {**row, "valid": 1.0}) == [{**row, "valid": 1.0}]


def test_many_evaluations_are_spent_on_fewer_molecules():
    class Mols(list):
        nfe, verdicts = 1000, []

    class Generator:
        recipe = EQGATDiff()

        def sample(self, n, steps, seed):
            self.asked = (n, steps)
            return Mols(range(n))

    generator = Generator()
    assert benchmark.measure(generator, 1000, 500)["n"] == generator.asked[0] == benchmark.EVALUATIONS // 1000
    assert generator.asked[1] == 1000
