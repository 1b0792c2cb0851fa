"""torch.compile for the passes of a policy that cost most; where it fails, they go on as they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Compiled:
    """A method of a module, compiled where a gradient is asked for.

    Training has one shape, for which the code is made; evaluation has many and is left alone. Should the compiled code
    fail where the method itself does not, it is given up with a warning.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        self.compiled: Callable[..., Any] | None = torch.compile(method, dynamic=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.compiled is None or not torch.is_grad_enabled():
            return self.method(*args, **kwargs)
        try:
            return self.compiled(*args, **kwargs)
        except Exception as error:  # whatever a compiler may raise
            result = self.method(*args, **kwargs)  # an error of the method's own is raised here
            self.compiled = None
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"torch.compile failed, and training goes on without it ({type(error).__name__}: {reason}); it needs a "
                "C++ compiler, g++ or clang++.",
                stacklevel=2,
            )
            return result


def compile_passes(module: nn.Module) -> list[str]:
    """Compiles, in place, the methods that a module and those inside it name in `compiled_methods`.

    Returns:
        what was compiled, as "name.method".
    """
    found = []
    for name, part in module.named_modules():
        for method in getattr(part, "compiled_methods", ()):
            setattr(part, method, Compiled(getattr(part, method)))
            found.append(f"{name}.{method}" if name else method)
    return found
