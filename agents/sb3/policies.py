"""Policies over codes for Stable-Baselines3: actor-critics whose discrete action is drawn token by token, or at once.

Any of SB3's on-policy algorithms takes them: `PPO(AutoregressivePolicy, env)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from daps_rl import policies
from daps_rl.agents.sb3.distributions import CodeDistribution, token_sizes
from daps_rl.agents.sb3.observations import VectorEncoder, most_patches
from daps_rl.agents.sb3.optim import share_rate

NetworkFactory = Callable[[tuple[int, ...], int, int], nn.Module]
"""(observation_shape, num_tokens, vocab_size) → a module: observations [N, *observation_shape] → a distribution over
codes of batch shape [N] and event shape [T], with `sample`, `log_prob`, `mode` and `entropy`."""


class CodePolicy(ActorCriticPolicy):
    """An actor-critic around any policy network of this project, or of your own.

    The action is a code: MultiDiscrete has a token per entry, Discrete is one token, MultiBinary tokens of two. The
    log-probability is that of the whole action, the same number when it is drawn and when it is scored.

    A Box observation of one to three axes goes to the network in its own shape, after SB3's preprocessing (uint8
    images are scaled and channels come first); any other, and any with a features extractor of the user's, as the
    vector that the features extractor makes of it. The critic is an MLP on the features extractor's vector.

    Args:
        observation_space, action_space, lr_schedule: as SB3 passes them.
        network: see `NetworkFactory`; a function, so that SB3's zip holds its name and not a network.
        exact_entropy: the network's distribution has its entropy in closed form, or is an `AutoregressiveCategorical`.
            Else SB3's `ent_coef` must be 0: add the entropy to the reward instead (`KLRewardCallback`).
        net_arch: widths of the critic's hidden layers, a list or dict(vf=[...]); [64, 64] if None.
        use_sde: SB3 passes it; must be False.
        features_extractor_class: None for SB3's own choice (flatten, or combine a Dict).
        options: of SB3's `ActorCriticPolicy`; `activation_fn` and `ortho_init` are the critic's.
    Raises:
        ValueError: the action space is not discrete, or an option makes no sense here.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        network: NetworkFactory | None = None,
        exact_entropy: bool = False,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        use_sde: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        **options: Any,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde must be False: state-dependent noise is for continuous actions.")
        # Read by `_build`, which the base class calls.
        self.token_sizes = token_sizes(action_space)
        self.network_factory, self.exact_entropy = network, exact_entropy
        self.own_extractor = features_extractor_class
        flat = CombinedExtractor if isinstance(observation_space, spaces.Dict) else FlattenExtractor
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch={"pi": [], "vf": _critic_widths(net_arch)},
            features_extractor_class=features_extractor_class or flat,
            **options,
        )

    def make_network(self, observation_shape: tuple[int, ...]) -> nn.Module:
        """The actor's network. Override it, or pass `network`, which knows nothing of tokens that differ in size."""
        if self.network_factory is None:
            raise ValueError("CodePolicy needs policy_kwargs=dict(network=...), a function that makes the network.")
        return self.network_factory(observation_shape, len(self.token_sizes), self.vocab_size())

    def vocab_size(self) -> int:
        """V, where all tokens have one size."""
        if len(set(self.token_sizes)) > 1:
            raise ValueError(
                f"the tokens of the action must have one size here, got {list(self.token_sizes)}; "
                "AutoregressivePolicy and SB3's own MlpPolicy take tokens of different sizes."
            )
        return self.token_sizes[0]

    def _build(self, lr_schedule: Schedule) -> None:
        space = self.observation_space
        self.network_reads_features = (
            self.own_extractor is not None or not isinstance(space, spaces.Box) or len(space.shape) not in (1, 2, 3)
        )
        self._build_mlp_extractor()
        self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1)
        if self.ortho_init:
            self.mlp_extractor.apply(lambda module: self.init_weights(module, gain=2**0.5))
            self.value_net.apply(lambda module: self.init_weights(module, gain=1.0))
        shape = (self.features_dim,) if self.network_reads_features else space.shape
        assert shape is not None  # a Box has a shape
        self.network = self.make_network(tuple(shape))
        rate: dict[str, Any] = {"lr": lr_schedule(1)}
        self.optimizer = self.optimizer_class(self.parameters(), **rate, **self.optimizer_kwargs)

    def posterior(self, obs: PyTorchObs) -> torch.distributions.Distribution:
        """The network's distribution over codes: batch shape [N], event shape [T]."""
        if self.network_reads_features:
            return self.network(self._features(obs, self.pi_features_extractor))
        return self.network(self._preprocessed(obs))

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions [N, *action_shape], values [N, 1] and log-probabilities [N]."""
        actions, log_prob = self.get_distribution(obs).draw(deterministic)
        return actions, self.predict_values(obs), log_prob

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values [N, 1], log-probabilities [N] and the entropy [N], see `CodeDistribution.evaluate`."""
        values = self.predict_values(obs)
        return values, *self.get_distribution(obs).evaluate(actions)

    def get_distribution(self, obs: PyTorchObs) -> CodeDistribution:
        """The policy at the observations."""
        shape = self.action_space.shape
        assert shape is not None  # the discrete spaces have one
        return CodeDistribution(self.posterior(obs), shape, exact_entropy=self.exact_entropy)

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """The critic's estimates. [N, 1]."""
        return self.value_net(self.mlp_extractor.forward_critic(self._features(obs, self.vf_features_extractor)))

    def sample_groups(self, contexts: PyTorchObs, samples: int) -> tuple[Tensor, Tensor]:
        """Draws K actions for each of B contexts [B, ...], which are encoded once.

        Gives actions [B·K, *action_shape], a context's side by side, and their log-probabilities [B·K].
        """
        codes, log_prob = policies.draw(self.posterior(contexts), (samples,))  # [K, B, T], [K, B]
        return codes.transpose(0, 1).reshape(-1, *self.action_space.shape), log_prob.t().flatten()  # type: ignore[misc]  # the shape is known

    def score_groups(self, contexts: PyTorchObs, actions: Tensor) -> Tensor:
        """Log-probabilities [B, K] of actions [B, K, ...] of contexts [B, ...], each of which is encoded once."""
        codes = actions.long().reshape(*actions.shape[:2], -1).transpose(0, 1)  # [K, B, T]
        return self.posterior(contexts).log_prob(codes).t()

    def _preprocessed(self, obs: PyTorchObs) -> Tensor:
        """Observations as SB3 preprocesses them, of a space other than Dict, in the parameters' precision. [N, ...]."""
        preprocessed = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        assert isinstance(preprocessed, Tensor)  # only a Dict gives a dict
        return preprocessed.to(self.value_net.weight.dtype)

    def _features(self, obs: PyTorchObs, extractor: BaseFeaturesExtractor) -> Tensor:
        """A features extractor's vector, in the parameters' precision. [N, features_dim]."""
        return BasePolicy.extract_features(self, obs, extractor).to(self.value_net.weight.dtype)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "squash_output": False,  # for SB3 None without state-dependent noise
            "network": self.network_factory,
            "exact_entropy": self.exact_entropy,
            "features_extractor_class": self.own_extractor,
            "share_features_extractor": self.share_features_extractor,
        }


class _SizedPolicy(CodePolicy):
    """A CodePolicy around a network of this project, given by sizes; those not given are the network's own defaults."""

    network_class: ClassVar[type[policies.AutoregressivePolicy] | type[policies.FactorizedPolicy]]

    def __init__(self, *args: Any, **options: Any) -> None:
        if "network" in options:
            raise ValueError(f"{type(self).__name__} makes its own network; pass yours to CodePolicy.")
        known = inspect.signature(CodePolicy).parameters.keys() | inspect.signature(ActorCriticPolicy).parameters.keys()
        of_network = {name: options.pop(name) for name in options.keys() - known}
        self.sizes = {name: value for name, value in of_network.items() if value is not None}
        super().__init__(*args, exact_entropy=True, **options)

    def make_network(self, observation_shape: tuple[int, ...]) -> nn.Module:
        """The transformer, with tokens of different sizes where the action has them."""
        num_tokens, vocab_size = len(self.token_sizes), self.vocab_size()
        options = {**self.reading(observation_shape), **self.sizes}
        if any(size != vocab_size for size in self.token_sizes):
            options["token_sizes"] = self.token_sizes
        return self.network_class(observation_shape, num_tokens, vocab_size, **options)

    def reading(self, observation_shape: tuple[int, ...]) -> dict[str, Any]:
        """How the network reads an observation: its options, where the user's do not say."""
        return {"num_patches": most_patches(observation_shape, len(self.token_sizes))}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        del data["network"], data["exact_entropy"]
        return {**data, **self.sizes}


class AutoregressivePolicy(_SizedPolicy):
    """An actor-critic that draws a MultiDiscrete action token by token, each given those before it.

    π(a|s) = Π_t π(a_t | a_<t, s): a transformer encodes the observation, a causal transformer writes the action. SB3's
    own policies draw the entries of an action independently of each other, and cannot agree on one of two good actions
    that differ in two entries. Stands on its own with `PPO(AutoregressivePolicy, env)` and `A2C(AutoregressivePolicy,
    env)`; entries may differ in size; Discrete (one token) and MultiBinary work too.

    PPO's defaults are made for an MLP. So a vector is read whole, by an MLP (`VectorEncoder`), all actions are about
    alike to begin with, the actor's learning rate is a share of SB3's, and the optimiser is Adamax: a rare gradient,
    such as that of a wrong action among right ones, moves no weight further than the learning rate, where Adam would
    go thirty times as far.

    The entropy of SB3's `ent_coef` is that of each token given those before it, see `CodeDistribution.evaluate`.

    Args:
        observation_space, action_space, lr_schedule: as SB3 passes them.
        num_patches: pieces that the observation is cut into. Where it is not given, a vector is not cut, and others are
            into as many as tokens, or as they have.
        actor_share: the actor's learning rate, as a share of SB3's.
        mask: a `daps_rl.policies.CodeMask`, which reads the observation itself, also beside a features extractor.
        options: of `CodePolicy`: net_arch (the critic's), optimizer_class, features_extractor_class ...; any other is
            of `daps_rl.policies.AutoregressivePolicy`, such as embed_dim, whose default stands where it is None.
    Raises:
        ValueError: the action space is not discrete, a size is out of range, or a mask has a Dict to read.
    """

    network_class = policies.AutoregressivePolicy

    def __init__(self, *args: Any, actor_share: float = 0.5, **options: Any) -> None:
        self.actor_share = actor_share  # read by `_build`
        super().__init__(*args, **{"optimizer_class": torch.optim.Adamax, **options})

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        share_rate(self.optimizer, self.network.parameters(), self.actor_share)

    def reading(self, observation_shape: tuple[int, ...]) -> dict[str, Any]:
        """How the network reads an observation: its options, where the user's do not say."""
        if len(observation_shape) > 1 or {"num_patches", "encoder", "pointer"} & self.sizes.keys():
            return super().reading(observation_shape)
        num_tokens, known = len(self.token_sizes), inspect.signature(self.network_class).parameters
        dim = self.sizes.get("embed_dim", known["embed_dim"].default)
        return {"encoder": VectorEncoder(observation_shape[0], num_tokens, dim), "num_patches": num_tokens}

    def make_network(self, observation_shape: tuple[int, ...]) -> nn.Module:
        """The transformer; see `CodePolicy.make_network`."""
        if "mask" in self.sizes and isinstance(self.observation_space, spaces.Dict):
            raise ValueError("mask needs one array to read, got Dict observations; wrap the env in FlattenObservation.")
        network = cast(policies.AutoregressivePolicy, super().make_network(observation_shape))
        if isinstance(network.encoder, VectorEncoder):  # which tells positions apart, and should not be drowned
            network.transformer.positions.mul_(0.3)
        if not {"head", "pointer"} & self.sizes.keys():
            self.init_weights(network.transformer.head, gain=0.01)  # all tokens alike, as SB3's own policies begin
        return network

    def posterior(self, obs: PyTorchObs) -> torch.distributions.Distribution:
        """The transformer's distribution over codes: batch shape [N], event shape [T]."""
        posterior = cast(policies.AutoregressiveCategorical, super().posterior(obs))
        if "mask" in self.sizes and self.network_reads_features:  # which are no observation
            posterior.context = posterior.context._replace(observation=self._preprocessed(obs))
        return posterior

    def vocab_size(self) -> int:
        """V, the largest of the tokens' sizes."""
        return max(2, *self.token_sizes)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "actor_share": self.actor_share}


class FactorizedPolicy(_SizedPolicy):
    """An actor-critic that draws all tokens of an action at once, independently given the observation (DAPS-NA).

    A transformer, where SB3's MlpPolicy is an MLP. The entropy is exact. The tokens have one size.

    Args:
        observation_space, action_space, lr_schedule, num_patches, options: see `AutoregressivePolicy`; the network is
            `daps_rl.policies.FactorizedPolicy`.
    Raises:
        ValueError: the action space is not discrete, or a size is out of range.
    """

    network_class = policies.FactorizedPolicy


def _critic_widths(net_arch: Sequence[int] | dict[str, list[int]] | None) -> list[int]:
    if net_arch is None:
        return [64, 64]
    if not isinstance(net_arch, dict):
        return list(net_arch)
    if net_arch.get("pi"):
        raise ValueError(
            f"net_arch is the critic's here, got pi={net_arch['pi']}; the actor is the network: pass its sizes, "
            "policy_kwargs=dict(embed_dim=..., num_layers=...)."
        )
    return list(net_arch.get("vf", []))
