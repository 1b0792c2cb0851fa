"""What codecs of files make of data: bits of a file each, headers too, and of all data in one archive.

They are what a user would take for one datum, and no rivals of short codes: a header alone is longer than these.
"""

from __future__ import annotations

import gzip
import io
import lzma
from collections.abc import Callable, Iterator

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

from daps_rl.data import Splits
from daps_rl.data.handwriting import _as_svg
from daps_rl.data.sound import Sound
from daps_rl.data.spoken_digits import SECONDS, _waves

PICTURES = {
    "PNG": {"format": "PNG", "optimize": True},
    "WebP, lossless": {"format": "WEBP", "lossless": True, "method": 6},
    **{f"WebP {quality}": {"format": "WEBP", "quality": quality, "method": 6} for quality in (0, 20, 50, 80)},
    **{f"JPEG {quality}": {"format": "JPEG", "quality": quality, "optimize": True} for quality in (5, 20, 50, 80)},
}
SOUNDS = {
    "FLAC": {"format": "FLAC", "subtype": "PCM_16"},
    **{
        f"Opus, compression {level:g}": {"format": "OGG", "subtype": "OPUS", "compression_level": level}
        for level in (0.5, 0.9, 1.0)
    },
}
LEVELS = (16, 64, 256)  # of a coordinate of the pen

Coded = tuple[str, float, Tensor]
"""Name, bits each, what comes back [N, *x]."""


def coded(splits: Splits, x: Tensor) -> Iterator[Coded]:
    """Returns what each codec for these data makes of the first data of the test split."""
    if isinstance(splits.kind, Sound):
        return sounds(splits.kind, _waves(None, SECONDS)["test"][: len(x)], x)
    return pictures(x) if x.dim() == 4 else drawings(x)


def archives(content: bytes, count: int, back: Tensor, what: str) -> Iterator[Coded]:
    """Everything in one file."""
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda text: gzip.compress(text, 9),
        "xz": lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
    }
    for name, pack in packers.items():
        yield f"{name} of all {what}", 8 * len(pack(content)) / count, back


def pictures(x: Tensor) -> Iterator[Coded]:
    """Of grey pictures [N, 1, H, W] in 0 … 1; those of two values go into PNG as such, and into archives as bits."""
    levels = (255 * x[:, 0]).round().byte().numpy()
    binary = bool(((x == 0) | (x == 1)).all())
    for name, options in PICTURES.items():
        sizes, back = 0, []
        for each in levels:
            image, file = Image.fromarray(each), io.BytesIO()
            (image.convert("1", dither=Image.Dither.NONE) if binary and name == "PNG" else image).save(file, **options)
            sizes += 8 * len(file.getvalue())
            back.append(np.asarray(Image.open(file).convert("L")))
        yield name, sizes / len(x), torch.from_numpy(np.stack(back)).float().unsqueeze(1) / 255
    content = np.packbits(levels > 127, axis=None) if binary else levels
    yield from archives(content.tobytes(), len(x), x, "pixels")


def sounds(kind: Sound, waves: Tensor, x: Tensor) -> Iterator[Coded]:
    """Of waves [N, samples] in 16 bits; what comes back are spectrograms, as in `x`."""
    for name, options in SOUNDS.items():
        sizes, back = 0, []
        for wave in waves.numpy():
            file = io.BytesIO()
            soundfile.write(file, wave, kind.sample_rate, **options)
            sizes += 8 * len(file.getvalue())
            file.seek(0)
            heard = soundfile.read(file, dtype="float32")[0]
            back.append(np.pad(heard, (0, max(0, len(wave) - len(heard))))[: len(wave)])
        yield name, sizes / len(waves), kind.from_waveform(torch.from_numpy(np.stack(back)))
    content = (waves * 32767).round().short().numpy().tobytes()
    yield from archives(content, len(waves), x, "samples")


def drawings(x: Tensor) -> Iterator[Coded]:
    """Of pen strokes [N, steps, 3]: SVG files, and coordinates of some levels."""
    files = [_as_svg(each).encode() for each in x.numpy()]
    yield "SVG", 8 * sum(map(len, files)) / len(x), x
    for levels in LEVELS:
        whole = ((x[..., :2].clamp(-1, 1) + 1) / 2 * (levels - 1)).round()
        back = torch.cat((whole / (levels - 1) * 2 - 1, x[..., 2:]), -1)
        steps = whole.byte().diff(dim=1, prepend=torch.zeros_like(whole[:, :1]).byte())
        content = torch.cat((steps, x[..., 2:].byte()), -1).permute(2, 0, 1).contiguous().numpy().tobytes()
        yield from archives(content, len(x), back, f"moves, {levels} levels")
