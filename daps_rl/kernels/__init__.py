"""Compiled passes for policies that train on a CPU. They need a C++ compiler, on the machine that uses them."""

from __future__ import annotations

import warnings

from torch import nn

from daps_rl.kernels.build import KernelsUnavailable, load

__all__ = ["KernelsUnavailable", "load", "use_cpu_kernels"]


def use_cpu_kernels(module: nn.Module) -> list[str]:
    """Has those parts of a module that can take their passes through compiled kernels, on a CPU and in float32.

    They give what they gave before, up to rounding; drawing with the same seed gives the same codes. Which parts can
    is for them to say: those with a method `use_cpu_kernels`, such as the transformer of an `AutoregressivePolicy`,
    which refuses where it has a mask or an unknown head. Where nothing can, a warning says why and all stays as it was.

    Returns:
        names of the parts that do; "" is the module itself.
    """
    found, reasons = [], []
    for name, part in module.named_modules():
        if not hasattr(part, "use_cpu_kernels"):
            continue
        try:
            part.use_cpu_kernels()
            found.append(name)
        except (KernelsUnavailable, ValueError) as error:
            reasons.append(str(error))
    if not found:
        why = reasons[0] if reasons else f"{type(module).__name__} has no part that there are kernels for."
        warnings.warn(f"training goes on without CPU kernels: {why}", stacklevel=2)
    return found
