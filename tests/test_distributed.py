"""Several processes that train one model: updates of the whole batch, rank 0 alone writes, kills and restarts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from daps_rl.config import make_config
from daps_rl.data import Splits
from daps_rl.distributed import World, joined
from daps_rl.policies import FactorizedCategorical, FactorizedPolicy
from daps_rl.training import Trainer

B, N, T, V = 8, 24, 3, 4
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "daps_rl")
SMALL = ("--num-tokens", "2", "--vocab-size", "4", "--embed-dim", "16", "--decoder-hidden", "16", "--batch-size", "16")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class DrawnByDatum(FactorizedCategorical):
    """Codes that depend on a datum's own numbers and on nothing else: the same in one process as in two."""

    def __init__(self, logits, x):
        super().__init__(logits)
        self.x = x

    @torch.no_grad()
    def sample(self, sample_shape=(), generator=None):
        k = torch.arange(torch.Size(sample_shape).numel())[:, None, None]
        place = torch.frac((self.x[:, :1] * 977.0 + 0.37 * k + 0.11 * torch.arange(T)) % 1.0)  # [K, B, T]
        return (place * V).long().clamp_max(V - 1).view(*sample_shape, *self.batch_shape, T)


class Policy(FactorizedPolicy):
    def forward(self, observation):
        observation = observation.double()
        return DrawnByDatum(super().forward(observation).log_probs, observation)


def make_splits() -> Splits:
    x = torch.rand(N, 6, generator=torch.Generator().manual_seed(0))
    return Splits(name="x", train=x, validation=x, test=x, likelihood="fixed_gaussian", value_range=(0.0, 1.0))


def make_trainer(world: World, agent: str = "daps-na", **options) -> Trainer:
    config = make_config(
        data="x", agent=agent, policy="factorized", num_tokens=T, vocab_size=V, batch_size=B, steps=5, log_every=5,
        validate_every=5, embed_dim=16, decoder_hidden=(16,), device="cpu", seed=3, score_precision="float32",
        weight_decay=0.0, warmup_steps=1, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = Policy((6,), T, V, embed_dim=16, num_heads=2)
    trainer = Trainer(config, make_splits(), policy=policy, world=world)
    # In float32 Adam makes whole steps of the rounding errors of gradients that are 0, such as those of keys' biases.
    trainer.agent.double()
    trainer.autoencoder.double()
    return trainer


def run(world: World, agent: str, options: dict) -> tuple[dict, dict]:
    trainer = make_trainer(world, agent, **options)
    row = list(trainer.run())[-1]
    return {name: value.clone() for name, value in trainer.autoencoder.state_dict().items()}, row


CASES = {
    "daps-na": {},
    "daps-na, adaptive, in microbatches": {"trust_region": "adaptive", "microbatch": 2},
    "daps-na, twice a batch": {"agent_options": {"epochs": 2}},
    "daps-na, pooled": {"agent_options": {"pooling": 50.0}},
    "rloo": {},
    "grpo": {"agent_options": {"epochs": 2}},
}


def in_world(rank: int, size: int, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    found = {case: run(World(rank, size), case.partition(",")[0], options) for case, options in CASES.items()}
    torch.save(found, f"{file}.{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found_by_two(tmp_path_factory) -> list[dict]:
    """What each of two processes ends with, by case."""
    file = str(tmp_path_factory.mktemp("world") / "world")
    mp.spawn(in_world, (2, file), nprocs=2)
    return [torch.load(f"{file}.{rank}", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one(found_by_two, case):
    """Weights and metrics after five steps; the temperature is that of the whole batch."""
    agent, options = case.partition(",")[0], CASES[case]
    one, row = run(World(), agent, options)
    start = make_trainer(World(), agent, **options).autoencoder.state_dict()
    (first, first_row), (second, second_row) = (found[case] for found in found_by_two)
    assert any((one[name] - start[name]).abs().max() > 1e-3 for name in one)  # something was learnt
    for name, value in one.items():
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5)
        assert torch.equal(first[name], second[name])
    for name in ("log_likelihood", "kl", "loss_decoder", "code_usage", "decoder_evaluations"):
        assert first_row[name] == pytest.approx(row[name], rel=1e-4), name
    if agent == "daps-na":
        assert first_row["temperature"] == pytest.approx(row["temperature"], rel=1e-3)
    assert "validation_psnr" in first_row
    assert "validation_psnr" not in second_row


def test_each_process_sees_its_part_and_draws_codes_of_its_own(monkeypatch):
    monkeypatch.setattr(World, "share_first", lambda self, *modules: None)  # there is only one process here
    whole = make_trainer(World()).batch()
    parts = [make_trainer(World(rank, 2)).batch() for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)
    states = []
    for rank in range(2):
        make_trainer(World(rank, 2))
        states.append(torch.rand(()).item())
    assert states[0] != states[1]


def test_a_world_of_one_does_nothing():
    world, x = World(), torch.rand(3)
    assert world.gather(x) is x
    assert world.total(x) is x
    assert world.agree(2.0, True) == (2.0, True)
    assert world.from_first(lambda: "a") == "a"
    assert world.of_all(1) == [1]
    layer = nn.Linear(2, 1)
    layer(torch.ones(2)).sum().backward()
    before = layer.weight.grad.clone()
    assert world.average_gradients(list(layer.parameters()), torch.tensor(3.0)) == 3.0
    assert torch.equal(layer.weight.grad, before)
    with joined() as found:
        assert found == world


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="batch_size must be a multiple of the number of processes, 3, got 8"):
        make_trainer(World(0, 3))
    with pytest.raises(ValueError, match="trains in one process"):
        make_trainer(World(0, 2), agent="sb3:ppo")
    with pytest.raises(ValueError, match="rank must lie in"):
        World(2, 2)


def torchrun(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*TORCHRUN, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False, **options
    )


def test_a_run_under_torchrun_stops_and_goes_on(tmp_path: Path):
    """Asked to stop after its first checkpoint, and resumed; one folder, one row a log step, one voice."""
    run = tmp_path / "run"
    command = ("train", *SMALL, "--steps", "100000", "--log-every", "5", "--checkpoint-every", "5", "--out", str(run))
    child = subprocess.Popen([*TORCHRUN, *command], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    child.wait(timeout=60)
    config = json.loads((run / "config.json").read_text())
    assert config["steps"] == 100000
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]["step"]
    last += -last % 5
    (run / "config.json").write_text(json.dumps({**config, "steps": last + 20}))
    # A checkpoint knows its settings: the shorter run is written into it, as no test waits for 100,000 steps.
    from daps_rl.tensor_file import load_tensors, save_tensors

    tensors, info = load_tensors(run / "checkpoint.safetensors", "checkpoint")
    assert {"random.cpu", "random.cpu1"} <= set(tensors)
    save_tensors(
        run / "checkpoint.safetensors", "checkpoint", tensors, {**info, "config": {**config, "steps": last + 20}}
    )
    done = torchrun("train", "--resume", "--out", str(run))
    assert done.returncode == 0, done.stderr[-2000:]
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [step for step in steps if step % 5 == 0] == list(range(5, last + 21, 5))
    assert json.loads((run / "summary.json").read_text())["steps"] == last + 20
    assert done.stdout.count("digits: ") == 1  # one process speaks


@pytest.mark.slow
def test_torchrun_starts_a_dead_process_again(tmp_path: Path):
    """A process that dies takes the others with it; all start anew from the last checkpoint."""
    (tmp_path / "dies.py").write_text(
        """
import os
from daps_rl.agents import DAPS

class Dies(DAPS):
    steps = 0

    def losses(self, observation, score, floor):
        Dies.steps += 1
        if Dies.steps == 12 and self.world.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os._exit(9)
        yield from super().losses(observation, score, floor)
"""
    )
    command = list(TORCHRUN)
    command.insert(command.index("-m", 3), "--max-restarts=1")
    out = ("--agent", "dies:Dies", "--steps", "20", "--checkpoint-every", "5", "--log-every", "5", "--out", "run")
    done = subprocess.run(
        [*command, "train", *SMALL, *out], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=250,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 20


def test_a_sharded_policy_takes_the_steps_of_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The example's loop in a world of one, sharded and not: the same weights, and not those of the start."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "examples")
    import fsdp

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'world'}", rank=0, world_size=1)
    try:
        start, whole = (fsdp.train(World(), steps, sharded=False) for steps in (0, 3))
        sharded = fsdp.train(World(), 3)
    finally:
        dist.destroy_process_group()
    for name, value in whole.items():
        torch.testing.assert_close(sharded[name], value, rtol=1e-4, atol=1e-5)
    assert max((whole[name] - start[name]).abs().max() for name in whole) > 1e-3
