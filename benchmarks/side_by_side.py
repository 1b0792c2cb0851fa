"""Training steps per second beside the authors' own code, at the published MNIST configuration, in turns.

    git clone -b daps-iclr2026 https://github.com/mdrolet01/jadex /tmp/jadex
    python -m venv /tmp/jax
    /tmp/jax/bin/pip install jax flax optax chex hydra-core einops h5py tables six pillow matplotlib wandb tqdm submitit
    python benchmarks/side_by_side.py --checkout /tmp/jadex --python /tmp/jax/bin/python --rounds 30

A process for each method and each code is started, compiles and warms up; then they take turns, a few steps each, and
only one computes at a time. Data are random bits of the right shape. Ours are settings as `train --config mnist` gives
them; "PyTorch alone" is without the compiled kernels. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

THEIRS = {"daps": "daps", "daps-na": "dapsna", "fsq": "fsq", "vq": "vqvae", "gumbel-na": "gumbelna"}
"""What the authors' configurations call our agents."""

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    **{agent: (agent, {}) for agent in THEIRS},
    "daps, PyTorch alone": ("daps", {"cpu_kernels": False}),
}
AUTHORS = "the authors' code"


def bits(shape: tuple[int, ...]) -> np.ndarray:
    """Random zeros and ones."""
    return np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)


def ours(method: str) -> Callable[[int], None]:
    """What takes steps of ours; the first of them are taken."""
    from daps_rl.config import make_config
    from daps_rl.data import from_arrays
    from daps_rl.training import Trainer

    agent, options = OURS[method]
    splits = from_arrays(bits((5000, 1, 28, 28)).astype(np.float32), name="bits")
    trainer = Trainer(make_config("mnist", agent=agent, device="cpu", **options), splits)

    def take(steps: int) -> None:
        for _ in range(steps):
            trainer.train_step()

    take(5)
    return take


def theirs(method: str, checkout: str, steps: int) -> Callable[[int], None]:
    """What takes steps of theirs, as their trainer does, without validation; compiled."""
    sys.path.insert(0, checkout)
    import jax
    import jax.numpy as jnp
    from hydra import compose, initialize_config_dir
    from jadex.algorithms.vae.models import create_vae
    from jadex.algorithms.vae.train_vae import VaeVisionTrainer
    from jadex.base.registrable import register_all
    from jadex.global_configs import register_jadex_plugin
    from jadex.networks.variational.variational_network import merge_nn_cfg
    from omegaconf import open_dict

    class Bits:
        data = 255 * bits((5000, 28, 28))

        def apply_scaler(self, x: Any) -> Any:
            return x

    register_jadex_plugin()
    with initialize_config_dir(str(Path(checkout).resolve() / "jadex/algorithms/vae/configs"), version_base=None):
        config = compose("vae_config", overrides=[f"model={THEIRS[method]}", "dataset=mnist"])
    merge_nn_cfg(config)
    with open_dict(config):
        config.wandb = {"mode": "disabled", "project": "bits"}
        config.dataset.num_train = len(Bits.data)  # what their reader of files writes down
    register_all()
    model = create_vae(config)
    trainer = VaeVisionTrainer(cfg=config, model=model, train_dataset=Bits(), test_dataset=None)

    def step(state: Any, _: None) -> tuple[Any, Any]:
        key, of_data = jax.random.split(state.rng_key)
        state, metrics = trainer.update_model(state.replace(rng_key=key), trainer.get_train_batch(of_data))
        return state, jnp.mean(metrics["loss"])

    several = jax.jit(lambda state: jax.lax.scan(step, state, None, steps))
    held = [model.init(jax.random.PRNGKey(0))]

    def take(asked: int) -> None:
        assert asked == steps, "the number of steps is compiled"
        held[0], losses = several(held[0])
        jax.block_until_ready(losses)

    take(steps)
    return take


def serve(take: Callable[[int], None]) -> None:
    """Takes as many steps as each line of stdin asks for, and prints the seconds."""
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        take(int(line))
        print(time.perf_counter() - start, flush=True)


class Worker:
    """A process that takes steps when asked."""

    def __init__(self, python: str, *arguments: str) -> None:
        command = [python, __file__, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while self._line() != "ready":  # libraries talk
            pass

    def _line(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"{' '.join(map(str, self.process.args))} ended with {self.process.wait()}")
        return line.strip()

    def seconds(self, steps: int) -> float:
        """Seconds for so many steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self._line())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", help="of the authors' code")
    parser.add_argument("--python", help="one that has JAX, and what the authors' code needs")
    parser.add_argument("--methods", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10, help="a turn")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        whose, method = options.serve
        serve(theirs(method, options.checkout, options.steps) if whose == AUTHORS else ours(method))
        return
    if not options.checkout or not options.python:
        parser.error("--checkout and --python say where the authors' code is, and what runs it.")
    from common import write_row  # not where the authors' code runs, without PyTorch

    common = ["--checkout", options.checkout, "--steps", str(options.steps), "--serve"]
    workers = {("daps-rl", method): Worker(sys.executable, *common, "daps-rl", method) for method in options.methods}
    workers |= {
        (AUTHORS, method): Worker(options.python, *common, AUTHORS, method)
        for method in options.methods
        if method in THEIRS
    }
    speeds: dict[tuple[str, str], list[float]] = {key: [] for key in workers}
    for at in range(options.rounds):
        for key, worker in workers.items():
            speeds[key].append(options.steps / worker.seconds(options.steps))
        print(f"round {at + 1} of {options.rounds}", file=sys.stderr)
    for (whose, method), found in speeds.items():
        row = {"code": whose, "method": method, "steps_per_second": statistics.median(found), "rounds": found}
        write_row("side_by_side", row)


if __name__ == "__main__":
    main()
