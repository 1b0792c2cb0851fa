"""A training run in its folder: begun or resumed, saved as it goes, finished with a model, a summary and pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import platform
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import TrainConfig, config_from_dict
from daps_rl.data import Splits
from daps_rl.device import choose_device, peak_memory
from daps_rl.distributed import World
from daps_rl.evaluation import Perceptual
from daps_rl.evaluation.summary import evaluate_splits, perceptual_metrics
from daps_rl.files import write_atomically
from daps_rl.runs.folder import RunFolder
from daps_rl.runs.pictures import draw_run
from daps_rl.search import CodeScore
from daps_rl.tensor_file import load_tensors, save_tensors
from daps_rl.training import Trainer
from daps_rl.verdicts import Verdicts, make_verdicts

Observer = Callable[[Trainer, dict[str, Any]], None]
STATE: dict[str, Callable[[Any], bool]] = {
    "step": lambda value: isinstance(value, int) and 0 <= value < 2**63,
    "seconds": lambda value: isinstance(value, float) and value >= 0.0,
    "decoder_evaluations": lambda value: isinstance(value, int),
    "fingerprint": lambda value: isinstance(value, str),
    "score_precision": lambda value: value in ("float32", "bfloat16"),
    "config": lambda value: isinstance(value, dict),
    "verdicts": lambda value: isinstance(value, dict | None),
}
"""What a checkpoint must say beside its tensors; see `Trainer.state`."""


def train_run(
    config: TrainConfig,
    splits: Splits,
    run: RunFolder,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    finishing: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    observers: tuple[Observer, ...] = (),
    world: World | None = None,
    verdicts: Verdicts | None = None,
) -> dict[str, Any] | None:
    """Trains in a folder that it holds meanwhile, from its checkpoint where it has one.

    Of several processes that train together, the first holds the folder and does all that is written. What is wrong
    with settings and data is said before the folder is made; a run that fails in its first step leaves nothing in it.

    Args:
        resume: go on from the folder's checkpoint, with its settings.
        stop: asked after every step; true saves and returns.
        finishing: entered for the last part, evaluation and pictures, which can be done again and ask no `stop`.
        observers: called with the trainer and each row.
        world: the processes that train together; this one by itself if None.
        verdicts: in place of those that the settings name; see `Trainer`.
    Returns:
        the summary, or None if the run was stopped before its end, and in all processes but the first.
    Raises:
        ValueError: the folder is in use, or holds a run that is not this one's to go on with; the checkpoint is damaged
            or of another version, or the data have changed.
        TrainingDiverged: see `Trainer.run`.
        OSError: the disk is full; the previous checkpoint is whole.
    """
    world = world or World()
    perceptual = perceptual_metrics(config, splits)  # before hours of training: a file may be missing
    if verdicts is None:
        verdicts = make_verdicts(config.reward, splits, run.verdicts if resume else None)
    trainer = Trainer(config, splits, world=world, verdicts=verdicts)
    with run.locked() if world.is_first else contextlib.nullcontext():
        session = _Session(trainer, run)
        session.begin(resume)
        try:
            session.train(stop, observers)
        except BaseException:
            # What was learned is kept. Other processes may be elsewhere: of several, none waits for them here.
            if world.size == 1:
                session.save()
            if world.is_first and trainer.step == 0 and not resume:
                run.config.unlink()
                shutil.rmtree(run.verdicts, ignore_errors=True)
            raise
        session.save()
        if trainer.progress < 1.0 or not world.is_first:
            return None
        with finishing():
            return finish(trainer, run, perceptual)


class _Session:
    """A trainer, its folder, the files of its classifiers, and the step that was saved last."""

    def __init__(self, trainer: Trainer, run: RunFolder) -> None:
        self.trainer, self.run, self.saved_at = trainer, run, 0
        savable = {} if trainer.verdicts is None else trainer.verdicts.savable()
        missing = {name: each for name, each in savable.items() if not (run.verdicts / name).exists()}
        self.classifiers = {name: each.to_bytes() for name, each in missing.items()}  # refused now, or not at all

    def begin(self, resume: bool) -> None:
        """Takes up the checkpoint where there is one, or writes the settings of a new run."""
        trainer, run = self.trainer, self.run
        if found := trainer.world.from_first(self._found if resume else self._new):
            trainer.load_state(*found)
        self.saved_at = trainer.step
        if trainer.world.is_first:
            run.cut_rows(trainer.step)
            for name, content in self.classifiers.items():
                run.verdicts.mkdir(exist_ok=True)
                write_atomically(run.verdicts / name, content)

    def _new(self) -> None:
        self.run.check_new()
        self.run.write_json(self.run.config, dataclasses.asdict(self.trainer.config))

    def _found(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        run = self.run
        if run.summary.exists():  # another process has finished it before this one held it
            raise ValueError(f"{run.path} is finished already; see {run.summary}")
        if config_from_dict(run.read_json(run.config)) != self.trainer.config:
            raise ValueError(f"{run.config} holds other settings than this run began with; restore them.")
        if not run.checkpoint.exists():
            return None
        tensors, info = load_tensors(run.checkpoint, "checkpoint")
        if wrong := [name for name, fits in STATE.items() if not fits(info.get(name))]:
            raise ValueError(f"{run.checkpoint} lacks {', '.join(wrong)}; restore a copy, or delete it and train anew.")
        same_data(self.trainer.fingerprint, info["fingerprint"])
        if (info.get("verdicts") or {}) != self._digests():
            raise ValueError(f"{run.verdicts} holds other classifiers than this run began with; restore them.")
        if config_from_dict(info["config"]) != self.trainer.config:
            raise ValueError(
                f"{run.checkpoint} belongs to a run of other settings than {run.config}; restore the one or the other."
            )
        return tensors, info

    def _digests(self) -> dict[str, str]:
        """Of the classifiers' files, by name."""
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.run.verdicts.glob("*.skops")}

    def train(self, stop: Callable[[], bool], observers: tuple[Observer, ...]) -> None:
        """Trains to the end or until asked to stop, with a row and a checkpoint whenever one is due."""
        trainer, every = self.trainer, self.trainer.config.checkpoint_every
        for row in trainer.run(stop):
            if trainer.world.is_first:
                self.run.append_row(row)
                for observer in observers:
                    observer(trainer, row)
            if trainer.step // every > self.saved_at // every:
                self.save()

    def save(self) -> None:
        """Saves what was learned since the last checkpoint, where it is sound. A full disk is reported by each try."""
        trainer = self.trainer
        if trainer.step == self.saved_at or not trainer.learner.is_sound():
            return
        tensors, info = trainer.state()
        if trainer.world.is_first:
            save_tensors(self.run.checkpoint, "checkpoint", tensors, {**info, "verdicts": self._digests()})
        self.saved_at = trainer.step


def same_data(fingerprint: str, expected: str) -> None:
    """Raises ValueError unless the data are those that the run began with."""
    if fingerprint != expected:
        raise ValueError(
            "the data have changed since this run began (their fingerprint differs); "
            "restore them, or start a new run with another --out."
        )


def finish(trainer: Trainer, run: RunFolder, perceptual: Perceptual | None = None) -> dict[str, Any]:
    """Saves the model, evaluates it on validation and test, and writes pictures and summary; returns the summary.

    The summary comes last: a run that has one is finished, and one that was killed before draws what is missing.
    """
    model, config = trainer.autoencoder.eval(), trainer.config
    model.save_pretrained(run.model)
    summary = {
        "data": config.data,
        "problem": config.problem,
        "agent": config.agent,
        "seed": config.seed,
        "steps": trainer.step,
        "seconds": trainer.seconds,
        "steps_per_second": trainer.step / max(trainer.seconds, 1e-9),
        "score_precision": trainer.learner.score_precision,
        "decoder_evaluations": trainer.decoder_evaluations,
        "peak_memory_bytes": peak_memory(trainer.device),
        "num_parameters": {
            "policy": sum(p.numel() for p in trainer.agent.parameters()),
            "decoder": sum(p.numel() for p in model.decoder.parameters()),
        },
        "bits": config.bits,
        "beta": config.beta_end,
        "skipped_steps": int(trainer.optimizer.skipped),
        "device": str(trainer.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "fingerprint": trainer.fingerprint,
        "given_shape": trainer.splits.given_shape,
        "measures": {name: measure._asdict() for name, measure in trainer.splits.kind.measures.items()},
        "unreadable_files": trainer.splits.unreadable_files(),
        **evaluate_splits(model, trainer.splits, config.beta_end, perceptual, trainer.verdicts),
    }
    if trainer.learner.target is not None:
        summary["target"] = trainer.learner.target.outcome(summary["validation"])
    summary["pictures"] = [path.name for path in draw_run(run.path, model, trainer.splits)]
    run.write_json(run.summary, summary)  # last: a run that has one is whole
    return summary


def load_run(
    path: str | Path, device: str = "auto", *, trust: bool = False
) -> tuple[RunFolder, TrainConfig, DiscreteAutoencoder]:
    """Opens a finished run: its folder, settings and saved model.

    Raises:
        ValueError: the folder holds no finished run, is damaged, or names code of somebody's without `trust`.
    """
    run = RunFolder(path)
    config = config_from_dict(run.read_json(run.config))
    model = DiscreteAutoencoder.from_pretrained(run.model, device=choose_device(device), trust=trust)
    return run, config, model


def code_score_of(run: RunFolder, config: TrainConfig, model: DiscreteAutoencoder) -> CodeScore:
    """Returns what a search goes by with a finished run: log p(x|z) + λ·log p(z), less the price of tokens, in nats.

    λ is the run's rate_weight, or, where it had a target, the last that followed from that.
    """
    rate_weight = config.rate_weight
    if config.target is not None:
        rate_weight = (run.read_json(run.summary).get("target") or {}).get("rate_weight") or 0.0
    return model.code_score(rate_weight, config.token_price)
