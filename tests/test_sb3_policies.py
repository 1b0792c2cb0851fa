"""The policies of daps_rl.agents.sb3: one log-probability, every space, masks, and SB3's own PPO and A2C."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_envs import NVEC, GroupBandit, bandit_reward
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from daps_rl import policies
from daps_rl.agents.sb3 import DAPS, AutoregressivePolicy, CodePolicy, FactorizedPolicy, KLRewardCallback
from daps_rl.agents.sb3.observations import most_patches
from daps_rl.envs import EncodingVecEnv

SMALL = {"embed_dim": 16, "num_heads": 2}
BOX = spaces.Box(-1.0, 1.0, (8,), np.float32)
CODES = spaces.MultiDiscrete([5, 5, 5])
N = 7


def make(policy_class=AutoregressivePolicy, observation_space=BOX, action_space=CODES, seed=0, **options):
    torch.manual_seed(seed)
    sizes = {} if policy_class is CodePolicy else SMALL
    return policy_class(observation_space, action_space, lambda _: 1e-3, **{**sizes, **options})


def own_network(observation_shape, num_tokens, vocab_size):
    return policies.FactorizedPolicy(observation_shape, num_tokens, vocab_size, encoder=own_encoder(), embed_dim=16)


def own_encoder():
    return nn.Sequential(nn.Linear(8, 4 * 16), nn.Unflatten(1, (4, 16)))


KINDS = {
    "autoregressive": lambda: make(),
    "factorized": lambda: make(FactorizedPolicy),
    "own": lambda: make(CodePolicy, network=own_network, exact_entropy=True),
    "sizes": lambda: make(action_space=spaces.MultiDiscrete(NVEC)),
    "bits": lambda: make(action_space=spaces.MultiBinary(4)),
    "discrete": lambda: make(action_space=spaces.Discrete(6)),
}


@pytest.fixture(params=KINDS)
def policy(request):
    policy = KINDS[request.param]()
    for name, parameter in policy.network.named_parameters():
        if name.endswith("head.weight"):
            nn.init.normal_(parameter, std=0.5)
    return policy


def observations(count=N):
    return torch.rand(count, 8, generator=torch.Generator().manual_seed(1))


def test_sampled_log_probability_is_the_evaluated_one_in_both_modes(policy):
    obs = observations()
    for training in (True, False):
        policy.set_training_mode(training)
        actions, values, log_prob = policy(obs)
        assert actions.shape == (N, *policy.action_space.shape)
        assert values.shape == (N, 1)
        again, rescored, entropy = policy.evaluate_actions(obs, actions.float())
        torch.testing.assert_close(rescored.detach(), log_prob.detach(), rtol=0, atol=1e-5)
        torch.testing.assert_close(again, values)
        assert rescored.requires_grad
        assert entropy.shape == (N,)
        torch.testing.assert_close(policy.get_distribution(obs).log_prob(actions).detach(), log_prob.detach())
        torch.testing.assert_close(policy.predict_values(obs), values)


def test_deterministic_actions_are_the_mode_and_lie_in_the_space(policy):
    obs, space = observations(), policy.action_space
    greedy, _, log_prob = policy(obs, deterministic=True)
    assert torch.equal(greedy, policy.get_distribution(obs).mode())
    assert torch.equal(greedy, policy(obs, deterministic=True)[0])
    torch.testing.assert_close(policy.evaluate_actions(obs, greedy)[1], log_prob, rtol=0, atol=1e-5)
    assert np.array_equal(policy.predict(obs.numpy(), deterministic=True)[0], greedy.numpy())
    for action in policy.predict(obs.numpy())[0]:
        assert space.contains(action.astype(space.dtype) if space.shape else int(action))
    assert policy.predict(obs.numpy()[0])[0].shape == space.shape


def test_groups_are_drawn_and_scored_as_repeated_observations_are(policy):
    obs = observations(3)
    actions, log_prob = policy.sample_groups(obs, 4)
    assert actions.shape == (12, *policy.action_space.shape)
    repeated = policy.evaluate_actions(obs.repeat_interleave(4, 0), actions)[1].detach()
    torch.testing.assert_close(log_prob.detach(), repeated, rtol=0, atol=1e-5)
    scored = policy.score_groups(obs, actions.view(3, 4, *actions.shape[1:]))
    torch.testing.assert_close(scored.flatten().detach(), repeated, rtol=0, atol=1e-5)


def test_save_and_load_of_the_policy_alone(policy, tmp_path):
    policy.save(tmp_path / "policy.pth")
    back = type(policy).load(tmp_path / "policy.pth", device="cpu")
    obs = observations().numpy()
    assert np.array_equal(policy.predict(obs, deterministic=True)[0], back.predict(obs, deterministic=True)[0])
    assert back.sizes == policy.sizes if hasattr(policy, "sizes") else back.network_factory is own_network


def test_every_parameter_is_in_the_optimiser_and_learns(policy):
    obs = observations()
    actions, _, _ = policy(obs)
    values, log_prob, _ = policy.evaluate_actions(obs, actions)
    (values.sum() + log_prob.sum()).backward()
    held = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    for name, parameter in policy.named_parameters():
        assert id(parameter) in held
        single = name.endswith(("embed.weight", "start")) and isinstance(policy.action_space, spaces.Discrete)
        assert parameter.grad is not None or single, name


def test_actor_and_critic_share_no_parameter():
    policy = make()
    obs = observations()
    policy.predict_values(obs).sum().backward()
    assert all(p.grad is None for p in policy.network.parameters())
    policy.zero_grad()
    policy.get_distribution(obs).log_prob(policy(obs)[0]).sum().backward()
    assert all(p.grad is None for p in policy.value_net.parameters())


# Entropy


@pytest.mark.parametrize("kind", ["sizes", "factorized", "own"])
def test_the_entropy_along_actions_is_on_average_the_entropy(kind):
    """Against the sum over all codes of −p log p."""
    policy = KINDS[kind]()
    for name, parameter in policy.network.named_parameters():
        if name.endswith(("head.weight", "embed.weight")):
            nn.init.normal_(parameter, std=0.3)
    every = torch.cartesian_prod(*[torch.arange(n) for n in policy.action_space.nvec])
    obs = observations(1).expand(len(every), -1)
    _, log_prob, entropy = policy.evaluate_actions(obs, every.float())
    exact = -(log_prob.exp() * log_prob).sum()
    assert log_prob.exp().sum().item() == pytest.approx(1.0)
    assert 0.1 < exact < np.log(len(every)) - 0.1
    torch.testing.assert_close((log_prob.exp() * entropy).sum(), exact)
    assert (entropy.std() > 0.01) == (kind == "sizes")  # token by token it depends on the tokens before


def test_the_entropy_bonus_leads_to_the_largest_entropy_on_actions_that_are_stale():
    """As in PPO's later epochs. −log π, SB3's way out where an entropy is not known, makes these actions impossible."""
    policy = make(action_space=spaces.MultiDiscrete([2, 2]))
    obs, stale = observations(), torch.zeros(N, 2)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        (-policy.evaluate_actions(obs, stale)[2].mean()).backward()
        optimizer.step()
    every = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat_interleave(N, 0)
    log_prob = policy.evaluate_actions(obs.repeat(4, 1), every)[1]
    assert -(log_prob.exp() * log_prob).sum().item() / N > 0.97 * np.log(4.0)


def test_a_bonus_for_an_entropy_that_is_not_known_is_refused():
    options = {"n_steps": 1, "batch_size": 24, "device": "cpu", "policy_kwargs": {"network": plain_network}}
    env = GroupBandit(action_space=CODES)
    model, bonus = (PPO(CodePolicy, env, ent_coef=weight, **options) for weight in (0.0, 0.01))
    model.learn(24)
    with pytest.raises(ValueError, match="ent_coef must be 0 with a network whose entropy is not known"):
        bonus.learn(24)


def plain_network(observation_shape, num_tokens, vocab_size):
    return policies.AutoregressivePolicy(observation_shape, num_tokens, vocab_size, **SMALL)


# Kullback-Leibler divergence


@pytest.mark.parametrize("kind", ["autoregressive", "factorized"])
def test_the_divergence_is_on_average_that_of_all_codes(kind, monkeypatch):
    p, q = KINDS[kind](), KINDS[kind]()
    for name, parameter in (*p.network.named_parameters(), *q.network.named_parameters()):
        if name.endswith(("head.weight", "embed.weight")):
            nn.init.normal_(parameter, std=0.3)
    every = torch.cartesian_prod(*[torch.arange(5)] * 3)
    first, second = (policy.get_distribution(observations(1).expand(125, -1)) for policy in (p, q))
    log_p, log_q = first.log_prob(every), second.log_prob(every)
    exact = (log_p.exp() * (log_p - log_q)).sum()
    monkeypatch.setattr(first.distribution, "sample", lambda: every)
    found = kl_divergence(first, second)
    assert exact > 0.1
    torch.testing.assert_close((log_p.exp() * found).sum(), exact)
    kept = copy.copy(second)
    for parameter in q.parameters():
        parameter.data.mul_(2.0)
    torch.testing.assert_close(kept.log_prob(every), log_q)  # of the weights as they were


@pytest.mark.slow
@pytest.mark.parametrize("policy", [AutoregressivePolicy, FactorizedPolicy])
def test_trpo_learns_the_identity_bandit(policy):
    """Measured, with three times the steps: 0.9 and more. A random action is worth 0.2."""
    trpo = pytest.importorskip("sb3_contrib").TRPO
    env = GroupBandit(num_contexts=64, samples=1, action_space=CODES)
    model = trpo(policy, env, n_steps=1, batch_size=64, target_kl=0.05, seed=0, device="cpu", policy_kwargs={**SMALL})
    model.learn(64 * 20, log_interval=1000)
    assert model.logger.name_to_value["train/kl_divergence_loss"] < 0.075
    assert evaluate_policy(model, env, n_eval_episodes=128, deterministic=False, warn=False)[0] > 0.4


# Masks


def test_a_mask_forbids_in_drawing_and_in_scoring(tmp_path):
    """Round trips: every permutation of five cities, and nothing else."""
    env = EncodingVecEnv.of_problem("tsp5", num_contexts=8, samples_per_context=4, seed=0)
    kwargs = {**SMALL, "mask": env.get_attr("task")[0].mask}
    model = DAPS(AutoregressivePolicy, env, seed=0, device="cpu", policy_kwargs=kwargs)
    model.learn(64)
    assert (np.sort(model.rollout_buffer.actions, -1) == np.arange(5)).all()
    assert model.skipped_updates == 0
    model.save(tmp_path / "model.zip")
    model = DAPS.load(tmp_path / "model.zip", env=env, device="cpu")
    obs = torch.as_tensor(env.reset()[:1])
    every = torch.cartesian_prod(*[torch.arange(5)] * 5)
    log_prob = model.policy.evaluate_actions(obs.expand(len(every), -1, -1), every)[1]
    trips = (every.sort(-1).values == torch.arange(5)).all(-1)
    assert torch.equal(log_prob > -torch.inf, trips)
    assert log_prob.exp().sum().item() == pytest.approx(1.0)
    ppo = PPO(AutoregressivePolicy, env, n_steps=2, batch_size=32, ent_coef=0.01, device="cpu", policy_kwargs=kwargs)
    ppo.learn(128)
    assert (np.sort(ppo.rollout_buffer.actions, -1) == np.arange(5)).all()
    assert all(p.isfinite().all() for p in ppo.policy.parameters())


class AboveTheObservation(policies.CodeMask):
    """Tokens of at least the observation's first entry, a whole number; the state is that number, [B, K]."""

    def start(self, observation, samples):
        assert observation.shape[1:] == BOX.shape
        return observation[:, :1].expand(-1, samples)

    def allowed(self, state, position):
        return torch.arange(5) >= state.unsqueeze(-1)

    def advance(self, state, position, token):
        return state


class Scrambled(FlattenExtractor):
    """Features that say nothing of the observation."""

    def __init__(self, space):
        super().__init__(space)
        self._features_dim = 4

    def forward(self, observations):
        return observations.new_zeros(len(observations), 4)


def test_a_mask_reads_the_observation_beside_a_features_extractor():
    policy = make(mask=AboveTheObservation(), features_extractor_class=Scrambled)
    obs = torch.zeros(3, 8)
    obs[:, 0] = torch.tensor([0.0, 2.0, 4.0])
    every = torch.cartesian_prod(*[torch.arange(5)] * 3)
    log_prob = policy.score_groups(obs, every.expand(3, -1, -1))
    assert torch.equal(log_prob > -torch.inf, every.amin(-1) >= obs[:, :1])
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(3))
    actions = policy.sample_groups(obs, 50)[0].view(3, 50, 3)
    assert actions.amin((1, 2)).tolist() == [0, 2, 4]
    with pytest.raises(ValueError, match="mask needs one array to read, got Dict observations"):
        make(mask=AboveTheObservation(), observation_space=spaces.Dict({"a": BOX}))


# Tokens of different sizes


def test_tokens_that_an_action_does_not_have_are_impossible():
    policy = make(action_space=spaces.MultiDiscrete(NVEC))
    distribution = policy.get_distribution(observations(2))
    every = torch.cartesian_prod(*[torch.arange(n) for n in NVEC])
    log_prob = torch.stack([distribution.log_prob(code.expand(2, 3)) for code in every])
    torch.testing.assert_close(log_prob.exp().sum(0), torch.ones(2))
    assert (distribution.log_prob(torch.tensor([[0, 2, 0], [0, 3, 0]])) == -torch.inf).all()
    drawn = torch.stack([distribution.sample() for _ in range(300)])
    assert (drawn.amax((0, 1)) == torch.tensor(NVEC) - 1).all()


# Observations


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (spaces.Box(0.0, 1.0, (6, 4), np.float32), (6, 4)),
        (spaces.Box(0, 255, (3, 36, 40), np.uint8), (3, 36, 40)),
        (spaces.Box(0.0, 1.0, (2, 2, 2, 2), np.float32), (16,)),
        (spaces.Discrete(5), (5,)),
        (spaces.MultiBinary(6), (6,)),
        (spaces.MultiDiscrete([3, 4]), (7,)),
        (spaces.Dict({"a": spaces.Box(0.0, 1.0, (3,), np.float32), "b": spaces.Discrete(4)}), (7,)),
    ],
    ids=str,
)
def test_observations_reach_the_network_in_their_own_shape_or_as_a_vector(space, shape):
    policy = make(observation_space=space)
    seen = []
    policy.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    action, _ = policy.predict(space.sample())
    assert CODES.contains(action)
    assert seen[0].shape == (1, *shape)
    assert policy.network.observation_shape == shape
    if space.dtype == np.uint8 and isinstance(space, spaces.Box):
        assert seen[0].max() <= 1.0


def test_a_features_extractor_of_the_users_feeds_actor_and_critic():
    class Half(FlattenExtractor):
        def __init__(self, space):
            super().__init__(space)
            self._features_dim = 4

        def forward(self, observations):
            return observations[:, :4]

    policy = make(features_extractor_class=Half)
    assert policy.network.observation_shape == (4,)
    assert policy.mlp_extractor.value_net[0].in_features == 4
    assert isinstance(make().features_extractor, FlattenExtractor)
    assert isinstance(make(observation_space=spaces.Dict({"a": BOX})).features_extractor, CombinedExtractor)


@pytest.mark.parametrize("share", [True, False])
def test_actor_and_critic_share_a_features_extractor_or_do_not(share):
    class Learned(FlattenExtractor):
        def __init__(self, space):
            super().__init__(space)
            self.layer = torch.nn.Linear(self.features_dim, self.features_dim)

        def forward(self, observations):
            return self.layer(super().forward(observations))

    policy = make(features_extractor_class=Learned, share_features_extractor=share)
    assert policy._get_constructor_parameters()["share_features_extractor"] is share
    observations = torch.rand(3, *BOX.shape)
    policy.predict_values(observations).sum().backward()
    assert policy.vf_features_extractor.layer.weight.grad is not None
    assert (policy.pi_features_extractor.layer.weight.grad is None) is not share
    policy.get_distribution(observations).log_prob(torch.zeros(3, len(CODES.nvec))).sum().backward()
    assert policy.pi_features_extractor.layer.weight.grad is not None


def test_patches_never_outnumber_the_observation():
    assert [most_patches(shape, 8) for shape in ((4,), (100,), (3, 2), (1, 2, 2), (1, 28, 28))] == [4, 8, 3, 4, 8]
    small = spaces.Box(0.0, 1.0, (2,), np.float32)
    assert make(FactorizedPolicy, observation_space=small).network.encoder.patches.num_patches == 2
    assert make(num_patches=4).network.encoder.patches.num_patches == 4


# Errors


def test_what_does_not_fit_is_refused():
    for space in (
        BOX,
        spaces.Discrete(3, start=1),
        spaces.MultiDiscrete([[2, 2], [2, 2]]),
        spaces.MultiBinary([2, 2]),
        spaces.MultiDiscrete([3, 3], start=[1, 0]),
    ):
        with pytest.raises(ValueError, match="must be Discrete, MultiDiscrete or MultiBinary"):
            make(action_space=space)
    with pytest.raises(ValueError, match="must have one size here"):
        make(FactorizedPolicy, action_space=spaces.MultiDiscrete(NVEC))
    with pytest.raises(ValueError, match="needs policy_kwargs"):
        make(CodePolicy)
    with pytest.raises(ValueError, match="use_sde must be False"):
        make(use_sde=True)
    with pytest.raises(ValueError, match=r"net_arch is the critic's here, got pi=\[8\]"):
        make(net_arch={"pi": [8], "vf": [8]})
    with pytest.raises(TypeError, match="unexpected keyword argument 'embed_dims'"):
        make(embed_dims=3)
    assert make(net_arch=[32]).mlp_extractor.value_net[0].out_features == 32
    with pytest.raises(ValueError, match="embed_dim must be a positive multiple of num_heads"):
        make(embed_dim=15)


# SB3's own algorithms


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize("space", [CODES, spaces.MultiDiscrete(NVEC)], ids=["equal", "different"])
def test_ppo_and_a2c_learn_the_identity_bandit(algorithm, space):
    """The best action is worth 1; a random one about 0.2 or 0.36."""
    env = GroupBandit(num_contexts=64, samples=1, action_space=space)
    settings = {"n_steps": 1, **({"batch_size": 64, "n_epochs": 4} if algorithm is PPO else {})}
    highest = 12e-3 if algorithm is PPO else 6e-3  # the actor's is half
    rate = lambda remaining: highest * remaining  # noqa: E731
    model = algorithm(
        AutoregressivePolicy, env, learning_rate=rate, seed=0, device="cpu", policy_kwargs={**SMALL}, **settings
    )
    assert evaluate_policy(model, env, n_eval_episodes=128, deterministic=False, warn=False)[0] < 0.5
    entropy_reward = KLRewardCallback(lambda remaining: 0.01 * remaining)
    model.learn(64 * (80 if algorithm is PPO else 350), entropy_reward, log_interval=1000)
    observation = np.eye(4, dtype=np.float32)
    actions = np.concatenate([model.predict(observation, deterministic=False)[0] for _ in range(50)])
    assert bandit_reward(space, np.tile(np.arange(4), 50), actions).mean() >= 0.99


def test_correlated_tokens_need_the_autoregressive_policy():
    """Paid for both tokens alike, and for no choice more often than 60 %: independent tokens can only pick one."""

    policy = make(action_space=spaces.MultiDiscrete([2, 2]), observation_space=spaces.Box(0.0, 1.0, (2,), np.float32))
    independent = ActorCriticPolicy(policy.observation_space, policy.action_space, lambda _: 1e-2)
    obs = torch.ones(64, 2)
    goal = torch.tensor([[0, 0], [1, 1]]).repeat(32, 1)
    for model in (policy, independent):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            loss = -model.evaluate_actions(obs, goal)[1].mean()
            loss.backward()
            optimizer.step()
    assert -policy.evaluate_actions(obs, goal)[1].mean().item() == pytest.approx(np.log(2.0), abs=0.02)  # one bit
    assert -independent.evaluate_actions(obs, goal)[1].mean() > 1.9 * np.log(2.0)  # two


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_save_and_load_with_sb3s_own_algorithms(algorithm, tmp_path):
    options = {"n_steps": 2, **({"batch_size": 8} if algorithm is PPO else {})}
    model = algorithm(AutoregressivePolicy, GroupBandit(), seed=0, device="cpu", policy_kwargs={**SMALL}, **options)
    model.learn(100)
    model.save(tmp_path / "model.zip")
    back = algorithm.load(tmp_path / "model.zip", env=GroupBandit(), device="cpu")
    obs = np.eye(4, dtype=np.float32)
    assert np.array_equal(model.predict(obs, deterministic=True)[0], back.predict(obs, deterministic=True)[0])
    assert back.policy.network.transformer.allowed is not None
    back.learn(100)
