"""A training run with its folder: settings, rows, checkpoints, the saved model, summary and pictures."""

from __future__ import annotations

import dataclasses
import os
import platform
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from daps_rl.config import TrainConfig, config_from_dict, latents_text
from daps_rl.data import SPLITS, Splits, Stream, load
from daps_rl.data.load import NAMES
from daps_rl.decoders import StrokeDecoder
from daps_rl.distributed import World
from daps_rl.evaluation import Perceptual, evaluate
from daps_rl.report import plot_code_usage, plot_learning_curves, plot_reconstructions, plot_sheet, read_metrics
from daps_rl.runs import RunFolder, same_data
from daps_rl.training import Trainer, choose_device

PICTURES = ("reconstructions.png", "learning_curves.png", "code_usage.png")
DRAWING = "drawing.png"  # of a decoder that draws strokes: one after another
SHOWN = 16  # data in the picture of reconstructions

Observer = Callable[[Trainer, dict[str, Any]], None]


class StopRequest:
    """Whether somebody asked the run to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Turns Ctrl-C and SIGTERM into a request; a second Ctrl-C interrupts at once."""

        def handle(number: int, frame: object) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number

        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def train_run(
    config: TrainConfig,
    splits: Splits,
    run: RunFolder,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    observers: tuple[Observer, ...] = (),
    world: World | None = None,
) -> dict[str, Any] | None:
    """Trains in a folder that is this process's own (`run.locked()`), from its checkpoint where it has one.

    Of several processes that train together, the first holds the folder and does all that is written.

    Args:
        config: settings; with `resume`, those of the folder.
        splits: the data.
        run: the folder.
        resume: go on from the folder's checkpoint.
        stop: asked after every step; true saves and returns.
        observers: called with the trainer and each row.
        world: the processes that train together; this one by itself if None.
    Returns:
        the summary, or None if the run was stopped before its end, and in all processes but the first.
    Raises:
        CheckpointError: the checkpoint is damaged, or the data have changed.
        TrainingDiverged: see `Trainer.run`.
        OSError: the disk is full; the previous checkpoint is whole.
    """
    world = world or World()
    perceptual = perceptual_metrics(config, splits)  # before hours of training: a file may be missing
    trainer = Trainer(config, splits, world=world)
    found = load_checkpoint(run.checkpoint) if world.is_first and resume and run.checkpoint.exists() else None
    if (found := world.from_first(found)) is not None:
        tensors, info = found
        same_data(trainer.fingerprint, info["fingerprint"])
        if config_from_dict(info["config"]) != config:
            raise CheckpointError(
                f"{run.checkpoint} belongs to a run of other settings than {run.config}; restore the one or the other."
            )
        trainer.load_state(tensors, info)
    elif world.is_first and not resume:
        run.write_json(run.config, dataclasses.asdict(config))
    if world.is_first:
        run.cut_rows(trainer.step)
    saved_at = trainer.step if found is not None else -1

    def save() -> None:
        state = trainer.state()
        if world.is_first:
            save_checkpoint(run.checkpoint, *state)

    try:
        for row in trainer.run(stop):
            if world.is_first:
                run.append_row(row)
                for observer in observers:
                    observer(trainer, row)
            if trainer.step // config.checkpoint_every > max(saved_at, 0) // config.checkpoint_every:
                save()
                saved_at = trainer.step
    except BaseException:
        # What was learnt is kept. Other processes may be elsewhere: of several, none waits for them here.
        if world.size == 1:
            _save_last(trainer, save, saved_at)
        raise
    _save_last(trainer, save, saved_at)
    if trainer.progress < 1.0 or not world.is_first:
        return None
    return finish(trainer, run, perceptual)


def _save_last(trainer: Trainer, save: Callable[[], None], saved_at: int) -> None:
    """Saves what was learnt since the last checkpoint. A full disk raises here again, and is reported once."""
    if trainer.step > max(saved_at, 0) and trainer.optimizer.skipped_in_row == 0:
        save()


def perceptual_metrics(config: TrainConfig, splits: Splits) -> Perceptual | None:
    """FID and LPIPS, where the settings give weights.

    Raises:
        ValueError: a file is missing or not the weights, or the data are no colour images.
        ImportError: the extra "perceptual" is not installed.
    """
    if config.fid_weights is None and config.lpips_weights is None:
        return None
    Perceptual.check(splits.observation_shape)
    return Perceptual(fid_weights=config.fid_weights, lpips_weights=config.lpips_weights)


def finish(trainer: Trainer, run: RunFolder, perceptual: Perceptual | None = None) -> dict[str, Any]:
    """Saves the model, evaluates it on validation and test, and writes summary and pictures."""
    trainer.autoencoder.eval()
    trainer.autoencoder.save_pretrained(run.model)
    config = trainer.config
    summary = {
        "data": config.data,
        "problem": config.problem,
        "agent": config.agent,
        "seed": config.seed,
        "steps": trainer.step,
        "seconds": trainer.seconds,
        "steps_per_second": trainer.step / max(trainer.seconds, 1e-9),
        "score_precision": trainer.score_precision,
        "decoder_evaluations": trainer.decoder_evaluations,
        "peak_memory_bytes": peak_memory(trainer.device),
        "num_parameters": {
            "policy": sum(p.numel() for p in trainer.agent.parameters()),
            "decoder": sum(p.numel() for p in trainer.autoencoder.decoder.parameters()),
        },
        "bits": config.bits,
        "beta": config.beta_end,
        "skipped_steps": int(trainer.optimizer.skipped),
        "device": str(trainer.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "fingerprint": trainer.fingerprint,
        "unreadable_files": unreadable_files(trainer.splits),
        **evaluate_splits(trainer.autoencoder, trainer.splits, config.beta_end, perceptual),
    }
    run.write_json(run.summary, summary)
    draw(run, trainer.autoencoder, trainer.splits)
    return summary


def unreadable_files(splits: Splits) -> list[str]:
    """Names of the files that were skipped so far, of data that are decoded as they are needed."""
    streams = (splits[name] for name in SPLITS)
    return sorted({name for stream in streams if isinstance(stream, Stream) for name in stream.corrupt.found})


def peak_memory(device: torch.device) -> int:
    """Most memory that this process has held at once, in bytes: on a GPU of its tensors, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # of this program alone: what getrusage tells begins with the program that started it
        with open("/proc/self/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if platform.system() == "Darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def evaluate_splits(
    autoencoder: DiscreteAutoencoder, splits: Splits, beta: float, perceptual: Perceptual | None = None
) -> dict[str, dict[str, Any]]:
    """Metrics on validation and test: what `summary.json` holds and `daps-rl evaluate` recomputes."""
    metrics: dict[str, dict[str, Any]] = {}
    config = autoencoder.config
    for name in ("validation", "test"):
        found = evaluate(
            autoencoder,
            splits[name],
            beta=beta,
            value_range=splits.value_range,
            targets=splits.targets(name),
            perceptual=perceptual,
        )
        metrics[name] = found.metrics
        if config is not None and config.problem is not None:
            from daps_rl.envs.problem import find_problem

            metrics[name] |= find_problem(config.problem).gaps(found.columns, name)
    return metrics


def draw(run: RunFolder, autoencoder: DiscreteAutoencoder, splits: Splits) -> list[Path]:
    """Draws the run's pictures: reconstructions of test data, learning curves, use of the codes."""
    config = autoencoder.config
    if config is not None and config.problem is not None:
        curves = run.path / "learning_curves.png"
        plot_learning_curves(curves, read_metrics(run.metrics), title=f"{splits.name}: training")
        return [curves]
    paths = [run.path / name for name in PICTURES]
    device = next(autoencoder.parameters()).device
    shown = splits.test[:SHOWN].to(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        greedy = autoencoder.decode(autoencoder.encode(shown, deterministic=True))
        sampled = autoencoder.decode(autoencoder.encode(shown))
    title = None if config is None else f"{splits.name}: test data from {latents_text(config.bits)}"
    plot_reconstructions(
        paths[0], shown.cpu(), greedy.cpu(), sampled.cpu(), value_range=splits.value_range, title=title
    )
    if isinstance(autoencoder.decoder, StrokeDecoder):
        paths.insert(1, run.path / DRAWING)
        stages = autoencoder.decoder.stages(autoencoder.encode(shown, deterministic=True))
        rows = {f"{i + 1} stroke" + "s" * (i > 0): picture.cpu() for i, picture in enumerate(stages)}
        plot_sheet(paths[1], {"original": shown.cpu(), **rows}, value_range=splits.value_range, title=title)
    plot_learning_curves(paths[-2], read_metrics(run.metrics), title=f"{splits.name}: training")
    counts = evaluate(autoencoder, splits.test, beta=0.0, value_range=splits.value_range, importance_data=0).counts
    if counts is None:  # continuous latents use no codes
        return paths[:-1]
    plot_code_usage(paths[-1], counts, title=f"{splits.name}: use of each position's codes on the test split")
    return paths


def load_run(path: str | Path, device: str = "auto") -> tuple[RunFolder, TrainConfig, DiscreteAutoencoder]:
    """A finished run: its folder, settings and saved model.

    Raises:
        ValueError: the folder holds no finished run, or is damaged.
    """
    run = RunFolder(path)
    config = config_from_dict(run.read_json(run.config))
    return (
        run,
        config,
        DiscreteAutoencoder.from_pretrained(
            run.model,
            device=choose_device(device),
            trust_problem=True,  # it is the run's own
        ),
    )


def load_data(config: TrainConfig) -> Splits:
    """The data that the settings name; a problem's own contexts."""
    if config.problem is not None:
        from daps_rl.envs.problem import find_problem

        return find_problem(config.problem).splits()
    return load(
        config.data,
        config.data_dir,
        image_size=config.image_size or None,
        image_column=config.image_column,
        hub_config=config.hub_config,
        streaming=config.streaming,
        max_corrupt=config.max_corrupt,
    )


def absolute_paths(options: dict[str, Any]) -> dict[str, Any]:
    """Paths among the options made absolute, so that a run can be evaluated from anywhere."""
    resolved = dict(options)
    for name in ("fid_weights", "lpips_weights"):
        if resolved.get(name) is not None:
            resolved[name] = os.path.abspath(resolved[name])
    if resolved.get("data_dir") is not None:
        resolved["data_dir"] = os.path.abspath(resolved["data_dir"])
    elif resolved.get("data") is not None and os.path.exists(resolved["data"]) and resolved["data"] not in NAMES:
        resolved["data"] = os.path.abspath(resolved["data"])
    return resolved
