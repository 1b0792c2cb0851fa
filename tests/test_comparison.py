"""Plan, folder, processes and curves of a comparison."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daps_rl.commands.parser import agents, own_settings, seeds
from daps_rl.comparison import runner
from daps_rl.comparison.curves import common_point, points, read_at, read_curve, validation
from daps_rl.comparison.folder import ComparisonFolder, environment
from daps_rl.comparison.plan import Plan, extended, plan_from_json
from daps_rl.comparison.progress import ComparisonProgress
from daps_rl.comparison.runner import threads_each
from daps_rl.comparison.session import collect_rows, reference_of, train_all, write_report
from daps_rl.config import make_config

PLAN = Plan(agents={"daps-na": "daps-na", "small": "daps-na"}, seeds=(0, 1), options={"steps": 5, "batch_size": 8},
            own={"small": {"num_tokens": 3, "decoder_hidden": [8, 4]}})  # fmt: skip

CHILD = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
name = json.loads((folder / "config.json").read_text())["seed"]
print("step 1", file=sys.stderr)
(folder / "metrics.jsonl").write_text(json.dumps({"step": 3, "seconds": 0.5}) + "\\n")
(folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])
with open(folder.parent / "order", "a") as file:
    file.write(folder.name + "\\n")
behave = (folder.parent / f"{folder.name}.behave")
behave = behave.read_text() if behave.exists() else "finish"
if behave == "raise":
    raise RuntimeError("no good")
if behave.startswith("SIG"):
    os.kill(os.getpid(), signal.Signals[behave])
if behave in ("wait", "linger"):
    def saved(number, frame):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1.0 if behave == "linger" else 0.0)
        (folder / "saved").touch()
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, saved)
    (folder / "ready").touch()
    time.sleep(60)
(folder / "summary.json").write_text(json.dumps({"steps": 5, "versions": {"torch": "x"}, "seed": name}))
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for `daps-rl train`; what it does is in runs/NAME.behave. Returns the runs' folder."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setattr(runner, "TRAIN", (sys.executable, str(script)))
    runs = tmp_path / "cmp" / "runs"
    runs.mkdir(parents=True)
    return runs


def train(runs: Path, plan: Plan = PLAN, **options: Any) -> dict[tuple[str, int], dict[str, Any]]:
    folder = ComparisonFolder(runs.parent)
    train_all(folder, plan, **{"jobs": 1, "retry_failed": False, **options})
    return folder.read_rows()


class TestPlan:
    def test_each_run_has_the_recipe_of_its_agent_and_its_own_settings(self) -> None:
        runs = {run.name: run.config for run in PLAN.runs()}
        assert list(runs) == ["daps-na-seed0", "small-seed0", "daps-na-seed1", "small-seed1"]
        assert runs["daps-na-seed1"] == make_config(agent="daps-na", seed=1, steps=5, batch_size=8)
        own = make_config(agent="daps-na", seed=1, steps=5, batch_size=8, num_tokens=3, decoder_hidden=(8, 4))
        assert runs["small-seed1"] == own

    def test_an_own_length_stands_in_for_the_shared_one(self) -> None:
        plan = Plan(agents={"a": "daps"}, seeds=(0,), options={"steps": 5}, own={"a": {"minutes": 2.0}})
        assert (plan.config("a", 0).steps, plan.config("a", 0).minutes) == (None, 2.0)

    def test_the_command_of_a_run_makes_the_same_settings(self) -> None:
        from daps_rl.cli import _parser

        options = {"steps": 5, "centered": False, "agent_options": {"clip": 0.1, "name": "x"}}
        plan = Plan(agents=PLAN.agents, seeds=(3,), preset="mnist", options=options, own=PLAN.own)
        for run in plan.runs():
            parsed = vars(_parser().parse_args(plan.command(run)[1:]))
            preset = parsed.pop("config")
            others = ("command", "debug", "out", "resume", "dry_run", "trust")
            given = {name: value for name, value in parsed.items() if name not in others}
            assert make_config(preset, **given) == run.config

    def test_it_comes_back_from_json(self) -> None:
        assert plan_from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN
        with pytest.raises(ValueError, match=r"comparison\.json must hold agents"):
            plan_from_json({"agents": {}})

    @pytest.mark.parametrize(
        ("name", "value"),
        [("agents", "daps"), ("agents", ["daps"]), ("agents", {"daps": 1}), ("agents", {"daps": {}}), ("seeds", 3),
         ("seeds", [None]), ("seeds", [[1]]), ("options", []), ("own", None), ("own", {"small": 2}), ("preset", [])],
    )  # fmt: skip
    def test_other_types_than_were_written_are_one_line(self, name: str, value: Any) -> None:
        with pytest.raises(ValueError, match=r".") as error:
            plan_from_json({**json.loads(json.dumps(PLAN.to_json())), name: value})
        assert "\n" not in str(error.value)

    def test_agents_and_seeds_extend_it(self) -> None:
        more = extended(PLAN, agents={"rloo": "rloo"}, seeds=(1, 4), preset=None, options={"steps": 5},
                        own={"rloo": {"samples": 4}, "small": {"num_tokens": 3, "decoder_hidden": (8, 4)}})  # fmt: skip
        assert list(more.agents) == ["daps-na", "small", "rloo"]
        assert more.seeds == (0, 1, 4)
        assert more.config("rloo", 4).samples == 4
        assert [more.config("small", seed) for seed in (0, 1)] == [PLAN.config("small", seed) for seed in (0, 1)]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"options": {"steps": 6}}, "--steps"),
            ({"options": {"learning_rate": 1e-3}}, "--learning-rate"),
            ({"preset": "mnist"}, "--config"),
            ({"agents": {"small": "daps"}}, "--agents small"),
            ({"own": {"daps-na": {"samples": 4}}}, "--set daps-na"),
        ],
    )
    def test_other_settings_are_refused(self, change: dict[str, Any], says: str) -> None:
        asked: dict[str, Any] = {"agents": {}, "seeds": (), "preset": None, "options": {}, "own": {}}
        with pytest.raises(ValueError, match=f"leave out {says}, or choose another --out"):
            extended(PLAN, **{**asked, **change})

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"agents": {}}, "at least one agent"),
            ({"seeds": (1, 1)}, "seeds must be different numbers"),
            ({"agents": {"sb3:ppo": "sb3:ppo", "sb3-ppo": "ppo"}}, "'sb3-ppo' and 'sb3:ppo' would share a folder"),
            ({"own": {"ppo": {"samples": 4}}}, "--set names ppo, which takes no part"),
            ({"own": {"small": {"data": "x"}}}, "--set small:data is not possible"),
        ],
    )
    def test_nonsense_is_refused(self, values: dict[str, Any], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            Plan(**{"agents": PLAN.agents, "seeds": (0,), **values})

    def test_unknown_agents_and_settings_are_refused_before_any_training(self) -> None:
        with pytest.raises(ValueError, match="agent must be one of"):
            Plan(agents={"nobody": "nobody"}, seeds=(0,), options={"steps": 1}).check()
        with pytest.raises(ValueError, match="steps must be positive"):
            Plan(agents={"daps": "daps"}, seeds=(0,), options={"steps": 0}).check()

    def test_the_reference(self) -> None:
        assert reference_of(PLAN, None) == "daps-na"
        assert reference_of(PLAN, "small") == "small"
        assert reference_of(Plan(agents={"ppo": "ppo", "daps": "daps"}, seeds=(0,)), None) == "daps"
        with pytest.raises(ValueError, match="--against must be one of daps-na, small, got 'daps'"):
            reference_of(PLAN, "daps")


class TestOptions:
    def test_agents_and_seeds(self) -> None:
        assert agents("daps, ppo,wide=sb3:ppo") == {"daps": "daps", "ppo": "ppo", "wide": "sb3:ppo"}
        assert seeds("3") == (0, 1, 2)
        assert seeds("4,2") == (4, 2)
        assert seeds("5,") == (5,)

    def test_own_settings_have_the_types_of_a_run(self) -> None:
        text = "sb3:ppo:decoder-hidden=64,256,centered=false,agent_options=clip=0.1,epochs=2,learning_rate=1e-3"
        agent, values = own_settings(text)
        assert agent == "sb3:ppo"
        assert values.pop("agent_options") == {"clip": 0.1, "epochs": 2}
        assert values == {"decoder_hidden": (64, 256), "centered": False, "learning_rate": 1e-3}

    @pytest.mark.parametrize("text", ["daps", "daps:", "samples=4", ":samples=4", "daps:sampels=4", "daps:samples=x"])
    def test_unusable_ones_are_refused(self, text: str) -> None:
        from argparse import ArgumentTypeError

        with pytest.raises(ArgumentTypeError):
            own_settings(text)


class TestTraining:
    def test_every_run_is_trained_and_has_a_row(self, child: Path) -> None:
        rows = train(child, jobs=2)
        assert list(rows) == [("daps-na", 0), ("small", 0), ("daps-na", 1), ("small", 1)]
        row = rows["small", 1]
        assert (row["status"], row["agent"], row["seed"], row["steps"]) == ("finished", "daps-na", 1, 5)
        assert row["config"]["num_tokens"] == 3
        assert row["versions"]["torch"] == "x"  # the summary's: what trained it
        assert {"commit", "host", "command", "bits"} <= set(row)
        assert (child / "small-seed1" / "threads").read_text() == str(threads_each(2))

    def test_those_that_die_are_rows_that_say_why(self, child: Path) -> None:
        (child / "daps-na-seed0.behave").write_text("raise")
        (child / "small-seed1.behave").write_text("SIGSEGV")
        (child / "small-seed0.behave").write_text("SIGKILL")
        rows = train(child)
        assert {key: row["status"] for key, row in rows.items() if row["status"] != "finished"} == {
            ("daps-na", 0): "failed",
            ("small", 0): "failed",
            ("small", 1): "failed",
        }
        assert rows["daps-na", 0]["reason"] == "RuntimeError: no good"
        assert rows["small", 1]["reason"] == "killed by SIGSEGV"
        assert rows["small", 0]["reason"] == "killed by SIGKILL (out of memory?)"
        assert "Traceback" in (child / "daps-na-seed0" / "error.txt").read_text()
        assert rows["daps-na", 0]["config"]["batch_size"] == 8

    def test_only_what_is_left_is_trained_and_failed_runs_on_request(self, child: Path) -> None:
        (child / "daps-na-seed1.behave").write_text("raise")
        train(child)
        before = (child / "order").read_text().split()
        (child / "daps-na-seed1.behave").unlink()
        assert train(child)["daps-na", 1]["status"] == "failed"
        assert (child / "order").read_text().split() == before
        rows = train(child, retry_failed=True)
        assert {row["status"] for row in rows.values()} == {"finished"}
        assert (child / "order").read_text().split() == [*before, "daps-na-seed1"]
        assert not (child / "daps-na-seed1" / "error.txt").exists()

    def test_more_seeds_are_trained_alone(self, child: Path) -> None:
        train(child)
        more = extended(PLAN, agents={}, seeds=(7,), preset=None, options={}, own={})
        rows = train(child, more)
        assert len(rows) == 6
        assert (child / "order").read_text().split()[4:] == ["daps-na-seed7", "small-seed7"]

    def test_a_run_of_other_settings_is_refused(self, child: Path) -> None:
        train(child)
        path = child / "small-seed0" / "config.json"
        path.write_text(path.read_text().replace('"batch_size": 8', '"batch_size": 9'))
        (child.parent / "rows.jsonl").unlink()
        with pytest.raises(ValueError, match="small-seed0 holds a run of other settings"):
            train(child)

    def test_kernels_are_as_the_machine_was_that_a_run_began_on(self, child: Path) -> None:
        train(child)
        path = child / "small-seed0" / "config.json"
        path.write_text(path.read_text().replace('"cpu_kernels": false', '"cpu_kernels": true'))
        (child.parent / "rows.jsonl").unlink()
        rows = train(child)
        assert {key: row["config"]["cpu_kernels"] for key, row in rows.items() if row["label"] == "small"} == {
            ("small", 0): True,
            ("small", 1): False,
        }

    def test_a_finished_run_without_a_row_gets_one(self, child: Path) -> None:
        rows = train(child)
        (child.parent / "rows.jsonl").unlink()
        assert list(collect_rows(ComparisonFolder(child.parent), PLAN)) == list(rows)
        assert ComparisonFolder(child.parent).read_rows() == rows

    @pytest.mark.parametrize("row", [{"label": []}, {"label": "daps-na"}, {"label": "small", "seed": {}}])
    def test_rows_that_no_comparison_wrote_are_one_line(self, child: Path, row: dict[str, Any]) -> None:
        (child.parent / "rows.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(ValueError, match=r"cmp holds rows or logs that no comparison wrote \(.*; restore them"):
            train(child)
        with pytest.raises(ValueError, match="cmp holds rows or logs that no comparison wrote"):
            write_report(ComparisonFolder(child.parent), PLAN, None, reference="small")  # type: ignore[arg-type]

    def test_a_stop_lets_the_running_ones_save_and_starts_no_more(
        self, child: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, behave in (("daps-na-seed0", "wait"), ("small-seed0", "linger")):
            (child / f"{name}.behave").write_text(behave)
        running = [child / "daps-na-seed0", child / "small-seed0"]
        start = time.monotonic()
        rows = train(child, jobs=2, stop=lambda: all((folder / "ready").exists() for folder in running))
        assert time.monotonic() - start < 30
        assert all((folder / "saved").exists() for folder in running)
        assert rows == {}
        assert capsys.readouterr().err.splitlines() == ["daps-na-seed0 starts", "small-seed0 starts"]

    def test_an_error_here_stops_the_children(self, child: Path) -> None:
        (child / "small-seed0.behave").write_text("wait")
        ready = child / "small-seed0" / "ready"

        def stop() -> bool:
            if ready.exists():
                raise OSError("disk full")
            return False

        with pytest.raises(OSError, match="disk full"):
            train(child, jobs=2, stop=stop)
        assert (child / "small-seed0" / "saved").exists()

    def test_one_at_a_time_in_one_folder(self, child: Path) -> None:
        folder = ComparisonFolder(child.parent)
        with folder.locked(), pytest.raises(ValueError, match="in use by another run"), folder.locked():
            pass


class TestProgress:
    def test_it_says_which_run_how_far_and_the_time_left(
        self, child: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("daps_rl.comparison.progress.LINE_EVERY", 0.0)
        runs = {child / run.name: run for run in PLAN.runs()}
        first, second = list(runs)[:2]
        with ComparisonProgress(runs, 3) as progress:
            progress.started(first)
            first.mkdir()
            (first / "metrics.jsonl").write_text('{"step": 1, "seconds": 0.5}\n{"step": 2, "seconds": 1.0}\n{"ste')
            progress.look()
            progress.ended(first, None)
            progress.started(second)
            progress.ended(second, "no good")
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "daps-na-seed0 starts"
        assert lines[1].startswith("daps-na-seed0 40%, step 2, 2.0 steps/s; 3 of 7 runs, ")
        assert lines[1].endswith("s left")
        assert lines[2].startswith("daps-na-seed0 is finished; 4 of 7 runs, ")
        assert lines[4].startswith("small-seed0 failed: no good; 5 of 7 runs, ")

    def test_on_a_terminal_it_is_bars(self, child: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import io

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr(sys, "stderr", Terminal())
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        runs = {child / run.name: run for run in PLAN.runs()}
        folder = next(iter(runs))
        folder.mkdir()
        (folder / "metrics.jsonl").write_text('{"step": 2, "seconds": 1.0}\n')
        with ComparisonProgress(runs, 0) as progress:
            progress.started(folder)
            progress.look()
            progress.refresh()
        shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
        assert "all runs" in shown
        assert "daps-na-seed0" in shown
        assert "40%" in shown
        assert "0 of 4 runs" in shown


class TestCurves:
    CURVE = (
        {"step": 10, "seconds": 1.0, "decoder_evaluations": 100, "validation_psnr": 5.0, "validation_beta_elbo": None},
        {"step": 20, "seconds": 2.0, "decoder_evaluations": 200, "validation_psnr": 7.0, "validation_beta_elbo": None},
        {"step": 30, "seconds": 3.0, "decoder_evaluations": 300, "validation_psnr": 8.0, "validation_beta_elbo": None},
    )

    def test_validations_are_read_from_the_log(self, tmp_path: Path) -> None:
        rows = [{"step": 5, "psnr": 1.0}, *self.CURVE, {"step": 35, "validation_psnr": float("nan")}]
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert read_curve(path) == list(self.CURVE)
        assert read_curve(tmp_path / "nowhere") == []

    def test_the_common_point_is_the_least_of_the_ends(self) -> None:
        shorter = self.CURVE[:2]
        assert common_point({"a": [self.CURVE], "b": [self.CURVE, shorter]}, "decoder_evaluations") == 200
        assert common_point({"a": [self.CURVE], "b": [()]}, "step") is None
        assert common_point({}, "step") is None
        assert common_point({"a": [({"step": 1, "validation_psnr": 1.0},)]}, "decoder_evaluations") is None

    def test_the_last_validation_at_or_before_a_point_counts(self) -> None:
        assert validation(read_at(self.CURVE, "step", 20), "psnr") == 7.0
        assert validation(read_at(self.CURVE, "decoder_evaluations", 299), "psnr") == 7.0
        assert read_at(self.CURVE, "step", 9) is None
        assert validation(None, "psnr") is None
        assert validation(self.CURVE[0], "beta_elbo") is None

    def test_points_leave_out_what_is_not_defined(self) -> None:
        np.testing.assert_array_equal(
            points(self.CURVE[::-1], "seconds", "psnr"), [[10, 20, 30], [1.0, 2.0, 3.0], [5.0, 7.0, 8.0]]
        )
        assert points(self.CURVE, "seconds", "beta_elbo").size == 0


def test_the_environment_names_the_checkout_and_the_machine() -> None:
    found = environment()
    assert found["commit"] is None or len(found["commit"].removesuffix("-dirty")) == 40
    assert found["versions"]["torch"].startswith(__import__("torch").__version__.split("+")[0])
    assert found["host"]["cores"] >= 1
    assert found["host"]["cpu"]


def test_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daps_rl.comparison.runner.cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_each(jobs) for jobs in (1, 3, 20)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_each(2) == 5
