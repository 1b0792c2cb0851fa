"""What routing problems have in common: places of the unit square, its symmetries, and a policy that points at them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daps_rl.config import ModelConfig
from daps_rl.envs.problem import DiscreteProblem, transformer_sizes
from daps_rl.linear import Linear
from daps_rl.policies import ItemEncoder


class Routing(DiscreteProblem):
    """A tour through places, whose coordinates are the first two columns of a context [places, F]."""

    recipe: ClassVar[dict[str, Any]] = {
        "embed_dim": 64, "num_layers": 3, "batch_size": 64, "samples": 20, "policy_samples": None,
        "beta_start": 0.01, "beta_end": 1e-4, "learning_rate": 2e-3, "minutes": 10.0,
    }  # fmt: skip

    def policy_options(self) -> dict[str, Any]:
        return {"glimpse": True}

    def views(self, contexts: Tensor, count: int) -> Sequence[Tensor]:
        """See `DiscreteProblem.views`: mirrored and turned, eight at most."""
        if count > 8:
            raise ValueError(f"a square has 8 symmetries, got augment:{count}; pass augment:8.")
        where = contexts[..., :2]
        places = [
            torch.where(torch.tensor(mirrored, device=where.device), 1.0 - turned, turned)
            for turned, *mirrored in itertools.product((where, where.flip(-1)), (False, True), (False, True))
        ]
        return [torch.cat((place, contexts[..., 2:]), dim=-1) for place in places[:count]]


class DepotRouting(Routing):
    """Tours that begin and end at a depot, which is place 0 of n + 1, and token 0."""

    def make_encoder(self, config: ModelConfig) -> nn.Module:
        embed = DepotEmbedding(self.item_features, config.embed_dim)
        return ItemEncoder(embed, **transformer_sizes(config))


class DepotEmbedding(nn.Module):
    """Embeds the first item otherwise than the others. [B, N, F] → [B, N, D]."""

    def __init__(self, features: int, embed_dim: int) -> None:
        super().__init__()
        self.depot, self.others = Linear(2, embed_dim), Linear(features, embed_dim)

    def forward(self, items: Tensor) -> Tensor:
        return torch.cat((self.depot(items[:, :1, :2]), self.others(items[:, 1:])), dim=1)


def length_of(places: Tensor) -> Tensor:
    """Length of closed tours through places [..., L, 2] in this order. [...]."""
    return (places - places.roll(-1, -2)).norm(dim=-1).sum(-1)


def places_of(contexts: Tensor, codes: Tensor) -> Tensor:
    """Coordinates of the places that codes [B, K, T] name, of contexts [B, 1, N, F]. [B, K, T, 2]."""
    return contexts[..., :2].take_along_dim(codes.unsqueeze(-1), 2)
