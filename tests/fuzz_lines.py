"""Command lines that a mistyping or a malicious person might write, as a hypothesis strategy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from conftest import TINY
from hypothesis import strategies as st

from daps_rl.agents import AGENTS
from daps_rl.cli import main
from daps_rl.commands.options import choosable
from daps_rl.commands.parser import COMMANDS
from daps_rl.config import PUBLISHED

INTEGERS = ("-1", "0", "1", "2", "3", "5", "8", "4096", "1000000000", "9223372036854775807", "9223372036854775808")
FLOATS = ("nan", "inf", "-inf", "-1", "0", "-0.0", "1e-300", "0.3", "1", "8", "1e30", "1e39", "1e308", "1e400")
TEXTS = (
    "", " ", "x", "é🙂", "a\nb", ".", "..", "~", "-", "x" * 300, "\udcff", ".a:B", "a:", ":B", ":", "no.such:Class",
    "os:system", "json:loads", "daps_rl.agents:Agent", "sb3:", "sb3:x", "sb3:os:system", "/dev/null", "../none.npy",
)  # fmt: skip
FILES = ("data.npy", "codes.npy", "none.npy", "text.npy", "folder", "runs/run", "loop.npy", "owner/name")
NAMED = (
    "", "=", "a", "a=", "a=1", "a=[[", "a=" + "[" * 9999, "a=" + "9" * 5000, "levels=[3,3]", "levels=[0,0]", "levels=3",
    "levels=[1e9,1e9]", "levels=[2.5,3]", "levels=x", "levels=[]", "dim=3", "heads=2", "codebook_dim=nan", "decay=nan",
    "return_all_codes=true", "accept_image_fmap=true", "channel_first=true", "decay=x", "num_codebooks=2", "epochs=-1",
    "epochs=x", "pooling=inf", "pooling=Infinity", "epochs=1e99", "clip=-1", "gamma=[1]", "policy=1", "samples=0",
)  # fmt: skip
PROBLEMS = ("tsp", "tsp0", "tsp3", "tsp999999999999", "nk20", "nk1", "bandit-digits7", "nguyen99", "labs1", "cut0", "x")
OTHERS = {
    "train": ("--resume", "--trust", "--dry-run", "--out=folder", "--out=runs/run", "--out=data.npy", "--out=/proc/x"),
    "compare": (
        "--agents=", "--agents=x", "--agents=daps,daps", "--agents=a=b=c", "--agents=sb3:ppo", "--agents=a:b",
        "--seeds=0", "--seeds=-1", "--seeds=1,1", "--seeds=99999999999", "--seeds=²", "--set=daps:samples=2",
        "--set=daps:samples=x",
        "--set=x:samples=2", "--set=daps:seed=2", "--set=:", "--set=daps:decoder_hidden=1,x", "--against=x", "--jobs=0",
        "--jobs=99999999999", "--report", "--out=runs/run", "--out=folder", "--retry-failed", "--trust",
    ),
    "sample": ("--label=0", "--label=-1", "--temperature=0", "--temperature=nan", "--temperature=0.5",
               "-n=0", "-n=-1", "-n=1e3", "-n=600", "-n=9000000000000000000", "-n=99999999999999999999", "--seed=-1",
               "--seed=9223372036854775807", "--seed=9223372036854775808", "--output=none/x.npy", "--output=folder"),
    "encode": ("--sampled", "--input=none.npy", "--input=text.npy", "--input=codes.npy", "--input=folder", "--output="),
    "decode": ("--input=data.npy", "--input=none.npy", "--input=text.npy", "--input=folder", "--output=folder/x/y"),
    "evaluate": ("--fid-weights=none", "--lpips-weights=text.npy", "--fid-weights=folder"),
    "report": ("--trust",),
    "fit-prior": ("--steps=0", "--steps=-1", "--minutes=0", "--minutes=nan", "--minutes=-inf", "--labels", "--prior=x",
                  "--prior=independent", "--seed=-1", "--seed=9223372036854775808", "--trust"),
    "compress": ("--lossless", "--coder=independent", "--coder=x", "--search=sweep:1/2", "--search=best-of:0",
                 "--search=beam:99999999999999999999", "--search=x", "--input=codes.npy", "--input=folder",
                 "--input=none.npy", "--output=folder", "--output=none/x.daps"),
    "decompress": ("--input=data.npy", "--input=none.daps", "--input=text.npy", "--input=folder",
                   "--output=folder/x/y"),
}  # fmt: skip
BASE = {
    "train": ["--data", "data.npy", *TINY, "--steps", "1", "--out", "out"],
    "compare": ["--data", "data.npy", *TINY, "--steps", "1", "--out", "out", "--agents", "daps,ppo", "--seeds", "1"],
    "evaluate": ["runs/run"],
    "report": ["runs/run"],
    "encode": ["runs/run", "--input", "data.npy", "--output", "out.npy"],
    "decode": ["runs/run", "--input", "codes.npy", "--output", "out.npy"],
    "sample": ["runs/run", "--output", "out.npy", "-n", "2"],
    "fit-prior": ["runs/run", "--steps", "2"],
    "compress": ["runs/run", "--input", "data.npy", "--output", "out.daps"],
    "decompress": ["runs/run", "--input", "x.daps", "--output", "out.npy"],
}
OWN = {
    "data": FILES,
    "problem": PROBLEMS,
    "agent": (*AGENTS, "sb3:daps", "sb3:ppo", "sb3:a2c", "dpas"),
    "trust_region": ("ess", "kl", "fixed", "adaptive"),
}
"""Of settings whose choices are not declared."""


@st.composite
def settings_of_a_run(draw: st.DrawFn) -> str:
    """A flag with a value that is mostly of its type."""
    name, declared = draw(st.sampled_from(list(choosable().items())))
    flag = f"--{name.replace('_', '-')}"
    if bool in declared.kinds:
        return draw(st.sampled_from((flag, f"--no-{flag[2:]}", f"{flag}=x")))
    pools = [declared.choices or OWN.get(name, TEXTS)]
    if int in declared.kinds or float in declared.kinds:
        pools = [INTEGERS, INTEGERS] if int in declared.kinds else [FLOATS, FLOATS]
        pools.append(
            tuple(f"{a},{b}" for a in INTEGERS for b in ("", *INTEGERS)) if ... in declared.kinds else TEXTS[:4]
        )
    elif name.endswith("_options"):
        pools = [NAMED]
    return f"{flag}={draw(st.sampled_from(draw(st.sampled_from((*pools, pools[0], TEXTS)))))}"


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command that would be right, with up to four arguments more, and now and then one less."""
    command = draw(st.sampled_from([*COMMANDS, *["train"] * 9, *["compare"] * 3]))
    line = [command, *BASE[command]]
    extra = st.sampled_from(OTHERS[command])
    if command in ("train", "compare"):
        presets = st.sampled_from([*PUBLISHED, "x"]).map("--config={}".format)
        quantised = st.tuples(st.sampled_from(("vq", "fsq")), st.sampled_from(NAMED)).map(
            lambda pair: (
                f"--agent={pair[0]}\t--policy-options={pair[1]}" if command == "train" else f"--set=daps:{pair[1]}"
            )
        )
        extra |= settings_of_a_run() | settings_of_a_run() | settings_of_a_run() | presets | quantised
    line += [part for drawn in draw(st.lists(extra, max_size=4)) for part in drawn.split("\t")]
    if draw(st.integers(0, 19)) == 0:
        line.append(draw(st.sampled_from(TEXTS) | st.text(max_size=8)))
    if draw(st.integers(0, 19)) == 0:
        line.pop(draw(st.integers(0, len(line) - 1)))
    return [argument.replace("\0", "") for argument in line]


def make_files(folder: Path) -> None:
    """What the lines name: data, a finished run, and things that are no data."""
    np.save(folder / "data.npy", np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32))
    np.save(folder / "codes.npy", np.zeros((2, 3), np.int64))
    (folder / "text.npy").write_text("no numbers")
    (folder / "folder").mkdir()
    (folder / "loop.npy").symlink_to("loop.npy")
    os.makedirs(folder / "runs")
    run = ["--data", str(folder / "data.npy"), "--out", str(folder / "runs" / "run")]
    assert main(["train", *run, *TINY, "--steps", "1"]) == 0
    files = ["--input", str(folder / "data.npy"), "--output", str(folder / "x.daps")]
    assert main(["compress", run[3], *files]) == 0
