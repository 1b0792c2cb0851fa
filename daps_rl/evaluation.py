"""Metrics of a trained model on a whole split. Defined in docs/metrics.md."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from daps_rl.autoencoder import DiscreteAutoencoder, code_sizes
from daps_rl.functional import beta_elbo, code_perplexity, code_usage, kl_estimate

PSNR_CAP = 100.0  # dB: a perfect reconstruction, whose PSNR is infinite


class Evaluation(NamedTuple):
    """Metrics per datum, means over the split; and how often each position used each code."""

    metrics: dict[str, float | None]
    counts: Tensor  # [T, V], int64


def evaluate(
    autoencoder: DiscreteAutoencoder,
    data: Tensor,
    *,
    beta: float,
    value_range: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 500,
    seed: int = 0,
) -> Evaluation:
    """Evaluates on a whole split, with one sampled code per datum (and greedy codes for `psnr_greedy`).

    The same model, data and seed give the same numbers; torch's global random state is left as it was.

    Args:
        autoencoder: the model; data go to its device.
        data: [N, *observation_shape].
        beta: weight of the KL in `beta_elbo`.
        value_range: smallest and largest possible value of the data, for PSNR and SSIM.
        batch_size: data at a time; changes nothing but memory and time.
        seed: of the sampled codes.
    Returns:
        log_likelihood, kl, elbo, beta_elbo, code_gain (nats), psnr, psnr_greedy (dB), ssim (None for data that are no
        images), code_usage (share), code_perplexity (codes).
    """
    device = next(autoencoder.parameters()).device
    was_training = autoencoder.training
    autoencoder.eval()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        rows = [_evaluate_batch(autoencoder, x.to(device), value_range) for x in data.split(batch_size)]
    autoencoder.train(was_training)
    columns = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    codes = columns.pop("codes")
    metrics: dict[str, float | None] = {name: value.double().mean().item() for name, value in columns.items()}
    log_likelihood, kl = columns["log_likelihood"].double(), columns["kl"].double()
    metrics["elbo"] = beta_elbo(log_likelihood, kl, 1.0).mean().item()
    metrics["beta_elbo"] = beta_elbo(log_likelihood, kl, beta).mean().item()
    metrics.setdefault("ssim", None)
    counts = count_codes(codes, code_sizes(autoencoder.policy)[1])
    metrics["code_usage"] = code_usage(counts).item()
    metrics["code_perplexity"] = code_perplexity(counts).mean().item()
    return Evaluation(metrics, counts)


def _evaluate_batch(autoencoder: DiscreteAutoencoder, x: Tensor, value_range: tuple[float, float]) -> dict[str, Tensor]:
    posterior = autoencoder.policy(x)
    codes = posterior.sample()  # [B, T]
    distribution = autoencoder.decoder(codes)
    greedy = autoencoder.decode(posterior.mode)
    log_likelihood = distribution.log_prob(x)
    row = {
        "log_likelihood": log_likelihood,
        "code_gain": log_likelihood - autoencoder.log_likelihood(x, codes.roll(1, 0)),  # another datum's code
        "kl": kl_estimate(posterior.log_prob(codes), autoencoder.prior().log_prob(codes)),
        "psnr": psnr(distribution.mean, x, value_range),
        "psnr_greedy": psnr(greedy, x, value_range),
        "codes": codes,
    }
    if x.ndim == 4 and min(x.shape[-2:]) >= 8:
        row["ssim"] = ssim(distribution.mean, x, value_range)
    return {name: value.cpu() for name, value in row.items()}


def psnr(reconstruction: Tensor, x: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Peak signal-to-noise ratio of each datum, in dB, at most PSNR_CAP. [N, ...] → [N]."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    values = peak_signal_noise_ratio(
        reconstruction.clamp(*value_range),
        x,
        data_range=value_range[1] - value_range[0],
        dim=tuple(range(1, x.ndim)),
        reduction="none",
    )
    return values.clamp(max=PSNR_CAP)


def ssim(reconstruction: Tensor, x: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Structural similarity of each image, with a Gaussian window of 11 pixels (5 for images under 22). [N]."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(
        reconstruction.clamp(*value_range),
        x,
        sigma=1.5 if min(x.shape[-2:]) >= 22 else 0.5,
        data_range=value_range[1] - value_range[0],
        reduction="none",
    )
    assert isinstance(values, Tensor)
    return values.view(-1)


def count_codes(codes: Tensor, vocab_size: int) -> Tensor:
    """How often each position used each code. codes [..., T] → [T, V], int64."""
    tokens = codes.reshape(-1, codes.shape[-1])
    offsets = torch.arange(tokens.shape[1], device=tokens.device) * vocab_size
    flat = (tokens + offsets).flatten()
    # Not bincount: that one asks a GPU for the largest entry, and waits.
    counts = torch.zeros(tokens.shape[1] * vocab_size, dtype=torch.int64, device=tokens.device)
    return counts.scatter_add_(0, flat, torch.ones_like(flat)).view(-1, vocab_size)
