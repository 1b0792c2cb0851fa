"""The compiled kernels as a `CodeTransformer`'s backend: drawing, scoring, and the gradient of scores."""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from daps_rl.kernels.build import KernelsUnavailable, load
from daps_rl.linear import Linear
from daps_rl.policies.code_transformer import CodeTransformer, Context
from daps_rl.policies.lattice import LatticeHead
from daps_rl.policies.layers import CrossAttention, DecoderBlock, FeedForward, PointerHead, SelfAttention

LINEAR = (nn.Linear, Linear)
HEADS = (*LINEAR, LatticeHead)
EPSILON = 1e-5  # of a norm


class CpuKernels:
    """A `Backend` whose passes on a CPU in float32 are compiled; raises `KernelsUnavailable` where they cannot be."""

    def __init__(self) -> None:
        load()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, ()

    def supports(self, net: CodeTransformer, context: Context) -> bool:
        """Whether all is in float32 on a CPU, the transformer has no obstacle, and no transform of PyTorch's is on."""
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return False
        keys = context.keys_values[0][0]
        if keys.dtype != torch.float32 or keys.device.type != "cpu" or net.start.device.type != "cpu":
            return False
        transformed = torch._C._functorch.peek_interpreter_stack() is not None  # by torch.func
        return not transformed and obstacle(net) is None

    def draw(self, net: CodeTransformer, context: Context, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Backend`."""
        weights, gaussian = _weights(net)
        keys_values, aligned = _inputs(net, context)
        return torch.ops.daps_rl.draw(weights, keys_values, aligned, uniform, gaussian)

    def log_prob(self, net: CodeTransformer, context: Context, codes: Tensor, known: Tensor | None) -> Tensor:
        """See `Backend`."""
        weights, gaussian = _weights(net)
        keys_values, aligned = _inputs(net, context)
        inputs = (gaussian, len(keys_values), aligned, *keys_values, *weights)
        return _LogProb.apply(codes.contiguous(), known, *inputs)


def _restore() -> CpuKernels | None:
    """What a copy or a pickle has for a backend: none where it is unpickled without a compiler."""
    try:
        return CpuKernels()
    except KernelsUnavailable as error:
        warnings.warn(f"the policy goes on without CPU kernels: {error}", stacklevel=2)
        return None


def obstacle(net: CodeTransformer) -> str | None:
    """Why the kernels cannot take this transformer as it is now; None where they can."""
    if type(net) is not CodeTransformer:
        return "it is a class of its own"
    if net.mask is not None:
        return "it has a mask"
    if net.allowed is not None:
        return "its positions take different numbers of tokens"
    if isinstance(net.head, PointerHead) or type(net.embed) is not nn.Embedding:
        return "its tokens are items of the context"
    if type(net.head) not in HEADS:
        return f"its head is a {type(net.head).__name__}"
    if net.positions.requires_grad:
        return "its positions are learned"
    if not all(_is_plain(block) for block in net.blocks):
        return "its blocks are not all as they were built"
    layers = _layers(net)
    if any(type(layer) not in (*LINEAR, nn.LayerNorm) or layer.bias is None for layer in layers):
        return "not all of its layers are plain ones with a bias"
    if any(isinstance(layer, nn.LayerNorm) and layer.eps != EPSILON for layer in layers):
        return f"not all of its norms have an epsilon of {EPSILON}"
    parts = [net.embed, *net.blocks.modules(), net.norm, *net.head.modules()]
    if any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in parts):
        return "it has hooks"
    weights = [net.start, *net.embed.parameters(), *net.head.parameters(), *(layer.weight for layer in layers)]
    dtypes = {tensor.dtype for tensor in weights}
    if dtypes != {torch.float32}:
        return f"its weights are {', '.join(sorted(map(str, dtypes)))}, not torch.float32"
    return None


def _is_plain(block: nn.Module) -> bool:
    if type(block) is not DecoderBlock:
        return False
    own, mlp = block.attention, block.mlp
    if [type(part) for part in (own, block.cross, mlp)] != [SelfAttention, CrossAttention, FeedForward]:
        return False
    return len(mlp) == 3 and type(mlp[1]) is nn.GELU and mlp[1].approximate == "none" and own.causal


class _LogProb(torch.autograd.Function):
    """Nothing but the inputs is kept: the backward pass computes the forward pass again."""

    @staticmethod
    def forward(
        ctx: Any, codes: Tensor, known: Tensor | None, gaussian: bool, split: int, aligned: Tensor | None, *rest: Tensor
    ) -> Tensor:
        ctx.save_for_backward(codes, aligned, *rest)
        ctx.gaussian, ctx.split = gaussian, split
        if known is not None:
            return known.clone()
        return torch.ops.daps_rl.log_prob(rest[split:], rest[:split], aligned, codes, gaussian)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, aligned, *rest = ctx.saved_tensors
        weights, keys_values = rest[ctx.split :], rest[: ctx.split]
        inputs = (weights, keys_values, aligned, codes, grad.contiguous(), ctx.gaussian)
        *grads, flat = torch.ops.daps_rl.log_prob_backward(*inputs)
        parts = flat.split([weight.numel() for weight in weights])
        of_weights = [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]
        of_aligned = None if aligned is None else grads.pop()
        return (None, None, None, None, of_aligned, *grads, *of_weights)


def _inputs(net: CodeTransformer, context: Context) -> tuple[list[Tensor], Tensor | None]:
    """Keys and values of every block, and what is added to the tokens' embeddings [B, 1, T, D]."""
    keys_values = [tensor.contiguous() for pair in context.keys_values for tensor in pair]
    if context.aligned is None:
        return keys_values, None
    shape = (len(keys_values[0]), 1, net.num_tokens, net.start.shape[-1])
    return keys_values, context.aligned[:, :, : net.num_tokens].expand(shape).contiguous()


def _layers(net: CodeTransformer) -> list[nn.LayerNorm | nn.Linear]:
    """The layers before the head, in the kernels' order."""
    layers: list[Any] = []
    for block in net.blocks:
        assert isinstance(block, DecoderBlock)
        up, _, down = block.mlp
        layers += [block.norm_attention, block.attention.qkv, block.attention.out]
        layers += [block.norm_cross, block.cross.query, block.cross.out, block.norm_mlp, up, down]
    return [*layers, net.norm]


def _weights(net: CodeTransformer) -> tuple[list[Tensor], bool]:
    """The weights in the kernels' order, and whether the head is a Gaussian on a lattice."""
    tensors = [net.start, cast(nn.Embedding, net.embed).weight, net.positions]
    tensors += [tensor for layer in _layers(net) for tensor in (layer.weight, layer.bias)]
    head, gaussian = net.head, False
    if isinstance(head, LatticeHead):
        mean, precision = head.mean, head.log_precision
        tensors += [torch.cat((mean.weight, precision.weight)), torch.cat((mean.bias, precision.bias))]
        tensors += [head.features, head.features.new_zeros(net.vocab_size)]
        gaussian = True
    else:
        assert isinstance(head, nn.Linear)
        tensors += [head.weight, head.weight.new_zeros(net.vocab_size) if head.bias is None else head.bias]
    return [tensor.contiguous() for tensor in tensors], gaussian
