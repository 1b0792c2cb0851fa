"""What a search finds with the models of finished runs, beside what their summaries say."""

from __future__ import annotations

import sys

from daps_rl.comparison.folder import ComparisonFolder
from daps_rl.comparison.plan import Plan, PlannedRun
from daps_rl.data import Splits
from daps_rl.evaluation import evaluate
from daps_rl.runs.session import code_score_of, load_run
from daps_rl.search import Search
from daps_rl.verdicts import make_verdicts


def search_all(folder: ComparisonFolder, plan: Plan, splits: Splits, search: Search) -> None:
    """Measures what a search finds on the test split with each finished run that it has not been measured with.

    It is kept in the run's search.json. A model that cannot be searched so is named on stderr, and left out.
    """
    for planned in plan.runs():
        known = folder.searched(planned)
        if not folder.run(planned).summary.exists() or str(search) in known:
            continue
        try:
            metrics = _measured(folder, planned, splits, search)
        except ValueError as error:
            print(f"{planned.label}, seed {planned.seed}: {error}", file=sys.stderr)
            continue
        run = folder.run(planned)
        run.write_json(run.searches, {**known, str(search): metrics})


def _measured(folder: ComparisonFolder, planned: PlannedRun, splits: Splits, search: Search) -> dict[str, float | None]:
    """What an evaluation says of the greedy codes and of those that are found."""
    run, config, model = load_run(folder.run(planned).path, planned.config.device, trust=True)  # what is compared
    found = evaluate(
        model,
        splits.test,
        beta=config.beta_end,
        kind=splits.kind,
        targets=splits.targets("test"),
        importance_data=0,
        verdicts=make_verdicts(config.reward, splits, run.verdicts),
        labels=splits.test_labels,
        search=search,
        score=code_score_of(run, config, model),
    )
    return {
        name: value for name, value in found.metrics.items() if name.endswith(("_greedy", "_search", "_evaluations"))
    }
