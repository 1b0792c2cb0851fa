"""A GPU that is not there: tensors that say they are on a device of their own, and are computed on the CPU.

What a GPU would refuse is refused: an operation on tensors of both devices, and reading such memory from the host. So
a run on it shows what was left on the wrong device, and has the numbers of the CPU's to be compared with.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "simgpu"
LIBRARY = torch.library.Library("aten", "IMPL")
DIRECT = ("empty_strided", "empty.memory_format", "copy_", "_copy_from")  # what PyTorch asks a device itself
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}  # from one device to the other
CPU_INDICES = {  # a GPU takes indices from the host
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.index_put.default,
    torch.ops.aten._index_put_impl_.default,
}


class OnDevice(torch.Tensor):
    """A tensor of the device; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> OnDevice:
        shape, strides = real.size(), real.stride()
        out = torch.Tensor._make_wrapper_subclass(
            cls, shape, strides=strides, storage_offset=real.storage_offset(), dtype=real.dtype, device=f"{NAME}:0"
        )
        out.held = real
        return out

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # a file holds numbers, and whoever reads it says where they go

    def __repr__(self) -> str:
        return f"OnDevice({self.held!r})"


class SimulatedGPU(TorchDispatchMode):
    """Within it tensors can be made on the device, and moved to it and back."""

    def __enter__(self) -> SimulatedGPU:
        register()
        torch.__future__.set_swap_module_params_on_conversion(True)  # parameters stay the same objects, as on a GPU
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.__future__.set_swap_module_params_on_conversion(False)
        super().__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(function, args, kwargs or {})


class _Module(_DummyBackendModule):
    """What stands at `torch.simgpu`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@functools.cache
def register() -> None:
    """Tells PyTorch of the device, once a process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    for name in DIRECT:
        LIBRARY.impl(name, functools.partial(_direct, name), "PrivateUse1")


def _direct(name: str, *args: Any, **kwargs: Any) -> Any:
    base, _, overload = name.partition(".")
    return dispatch(getattr(getattr(torch.ops.aten, base), overload or "default"), args, kwargs)


def dispatch(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Computes on the CPU what the device would, and refuses what it would refuse."""
    ours, host = [], []

    def look(value: Any) -> None:
        if isinstance(value, OnDevice):
            ours.append(value)
        elif isinstance(value, torch.Tensor) and value.dim() > 0:
            host.append(value)

    tree_map(look, (args, kwargs))
    if ours and host and function not in MOVES and function not in CPU_INDICES:
        raise RuntimeError(
            f"{function} got tensors on {NAME} {[list(t.shape) for t in ours]} and on the CPU "
            f"{[list(t.shape) for t in host]}; all have to be on one device."
        )
    to = kwargs.get("device")
    there = bool(ours) if to is None else torch.device(to).type == NAME
    if function is torch.ops.aten.copy_.default:
        there = isinstance(args[0], OnDevice)
    if to is not None and there:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    before = {id(t.held): t for t in ours}  # what is changed in place is the same tensor afterwards
    args, kwargs = tree_map_only(OnDevice, lambda t: t.held, (args, kwargs))
    out = function(*args, **kwargs)
    return (
        tree_map_only(torch.Tensor, lambda t: before[id(t)] if id(t) in before else OnDevice(t), out) if there else out
    )
