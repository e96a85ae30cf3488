"""Recipes of molecules at an equal training budget, and the cost of a molecule beside that of EDM.

    python -m benchmarks.molecule_recipes                     # trains every recipe for 5 CPU minutes, then samples
    python -m benchmarks.molecule_recipes --recipes flow edm  # only these; rows of the others stay as recorded
    python -m benchmarks.molecule_recipes --sample-only --nfe 500 -n 100    # with the models of an earlier run
    python -m benchmarks.molecule_recipes --cost              # only the cost of a molecule, in the same file

A recipe is trained by ``scidiff molecules fit`` with its packaged configuration, in which the network is made small
enough for a CPU; data (QM9 without hydrogens), batches and the schedule of the learning rate are the same for all.
Times are processor time, which other programs hardly change. A row is written as soon as it is measured. Needs the
prepared QM9 (`scidiff molecules prepare qm9`), else the packaged subset is used.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Timer

from benchmarks.report import RESULTS, machine, table, write_json, write_section
from molecules import MoleculeDiffusion, MoleculeGenerator
from molecules.data import MoleculeSpec, packaged_qm9
from molecules.networks import MessagePassing, PairFormer
from molecules.report import wilson_interval
from scidiff.cli import main as scidiff

NFES = (10, 20, 50, 100, 500)
EVALUATIONS = 100_000  # most evaluations of a row: fewer molecules where each takes many
SEED = 0
EDM_STEPS = 1000
LARGEST, MEAN_ATOMS = 29, 18  # of QM9 with hydrogens; EDM pads to the largest (its qm9/sampling.py)
TITLE = "Recipes of molecules"
_COST = """Processor time of a molecule beside {steps} steps of the EGNN of EDM (9 x 256 channels), all in float32.
The published sampler of EDM pads every molecule to {largest} atoms and computes all their pairs: {published:.1f} s
a molecule. On the mean {mean} atoms alone it would be {unpadded:.1f} s. Both are measured with our EGNN, which
multiplies by atom what the published one multiplies by pair. {processor}, {threads} thread(s), torch {torch}, {date}.
Run `python -m benchmarks.molecule_recipes --cost`; figures in `results/molecule_recipes.json`.

"""
_RECIPES = """### At an equal training budget

Every recipe is trained once by `scidiff molecules fit` with its packaged configuration and a small network, for the
same processor time: QM9 without hydrogens, batches of 8,000 pairs, AdamW at 1e-3 with 300 steps of warm-up and a
cosine to 2 %, weight average 0.99, float32, seed {seed}. Samples come from the recipe's own sampler with seed {seed};
NFE counts the final denoising where there is one, and at 500 fewer molecules are drawn. Valid and connected is the
strict verdict with its 95 % interval (Wilson) over molecules: another training seed would vary, too. After so short a
training the order says what learns quickly, not what is best in the end. The rows of flow, PFGM++ and flow with EQGAT
were sampled at times that fall geometrically from 1 to 0.01; those of the recipe now leave fewer wrong valences at few
evaluations. {processor}, {threads} thread(s), torch
{torch}, {date}. Run `python -m benchmarks.molecule_recipes`.

"""
_HEAD = ("recipe", "network", "weights", "CPU minutes", "training steps")
_HEAD += ("NFE", "molecules", "valid and connected", "unique, of the valid", "molecules / CPU s")
_EGNN = {"time_channels": 1, "attention": True, "norm_diff": True, "tanh": True, "coords_range": 15.0}
_EGNN |= {"coords_aggregation": "sum", "separate_coords": True, "initial_distance": True}
_SMALL = {"hidden": 64, "num_layers": 4}
_FEATURES = ["ring", "aromatic", "hybridisation"]

SCHEDULE = {"lr": 1e-3, "warmup_steps": 300, "lr_end": 0.02, "ema": 0.99}
TRAINER = {
    "max_epochs": -1,
    "accelerator": "cpu",
    "precision": "32-true",
    "limit_val_batches": 0,
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
}
RECIPES = {  # packaged configuration and network
    "flow": ("qm9_implicit", "pairformer"),
    "pfgmpp": ("pfgmpp", "pairformer"),
    "flow_eqgat": ("qm9_implicit", "eqgat"),
    "flow_ponita": ("ponita", "ponita"),
    "eqgat_diff": ("eqgat_diff", "eqgat"),
    "eqgat_diff_features": ("eqgat_diff", "eqgat"),
    "edm": ("edm", "egnn"),
}


class ProcessorTimer(Timer):
    """Ends a training after so much processor time, which other programs hardly change.

    Args:
        minutes: Of processor time.
    """

    _start = 0.0

    def __init__(self, minutes: float) -> None:
        super().__init__({"seconds": round(60 * minutes)}, verbose=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._start = time.process_time()

    def time_elapsed(self, stage: str = "train") -> float:
        """Processor seconds since training began."""
        return time.process_time() - self._start if self._start else 0.0


def configuration(name: str, minutes: float, root: str | None) -> dict[str, Any]:
    """The packaged configuration of a recipe with a small network, the common schedule, data and budget."""
    base, network = RECIPES[name]
    config = yaml.safe_load((resources.files("molecules") / "configs" / f"{base}.yaml").read_text())
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    timer = {"class_path": "benchmarks.molecule_recipes.ProcessorTimer", "init_args": {"minutes": minutes}}
    clip = config["trainer"]["gradient_clip_val"]
    config["trainer"] = {**TRAINER, "gradient_clip_val": clip, "callbacks": [timer]}
    config["seed_everything"] = SEED
    data |= {"hydrogens": "implicit", "batch_pairs": 8_000, **({"root": root} if root else {})}
    model |= {**SCHEDULE, "network": _network(network, output="endpoint" if base == "eqgat_diff" else "field")}
    if network != "pairformer":
        model["self_conditioning"] = 0.0
    if name == "eqgat_diff_features":
        model["recipe"]["init_args"]["atom_features"] = data["atom_features"] = _FEATURES
    return config


def _network(name: str, output: str) -> dict[str, Any]:
    """Class path and arguments of a small network."""
    if name == "pairformer":
        sizes = {"width": 96, "pair_width": 32, "num_layers": 4}
        return {"class_path": "molecules.networks.PairFormer", "init_args": sizes}
    more = {"eqgat": {}, "egnn": _EGNN, "ponita": {"num_orientations": 12, "time_channels": 16}}[name]
    arguments = {"backbone": name, "output": output, "options": {**_SMALL, **more}}
    return {"class_path": "molecules.networks.MessagePassing", "init_args": arguments}


def train(name: str, minutes: float, root: str | None, path: Path) -> None:
    """Write the generator after so many minutes of processor time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config = path.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(configuration(name, minutes, root)))
    words = ["-c", str(config), "--trainer.default_root_dir", str(path.parent), "--out", str(path)]
    if scidiff(["molecules", "fit", *words]):
        raise SystemExit(f"the training of {name} has failed.")


def measure(generator: MoleculeGenerator, nfe: int, n: int) -> dict[str, Any]:
    """Validity and speed at a number of evaluations, the final one included."""
    n = max(1, min(n, EVALUATIONS // nfe))
    start = time.process_time()
    mols = generator.sample(n, steps=nfe - int(generator.recipe.is_denoised), seed=SEED)
    seconds = time.process_time() - start
    valid = [verdict.smiles for verdict in mols.verdicts if verdict.valid]
    unique = len(set(valid)) / len(valid) if valid else None
    low, high = wilson_interval(len(valid), n)
    shares = {"valid": len(valid) / n, "low": low, "high": high, "unique": unique}
    return {"nfe": mols.nfe, "n": n, **shares, "per_second": n / seconds}


def edm_cost(atoms: int, batch: int = 16, repeats: int = 3) -> float:
    """Processor seconds a molecule by the EGNN of EDM: 1000 times a forward pass over all pairs of so many atoms."""
    net = MessagePassing(5, 0, 0, 1, "egnn", {"hidden": 256, "num_layers": 9, **_EGNN}, output="field").eval()
    state = {"pos": torch.randn(batch, atoms, 3), "atom": torch.randn(batch, atoms, 5)}
    state["number"] = torch.randn(batch, atoms, 1)
    seconds = []
    with torch.no_grad():
        for _ in range(repeats + 1):  # the first one warms up
            start = time.process_time()
            net(state, torch.full((batch,), 0.5), {})
            seconds.append(time.process_time() - start)
    return EDM_STEPS * min(seconds[1:]) / batch


def sampling_cost(generator: MoleculeGenerator, steps: int, n: int) -> float:
    """Processor seconds a molecule."""
    generator.sample(n, steps=2)
    start = time.process_time()
    generator.sample(n, steps=steps)
    return (time.process_time() - start) / n


def models() -> dict[str, MoleculeGenerator]:
    """The packaged model, and untrained networks for molecules with hydrogens: weights do not change the cost."""
    spec = MoleculeSpec.from_dataset(packaged_qm9().subset("train"))
    sizes = {"qm9_cpu": (128, 48, 5), "qm9": (192, 64, 8)}
    networks = {name: PairFormer(width=w, pair_width=p, num_layers=n) for name, (w, p, n) in sizes.items()}
    explicit = {
        f"network of {name}, with hydrogens": MoleculeGenerator(MoleculeDiffusion(network, spec=spec))
        for name, network in networks.items()
    }
    return {"qm9_implicit": MoleculeGenerator.from_pretrained("qm9_implicit"), **explicit}


def cost(n: int = 100) -> dict[str, Any]:
    """Seconds a molecule of `models` and of EDM on this machine, and their ratios."""
    edm = {"published": edm_cost(LARGEST), "unpadded": edm_cost(MEAN_ATOMS)}
    rows = [cost_row(name, generator, steps, n, edm) for name, generator in models().items() for steps in (20, 50)]
    return {"edm_seconds": edm, "rows": rows}


def cost_row(name: str, generator: MoleculeGenerator, steps: int, n: int, edm: dict[str, float]) -> dict[str, Any]:
    """One row of `cost`."""
    seconds = sampling_cost(generator, steps, n)
    ratios = {key: value / seconds for key, value in edm.items()}
    return {"model": name, "steps": steps, "nfe": steps + 1, "seconds": seconds, "ratios": ratios}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="processor time of each training")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--nfe", type=int, nargs="+", default=list(NFES))
    parser.add_argument("-n", type=int, default=500, help=f"molecules, at most {EVALUATIONS:,} / NFE")
    parser.add_argument("--root", help="prepared file, or 2k for the packaged subset")
    parser.add_argument("--models", type=Path, default=Path("runs/molecule_recipes"), help="folder of trained models")
    parser.add_argument("--sample-only", action="store_true", help="sample from the models of an earlier run")
    parser.add_argument("--cost", action="store_true", help="only measure the cost of a molecule")
    options = parser.parse_args()
    if options.cost or "cost" not in recorded():
        price = cost()
        save({**recorded(), "machine": machine(), "cost": price})
    for name in [] if options.cost else options.recipes:
        model = options.models / f"{name}_{options.minutes:g}.safetensors"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not options.sample_only:
                train(name, options.minutes, options.root, model)
        generator = MoleculeGenerator.from_pretrained(model)
        facts = {
            "recipe": name,
            "weights": sum(parameter.numel() for parameter in generator.denoiser.parameters()),
            "minutes": options.minutes,
            "training_steps": generator.metadata["provenance"]["steps"],
        }
        for nfe in options.nfe:
            row = {**facts, **measure(generator, nfe, options.n)}
            content = recorded()  # read again: another run may have written in the meantime
            save({**content, "rows": merged(content["rows"], row), "measured": machine()})


def recorded() -> dict[str, Any]:
    """Figures so far."""
    path = RESULTS / "molecule_recipes.json"
    return json.loads(path.read_text()) if path.is_file() else {"rows": []}


def merged(rows: list[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with one more, in order; those of an earlier training of the recipe and of the same NFE give way."""
    is_other = [r["recipe"] != row["recipe"] for r in rows]
    is_same = [all(r.get(key) == row[key] for key in ("weights", "minutes", "training_steps")) for r in rows]
    kept = [r for r, other, same in zip(rows, is_other, is_same) if other or (same and r["nfe"] != row["nfe"])]
    return sorted([*kept, row], key=lambda r: (list(RECIPES).index(r["recipe"]), r["nfe"]))


def save(content: dict[str, Any]) -> None:
    """Write figures and page."""
    write_json("molecule_recipes", content)
    write_section(TITLE, _text(content))


def _text(content: dict[str, Any]) -> str:
    price = content["cost"]
    text = _COST.format(**price["edm_seconds"], steps=EDM_STEPS, largest=LARGEST, mean=MEAN_ATOMS, **content["machine"])
    head = ["model", "steps", "NFE", "seconds a molecule", "EDM as published takes", "EDM on 18 atoms takes"]
    costs = [
        [
            r["model"],
            str(r["steps"]),
            str(r["nfe"]),
            f"{r['seconds']:.4f}",
            *(f"{x:.0f} x" for x in r["ratios"].values()),
        ]
        for r in price["rows"]
    ]
    text += table(head, costs) + "\n\n"
    if not content["rows"]:
        return text
    return (
        text + _RECIPES.format(seed=SEED, **content["measured"]) + table([*_HEAD], [_row(r) for r in content["rows"]])
    )


def _row(r: dict[str, Any]) -> list[str]:
    network = RECIPES[r["recipe"]][1]
    facts = [r["recipe"], network, f"{r['weights'] / 1e3:.0f} k", f"{r['minutes']:g}", str(r["training_steps"])]
    valid = f"{100 * r['valid']:.1f} % ({100 * r['low']:.1f}-{100 * r['high']:.1f})"
    unique = "-" if r["unique"] is None else f"{100 * r['unique']:.1f} %"
    return [*facts, str(r["nfe"]), str(r["n"]), valid, unique, f"{r['per_second']:.1f}"]


if __name__ == "__main__":
    main()
