"""Codes drawn from a prior, and how good data they decode to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.data import Splits
from daps_rl.evaluation.recogniser import Recogniser
from daps_rl.policies.distribution import write_codes

COMPONENTS = 50
DRAWS, AT_ONCE = 2000, 500


@torch.no_grad()
def draw_codes(prior: Distribution, n: int, temperature: float = 1.0) -> Tensor:
    """Draws n codes of each context of a prior's distribution. [n, *batch_shape, T], int64.

    Args:
        prior: as a prior module gives it, with `steps` unless the temperature is 1.
        temperature: that each token's logits are divided by: below 1 the likelier ones are drawn more often.
    Raises:
        ValueError: the temperature is not positive, or the prior is not written token by token.
    """
    if temperature == 1.0:
        return prior.sample(torch.Size((n,)))
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive, got {temperature}; 1 draws from the prior as it is.")
    if not hasattr(prior, "steps"):
        raise ValueError(f"temperature must be 1 for {type(prior).__name__}, got {temperature}; it has no tokens.")
    codes = write_codes(prior.steps(n), prior.event_shape[0], temperature=temperature).codes
    return codes.reshape(n, *prior.batch_shape, *prior.event_shape)


def quality_of_draws(model: DiscreteAutoencoder, splits: Splits) -> dict[str, float]:
    """Measures 2,000 draws from a model's prior, decoded; of data that are plain tensors, else nothing.

    Returns:
        `frechet_distance` to the test data, see `frechet_distance`, and as a scale `frechet_distance_train` of as many
        training data; where the prior knows labels, `label_accuracy`: the share of draws, as many of each class, whose
        class a recogniser fitted on training data reads right.
    """
    train, test = splits.train, splits.test
    if not isinstance(train, Tensor) or not isinstance(test, Tensor) or splits.kind.columns:
        return {}
    classes = getattr(model.prior, "num_classes", 0)
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(0)
        labels = torch.arange(DRAWS) % classes if classes else None
        if labels is None:
            codes = model.prior().sample((DRAWS,))
        else:
            codes = torch.cat([model.prior(part.to(device)).sample() for part in labels.split(AT_ONCE)])
        marginal = codes if labels is None else model.prior().sample((DRAWS,))
        drawn = {id(z): torch.cat([model.decode(part).cpu() for part in z.split(AT_ONCE)]) for z in (codes, marginal)}
    found = {
        "frechet_distance": frechet_distance(train, test, drawn[id(marginal)]),
        "frechet_distance_train": frechet_distance(train, test, train[:DRAWS]),
    }
    if labels is not None and splits.train_labels is not None:
        recogniser = Recogniser(train, splits.train_labels)
        found["label_accuracy"] = recogniser.share(drawn[id(codes)], labels)
    return found


def frechet_distance(train: Tensor, real: Tensor, made: Tensor) -> float:
    """Fréchet distance of two Gaussians, those of real and of made data on the training data's principal components.

    At most 50 components, each of unit variance in training: what the Fréchet inception distance is (Heusel et al.,
    2017), where there is no network whose features could be taken. Smaller is better. [N, *x] each.
    """
    from sklearn.decomposition import PCA

    flat = [part.flatten(1).double().numpy() for part in (train, real, made)]
    analysis = PCA(min(COMPONENTS, *flat[0].shape), whiten=True, random_state=0).fit(flat[0])
    features = [analysis.transform(part) for part in flat[1:]]
    means = [part.mean(0) for part in features]
    first, second = (np.atleast_2d(np.cov(part, rowvar=False)) for part in features)
    mixed = np.sqrt(np.linalg.eigvals(first @ second).real.clip(min=0.0)).sum()  # the trace of the product's root
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(first + second) - 2.0 * mixed)
