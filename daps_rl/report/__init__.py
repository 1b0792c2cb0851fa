"""The pictures a training run leaves behind: reconstructions, learning curves, code usage.

Each function takes tensors or log rows and writes one PNG, about 1200 pixels wide, white background, colours that a
colour-blind reader tells apart.
"""

from daps_rl.report.code_usage import plot_code_usage
from daps_rl.report.learning_curves import plot_learning_curves, read_metrics
from daps_rl.report.reconstructions import images_in_a_line, plot_reconstructions, plot_sheet

__all__ = [
    "images_in_a_line",
    "plot_code_usage",
    "plot_learning_curves",
    "plot_reconstructions",
    "plot_sheet",
    "read_metrics",
]
