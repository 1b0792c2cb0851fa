"""A training run in a folder: its files, its lock, its checkpoints, and the session that trains it."""
