"""Data without any meaning, of any shape: to see that settings fit together, and to time them."""

import torch

from daps_rl.data.splits import Splits


def noise(count: int, shape: tuple[int, ...], likelihood: str, *, seed: int = 0) -> Splits:
    """Fair bits for a Bernoulli likelihood, uniform greys for one of fixed variance, else standard normal values.

    Args:
        count: N, data in each of the three splits, which are one.
        shape: of a datum.
        likelihood: see `Splits`.
        seed: of the values.
    """
    generator = torch.Generator().manual_seed(seed)
    if likelihood == "gaussian":
        data = torch.randn(count, *shape, generator=generator)
    else:
        data = torch.rand(count, *shape, generator=generator)
        data = data.round() if likelihood == "bernoulli" else data
    return Splits(
        name="noise",
        train=data,
        validation=data,
        test=data,
        likelihood=likelihood,
        value_range=(data.min().item(), data.max().item()),
    )
