"""How near reconstructions look to their originals, by networks whose weights are at hand: FID and LPIPS."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torchmetrics import Metric

LEAST = 32  # pixels a side, for FID and LPIPS
WEIGHTS = {
    "fid_weights": (
        "Inception's, https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "pt_inception-2015-12-05-6726825d.pth"
    ),
    "lpips_weights": "AlexNet's, https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
}
"""Where the weights are to be had. Nothing is downloaded here."""


class Perceptual:
    """Option of `evaluate`: FID and LPIPS of the reconstructions, each where its weights are given.

    Args:
        fid_weights: file of Inception's weights (see `WEIGHTS`), or a feature network of one's own: uint8 images
            [N, 3, H, W] → [N, F].
        lpips_weights: file of AlexNet's weights (torchvision's), or a network of one's own: two batches in [-1, 1],
            [N, 3, H, W] each → a distance for each pair, N numbers.
    Raises:
        ImportError: a file is given, and torch-fidelity or torchvision is not installed.
        ValueError: neither is given, or a file is missing or not the weights.
    """

    def __init__(
        self, *, fid_weights: str | Path | nn.Module | None = None, lpips_weights: str | Path | nn.Module | None = None
    ) -> None:
        if fid_weights is None and lpips_weights is None:
            raise ValueError(
                "Perceptual needs weights, got none; download them and pass the paths: "
                + "; ".join(f"{name}= {where}" for name, where in WEIGHTS.items())
            )
        self._fid = None if fid_weights is None else _make_fid(fid_weights)
        self._lpips = None if lpips_weights is None else _make_lpips(lpips_weights)
        self._distances: list[Tensor] = []

    def reset(self) -> None:
        """Forgets all images."""
        self._distances = []
        if self._fid is not None:
            self._fid.reset()

    @staticmethod
    def check(shape: Sequence[int]) -> None:
        """Raises ValueError unless data of that shape, without N, are colour images large enough."""
        if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < LEAST:
            raise ValueError(
                f"FID and LPIPS are of colour images [N, 3, H, W] of at least {LEAST} pixels a side, got [N, "
                f"{', '.join(map(str, shape))}]; leave out perceptual=, or --fid-weights and --lpips-weights."
            )

    @torch.no_grad()
    def add(self, reconstruction: Tensor, x: Tensor, value_range: tuple[float, float]) -> None:
        """Takes in a batch of reconstructions and their originals, see `check`. [N, 3, H, W]."""
        self.check(x.shape[1:])
        low, high = value_range
        pair = [((image - low) / (high - low)).clamp(0.0, 1.0) for image in (reconstruction, x)]
        if self._fid is not None:
            self._fid.to(x.device)
            for image, real in zip(pair, (False, True), strict=True):
                self._fid.update((image * 255).round().byte(), real=real)
        if self._lpips is not None:
            distances = self._lpips.to(x.device)(*(2.0 * image - 1.0 for image in pair))
            self._distances.append(distances.reshape(len(x)).double().cpu())

    def result(self) -> dict[str, float]:
        """`fid` and `lpips` of all images taken in, each where its weights were given."""
        values = {}
        if self._fid is not None:
            values["fid"] = self._fid.compute().item()
        if self._lpips is not None:
            values["lpips"] = torch.cat(self._distances).mean().item()
        return values


def _make_fid(weights: str | Path | nn.Module) -> Metric:
    from torchmetrics.image.fid import FrechetInceptionDistance

    if isinstance(weights, nn.Module):
        return FrechetInceptionDistance(feature=weights)
    tensors = _load("fid_weights", weights)
    with tempfile.TemporaryDirectory() as folder:
        # torch-fidelity unpickles whatever it is given, so it is given a file that we wrote.
        own = Path(folder) / "weights.pth"
        torch.save(tensors, own)
        try:
            return FrechetInceptionDistance(feature_extractor_weights_path=str(own))
        except ModuleNotFoundError as error:
            raise ImportError("FID needs torch-fidelity; install it with pip install 'daps-rl[perceptual]'.") from error
        except RuntimeError as error:
            raise _not_the_weights("fid_weights", weights) from error


def _make_lpips(weights: str | Path | nn.Module) -> nn.Module:
    if isinstance(weights, nn.Module):
        return weights
    # torchmetrics' public class always downloads the backbone; the network under it can do without.
    from torchmetrics.functional.image.lpips import _LPIPS

    tensors = _load("lpips_weights", weights)
    try:
        network = _LPIPS(pretrained=True, net="alex", pnet_rand=True)  # its linear layers come with torchmetrics
    except ModuleNotFoundError as error:
        raise ImportError("LPIPS needs torchvision; install it with pip install 'daps-rl[perceptual]'.") from error
    names = network.net.state_dict()
    try:  # "slice2.3.weight" there is "features.3.weight" in torchvision
        network.net.load_state_dict({name: tensors["features." + name.split(".", 1)[1]] for name in names})
    except (KeyError, RuntimeError) as error:
        raise _not_the_weights("lpips_weights", weights) from error
    return network


def _load(option: str, path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote; nothing else in it is unpickled."""
    if not Path(path).is_file():
        raise ValueError(f"{option}: there is no file {path}; download {WEIGHTS[option]}, and pass its path.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file torch raises many kinds
        raise _not_the_weights(option, path) from error


def _not_the_weights(option: str, path: str | Path) -> ValueError:
    return ValueError(f"{option}: {path} does not hold the weights asked for; download {WEIGHTS[option]}.")
