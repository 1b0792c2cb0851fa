"""Codes drawn from a prior, and how good data they decode to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.codes.observations import decode_all
from daps_rl.data import Splits
from daps_rl.evaluation.recogniser import Recogniser
from daps_rl.policies.distribution import TokenSteps, write_codes

COMPONENTS = 50
LEAST_SHARE = 1e-6  # of a component's variance, of the largest one's
DRAWS, AT_ONCE = 2000, 500
MOST = 10_000  # training data that principal components are taken of
COLDEST = 1e-30  # temperature that float32 can divide by


@torch.no_grad()
def draw_codes(prior: Distribution, n: int, temperature: float = 1.0) -> Tensor:
    """Draws n codes of each context of a prior's distribution, some at a time. [n, *batch_shape, T], int64.

    Args:
        prior: as a prior module gives it, with `steps` unless the temperature is 1.
        temperature: that each token's logits are divided by: below 1 the likelier ones are drawn more often.
    Raises:
        ValueError: the temperature is not positive, or the prior is not written token by token.
    """
    if not COLDEST <= temperature < float("inf"):
        raise ValueError(f"temperature must be >= {COLDEST:g}, got {temperature}; 1 draws from the prior as it is.")
    begin: Callable[[int], TokenSteps] | None = getattr(prior, "steps", None)
    if temperature != 1.0 and begin is None:
        raise ValueError(f"temperature must be 1 for {type(prior).__name__}, got {temperature}; it has no tokens.")

    def draw(count: int) -> Tensor:
        if temperature == 1.0 or begin is None:
            return prior.sample(torch.Size((count,)))
        codes = write_codes(begin(count), prior.event_shape[0], temperature=temperature).codes
        return codes.reshape(count, *prior.batch_shape, *prior.event_shape)

    return torch.cat([draw(min(AT_ONCE, n - start)) for start in range(0, n, AT_ONCE)])


def quality_of_draws(model: DiscreteAutoencoder, splits: Splits) -> dict[str, float]:
    """Measures 2,000 draws from a model's prior, decoded; of data that are plain tensors, two or more, else nothing.

    Returns:
        `frechet_distance` to the test data, see `frechet_distance`, and as a scale `frechet_distance_train` of as many
        training data; where the prior knows labels, `label_accuracy`: the share of draws, as many of each class that
        training data have, whose class a recogniser fitted on these reads right.
    """
    train, test = splits.train, splits.test
    if not isinstance(train, Tensor) or not isinstance(test, Tensor) or splits.kind.columns:
        return {}
    if min(len(train), len(test)) < 2:
        return {}
    device, found = next(model.parameters()).device, dict[str, float]()
    of_train = splits.train_labels if getattr(model.prior, "num_classes", 0) else None
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(0)
        if of_train is not None and len(classes := of_train.unique()) > 1:
            labels = classes[torch.arange(DRAWS) % len(classes)]
            codes = torch.cat([model.prior(part.to(device)).sample() for part in labels.split(AT_ONCE)])
            found["label_accuracy"] = Recogniser(train, of_train).share(decode_all(model, codes), labels)
        drawn = decode_all(model, model.prior().sample((DRAWS,)))
    of_axes = _spaced(train, MOST)
    found["frechet_distance"] = frechet_distance(of_axes, test, drawn)
    found["frechet_distance_train"] = frechet_distance(of_axes, test, _spaced(train, DRAWS))
    return found


def _spaced(data: Tensor, most: int) -> Tensor:
    """At most so many data, evenly spaced, as they may be sorted by class. [N, *x] → [n, *x]."""
    return data[torch.linspace(0, len(data) - 1, min(most, len(data))).round().long()]


def frechet_distance(train: Tensor, real: Tensor, made: Tensor) -> float:
    """Fréchet distance of two Gaussians, those of real and of made data on the training data's principal components.

    At most 50 components, each of unit variance in training, and none that hardly varies there: what the Fréchet
    inception distance is (Heusel et al., 2017), where there is no network whose features could be taken. Smaller is
    better. [N, *x] each, N > 1.
    """
    from sklearn.decomposition import PCA

    flat = [part.flatten(1).double().numpy() for part in (train, real, made)]
    analysis = PCA(min(COMPONENTS, *flat[0].shape), whiten=True, random_state=0).fit(flat[0])
    kept = analysis.explained_variance_ > LEAST_SHARE * analysis.explained_variance_[0]
    features = [analysis.transform(part)[:, kept] for part in flat[1:]]
    means = [part.mean(0) for part in features]
    first, second = (np.atleast_2d(np.cov(part, rowvar=False)) for part in features)
    mixed = np.sqrt(np.linalg.eigvals(first @ second).real.clip(min=0.0)).sum()  # the trace of the product's root
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(first + second) - 2.0 * mixed)
