"""Black-box search without a context: DAPS as an estimation-of-distribution algorithm."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from daps_rl.data import SPLITS, Splits
from daps_rl.envs.problem import Constant, DiscreteProblem


class Search(DiscreteProblem):
    """One context, always the same: a policy that learns where a function of T tokens is large.

    The K codes of the one context, the number 1, are the population, and the trust region is over all of it. β, which
    decays, is the temperature of an annealing: the best policy is proportional to exp(R/β). It should begin where R/β
    tells little of a code and end where it tells all; the recipe's is for a token that adds or takes about 1/T. With
    one that is too low too early a search stays in the first basin it found.
    """

    recipe: ClassVar[dict[str, Any]] = {
        "embed_dim": 64, "num_layers": 1, "num_code_layers": 1, "num_patches": 1, "batch_size": 1, "samples": 256,
        "ess_fraction": 0.2, "beta_start": 0.06, "beta_end": 6e-3, "learning_rate": 4e-3, "steps": 500,
    }  # fmt: skip

    def splits(self) -> Splits:
        parts = dict.fromkeys(SPLITS, torch.ones(1, 1))
        return Splits(name=self.name, **parts, likelihood="gaussian", value_range=(0.0, 1.0))


class NKLandscape(Search):
    """Kauffman's NK model: n bits, each of which counts by itself and k others, at random.

    Action:
        n bits.
    Reward:
        the mean of n contributions in [0, 1), each a table's entry for a bit and its k successors (in a circle).
    Optimum:
        all 2^n, up to n = 22 (`python benchmarks/optima.py`).

    Args:
        size: n.
        neighbours: k; 0 makes the bits independent, n - 1 the landscape all noise. 4 if None, or what a small n allows.
        seed: of the tables.
    References:
        Kauffman, Weinberger (1989), The NK model of rugged fitness landscapes.
    """

    on_device = True

    def __init__(self, size: int = 20, *, neighbours: int | None = None, seed: int = 0) -> None:
        usual = max(0, min(4, size - 1))
        neighbours = usual if neighbours is None else neighbours
        if not 0 <= neighbours < size:
            raise ValueError(f"neighbours must lie in 0 … n-1 = {size - 1}, got {neighbours}.")
        other = "" if (neighbours, seed) == (usual, 0) else f"-k{neighbours}-seed{seed}"  # optima go by name
        self.name = f"nk{size}{other}"
        self.num_tokens, self.vocab_size = size, 2
        self.tables = Constant(torch.rand(size, 2 ** (neighbours + 1), generator=torch.Generator().manual_seed(seed)))
        around = torch.arange(size)[:, None] + torch.arange(neighbours + 1)
        self.around = Constant(around % size)  # [n, k + 1]
        self.powers = Constant(2 ** torch.arange(neighbours + 1))

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        around, powers, tables = (value.on(codes.device) for value in (self.around, self.powers, self.tables))
        entry = (codes[..., around] * powers).sum(-1)  # [B, K, n]
        return tables[torch.arange(self.num_tokens, device=codes.device), entry].mean(-1)


ENERGIES = {
    3: 1, 4: 2, 5: 2, 6: 7, 7: 3, 8: 8, 9: 12, 10: 13, 11: 5, 12: 10, 13: 6, 14: 19, 15: 15, 16: 24, 17: 32, 18: 25,
    19: 29, 20: 26, 21: 26, 22: 39, 23: 47, 24: 36, 25: 36, 26: 45, 27: 37, 28: 50, 29: 62, 30: 59, 31: 67, 32: 64,
}  # fmt: skip
"""Least energies of low-autocorrelation binary sequences (Mertens, 1996; Packebusch, Mertens, 2016)."""


class LABS(Search):
    """Low-autocorrelation binary sequences: n signs whose copies, shifted, have little in common with them.

    Action:
        n bits, the signs.
    Reward:
        Golay's merit factor, n² / (2E) with the energy E = Σ_k (Σ_i s_i·s_i+k)².
    Optimum:
        from the least energies known, proven for these n.

    Args:
        size: n, 3 … 32 where the optimum is to be known.
    """

    on_device = True
    # A merit factor is of the order of 5, and changes by as much.
    recipe: ClassVar[dict[str, Any]] = {**Search.recipe, "beta_start": 0.6, "beta_end": 0.06}

    def __init__(self, size: int = 20) -> None:
        if size < 3:
            raise ValueError(f"a sequence needs at least 3 signs, got {size}.")
        self.name = f"labs{size}"
        self.num_tokens, self.vocab_size = size, 2

    def reward(self, target: Tensor, codes: Tensor) -> Tensor:
        signs = 2.0 * codes - 1.0
        n = self.num_tokens
        shifted = [(signs[..., : n - k] * signs[..., k:]).sum(-1) for k in range(1, n)]
        energy = torch.stack(shifted, dim=-1).square().sum(-1)
        return n * n / (2.0 * energy)

    def optimum(self, split: str) -> Tensor | None:
        energy = ENERGIES.get(self.num_tokens)
        return None if energy is None else torch.tensor([self.num_tokens**2 / (2.0 * energy)], dtype=torch.float64)
