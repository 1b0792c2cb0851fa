"""daps_rl.envs.EncodingEnv: which data a reset draws, for whole groups, repeatably."""

import pytest
import torch
from conftest import small_decoder

from daps_rl.envs import EncodingEnv

B, K, T, V = 3, 4, 2, 5


def make_env(data=None, **changes):
    """Over [N, D] data; among 10 000 no two groups meet by chance."""
    data = torch.rand(10_000, 6, generator=torch.Generator().manual_seed(0)) if data is None else data
    decoder = small_decoder(T, V, tuple(data.shape[1:]))
    arguments = {"num_tokens": T, "vocab_size": V, "batch_size": [B, K], "seed": 0}
    return EncodingEnv(data, decoder, **(arguments | changes))


def reset_some(env, batch, mask):
    return env.reset(batch.clone().set("_reset", mask))


def test_a_mask_replaces_whole_groups_and_leaves_the_others():
    env = make_env()
    batch = env.reset()
    mask = torch.tensor([True, False, True])[:, None, None].expand(B, K, 1)
    after = reset_some(env, batch, mask)["observation"]
    same = (after == batch["observation"]).flatten(1).all(-1)
    assert same.tolist() == [False, True, False]
    assert (after == after[:, :1]).all()


def test_a_mask_that_tears_a_group_is_refused():
    env = make_env()
    mask = torch.zeros(B, K, 1, dtype=torch.bool)
    mask[1, 2] = True
    with pytest.raises(ValueError, match=r"K codes of a context reset together.*splits a group"):
        reset_some(env, env.reset(), mask)


def test_every_step_of_a_rollout_sees_new_data():
    env = make_env()
    x = env.rollout(3, break_when_any_done=False)["observation"]
    assert (x == x[:, :1]).all()
    assert not (x[:, :, 0] == x[:, :, 1]).all((-1, -2)).any()


def test_set_seed_repeats_the_data():
    def sequence(env):
        return torch.stack([env.reset()["observation"] for _ in range(4)])

    env = make_env(seed=5)
    first = sequence(env)
    torch.manual_seed(99)
    torch.testing.assert_close(sequence(make_env(seed=5)), first)
    env.set_seed(5)
    torch.testing.assert_close(sequence(env), first)
    env.set_seed(6)
    assert not torch.equal(sequence(env), first)
    torch.manual_seed(3)
    unseeded = sequence(make_env(seed=None))
    torch.manual_seed(3)
    torch.testing.assert_close(sequence(make_env(seed=None)), unseeded)


def test_all_data_are_seen():
    env = make_env(torch.arange(11.0)[:, None], batch_size=[50, 2])
    seen = torch.cat([env.reset()["observation"].flatten() for _ in range(8)])
    assert sorted(set(seen.tolist())) == list(range(11))  # missed with probability 11·(10/11)^400 < 1e-15
