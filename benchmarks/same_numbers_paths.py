"""The paths that `same_numbers.py` follows: each trains something small for 20 steps and returns what it has trained.

A path is one entry of `TRAINED` (the training loop, by its options) or one function under `@path(name)`. It calls what
a user would call, and nothing else. Its name stays when the calls in it change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import torch
from stable_baselines3 import A2C, PPO
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
from torchrl.envs import GymEnv
from torchrl.modules import MLP, OneHotCategorical, ValueOperator
from torchrl.objectives.value import GAE

from daps_rl.agents import AGENTS, DAPSTrainer
from daps_rl.agents.sb3 import DAPS, AutoregressivePolicy, DecoderCallback, FactorizedPolicy, KLRewardCallback
from daps_rl.bottleneck import PolicyBottleneck
from daps_rl.config import make_config
from daps_rl.data import Splits, from_arrays, load
from daps_rl.decoders import MLPDecoder
from daps_rl.envs import EncodingEnv, EncodingVecEnv, find_problem
from daps_rl.kernels import KernelsUnavailable
from daps_rl.kernels import load as load_kernels
from daps_rl.objectives import DAPSLoss, DecoderLoss, GroupActor
from daps_rl.policies import AutoregressivePolicy as CodePolicy
from daps_rl.policies import FactorizedPolicy as FactorizedCodePolicy
from daps_rl.training import Trainer

STEPS = 20
Trained = Iterable[nn.Module | nn.Parameter]
PATHS: dict[str, Callable[[], Trained]] = {}


class Unavailable(Exception):
    """The path cannot be followed on this machine."""


def path(name: str, **options: Any) -> Callable[[Callable[..., Trained]], Callable[..., Trained]]:
    """Registers a function as a path, called with the options. Several may stand over one function."""

    def register(function: Callable[..., Trained]) -> Callable[..., Trained]:
        if name in PATHS:
            raise ValueError(f"there are two paths of the name {name!r}; rename one.")
        PATHS[name] = partial(function, **options)
        return function

    return register


# The training loop, `daps-rl train`

TRAINED: dict[str, dict[str, Any]] = {
    **{name: {"agent": name} for name in (*AGENTS, "sb3:daps", "sb3:ppo", "sb3:a2c")},
    "daps, policy_samples=0": {"policy_samples": 0},
    "daps, policy_samples=2": {"policy_samples": 2},
    "daps, 2 epochs": {"policy_samples": 0, "agent_options": {"epochs": 2}},
    "daps, 2 epochs, policy_samples=3": {"policy_samples": 3, "agent_options": {"epochs": 2}},
    "daps, 2 epochs, not centered": {"policy_samples": 0, "centered": False, "agent_options": {"epochs": 2}},
    "daps, not centered": {"centered": False},
    "daps, kl": {"trust_region": "kl"},
    "daps, adaptive": {"trust_region": "adaptive"},
    "daps, pooling": {"agent_options": {"pooling": 4.0}},
    "daps, pooling, 2 epochs": {"agent_options": {"pooling": 4.0, "epochs": 2}},
    "daps, microbatch": {"microbatch": 5},
    "daps, microbatch, policy_samples=0, 2 epochs": {
        "microbatch": 5, "policy_samples": 0, "agent_options": {"epochs": 2},
    },
    "daps, decoder_samples=0": {"decoder_samples": 0},
    "daps, decoder_samples=0, microbatch": {"decoder_samples": 0, "microbatch": 5},
    "daps, free token vectors, gaussian": {"token_vectors": "separate", "likelihood": "gaussian"},
    "daps, resnet, clip by norm": {"decoder": "resnet", "decoder_norm": "batch", "gradient_clip": "norm"},
    "daps, strokes": {"decoder": "strokes", "num_tokens": 14},
    "daps, bfloat16": {"precision": "bfloat16", "score_precision": "bfloat16"},
    "tpo, policy_samples=3, 2 epochs": {"agent": "tpo", "policy_samples": 3, "agent_options": {"epochs": 2}},
    "rloo, policy_samples=3": {"agent": "rloo", "policy_samples": 3},
    "ppo, factorized": {"agent": "ppo", "policy": "factorized"},
    "sb3:daps, policy_samples=0": {"agent": "sb3:daps", "policy_samples": 0},
    "sb3:daps, 2 epochs": {"agent": "sb3:daps", "agent_options": {"n_epochs": 2}},
    "sb3:daps, 2 epochs, policy_samples=0": {
        "agent": "sb3:daps", "policy_samples": 0, "agent_options": {"n_epochs": 2},
    },
    "problem reverse8": {"problem": "reverse8"},
    "problem tsp20": {"problem": "tsp20"},
    "problem knapsack50": {"problem": "knapsack50"},  # with a mask
    "problem bandit-digits": {"problem": "bandit-digits"},  # rewards 0 and 1
    "problem bandit-digits, pooling": {"problem": "bandit-digits", "agent_options": {"pooling": 4.0}},
    "problem cut30, daps-na": {"problem": "cut30", "agent": "daps-na"},  # one instance
    "problem add4, ppo": {"problem": "add4", "agent": "ppo"},
    "problem reverse8, sb3:ppo": {"problem": "reverse8", "agent": "sb3:ppo"},
}  # fmt: skip


def train(splits: Splits | None = None, preset: str | None = None, **options: Any) -> Trained:
    """Trains by the training loop, on digits or a problem's contexts where no data are given."""
    small = {"steps": STEPS, "batch_size": 16, "seed": 0, "device": "cpu", "validate_every": 0}
    config = make_config(preset, **{**small, "score_precision": "float32", **options})
    if splits is None:
        splits = digits() if config.problem is None else find_problem(config.problem).splits()
    trainer = Trainer(config, splits)
    for _ in trainer.run():
        pass
    return trainer.autoencoder.policy, trainer.autoencoder.decoder, *trainer.agent.parameters()  # with a critic's


for _name, _options in TRAINED.items():
    PATHS[f"train/{_name}"] = partial(train, **_options)


@cache
def digits() -> Splits:
    """scikit-learn's digits."""
    return load("digits")


@path("train/config mnist")
@path("train/config mnist, daps-na", agent="daps-na")
def published(**options: Any) -> Trained:
    """The published settings, on 200 random binary images of MNIST's size."""
    images = torch.rand(200, 1, 28, 28, generator=torch.Generator().manual_seed(0)).round()
    return train(from_arrays(images, name="mnist"), "mnist", **options)


@path("train/daps, cpu_kernels")
@path("train/daps, cpu_kernels, policy_samples=0, microbatch", policy_samples=0, microbatch=5)
@path("train/ppo, cpu_kernels", agent="ppo")
def kernels(**options: Any) -> Trained:
    """Passes through compiled kernels; they are compiled first, where they are not yet."""
    try:
        load_kernels()
    except KernelsUnavailable as error:
        raise Unavailable(str(error)) from error
    return train(cpu_kernels=True, **options)


# Stable-Baselines3

B, K, T, V, D = 8, 6, 3, 5, 12
SMALL = {"embed_dim": 16, "num_heads": 2}


def binary_data() -> Tensor:
    """40 random binary vectors. [40, D]."""
    return torch.rand(40, D, generator=torch.Generator().manual_seed(1)).round()


def small_decoder() -> nn.Module:
    """For `binary_data`."""
    return MLPDecoder(T, V, (D,), embed_dim=8, hidden=(16,))


@path("sb3/daps, autoregressive")
@path("sb3/daps, factorized", policy=FactorizedPolicy)
@path("sb3/daps, mlp", policy="MlpPolicy")
@path("sb3/daps, not centered", centered=False)
@path("sb3/daps, pooling", pooling=4.0)
@path("sb3/daps, policy_samples", policy_samples=3)
@path("sb3/daps, mlp, policy_samples", policy="MlpPolicy", policy_samples=3)
@path("sb3/daps, minibatches", batch_size=4 * K)
@path("sb3/daps, 2 epochs", n_epochs=2)
@path("sb3/daps, mlp, 2 epochs", policy="MlpPolicy", n_epochs=2)
@path("sb3/daps, 2 epochs, not centered", n_epochs=2, centered=False)
@path("sb3/daps, 2 epochs, minibatches", n_epochs=2, batch_size=4 * K)
@path("sb3/daps, 2 epochs, minibatches, policy_samples", n_epochs=2, batch_size=4 * K, policy_samples=3)
@path("sb3/daps, 3 steps a rollout", n_steps=3, batch_size=4 * K)
@path("sb3/daps, adaptive", trust_region="adaptive")
def sb3_groups(policy: Any = AutoregressivePolicy, **options: Any) -> Trained:
    """Groups of K codes in one-step episodes, with the decoder beside them."""
    env = EncodingVecEnv(binary_data(), small_decoder(), num_contexts=B, samples_per_context=K, beta=0.1, seed=0)
    sizes = None if policy == "MlpPolicy" else dict(SMALL)
    model = DAPS(policy, env, policy_kwargs=sizes, seed=0, device="cpu", **options)
    model.learn(STEPS * B * K, callback=DecoderCallback(learning_rate=1e-3))
    return model.policy, env.task.decoder


@path("sb3/daps, schedule of beta")
def sb3_beta_schedule() -> Trained:
    """β by a schedule, and the environment descends the decoder's loss itself."""
    decoder = small_decoder()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3)
    env = EncodingVecEnv(
        binary_data(), decoder, num_contexts=B, samples_per_context=K, decoder_optimizer=optimizer, seed=0
    )
    model = DAPS(
        FactorizedPolicy, env, beta=lambda left: 0.01 + 0.1 * left, policy_kwargs=dict(SMALL), seed=0, device="cpu"
    )
    model.learn(STEPS * B * K)
    return model.policy, decoder


@path("sb3/daps, CartPole")
@path("sb3/daps, CartPole, kl, centered", trust_region="kl", centered=True, n_epochs=1)
@path("sb3/daps, CartPole, all at once", batch_size=0)
def sb3_whole_batch(**options: Any) -> Trained:
    """The whole rollout as one group, by its advantages."""
    settings = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu", **options}
    model = DAPS("MlpPolicy", "CartPole-v1", **settings)
    model.learn(STEPS * 64)
    return (model.policy,)


@path("sb3/ppo, mlp", algorithm=PPO, n_steps=2, batch_size=24, n_epochs=2)
@path("sb3/ppo, autoregressive", algorithm=PPO, policy=AutoregressivePolicy, n_steps=2, batch_size=24, n_epochs=2)
@path("sb3/a2c, factorized", algorithm=A2C, policy=FactorizedPolicy, n_steps=1)
def sb3_own(algorithm: Any, policy: Any = "MlpPolicy", **options: Any) -> Trained:
    """SB3's own algorithms, with the KL in their reward and the decoder beside them."""
    env = EncodingVecEnv(binary_data(), small_decoder(), num_contexts=B, samples_per_context=K, beta=0.1, seed=0)
    sizes = None if policy == "MlpPolicy" else dict(SMALL)
    model = algorithm(policy, env, policy_kwargs=sizes, gamma=0.0, seed=0, device="cpu", **options)
    model.learn(STEPS * B * K, callback=[KLRewardCallback(), DecoderCallback()])
    return model.policy, env.task.decoder


# TorchRL


def torchrl_parts(policy: type[nn.Module] = CodePolicy, beta: float = 0.1, **loss_options: Any) -> tuple[Any, ...]:
    """Environment, actor, and the losses of policy and decoder."""
    decoder = small_decoder()
    env = EncodingEnv(binary_data(), decoder, num_tokens=T, vocab_size=V, batch_size=[B, K], beta=beta, seed=0)
    actor = GroupActor(policy((D,), T, V, **SMALL))
    loss = DAPSLoss(actor, **{"temperature_floor": env.beta, "centered": False, **loss_options})
    return env, actor, loss, DecoderLoss(decoder)


@path("torchrl/daps")
@path("torchrl/daps, factorized", policy=FactorizedCodePolicy)
@path("torchrl/daps, not functional", functional=False)
@path("torchrl/daps, centered", centered=True)
@path("torchrl/daps, reuse, 2 epochs", centered=True, epochs=2)
@path("torchrl/daps, reuse, 2 epochs, policy_samples", centered=True, epochs=2, policy_samples=3)
@path("torchrl/daps, 2 epochs", epochs=2)
@path("torchrl/daps, policy_samples", policy_samples=3)
@path("torchrl/daps, pooling", centered=True, pooling=4.0)
@path("torchrl/daps, entropy_coeff", beta=0.0, entropy_coeff=0.1)
@path("torchrl/daps, adaptive", trust_region="adaptive")
def torchrl_loop(epochs: int = 1, **options: Any) -> Trained:
    """A loop of one's own: rollout, losses, step."""
    env, actor, loss, decoder_loss = torchrl_parts(**options)
    optimizer = torch.optim.AdamW([*loss.parameters(), *decoder_loss.parameters()], lr=2e-3)
    for _ in range(STEPS):
        batch = env.rollout(1, actor)
        for _ in range(epochs):
            optimizer.zero_grad()
            (loss(batch)["loss_actor"] + decoder_loss(batch)["loss_decoder"]).backward()
            optimizer.step()
    return actor, env.decoder


@path("torchrl/daps, sample_dim=2")
def torchrl_third_dimension() -> Trained:
    """Batches [W, B, K], as of a ParallelEnv."""
    actor = GroupActor(CodePolicy((D,), T, V, **SMALL), sample_dim=2)
    loss = DAPSLoss(actor, sample_dim=2, centered=True, policy_samples=3)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=2e-3)
    data = binary_data()[:8].view(2, 4, 1, D).expand(2, 4, K, D)
    for _ in range(STEPS):
        batch = actor(TensorDict({"observation": data}, batch_size=[2, 4, K]))
        batch["next", "reward"] = (batch["action"] == batch["observation"][..., :T]).float().mean(-1, keepdim=True)
        optimizer.zero_grad()
        loss(batch)["loss_actor"].backward()
        optimizer.step()
    return (actor,)


@path("torchrl/daps, sample_dim=None")
def torchrl_whole_batch() -> Trained:
    """CartPole: the whole batch as one group, by its advantages."""
    env = GymEnv("CartPole-v1")
    env.set_seed(0)
    logits = TensorDictModule(MLP(4, 2, num_cells=(16,)), ["observation"], ["logits"])
    draw = ProbabilisticTensorDictModule(
        ["logits"],
        ["action"],
        distribution_class=OneHotCategorical,
        return_log_prob=True,
        log_prob_key="action_log_prob",
        default_interaction_type="random",
    )
    actor, critic = ProbabilisticTensorDictSequential(logits, draw), ValueOperator(MLP(4, 1, num_cells=(16,)))
    advantages = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    loss = DAPSLoss(actor, sample_dim=None)
    optimizer = torch.optim.Adam([*loss.parameters(), *critic.parameters()], lr=1e-3)
    for _ in range(STEPS):
        with torch.no_grad():
            batch = advantages(env.rollout(32, actor, break_when_any_done=False))
        optimizer.zero_grad()
        values = critic(batch.select("observation"))["state_value"]
        (loss(batch)["loss_actor"] + (values - batch["value_target"]).square().mean()).backward()
        optimizer.step()
    return actor, critic


@path("torchrl/decoder, one code")
def torchrl_decoder() -> Trained:
    """The decoder by itself, from one of the K codes."""
    env, actor, _, _ = torchrl_parts()
    loss = DecoderLoss(env.decoder, decoder_samples=1)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=2e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(env.rollout(1, actor))["loss_decoder"].backward()
        optimizer.step()
    return actor, env.decoder


@path("torchrl/trainer")
@path("torchrl/trainer, 2 epochs", epochs=2, centered=True)
@path("torchrl/trainer, minibatches", minibatch=4)
@path("torchrl/trainer, minibatches, 2 epochs", minibatch=4, epochs=2, centered=True)
@path("torchrl/trainer, minibatches, pooling", minibatch=4, centered=True, pooling=4.0)
def torchrl_trainer(minibatch: int | None = None, epochs: int = 1, **options: Any) -> Trained:
    """`DAPSTrainer`, with a replay buffer of whole contexts where there are minibatches."""
    env, actor, loss, decoder_loss = torchrl_parts(**options)
    frames, buffer = B * K, None
    if minibatch is not None:
        buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(B), sampler=SamplerWithoutReplacement(), batch_size=minibatch
        )
    trainer = DAPSTrainer(
        collector=Collector(env, actor, frames_per_batch=frames, total_frames=-1),
        total_frames=STEPS * frames,
        loss_module=loss,
        decoder_loss=decoder_loss,
        optimizer=torch.optim.AdamW([*loss.parameters(), *decoder_loss.parameters()], lr=2e-3),
        beta_schedule=lambda progress: 0.2 - 0.1 * progress,
        replay_buffer=buffer,
        optim_steps_per_batch=None if buffer is not None else 1,
        num_epochs=epochs,
        progress_bar=False,
    )
    trainer.train()
    return actor, env.decoder


# The bottleneck


@path("bottleneck/factorized")
@path("bottleneck/factorized, centered, kl", centered=True, trust_region="kl")
@path("bottleneck/autoregressive", policy="autoregressive", num_tokens=4)
@path("bottleneck/autoregressive, centered", policy="autoregressive", num_tokens=4, centered=True)
def bottleneck(**options: Any) -> Trained:
    """Between an encoder and a decoder of two linear layers."""
    data, dim, tokens = binary_data(), 16, 4
    encoder = nn.Sequential(nn.Linear(D, tokens * dim), nn.Unflatten(1, (tokens, dim)))
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(tokens * dim, D))
    middle = PolicyBottleneck(dim, V, samples=K, beta=0.1, **{"centered": False, **options})
    model = nn.ModuleList([encoder, middle, decoder])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        z, _, policy_loss = middle(encoder(data))
        log_likelihood = -(decoder(z) - middle.repeat(data)).square().sum(-1)
        optimizer.zero_grad()
        (policy_loss(log_likelihood) - log_likelihood.mean()).backward()
        optimizer.step()
    return (model,)
