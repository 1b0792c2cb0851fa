"""DiscreteAutoencoder: a trained policy, decoder and prior as one thing to encode, decode, save and load."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daps_rl.columns import Columns
from daps_rl.config import ModelConfig, check_trusted, config_from_dict
from daps_rl.data.arrays import Array, as_codes, as_observations, shape_of
from daps_rl.data.errors import DataError, one_line
from daps_rl.data.kind import Kind, kind_from_json, kind_to_json
from daps_rl.data.pixels import Arrays
from daps_rl.data.rows import ArrayFile
from daps_rl.data.splits import check_values
from daps_rl.decoders import DECODERS, LIKELIHOODS, CodeDecoder
from daps_rl.device import memory_size
from daps_rl.envs.problem import find_problem, views_of
from daps_rl.files import to_json, write_atomically
from daps_rl.kinds import POLICIES
from daps_rl.policies import end_token
from daps_rl.priors import UniformPrior
from daps_rl.search import CodeScore, Found, Search, best_of_views, find_codes, likelihood_score
from daps_rl.tensor_file import load_tensors, save_tensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class DiscreteAutoencoder(nn.Module):
    """Policy q(z|x), decoder p(x|z) and prior p(z).

    Args:
        policy: maps observations [B, *x] to a distribution over codes, batch shape [B], event shape [T].
        decoder: maps codes [..., T] to a distribution over x.
        prior: called without arguments, gives a distribution of event shape [T].
        config: the settings it was built from; None for parts of your own, which `from_pretrained` then asks for.
        kind: of the data: how they are measured, shown, read and written.
    """

    def __init__(
        self,
        policy: nn.Module,
        decoder: nn.Module,
        prior: nn.Module,
        config: ModelConfig | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__()
        self.policy, self.decoder, self.prior, self.config = policy, decoder, prior, config
        self.kind: Kind = Arrays() if kind is None else kind

    @classmethod
    def from_config(
        cls,
        config: ModelConfig,
        *,
        policy: nn.Module | None = None,
        decoder: nn.Module | None = None,
        prior: nn.Module | None = None,
        data_mean: Tensor | None = None,
        kind: Kind | None = None,
    ) -> DiscreteAutoencoder:
        """Builds the parts that are not given; with a part of your own the config is not kept.

        A decoder that is built here starts at data_mean, `Splits.mean`. Raises ValueError where the policy is a
        quantiser and the decoder has no codebook, or where there is no such problem.
        """
        own_parts = any(part is not None for part in (policy, decoder, prior))
        made, problem = POLICIES[config.policy], None
        if config.problem is not None and (policy is None or decoder is None):
            problem = find_problem(config.problem)
        if decoder is None:
            decoder = problem.make_decoder(config.observation_shape) if problem else make_decoder(config, data_mean)
        if policy is None:
            policy = problem.make_policy(config) if problem else made.policy(config, decoder)
        return cls(policy, decoder, prior or made.prior(config), None if own_parts else config, kind)

    @torch.no_grad()
    def encode(
        self,
        x: Array,
        num_samples: int | None = None,
        deterministic: bool = False,
        search: Search | str | None = None,
        score: CodeScore | None = None,
    ) -> Tensor:
        """Codes of data: [B, *observation_shape] → int64 [B, T], or [B, K, T] with num_samples = K codes per datum.

        They are drawn, or greedy where `deterministic`. Data may be of any type and form that `from_arrays` takes.
        With a `search`, such as "best-of:16" or "sweep:2/64" (`daps_rl.codes.Search`), they are what `search` finds.
        Raises ValueError where they have another shape than those that the model was made for.
        """
        if search is not None:
            if num_samples is not None:
                raise ValueError("a search gives one code for each datum; leave out num_samples.")
            return self.search(search, x, score=score).codes
        distribution = self.policy(self.observations(x))
        if num_samples is None:
            return distribution.mode if deterministic else distribution.sample()
        if deterministic:
            return distribution.mode.unsqueeze(1).expand(-1, num_samples, -1)
        return distribution.sample((num_samples,)).transpose(0, 1)

    @torch.no_grad()
    def search(
        self, search: Search | str, x: Array, targets: Tensor | None = None, score: CodeScore | None = None
    ) -> Found:
        """Looks for codes [B, T] that score higher than the greedy ones, see `find_codes`; some data at a time.

        Args:
            search: how, as in "sweep:2/64".
            x: data. [B, *x].
            targets: what is scored instead of them, as a problem's rewards may ask for. [B, *y].
            score: log p(x|z) if None.
        """
        search = Search.parse(search) if isinstance(search, str) else search
        x = self.observations(x)
        score, vocab_size = score or likelihood_score(self.decoder), codebook_size(self.policy)
        size = search.data_at_once(code_sizes(self.policy)[0], vocab_size)
        parts = zip(x.split(size), (x if targets is None else targets).split(size), strict=True)
        of_view = dataclasses.replace(search, augment=1)

        problem = None if self.config is None else self.config.problem
        found = list[Found]()
        for part, y in parts:
            posteriors = map(self.policy, views_of(problem, part, search.augment))
            of_views = [find_codes(of_view, y, posterior, score, vocab_size=vocab_size) for posterior in posteriors]
            found.append(best_of_views(of_views))
        return Found(*map(torch.cat, zip(*found, strict=True)))

    def code_score(self, rate_weight: float = 0.0, token_price: float = 0.0) -> CodeScore:
        """What a search goes by: log p(x|z) + rate_weight·log p(z) − token_price·length, in nats."""
        return likelihood_score(self.decoder, self.prior(), rate_weight, end_token(self.policy), token_price)

    @torch.no_grad()
    def decode(self, z: Array) -> Tensor:
        """Mean of p(x|z). Codes [..., T] → [..., *observation_shape]. Raises ValueError where z are no codes.

        Where codes may end, their first tokens are codes too: `decode(z[..., :3])`.
        """
        return self.decoder(self._codes(z)).mean

    def log_likelihood(self, x: Array, z: Array) -> Tensor:
        """log p(x|z), in nats. x [B, *x]; z [B, T] → [B], or z [B, K, T] → [B, K]. Continuous z have E behind T."""
        if self.config is None or self.config.problem is None:  # else x is what a problem scores by
            x = self.observations(x)
        x, z = torch.as_tensor(x, device=self._device), self._codes(z)
        groups = z.ndim - (3 if torch.is_floating_point(z) else 2)
        return self.decoder(z).log_prob(x[(slice(None), *[None] * groups)])

    def observations(self, x: Array, where: str = "x", whole: ArrayFile | None = None) -> Tensor:
        """Data as the policy takes them, see `as_observations`; in a model of parts of the user's own as they are.

        Pixels are refused where the likelihood is "gaussian": such data are standardised in training, by what a model
        does not hold. `where` is what messages call the data, `whole` the file that they are a part of.
        [B, ...] → [B, *observation_shape].
        """
        x = self.kind.prepare(x)
        if self.config is None:
            return torch.as_tensor(x, device=self._device)
        shape = self.config.observation_shape
        if self.config.column_kinds:
            x = torch.as_tensor(x, dtype=torch.float32, device=self._device)
            if x.shape[1:] != shape:
                needed = ", ".join(map(str, shape))
                raise DataError(f"{where} must have shape [N, {needed}], got {shape_of(x, whole)}")
            Columns(self.config.column_kinds).check(x, where)
            return x
        if isinstance(x, Tensor) and x.dtype == torch.float32 and x.shape[1:] == shape:
            if len(x):
                check_values(where, x)
            return x.to(self._device)  # with its gradient
        pixels = self.config.likelihood != "gaussian"
        return as_observations(x, shape, where, pixels=pixels, whole=whole).to(self._device)

    def _codes(self, z: Array) -> Tensor:
        """Codes as the decoder takes them; vectors, of continuous latents or of embedded codes, as they are.

        Where codes may end, prefixes [..., L] are codes of T tokens too, and what stands behind an end is not read.
        """
        z = torch.as_tensor(z, device=self._device)
        if z.is_floating_point():
            return z
        ends, (num_tokens, vocab_size) = end_token(self.policy), code_sizes(self.policy)
        if ends is None:
            return as_codes(z, num_tokens, vocab_size)
        codes = as_codes(z, min([num_tokens, *z.shape[-1:]]), vocab_size)
        return ends.close(ends.pad(codes, num_tokens))

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Means of p(x|z) for n codes drawn from the prior. [n, *observation_shape]."""
        return self.decode(self.prior().sample((n,)))

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes `config.json` and `model.safetensors` to a folder, atomically, each file whole or not at all."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        model = None if self.config is None else dataclasses.asdict(self.config)
        config = {"model": model, "kind": kind_to_json(self.kind)}
        save_tensors(directory / WEIGHTS, "model", self.state_dict(), config)
        write_atomically(directory / CONFIG, _as_text(config))

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        policy: nn.Module | None = None,
        decoder: nn.Module | None = None,
        prior: nn.Module | None = None,
        device: torch.device | str = "cpu",
        trust: bool = False,
    ) -> DiscreteAutoencoder:
        """Reads what `save_pretrained` wrote, as it was written. Nothing is unpickled, and no code runs that it names.

        Args:
            policy, decoder, prior: parts of your own, built as they were when saved; their weights are loaded.
            trust: import the problem that the folder names where it is not one of ours, package.module:Class.
        Raises:
            ValueError: the folder is not a saved model, is damaged, does not fit the parts given, or names a problem
                that is not one of ours.
        """
        directory = Path(directory)
        for name in (CONFIG, WEIGHTS):
            if not (directory / name).is_file():
                raise ValueError(
                    f"{directory} holds no saved model: {name} is missing; "
                    "pass a folder that save_pretrained wrote, such as RUN/model."
                )
        tensors, info = load_tensors(directory / WEIGHTS, "model")
        text = _as_text(info)
        with open(directory / CONFIG, "rb") as file:
            if file.read(len(text) + 1) != text:
                raise ValueError(f"{directory / CONFIG} is not what was saved with {WEIGHTS}; restore a copy of both.")
        values = info.get("kind") or {}
        check_trusted([str(values.get("kind"))], directory, trust)
        kind = kind_from_json(values)
        if info.get("model") is None:
            if policy is None or decoder is None:
                raise ValueError(
                    f"{directory} was saved from parts of your own; pass them: from_pretrained(..., policy=, decoder=)."
                )
            own_prior = prior or UniformPrior(code_sizes(policy)[0], codebook_size(policy), end_token(policy))
            model = cls(policy, decoder, own_prior, kind=kind)
        else:
            config = config_from_dict(info["model"], ModelConfig)
            check_trusted([config.problem], directory, trust)
            check_memory(config, bytes_each=8)  # those of the file too
            model = cls.from_config(config, policy=policy, decoder=decoder, prior=prior, kind=kind)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"the weights in {directory} do not fit the model ({one_line(error)}).") from error
        return model.to(device).eval()


def check_memory(config: ModelConfig, bytes_each: int) -> None:
    """Raises ValueError, before anything is made, where a model's parameters would not fit into memory.

    They are counted on torch's meta device. What cannot be made there is left to be made, and to say itself what is
    wrong with it.
    """
    if config.policy == "fsq":  # asks its tensors for numbers; a learned codebook is larger by little
        config = dataclasses.replace(config, policy="vq", policy_options={})
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            needed = bytes_each * sum(p.numel() for p in DiscreteAutoencoder.from_config(config).parameters())
    except Exception:
        return
    if needed > memory_size():
        raise ValueError(
            f"a model of these sizes needs {needed / 2**30:,.0f} GiB, and this machine has "
            f"{memory_size() / 2**30:,.0f} GiB; lower --embed-dim, --num-layers, --vocab-size or the decoder's sizes."
        )


def make_decoder(config: ModelConfig, data_mean: Tensor | None = None) -> nn.Module:
    """The decoder of data that a config describes, with its likelihood."""
    cls, likelihood = DECODERS[config.decoder], LIKELIHOODS[config.likelihood]
    parts: dict[str, Any] = {
        "likelihood": likelihood(**{name: getattr(config, name) for name in likelihood.model_settings or ()})
    }
    if issubclass(cls, CodeDecoder):
        parts |= {argument: getattr(config, name) for argument, name in cls.model_settings.items()}
        parts |= {"embed_dim": config.decoder_embed_dim, "data_mean": data_mean}
        parts["embed"] = POLICIES[config.policy].embedding(config)
    return cls(config.num_tokens, config.num_symbols, config.observation_shape, **parts)


def code_sizes(policy: nn.Module) -> tuple[int, int]:
    """(T, V) of a policy, which every policy carries as `num_tokens` and `vocab_size`; a ValueError without."""
    match getattr(policy, "num_tokens", None), getattr(policy, "vocab_size", None):
        case int(num_tokens), int(vocab_size):
            return num_tokens, vocab_size
    raise ValueError(f"the policy {type(policy).__name__} needs integer attributes num_tokens and vocab_size.")


def codebook_size(policy: nn.Module) -> int:
    """How many tokens a position can take: V, of FSQ what its levels make, which may be fewer."""
    return int(getattr(policy, "codebook_size", code_sizes(policy)[1]))


def _as_text(config: dict[str, Any]) -> bytes:
    """What config.json holds, which is saved with the weights too."""
    return to_json(config, indent=2).encode() + b"\n"
