"""RL Zoo trains with the settings and the command of docs/stable_baselines3.md. Skipped where it is not installed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from stable_baselines3 import PPO

from daps_rl.agents.sb3 import AutoregressivePolicy

PAGE = Path(__file__).parent.parent / "docs" / "stable_baselines3.md"


@pytest.mark.slow
def test_the_recipe_of_the_page_trains(tmp_path):
    pytest.importorskip("rl_zoo3")
    page = PAGE.read_text()
    (settings,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"python (-m rl_zoo3\.train .*)", page)
    (tmp_path / "codes.yml").write_text(settings)
    options = ["--eval-freq", "-1", "--log-folder", "logs", "--device", "cpu"]
    subprocess.run([sys.executable, *shlex.split(command), *options], cwd=tmp_path, check=True, capture_output=True)
    (saved,) = tmp_path.glob("logs/ppo/*/*.zip")
    model = PPO.load(saved, device="cpu")
    assert isinstance(model.policy, AutoregressivePolicy)
    assert model.num_timesteps == 2048
