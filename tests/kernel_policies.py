"""Policies for the tests of the compiled kernels."""

from __future__ import annotations

import copy

import torch
from torch import nn

from daps_rl.kernels import use_cpu_kernels
from daps_rl.policies import AutoregressivePolicy, LatticeEmbedding, LatticeHead

B, K, T, V, D = 5, 3, 4, 21, 24
HEADS = {
    "linear": lambda: None,
    "without a bias": lambda: nn.Linear(D, V, bias=False),
    "lattice": lambda: LatticeHead(D, LatticeEmbedding(V, 6)),
}


def make_policy(head: str = "linear", **options) -> AutoregressivePolicy:
    """With weights large enough that its codes are not all alike."""
    torch.manual_seed(0)
    sizes = {"embed_dim": D, "num_heads": 2, "num_layers": 2, "num_patches": 3}
    policy = AutoregressivePolicy((9,), T, V, **{**sizes, "head": HEADS[head](), **options})
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return policy


def pair(head: str = "linear", **options) -> tuple[AutoregressivePolicy, AutoregressivePolicy]:
    """A policy in float64 by PyTorch, and the same by kernels."""
    policy = make_policy(head, **options)
    twin = copy.deepcopy(policy).double()
    assert use_cpu_kernels(policy) == ["transformer"]
    return twin, policy


def gradients(policy: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    policy.zero_grad()
    loss.backward()
    return {name: p.grad.double() for name, p in policy.named_parameters() if p.grad is not None}
