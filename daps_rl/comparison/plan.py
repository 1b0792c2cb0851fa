"""What is compared: agents, seeds and the settings of every run."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from daps_rl.agents import find_agent
from daps_rl.config import TrainConfig, make_config
from daps_rl.config.run import rate_settings
from daps_rl.names import weighted_name
from daps_rl.training.checks import NEEDS_PRIOR

SHARED = ("data", "data_dir", "problem", "agent", "seed")
"""Settings that no entry has for itself."""
LENGTHS = ("steps", "minutes")


class PlannedRun(NamedTuple):
    """One entry with one seed: a run folder of its own."""

    label: str
    seed: int
    name: str
    config: TrainConfig

    @property
    def key(self) -> tuple[str, int]:
        """Label and seed."""
        return self.label, self.seed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a comparison; comparison.json holds them.

    Attributes:
        agents: agent by label; a label is the agent's own name unless an agent takes part more than once.
        seeds: of the runs of each entry.
        preset: of `make_config`.
        options: of `TrainConfig`, for all runs.
        own: more of them by label, for the runs of that entry alone.
    Raises:
        ValueError: an entry, a seed or a setting makes no sense.
    """

    agents: dict[str, str]
    seeds: tuple[int, ...]
    preset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    own: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.agents or not self.seeds:
            raise ValueError("a comparison needs at least one agent and one seed; pass --agents daps,ppo --seeds 3.")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different numbers >= 0, got {', '.join(map(str, self.seeds))}.")
        folders: dict[str, str] = {}
        for label in self.agents:
            if (other := folders.setdefault(_folder_name(label), label)) != label:
                raise ValueError(f"{label!r} and {other!r} would share a folder; give one another label, LABEL=AGENT.")
        if unknown := sorted(set(self.own) - set(self.agents)):
            raise ValueError(
                f"--set names {', '.join(unknown)}, which takes no part; the agents are {', '.join(self.agents)}."
            )
        for label, options in self.own.items():
            if shared := sorted(set(options) & set(SHARED)):
                raise ValueError(f"--set {label}:{shared[0]} is not possible: {', '.join(SHARED)} are not its own.")

    def config(self, label: str, seed: int) -> TrainConfig:
        """Settings of one run: the recipes of data and agent, the shared options, then the entry's own."""
        return make_config(self.preset, agent=self.agents[label], seed=seed, **self._options(label))

    def _options(self, label: str) -> dict[str, Any]:
        """The shared options under the entry's own; its own length stands in for the shared one.

        Who learns through the decoder's gradient is measured by the shared verdicts, and does not learn from them.
        """
        own = self.own.get(label, {})
        left_out = LENGTHS if set(LENGTHS) & set(own) else ()
        options = {name: value for name, value in self.options.items() if name not in left_out}
        if "reward" in options and find_agent(self.agents[label]).cls.needs_decoder_gradient:
            options["reward"] = [f"{weighted_name(text)[0]}:0" for text in options["reward"]]  # measured alone
        return options | own

    @property
    def problem(self) -> str | None:
        """The problem that all runs are of, where it is not encoding."""
        return self.options.get("problem")

    @property
    def reward_names(self) -> list[str]:
        """Names of all verdicts in the rewards of the runs."""
        rewards = [options.get("reward", ()) for options in (self.options, *self.own.values())]
        return [weighted_name(text)[0] for reward in rewards for text in reward]

    def runs(self) -> Iterator[PlannedRun]:
        """All runs, seed by seed, so that a comparison cut short has as many seeds of every agent."""
        for seed in self.seeds:
            for label in self.agents:
                yield PlannedRun(label, seed, f"{_folder_name(label)}-seed{seed}", self.config(label, seed))

    def check(self) -> None:
        """Raises ValueError where an agent is not known or settings make no sense, before the first run is trained."""
        for run in self.runs():
            find_agent(run.config.agent)

    def check_rate(self, labels: Iterable[str]) -> None:
        """Raises ValueError where the rate has a weight, and one of these entries could learn nothing from it."""
        weighed = {label: names[0] for label in labels if (names := rate_settings(self._options(label)))}
        deaf = [label for label in weighed if not find_agent(self.agents[label]).cls.learns_rate]
        if deaf:
            name = weighed[deaf[0]]
            raise ValueError(
                f"{name} needs agents that learn from log p(z), got {', '.join(deaf)}; leave these out, or compare at "
                f"fixed sizes of code, without {name}: `daps-rl fit-prior` then says what the codes of a run take."
            )
        for label, name in weighed.items():
            config = self.config(label, self.seeds[0])
            if config.prior == "uniform" and not config.end_token:
                raise ValueError(f"{name} {NEEDS_PRIOR}")

    def command(self, run: PlannedRun) -> list[str]:
        """The `daps-rl train` that does the same as one run of the comparison."""
        options = [("agent", run.config.agent), ("seed", run.seed), *self._options(run.label).items()]
        preset = [] if self.preset is None else ["--config", self.preset]
        return ["daps-rl", "train", *preset, *(flag for option in options for flag in _as_flags(*option))]

    def to_json(self) -> dict[str, Any]:
        """As comparison.json holds it."""
        return _plain(dataclasses.asdict(self))


def plan_from_json(values: Mapping[str, Any]) -> Plan:
    """The settings that `to_json` gave; ValueError for unknown, missing or invalid entries."""
    known = {field.name for field in dataclasses.fields(Plan)}
    if known != set(values):
        raise ValueError(
            f"comparison.json must hold {', '.join(sorted(known))}, got {', '.join(sorted(values)) or 'nothing'}; "
            "restore a copy, or start anew in another --out."
        )
    try:
        plan = Plan(**{**values, "seeds": tuple(values["seeds"])})
        # Nothing is imported before its name is trusted: whether there is such an agent is found by `check`.
        if not all(isinstance(name, str | type(None)) for name in (*plan.agents.values(), plan.problem, plan.preset)):
            raise TypeError("an agent, the problem or the preset is no name")
    except (TypeError, AttributeError) as error:  # of values that are of another type than those that were written
        raise ValueError(
            f"comparison.json is damaged ({error}); restore a copy, or start anew in another --out."
        ) from error
    return plan


def extended(
    recorded: Plan,
    *,
    agents: dict[str, str],
    seeds: Sequence[int],
    preset: str | None,
    options: dict[str, Any],
    own: dict[str, dict[str, Any]],
) -> Plan:
    """A comparison that goes on: with the settings `recorded`, and the agents and seeds that are new.

    Raises:
        ValueError: a setting is another than the one that the comparison began with.
    """
    options, new = _plain(options), _plain(own)
    changed = [f"--{name.replace('_', '-')}" for name, value in options.items() if recorded.options.get(name) != value]
    changed += ["--config"] if preset not in (None, recorded.preset) else []
    changed += [f"--agents {label}" for label, agent in agents.items() if recorded.agents.get(label, agent) != agent]
    known = {label: recorded.own.get(label, {}) for label in recorded.agents}
    changed += [f"--set {label}" for label, values in new.items() if known.get(label, values) != values]
    if changed:
        raise ValueError(
            f"a comparison keeps the settings that it began with; leave out {', '.join(changed)}, or choose another "
            "--out. More agents and more seeds are welcome."
        )
    return Plan(
        agents={**recorded.agents, **agents},
        seeds=tuple(sorted({*recorded.seeds, *seeds})),
        preset=recorded.preset,
        options=recorded.options,
        own={**recorded.own, **new},
    )


def _folder_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label)


def _plain(values: Any) -> Any:
    """As it comes back from a JSON file: lists for tuples."""
    return json.loads(json.dumps(values))


def _as_flags(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, dict):
        return [flag, ",".join(f"{key}={json.dumps(part).strip(chr(34))}" for key, part in value.items())]
    return [flag, ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]
