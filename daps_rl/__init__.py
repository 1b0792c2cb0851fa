"""daps-rl: train discrete latent codes by policy search, through the RL libraries you already use."""

__version__ = "0.1.0"
