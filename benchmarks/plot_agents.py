"""Draws docs/images/agents.png from the committed rows: python benchmarks/plot_agents.py

β-ELBO of the training batches against time and against decoder evaluations; the mean over seeds and, shaded, the
lowest and the highest seed.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from table import read

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "agents.png"
# Colours that stay apart for colour-blind eyes; one line style per host.
COLORS = {
    "daps": "#d55e00", "daps-na": "#e69f00", "tpo": "#cc79a7", "rloo": "#0072b2", "grpo": "#56b4e9", "ppo": "#009e73",
    "a2c": "#7f7f7f", "reinforce": "#000000", "reinforce-no-critic": "#8c564b", "daps-fixed": "#bcbd22",
}  # fmt: skip
PER_STEP = 64 * 8  # codes


def curves(mode: str, column: int, scale: float, points: int = 60) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By agent: an axis, and β-ELBO on it, a row per seed. Columns of a curve: step, seconds, β-ELBO."""
    by_agent: dict[str, list[np.ndarray]] = defaultdict(list)
    for row in read(f"agents_{mode}"):
        if "error" not in row:
            by_agent[row["agent"]].append(
                np.asarray([entry[:3] for entry in row["curve"] if None not in entry[:3]], float)
            )
    found = {}
    for agent, seeds in by_agent.items():
        stop = min(seed[-1, column] for seed in seeds)
        axis = np.linspace(max(seed[0, column] for seed in seeds), stop, points)
        found[agent] = axis * scale, np.stack([np.interp(axis, seed[:, column], seed[:, 2]) for seed in seeds])
    return found


def draw(axes: Any, found: dict[str, tuple[np.ndarray, np.ndarray]], label: str) -> None:
    order = sorted(found, key=lambda agent: -found[agent][1][:, -1].mean())
    for agent in order:
        axis, values = found[agent]
        host, _, name = agent.rpartition(":")
        color, style = COLORS[name], "--" if host else "-"
        mean = values.mean(0)
        axes.plot(axis, mean, style, color=color, linewidth=1.6, label=f"{agent}  {mean[-1]:.0f}")
        axes.fill_between(axis, values.min(0), values.max(0), color=color, alpha=0.05, linewidth=0)
    axes.set_xlabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), title="at the end, nats")


def main() -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(12, 4.2), sharey=True, layout="constrained")
    draw(panels[0], curves("minutes", 1, 1.0), "seconds of training, one thread")
    draw(panels[1], curves("minutes", 0, PER_STEP / 1000), "decoder evaluations, thousands")
    panels[0].set_ylabel("β-ELBO of training batches (nats)")
    panels[1].set_xscale("log")
    figure.suptitle("Agents on digits: mean and range over the seeds")
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
