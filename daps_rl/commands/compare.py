"""`daps-rl compare`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daps_rl.commands.options import given_settings
from daps_rl.commands.terminal import StopRequest
from daps_rl.comparison.folder import ComparisonFolder
from daps_rl.comparison.plan import Plan, extended
from daps_rl.comparison.search import search_all
from daps_rl.comparison.session import reference_of, train_all, write_report
from daps_rl.config import check_trusted
from daps_rl.data.load import own_data
from daps_rl.runs.folder import folder_is_writable, new_run_path
from daps_rl.search import Search
from daps_rl.training import load_data


def compare_command(
    *,
    agents: dict[str, str] | None,
    seeds: tuple[int, ...] | None,
    set: Sequence[tuple[str, dict[str, Any]]] | None,
    against: str | None,
    jobs: int,
    retry_failed: bool,
    report: bool,
    search: str | None,
    trust: bool,
    out: str | None,
    config: str | None,
    **options: Any,
) -> int:
    """`daps-rl compare`."""
    if jobs < 1:
        raise ValueError(f"--jobs must be >= 1, got {jobs}.")
    how = None if search is None else Search.parse(search)
    given = given_settings(options)
    own: dict[str, dict[str, Any]] = {}
    for label, values in set or ():
        own[label] = own.get(label, {}) | values
    if out is None:
        if report or agents is None:
            raise ValueError(f"{'--report' if report else 'a comparison that goes on'} needs --out, its folder.")
        out = str(new_run_path(Path("runs"), f"compare-{Path(given.get('data', 'digits')).stem}"))
    folder = ComparisonFolder(out)
    recorded = folder.plan()
    if recorded is not None:
        typed = {*(agents or {}).values(), given.get("problem"), given.get("data")}
        verdicts = () if "reward" in given else recorded.reward_names
        named = {*recorded.agents.values(), recorded.problem, own_data(recorded.options.get("data")), *verdicts}
        check_trusted(named - typed, folder.settings, trust)
        plan = extended(recorded, agents=agents or {}, seeds=seeds or (), preset=config, options=given, own=own)
    elif report or agents is None:
        raise ValueError(f"{folder.path} holds no comparison; start one with --agents daps,ppo.")
    else:
        seeds = seeds or (0, 1, 2)
        plan = Plan(agents=agents, seeds=seeds, preset=config, options=given, own=own)
    reference = reference_of(plan, against)
    if not report:
        plan.check_rate(label for label in plan.agents if recorded is None or label not in recorded.agents)
    plan.check()
    folder_is_writable(folder.path)
    splits = load_data(plan.config(reference, plan.seeds[0]))
    stop = StopRequest()
    with folder.locked():
        if folder.plan() != recorded:
            raise ValueError(f"{folder.path} was changed by another comparison meanwhile; try again.")
        if not report:
            folder.write_json(folder.settings, plan.to_json())
            with stop.listening():
                train_all(folder, plan, jobs=jobs, retry_failed=retry_failed, stop=stop)
        if how is not None and stop.signal is None:
            search_all(folder, plan, splits, how)
        print(write_report(folder, plan, splits, reference=reference))
    print(f"look at {folder.table} and the pictures beside it", file=sys.stderr)
    if stop.signal is not None:
        print(f"stopped; go on with: daps-rl compare --out {folder.path}", file=sys.stderr)
        return 128 + stop.signal
    failed = any(row["status"] == "failed" for row in folder.read_rows().values())
    if failed:
        print("some runs failed, see the table; try them again with --retry-failed", file=sys.stderr)
    return int(failed)
