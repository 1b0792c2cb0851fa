"""A slow verdict, judged by Dask's workers: here two processes of this machine, elsewhere those of a cluster.

python examples/dask_verdict.py [--smoke] [--scheduler tcp://HOST:8786]
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.training import Trainer
from daps_rl.verdicts import Spread, Verdicts

try:
    from dask.distributed import Client, LocalCluster
except ModuleNotFoundError:
    raise SystemExit("this example needs Dask; install it with pip install 'daps-rl[verdicts]'.") from None


def slow_nearness(truth: Tensor, decoded: Tensor) -> Tensor:
    """Minus the mean absolute difference, in a tenth of a millisecond for each pair. [M]."""
    time.sleep(1e-4 * len(truth))
    return -(truth - decoded).abs().flatten(1).mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--scheduler", help="of a cluster that runs already")
    options = parser.parse_args()
    cluster = options.scheduler or LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client:
        print(f"{len(client.scheduler_info()['workers'])} workers")
        nearness = Spread(slow_nearness, client.get_executor(), chunks=2, retries=2, timeout=120.0)
        steps = 3 if options.smoke else 200
        config = make_config(num_tokens=2, vocab_size=16, steps=steps, validate_every=0)
        trainer = Trainer(config, load("digits"), verdicts=Verdicts({"nearness": nearness}))
        for row in trainer.run():
            if row["step"] % 50 == 0 or options.smoke:
                print(f"step {row['step']}  nearness {row['reward/nearness']:.3f}  weight {row['weight/nearness']:.0f}")
        print(f"{nearness.retried} chunks were tried again")
    if options.scheduler is None:
        cluster.close()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
