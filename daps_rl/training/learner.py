"""What one batch changes: the agent, the decoder and their optimiser, in one update; and that state by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from daps_rl.agents import Agent, AgentLoss, Conditions, Scorer
from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import TrainConfig
from daps_rl.data.errors import one_line
from daps_rl.decoders import CodeDecoder
from daps_rl.distributed import World
from daps_rl.evaluation import count_codes
from daps_rl.functional import code_usage, follow_temperature
from daps_rl.kernels import use_cpu_kernels
from daps_rl.optim import GuardedAdamW, exponential_decay
from daps_rl.policies import end_token
from daps_rl.training.checks import check_fit, check_verdicts
from daps_rl.training.cuda_graph import GraphedUpdate, keeps_to_the_device
from daps_rl.training.targets import RateTarget
from daps_rl.verdicts import Verdicts

RAMP = 0.5  # share of a run over which λ rises to its value: from the start, an autoregressive prior makes codes alike
PRICE_RAMP = 0.15  # the same of the token price: no token is worth one before the decoder can read it
BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16")  # of a CPU, that multiply matrices in it faster than in float32
SEED_STRIDE = 1_000_003  # between the processes of a run


class Learner:
    """Agent, decoder and their optimiser. `update` takes one batch, in one graph of the GPU's where all parts allow.

    Args:
        config, world: settings of the run, and the processes that train together.
        autoencoder, agent: the model, and who learns its policy, on one device.
        verdicts: what a code is worth beside its likelihood; None for nothing.
        target: what λ follows from; None for the settings' own.
    Attributes:
        beta: the one shared value of β, the reward's weight of the KL and the temperature's floor. 0-dim.
        rate_weight: the one shared value of λ, the reward's weight of log p(z), 0-dim; None where it is 0 throughout.
        token_price: what a token costs, in nats: the one shared value, which rises to that of the settings. 0-dim.
        usage: how often this process has drawn each code, in the epoch before and in this one. int64 [2, T, V].
        evaluations: of the decoder, by this process for the last batch.
        score_precision: "float32" or "bfloat16", of codes that are scored without a gradient.
        graphed: whether a GPU records and replays the update.
    Raises:
        ValueError: the agent cannot keep to `microbatch`, or to one process's part of a batch, or learn from verdicts.
    """

    def __init__(
        self,
        config: TrainConfig,
        autoencoder: DiscreteAutoencoder,
        agent: Agent,
        world: World,
        verdicts: Verdicts | None = None,
        target: RateTarget | None = None,
    ) -> None:
        self.config, self.autoencoder, self.agent, self.world = config, autoencoder, agent, world
        self.beta = torch.tensor(config.beta_start, device=next(autoencoder.parameters()).device)
        self.device = self.beta.device
        self.target = target
        self.rate_weight = self.beta.new_zeros(()) if config.rate_weight else None
        if target is not None:
            self.rate_weight = target.to(self.device).weight
        self.token_price = self.beta.new_zeros(())
        check_fit(config, autoencoder, agent, world)
        self.verdicts = verdicts if verdicts is not None and verdicts.learned else None
        if self.verdicts is not None:
            self.verdicts.world, self.verdicts.forbids = world, agent.forbids
            check_verdicts(self.verdicts, config, agent)
        if config.cpu_kernels and self.device.type == "cpu":
            use_cpu_kernels(agent)
            if config.precision != "float32":
                warnings.warn(
                    f"CPU kernels are for float32; precision={config.precision!r} trains without.", stacklevel=3
                )
        of_prior = list(autoencoder.prior.parameters())
        self.prior_learns = bool(of_prior)  # from the codes that the decoder learns from
        self.optimizer = GuardedAdamW(
            [*agent.trained(), *autoencoder.decoder.parameters(), *of_prior],
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            gradient_clip=config.gradient_clip,
            clip_at=config.clip_at,
            device=self.device,
            world=world,
        )
        self.ends = end_token(autoencoder.policy)
        self.num_symbols = config.vocab_size if self.ends is None else self.ends.end + 1
        self.usage = torch.zeros(2, config.num_tokens, self.num_symbols, dtype=torch.int64, device=self.device)
        self.evaluations = 0
        # A microbatch's second pass sets the state of the random numbers back, which no graph may.
        recordable = agent.on_device and not config.microbatch and world.size == 1 and self.verdicts is None
        recordable = recordable and all(map(keeps_to_the_device, (*agent.modules(), *autoencoder.modules())))
        self.graphed = config.cuda_graph and recordable and self.device.type == "cuda"
        self.score_precision = config.score_precision
        if self.score_precision == "auto":
            tell = getattr(torch.cpu, "get_capabilities", None)  # older PyTorch does not
            units = tell is not None and any(map(tell().get, BFLOAT16_UNITS)) and self.device.type == "cpu"
            made_for_it = isinstance(autoencoder.decoder, CodeDecoder)  # a decoder of the user's may not be
            self.score_precision = "bfloat16" if units and made_for_it else "float32"
        self.update = GraphedUpdate(self.learn) if self.graphed else self.learn

    def prepare(self, progress: float, rate_factor: float, new_epochs: int) -> None:
        """Brings to the device what changes from step to step.

        That is the share of the run that is done, the learning rate over its base, and the epochs that now begin.
        """
        config = self.config
        if config.beta == "schedule":
            self.beta.fill_(exponential_decay(progress, config.beta_start, config.beta_end))
        if self.rate_weight is not None and self.target is None:
            self.rate_weight.fill_(config.rate_weight * min(progress / RAMP, 1.0))
        self.token_price.fill_(config.token_price * min(progress / PRICE_RAMP, 1.0))
        self.optimizer.set_rate(rate_factor)
        rate = config.learning_rate * rate_factor
        self.agent.prepare(Conditions(self.world, config.microbatch, progress, rate))
        for _ in range(min(new_epochs, 2)):
            self.usage[0], self.usage[1] = self.usage[1].clone(), 0

    def learn(self, x: Tensor, target: Tensor | None = None, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Descends one batch's losses, the agent's and the decoder's; returns metrics, 0-dim, on the device.

        Args:
            x: the data. [B, *x].
            target: what is scored in their place; the data themselves if None. [B, *y].
            labels: of the data, for verdicts that ask for them. [B].
        Raises:
            ValueError: the agent yields no loss, or one before it has called `score`.
        """
        config, model = self.config, self.autoencoder
        scorer = Scorer(
            model.decoder,
            model.prior(),
            x if target is None else target,
            self.beta,
            config.microbatch,
            config.decoder_samples,
            self.score_precision == "bfloat16",
            self.verdicts,
            labels,
            0.0 if self.rate_weight is None else self.rate_weight,
            self.ends,
            self.token_price,
        )
        result: AgentLoss | None = None
        loss_decoder: Tensor | None = None
        of_prior: dict[str, Tensor] = {}
        for result in self._losses(x, scorer):
            if not scorer.scored:
                raise ValueError(f"agent {config.agent!r} yielded a loss before it called `score`; call it first.")
            loss = result.loss
            if loss_decoder is None:  # once per batch, beside the agent's first step
                loss_decoder = scorer.decoder_loss()
                if not scorer.pathwise:
                    loss = loss_decoder if loss is None else loss + loss_decoder
                if self.prior_learns:
                    loss_prior = scorer.prior_loss(result.codes)
                    loss = loss_prior if loss is None else loss + loss_prior
                    of_prior["loss_prior"] = loss_prior.detach()
            if loss is not None and loss.requires_grad:  # a decoder may have nothing to learn
                self.optimizer.step(loss)
        if result is None or loss_decoder is None:
            raise ValueError(f"agent {config.agent!r} yielded no loss; its `losses` must yield at least one.")
        if not torch.is_floating_point(result.codes):
            self.usage[1] += count_codes(result.codes, self.num_symbols)
        self.evaluations = scorer.evaluations
        if config.beta == "auto":
            self.beta.copy_(follow_temperature(self.beta, result.metrics["temperature"]))
        return {
            "loss_decoder": loss_decoder.detach(),
            **of_prior,
            **scorer.metrics(),
            **({} if result.loss is None else {"loss_actor": result.loss.detach()}),
            **result.metrics,
        }

    def _losses(self, x: Tensor, scorer: Scorer) -> Iterator[AgentLoss]:
        """The agent's losses, each computed in the run's precision; what is done with them between is not."""
        low = self.config.precision == "bfloat16"
        losses = iter(self.agent.losses(x, scorer, self.beta))
        while True:
            # No cache: it would hand weights cast without a gradient, in sampling, to the pass that needs one.
            with torch.autocast(self.device.type, torch.bfloat16, enabled=low, cache_enabled=False):
                result = next(losses, None)
            if result is None:
                return
            yield result

    def code_usage(self) -> float:
        """Share of the codes that were drawn in this epoch and the one before, by all processes."""
        codes = getattr(self.autoencoder.policy, "codebook_size", self.config.vocab_size)
        return code_usage(self.world.total(self.usage.sum(0))[:, :codes]).item()

    def has_learned(self) -> bool:
        """Whether every weight is finite, and not all steps were skipped."""
        weights = {*self.autoencoder.parameters(), *self.agent.parameters()}
        stepped = self.optimizer.has_stepped() or bool(self.optimizer.skipped == 0)
        return stepped and all(bool(weight.isfinite().all()) for weight in weights)

    def is_sound(self) -> bool:
        """Whether this is a state worth keeping: the last step was taken, and every weight is finite."""
        return bool(self.optimizer.skipped_in_row == 0) and self.has_learned()

    def state(self) -> dict[str, Tensor]:
        """All that decides the next step, by name. All processes that train together call it at once."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        of_all = enumerate(self.world.of_all(random))
        parts = {
            "learner": self.agent.optimizer_tensors(),
            "optimizer": self.optimizer.tensors(),
            "random": {f"{kind}{rank or ''}": state for rank, states in of_all for kind, state in states.items()},
        }
        named = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        return {**self._weights(), **named, "beta": self.beta, "usage": self.world.total(self.usage)}

    def load_state(self, tensors: dict[str, Tensor], *, step: int, score_precision: str) -> None:
        """Takes up the state that `state` gave at that step, and scores as the run began, whatever "auto" is here.

        What a GPU has recorded is forgotten: the optimiser's state lies elsewhere now. A process that was not there
        before gets random numbers of its own.

        Raises:
            ValueError: the state does not fit the learner.
        """

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        try:
            self._check(tensors)
            for name, value in {**self._weights(), "beta": self.beta, "usage": self.usage}.items():
                value.data.copy_(tensors[name])
            if not self.world.is_first:
                self.usage.zero_()
            self.agent.load_optimizer_tensors(part("learner."))
            self.optimizer.load_tensors(part("optimizer."))
            random, rank = part("random."), self.world.rank or ""
            if not rank or f"cpu{rank}" in random:
                torch.set_rng_state(random[f"cpu{rank}"])
            else:  # more processes than before
                self.seed(step)
            if self.device.type == "cuda" and f"cuda{rank}" in random:
                torch.cuda.set_rng_state(random[f"cuda{rank}"], self.device)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"the checkpoint does not fit this run: {one_line(error)}") from error
        self.score_precision = score_precision
        self.update = GraphedUpdate(self.learn) if self.graphed else self.learn

    def _check(self, tensors: dict[str, Tensor]) -> None:
        """Raises ValueError unless all is there, of its shape; of a parameter's state in AdamW, all or nothing."""
        own = {**self._weights(), "beta": self.beta, "usage": self.usage}
        expected = {name: value.shape for name, value in own.items()}
        expected |= {f"optimizer.{name}": torch.Size() for name in ("skipped", "skipped_in_row")}
        for index, parameter in enumerate(self.optimizer.parameters):
            shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            state = {f"optimizer.{index}.{name}": shape for name, shape in shapes.items()}
            expected |= state if state.keys() & tensors.keys() else {}
        found = {n: value.shape for n, value in tensors.items() if not n.startswith(("learner.", "random."))}
        if other := sorted({name for name, _ in found.items() ^ expected.items()}):
            raise ValueError(f"model, agent or optimiser has another state: {', '.join(other)}")

    def seed(self, step: int = 0) -> None:
        """Gives this process random numbers of its own."""
        torch.manual_seed(self.config.seed + SEED_STRIDE * self.world.rank + step)

    def _weights(self) -> dict[str, Tensor]:
        """Parameters and buffers of model, agent and verdicts: each once, however many names it has."""
        both = nn.ModuleDict({"model": self.autoencoder, "agent": self.agent})
        if self.verdicts is not None:
            both["verdicts"] = self.verdicts
        if self.target is not None:
            both["target"] = self.target
        first: dict[int, tuple[str, Tensor]] = {}
        for name, value in both.state_dict(keep_vars=True).items():
            first.setdefault(id(value), (name, value))
        return dict(first.values())
