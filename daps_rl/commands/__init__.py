"""The commands of `daps-rl`, one file each."""
