"""What a study would have predicted of itself, as tables and as plain values."""

from collections.abc import Sequence
from typing import Any

from analysis.advice.forecast.backtest import BackTest, Fared, History, worst
from analysis.advice.forecast.record import (
    REACHES,
    Histories,
    by_reach,
    laws_of,
    self_prediction,
)
from analysis.report.tables import as_markdown
from analysis.report.text import plain
from analysis.statistics.answers import Refusal
from analysis.statistics.approach import SYMBOLS
from analysis.surface.extended.passes_ahead import PassesAhead
from analysis.surface.extended.repeated_words import ahead_lines
from mor_core.units import short_budget

DIGITS = {"loss": 2, "params": 0}
"""Quantities with a table, as D* mirrors N*, and decimals of their per cents."""
EXPLAINED = (
    "Each cell: median size of the error (median with its sign), ± median half-width of the interval, and how many "
    "predictions lay inside it. Reach: the budget predicted over the largest one fitted."
)


def backtests_as_markdown(histories: Histories) -> str:
    """A table for each arm and quantity, a row a law and a column a bin of reach, and the worst case of each law."""
    sections = [EXPLAINED]
    for arm, record in histories.items():
        if isinstance(record, History):
            sections += [_section(arm, quantity, record) for quantity in DIGITS]
    return "\n\n".join(section for section in sections if section) + "\n"


def repeats_as_markdown(rolled: dict[str, tuple[PassesAhead, ...] | Refusal]) -> str:
    """How laws of repeated text fared over passes: a line for each step of an arm; empty where no arm repeats."""
    lines = [f"- {line}" for line in ahead_lines(rolled)]
    return "\n".join(["## Repeated text: more passes predicted from fewer", "", *lines]) + "\n" if lines else ""


def _section(arm: str, quantity: str, record: History) -> str:
    tests = {law: of_law(record.backtests, law, quantity) for law in laws_of(record.backtests, quantity)}
    if not tests:
        return ""
    binned = {law: by_reach(of_one) for law, of_one in tests.items()}
    shown = [high for high in REACHES if any(high in bins for bins in binned.values())]
    digits = DIGITS[quantity]
    rows = [[law, *(_cell(bins.get(high), digits) for high in shown)] for law, bins in binned.items()]
    table = as_markdown(["law", *(_bin_label(high) for high in shown)], rows).rstrip("\n")
    lines = [f"- worst of {law}: {worst_line(worst(of_one), digits, record.over)}" for law, of_one in tests.items()]
    subject = SYMBOLS[quantity] if record.over == "budgets" else "Mean loss of neighbouring runs"
    return "\n\n".join([f"## {subject} of {arm}", table, "\n".join(lines)])


def of_law(backtests: Sequence[BackTest], law: str, quantity: str) -> list[BackTest]:
    """Those of one law and quantity."""
    return [test for test in backtests if (test.law, test.quantity) == (law, quantity)]


def _bin_label(high: float) -> str:
    return f"reach ≤ {high:g}" if high < float("inf") else f"reach > {REACHES[-2]:g}"


def _cell(summary: Fared | None, digits: int) -> str:
    if summary is None:
        return ""
    size, width = (f"{share:.{digits}%}" for share in (summary.size, summary.half_width))
    return f"{size} ({summary.error:+.{digits}%}) ± {width}, {summary.covered} of {summary.count}"


def worst_line(test: BackTest, digits: int, over: str = "budgets") -> str:
    """One prediction in words."""
    return (
        f"{test.error:+.{digits}%} at {short_budget(int(test.budget))} from {test.fitted} {over} "
        f"(reach {test.reach:.3g}), {'inside' if test.covered else 'outside'} its interval"
    )


def backtests_as_json(histories: Histories) -> dict[str, Any]:
    """Every prediction, and for an arm without any the reason."""
    records = {arm: record for arm, record in histories.items() if isinstance(record, History)}
    return {
        "backtests": [plain(test) for record in records.values() for test in record.backtests],
        "refused": {arm: plain(record) for arm, record in histories.items() if arm not in records},
    }


def self_prediction_lines(histories: Histories) -> list[str]:
    """A line for each arm that could be rolled."""
    clauses = {arm: self_prediction(record) for arm, record in histories.items() if isinstance(record, History)}
    return [f"{arm}: {clause}" for arm, clause in clauses.items() if clause]
