"""The transformer's parts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from daps_rl.policies.layers import FEW_KEYS, attention


@pytest.mark.parametrize("keys", [1, 5, FEW_KEYS, FEW_KEYS + 1])
@pytest.mark.parametrize("form", ["causal", "causal, more queries", "one query", "several"])
def test_attention_is_pytorchs(keys, form):
    """With few keys on a CPU it is calculated in another way: the same values and gradients, in float64."""
    generator = torch.Generator().manual_seed(0)
    length = {"causal": keys, "causal, more queries": keys + 2, "one query": 1, "several": 7}[form]
    query = torch.randn(3, length, 4, 8, generator=generator, dtype=torch.float64).transpose(1, 2)
    key, value = torch.randn(2, 3, keys, 4, 8, generator=generator, dtype=torch.float64).transpose(2, 3)
    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    causal = form.startswith("causal")
    mixed = attention(*leaves, causal=causal)
    reference = F.scaled_dot_product_attention(*leaves, is_causal=causal)
    assert mixed.shape == reference.shape
    torch.testing.assert_close(mixed, reference)
    weight = torch.randn(mixed.shape, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad((mixed * weight).sum(), leaves)
    expected = torch.autograd.grad((reference * weight).sum(), leaves)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("autocast", [False, True])
def test_attention_in_bfloat16_has_its_softmax_in_float32(autocast):
    """As PyTorch's kernel has it; scores in bfloat16 would be rounded."""
    parts = torch.randn(3, 2, 4, 8, 16, generator=torch.Generator().manual_seed(0)) * 3.0
    query, key, value = parts if autocast else parts.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mixed = attention(query, key, value, causal=True)
    exact = F.scaled_dot_product_attention(*torch.stack((query, key, value)).double(), is_causal=True)
    assert (mixed.double() - exact).square().mean().sqrt() < 5e-3  # with scores in bfloat16: 6.4e-3
