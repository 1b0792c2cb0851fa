"""Compiled passes for policies that train on a CPU. They need a C++ compiler, on the machine that uses them."""

from __future__ import annotations

import warnings

from torch import nn

from daps_rl.kernels.backend import CpuKernels, obstacle
from daps_rl.kernels.build import KernelsUnavailable, load
from daps_rl.policies.code_transformer import CodeTransformer

__all__ = ["CpuKernels", "KernelsUnavailable", "load", "use_cpu_kernels"]


def use_cpu_kernels(module: nn.Module) -> list[str]:
    """Makes compiled kernels the backend of the code transformers in a module, for passes on a CPU in float32.

    They give what PyTorch gives, up to rounding; drawing with the same seed gives the same codes. A transformer that
    they cannot take, as it has a mask or an unknown head, stays as it was. Where that holds of all, a warning says why.

    Returns:
        names of the transformers that have them now; "" is the module itself.
    """
    found, reasons = [], []
    for name, part in module.named_modules():
        if not isinstance(part, CodeTransformer):
            continue
        if reason := obstacle(part):
            reasons.append(f"there are no kernels for this {type(part).__name__}: {reason}.")
            continue
        try:
            part.backend = CpuKernels()
            found.append(name)
        except KernelsUnavailable as error:
            reasons.append(str(error))
    if not found:
        why = reasons[0] if reasons else f"{type(module).__name__} has no part that there are kernels for."
        warnings.warn(f"training goes on without CPU kernels: {why}", stacklevel=2)
    return found
