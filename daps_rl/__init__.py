"""daps-rl: train discrete latent codes by policy search, through the RL libraries you already use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daps_rl.autoencoder import DiscreteAutoencoder

__version__ = "0.1.0"
__all__ = ["DiscreteAutoencoder", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports torch only when it is needed: `import daps_rl` alone stays light."""
    if name == "DiscreteAutoencoder":
        from daps_rl.autoencoder import DiscreteAutoencoder

        return DiscreteAutoencoder
    raise AttributeError(f"module 'daps_rl' has no attribute {name!r}")
