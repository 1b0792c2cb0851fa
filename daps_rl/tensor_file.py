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

VERSIONS = {"checkpoint": 2, "model": 2}


def save_tensors(path: Path, kind: str, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Writes a file of a kind of `VERSIONS` atomically, with whatever JSON can hold beside the tensors.

    Raises:
        OSError: the disk is full or not writable; the previous file is left whole.
    """
    from safetensors.torch import save

    own = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}  # tied ones apart
    text = to_json(info)
    write_atomically(path, save(own, {"format": _format(kind), "info": text, "digest": _digest(own, text)}))


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote: the tensors, on the CPU, and the info. Nothing is unpickled.

    Raises:
        ValueError: the file is damaged, larger than memory, or not of that kind and of this version of daps-rl.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            raise ValueError("no such file")
        if path.stat().st_size > memory_size():
            raise ValueError("it is larger than this machine's memory")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or no {kind} ({one_line(error)}); restore a copy, or delete it and train anew."
        ) from error
    found, text = metadata.get("format", ""), metadata.get("info", "")
    if found != _format(kind):
        wrote = "another version" if found.startswith(_format(kind)[:-2]) else "an earlier version or another program"
        raise ValueError(
            f"{path} is not a {kind} of this version of daps-rl: {wrote} wrote it ({found or 'no format'!r}, here "
            f"{_format(kind)!r}); use that version, or train anew in another --out."
        )
    if metadata.get("digest") != _digest(tensors, text):
        raise ValueError(f"{path} is damaged (its digest does not match); restore a copy, or delete it and train anew.")
    try:
        return tensors, from_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore a copy, or delete it and train anew.") from error


def _format(kind: str) -> str:
    return f"daps-rl {kind} {VERSIONS[kind]}"


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
