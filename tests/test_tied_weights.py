"""Weights that parts of one's own share: they are saved, loaded, trained and resumed, and stay shared."""

from __future__ import annotations

import torch
from conftest import SIZES
from torch import Tensor, nn

from daps_rl import DiscreteAutoencoder
from daps_rl.config import make_config
from daps_rl.decoders import MLPDecoder
from daps_rl.distributed import World
from daps_rl.optim import GuardedAdamW
from daps_rl.policies import FactorizedPolicy, UniformPrior
from daps_rl.training import Trainer


class Part(nn.Module):
    """A policy with the decoder's table, one buffer of two names, a view of it, and a weight that is a transpose."""

    def __init__(self, table: nn.Parameter, observation_shape: tuple[int, ...], num_tokens: int) -> None:
        super().__init__()
        self.vocab_size, dim = table.shape
        self.num_tokens = num_tokens
        self.inner = FactorizedPolicy(observation_shape, num_tokens, self.vocab_size, embed_dim=dim, head=nn.Identity())
        self.table = table
        self.scale = nn.Buffer(torch.rand(dim))
        self.same, self.part = self.scale, nn.Buffer(self.scale[:2])
        self.mix = nn.Parameter(torch.randn(dim, dim).t())

    def forward(self, x: Tensor):
        self.inner.head = Logits(self)
        return self.inner(x)


class Logits(nn.Identity):
    def __init__(self, part: Part) -> None:
        super().__init__()
        self.weights = (part,)  # held, not registered

    def forward(self, x: Tensor) -> Tensor:
        (part,) = self.weights
        return (x * part.same) @ part.mix @ part.table.T


def make_parts(shape: tuple[int, ...], num_tokens: int, vocab_size: int) -> tuple[Part, MLPDecoder]:
    decoder = MLPDecoder(num_tokens, vocab_size, shape, embed_dim=8)
    return Part(decoder.embed.weight, shape, num_tokens), decoder


def is_tied(model: DiscreteAutoencoder) -> bool:
    policy, decoder = model.policy, model.decoder
    same = policy.same is policy.scale and policy.part.data_ptr() == policy.scale.data_ptr()
    return same and policy.table is decoder.embed.weight and not policy.mix.is_contiguous()


def test_a_saved_model_is_the_same_and_its_weights_are_still_one(tmp_path):
    torch.manual_seed(0)
    model = DiscreteAutoencoder(*make_parts((6,), 2, 5), UniformPrior(2, 5))
    model.save_pretrained(tmp_path)
    policy, decoder = make_parts((6,), 2, 5)  # of other numbers
    again = DiscreteAutoencoder.from_pretrained(tmp_path, policy=policy, decoder=decoder)
    assert is_tied(model)
    assert is_tied(again)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    x, codes = torch.rand(4, 6), torch.randint(5, (4, 2))
    assert torch.equal(again.policy(x).log_prob(codes), model.policy(x).log_prob(codes))
    assert torch.equal(again.decode(codes), model.decode(codes))


def test_a_run_of_tied_parts_goes_on_as_if_it_had_not_stopped(splits):
    config = make_config(**{**SIZES, "steps": 4})

    def make() -> Trainer:
        torch.manual_seed(0)
        policy, decoder = make_parts(splits.train[:1].shape[1:], config.num_tokens, config.vocab_size)
        return Trainer(config, splits, policy=policy, decoder=decoder)

    whole = make()
    list(whole.run())
    first = make()
    list(first.run(stop=lambda: first.step == 2))
    tensors, info = first.state()
    tensors = {name: value.clone() for name, value in tensors.items()}
    second = make()
    second.load_state(tensors, info)
    list(second.run())
    assert is_tied(second.autoencoder)
    expected = whole.autoencoder.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.autoencoder.state_dict().items())
    assert not torch.equal(expected["policy.mix"], make().autoencoder.policy.mix)


def test_a_weight_that_two_parts_share_takes_one_step():
    weight = nn.Parameter(torch.ones(3))
    alone, shared = (
        GuardedAdamW(
            parameters,
            learning_rate=0.1,
            weight_decay=0.0,
            gradient_clip="norm",
            clip_at=1.0,
            device=torch.device("cpu"),
            world=World(),
        )
        for parameters in ([nn.Parameter(torch.ones(3))], [weight, weight])
    )
    for optimizer in (alone, shared):
        optimizer.step(optimizer.parameters[0].square().sum())
    assert torch.equal(weight, alone.parameters[0])
    assert shared.optimizer.state[weight]["step"] == 1
