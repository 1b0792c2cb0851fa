"""Small models of daps_rl.agents.sb3.DAPS, in groups and without, for its tests."""

import torch
from sb3_envs import encoding_env
from stable_baselines3.common.env_util import make_vec_env

from daps_rl.agents.sb3 import DAPS, AutoregressivePolicy, FactorizedPolicy

SMALL = {"embed_dim": 16, "num_heads": 2}


def make_grouped(policy=AutoregressivePolicy, env=None, seed=0, **options):
    if env is None:
        env = encoding_env(seed=seed)
    if policy in (AutoregressivePolicy, FactorizedPolicy):
        options.setdefault("policy_kwargs", dict(SMALL))
    return DAPS(policy, env, seed=seed, device="cpu", **options)


def quick_env(env_id="CartPole-v1", n_envs=2, seed=0, **options):
    return make_vec_env(env_id, n_envs=n_envs, seed=seed, env_kwargs=options)


def make_whole(env=None, seed=0, **options):
    settings = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "device": "cpu", **options}
    return DAPS("MlpPolicy", env or quick_env(), seed=seed, **settings)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


def collected(model, steps=1):
    """The model after a rollout, before it has learnt from it."""
    kept = model.train
    model.train = lambda: None
    model.learn(steps, log_interval=1000)
    model.train = kept
    return model
