"""A code transformer's passes by compiled kernels: drawing, scoring, and the gradient of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from daps_rl.kernels.build import load
from daps_rl.policies.items import PointerHead
from daps_rl.policies.lattice import LatticeHead
from daps_rl.policies.layers import DecoderBlock, EmbeddingHead

if TYPE_CHECKING:
    from daps_rl.policies.autoregressive import CodeTransformer, Context

HEADS = (nn.Linear, EmbeddingHead, LatticeHead)


def obstacle(net: CodeTransformer) -> str | None:
    """Why the kernels cannot take this transformer; None where they can."""
    if net.mask is not None or net.told is not None:
        return "it has a mask"
    if net.allowed is not None:
        return "its positions take different numbers of tokens"
    if isinstance(net.head, PointerHead) or type(net.embed) is not nn.Embedding:
        return "its tokens are items of the context"
    if type(net.head) not in HEADS:
        return f"its head is a {type(net.head).__name__}"
    if any(type(block) is not DecoderBlock for block in net.blocks):
        return "its blocks are not all of type DecoderBlock"
    if any(type(layer) not in (nn.Linear, nn.LayerNorm) or layer.bias is None for layer in _layers(net)):
        return "not all of its layers are plain ones with a bias"
    if net.start.dtype != torch.float32:
        return f"its weights are {net.start.dtype}, not float32"
    return None


def draw(net: CodeTransformer, context: Context, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draws a code by each row of numbers in [0, 1); the likeliest tokens with None. No gradient.

    Args:
        uniform: [B, K, T].
    Returns:
        codes [B, K, T], int64, with K = 1 for None; their log-probabilities [B, K], in nats.
    """
    load()
    weights, gaussian = _weights(net)
    keys_values, aligned = _inputs(context)
    drawn: tuple[Tensor, Tensor] = torch.ops.daps_rl.draw(weights, keys_values, aligned, uniform, gaussian)
    return drawn


def log_prob(net: CodeTransformer, context: Context, codes: Tensor, known: Tensor | None = None) -> Tensor:
    """log q(z|x), in nats, with gradient. Codes [B, K, T] → [B, K].

    Args:
        known: its value where that is known. [B, K].
    """
    load()
    weights, gaussian = _weights(net)
    keys_values, aligned = _inputs(context)
    split = len(keys_values)
    scored: Tensor = _LogProb.apply(codes.contiguous(), known, gaussian, split, aligned, *keys_values, *weights)
    return scored


class _LogProb(torch.autograd.Function):
    """Its way back goes forward once more: nothing is kept."""

    @staticmethod
    def forward(
        ctx: Any, codes: Tensor, known: Tensor | None, gaussian: bool, split: int, aligned: Tensor | None, *rest: Tensor
    ) -> Tensor:
        ctx.save_for_backward(codes, aligned, *rest)
        ctx.gaussian, ctx.split = gaussian, split
        if known is not None:
            return known.clone()
        scored: Tensor = torch.ops.daps_rl.log_prob(rest[split:], rest[:split], aligned, codes, gaussian)
        return scored

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, aligned, *rest = ctx.saved_tensors
        weights, keys_values = rest[ctx.split :], rest[: ctx.split]
        *grads, flat = torch.ops.daps_rl.log_prob_backward(
            weights, keys_values, aligned, codes, grad.contiguous(), ctx.gaussian
        )
        of_weights = [
            part.view(weight.shape)
            for part, weight in zip(flat.split([weight.numel() for weight in weights]), weights, strict=True)
        ]
        of_aligned = None if aligned is None else grads.pop()
        return (None, None, None, None, of_aligned, *grads, *of_weights)


def _inputs(context: Context) -> tuple[list[Tensor], Tensor | None]:
    aligned = None if context.aligned is None else context.aligned.contiguous()
    return [tensor.contiguous() for pair in context.keys_values for tensor in pair], aligned


def _layers(net: CodeTransformer) -> list[nn.LayerNorm | nn.Linear]:
    """All but the head's, in the kernels' order."""
    layers: list[Any] = []
    for block in net.blocks:
        assert isinstance(block, DecoderBlock)
        up, _, down = block.mlp
        layers += [block.norm_attention, block.attention.qkv, block.attention.out]
        layers += [block.norm_cross, block.cross.query, block.cross.out, block.norm_mlp, up, down]
    return [*layers, net.norm]


def _weights(net: CodeTransformer) -> tuple[list[Tensor], bool]:
    """In the kernels' order; and whether the head is a Gaussian on a lattice."""
    tensors = [net.start, cast(nn.Embedding, net.embed).weight, net.positions]
    tensors += [tensor for layer in _layers(net) for tensor in (layer.weight, layer.bias)]
    head = net.head
    if isinstance(head, LatticeHead):
        mean, precision = head.mean, head.log_precision
        tensors += [torch.cat((mean.weight, precision.weight)), torch.cat((mean.bias, precision.bias))]
        return [*tensors, head.features, head.features.new_zeros(net.vocab_size)], True
    if isinstance(head, EmbeddingHead):
        return [*tensors, *head.matrix()], False
    assert isinstance(head, nn.Linear)
    return [*tensors, head.weight, head.weight.new_zeros(net.vocab_size) if head.bias is None else head.bias], False
