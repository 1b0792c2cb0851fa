"""Metrics of a trained model on a whole split. Each is defined, with its estimator, in docs/metrics.md."""

from daps_rl.data.pixels import psnr, ssim
from daps_rl.evaluation.codes import TokenInformation, count_codes
from daps_rl.evaluation.perceptual import Perceptual
from daps_rl.evaluation.split import Evaluation, evaluate

__all__ = ["Evaluation", "Perceptual", "TokenInformation", "count_codes", "evaluate", "psnr", "ssim"]
