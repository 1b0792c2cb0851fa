"""The kind of photographs: image files as data, and data as image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from daps_rl.cli import main
from daps_rl.data import DataError, load
from daps_rl.data.images import Images
from daps_rl.data.kind import kind_from_json, kind_to_json
from daps_rl.data.picture import Standard

KIND = Images.of(Standard(0.4, 0.2), size=8, channels=3)


def save_images(folder: Path, count: int = 30, size: int = 8) -> np.ndarray:
    """Writes PNGs of random colours, and returns their pixels. [N, H, W, 3]."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i:03}.png")
    return pixels


def test_files_are_read_and_written(tmp_path):
    pixels = save_images(tmp_path / "in", 3)
    read = KIND.read(tmp_path / "in")
    assert np.array_equal(read.movedim(1, -1).numpy(), pixels)
    values = KIND.prepare(read)
    torch.testing.assert_close(values, (torch.from_numpy(pixels).movedim(-1, 1) / 255 - 0.4) / 0.2)
    torch.testing.assert_close(KIND.prepare(pixels), values)  # channels last, as image libraries give them
    assert KIND.prepare(values) is values
    assert KIND.write(tmp_path / "out", values).endswith("out: 3 PNG files")
    back = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    assert np.array_equal(back, pixels)
    with pytest.raises(DataError, match="out must be a new or an empty folder"):
        KIND.write(tmp_path / "out", values)
    assert kind_from_json(kind_to_json(KIND)) == KIND


def test_a_broken_image_is_named(tmp_path):
    save_images(tmp_path / "in", 2)
    (tmp_path / "in" / "001.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"001\.png must be a readable image, got: "):
        KIND.read(tmp_path / "in")


def test_a_run_on_images_encodes_files_and_decodes_to_files(tmp_path, capsys):
    save_images(tmp_path / "photos", 30)
    run, codes = tmp_path / "run", tmp_path / "codes.npy"
    options = f"--data {tmp_path / 'photos'} --image-size 8 --steps 2 --num-tokens 2 --vocab-size 4 --batch-size 8"
    assert main(["train", *options.split(), "--decoder", "mlp", "--data-workers", "0", "--out", str(run)]) == 0
    assert main(["encode", str(run), "--input", str(tmp_path / "photos" / "004.png"), "--output", str(codes)]) == 0
    assert np.load(codes).shape == (1, 2)
    assert main(["decode", str(run), "--input", str(codes), "--output", str(tmp_path / "decoded")]) == 0
    assert Image.open(tmp_path / "decoded" / "00000.png").size == (8, 8)
    splits = load(tmp_path / "photos", image_size=8)
    assert splits.kind.channels == 3
    values = splits.kind.prepare(splits.kind.read(tmp_path / "photos"))
    rows = {tuple(row) for row in values.flatten(1).tolist()}
    assert {tuple(row) for row in splits.test[:].flatten(1).tolist()} <= rows  # as training reads them
