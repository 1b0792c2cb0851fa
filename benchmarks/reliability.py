"""What docs/reliability.md promises, tried: kills, fuzzed command lines, flipped bits, memory over many steps.

    python benchmarks/reliability.py kills --count 270     # SIGKILL at random moments, resumed: as if nothing had been
    python benchmarks/reliability.py compare --count 30    # the same of compare --jobs 2, and of its runs
    python benchmarks/reliability.py lines --count 600     # whatever is typed: an end, or one line
    python benchmarks/reliability.py bits --count 200      # one bit flipped in models and checkpoints: refused
    python benchmarks/reliability.py memory --count 20000  # steps of a tiny run: its memory does not grow

Each takes a few minutes, ends after --seconds at the latest, and adds rows to reliability.jsonl of what it has done;
exit 1 where a promise was broken. --seed chooses other moments, lines and bits. For Linux: what is killed, or given a
line, is a fork of this process, which has torch in memory already.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_row
from safetensors.torch import load_file

from daps_rl import DiscreteAutoencoder
from daps_rl.agents import find_agent
from daps_rl.cli import main as command
from daps_rl.config import make_config
from daps_rl.data import from_arrays
from daps_rl.report import read_metrics
from daps_rl.tensor_file import load_tensors
from daps_rl.training import Trainer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

AGENTS = ("daps", "daps-na", "tpo", "rloo", "ppo", "gumbel", "vq", "sb3:ppo")
TINY = [
    "--batch-size", "8", "--samples", "4", "--ess-fraction", "0.5", "--num-tokens", "3", "--vocab-size", "4",
    "--embed-dim", "8", "--num-heads", "2", "--decoder-hidden", "8", "--decoder-embed-dim", "4", "--log-every", "2",
    "--validate-every", "20", "--checkpoint-every", "5", "--likelihood", "fixed_gaussian", "--steps", "60",
]  # fmt: skip
PICTURES = ("reconstructions.png", "learning_curves.png", "code_usage.png")
LIMIT = 60.0  # seconds that a command line may take before it is asked to end, and then to end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=TRIALS)
    parser.add_argument("--count", type=int, help="kills, lines, bits or steps; the number above if not given")
    parser.add_argument("--seconds", type=float, default=1800.0, help="end after this long")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    trial, count = TRIALS[options.what]
    end, whole = time.monotonic() + options.seconds, True
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        np.save("data.npy", np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32))
        for row in trial(options.count or count, random.Random(options.seed), lambda: time.monotonic() < end):
            whole &= not row["broken"]
            write_row("reliability", {"trial": options.what, "seed": options.seed, **row, "broken": row["broken"][:9]})
        os.chdir("/")
    return 0 if whole else 1


class Fork:
    """A command in a process of its own: a copy of this one, with what it writes in a file."""

    def __init__(self, arguments: list[str]) -> None:
        self.said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # read when it has ended
        self.start, self.code = time.monotonic(), None
        self.pid = os.fork()
        if self.pid == 0:
            for stream in (1, 2):
                os.dup2(self.said.fileno(), stream)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
            code = 70  # a traceback: what main lets through
            try:
                code = command(arguments)
            except SystemExit as exit_:
                code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
            except BaseException as error:
                print(f"Traceback: {type(error).__name__}: {error} of {arguments}", file=sys.stderr)
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)

    def wait(self, seconds: float) -> bool:
        """Returns whether it has ended within that time, with its exit code in `code`."""
        end = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code, self.seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self.start
            elif time.monotonic() > end:
                return False
            else:
                time.sleep(0.002)
        return True

    def text(self) -> str:
        """What it wrote."""
        self.said.seek(0)
        return self.said.read()


def outcome(run: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict[str, Any]]:
    """Returns what a run has come to but for seconds: weights, rows, and test metrics."""
    rows = read_metrics(run / "metrics.jsonl")
    for row in rows:
        row.pop("seconds")
    summary = json.loads((run / "summary.json").read_text())
    assert all((run / name).stat().st_size > 1000 for name in PICTURES if summary["bits"] is not None)
    assert not list(run.glob(".*.*")), "a half-written file is left"
    return load_file(run / "model" / "model.safetensors"), rows, {name: summary[name] for name in ("steps", "test")}


def same(run: Path, whole: Path) -> str | None:
    """Returns what differs between two runs, None where nothing does."""
    try:
        (weights, *rest), (expected, *others) = outcome(run), outcome(whole)
    except (OSError, AssertionError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if weights.keys() != expected.keys() or not all(torch.equal(weights[name], expected[name]) for name in weights):
        return "weights differ"
    return None if rest == others else "rows or metrics differ"


def kills(count: int, random: random.Random, on: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Runs of each agent, killed three times or so each, against one that was not."""
    for index, agent in enumerate(AGENTS):
        begin = ["train", "--data", "data.npy", "--agent", agent, *TINY]
        find_agent(agent)
        whole = Path(f"whole-{index}")
        reference = Fork([*begin, "--out", str(whole)])
        reference.wait(300)
        assert reference.code == 0, reference.text()
        mine, broken, killed, runs = (count + len(AGENTS) - 1) // len(AGENTS), [], 0, 0
        while killed < mine and on():
            run, done = Path(f"run-{index}-{runs}"), False
            runs += 1
            for left in (3, 2, 1, 0):
                resume = (run / "config.json").exists()
                child = Fork(["train", "--resume", "--out", str(run)] if resume else [*begin, "--out", str(run)])
                if left and killed < mine and not child.wait(random.uniform(0, 1.1 * reference.seconds)):
                    os.kill(child.pid, signal.SIGKILL)
                    killed += 1
                child.wait(300)
                done = child.code == 0
                if done or child.code != -signal.SIGKILL:
                    break
            why = same(run, whole) if done else f"exit code {child.code}: {child.text()[-300:]}"
            broken += [why] if why else []
        yield {"agent": agent, "kills": killed, "runs": runs, "equal": runs - len(broken), "broken": broken}


def compare(count: int, random: random.Random, on: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """A comparison of four runs, two at once, whose parent or one of whose runs is killed until it has been enough."""
    options = ["--data", "data.npy", *TINY, "--agents", "daps-na,rloo", "--seeds", "2", "--jobs", "2"]
    start = time.monotonic()
    assert _compare(options, Path("whole")).wait(600) == 0
    seconds, broken, killed, tries = time.monotonic() - start, [], 0, 0
    while killed < count and on():
        out, ended = Path(f"compare-{tries}"), False
        tries += 1
        for _ in range(6):
            child = _compare(options if not (out / "comparison.json").exists() else ["--retry-failed"], out)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(random.uniform(0, seconds))
            runs = _children(child.pid)
            if killed < count and child.poll() is None:
                os.kill(random.choice([child.pid, *runs]), signal.SIGKILL)
                killed += 1
            ended = child.wait(600) == 0
            late = time.monotonic() + 30.0  # the runs of a parent that was killed end by themselves
            while any(map(_lives, runs)) and time.monotonic() < late:
                time.sleep(0.1)
            if ended:
                break
        if not ended:
            assert _compare(["--retry-failed"], out).wait(600) == 0
        names = sorted(path.name for path in Path("whole/runs").iterdir())
        whys = [f"{name}: {why}" for name in names if (why := same(out / "runs" / name, Path("whole/runs") / name))]
        whys += [f"{name} is missing" for name in ("comparison.md", "curves.png") if not (out / name).exists()]
        broken += whys
    yield {"agent": "daps-na,rloo", "kills": killed, "runs": tries, "equal": tries - len(broken), "broken": broken}


def _compare(options: list[str], out: Path) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "daps_rl", "compare", *options, "--out", str(out)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def lines(count: int, random: random.Random, on: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Fuzzed command lines, each in a process."""
    from fuzz_lines import lines as strategy
    from fuzz_lines import make_files
    from hypothesis import HealthCheck, Phase, given, seed, settings

    drawn: dict[tuple[str, ...], None] = {}

    @seed(random.randrange(2**32))
    @settings(max_examples=3 * count, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(strategy())
    def draw(line: list[str]) -> None:
        drawn.setdefault(tuple(line))

    draw()
    make_files(Path())
    codes, broken, done = collections.Counter[str](), [], 0
    for line in list(drawn)[:count]:
        if not on():
            break
        before, child, done = set(Path().rglob("*")), Fork(list(line)), done + 1
        endless = not child.wait(LIMIT)  # --steps 10**18 is what was asked for
        if endless:
            os.kill(child.pid, signal.SIGTERM)
            if not child.wait(LIMIT):
                os.kill(child.pid, signal.SIGKILL)
                broken.append(f"no end: {shown(line)}")
                continue
        codes["ended by SIGTERM" if endless else str(child.code)] += 1
        text, made = child.text(), set(Path().rglob("*")) - before
        if "Traceback" in text or child.code not in ((143, -15) if endless else (0, 1, 2)):
            broken.append(f"exit code {child.code}: {shown(line)}: {text[-300:]}")
        if child.code == 2 and made:
            broken.append(f"leaves {sorted(map(str, made))[:3]}: {shown(line)}")
        for path in sorted(made, reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    yield {"lines": done, "codes": dict(codes), "tracebacks_and_hangs": len(broken), "broken": broken}


def shown(line: tuple[str, ...]) -> str:
    """Returns a line to type, cut."""
    return " ".join(argument[:60] for argument in line)[-400:]


def bits(count: int, random: random.Random, on: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Single bits of the files of a run's model and of its checkpoint."""
    assert Fork(["train", "--data", "data.npy", *TINY, "--out", "run"]).wait(300)
    files: dict[str, Callable[[], object]] = {
        "model/model.safetensors": lambda: DiscreteAutoencoder.from_pretrained("run/model"),
        "model/config.json": lambda: DiscreteAutoencoder.from_pretrained("run/model"),
        "checkpoint.safetensors": lambda: load_tensors(Path("run/checkpoint.safetensors"), "checkpoint"),
    }
    for name, load in files.items():
        path, flipped, broken = Path("run") / name, 0, []
        content = path.read_bytes()
        load()
        while flipped < (count + 2) // 3 and on():
            at = random.randrange(8 * len(content))
            path.write_bytes(content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :])
            flipped += 1
            try:
                load()
                broken.append(f"bit {at} is not noticed")
            except ValueError as error:
                broken += [f"bit {at}: several lines"] if "\n" in str(error) else []
        path.write_bytes(content)
        load()
        yield {"file": name, "flipped": flipped, "refused": flipped - len(broken), "broken": broken}


def memory(count: int, random: random.Random, on: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Resident memory after a tenth of the steps, and after all."""
    sizes: dict[str, Any] = {
        "num_tokens": 3, "vocab_size": 4, "embed_dim": 8, "num_heads": 2, "decoder_hidden": (8,), "batch_size": 8,
        "decoder_embed_dim": 4, "samples": 4, "likelihood": "fixed_gaussian", "validate_every": 100, "log_every": 10,
    }  # fmt: skip
    splits = from_arrays(np.load("data.npy"))
    trainer = Trainer(make_config(agent="daps-na", steps=count, ess_fraction=0.5, device="cpu", **sizes), splits)
    early, step = 0, 0
    for _ in trainer.run(lambda: not on()):
        step = trainer.step
        if not early and step >= count // 10:
            early = _resident()
    late = _resident()
    growth = late / early - 1.0
    broken = [f"grown by {growth:.1%}"] if growth > 0.01 else []
    yield {"agent": "daps-na", "steps": step, "early": early, "late": late, "growth": growth, "broken": broken}


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


TRIALS: dict[str, tuple[Callable[..., Iterator[dict[str, Any]]], int]] = {
    "kills": (kills, 270),
    "compare": (compare, 30),
    "lines": (lines, 600),
    "bits": (bits, 200),
    "memory": (memory, 20_000),
}

if __name__ == "__main__":
    sys.exit(main())
