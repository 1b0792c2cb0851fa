"""Files of arrays: every format read back, nothing unpickled."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import assert_one_line, floats, pixels

from daps_rl.data import DataError, MissingDataError, from_arrays, load


def write_arrays(path, **arrays):
    from safetensors.numpy import save_file

    if path.suffix == ".npy":
        np.save(path, arrays["train"])
    elif path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        save_file(arrays, path)


def test_npy(tmp_path):
    given = np.random.default_rng(0).normal(size=(30, 4))
    np.save(tmp_path / "a.npy", given)
    splits = load(tmp_path / "a.npy")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (24, 3, 3)
    assert splits.name == str(tmp_path / "a.npy")
    assert splits.likelihood == "gaussian"
    assert splits.fingerprint() == from_arrays(given).fingerprint()
    assert load("a.npy", data_dir=str(tmp_path)).fingerprint() == splits.fingerprint()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_npz_and_safetensors(tmp_path, suffix):
    arrays = {
        "train": pixels(30),
        "validation": pixels(4, seed=1),
        "test": pixels(5, seed=2),
        "train_labels": np.arange(30),
        "test_labels": np.arange(5),
    }
    path = tmp_path / f"a{suffix}"
    write_arrays(path, **arrays)
    splits = load(str(path))
    for name in ("train", "validation", "test"):
        assert torch.equal(splits[name][:, 0], torch.from_numpy(arrays[name]) / 255)
    assert splits.train_labels.tolist() == list(range(30))
    assert splits.test_labels.tolist() == list(range(5))
    assert splits.validation_labels is None
    assert splits.likelihood == "fixed_gaussian"
    assert load(path, binarize=True).likelihood == "bernoulli"


def test_safetensors_in_half_precision(tmp_path):
    from safetensors.torch import save_file

    given = floats(20, 3).bfloat16()
    save_file({"train": given}, tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors").fingerprint() == from_arrays(given.float()).fingerprint()


def test_arrays_under_other_names(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=pixels(9))
    with pytest.raises(DataError, match=r"a\.npz must hold train, and no arrays but train, validation.*got x_train"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", train=pixels(9), val=pixels(9))
    with pytest.raises(DataError, match="got train, val; rename or remove arrays"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz")
    with pytest.raises(DataError, match="got no array"):
        load(tmp_path / "a.npz")


class Trap:
    """Sets a mark when it is unpickled."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_nothing_is_unpickled(tmp_path, suffix):
    trapped = np.array([Trap()], dtype=object)
    objects, pickled = tmp_path / f"objects{suffix}", tmp_path / f"pickle{suffix}"
    np.save(objects, trapped) if suffix == ".npy" else np.savez(objects, train=trapped)
    pickled.write_bytes(pickle.dumps(trapped))
    for path in (objects, pickled):
        with pytest.raises(DataError, match=f"{path.name} must be a readable {suffix} file of plain numbers") as error:
            load(path)
        assert_one_line(error)
    assert not Trap.sprung
    pickle.loads(pickled.read_bytes())
    assert Trap.sprung  # the trap works
    Trap.sprung = False


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 0.5])
def test_truncated_files_of_arrays(tmp_path, suffix, keep):
    path = tmp_path / f"a{suffix}"
    write_arrays(path, train=np.random.default_rng(0).normal(size=(30, 40)))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=rf"a{suffix} must be a readable {suffix} file.*save it again") as error:
        load(path)
    assert_one_line(error)


def test_npz_with_a_flipped_byte(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, train=np.random.default_rng(0).normal(size=(30, 40)))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.npz must be a readable \.npz file"):
        load(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_missing_and_unreadable_files_of_arrays(tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match=f"none{suffix} must be a file of arrays"):
        load(tmp_path / f"none{suffix}")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    with pytest.raises(MissingDataError, match=f"folder{suffix} must be a folder with train-images.*or with images"):
        load(folder)


def test_refused_npy(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((9, 2)))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # chmod would not stop root
    with pytest.raises(DataError, match=r"a\.npy must be a readable .npy file.*Permission denied"):
        load(path)
