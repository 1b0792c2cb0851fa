"""`daps-rl train`."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from daps_rl.commands.options import given_settings
from daps_rl.commands.terminal import StopRequest, in_words, progress, tensorboard_observer
from daps_rl.config import (
    PUBLISHED,
    PUBLISHED_SHAPES,
    TrainConfig,
    check_trusted,
    config_from_dict,
    latents_text,
    make_config,
    own_code,
)
from daps_rl.data import noise
from daps_rl.device import peak_memory
from daps_rl.distributed import World, joined, was_restarted
from daps_rl.runs.folder import RunFolder, folder_is_writable, new_run_path
from daps_rl.runs.pictures import draw_run
from daps_rl.runs.session import Observer, load_run, train_run
from daps_rl.training import Trainer, load_data

COLLAPSED = 0.1  # nats of code_gain
UNITS = {
    "beta_elbo": "{:.2f} nats", "log_likelihood": "{:.2f} nats", "kl": "{:.2f} nats", "reward_greedy": "{:.4f}",
    "gap_greedy": "{:.2%}", "code_usage": "{:.0%}", "code_perplexity": "{:.1f}",
    "length_greedy": "{:.2f} tokens", "recognised": "{:.1%}", "recognised_original": "{:.1%}",
}  # fmt: skip
"""Metrics of the summary that are printed beside the data's own measures, how and in what unit."""


def train_command(
    *, out: str | None, resume: bool, config: str | None, dry_run: bool, trust: bool, **options: Any
) -> int:
    """`daps-rl train`."""
    given = given_settings(options)
    if dry_run:
        if out is not None or resume:
            raise ValueError("--dry-run writes nothing; leave out --out and --resume.")
        return _dry_run(config, given)
    with joined(given.get("device")) as world:
        return _train(world, out, resume, config, trust, given)


def _train(world: World, out: str | None, resume: bool, config: str | None, trust: bool, given: dict[str, Any]) -> int:
    """In this process, of those that train together."""
    if resume:
        if out is None:
            raise ValueError("--resume needs --out, the folder of the run to go on with.")
        run = RunFolder(out)
        settings: TrainConfig = config_from_dict(world.from_first(lambda: run.read_json(run.config)))
        changed = [name for name, value in given.items() if getattr(settings, name) != value]
        if changed or config is not None:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in changed) or "--config"
            raise ValueError(f"a resumed run keeps its settings; leave out {named}, or start anew in another --out.")
        typed = {given.get(name) for name in ("agent", "problem", "data")}
        typed |= set(settings.reward_names if "reward" in given else ())
        check_trusted(settings.named - typed, run.config, trust)
    else:
        settings = make_config(config, **given)
        if config is not None and settings.problem is None and "data" not in {*given, *PUBLISHED[config]}:
            raise ValueError(f"--config {config} names no data; pass --data, or --dry-run to see that all fits.")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{Path(settings.data).stem}-{settings.agent}")
        path = world.from_first(lambda: new_run_path(Path("runs"), name) if out is None else Path(out))
        run = RunFolder(path)
        held = world.from_first(lambda: run.read_json(run.config) if run.config.exists() else None)
        # torchrun starts the same command again where a process has died: it goes on with the run that it began.
        resume = held is not None and any(world.of_all(was_restarted())) and config_from_dict(held) == settings
        if held is not None and not resume:
            run.check_new()
        if world.is_first:
            folder_is_writable(path)
    if resume and world.from_first(run.summary.exists):
        drawn = run.read_json(run.summary).get("pictures") or ()
        if world.is_first and not all((run.path / str(name)).exists() for name in drawn):
            trust = trust or bool(own_code(settings.data_code))  # as it was typed, or checked above
            draw_run(run.path, load_run(run.path, settings.device, trust=trust)[2], load_data(settings))
        print(f"{run.path} is finished already; see {run.summary}")
        return 0
    splits = load_data(settings)
    stop = StopRequest()
    with contextlib.ExitStack() as stack:
        stack.enter_context(stop.listening())
        observers: list[Observer] = []
        if world.is_first:
            observers.append(stack.enter_context(progress()))
        if world.is_first and settings.tensorboard:
            observers.append(tensorboard_observer(run.path / "tensorboard"))
        try:
            summary = train_run(
                settings, splits, run,
                resume=resume, stop=stop, finishing=stop.interrupting, observers=tuple(observers), world=world,
            )  # fmt: skip
        except KeyboardInterrupt:
            if not run.config.exists():  # before the first step: there is nothing to go on with
                raise
            summary = None
    if not world.is_first:
        return 0 if stop.signal is None else 128 + stop.signal
    if summary is None:
        print(f"stopped; go on with: daps-rl train --resume --out {run.path}", file=sys.stderr)
        return 128 + int(stop.signal or 0)
    _print_summary(summary, run.path)
    return 0


def _dry_run(preset: str | None, given: dict[str, Any]) -> int:
    """Two steps with two data to a batch, to see that settings and data fit together; nothing is written."""
    settings = make_config(preset, **{"batch_size": 2, "validate_every": 0, **given, "steps": 2, "minutes": None})
    if preset is not None and "data" not in given:
        splits = noise(2 * settings.batch_size, PUBLISHED_SHAPES[preset], settings.likelihood, seed=settings.seed)
    else:
        splits = load_data(settings)
    trainer = Trainer(settings, splits)
    trainer.train_step()
    start = time.perf_counter()
    log_likelihood = trainer.train_step()["log_likelihood"].item()
    taken = time.perf_counter() - start
    parameters = sum(p.numel() for p in {*trainer.agent.parameters(), *trainer.autoencoder.parameters()})
    latents = latents_text(settings.bits, ends=settings.end_token)
    print(
        f"{settings.agent} on {splits.name}: {latents}, {parameters:,} parameters; a step with "
        f"{settings.batch_size} data and {settings.samples} codes each took {taken:.2f} s and "
        f"{peak_memory(trainer.device) / 2**20:,.0f} MiB at its peak; log-likelihood {log_likelihood:.1f} nats"
    )
    return 0


def _print_summary(summary: dict[str, Any], path: Path) -> None:
    latents = latents_text(summary["bits"], ends="length" in summary["test"])
    print(
        f"{summary['agent']} on {summary['data']}: {summary['steps']} steps in {summary['seconds']:.0f} s "
        f"({summary['steps_per_second']:.1f} steps/s), {latents}"
    )
    measures = {name: f"{{:{m['form']}}} {m['unit']}".rstrip() for name, m in summary["measures"].items()}
    forms = {name: f"{name} {form}" for name, form in (UNITS | measures).items()}
    for split in ("validation", "test"):
        print(f"{split:>10}  {in_words(summary[split], forms)}")
    if (target := summary.get("target")) is not None:
        print(f"{target['name']}: {target['in_words']}", file=sys.stdout if target["met"] else sys.stderr)
    print(f"look at {path}{os.sep}{summary['pictures'][0]}")
    gain = summary["validation"].get("code_gain")
    if summary["problem"] is None and gain is not None and gain < COLLAPSED:
        print(
            "the codes say nothing of the data (posterior collapse: another datum's code does as well); lower "
            "--beta-start or --learning-rate, or train longer",
            file=sys.stderr,
        )
