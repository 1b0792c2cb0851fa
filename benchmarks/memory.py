"""Peak memory and seconds of a few training steps of a published configuration, each in a process of its own.

    python benchmarks/memory.py --config imagenet256 --batch-size 64 --samples 8 --microbatch 1 4 0 --steps 2
    python benchmarks/memory.py --config cifar10 --agent daps gumbel --batch-size 32 --samples 2 8
    python benchmarks/memory.py --config cifar10 --batch-size 32 --samples 2 --steps 2000

Needs no data set: the data are noise of the right shape. On a CPU the peak is that of resident memory, and the row
holds beside it what the process took before it built anything; on a GPU it is that of PyTorch's allocations. A row of
many steps also holds the peak of each twentieth of them. Seconds go into a row with --timed only: say so on an
otherwise idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import write_row

from daps_rl.agents import AGENTS
from daps_rl.config import PUBLISHED, PUBLISHED_SHAPES, make_config
from daps_rl.data import Splits, noise
from daps_rl.recompute import in_microbatches
from daps_rl.training import Trainer

PARTS = ("step", "decoder")
MIB, MANY = 2**20, 1000
LINUX = os.access("/proc/self/clear_refs", os.W_OK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=sorted(PUBLISHED), default="imagenet256")
    parser.add_argument("--agent", nargs="+", choices=sorted(AGENTS), default=["daps"])
    parser.add_argument("--part", choices=PARTS, default="step", help="a whole training step, or the decoder's alone")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64])
    parser.add_argument("--samples", type=int, nargs="+", default=[8], help="K; gumbel draws one code whatever it is")
    parser.add_argument("--microbatch", type=int, nargs="+", default=[0], help="contexts at a time; 0 for all at once")
    parser.add_argument("--decoder-norm", choices=("group", "batch", "none"), default="group")
    parser.add_argument("--cpu-kernels", type=int, choices=(0, 1), default=0)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--timed", action="store_true", help="write the seconds down")
    parser.add_argument("--in-this-process", action="store_true", help="print one configuration's row as JSON, no more")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    listed = ("agent", "batch_size", "samples", "microbatch")
    for values in itertools.product(*(getattr(options, name) for name in listed)):
        one = argparse.Namespace(**{**vars(options), **dict(zip(listed, values, strict=True))})
        if options.in_this_process:
            print(json.dumps(measure(one)))
        else:
            write_row("memory", in_a_process(one))


def in_a_process(options: argparse.Namespace) -> dict[str, Any]:
    """One configuration's row; one that fails is a row too."""
    settings = {name: value for name, value in vars(options).items() if name not in ("timed", "in_this_process")}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    done = subprocess.run(
        [sys.executable, __file__, "--in-this-process", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["killed, perhaps for memory"])[-1]
        return {**settings, "failed": done.returncode, "error": last_line}
    measured = json.loads(done.stdout)
    if not options.timed:
        measured.pop("seconds")
    return {**settings, **measured}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory, in MiB, and seconds of each step."""
    before = resident_peak()
    settings: dict[str, Any] = {
        name: getattr(options, name) for name in ("agent", "batch_size", "samples", "microbatch", "device")
    }
    settings["cpu_kernels"] = bool(options.cpu_kernels)
    if options.samples in (2, 3):  # an ESS of less than one code cannot be met
        settings["ess_fraction"] = 1.2 / options.samples
    if make_config(options.config).decoder == "resnet":
        settings["decoder_norm"] = options.decoder_norm
    trainer = Trainer(make_config(options.config, **settings, steps=1_000_000), batch_of_noise(options))
    step: Callable[[], object] = trainer.train_step if options.part == "step" else decoder_step(trainer)
    seconds, peaks, most = [], [], 0.0
    for i in range(options.steps):
        start = time.perf_counter()
        step()
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        if options.steps >= MANY and (i + 1) % (options.steps // 20) == 0:
            peaks.append(round(peak(options.device), 1))
            most = max(most, peaks[-1])
            forget_peak(options.device)
    row = {"peak_mib": round(max(most, peak(options.device))), "before_mib": round(before)}
    if peaks:
        return {**row, "peaks_mib": peaks, "seconds": [round(sum(seconds), 1)]}
    return {**row, "seconds": [round(value, 3) for value in seconds]}


def batch_of_noise(options: argparse.Namespace) -> Splits:
    """A batch of data of the configuration's shape."""
    return noise(options.batch_size, PUBLISHED_SHAPES[options.config], make_config(options.config).likelihood)


def decoder_step(trainer: Trainer) -> Callable[[], None]:
    """Likelihood of random codes, and its gradient."""
    config, x = trainer.config, trainer.batch()
    decoder = trainer.autoencoder.decoder
    codes = torch.randint(config.vocab_size, (len(x), config.samples, config.num_tokens), device=x.device)

    def step() -> None:
        def likelihood(x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            return decoder(codes).log_prob(x.unsqueeze(1))

        decoder.zero_grad(set_to_none=True)
        (-in_microbatches(likelihood, x, codes, size=config.microbatch).mean()).backward()

    return step


def peak(device: str) -> float:
    """Of memory since it was last forgotten, in MiB."""
    return resident_peak() if device == "cpu" else torch.cuda.max_memory_allocated() / MIB


def resident_peak() -> float:
    """Of this process, in MiB: on Linux since it was last forgotten, elsewhere from its beginning."""
    if LINUX:
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (MIB if sys.platform == "darwin" else 1024)


def forget_peak(device: str) -> None:
    """The next peak is of what comes now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif LINUX:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak becomes what is resident now


if __name__ == "__main__":
    main()
