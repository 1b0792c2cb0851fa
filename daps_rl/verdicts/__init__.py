"""Verdicts: what a code is worth beside the likelihood, by any function that needs no gradient."""

from daps_rl.verdicts.base import Verdict, Verdicts
from daps_rl.verdicts.classifier import Classifier
from daps_rl.verdicts.named import READY, labelled, make_verdicts
from daps_rl.verdicts.program import Program
from daps_rl.verdicts.signals import SSIM, Stoi, edit_distance
from daps_rl.verdicts.spread import Spread

__all__ = [
    "READY",
    "SSIM",
    "Classifier",
    "Program",
    "Spread",
    "Stoi",
    "Verdict",
    "Verdicts",
    "edit_distance",
    "labelled",
    "make_verdicts",
]
