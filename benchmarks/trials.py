"""Settings and ideas tried for DAPS on Fashion-MNIST's validation split: the rows of docs/reports/results.md.

    python benchmarks/trials.py                      # all, two at a time, one thread each
    python benchmarks/trials.py "K 16" "the reference"
    python benchmarks/trials.py --list

500 steps of `daps-na`, a seed that no comparison uses. What became no option of `daps-rl train` is an agent in here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from common import add_pool_options, run_tasks, write_row
from torch import Tensor

from daps_rl.agents import DAPS, AgentLoss
from daps_rl.agents.base import Score
from daps_rl.agents.scorer import Scorer, as_scorer
from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.functional import encoding_reward, kl_estimate, target_weights, weighted_likelihood_loss
from daps_rl.policies import FactorizedCategorical
from daps_rl.search import find_codes
from daps_rl.training import Trainer

SEED, STEPS = 100, 500


class OtherCodes(DAPS):
    """The decoder learns from the code of the largest weight, one drawn by the weights, or the greedy one."""

    choice = "best"

    def losses(self, observation: Tensor, score: Score, floor: Tensor) -> Iterator[AgentLoss]:
        scorer = as_scorer(score)
        posterior = self.policy(observation)
        codes = posterior.sample((self.samples,)).transpose(0, 1)  # [B, K, T]
        log_prob = posterior.log_prob(codes.transpose(0, 1)).transpose(0, 1)
        reward = rewards(scorer, codes, log_prob.detach())
        weights = target_weights(reward, self.trust_region(reward, floor))
        if self.choice == "greedy":
            chosen = posterior.mode.unsqueeze(1)
        else:
            best = weights.argmax(-1, keepdim=True) if self.choice == "best" else torch.multinomial(weights, 1)
            chosen = codes.gather(1, best[..., None].expand(-1, -1, codes.shape[-1]))
        learn_decoder(scorer, scorer.likelihood(observation, chosen), log_prob.detach(), codes)
        loss = weighted_likelihood_loss(log_prob, weights, centered=True)
        yield AgentLoss(loss.mean(), codes, {"entropy": -log_prob.detach().mean()})


class FirstOrder(DAPS):
    """Control variate: the reward's expansion to first order around a further code, its mean in closed form.

    The decoder's gradient at that code costs nothing more, as the decoder learns from it. The variate's weight is its
    regression on the batch.
    """

    def losses(self, observation: Tensor, score: Score, floor: Tensor) -> Iterator[AgentLoss]:
        scorer = as_scorer(score)
        posterior, k = self.policy(observation), self.samples
        token_log_probs = posterior.log_probs  # [B, T, V]
        codes = posterior.sample((k,)).transpose(0, 1)
        log_prob = token_log_probs.gather(-1, codes.transpose(1, 2)).sum(1)  # [B, K]
        embedded = scorer.decoder.embed(posterior.sample((1,)).transpose(0, 1))  # [B, 1, T, E]
        log_likelihood = scorer.likelihood(observation, embedded)
        (gradient,) = torch.autograd.grad(log_likelihood.sum(), embedded, retain_graph=True)
        reward = rewards(scorer, codes, log_prob.detach())
        temperature = self.trust_region(reward, floor)
        weights = target_weights(reward, temperature)
        with torch.no_grad():
            linear = gradient[:, 0] @ scorer.embedding().T  # [B, T, V]
            linear = linear - (token_log_probs.exp() * linear).sum(-1, keepdim=True)
            of_codes = linear.gather(-1, codes.transpose(1, 2)).sum(1)
            of_codes = of_codes - of_codes.mean(-1, keepdim=True)
            excess = (weights - 1.0 / k) * k * temperature
            share = ((excess * of_codes).sum() / of_codes.square().sum()).clamp(0.0, 1.0)
        learn_decoder(scorer, log_likelihood, log_prob.detach(), codes)
        known = share * (token_log_probs.exp() * linear).sum((-1, -2)) * (k - 1) / k / temperature
        rest = weights - 1.0 / k - share * of_codes / (k * temperature)
        loss = weighted_likelihood_loss(log_prob, rest) - known
        yield AgentLoss(loss.mean(), codes, {"entropy": -log_prob.detach().mean()})


class WarmStart(DAPS):
    """First a quantiser: the lattice point nearest to the policy's mean, or one drawn by the policy, straight through.

    The same weights go on with DAPS. A step of the first part decodes one code, with the gradient to the mean.
    """

    share, drawn, bounded = 0.5, False, False

    def losses(self, observation: Tensor, score: Score, floor: Tensor) -> Iterator[AgentLoss]:
        if self.progress >= self.share:
            yield from super().losses(observation, score, floor)
            return
        scorer, embed = as_scorer(score), as_scorer(score).decoder.embed
        means: list[Tensor] = []
        hook = self.policy.head.mean.register_forward_hook(lambda module, inputs, output: means.append(output))
        posterior = self.policy(observation)
        hook.remove()
        codes = (posterior.sample() if self.drawn else posterior.mode).unsqueeze(1)  # [B, 1, T]
        mean = means[0].clamp(-1.0, 1.0) if self.bounded else means[0]
        points = embed.coordinates[codes] + (mean - mean.detach()).unsqueeze(1)
        log_likelihood = scorer.likelihood(observation, embed.project(points))
        log_prob = posterior.log_prob(codes.transpose(0, 1)).transpose(0, 1).detach()
        scorer.learn_from(log_likelihood, kl_estimate(log_prob, scorer.prior.log_prob(codes)))
        nothing = log_prob.new_zeros(())
        yield AgentLoss(
            -log_likelihood.mean(), codes, {"ESS": nothing, "temperature": nothing, "entropy": -log_prob.mean()}
        )


class WarmStartDrawn(WarmStart):
    drawn = True


class WarmStartBounded(WarmStart):
    drawn, bounded = True, True  # no gradient to a mean that has left the lattice


class WarmStartShort(WarmStart):
    share = 0.2


class GradientFlips(DAPS):
    """Codes are drawn nearer to where the decoder's gradient at one code says that the reward is larger.

    Proposal r(z) ∝ q(z|x)·exp(first-order reward / temperature), the exponent held in ±2. The weights' target is
    q·exp(R / temperature), with the ratio q/r to correct for the proposal, or without it.
    """

    corrected, bound = True, 2.0
    temperature: Tensor | float = 10.0

    def losses(self, observation: Tensor, score: Score, floor: Tensor) -> Iterator[AgentLoss]:
        scorer = as_scorer(score)
        posterior = self.policy(observation)
        log_probs = posterior.log_probs  # [B, T, V]
        embedded = scorer.decoder.embed(posterior.sample((1,)).transpose(0, 1))  # [B, 1, T, E]
        log_likelihood = scorer.likelihood(observation, embedded)
        (gradient,) = torch.autograd.grad(log_likelihood.sum(), embedded, retain_graph=True)
        with torch.no_grad():
            linear = gradient[:, 0] @ scorer.embedding().T  # [B, T, V]
            linear = (linear - (log_probs.exp() * linear).sum(-1, keepdim=True)) / self.temperature
            proposal = FactorizedCategorical(log_probs + linear.clamp(-self.bound, self.bound))
            codes = proposal.sample((self.samples,)).transpose(0, 1)
            ratio = -proposal.log_prob(codes.transpose(0, 1)).transpose(0, 1)
        log_prob = posterior.log_prob(codes.transpose(0, 1)).transpose(0, 1)
        ratio = ratio + log_prob.detach()
        reward = rewards(scorer, codes, log_prob.detach())
        self.temperature = self.trust_region(reward, floor)
        weights = target_weights(reward, self.temperature)
        if self.corrected:
            weights = torch.softmax(reward / self.temperature + ratio, dim=-1) - torch.softmax(ratio, dim=-1)
        loss = weighted_likelihood_loss(log_prob, weights, centered=not self.corrected)
        learn_decoder(scorer, log_likelihood, log_prob.detach(), codes)
        yield AgentLoss(loss.mean(), codes, {"entropy": -log_prob.detach().mean()})


class UncorrectedFlips(GradientFlips):
    corrected = False


class LocalSearch(DAPS):
    """Half of the K codes are drawn; the others are the best of those with one token drawn anew."""

    def losses(self, observation: Tensor, score: Score, floor: Tensor) -> Iterator[AgentLoss]:
        scorer = as_scorer(score)
        posterior, half = self.policy(observation), self.samples // 2
        learned = scorer.likelihood(observation, posterior.sample((1,)).transpose(0, 1))
        drawn = posterior.sample((half,)).transpose(0, 1)  # [B, K/2, T]
        log_prob = posterior.log_prob(drawn.transpose(0, 1)).transpose(0, 1)
        first = rewards(scorer, drawn, log_prob.detach())
        best = drawn.gather(1, first.argmax(-1)[:, None, None].expand(-1, 1, drawn.shape[-1]))
        position = torch.randint(drawn.shape[-1], (*drawn.shape[:2], 1))
        fresh = posterior.sample((half,)).transpose(0, 1).gather(-1, position)
        flipped = best.expand_as(drawn).scatter(-1, position, fresh)
        codes = torch.cat((drawn, flipped), dim=1)
        log_prob = posterior.log_prob(codes.transpose(0, 1)).transpose(0, 1)
        second = rewards(scorer, flipped, log_prob[:, half:].detach())
        reward = torch.cat((first, second), dim=1)
        weights = target_weights(reward, self.trust_region(reward, floor))
        learn_decoder(scorer, learned, log_prob.detach(), codes)
        loss = weighted_likelihood_loss(log_prob, weights, centered=True)
        yield AgentLoss(loss.mean(), codes, {"entropy": -log_prob.detach().mean()})


class ExpertIteration(DAPS):
    """The policy imitates the code that a sweep over its two likeliest tokens ends at; β weighs its entropy."""

    def losses(self, observation: Tensor, score: Score, floor: Tensor) -> Iterator[AgentLoss]:
        scorer = as_scorer(score)
        posterior = self.policy(observation)
        drawn = posterior.sample((1,)).transpose(0, 1)  # [B, 1, T]
        learned = scorer.likelihood(observation, drawn)
        found = find_codes("sweep:1/2", observation, posterior, scorer.likelihood, vocab_size=self.policy.vocab_size)
        learn_decoder(scorer, learned, posterior.log_prob(drawn[:, 0]).detach().unsqueeze(1), drawn)
        loss = -posterior.log_prob(found.codes) - floor * posterior.entropy()
        yield AgentLoss(loss.mean(), found.codes.unsqueeze(1), {"entropy": posterior.entropy().detach().mean()})


class ExpertInGroup(DAPS):
    """The code that a sweep over the policy's two likeliest tokens ends at is weighed beside the K that are drawn."""

    def losses(self, observation: Tensor, score: Score, floor: Tensor) -> Iterator[AgentLoss]:
        scorer = as_scorer(score)
        posterior = self.policy(observation)
        drawn = posterior.sample((self.samples,)).transpose(0, 1)  # [B, K, T]
        learned = scorer.likelihood(observation, drawn[:, :1])
        found = find_codes("sweep:1/2", observation, posterior, scorer.likelihood, vocab_size=self.policy.vocab_size)
        codes = torch.cat((drawn, found.codes.unsqueeze(1)), dim=1)
        log_prob = posterior.log_prob(codes.transpose(0, 1)).transpose(0, 1)
        reward = rewards(scorer, codes, log_prob.detach())
        weights = target_weights(reward, self.trust_region(reward[:, :-1], floor))
        learn_decoder(scorer, learned, log_prob[:, :-1].detach(), drawn)
        loss = log_prob[:, :-1].mean(1) - (weights * log_prob).sum(1)
        yield AgentLoss(loss.mean(), codes, {"entropy": -log_prob[:, :-1].detach().mean()})


class Reuse(DAPS):
    """A second update from the same codes and weights, on the policy as it is after the first."""

    def losses(self, observation: Tensor, score: Score, floor: Tensor) -> Iterator[AgentLoss]:
        codes, log_prob = self.draw(observation)
        reward = score(codes, log_prob.detach())
        weights = target_weights(reward, self.trust_region(reward, floor))
        metrics = {"entropy": -log_prob.detach().mean()}
        yield AgentLoss(weighted_likelihood_loss(log_prob, weights, centered=True).mean(), codes, metrics)
        again = self.policy(observation).log_prob(codes.transpose(0, 1)).transpose(0, 1)
        # Not centred: that has no lower bound once the policy has moved.
        yield AgentLoss(weighted_likelihood_loss(again, weights).mean(), codes, metrics)


def rewards(scorer: Scorer, codes: Tensor, log_prob: Tensor) -> Tensor:
    """Of codes scored without the decoder's gradient. [B, K]."""
    with torch.no_grad():
        log_likelihood = scorer.likelihood(scorer.x, codes)
    return encoding_reward(log_likelihood, log_prob, scorer.prior.log_prob(codes), scorer.beta)


def learn_decoder(scorer: Scorer, log_likelihood: Tensor, log_prob: Tensor, codes: Tensor) -> None:
    """Gives the decoder the codes it learns from, [B, n] with gradient; the KL is that of the codes drawn."""
    scorer.learn_from(log_likelihood, kl_estimate(log_prob, scorer.prior.log_prob(codes)))
    scorer.pathwise = False  # the agent's loss does not hold the decoder's


class WeightedCodes(OtherCodes):
    choice = "weights"


class GreedyCodes(OtherCodes):
    choice = "greedy"


SMALL_TRUST = {"ess_fraction": 0.6, "beta_start": 0.1}
TRIALS: dict[str, tuple[type[DAPS] | None, dict[str, Any]]] = {
    "the reference": (None, {}),
    "FSQ": (None, {"agent": "fsq"}),
    "gumbel-na": (None, {"agent": "gumbel-na"}),
    "rloo, factorised": (None, {"agent": "rloo", "policy": "factorized", "mlp_ratio": 6.0, "learning_rate": 2e-3}),
    "token_vectors separate": (None, {"token_vectors": "separate"}),
    "decoder learns from all 8 codes": (None, {"decoder_samples": 0}),
    "decoder learns from 2 codes": (None, {"decoder_samples": 2}),
    "decoder learns from the best code": (OtherCodes, {}),
    "decoder learns from a code drawn by the weights": (WeightedCodes, {}),
    "decoder learns from the greedy code": (GreedyCodes, {}),
    "first-order control variate": (FirstOrder, {}),
    "first-order control variate, ess_fraction 0.6": (FirstOrder, {"ess_fraction": 0.6}),
    "warm start: half the run straight through the nearest point": (WarmStart, {}),
    "warm start: a fifth": (WarmStartShort, {}),
    "warm start: half the run straight through a drawn point": (WarmStartDrawn, {}),
    "warm start: half the run straight through a drawn point, the mean held to the lattice": (WarmStartBounded, {}),
    "warm start: half of 1,500 steps": (WarmStart, {"steps": 1500}),
    "flips along the decoder's gradient": (GradientFlips, {}),
    "flips along the decoder's gradient, not corrected": (UncorrectedFlips, {}),
    "local search: half the codes are the best with one token drawn anew": (LocalSearch, {}),
    "two updates from the same codes": (Reuse, {}),
    "expert iteration: imitates what a sweep finds, as many evaluations": (
        ExpertIteration,
        {"batch_size": 128, "steps": 444},
    ),
    "expert iteration: what a sweep finds beside K draws, as many evaluations": (
        ExpertInGroup,
        {"batch_size": 96, "steps": 410},
    ),
    "K 4, ess_fraction 0.5": (None, {"samples": 4, "ess_fraction": 0.5}),
    "K 16": (None, {"samples": 16}),
    "K 32": (None, {"samples": 32}),
    "K 32, ess_fraction 0.1": (None, {"samples": 32, "ess_fraction": 0.1}),
    "batch 512, K 4": (None, {"batch_size": 512, "samples": 4, "ess_fraction": 0.5}),
    "batch 128, 1,000 steps": (None, {"batch_size": 128, "steps": 1000}),
    **{f"ess_fraction {share}": (None, {"ess_fraction": share}) for share in (0.2, 0.6, 0.8)},
    "ess_fraction 0.6, beta_start 0.1": (None, SMALL_TRUST),
    **{f"beta_start {beta}": (None, {"beta_start": beta}) for beta in (0.1, 0.2, 1.0)},
    "uncentred weights": (None, {"centered": False}),
    "warm-up of 20 steps": (None, {"warmup_steps": 20}),
    "1,500 steps": (None, {"steps": 1500}),
    "FSQ, 1,500 steps": (None, {"agent": "fsq", "steps": 1500}),
}


def measure(name: str) -> None:
    """One trial; writes its row."""
    torch.set_num_threads(1)
    cls, own = TRIALS[name]
    options = {"agent": "daps-na", "steps": STEPS, **own}
    config = make_config(
        data="fashion-mnist", seed=SEED, validate_every=0, validation_size=5000, device="cpu", **options
    )
    trainer = Trainer(config, load("fashion-mnist"), agent=None if cls is None else cls.from_config)
    list(trainer.run())
    row = {"trial": name, "options": own, "steps": trainer.step, "seconds": trainer.seconds, "seed": SEED}
    write_row("trials", {**row, "validation": trainer.validate()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", metavar="TRIAL")
    parser.add_argument("--list", action="store_true")
    add_pool_options(parser)
    options = parser.parse_args()
    if options.list:
        return print("\n".join(TRIALS))
    if options.one:
        return measure(options.one)
    if unknown := sorted(set(options.trials) - set(TRIALS)):
        parser.error(f"unknown trial {', '.join(unknown)}; see --list")
    return run_tasks(options.trials or TRIALS, options.workers)


if __name__ == "__main__":
    main()
