"""What keeps `daps-na` behind FSQ at equal steps: their codes, their decoders or their encoders?

    python benchmarks/limits.py            # half an hour on one core; skips what has a row

Binarised Fashion-MNIST, 500 steps, validation data. Both have FSQ's own lattice for 64 bits, 8 × 6 × 5 tokens, so that
an encoder of each can write for a decoder of either.

side by side   as they train: drawn and greedy codes, and what a search finds beyond those, over the steps
encoder        a new encoder of each for the frozen decoder of a finished FSQ run, and of a finished daps-na run
decoder        a new decoder for the codes of a finished run's encoder: what the codes are worth
two tokens     codes of 15.8 bits, of which all 57,600 are looked at: the best there is, and the exact posterior
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from common import Row, interval, markdown, read_rows, write_row
from torch import Tensor, nn

from daps_rl.agents import Agent, AgentLoss
from daps_rl.agents.base import Score
from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import make_config
from daps_rl.data import Splits, load
from daps_rl.policies import Codebook, FactorizedPolicy, LatticeHead
from daps_rl.training import Trainer

NAME, STEPS, COUNT, SEARCHED, ENUMERATED = "limits", 500, 1000, 200, 100
LOOKS = (50, 100, 200, 300, 400, 500)
AGENTS, VOCABULARY = ("daps-na", "fsq"), 240
ENCODERS: dict[str, dict[str, Any]] = {
    "daps-na": {},
    "fsq": {},
    "gumbel-na": {"agent": "gumbel-na"},
    "daps-na, K = 32": {"agent": "daps-na", "samples": 32},
}
"""Learned for one decoder: by weights of 8 codes, straight through, through a relaxation, by weights of 32 codes."""
SEARCH = "sweep:2/16"
PARTS = ("side by side", "encoder", "decoder", "two tokens")
COLUMNS = (("drawn", None), ("greedy", None), ("searched", "best"), ("entropy", None))


def make_trainer(name: str, seed: int, splits: Splits, *, tokens: int = 8, **parts: Any) -> Trainer:
    """A run of so many tokens, with parts of its own."""
    options = {"agent": name, "num_tokens": tokens, "vocab_size": VOCABULARY, **ENCODERS[name]}
    options |= {"seed": seed, "validate_every": 0, "device": "cpu"}
    return Trainer(make_config(data="fashion-mnist", steps=STEPS, log_every=50, **options), splits, **parts)


@torch.no_grad()
def measure(model: DiscreteAutoencoder, x: Tensor) -> dict[str, float]:
    """Log-likelihoods of drawn and greedy codes, of what a search finds in a part of the data, and the entropy."""
    was_training = model.training
    model.eval()
    torch.manual_seed(0)
    posterior = model.policy(x)
    drawn, greedy = posterior.sample(), posterior.mode
    part = x[:SEARCHED]
    found = model.search(SEARCH, part)
    result = {
        "drawn": model.log_likelihood(x, drawn).mean().item(),
        "greedy": model.log_likelihood(x, greedy).mean().item(),
        "greedy_of_part": model.log_likelihood(part, greedy[:SEARCHED]).mean().item(),
        "searched": found.score.mean().item(),
        "entropy": posterior.entropy().mean().item(),
    }
    model.train(was_training)
    return result


def side_by_side(agent: str, seed: int, splits: Splits) -> Trainer:
    """Trains a run, and writes a row at each look, once."""
    trainer = make_trainer(agent, seed, splits)
    known = {(row["agent"], row["seed"], row.get("step")) for row in read_rows(NAME) if row["part"] == "side by side"}
    for row in trainer.run():
        if row["step"] in LOOKS and (agent, seed, row["step"]) not in known:
            found = measure(trainer.autoencoder, splits.validation[:COUNT])
            write_row(NAME, {"part": "side by side", "agent": agent, "seed": seed, "step": row["step"], **found})
    return trainer


def frozen(module: nn.Module) -> nn.Module:
    """A copy that learns nothing."""
    return copy.deepcopy(module).requires_grad_(False)


def encoder_for(agent: str, decoder: nn.Module) -> nn.Module | None:
    """A policy of an agent that writes the tokens of a decoder of the other one; None where its own does."""
    embed = decoder.embed
    if agent == "fsq" or not isinstance(embed, Codebook):
        return None
    lattice: Any = SimpleNamespace(coordinates=embed.quantizer.implicit_codebook.detach().clone())
    sizes = make_config(data="fashion-mnist", agent="daps-na", steps=1).model_config((1, 28, 28), "bernoulli")
    names = ("observation_shape", "num_tokens", "embed_dim", "num_heads", "num_layers", "mlp_ratio")
    options = {name: getattr(sizes, name) for name in names}
    num_patches = sizes.num_patches or sizes.num_tokens
    return FactorizedPolicy(
        **options, vocab_size=VOCABULARY, head=LatticeHead(sizes.embed_dim, lattice), num_patches=num_patches
    )


def new_encoder(agent: str, seed: int, splits: Splits, decoder: nn.Module, of: str) -> None:
    """Trains an encoder for a decoder that stays as it is."""
    torch.manual_seed(seed)
    still = frozen(decoder)
    policy = encoder_for(agent, still)
    if policy is not None:  # the same vectors, in a form that a relaxation can mix
        still.embed = nn.Embedding.from_pretrained(still.embed(torch.arange(VOCABULARY)))
    trainer = make_trainer(agent, seed + 1000, splits, decoder=still, policy=policy)
    list(trainer.run())
    found = measure(trainer.autoencoder, splits.validation[:COUNT])
    write_row(NAME, {"part": "encoder", "agent": agent, "decoder_of": of, "seed": seed, "step": STEPS, **found})


class GivenCodes(Agent):
    """Draws codes as a finished policy does, or its greedy ones, and learns nothing."""

    greedy = True

    def losses(self, observation: Tensor, score: Score, beta: Tensor) -> Iterator[AgentLoss]:
        with torch.no_grad():
            posterior = self.policy(observation)
            codes = (posterior.mode if self.greedy else posterior.sample()).unsqueeze(1)
        score(codes, torch.zeros(codes.shape[:2]))
        yield AgentLoss(None, codes, {})


class DrawnCodes(GivenCodes):
    greedy = False


def new_decoder(agent: str, seed: int, splits: Splits, policy: nn.Module, cls: type[GivenCodes]) -> None:
    """Trains a decoder for the codes of a policy that stays as it is."""
    still = frozen(policy).eval()
    make: Callable[..., Agent] = lambda config, _: cls(still, samples=1)  # noqa: E731
    trainer = make_trainer(agent, seed + 2000, splits, agent=make)
    list(trainer.run())
    decoder, found = trainer.autoencoder.decoder.eval(), {}
    x = splits.validation[:COUNT]
    with torch.no_grad():
        torch.manual_seed(0)
        for name, codes in (("drawn", still(x).sample()), ("greedy", still(x).mode)):
            found[name] = decoder(codes).log_prob(x).mean().item()
    learned = "greedy" if cls.greedy else "drawn"
    write_row(NAME, {"part": "decoder", "agent": agent, "learned_from": learned, "seed": seed, "step": STEPS, **found})


@torch.no_grad()
def all_codes(model: DiscreteAutoencoder, x: Tensor) -> dict[str, float]:
    """Of two tokens: greedy, drawn and best log-likelihoods, and the exact posterior at β beside the policy's."""
    beta, vocabulary = 0.01, torch.arange(VOCABULARY)
    codes = torch.cartesian_prod(vocabulary, vocabulary)
    table = torch.stack([model.decoder(codes).log_prob(each) for each in x])  # [N, V²]
    posterior = model.policy(x)
    found = {
        "greedy": model.log_likelihood(x, posterior.mode).mean().item(),
        "drawn": model.log_likelihood(x, posterior.sample()).mean().item(),
        "best": table.amax(1).mean().item(),
        "entropy": posterior.entropy().mean().item(),
        "entropy_exact": torch.distributions.Categorical(logits=table / beta).entropy().mean().item(),
    }
    greedy = posterior.mode[:, 0] * VOCABULARY + posterior.mode[:, 1]
    found["rank"] = (table > table.gather(1, greedy[:, None])).sum(1).float().median().item()
    found["is_best"] = (table.argmax(1) == greedy).float().mean().item()
    return found


def two_tokens(agent: str, seed: int, splits: Splits) -> None:
    """Trains codes of two tokens and looks at all."""
    trainer = make_trainer(agent, seed, splits, tokens=2)
    list(trainer.run())
    found = all_codes(trainer.autoencoder.eval(), splits.validation[:ENUMERATED])
    write_row(NAME, {"part": "two tokens", "agent": agent, "seed": seed, "step": STEPS, **found})


def run_seed(seed: int, splits: Splits, parts: Sequence[str]) -> None:
    """Does what has no row yet; finished runs are trained anew where others need them."""

    @functools.cache
    def model(agent: str) -> DiscreteAutoencoder:
        return side_by_side(agent, seed, splits).autoencoder

    def encoder(agent: str, of: str) -> None:
        new_encoder(agent, seed, splits, model(of).decoder, of)

    def decoder(agent: str, cls: type[GivenCodes]) -> None:
        new_decoder(agent, seed, splits, model(agent).policy, cls)

    tasks: dict[tuple[Any, ...], Callable[[], Any]] = {}
    for agent in AGENTS:
        tasks["side by side", agent, None, None] = functools.partial(model, agent)
        tasks["two tokens", agent, None, None] = functools.partial(two_tokens, agent, seed, splits)
        tasks["decoder", agent, None, "greedy"] = functools.partial(decoder, agent, GivenCodes)
    tasks["decoder", "daps-na", None, "drawn"] = functools.partial(decoder, "daps-na", DrawnCodes)
    tasks["encoder", "daps-na", "daps-na", None] = functools.partial(encoder, "daps-na", "daps-na")
    for agent in ENCODERS:
        tasks["encoder", agent, "fsq", None] = functools.partial(encoder, agent, "fsq")
    done = {key_of(row) for row in read_rows(NAME) if row["seed"] == seed}
    for key, task in tasks.items():
        if key not in done and key[0] in parts:
            task()


def key_of(row: Row) -> tuple[Any, ...]:
    """Part, agent, whose decoder, and learned from what."""
    return row["part"], row["agent"], row.get("decoder_of"), row.get("learned_from")


def table() -> str:
    """Returns a line for each thing that was trained; means over seeds, in nats."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in read_rows(NAME):
        if row["part"] != "side by side" or row["step"] == STEPS:
            groups.setdefault(key_of(row), []).append(row)
    lines = []
    for part in PARTS:
        for (own, agent, of, learned), rows in groups.items():
            if own == part:
                what = f"`{agent}`" + (f", for a decoder of `{of}`" if of else "")
                what += f", decoder learns from {learned} codes" if learned else ""
                found = [[row.get(name, row.get(other)) for row in rows] for name, other in COLUMNS]
                cells = [interval(values) if None not in values else "" for values in found]
                lines.append([part, what, str(len(rows)), *cells])
    return markdown(["part", "what learns", "seeds", "drawn codes", "greedy codes", "the best found", "entropy"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART")
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = load("fashion-mnist")
    for seed in options.seeds:
        run_seed(seed, splits, options.parts)


if __name__ == "__main__":
    main()
