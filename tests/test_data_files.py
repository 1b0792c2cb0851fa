"""Files of arrays: every format read back, nothing unpickled."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import assert_one_line, floats, pixels, use_hub

from daps_rl.data import DataError, MissingDataError, from_arrays, load
from daps_rl.data.arrays import as_codes, as_observations
from daps_rl.data.plain import read_array


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
    with pytest.raises(FileNotFoundError, match=f"no such file: .*none{suffix} must be a readable {suffix} file"):
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
    with pytest.raises(
        DataError, match=r"a\.npy must be a readable .npy file.*Permission denied; check its permissions"
    ):
        load(path)


# whatever is given as a file: one line, nothing blocks, no memory before the sizes are checked


def npy_file(descr="<f8", shape="(9, 2)", body=b"", tail="}", version=1):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, {tail}".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2 if version == 1 else 4, "little") + header + body


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


BAD_FILES = {
    "an .npz": zipped(train=saved(np.zeros((9, 2)))),
    "nothing": b"",
    "text": b"1,2,3\n",
    "strings": saved(np.array([["a"], ["b"]])),
    "bytes": saved(np.array([[b"a"], [b"b"]])),
    "records": saved(np.zeros(9, [("x", "f4"), ("y", "f4")])),
    "objects": saved(np.array([[Trap()]], dtype=object)),
    "dates": saved(np.zeros((9, 2), "datetime64[s]")),
    "spans": saved(np.zeros((9, 2), "timedelta64[s]")),
    "complex": saved(np.zeros((9, 2), complex)),
    "a pickle": pickle.dumps(np.zeros((9, 2))),
    "terabytes": npy_file(shape=f"({10**12}, 2)"),
    "more than 64 bits": npy_file(shape=f"({10**30}, 2)"),
    "less than nothing": npy_file(shape="(-9, 2)", body=bytes(144)),
    "no shape": npy_file(shape="'x'"),
    "no header": npy_file(tail=""),
    "an open bracket": npy_file(descr="<f8", shape="(9, 2", tail=""),
    "deep brackets": npy_file(shape="(" * 3000),
    "version 2 cut": npy_file(version=2),
    "cut": saved(np.zeros((9, 2)))[:-1],
    "more": saved(np.zeros((9, 2))) + b"\x00",
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_files_that_are_no_array_of_numbers(tmp_path, what):
    path = tmp_path / "a.npy"
    path.write_bytes(BAD_FILES[what])
    for read in (read_array, load):
        tracemalloc.start()
        with pytest.raises(DataError, match=r"a\.npy must be a readable \.npy file of plain numbers, got: .+") as error:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()
        assert_one_line(error)
    assert not Trap.sprung


@pytest.mark.parametrize("what", ["strings", "objects", "terabytes", "text", "cut", "deep brackets"])
def test_npz_with_members_that_are_no_arrays_of_numbers(tmp_path, what):
    path = tmp_path / "a.npz"
    path.write_bytes(zipped(train=BAD_FILES[what]))
    with pytest.raises(DataError, match=r"a\.npz must be a readable \.npz file of plain numbers, got: .+") as error:
        load(path)
    assert_one_line(error)


def test_safetensors_that_promise_terabytes(tmp_path):
    stated = {"train": {"dtype": "F32", "shape": [10**12, 2], "data_offsets": [0, 8 * 10**12]}}
    header = json.dumps(stated).encode()
    for length in (len(header), 10**15):
        (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + header + bytes(99))
        with pytest.raises(DataError, match=r"must be a readable \.safetensors file .*, got: .*header") as error:
            load(tmp_path / "a.safetensors")
        assert_one_line(error)


@pytest.mark.parametrize("shape", [(), (9,), (0, 2), (9, 0)])
def test_arrays_without_data(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    assert read_array(tmp_path / "a.npy").shape == shape
    with pytest.raises(DataError, match=r"must have shape \[N, \.\.\.\] with at least one datum"):
        load(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"x must have shape \[N, \.\.\.\] with at least one datum"):
        as_observations(read_array(tmp_path / "a.npy"), (2,))


@pytest.mark.parametrize("what", ["pipe", "folder", "device", "loop", "nowhere", "below a file"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_what_is_no_plain_file_is_not_opened(tmp_path, suffix, what):
    path = tmp_path / f"a{suffix}"
    message, kind = "got a folder, pipe or device; pass the path of a file", DataError
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "loop":
        path.symlink_to(path)
        message = "got: .*symbolic links"
    else:
        message, kind = f"^no such file: .*a{suffix} must be", MissingDataError
        if what == "below a file":
            (tmp_path / "b").touch()
            path = tmp_path / "b" / path.name
    with pytest.raises(kind, match=message) as error:
        read_array(path)
    assert_one_line(error)
    if what != "folder":  # which may hold images
        with pytest.raises(kind, match=message):
            load(path)


def test_a_name_that_leads_back_to_itself_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    hub = use_hub(monkeypatch, {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").symlink_to("pictures")
    with pytest.raises(DataError, match="got 'pictures'"):
        load("pictures")
    assert not hub.asked


# what a model was trained on, it encodes


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).random(size=(30, 16, 1)),  # an axis is added
        np.random.default_rng(0).normal(size=(30, 2, 4, 4)).astype(np.float16),
        pixels(30),
        np.stack([pixels(30, seed=seed) for seed in range(3)], -1),  # channels last
        pixels(30) > 99,
        (pixels(30) > 99).astype(np.int32),
    ],
)
def test_what_train_takes_encode_takes(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    splits = load(tmp_path / "a.npy")
    given = as_observations(read_array(tmp_path / "a.npy"), splits.observation_shape)
    rows = {tuple(row) for row in given.flatten(1).tolist()}
    assert given.shape == (30, *splits.observation_shape)
    assert given.dtype == torch.float32
    for split in ("train", "validation", "test"):
        assert {tuple(row) for row in splits[split].flatten(1).tolist()} <= rows
    assert torch.equal(as_observations(given, splits.observation_shape), given)
    assert splits.given_shape == array.shape[1:]
    back = splits.kind.as_given(given) * (255 if array.dtype == np.uint8 else 1)
    np.testing.assert_allclose(back.numpy(), array, rtol=1e-6)


def test_data_of_another_kind_than_the_model_s():
    with pytest.raises(DataError, match=r"x\.npy must have shape \[N, 1, 5, 4\] as the model's data, got \[9, 4, 5\]"):
        as_observations(np.zeros((9, 4, 5), np.float32), (1, 5, 4), "x.npy")
    with pytest.raises(DataError, match="must be finite"):
        as_observations(np.full((9, 4), np.nan), (4,))


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_codes_of_any_integer_type(make):
    for dtype in ("int8", "int16", "int32", "int64", "uint8"):
        codes = as_codes(make(np.array([[0, 3, 2]], dtype)), 3, 4)
        assert codes.dtype == torch.int64
        assert codes.tolist() == [[0, 3, 2]]
    assert as_codes(make(np.zeros((0, 3), int)), 3, 4).shape == (0, 3)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.array([[0, 3, 4]]), r"integers \[\.\.\., 3\] in 0 … 3, got values 0 … 4"),
        (torch.tensor([[0, -1, 2]]), "got values -1 … 2"),
        (np.zeros((2, 3)), r"got float64 of shape \[2, 3\]"),
        (torch.zeros(2, 3, dtype=torch.bool), "got torch.bool"),
        (np.zeros((3, 2), int), r"got int64 of shape \[3, 2\]"),
        (np.zeros((), int), r"got int64 of shape \[\]"),
        (np.array([["a", "b", "c"]]), "must hold numbers, got dtype <U1"),
    ],
)
def test_codes_of_no_decoder(codes, message):
    with pytest.raises(DataError, match=message) as error:
        as_codes(codes, 3, 4)
    assert_one_line(error)


# tables that nobody has scaled


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_unscaled_tables_are_warned_of(scale):
    table = scale * floats(60, 3)
    with pytest.warns(UserWarning, match=r"toy: train has values of .* deviation of .*; standardise them") as warned:
        from_arrays(table, name="toy")
    assert len(warned) == 1
    named = float(str(warned[0].message).split("deviation of ")[1].split(",")[0])
    assert named == pytest.approx(from_arrays(table).train.std(0, correction=0).max().item(), rel=1e-3)


def test_scaled_tables_are_not(recwarn):
    from_arrays(floats(60, 3))
    from_arrays(torch.rand(60, 1, 4, 4))
    from_arrays(pixels(60))
    assert not recwarn.list
