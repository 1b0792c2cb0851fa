"""Tables and pictures of a comparison, from rows and curves made by hand."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from daps_rl.comparison import pictures
from daps_rl.comparison.plan import Plan
from daps_rl.comparison.table import comparison_text
from daps_rl.report.figures import SERIES

PLAN = Plan(agents={"daps": "daps", "wide": "daps", "fsq": "rloo"}, seeds=(0, 1, 2), options={"steps": 40},
            own={"wide": {"vocab_size": 64}})  # fmt: skip
QUALITY = {"daps": 20.0, "wide": 22.0, "fsq": 21.0}
BITS = {"daps": 32.0, "wide": 48.0, "fsq": 32.0}

Key = tuple[str, int]


def make_row(label: str, seed: int) -> dict[str, Any]:
    """A finished run whose PSNR is QUALITY plus 0, 1 or 5; that of fsq has no bound."""
    psnr = QUALITY[label] + (0.0, 1.0, 5.0)[seed] + (0.25 * seed if label == "wide" else 0.0)
    bound = None if label == "fsq" else -psnr
    test = {"psnr": psnr, "psnr_greedy": psnr + 1, "beta_elbo": bound, "log_likelihood": -2 * psnr, "ssim": None}
    test |= {"kl": None if bound is None else 3.0, "code_usage": 0.5, "code_perplexity": 9.0}
    return {
        "label": label, "agent": PLAN.agents[label], "seed": seed, "status": "finished", "reason": None,
        "bits": BITS[label], "beta": 0.01, "steps": 40, "seconds": 2.0, "steps_per_second": 20.0,
        "decoder_evaluations": 400, "peak_memory_bytes": 2**20 * (99 + seed + (label != "wide")),
        "num_parameters": {"policy": 1000, "decoder": 234}, "test": test,
    }  # fmt: skip


def make_curve(label: str, seed: int, last: int = 40) -> list[dict[str, Any]]:
    """Validations every 10 steps; an evaluation of fsq costs as much as a step, of the others ten times as many."""
    cost = 1 if label == "fsq" else 10
    return [
        {"step": step, "seconds": step * (1 + seed) / 10, "decoder_evaluations": cost * step,
         "validation_psnr": QUALITY[label] + seed - 10 / step, "validation_log_likelihood": -step - seed,
         "validation_beta_elbo": None if label == "fsq" else -step}
        for step in range(10, last + 1, 10)
    ]  # fmt: skip


@pytest.fixture
def rows() -> dict[Key, dict[str, Any]]:
    return {(label, seed): make_row(label, seed) for seed in PLAN.seeds for label in PLAN.agents}


@pytest.fixture
def curves() -> dict[Key, list[dict[str, Any]]]:
    return {(label, seed): make_curve(label, seed) for seed in PLAN.seeds for label in PLAN.agents}


def cells(text: str, heading: str) -> dict[str, dict[str, str]]:
    """The table below a heading, by agent and column."""
    part = text.split(f" {heading}\n", 1)[1]
    lines = re.findall(r"^\|.*\|$", part.split("\n#", 1)[0], re.M)
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]
    return {line[0]: dict(zip(table[0], line, strict=True)) for line in table[1:]}


class TestTable:
    def test_means_intervals_and_the_best(self, rows: Any, curves: Any) -> None:
        table = cells(comparison_text(PLAN, rows, curves, "daps"), "Reconstructions")
        assert list(table) == ["daps", "wide", "fsq"]
        assert table["daps"]["seeds"] == "3 of 3"
        mean, low, high = map(float, re.findall(r"[\d.]+", table["daps"]["PSNR (dB)"]))
        assert mean == 22.0
        assert 20.0 <= low < 21.0
        assert 23.0 < high <= 25.0
        assert table["wide"]["PSNR (dB)"].startswith("**24.25** [")
        assert "**" not in table["fsq"]["PSNR (dB)"]
        assert table["daps"]["SSIM"] == "not defined"
        assert "FID" not in table["daps"]

    def test_fid_where_it_was_asked_for(self, rows: Any, curves: Any) -> None:
        for (label, seed), row in rows.items():
            row["test"] |= {"fid": 9.0 if label == "wide" else 7.0 + seed}
            row["unreadable_files"] = ["a.png"] if label == "fsq" else []
        text = comparison_text(PLAN, rows, curves, "daps")
        table = cells(text, "Reconstructions")
        assert table["fsq"]["FID"].startswith("**8.00** [")  # the least
        assert "LPIPS" not in table["fsq"]
        assert "1 unreadable files were skipped: a.png." in text

    def test_a_quantiser_has_no_bound(self, rows: Any, curves: Any) -> None:
        text = comparison_text(PLAN, rows, curves, "daps")
        table = cells(text, "Likelihood")
        assert table["fsq"]["β-ELBO (nats)"] == table["fsq"]["KL (nats)"] == "not defined"
        assert table["daps"]["β-ELBO (nats)"].startswith("**-22.00** [")
        assert "β-ELBO: fsq against daps cannot be tested" in text

    def test_cost_and_bits(self, rows: Any, curves: Any) -> None:
        text = comparison_text(PLAN, rows, curves, "daps")
        table = cells(text, "Cost")
        assert (table["wide"]["parameters"], table["wide"]["decoder evaluations"]) == ("1,234", "400")
        assert table["wide"]["peak memory (MiB)"] == "**100**"  # mean of 99, 100, 101: the least
        assert table["daps"]["peak memory (MiB)"] == "101"
        assert cells(text, "Codes")["wide"]["bits"] == "48"
        assert "The codes differ in bits" in text

    def test_a_model_without_a_discrete_code_says_so(self, rows: Any, curves: Any) -> None:
        for seed in PLAN.seeds:
            rows["fsq", seed] |= {"bits": None}
            rows["fsq", seed]["test"] |= {"code_usage": None, "code_perplexity": None}
        text = comparison_text(PLAN, rows, curves, "daps")
        assert cells(text, "Codes")["fsq"] == {
            "agent": "fsq", "seeds": "3 of 3", "bits": "not defined", "code usage": "not defined",
            "code perplexity": "not defined", "entropy (nats)": "not defined", "active positions": "not defined",
        }  # fmt: skip
        assert "fsq has no discrete code" in text

    def test_two_seeds_have_no_interval_and_failed_runs_are_listed(self, rows: Any, curves: Any) -> None:
        rows["wide", 1] |= {"status": "failed", "reason": "killed by SIGKILL (out of memory?)"}
        del rows["fsq", 2], curves["wide", 1], curves["fsq", 2]
        text = comparison_text(PLAN, rows, curves, "daps")
        table = cells(text, "Reconstructions")
        assert table["wide"]["seeds"] == "2 of 3"
        assert table["wide"]["PSNR (dB)"] == "**24.75** (no interval)"
        assert "- wide, seed 1: killed by SIGKILL (out of memory?)" in text
        assert "## Runs still to do\n\n- fsq, seed 2\n" in text
        assert "With 2 pairs" in text

    @pytest.mark.parametrize("reference", ["daps", "fsq"])
    def test_an_agent_that_fails_leaves_the_table_of_the_others(self, rows: Any, curves: Any, reference: str) -> None:
        """Of which it may be the reference: then tests are against the first of those that have finished."""
        for seed in PLAN.seeds:
            rows["fsq", seed] = {"label": "fsq", "seed": seed, "status": "failed", "reason": "no good", "config": {}}
            del curves["fsq", seed]
        text = comparison_text(PLAN, rows, curves, reference)
        assert text.count("- fsq, seed ") == 3
        others = dataclasses.replace(PLAN, agents={"daps": "daps", "wide": "daps"})
        kept = {key: row for key, row in rows.items() if key[0] != "fsq"}
        expected = comparison_text(others, kept, curves, "daps").partition("\n\n")[2].splitlines()
        ours = text.partition("\n\n")[2].partition("## Runs that failed")[0].rstrip().splitlines()
        assert [line for line in ours if "fsq" not in line] == expected

    def test_values_that_are_not_finite_are_left_out_and_counted(self, rows: Any, curves: Any) -> None:
        rows["daps", 2]["test"]["psnr"] = math.nan
        table = cells(comparison_text(PLAN, rows, curves, "daps"), "Reconstructions")
        assert table["daps"]["PSNR (dB)"] == "20.50 (no interval) (2 of 3 runs)"

    def test_significant_differences_are_told_in_words(self, rows: Any, curves: Any) -> None:
        for (label, seed), row in rows.items():
            row["test"]["log_likelihood"] = {"daps": 0.0, "wide": 50.0, "fsq": 1.0}[label] + 0.01 * seed * (
                label != "fsq"
            )
            row["test"]["log_likelihood"] += 0.001 * seed * seed * (label == "wide")
        text = comparison_text(PLAN, rows, curves, "daps")
        assert re.search(r"log-likelihood: wide against daps: \+50 nats.* 3 pairs, p = .*: significant at 0.05", text)
        assert "PSNR: fsq against daps (+1 dB) cannot be tested" in text

    def test_at_equal_steps_and_at_equal_evaluations(self, rows: Any, curves: Any) -> None:
        curves["daps", 1] = make_curve("daps", 1, last=30)
        text = comparison_text(PLAN, rows, curves, "daps")
        table = cells(text, "Validation split, at equal steps")
        assert "At 30 steps" in text
        assert {line["read at step"] for line in table.values()} == {"30"}
        assert table["daps"]["log-likelihood (nats)"].startswith("-31.00 [")  # all alike: none is best
        table = cells(text, "Validation split, at equal decoder evaluations")
        assert "At 40 decoder evaluations" in text  # all that fsq makes; the others have not validated by then
        assert table["fsq"]["read at step"] == "40"
        assert table["daps"]["seeds"] == "0 of 3"

    def test_another_problem_s_evaluations_are_of_its_reward(self, rows: Any, curves: Any) -> None:
        plan = dataclasses.replace(PLAN, options={"problem": "nk20"}, own={})
        text = comparison_text(plan, rows, curves, "daps")
        assert "At 40 reward evaluations" in text
        assert "decoder" not in text

    def test_runs_without_curves_say_so(self, rows: Any) -> None:
        text = comparison_text(PLAN, rows, {key: [] for key in rows}, "daps")
        assert "No such table: some finished run has no validation with its steps." in text

    def test_nothing_finished_yet(self) -> None:
        text = comparison_text(PLAN, {}, {}, "daps")
        assert cells(text, "Cost")["daps"] == {**cells(text, "Cost")["daps"], "seeds": "0 of 3", "steps": ""}
        assert text.count("\n- ") >= 9

    def test_settings_are_told(self, rows: Any, curves: Any) -> None:
        text = comparison_text(PLAN, rows, curves, "daps")
        assert "Seeds 0, 1, 2. Settings given: steps 40." in text
        assert "wide is daps with settings of its own: vocab_size 64." in text


class TestPictures:
    def test_curves_are_means_over_the_seeds(self, figures: list[Any], curves: Any) -> None:
        by_label = {label: [curves[label, seed] for seed in PLAN.seeds] for label in PLAN.agents}
        pictures.plot_curves(Path("a.png"), by_label, title="T")
        panels = figures[0].axes
        assert len(panels) == 6
        line = panels[0].lines[0]
        np.testing.assert_allclose(line.get_xdata(), [2.0, 4.0, 6.0, 8.0])  # seconds: 1, 2 and 3 for every 10 steps
        np.testing.assert_allclose(line.get_ydata(), [21 - 10 / step for step in (10, 20, 30, 40)])
        np.testing.assert_allclose(panels[3].lines[2].get_xdata(), [10, 20, 30, 40])  # evaluations of fsq
        band = panels[0].collections[0].get_paths()[0].vertices
        assert (band[:, 1].min(), band[:, 1].max()) == (19.0, 21.75)
        assert [len(axes.lines) for axes in panels] == [3, 3, 2, 3, 3, 2]  # fsq has no β-ELBO
        assert [text.get_text() for text in figures[0].legends[0].get_texts()] == list(PLAN.agents)

    def test_seeds_are_averaged_as_far_as_all_have_come(self, figures: list[Any]) -> None:
        pictures.plot_curves(
            Path("a.png"), {"daps": [make_curve("daps", 0), make_curve("daps", 1, last=20)]}, title="T"
        )
        np.testing.assert_allclose(figures[0].axes[0].lines[0].get_xdata(), [1.5, 3.0])

    def test_a_legend_of_many_stays_in_the_figure(self, figures: list[Any]) -> None:
        many = {f"an-agent-by-name-{i}": [make_curve("fsq", 0, last=10)] for i in range(23)}
        pictures.plot_curves(Path("a.png"), many, title="T")
        figures[0].canvas.draw()
        box = figures[0].legends[0].get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figures[0].bbox.width

    def test_one_validation_is_a_point_and_none_is_said_so(self, figures: list[Any], tmp_path: Path) -> None:
        pictures.plot_curves(Path("a.png"), {"fsq": [make_curve("fsq", 0, last=10)], "daps": [[]]}, title="T")
        assert len(figures[0].axes[0].lines[0].get_xdata()) == 1
        assert len(figures[0].axes[0].containers) == 1  # with its range
        assert [text.get_text() for text in figures[0].axes[2].texts] == ["not defined"]

    def test_terrible_first_validations_do_not_set_the_range(self, figures: list[Any]) -> None:
        curve = [{"step": i, "seconds": i, "decoder_evaluations": i, "validation_psnr": float(i)} for i in range(1, 41)]
        curve[0]["validation_psnr"] = -1e6
        pictures.plot_curves(Path("a.png"), {"daps": [curve]}, title="T")
        low, high = figures[0].axes[0].get_ylim()
        assert -10 < low < 5
        assert high > 40

    def test_very_different_lengths_are_on_a_log_axis(self, figures: list[Any]) -> None:
        by_label = {label: [make_curve(label, 0)] for label in PLAN.agents}  # 4 seconds; 400 evaluations, or 40
        pictures.plot_curves(Path("a.png"), by_label, title="T")
        assert [axes.get_xscale() for axes in figures[0].axes] == ["linear"] * 3 + ["log"] * 3

    def test_more_lines_than_colours_differ_in_their_dashes(self) -> None:
        looks = [look for look, _ in zip(pictures._looks(), range(21), strict=False)]
        assert len({(look["color"], str(look["linestyle"])) for look in looks}) == 21

    def test_quality_against_bits_is_one_line_per_agent(self, figures: list[Any], rows: Any) -> None:
        pictures.plot_bits(Path("a.png"), PLAN.agents, list(rows.values()), title="T")
        psnr = figures[0].axes[0]
        line = psnr.containers[0].lines[0]
        np.testing.assert_allclose(line.get_xdata().astype(float), [32, 48])
        np.testing.assert_allclose(line.get_ydata().astype(float), [22.0, 24.25])
        assert [of.lines[0].get_color() for of in psnr.containers] == [SERIES[0], SERIES[2]]
        ranges = [bar[:, 1].tolist() for bar in psnr.containers[0].lines[2][0].get_segments()]
        np.testing.assert_allclose(ranges, [[20.0, 25.0], [22.0, 27.5]])
        assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["daps", "rloo"]

    def test_they_are_written(self, tmp_path: Path, curves: Any, rows: Any) -> None:
        by_label = {label: [curves[label, seed] for seed in PLAN.seeds] for label in PLAN.agents}
        pictures.plot_curves(tmp_path / "a.png", by_label, title="T")
        pictures.plot_bits(tmp_path / "b.png", PLAN.agents, list(rows.values()), title="T")
        assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("a.png", "b.png"))


def test_the_sheet_has_a_row_per_model_and_leaves_the_random_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from daps_rl.data import from_arrays

    class Model(torch.nn.Linear):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand(())

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return z

    sheets: list[Any] = []
    model = Model(1, 1)
    monkeypatch.setattr("daps_rl.runs.session.load_run", lambda run, device, trust: (None, None, model))
    monkeypatch.setattr(
        "daps_rl.data.pixels.plot_sheet", lambda path, sheet, **options: sheets.append((sheet, options))
    )
    splits = from_arrays(np.random.default_rng(0).random((60, 2, 8, 8), dtype=np.float32))
    before = torch.get_rng_state()
    runs = {"a\n20 dB": tmp_path, "b\n21 dB": tmp_path}
    pictures.plot_reconstructions_of(tmp_path / "a.png", runs, splits, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    (sheet, options), *_ = sheets
    assert list(sheet) == ["original", *runs]
    torch.testing.assert_close(sheet["a\n20 dB"], sheet["b\n21 dB"])  # the same random numbers for each
    assert options["value_range"] == splits.value_range
