"""The comparison of docs/comparison.md and docs/reports/comparison.md: trains, keeps the rows, writes tables.

    python benchmarks/comparison.py                       # everything: about three and a half hours on two cores
    python benchmarks/comparison.py main                  # one part of it
    python benchmarks/comparison.py main --minutes 20 --seeds 5
    python benchmarks/comparison.py gpu                   # on a GPU: longer runs, five at a time
    python benchmarks/comparison.py --report              # the tables again, from the rows that are committed

Two runs at a time, one thread each. The part "gpu" runs only when it is named. A part that was stopped goes on from its
checkpoints.
"""

from __future__ import annotations

import statistics

import tune
from common import DOCS, REPORTS, Tables, interval, markdown, read_runs
from parts import Part, Report

_FACTORIZED = "policy=factorized,num_layers=2,mlp_ratio=6.0"  # the networks of daps-na


_REST = {  # benchmarks/tune.py
    "daps-fixed": 0.016, "tpo": 0.016, "rloo": 0.016, "grpo": 0.008, "ppo": 0.004, "a2c": 0.004, "reinforce": 0.004,
    "reinforce-no-critic": 0.008, "gumbel": 0.016, "gr-mck": 0.016, "gr-mck-na": 0.004, "reinmax": 0.008,
    "reinmax-na": 0.004, "vq-rotation": 0.004, "gaussian": 0.004,
    # What is best for 100 steps broke two of these in 500, and may have held back a third.
    "rloo-lower": 0.004, "ppo-lower": 0.002, "reinforce-no-critic-lower": 0.002,
}  # fmt: skip

PARTS = {
    "main": Part(
        "daps-na,daps,fsq,vq,gumbel-na,rloo-na=rloo,ppo-na=ppo",
        minutes=4,
        seeds=3,
        own=(
            "daps:learning_rate=0.008,policy_samples=0",  # as it was when this was run; see the part "codes"
            "vq:learning_rate=0.002",
            f"rloo-na:{_FACTORIZED},learning_rate=0.002",
            f"ppo-na:{_FACTORIZED},learning_rate=0.002",
        ),
    ),
    "rest": Part(
        "daps-na,daps-fixed,tpo,rloo,grpo,ppo,a2c,reinforce,reinforce-no-critic,gumbel,gr-mck,gr-mck-na,reinmax,"
        "reinmax-na,vq-rotation,gaussian,rloo-lower=rloo,ppo-lower=ppo,reinforce-no-critic-lower=reinforce-no-critic",
        minutes=4,
        seeds=1,
        own=tuple(
            f"{agent}:learning_rate={rate}" + (",policy_samples=0" if agent == "daps-fixed" else "")
            for agent, rate in _REST.items()
        ),
    ),
    "codes": Part(
        "daps,daps-all=daps,gumbel",
        minutes=4,
        seeds=3,
        own=(
            "daps:learning_rate=0.008",
            "daps-all:learning_rate=0.008,policy_samples=0",
            "gumbel:learning_rate=0.016",
        ),
        reference="daps",
    ),
    "kernels": Part(
        "daps-kernels=daps,daps,gumbel",
        minutes=4,
        seeds=3,
        own=(
            "daps-kernels:learning_rate=0.008,cpu_kernels=true",
            "daps:learning_rate=0.008,cpu_kernels=false",
            "gumbel:learning_rate=0.016",
        ),
        reference="daps-kernels",
    ),
    "gpu": Part(
        "daps-na,fsq,vq,gumbel-na,rloo-na=rloo",
        steps=8_000,
        seeds=1,
        own=(
            "vq:learning_rate=0.002",
            f"rloo-na:{_FACTORIZED},learning_rate=0.002",
        ),
        data=("--data", "fashion-mnist", "--device", "cuda"),
        validate_every=250,
        jobs=5,
    ),
    "long": Part("daps-na,fsq,gumbel-na", minutes=30, seeds=1, validate_every=500),
    "colour": Part(
        "daps-na,daps,fsq,vq,gumbel-na",
        minutes=10,
        seeds=1,
        own=(
            "daps:learning_rate=0.008",
            "fsq:learning_rate=0.008",
            "vq:learning_rate=0.008",
            "gumbel-na:learning_rate=0.002",
        ),
        data=("--data", "photographs", "--num-tokens", "64", "--vocab-size", "512", "--batch-size", "32"),
    ),
}


SUMMARY = {
    "main": ("fsq", "vq", "daps-na", "rloo-na", "gumbel-na", "ppo-na"),
    "kernels": ("daps-kernels", "daps", "gumbel"),
}
"""Agents of the table on docs/comparison.md, by part."""


def summary() -> str:
    """Returns four minutes of training in one table: quantisers, factorised encoders, autoregressive ones."""
    lines = []
    for part, labels in SUMMARY.items():
        of_part = read_runs(f"comparison_{part}")
        for label in labels:
            runs = [row for row in of_part if row["label"] == label]
            test = [row["test"] for row in runs]
            elbos = [metrics["beta_elbo"] for metrics in test if metrics["beta_elbo"] is not None]
            lines.append(
                [
                    f"`{label}`", "autoregressive" if part == "kernels" else "factorised" if elbos else "quantiser",
                    interval(elbos) if elbos else "has none",
                    interval([metrics["log_likelihood"] for metrics in test]),
                    interval([metrics["psnr_greedy"] for metrics in test], 2),
                    f"{statistics.fmean(row['steps'] for row in runs):,.0f}",
                ]
            )  # fmt: skip
    header = ["agent", "encoder", "test β-ELBO (nats)", "log-likelihood (nats)", "PSNR, greedy codes (dB)", "steps"]
    return markdown(header, lines)


def more() -> Tables:
    """Returns the tables that need more than one part's rows."""
    return {
        DOCS / "comparison.md": {"summary": summary()},
        REPORTS / "comparison.md": {"tuning": tune.table(problems=False)},
    }


REPORT = Report("comparison", "comparison", PARTS, more, by_name_only=("gpu",))


if __name__ == "__main__":
    REPORT.main(__doc__)
