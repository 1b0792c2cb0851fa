"""The kind of most data: images and other arrays of numbers, which files of arrays hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from daps_rl.data.errors import DataError
from daps_rl.data.kind import Kind, Measure, write_array
from daps_rl.data.rows import Rows, open_array
from daps_rl.report import plot_sheet

PSNR_CAP = 100.0  # dB: a perfect reconstruction, whose PSNR is infinite
SSIM_LEAST = 8  # pixels a side


@dataclass(frozen=True, kw_only=True)
class Arrays(Kind):
    """Images and other arrays of numbers: PSNR and SSIM, pictures side by side, `.npy` files.

    Args:
        value_range: lowest and highest value, the peak of PSNR.
        given_shape: of a datum as it was given, before an axis was added or moved; None if it is unknown.
    Raises:
        DataError: the range is not finite, or empty.
    """

    measures: ClassVar[dict[str, Measure]] = {
        "psnr": Measure("PSNR", "dB", ".2f", 1),
        "ssim": Measure("SSIM", "", ".3f", 1),
    }
    value_range: tuple[float, float] = (0.0, 1.0)
    given_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        low, high = self.value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise DataError(
                f"value_range must be finite with low < high, got ({low}, {high}); "
                "pass the range of the values, and training data that are not all the same value"
            )

    def metrics(self, decoded: Tensor, x: Tensor) -> dict[str, Tensor]:
        found = {"psnr": psnr(decoded, x, self.value_range)}
        if has_ssim(x):
            found["ssim"] = ssim(decoded, x, self.value_range)
        return found

    def draw(self, path: Path, rows: Mapping[str, Tensor], title: str | None) -> list[Path]:
        plot_sheet(path, rows, value_range=self.value_range, title=title)
        return [path]

    def rows(self, path: Path) -> Rows:
        return open_array(path)

    def write_parts(self, path: Path, parts: Iterable[Tensor], count: int) -> str:
        return write_array(path, map(self.as_given, parts), count)

    def as_given(self, x: Tensor) -> Tensor:
        """Returns data in the shape that they were given in: an axis may have been moved, or added. [N, *x]."""
        if self.given_shape is None or x.shape[1:] == torch.Size(self.given_shape):
            return x
        return x.movedim(1, -1) if x.ndim == len(self.given_shape) + 1 else x.reshape(len(x), *self.given_shape)


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
