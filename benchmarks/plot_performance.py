"""Draws docs/images/performance.png from the rows of benchmarks/roofline.py: python benchmarks/plot_performance.py

What each part of a training step takes, and the least that its matrix products and its memory traffic could.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from table import read

from daps_rl.report.figures import BLUE, EMPTY, INK, VERMILION, WIDTH, dress, new_figure, save

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "performance.png"
HEADINGS = {
    ("mnist", "daps", False): "published, autoregressive:\n{:.0f} ms",
    ("mnist", "daps", True): "the same by CPU kernels:\n{:.0f} ms",
    ("own", "daps-na", False): "our default, factorised:\n{:.0f} ms",
}

PARTS = (
    "encode x", "draw codes", "decode and score x", "temperature and weights", "score codes under the policy",
    "backward", "score codes, and backward", "clip and AdamW",
)  # fmt: skip


def main() -> None:
    shown = [row for row in read("roofline") if row["threads"] == 2 and row["batch_size"] == 256]
    # The latest of each.
    rows = {(row["configuration"], row["agent"], row.get("cpu_kernels", False)): row for row in shown}
    figure = new_figure(WIDTH, 560, "A step on two CPU cores, part by part: 256 data, 8 codes each")
    panels = figure.subplots(1, len(HEADINGS), sharex=True, sharey=True)
    for (name, heading), axes in zip(HEADINGS.items(), panels, strict=True):
        parts = {part: rows[name]["parts"][part] for part in PARTS if part in rows[name]["parts"]}
        places = len(PARTS) - 1 - np.array([PARTS.index(part) for part in parts])
        columns = {key: [values[key] for values in parts.values()] for key in ("measured_ms", "floor_ms", "memory_ms")}
        axes.barh(places, columns["measured_ms"], 0.7, color=EMPTY, edgecolor=INK, linewidth=0.6, label="measured")
        axes.barh(places + 0.14, columns["floor_ms"], 0.24, color=BLUE, label="floor: matrix products, float32")
        axes.barh(places - 0.14, columns["memory_ms"], 0.24, color=VERMILION, label="floor: memory traffic")
        axes.set_yticks(np.arange(len(PARTS))[::-1], PARTS)
        dress(axes, heading.format(rows[name]["parts"]["the step"]["measured_ms"]), "milliseconds")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    save(figure, PICTURE)


if __name__ == "__main__":
    main()
