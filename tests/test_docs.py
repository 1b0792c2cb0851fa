"""Every Python block of the README and the docs runs as it stands; blocks of a page share their names.

A block after a line `<!-- needs: PACKAGE -->` runs where that package is. The README has one block, the training loop,
and a test of its own.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [path for path in sorted((ROOT / "docs").glob("*.md")) if "```python" in path.read_text()]


def blocks(page: Path) -> list[str]:
    found = re.findall(r"^(?:<!-- needs: (\w+) -->\n)?```python\n(.*?)^```", page.read_text(), re.M | re.S)
    return [block for needs, block in found if not needs or importlib.util.find_spec(needs)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
    assert names


def test_the_ten_lines_learn() -> None:
    """The README's loop through TorchRL's own objects ends with a better reward than it began with."""
    torch.manual_seed(0)
    (block,) = blocks(ROOT / "README.md")
    setup, loop = block.split("for step in", 1)
    names: dict = {}
    exec(setup, names)
    before = names["env"].rollout(1, names["actor"])["next", "reward"].mean()
    exec("for step in" + loop, names)
    after = names["env"].rollout(1, names["actor"])["next", "reward"].mean()
    untrained = names["EncodingEnv"](
        names["data"], names["decoder"], num_tokens=8, vocab_size=16, batch_size=[64, 8], beta=0.1
    )
    random = untrained.rollout(1)["next", "reward"].mean()
    assert after > before + 5.0
    assert after > random + 1.0  # the policy learnt, not the decoder alone
    lines = [line for line in block.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 12


WITH_LINKS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        linked = (page.parent / target) if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"
