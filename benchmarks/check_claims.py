"""Checks every measured number in README.md and docs/ against the rows in benchmarks/rows: `make claims`.

A sentence with a measured number is followed, in its paragraph, list item or table, by a comment that says how the
number is found again:

    `daps-na` ends at −97.6 nats, 0.9 ahead of `gumbel-na` (p = 0.04).
    <!-- claim: comparison_main label=daps-na test.beta_elbo mean = -97.6 -->
    <!-- claim: comparison_main label=daps-na vs label=gumbel-na test.beta_elbo difference = 0.9; holm-p = 0.04 -->

    claim: ROWS [KEY=VALUE ...] [vs KEY=VALUE ...] METRIC STATISTIC = NUMBER [; STATISTIC = NUMBER ...]

ROWS        a file of benchmarks/rows, without .jsonl. Runs that failed are left out.
KEY=VALUE   rows that count; a key is a path (settings.minutes=2); one with spaces in quotes; KEY=none: absent.
METRIC      a path into a row: test.psnr, "parts.the step.measured_ms", peaks_mib.0; A/B or A-B of two such or
            numbers (1000/steps_per_second); reach(R): evaluations until the greedy reward stays at R; rows: 1 for each.
STATISTIC   of the values of all those rows: mean, median, min, max, sum, last, low and high (the bootstrapped
            95 % interval of the mean), half (half the width of its t-interval); `last` is right where a file keeps
            older measurements. With `vs`: difference and ratio of means, latest (the ratio of the last rows), paired-p
            (t-test over pairs of seeds), welch-p, holm-p (paired, after Holm's correction over all labels of the file
            against the side before `vs`, as in a comparison's tables).
NUMBER      as it is printed, met at its last digit: -97.6, 18%, 2e-6, 41,000; ~41,000: zeros at its end are rounded; <
            and > instead of = bound it. With = it must stand in the text (a minus sign may be left to words).

What looks measured (a number of nats, dB, %, ms, s, min, MiB, steps/s, times, p = ...) without a claim fails; so does
a table of them. Three things need none: code, what stands between the marks of a generated table (which is generated
again, and compared), and what says why: <!-- no-claim: reason --> in the same paragraph. The same script holds
benchmarks/README.md against benchmarks/rows.
"""

from __future__ import annotations

import math
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from common import DOCS, ROWS, Row, evaluations_to, interval, read_rows, with_tables
from scipy import stats

from daps_rl.comparison.statistics import bootstrap_interval, paired_differences

ROOT = DOCS.parent
PENDING = ("README.md", "docs/bottleneck.md", "docs/metrics.md")  # no claims yet; to be emptied
UNITS = r"(?:nats?|dB|%|ms|MiB|GiB|TFLOP/s|steps?/s|steps per second|seconds|minutes|times|s|min)"
NUMBER = r"[−-]?\d[\d,]*(?:\.\d+)?"
MEASURED = re.compile(
    rf"({NUMBER})\s?{UNITS}(?![\w-])|(?:\bp [=<]|factor of|PSNR|ELBO|KL)(?: of| is)? ({NUMBER})|(−\d+\.\d+)"
)
HEAD = re.compile(r"\b(?:nats|dB|ms|MiB|PSNR|ELBO|steps/s)\b|%")
NOT_MEASURED = re.compile(r"\b9\d(?:\.\d)? % (?:confidence |t-)?intervals?")
COMMENT = re.compile(r"<!-- (claim|no-claim): (.*?) -->", re.DOTALL)
TWO_SIDED = ("difference", "ratio", "latest", "paired-p", "welch-p", "holm-p")


def problems_of(text: str) -> Iterator[str]:
    """Yields what is wrong with the claims of a page."""
    for block in blocks(text):
        comments = COMMENT.findall(block)
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", re.sub(r"<!--.*?-->", "", block, flags=re.DOTALL))
        prose = NOT_MEASURED.sub("", prose)
        claimed: set[str] = set()
        for kind, claim in comments:
            if kind == "claim":
                printed, wrong = check(" ".join(claim.split()))
                claimed |= {number.lstrip("-") for number in printed}
                missing = [n for n, sign in printed.items() if sign == "=" and not stands_in(n, prose)]
                yield from (f"{claim}: {reason}" for reason in [*wrong, *(f"{n} is not in the text" for n in missing)])
        explained = any(kind == "no-claim" for kind, _ in comments)
        for match in [] if explained else MEASURED.finditer(prose):
            number = next(group for group in match.groups() if group)
            if number.lstrip("−-") not in claimed:
                yield f"no claim for {match.group(0)!r} in: {' '.join(prose.split())[:90]} ..."
        head, rule, body = prose.partition("|---")
        if rule and not (explained or claimed) and HEAD.search(head) and re.search(r"\d", body):
            yield f"no claim for the table {prose.strip()[:60]!r} ..."


def blocks(text: str) -> Iterator[str]:
    """Yields paragraphs, list items and tables, each with the comments behind it; no fenced code, nothing generated."""
    text = re.sub(r"<!-- ([\w-]+) -->.*?<!-- /\1 -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found: list[str] = []
    for part in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
        if found and part.strip().startswith("<!--") and not re.sub(r"<!--.*?-->", "", part, flags=re.DOTALL).strip():
            found[-1] += "\n" + part
        else:
            found.append(part)
    yield from found


def stands_in(number: str, prose: str) -> bool:
    return re.search(rf"(?<![\d.,]){re.escape(number.lstrip('-'))}(?!\d|[.,]\d)", prose) is not None


def check(claim: str) -> tuple[dict[str, str], list[str]]:
    """Returns the numbers that a claim prints with their signs, and what is wrong with it."""
    statement, *more = re.split(r"\s*;\s*", claim)
    first = re.fullmatch(r"(.*) (\S+) ([=<>]) (\S+)", statement)
    rest = [re.fullmatch(r"(\S+) ([=<>]) (\S+)", part) for part in more]
    if first is None or None in rest:
        return {}, ["cannot be read; see the top of benchmarks/check_claims.py"]
    printed: dict[str, str] = {}
    wrong = []
    for statistic, sign, number in [first.groups()[1:], *(match.groups() for match in rest if match)]:
        printed[number.lstrip("~").rstrip("%")] = sign
        try:
            if not agrees(value := compute(first.group(1), statistic), sign, number):
                wrong.append(f"{statistic} is {value * (100 if '%' in number else 1):.6g}, not {sign} {number}")
        except (ValueError, KeyError, IndexError, TypeError, statistics.StatisticsError) as error:
            wrong.append(f"{type(error).__name__}: {error}")
    return printed, wrong


def agrees(value: float, sign: str, number: str) -> bool:
    """Whether a value is the number as it is printed."""
    digits = number.lstrip("~").rstrip("%").replace(",", "")
    scale, said = 100.0 if number.endswith("%") else 1.0, float(digits)
    if sign != "=":
        return value * scale < said if sign == "<" else value * scale > said
    mantissa, _, exponent = digits.partition("e")
    places = len(mantissa.partition(".")[2]) - int(exponent or 0)
    if number.startswith("~"):
        places = -(len(digits) - len(digits.rstrip("0")))
    return abs(value * scale - said) <= 0.5 * 10.0**-places * (1 + 1e-9) + 1e-12


def compute(words: str, statistic: str) -> float:
    """Returns a statistic of the rows that a claim names.

    Raises:
        ValueError: no row, no such statistic, or a metric that a row lacks.
    """
    name, *filters = shlex.split(words)
    metric = filters.pop()
    if not (ROWS / f"{name}.jsonl").exists():
        raise ValueError(f"there is no benchmarks/rows/{name}.jsonl")
    if ("vs" in filters) != (statistic in TWO_SIDED):
        raise ValueError(f"{statistic} needs {'two sides, `A vs B`' if statistic in TWO_SIDED else 'one side'}")
    if statistic not in TWO_SIDED:
        return one_sided(statistic)([value_of(row, metric) for row in select(name, filters)])
    split = filters.index("vs")
    ours, theirs = select(name, filters[:split]), select(name, filters[split + 1 :])
    a, b = ([value_of(row, metric) for row in side] for side in (ours, theirs))
    if statistic == "latest":
        return a[-1] / b[-1]
    if statistic in ("difference", "ratio"):
        one, other = statistics.fmean(a), statistics.fmean(b)
        return one - other if statistic == "difference" else one / other
    if statistic == "welch-p":
        return float(stats.ttest_ind(a, b, equal_var=False).pvalue)
    if statistic == "paired-p":
        pairs = [{row["seed"]: value for row, value in zip(*side, strict=True)} for side in ((ours, a), (theirs, b))]
        seeds = sorted(set(pairs[0]) & set(pairs[1]))
        return float(stats.ttest_rel(*([values[seed] for seed in seeds] for values in pairs)).pvalue)
    values: dict[str, dict[int, float]] = {}
    for row in select(name, []):
        if (value := value_of(row, metric, None)) is not None:
            values.setdefault(row["label"], {})[row["seed"]] = value
    found = paired_differences(values, ours[0]["label"])
    return next(difference.p_holm for difference in found if difference.label == theirs[0]["label"]) or math.nan


def one_sided(statistic: str) -> Callable[[Sequence[float]], float]:
    """Returns what makes one number of several."""
    known: dict[str, Callable[[Sequence[float]], float]] = {
        "mean": statistics.fmean, "median": statistics.median, "min": min, "max": max, "sum": math.fsum,
        "last": lambda values: values[-1], "half": lambda values: float(interval(values, 9).partition("± ")[2]),
        "low": lambda values: (bootstrap_interval(values) or (math.nan, math.nan))[0],
        "high": lambda values: (bootstrap_interval(values) or (math.nan, math.nan))[1],
    }  # fmt: skip
    if statistic not in known:
        raise ValueError(f"unknown statistic {statistic}; there are {', '.join([*known, *TWO_SIDED])}")
    return known[statistic]


def select(name: str, filters: Sequence[str]) -> list[Row]:
    """Returns the rows of finished runs that have all of the values.

    Raises:
        ValueError: there is none.
    """
    wanted = [condition.partition("=")[::2] for condition in filters]
    rows = [row for row in cached_rows(name) if all(same(value_of(row, key, None), text) for key, text in wanted)]
    if not rows:
        raise ValueError(f"no row of {name} has {' '.join(filters)}")
    return rows


@cache
def cached_rows(name: str) -> list[Row]:
    return [r for r in read_rows(name) if not {"plan", "error"} & set(r) and r.get("status", "finished") == "finished"]


def same(value: Any, text: str) -> bool:
    if isinstance(value, float | int) and not isinstance(value, bool) and re.fullmatch(r"-?[\d.]+(e-?\d+)?", text):
        return float(value) == float(text)
    return str(value).lower() == text.lower()


def value_of(row: Row, metric: str, *default: Any) -> Any:
    """Returns a metric of a row; the default where there is none.

    Raises:
        ValueError: there is none, and no default.
    """
    if metric == "rows" or re.fullmatch(r"\d+", metric):
        return 1 if metric == "rows" else int(metric)
    if metric.startswith("reach("):
        return evaluations_to(float(metric[6:-1]), row["curve"]) or math.inf
    for sign, combine in (("/", lambda a, b: a / b), ("-", lambda a, b: a - b)):
        if sign in metric and (parts := metric.split(sign))[0] and len(parts) == 2:
            return combine(*(value_of(row, part) for part in parts))
    value: Any = row
    for key in metric.split("."):
        value = value[int(key)] if isinstance(value, list) else value.get(key) if isinstance(value, dict) else None
    if value is None and not default:
        raise ValueError(f"a row has no {metric}")
    return default[0] if value is None else value


def differing(what: str, named: set[str], there: set[str]) -> Iterator[str]:
    """Yields names that only one of two lists has."""
    yield from (f"{what} {name} is there, and not named" for name in sorted(there - named))
    yield from (f"{what} {name} is named, and not there" for name in sorted(named - there))


def main() -> int:
    from table import tables

    generated, found = tables(), dict[str, list[str]]()
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]:
        text, own = page.read_text(), generated.get(page, {})
        wrong = [] if str(page.relative_to(ROOT)) in PENDING else list(problems_of(text))
        wrong += differing("generated table", set(own), set(re.findall(r"<!-- ([\w-]+) -->", text)))
        wrong += [] if with_tables(text, own) == text else ["a table is not that of its rows; run benchmarks/table.py"]
        found[str(page.relative_to(ROOT))] = wrong
    named = set(re.findall(r"`([\w-]+)\.jsonl`", (ROWS.parent / "README.md").read_text()))
    found["benchmarks/README.md"] = list(differing("rows", named, {path.stem for path in ROWS.glob("*.jsonl")}))
    lines = [f"{name}: {reason}" for name, wrong in found.items() for reason in wrong]
    print("\n".join(lines) or "every claim agrees with its rows")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
