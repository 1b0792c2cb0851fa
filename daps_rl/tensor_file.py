"""Tensors and JSON in one safetensors file, with a digest over all of it: checkpoints and models."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daps_rl.data.errors import one_line
from daps_rl.device import memory_size
from daps_rl.files import from_json, to_json, write_atomically

FORMATS = {"checkpoint": "daps-rl checkpoint 2", "model": "daps-rl model 2", "counts": "daps-rl counts 1"}


def save_tensors(path: Path, kind: str, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Writes a file of a kind of `FORMATS` atomically, with whatever JSON can hold beside the tensors.

    Raises:
        OSError: the disk is full or not writable; the previous file is left whole.
    """
    from safetensors.torch import save

    own = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}  # tied ones apart
    text = to_json(info)
    write_atomically(path, save(own, {"format": FORMATS[kind], "info": text, "digest": tensors_digest(own, text)}))


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote: the tensors, on the CPU, and the info. Nothing is unpickled.

    Raises:
        ValueError: the file is damaged, larger than memory, or not of that kind and of this version of daps-rl.
    """
    from safetensors import SafetensorError

    try:
        return _read(path, FORMATS[kind])
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or no {kind} of this version of daps-rl ({one_line(error)}); restore a copy, use the "
            "version that wrote it, or delete it and train anew."
        ) from error


def _read(path: Path, form: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import safe_open

    if not path.is_file():
        raise ValueError("no such file")
    if path.stat().st_size > memory_size():
        raise ValueError("it is larger than this machine's memory")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != form:
            raise ValueError(f"its format is {metadata.get('format')!r}, here {form!r}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    text = metadata.get("info", "")
    if metadata.get("digest") != tensors_digest(tensors, text):
        raise ValueError("its digest does not match")
    return tensors, from_json(text)


def tensors_digest(tensors: dict[str, Tensor], text: str) -> str:
    """Returns the SHA-256 digest of tensors on the CPU, with their names, types and shapes, and of a text."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
