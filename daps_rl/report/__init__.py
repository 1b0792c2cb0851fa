"""The pictures a training run leaves behind: reconstructions, learning curves, code usage.

Each function takes tensors or log rows and writes one PNG, about 1200 pixels wide, white background, colours that a
colour-blind reader tells apart.
"""

from daps_rl.report.code_usage import plot_code_usage as plot_code_usage
from daps_rl.report.learning_curves import plot_learning_curves as plot_learning_curves
from daps_rl.report.learning_curves import read_metrics as read_metrics
from daps_rl.report.reconstructions import images_in_a_line as images_in_a_line
from daps_rl.report.reconstructions import plot_reconstructions as plot_reconstructions
from daps_rl.report.reconstructions import plot_sheet as plot_sheet
