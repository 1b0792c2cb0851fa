"""How near a reconstruction is to its original."""

from __future__ import annotations

from torch import Tensor

PSNR_CAP = 100.0  # dB: a perfect reconstruction, whose PSNR is infinite
SSIM_LEAST = 8  # pixels a side


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


def has_ssim(x: Tensor) -> bool:
    """Whether data are images that a window fits into. [N, C, H, W]."""
    return x.ndim == 4 and min(x.shape[-2:]) >= SSIM_LEAST
