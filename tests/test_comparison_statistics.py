"""Intervals and tests of a comparison, against hand numbers, published ones and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from daps_rl.comparison.statistics import (
    bootstrap_interval,
    detectable_effect,
    holm,
    paired_differences,
    power_warning,
    sentence,
)


def test_holm_by_hand() -> None:
    """m = 4: 4·0.005, 3·0.01, 2·0.03, then 1·0.04 raised to what came before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_on_the_example_of_statsmodels_and_r() -> None:
    """The p-values of statsmodels' test_multi.py, adjusted there by R's multtest."""
    raw = [0.838541367553, 0.642193923795, 0.680845947633, 0.967833824309, 0.71626938238, 0.177096952723,
           5.23656777208e-05, 0.0202732688798, 0.00028140506198, 0.0149877310796]  # fmt: skip
    expected = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5.23656777208e-04, 0.1419128821586, 0.00253264555782, 0.1199018486368]
    assert holm(raw) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], level: float) -> None:
    rejected: set[int] = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - rank) >= level:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p < level} == rejected


def test_paired_difference_by_hand() -> None:
    """Differences 1, 2, 3: t = 2·√3 with 2 degrees of freedom, whose quantile at 0.975 is 4.302653."""
    values = {"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {0: 2.0, 1: 4.0, 2: 6.0}}
    (found,) = paired_differences(values, "a")
    assert (found.label, found.pairs, found.mean) == ("b", 3, 2.0)
    assert (found.low, found.high) == pytest.approx(
        (2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6
    )
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-9)  # F₂(t) = 1/2 + t / (2·√(2 + t²))
    assert found.p_holm == found.p


def test_only_common_seeds_are_paired_and_each_test_is_corrected() -> None:
    rng = np.random.default_rng(0)
    values = {name: dict(enumerate(rng.normal(size=5).tolist())) for name in "abc"}
    values["b"][9] = 1e9
    found = paired_differences(values, "b")
    raw = [stats.ttest_rel(list(values[name].values()), list(values["b"].values())[:5]).pvalue for name in "ac"]
    assert [difference.p for difference in found] == pytest.approx(raw)
    assert [difference.p_holm for difference in found] == pytest.approx(holm(raw))
    assert [difference.pairs for difference in found] == [5, 5]


def test_what_cannot_be_tested_says_why_and_costs_the_others_nothing() -> None:
    reference = {0: 0.1, 1: 0.2, 2: 0.3}
    values = {
        "reference": reference,
        "constant": {seed: value + 0.7 for seed, value in reference.items()},
        "same": dict(reference),
        "one": {0: 5.0},
        "none": {7: 5.0},
        "tested": {0: 1.0, 1: 2.0, 2: 1.5},
    }
    found = {difference.label: difference for difference in paired_differences(values, "reference")}
    assert found["constant"].mean == pytest.approx(0.7)
    assert "the same for every seed" in sentence(found["constant"], "reference", "PSNR", "dB")
    assert "the same for every seed" in sentence(found["same"], "reference", "PSNR", "dB")
    for label in ("one", "none"):
        assert found[label].p is None
        assert "at least 2 seeds" in sentence(found[label], "reference", "PSNR", "dB")
    assert found["tested"].p_holm == found["tested"].p  # one test, nothing to correct


def test_words_follow_the_corrected_p_value() -> None:
    clear = {0: 10.0, 1: 10.1, 2: 10.3, 3: 10.2}
    values = {"a": {seed: 0.01 * seed * seed for seed in range(4)}, "b": clear, "c": {0: 1.0, 1: -1.0, 2: 0.5, 3: 0.0}}
    words = [sentence(difference, "a", "PSNR", "dB") for difference in paired_differences(values, "a")]
    assert words[0].startswith("PSNR: b against a: +10.1 dB, 95 % interval +")
    assert words[0].endswith(", 4 pairs, p = < 0.0001: significant at 0.05.") or ": significant at 0.05." in words[0]
    assert words[1].endswith(": not significant at 0.05.")


def test_few_pairs_are_warned_of() -> None:
    rng = np.random.default_rng(0)

    def differences(pairs: int) -> list:
        return paired_differences({name: dict(enumerate(rng.normal(size=pairs).tolist())) for name in "ab"}, "a")

    assert "With 3 pairs" in (power_warning(differences(3)) or "")
    assert "3.3 standard deviations" in (power_warning(differences(3)) or "")
    assert power_warning(differences(10)) is None
    assert power_warning(differences(1)) is None  # that nothing is tested is said elsewhere


def test_detectable_effect_is_that_of_the_power_tables() -> None:
    """G*Power: 34 pairs find an effect of 0.5 with a power of 0.8 (33 do not)."""
    assert detectable_effect(34) < 0.5 < detectable_effect(33)


@pytest.mark.parametrize("pairs", [2, 3, 6])
def test_detectable_effect_by_simulation(pairs: int) -> None:
    rng = np.random.default_rng(0)
    found = (
        stats.ttest_1samp(rng.normal(detectable_effect(pairs), 1.0, size=(20_000, pairs)), 0.0, axis=1).pvalue < 0.05
    )
    assert found.mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 20_000))


def test_no_interval_from_fewer_than_three() -> None:
    assert bootstrap_interval([1.0, 2.0]) is None
    assert bootstrap_interval([]) is None


def test_interval_of_equal_values_is_a_point() -> None:
    """BCa is undefined there; the percentile interval is not."""
    assert bootstrap_interval([2.5, 2.5, 2.5]) == (2.5, 2.5)


def test_interval_agrees_with_the_normal_one_and_is_the_same_each_time() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    low, high = bootstrap_interval(values.tolist()) or (0.0, 0.0)
    half = 1.96 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert bootstrap_interval(values.tolist()) == (low, high)
