"""What `summary.json` says of a model: all metrics on validation and test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import TrainConfig
from daps_rl.data import Splits
from daps_rl.envs.problem import find_problem
from daps_rl.evaluation.perceptual import Perceptual
from daps_rl.evaluation.recogniser import make_recogniser, recognised
from daps_rl.evaluation.split import evaluate
from daps_rl.search import CodeScore, Search

if TYPE_CHECKING:
    from daps_rl.verdicts import Verdicts


def perceptual_metrics(config: TrainConfig, splits: Splits) -> Perceptual | None:
    """Returns FID and LPIPS, where the settings give weights; raises what `Perceptual` does."""
    if config.fid_weights is None and config.lpips_weights is None:
        return None
    Perceptual.check(splits.observation_shape)
    return Perceptual(fid_weights=config.fid_weights, lpips_weights=config.lpips_weights)


def evaluate_splits(
    autoencoder: DiscreteAutoencoder,
    splits: Splits,
    beta: float,
    perceptual: Perceptual | None = None,
    verdicts: Verdicts | None = None,
    search: Search | None = None,
    score: CodeScore | None = None,
) -> dict[str, dict[str, Any]]:
    """Returns the metrics on validation and test, those of a problem's optima and of a recogniser among them."""
    metrics: dict[str, dict[str, Any]] = {}
    config, recogniser = autoencoder.config, make_recogniser(splits)
    for name in ("validation", "test"):
        found = evaluate(
            autoencoder,
            splits[name],
            beta=beta,
            kind=splits.kind,
            targets=splits.targets(name),
            perceptual=perceptual,
            verdicts=verdicts,
            labels=getattr(splits, f"{name}_labels"),
            search=search,
            score=score,
        )
        metrics[name] = found.metrics | splits.kind.summary(found.metrics, splits[name])
        if config is not None and config.problem is not None:
            metrics[name] |= find_problem(config.problem).gaps(found.columns, name)
        labels = getattr(splits, f"{name}_labels")
        if recogniser is not None and labels is not None:
            metrics[name] |= recognised(recogniser, autoencoder, splits[name], labels)
    return metrics
