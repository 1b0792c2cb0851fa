"""What a GPU records: the part of a step that may ask nothing of the host, and the precision it works in."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from daps_rl.agents import AGENTS
from daps_rl.config import make_config
from daps_rl.data import from_arrays
from daps_rl.envs import PROBLEMS, find_problem
from daps_rl.policies import AutoregressivePolicy, CodeMask, draw
from daps_rl.training import Trainer
from daps_rl.training.cuda_graph import GraphedUpdate, keeps_to_the_device

SIZES = {
    "num_tokens": 3, "vocab_size": 4, "embed_dim": 8, "num_heads": 2, "decoder_hidden": (8,), "decoder_embed_dim": 4,
    "batch_size": 8, "validate_every": 0, "log_every": 1, "likelihood": "bernoulli", "steps": 100, "device": "cpu",
}  # fmt: skip
RECORDED = sorted(name for name, agent in AGENTS.items() if agent.cls.on_device)
HOST = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.bincount.default}


def make_trainer(agent: str = "daps", **options) -> Trainer:
    splits = from_arrays((torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float())
    return Trainer(make_config(agent=agent, **{**SIZES, **options}), splits)


class NoHost(TorchDispatchMode):
    """Fails where a number or a shape is read off a tensor, for which a GPU has to wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in HOST:
            raise AssertionError(f"{function} asks the host")
        return function(*args, **(kwargs or {}))


def test_no_host_sees_what_it_has_to():
    with NoHost():
        for ask in (torch.Tensor.item, bool, torch.nonzero):
            with pytest.raises(AssertionError, match="asks the host"):
                ask(torch.ones(()))


@pytest.mark.parametrize(("agent", "options"), [*((agent, {}) for agent in RECORDED), ("daps", {"epochs": 2})])
def test_the_recorded_part_of_a_step_asks_nothing_of_the_host(agent, options):
    trainer = make_trainer(agent, agent_options=options)
    trainer.train_step()
    before = [parameter.clone() for parameter in trainer.autoencoder.parameters()]
    with NoHost():
        trainer.learner.learn(trainer.batch())
    after = list(trainer.autoencoder.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


UNMASKED = ("bandit-digits", "reverse8", "sort8", "add4", "brackets8", "nk20", "cut30", "labs20")


def make_problem_trainer(problem: str, device: str = "cpu", **options) -> Trainer:
    small = {"embed_dim": 8, "num_heads": 2, "num_layers": 1, "batch_size": 1, "samples": 4, "ess_fraction": 0.5}
    config = make_config(problem=problem, agent="daps", device=device, **{**small, "steps": 20, **options})
    return Trainer(config, find_problem(problem).splits())


@pytest.mark.parametrize("problem", UNMASKED)
def test_the_rewards_of_problems_ask_nothing_of_the_host(problem):
    trainer = make_problem_trainer(problem)
    trainer.train_step()
    batch = [part for part in (trainer.batch(), trainer.targets()) if part is not None]
    assert len(batch) == (2 if problem == "bandit-digits" else 1)
    with NoHost():
        trainer.learner.learn(*batch)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problems_are_recorded_where_they_say_so(problem):
    class Own(type(find_problem(problem))):
        """A subclass, whose reward may be anything."""

    trainer = make_problem_trainer(problem)
    assert all(map(keeps_to_the_device, [*trainer.agent.modules(), *trainer.autoencoder.modules()]))
    assert not keeps_to_the_device(Own().make_decoder((1,)))


def test_a_mask_of_ones_own_is_recorded_where_it_says_so():
    class Half(CodeMask):
        pass

    class SaysHalf(CodeMask):
        on_device = True

    policy = AutoregressivePolicy((4,), 3, 2, embed_dim=8, num_heads=2, num_layers=1, mask=Half())
    assert not all(map(keeps_to_the_device, policy.modules()))
    policy = AutoregressivePolicy((4,), 3, 2, embed_dim=8, num_heads=2, num_layers=1, mask=SaysHalf())
    assert all(map(keeps_to_the_device, policy.modules()))


def test_which_agents_are_recorded():
    assert {"daps", "daps-na", "daps-fixed", "tpo", "rloo", "gumbel", "gaussian"} <= set(RECORDED)
    assert not {"ppo", "vq", "a2c"} & set(RECORDED)
    assert not make_trainer().learner.graphed  # no GPU in this run's settings


def test_only_parts_that_are_known_to_keep_to_the_device_are_recorded():
    class Own(torch.nn.Linear):
        pass

    class Says(torch.nn.Linear):
        on_device = True

    class SaysNothing(Says):
        pass

    trainer = make_trainer("daps")
    assert all(map(keeps_to_the_device, [*trainer.agent.modules(), *trainer.autoencoder.modules()]))
    assert keeps_to_the_device(Says(1, 1))
    assert not keeps_to_the_device(Own(1, 1))
    assert not keeps_to_the_device(SaysNothing(1, 1))


@pytest.mark.parametrize("agent", ["daps", "daps-na", "gumbel", "ppo"])
def test_bfloat16_changes_the_matrix_products_alone(agent):
    runs = {precision: make_trainer(agent, precision=precision) for precision in ("float32", "bfloat16")}
    x = runs["float32"].batch()
    policy = runs["bfloat16"].autoencoder.policy
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        posterior = policy(x)
        codes, log_prob = draw(posterior, (5,))
        scored = posterior.log_prob(codes)
        log_likelihood = runs["bfloat16"].autoencoder.decoder(codes).log_prob(x)
    assert {t.dtype for t in (log_prob, scored, log_likelihood)} == {torch.float32}
    assert not torch.equal(scored, policy(x).log_prob(codes))
    torch.testing.assert_close(scored, policy(x).log_prob(codes), rtol=0.02, atol=0.02)
    torch.testing.assert_close(scored, log_prob, rtol=0.02, atol=0.02)
    exact = runs["float32"].autoencoder.decoder(codes).log_prob(x)
    torch.testing.assert_close(log_likelihood, exact, rtol=0.02, atol=0.02)
    rows = {precision: [run.train_step() for _ in range(20)] for precision, run in runs.items()}
    assert {p.dtype for p in runs["bfloat16"].autoencoder.parameters()} == {torch.float32}
    assert rows["bfloat16"][0]["log_likelihood"] != rows["float32"][0]["log_likelihood"]
    ends = [rows[precision][-1]["log_likelihood"].item() for precision in rows]
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


def test_bfloat16_reaches_every_parameter_that_float32_reaches():
    for agent in ("daps", "gumbel"):
        trained = []
        for precision in ("float32", "bfloat16"):
            run = make_trainer(agent, precision=precision)
            run.train_step()
            reached = {name for name, p in run.autoencoder.named_parameters() if p.grad is not None and p.grad.any()}
            trained.append(reached)
        assert trained[0] == trained[1]


@pytest.mark.gpu
@pytest.mark.parametrize("agent", RECORDED)
def test_no_synchronisation_inside_a_step(agent):
    for cuda_graph in (False, True):
        run = make_trainer(agent, device="cuda", cuda_graph=cuda_graph)
        assert run.learner.graphed is cuda_graph
        step_without_synchronisation(run)


def step_without_synchronisation(run: Trainer) -> None:
    """After the steps that warm it up."""
    for _ in range(5):
        run.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"policy_samples": 3}, {"agent_options": {"epochs": 2}}])
def test_no_synchronisation_inside_a_step_with_options(options):
    run = make_trainer("daps", device="cuda", **options)
    assert run.learner.graphed
    step_without_synchronisation(run)


@pytest.mark.gpu
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_step_of_a_problem_is_recorded(problem):
    eager, graphed = (make_problem_trainer(problem, "cuda", cuda_graph=graph, steps=2000) for graph in (False, True))
    assert (eager.learner.graphed, graphed.learner.graphed) == (False, True)
    step_without_synchronisation(eager)
    step_without_synchronisation(graphed)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("problem", ["tsp20", "knapsack50", "maxcut20"])
def test_a_step_reads_the_contexts_it_is_given(problem, device):
    """Cities in one place, items of no worth and graphs without edges are paid 0, whatever was recorded."""
    run = make_problem_trainer(problem, device, batch_size=4)
    for _ in range(5):
        assert run.train_step()["log_likelihood"] != 0.0
    assert run.learner.update(torch.zeros_like(run.batch()))["log_likelihood"] == 0.0


@pytest.mark.gpu
def test_a_recorded_step_reads_each_batch_s_targets():
    run = make_problem_trainer("bandit-digits", "cuda", batch_size=64, learning_rate=1e-2, steps=200, embed_dim=32)
    assert run.learner.graphed
    assert list(run.run())[-1]["log_likelihood"] > 0.7  # one in ten by chance


@pytest.mark.gpu
def test_a_replay_does_what_the_function_does():
    weight = torch.zeros(3, device="cuda")
    seen = torch.zeros((), device="cuda")

    def update(batch):
        weight.add_(batch.mean(0))
        seen.add_(1.0)
        return {"sum": weight.sum(), "noise": torch.rand((), device="cuda")}

    graphed = GraphedUpdate(update)
    total, noises = torch.zeros(3, device="cuda"), set()
    rows = []
    for step in range(8):
        batch = torch.full((4, 3), float(step), device="cuda")
        total += step
        rows.append(graphed(batch))
    torch.testing.assert_close(weight, total)
    assert seen.item() == 8
    sums = [row["sum"].item() for row in rows]
    assert sums == pytest.approx([3.0 * sum(range(step + 1)) for step in range(8)])  # rows are not overwritten
    noises = {row["noise"].item() for row in rows}
    assert len(noises) == 8
    graphed(torch.ones(2, 3, device="cuda"))  # another shape runs as it is
    torch.testing.assert_close(weight, total + 1)


@pytest.mark.gpu
def test_what_cannot_be_recorded_says_so():
    """In a process of its own: a failed recording leaves the device's random numbers unusable."""
    code = """
import torch
from daps_rl.training.cuda_graph import GraphedUpdate, keeps_to_the_device
graphed = GraphedUpdate(lambda batch: {"sum": batch.sum() * batch.sum().item()})
for _ in range(4):
    graphed(torch.ones(2, device="cuda"))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "pass --no-cuda-graph" in run.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("agent", ["daps", "daps-na", "gumbel-na"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_learns_what_a_cpu_learns(agent, precision):
    ends = []
    for device in ("cpu", "cuda"):
        run = make_trainer(agent, device=device, precision=precision, learning_rate=1e-2, steps=60)
        ends.append(list(run.run())[-1]["log_likelihood"])
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


@pytest.mark.gpu
def test_a_graphed_run_is_resumed():
    first = make_trainer(device="cuda")
    for _ in range(6):
        first.train_step()
    tensors, info = first.state()
    tensors = {name: value.clone() for name, value in tensors.items()}
    again = make_trainer(device="cuda")
    for _ in range(6):
        again.train_step()
    again.load_state(tensors, info)
    for name, value in again.state()[0].items():
        torch.testing.assert_close(value, tensors[name], msg=name)
    for _ in range(6):
        again.train_step()
    assert again.step == 12
    moved = [not torch.equal(value, tensors[f"model.{name}"]) for name, value in again.autoencoder.state_dict().items()]
    assert any(moved)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_sampling_casts_a_weight_once_and_training_still_reaches_it(device):
    policy = make_trainer().autoencoder.policy.to(device)
    x = torch.rand(4, 1, 6, 6, device=device)
    casts = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and args[0].shape == weight.shape:
                casts.append(function)
            return function(*args, **(kwargs or {}))

    weight = policy.transformer.blocks[0].mlp[0].weight
    with torch.autocast(device, torch.bfloat16, cache_enabled=False):
        posterior = policy(x)
        with Count():
            codes = posterior.sample((5,))
        assert len(casts) == 1
        loss = posterior.log_prob(codes).sum()
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.any()
