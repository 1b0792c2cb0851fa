"""The training loop: `Trainer`, of a `Learner` (one update), a clock with schedules, and the state that is saved."""

from daps_rl.training.learner import Learner
from daps_rl.training.loop import Trainer, TrainingDiverged, load_data

__all__ = ["Learner", "Trainer", "TrainingDiverged", "load_data"]
