"""Checkpoints: one safetensors file that holds tensors, settings and counters, with a digest over all of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daps_rl.files import to_json, write_atomically

FAMILY = "daps-rl checkpoint"
FORMAT = f"{FAMILY} 2"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used."""


def save_checkpoint(path: str | Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Writes a checkpoint atomically, with whatever JSON can hold beside the tensors.

    Raises:
        OSError: the disk is full or not writable; the previous file is left whole.
    """
    from safetensors.torch import save

    own = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    text = to_json(info)
    write_atomically(path, save(own, {"format": FORMAT, "info": text, "digest": _digest(own, text)}))


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a checkpoint: its tensors, on the CPU, and its info. Nothing is unpickled.

    Raises:
        CheckpointError: the file is damaged, or is not a checkpoint of this version of daps-rl.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({' '.join(str(error).split())[:120]}); "
            "delete it to start the run anew, or restore a copy."
        ) from error
    if not metadata.get("format", "").startswith(FAMILY):
        raise CheckpointError(f"{path} is not a checkpoint of daps-rl; choose another --out.")
    if metadata["format"] != FORMAT:
        raise CheckpointError(
            f"{path} was written by another version of daps-rl ({metadata['format']!r}, here {FORMAT!r}); finish the "
            "run with that version, or start it anew with another --out."
        )
    if metadata.get("digest") != _digest(tensors, metadata.get("info", "")):
        raise CheckpointError(f"{path} is damaged (its digest does not match); delete it to start the run anew.")
    return tensors, json.loads(metadata["info"])


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
