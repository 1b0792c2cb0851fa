"""Files and a hub for the tests of daps_rl.data."""

import gzip
import struct
import sys
import types

import numpy as np
import torch

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def pixels(count, rows=5, columns=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, rows, columns), dtype=np.uint8)


def write_folder(folder, *, train=24, test=6, suffix="", dotted=False):
    """Four IDX files; returns the four arrays by file name."""
    folder.mkdir(exist_ok=True)
    arrays = dict(
        zip(NAMES, (pixels(train), np.arange(train) % 10, pixels(test, seed=1), np.arange(test) % 7), strict=True)
    )
    for name, array in arrays.items():
        raw = idx_bytes(array)
        spelling = name.replace("-idx", ".idx") if dotted else name
        (folder / (spelling + suffix)).write_bytes(gzip.compress(raw) if suffix else raw)
    return arrays


def floats(count, *shape, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def rows(splits):
    """All data of the three splits, as a sorted list of tuples."""
    return sorted(tuple(row.flatten().tolist()) for name in ("train", "validation", "test") for row in splits[name])


def assert_one_line(error):
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


class FakeHub(types.ModuleType):
    """The `datasets` package, as far as it is used."""

    def __init__(self, content):
        super().__init__("datasets")
        self.content = content
        self.asked = []

    def load_dataset(self, hub_id, **options):
        self.asked.append(hub_id)
        self.options = options
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def use_hub(monkeypatch, content):
    hub = FakeHub(content)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    return hub
