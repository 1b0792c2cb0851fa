"""The pictures of a run: reconstructions of test data, learning curves, use of the codes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import latents_text
from daps_rl.data import Splits
from daps_rl.data.pixels import Arrays
from daps_rl.decoders import StrokeDecoder
from daps_rl.evaluation import evaluate
from daps_rl.policies import EndToken, end_token
from daps_rl.report.code_usage import plot_code_usage
from daps_rl.report.learning_curves import plot_learning_curves, read_metrics
from daps_rl.report.reconstructions import ROW_LABELS, plot_sheet

SHOWN = 16  # data in the picture of reconstructions
SORTED = 512  # data of which those are taken that show how long codes are
PREFIXES = 8  # rows of first tokens in that picture


def draw_run(folder: Path, autoencoder: DiscreteAutoencoder, splits: Splits) -> list[Path]:
    """Draws what there is to draw of a run: a problem has curves alone, continuous latents use no codes.

    Reads the folder's metrics.jsonl, writes pictures beside it, and returns their paths.
    """
    config = autoencoder.config
    curves = folder / "learning_curves.png"
    plot_learning_curves(curves, read_metrics(folder / "metrics.jsonl"), title=f"{splits.name}: training")
    if config is not None and config.problem is not None:
        return [curves]
    title = None
    if config is not None:
        title = f"{splits.title}: test data from {latents_text(config.bits, ends=config.end_token)}"
    paths = [*_draw_data(folder, autoencoder, splits, title), curves]
    if any(True for _ in autoencoder.prior.parameters()):
        paths += draw_samples(folder, autoencoder, splits)
    counts = evaluate(autoencoder, splits.test, beta=0.0, kind=splits.kind, importance_data=0).counts
    if counts is not None:
        paths.append(folder / "code_usage.png")
        title = f"{splits.name}: use of each position's token values on the test split"
        plot_code_usage(paths[-1], counts, title=title)
    return paths


def draw_samples(folder: Path, autoencoder: DiscreteAutoencoder, splits: Splits) -> list[Path]:
    """Draws data decoded from codes of the prior, into `samples` in a run's folder.

    Where it knows labels, a row for each of the first ten classes.
    """
    classes = min(getattr(autoencoder.prior, "num_classes", 0), 10)
    device = next(autoencoder.parameters()).device
    rows = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(0)
        for label in range(classes):
            prior = autoencoder.prior(torch.full((SHOWN,), label, device=device))
            rows[f"label {label}"] = autoencoder.decode(prior.sample()).cpu()
        if not classes:
            rows["drawn"] = autoencoder.decode(autoencoder.prior().sample((SHOWN,))).cpu()
    (folder / "samples").mkdir(exist_ok=True)
    return splits.kind.draw(
        folder / "samples" / "drawn.png", rows, f"{splits.name}: decoded from codes drawn from the prior"
    )


def _draw_data(folder: Path, autoencoder: DiscreteAutoencoder, splits: Splits, title: str | None) -> list[Path]:
    """Draws test data beside what greedy and sampled codes make of them; of strokes, one after another too."""
    device = next(autoencoder.parameters()).device
    shown = splits.test[:SHOWN].to(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        greedy = autoencoder.decode(autoencoder.encode(shown, deterministic=True))
        sampled = autoencoder.decode(autoencoder.encode(shown))
    rows = dict(zip(ROW_LABELS, (shown.cpu(), greedy.cpu(), sampled.cpu()), strict=True))
    paths = splits.kind.draw(folder / "reconstructions.png", rows, title)
    if (ends := end_token(autoencoder.policy)) is not None:
        rows = decoded_prefixes(autoencoder, ends, splits.test[:SORTED].to(device), splits.value_range)
        paths += splits.kind.draw(folder / "prefixes.png", rows, title)
    if isinstance(autoencoder.decoder, StrokeDecoder):
        paths.append(folder / "drawing.png")
        stages = autoencoder.decoder.stages(autoencoder.encode(shown, deterministic=True))
        rows = {f"{i + 1} stroke" + "s" * (i > 0): picture.cpu() for i, picture in enumerate(stages)}
        plot_sheet(paths[1], {"original": shown.cpu(), **rows}, value_range=splits.value_range, title=title)
    return paths


def decoded_prefixes(
    autoencoder: DiscreteAutoencoder, ends: EndToken, x: Tensor, value_range: tuple[float, float]
) -> dict[str, Tensor]:
    """Data in the order of their greedy codes' lengths, and what the first tokens of these decode to, row by row.

    Where a code has ended, pictures are white and other arrays NaN; kinds that may know no NaN have the whole code's
    datum again. [N, *x] → [16, *x] each, evenly spaced over N.
    """
    codes = autoencoder.encode(x, deterministic=True)
    lengths, order = ends.lengths(codes).sort(stable=True)
    chosen = torch.linspace(0, len(x) - 1, min(SHOWN, len(x))).round().long()
    lengths, order = lengths[chosen], order[chosen]
    rows, before = {"original": x[order].cpu()}, -1
    counts = torch.linspace(1, max(1, int(lengths.max())), PREFIXES).round().long().unique().tolist()
    for count in counts:
        made = autoencoder.decode(codes[order, :count])
        ended = (lengths <= before).view(-1, *[1] * (x.ndim - 1)) & isinstance(autoencoder.kind, Arrays)
        blank = value_range[1] if x.ndim == 4 else torch.nan
        rows[f"{count} token" + "s" * (count > 1)] = torch.where(ended, blank, made).cpu()
        before = count
    return rows
