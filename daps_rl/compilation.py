"""torch.compile for the passes of a policy that cost most; where it fails, they go on as they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Compiled:
    """A method of a module, compiled where a gradient is asked for.

    Training has one shape, for which the code is made; evaluation has many and is left alone. Should the compiler fail
    where the method itself does not, it is given up with a warning. A copy of the module compiles its own.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        self.compiled: Callable[..., Any] | None = None  # made at the first call
        self.given_up = False

    def __getstate__(self) -> dict[str, Any]:
        return {"method": self.method, "compiled": None, "given_up": self.given_up}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.given_up or not torch.is_grad_enabled():
            return self.method(*args, **kwargs)
        # Only the first call is guarded: once it works, what is raised is the method's, or a checkpoint's signal.
        return self._first(*args, **kwargs) if self.compiled is None else self.compiled(*args, **kwargs)

    def _first(self, *args: Any, **kwargs: Any) -> Any:
        try:
            compiled = torch.compile(self.method, dynamic=False)
            result = compiled(*args, **kwargs)
        except Exception as error:  # whatever a compiler may raise
            result = self.method(*args, **kwargs)  # an error of the method's own is raised here
            self.given_up = True
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"torch.compile failed, and training goes on without it ({type(error).__name__}: {reason}); it needs a "
                "C++ compiler, g++ or clang++.",
                stacklevel=3,
            )
        else:
            self.compiled = compiled
        return result


def compile_passes(module: nn.Module) -> list[str]:
    """Compiles, in place and for good, the methods that a module and those inside it name in `compiled_methods`.

    Returns:
        what is compiled, as "name.method".
    """
    found = []
    for name, part in module.named_modules():
        for method in getattr(part, "compiled_methods", ()):
            if not isinstance(getattr(part, method), Compiled):
                setattr(part, method, Compiled(getattr(part, method)))
            found.append(f"{name}.{method}" if name else method)
    if not found:
        warnings.warn(
            f"{type(module).__name__} names no method to compile, and compile=True does nothing; name some in "
            "`compiled_methods`.",
            stacklevel=2,
        )
    return found
