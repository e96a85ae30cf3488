"""Recipes of molecules at an equal training budget, and the cost of a molecule beside that of EDM.

    python -m benchmarks.molecule_recipes                  # trains every recipe for 4 CPU minutes, then samples
    python -m benchmarks.molecule_recipes --minutes 1 --recipes flow pfgmpp -n 200      # others stay as recorded
    python -m benchmarks.molecule_recipes --cost           # only the cost of a molecule, in the same file

All recipes see QM9 without hydrogens, batches of the same size and one learning-rate schedule; networks are small
enough for a CPU. Times are processor time, which other programs hardly change. Needs the prepared QM9
(`scidiff molecules prepare qm9`), else the packaged subset is used.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer

from benchmarks.report import RESULTS, machine, table, write_json, write_section
from molecules import QM9, MoleculeDiffusion, MoleculeGenerator
from molecules.data import MoleculeSpec, packaged_qm9
from molecules.networks import MessagePassing, PairFormer
from molecules.recipes import EDMPoints, EQGATDiff, Flow
from scidiff.student import StudentTNoise

NFES = (10, 20, 50, 100, 500)
EDM_STEPS = 1000
LARGEST, MEAN_ATOMS = 29, 18  # of QM9 with hydrogens; EDM pads to the largest (its qm9/sampling.py)
TITLE = "Recipes of molecules"
_COST = """Processor time of a molecule beside {steps} steps of the EGNN of EDM (9 x 256 channels), all in float32.
The published sampler of EDM pads every molecule to {largest} atoms and computes all their pairs: {published:.1f} s
a molecule. On the mean {mean} atoms alone it would be {unpadded:.1f} s. Both are measured with our EGNN, which
multiplies by atom what the published one multiplies by pair. {processor}, {threads} thread(s), torch {torch}, {date}.
Run `python -m benchmarks.molecule_recipes --cost`; figures in `results/molecule_recipes.json`.

"""
_EGNN = {"time_channels": 1, "attention": True, "norm_diff": True, "tanh": True, "coords_range": 15.0}
_EGNN |= {"coords_aggregation": "sum", "separate_coords": True, "initial_distance": True}
_SMALL = {"hidden": 64, "num_layers": 4}


def _pair_former() -> PairFormer:
    return PairFormer(width=96, pair_width=32, num_layers=4)


def recipes() -> dict[str, dict[str, Any]]:
    """Arguments of `MoleculeDiffusion` by name."""
    eqgat = {"backbone": "eqgat", "options": {**_SMALL, "time_channels": 1}}
    plain = {"self_conditioning": 0.0, "coupling": "independent"}
    return {
        "flow": {"network": _pair_former()},
        "pfgmpp": {"network": _pair_former(), "recipe": Flow(law=StudentTNoise(128.0))},
        "flow_eqgat": {"network": MessagePassing(**eqgat, output="field"), "self_conditioning": 0.0},
        "eqgat_diff": {"network": MessagePassing(**eqgat), "recipe": EQGATDiff(), **plain},
        "edm": {
            "network": MessagePassing(backbone="egnn", output="field", options={**_SMALL, **_EGNN}),
            "recipe": EDMPoints(),
            **plain,
        },
    }


class ProcessorTimer(Timer):
    """Ends a training after so much processor time, which other programs hardly change."""

    _start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._start = time.process_time()

    def time_elapsed(self, stage: str = "train") -> float:
        """Processor seconds since training began."""
        return time.process_time() - self._start if self._start else 0.0


def train(name: str, minutes: float, root: str | None) -> tuple[MoleculeGenerator, int]:
    """A generator after so many minutes of processor time, and the number of steps."""
    pl.seed_everything(0, verbose=False)
    module = MoleculeDiffusion(**recipes()[name], lr=1e-3, ema=0.99)
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = pl.Trainer(
        max_epochs=-1,
        callbacks=[ProcessorTimer({"seconds": round(60 * minutes)}, verbose=False)],
        limit_val_batches=0,
        gradient_clip_val=100.0 if name == "edm" else 1.0,
        accelerator="cpu",
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, datamodule=QM9(root=root, batch_pairs=8_000))
    return MoleculeGenerator(module), trainer.global_step


def measure(generator: MoleculeGenerator, nfe: int, n: int) -> dict[str, Any]:
    """Validity and speed at a number of evaluations, the final one included."""
    start = time.process_time()
    mols = generator.sample(n, steps=nfe - int(generator.recipe.is_denoised), seed=0)
    seconds = time.process_time() - start
    verdicts = [verdict.smiles for verdict in mols.verdicts if verdict.valid]
    unique = len(set(verdicts)) / max(1, len(verdicts))
    return {"nfe": mols.nfe, "n": n, "valid": mols.valid_fraction, "unique": unique, "per_second": n / seconds}


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
    sizes = {"qm9_implicit": (128, 48, 5), "qm9": (192, 64, 8)}
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
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--recipes", nargs="+", default=list(recipes()), choices=list(recipes()))
    parser.add_argument("--nfe", type=int, nargs="+", default=list(NFES))
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--root", help="prepared file, or 2k for the packaged subset")
    parser.add_argument("--cost", action="store_true", help="only measure the cost of a molecule")
    options = parser.parse_args()
    path = RESULTS / "molecule_recipes.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    if options.cost or "cost" not in content:
        content |= {"machine": machine(), "cost": cost()}
        print(content["cost"], flush=True)
    for name in [] if options.cost else options.recipes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            generator, steps = train(name, options.minutes, options.root)
        content["rows"] = [row for row in content["rows"] if row["recipe"] != name]
        for nfe in options.nfe:
            row = {"recipe": name, "minutes": options.minutes, "training_steps": steps}
            content["rows"].append({**row, **measure(generator, nfe, options.n)})
            print(content["rows"][-1], flush=True)
    write_json("molecule_recipes", content)
    write_section(TITLE, _text(content))


def _text(content: dict[str, Any]) -> str:
    place, price = content["machine"], content["cost"]
    edm = price["edm_seconds"]
    text = _COST.format(**edm, steps=EDM_STEPS, largest=LARGEST, mean=MEAN_ATOMS, **place)
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
    head = [
        "recipe",
        "CPU minutes",
        "training steps",
        "NFE",
        "molecules",
        "valid and connected",
        "unique",
        "molecules / CPU s",
    ]
    rows = [_row(row) for row in content["rows"]]
    return text + "Equal processor time of training for all, QM9 without hydrogens, seed 0.\n\n" + table(head, rows)


def _row(r: dict[str, Any]) -> list[str]:
    counts = [f"{r['minutes']:g}", str(r["training_steps"]), str(r["nfe"]), str(r["n"])]
    return [r["recipe"], *counts, f"{100 * r['valid']:.1f}", f"{100 * r['unique']:.1f}", f"{r['per_second']:.1f}"]


if __name__ == "__main__":
    main()
