"""benchmarks/check_claims.py: a wrong number, one without a claim, and a table that is not its rows' are found."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import check_claims
import common

ROWS = [
    {"label": "a", "seed": 0, "status": "finished", "test": {"elbo": -97.0, "psnr": 15.0}, "settings": {}},
    {"label": "a", "seed": 1, "status": "finished", "test": {"elbo": -98.0, "psnr": 15.4}, "settings": {}},
    {"label": "a", "seed": 2, "status": "finished", "test": {"elbo": -97.8, "psnr": 15.2}, "settings": {}},
    {"label": "b", "seed": 0, "status": "finished", "test": {"elbo": -99.0, "psnr": 14.0}, "settings": {"k": 4}},
    {"label": "b", "seed": 1, "status": "finished", "test": {"elbo": -99.5, "psnr": 14.1}, "settings": {"k": 4}},
    {"label": "b", "seed": 2, "status": "finished", "test": {"elbo": -99.9, "psnr": 14.3}, "settings": {"k": 4}},
    {"label": "b", "seed": 3, "status": "failed", "test": {"elbo": 0.0, "psnr": 0.0}, "settings": {"k": 4}},
]


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of two agents, under the name "made"."""
    (tmp_path / "made.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.setattr(common, "ROWS", tmp_path)
    monkeypatch.setattr(check_claims, "ROWS", tmp_path)
    check_claims.cached_rows.cache_clear()


def wrong(text: str) -> list[str]:
    return list(check_claims.problems_of(text))


class TestNumbers:
    @pytest.mark.parametrize("printed", ["-97.6", "-97.60", "-98", "~-100"])
    def test_a_number_that_the_rows_have_passes_at_its_last_digit(self, printed: str) -> None:
        text = f"It ends at {printed.lstrip('~').replace('-', '−')} nats."
        assert wrong(f"{text}\n<!-- claim: made label=a test.elbo mean = {printed} -->") == []

    def test_a_wrong_number_fails(self) -> None:
        (reason,) = wrong("It ends at −97.5 nats.\n<!-- claim: made label=a test.elbo mean = -97.5 -->")
        assert "mean is -97.6, not = -97.5" in reason

    def test_a_number_of_the_claim_must_stand_in_the_text(self) -> None:
        (reason,) = wrong("It ends at its best.\n<!-- claim: made label=a test.elbo mean = -97.6 -->")
        assert "-97.6 is not in the text" in reason

    @pytest.mark.parametrize(
        "text", ["It is 0.3 dB better.", "p = 0.02 here.", "It ends at −97.6.", "2.7 times as fast.", "- 18 % of it.",
                 "Takes 1,620 MiB.", "a factor of 3", "| agent | PSNR (dB) |\n|---|---|\n| a | 15.1 |"],
    )  # fmt: skip
    def test_a_measured_number_without_a_claim_fails(self, text: str) -> None:
        assert any("no claim for" in reason for reason in wrong(f"Before.\n\n{text}\n\nAfter."))

    def test_a_claim_covers_its_own_paragraph_and_numbers_alone(self) -> None:
        claim = "<!-- claim: made label=a test.psnr mean = 15.2 -->"
        assert wrong(f"Has 15.2 dB.\n\n{claim}") == []  # behind it
        assert len(wrong(f"Has 15.2 dB and 3.1 dB.\n{claim}")) == 1
        assert len(wrong(f"- Has 15.2 dB.\n  {claim}\n- Has 15.2 dB.")) == 1

    @pytest.mark.parametrize(
        "text", ["`0.3 dB`", "```\n0.3 dB\n```", "a 95 % interval", "64 bits, K = 8, 2,000 steps", "[x](y_3 dB.md)",
                 "0.3 dB, published. <!-- no-claim: from the paper -->", "<!-- t -->\n0.3 dB\n<!-- /t -->"],
    )  # fmt: skip
    def test_settings_code_generated_tables_and_explained_numbers_need_none(self, text: str) -> None:
        assert wrong(text) == []


class TestStatistics:
    @pytest.mark.parametrize(
        ("words", "statistic", "value"),
        [
            ("made label=a test.psnr", "min", 15.0),
            ("made label=b rows", "sum", 3.0),  # the failed run is left out
            ("made settings.k=none test.psnr", "last", 15.2),
            ("made label=a test.psnr/test.elbo", "max", 15.0 / -97.0),
            ("made label=a seed=0 30/test.psnr", "last", 2.0),
            ("made label=a vs label=b test.psnr", "difference", 15.2 - 42.4 / 3),
            ("made label=a vs label=b test.psnr", "ratio", 15.2 / (42.4 / 3)),
            ("made label=a test.elbo", "half", 4.302653 * math.sqrt(0.28) / math.sqrt(3)),
        ],
    )
    def test_of_hand_numbers(self, words: str, statistic: str, value: float) -> None:
        assert check_claims.compute(words, statistic) == pytest.approx(value, rel=1e-6)

    def test_p_values_are_those_of_the_comparisons_tables(self) -> None:
        from scipy import stats

        p = stats.ttest_rel([-97.0, -98.0, -97.8], [-99.0, -99.5, -99.9]).pvalue
        for statistic in ("paired-p", "holm-p"):  # of one difference Holm's correction is none
            assert check_claims.compute("made label=a vs label=b test.elbo", statistic) == pytest.approx(p)
        welch = stats.ttest_ind([-97.0, -98.0, -97.8], [-99.0, -99.5, -99.9], equal_var=False).pvalue
        assert check_claims.compute("made label=a vs label=b test.elbo", "welch-p") == pytest.approx(welch)

    @pytest.mark.parametrize(
        ("claim", "message"),
        [
            ("made label=c test.elbo mean = 1", "no row of made has label=c"),
            ("other test.elbo mean = 1", "there is no benchmarks/rows/other.jsonl"),
            ("made label=a test.fid mean = 1", "a row has no test.fid"),
            ("made label=a test.elbo best = 1", "unknown statistic best"),
            ("made label=a test.elbo ratio = 1", "ratio needs two sides"),
            ("made label=a test.elbo = 1", "unknown statistic test.elbo"),
            ("made", "cannot be read"),
        ],
    )
    def test_a_claim_that_makes_no_sense_fails_in_words(self, claim: str, message: str) -> None:
        assert message in " ".join(wrong(f"1 dB\n<!-- claim: {claim} -->"))


def test_names_of_one_list_only_are_found() -> None:
    found = list(check_claims.differing("rows", {"a", "b"}, {"b", "c"}))
    assert found == ["rows c is there, and not named", "rows a is named, and not there"]
