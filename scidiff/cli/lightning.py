"""``scidiff DOMAIN fit | validate | test``: LightningCLI with packaged configurations and our manners.

Progress goes to stderr, results to stdout, bad input is one sentence, checkpoints are read without pickle.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import sys
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jsonargparse
import pytorch_lightning as pl
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # pyright: ignore[reportPrivateImportUsage]

from scidiff import assets
from scidiff.cli.domain import Domain, load_target
from scidiff.cli.errors import UserError
from scidiff.cli.options import check_outputs
from scidiff.cli.output import note, pairs, write
from scidiff.files import atomic_path
from scidiff.kernels.memory import tune_malloc
from scidiff.warm_start import WarmStart

__all__ = ["DomainCLI", "build_cli", "run_lightning"]

_LOGGERS = ("pytorch_lightning", "lightning_fabric")


def run_lightning(domain: Domain, verb: str, arguments: list[str]) -> int:
    """Train, validate or test a model of a domain.

    Args:
        domain: Its package holds ``configs/NAME.yaml`` for ``-c NAME``.
        verb: ``fit``, ``validate`` or ``test``.
        arguments: Words after the verb.

    Raises:
        UserError: If options or configuration are wrong.
    """
    importlib.import_module(domain.name)
    tune_malloc()
    for name in _LOGGERS:  # these libraries set their level when imported
        logging.getLogger(name).setLevel(logging.WARNING)
    for remark in (".*does not have many workers.*", ".*isinstance\\(treespec, LeafSpec\\).*", ".*tensorboardX.*"):
        warnings.filterwarnings("ignore", message=remark)
    cli = build_cli(domain, verb, _with_config_paths(domain.name, arguments))
    out = _as_path(cli.config.get("out"))
    check_outputs(out, suffixes=(".safetensors",) if verb == "fit" else (".json",))
    ckpt = _as_path(cli.config.get("ckpt_path"))
    if ckpt is not None and not ckpt.is_file():
        raise UserError(f"no Lightning checkpoint at {str(ckpt)!r}.")
    start = None if ckpt is not None else cli.config.get("init_from")  # a resumed run has its own weights
    if verb == "fit":
        _fit(domain, cli, ckpt, out, None if not start else WarmStart(start, domain.name))
    else:
        _evaluate(verb, cli, ckpt, out)
    return 0


class DomainCLI(LightningCLI):
    """LightningCLI without subcommands, with ``--ckpt_path``, ``--init_from`` and ``--out``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Lightning .ckpt to resume or evaluate.")
        text = "Checkpoint (.safetensors, or a packaged name) whose weights a new 'fit' starts from."
        parser.add_argument("--init_from", type=str | None, default=None, help=text)
        text = "User checkpoint (.safetensors) of 'fit', or metrics (.json) of 'validate' and 'test'."
        parser.add_argument("--out", type=str | None, default=None, help=text)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)


def build_cli(domain: Domain, verb: str, arguments: list[str]) -> DomainCLI:
    """Parse options and configurations, build model, data and trainer; nothing runs yet.

    Args:
        domain: The domain, for names.
        verb: ``fit``, ``validate`` or ``test``; only ``fit`` saves its configuration.
        arguments: Options, with configurations as paths.

    Raises:
        UserError: If an option or configuration is wrong.
    """
    try:
        return DomainCLI(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            save_config_callback=SaveConfigCallback if verb == "fit" else None,
            trainer_defaults={"default_root_dir": f"runs/{domain.name}"},
            seed_everything_default=0,
            parser_kwargs={"prog": f"scidiff {domain.name} {verb}", "exit_on_error": False},
            args=arguments,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    except (jsonargparse.ArgumentError, TypeError, MisconfigurationException) as error:
        raise UserError(_sentence(str(error), domain, verb)) from error


def _fit(domain: Domain, cli: DomainCLI, ckpt: Path | None, out: Path | None, warm: WarmStart | None) -> None:
    if warm is not None:
        cli.trainer.callbacks.append(warm)  # type: ignore[attr-defined]
    start = time.perf_counter()
    with redirect_stdout(sys.stderr):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=ckpt, weights_only=True if ckpt else None)
    metrics = _metrics(cli.trainer.callback_metrics)
    facts: dict[str, Any] = {"steps": cli.trainer.global_step, "minutes": round((time.perf_counter() - start) / 60, 2)}
    if warm is not None:
        facts["weights taken"] = f"{len(warm.copied)} of {len(warm.copied) + len(warm.fresh)} from {warm.path}"
        facts |= {"new classes": ", ".join(warm.new_classes)} if warm.new_classes else {}
    folder = Path(cli.trainer.log_dir or cli.trainer.default_root_dir)
    best = getattr(cli.trainer.checkpoint_callback, "best_model_path", "")
    if best:
        facts["resume from"] = best
    if domain.export is not None and cli.trainer.is_global_zero:
        path = out or folder / "model.safetensors"
        provenance = {"command": f"scidiff {domain.name} fit", "steps": cli.trainer.global_step}
        if warm is not None:
            provenance["init_from"] = warm.path.stem
        load_target(domain.export)(cli.model, path, metadata={"metrics": metrics, "provenance": provenance})
        facts["checkpoint"] = str(path)
    if cli.trainer.is_global_zero:
        write(pairs({**facts, **metrics}))


def _evaluate(verb: str, cli: DomainCLI, ckpt: Path | None, out: Path | None) -> None:
    if ckpt is None:
        note(f"scidiff: {verb} without --ckpt_path evaluates freshly initialised weights.")
    run = cli.trainer.validate if verb == "validate" else cli.trainer.test
    with redirect_stdout(sys.stderr):
        results = run(
            cli.model, datamodule=cli.datamodule, ckpt_path=ckpt, verbose=False, weights_only=True if ckpt else None
        )
    metrics = {name: float(value) for result in results for name, value in result.items()}
    if not cli.trainer.is_global_zero:
        return
    if out is not None:
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps(metrics, indent=2) + "\n")
    write(pairs(metrics))


def _with_config_paths(package: str, arguments: list[str]) -> list[str]:
    """Replace packaged names after ``-c`` or ``--config`` by their paths."""
    replaced = list(arguments)
    for index, word in enumerate(arguments):
        if word in ("-c", "--config") and index + 1 < len(arguments):
            replaced[index + 1] = _config_path(package, arguments[index + 1])
        elif word.startswith("--config="):
            replaced[index] = f"--config={_config_path(package, word.partition('=')[2])}"
    return replaced


def _config_path(package: str, name: str) -> str:
    return str(assets.find(name, package, folder="configs", suffix=".yaml", what="configuration"))


def _sentence(message: str, domain: Domain, verb: str) -> str:
    """The telling part of a parser's message: the option's full name and the innermost, most indented complaint."""
    lines = [line for line in message.splitlines() if line.strip() and "NoneType" not in line]
    depths = [len(line) - len(line.lstrip(" -")) for line in lines]
    deepest = depths.index(max(depths)) if depths else 0
    keys = [match[1] for line in lines[: deepest + 1] if (match := re.search(r'Parser key "([^"]+)"', line))]
    owners = [match[1] for line in lines[: deepest + 1] if (match := re.search(r"given class_path '([^']+)'", line))]
    complaint = lines[deepest].strip(" -") if lines else "the options cannot be read"
    complaint = re.sub(r"<class '([^']+)'>", r"\1", complaint.removeprefix("error: ")).rstrip(".")
    where = f"option {'.'.join(keys)!r}" + (f" of {owners[-1]}" if owners else "") + ": " if keys else ""
    return f"{where}{complaint[:300]} (see scidiff {domain.name} {verb} --help)."


def _metrics(values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _as_path(value: Any) -> Path | None:
    return Path(str(value)) if value else None
