"""The linear layer of all networks here: PyTorch's, but where its products of matrices in float32 are slow.

On AMD's processors with AVX-512 the BLAS of PyTorch's usual build, MKL, takes no notice of AVX-512. oneDNN, which is in
that build as well, is twice as fast there, in the same precision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LEAST = 2**21  # multiplications, in the product of fewer of which calling oneDNN takes longer than it saves


@functools.cache
def onednn_pays() -> bool:
    """Whether oneDNN multiplies matrices in float32 faster here than the BLAS that PyTorch takes."""
    tell = getattr(torch.cpu, "get_capabilities", None)  # older PyTorch does not
    known = tell() if tell is not None else {}
    amd = "AMD" in str(known.get("cpu_name")) and bool(known.get("avx512_f"))
    libraries = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return amd and libraries and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·weightᵀ + bias, by oneDNN. x [N, I], weight [O, I], bias [O] → [N, O]."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """`product`, with the gradient by products of the same kind; it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        multiply = _multiply()
        return (
            multiply(grad, weight.t(), None) if of_x else None,
            multiply(grad.t(), x.t(), None) if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


def _multiply() -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """`product`, with a gradient where one is asked for."""
    return _Product.apply if torch.is_grad_enabled() else product


class Linear(nn.Linear):
    """`nn.Linear`, with the same weights and the same numbers up to rounding; through oneDNN where that pays."""

    def forward(self, x: Tensor) -> Tensor:
        if not self._suits(x):
            return super().forward(x)
        made = _multiply()(x.flatten(0, -2), self.weight, self.bias)
        return made.unflatten(0, x.shape[:-1])

    def _suits(self, x: Tensor) -> bool:
        """Whether oneDNN is there for this product, it is large enough, and no transform of PyTorch's is on."""
        return (
            x.ndim > 1
            and x.numel() * self.out_features >= LEAST
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and onednn_pays()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and torch._C._functorch.peek_interpreter_stack() is None  # of torch.func
        )
