"""The record of a study: how well each law would have predicted its later budgets, by how far ahead it looked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from analysis.advice.forecast.backtest import BackTest, Fared, History, fared, history, quickly, worst
from analysis.advice.forecast.forecast import rules_of
from analysis.advice.forecast.forecaster import COMBINED, Past, kept_weights
from analysis.advice.forecast.groups import group_history
from analysis.advice.forecast.outlook import APPROACHES, MINIMA, SURFACE, OutlookRules
from analysis.frontier.study import Study
from analysis.isoflop.approach import fit_isoflops
from analysis.statistics.answers import Refusal, RefusalKind
from mor_core.units import budget_label, counted_text

REACHES = (2.5, 5.0, 10.0, float("inf"))
"""Upper ends of the bins of reach."""
LAWS = (*APPROACHES, MINIMA, COMBINED)
"""In the order of tables and figures."""
OVER = {"budgets": ("its own budgets", "L*"), "groups": ("groups of its FLOPs", "the loss")}
"""In words: what an arm was rolled over, and what was predicted."""
FEWEST_MINIMA = 3
"""Two to fit and one to predict."""

Histories = Mapping[str, History | Refusal]
"""Arm -> its record, or why it has none."""


def histories(study: Study, asymptote: float | None = None, *, surfaces: bool = True) -> Histories:
    """Roll every arm over its budgets, or where runs lie on none over groups of neighbouring FLOPs.

    Args:
        study: the points and how they are fitted; its own fits are not used.
        asymptote: pins E, in the unit of the loss; None takes the surface's.
        surfaces: False rolls the laws through the minima alone, which takes no time.
    """
    rules = rules_of(study, asymptote)
    if not surfaces:
        rules = replace(rules, surface=None)
    by_arm = {arm: study.points.of_arm(arm) for arm in study.points.arms}
    if study.settings.optima_at:
        return {arm: group_history(of_arm, arm, rules) for arm, of_arm in by_arm.items()} if surfaces else {}
    return {arm: _over_budgets(of_arm, arm, study.points.budgets_of(arm), rules) for arm, of_arm in by_arm.items()}


def _over_budgets(frame: pl.DataFrame, arm: str, budgets: tuple[str, ...], rules: OutlookRules) -> History | Refusal:
    optima = fit_isoflops(frame, arm, budgets, rules.parabola, quickly(rules).resampling).optima
    missing = {optimum.budget: optimum.loss.sentence for optimum in optima if isinstance(optimum.loss, Refusal)}
    if len(optima) - len(missing) < FEWEST_MINIMA:
        return _too_few([optimum.budget for optimum in optima if optimum.budget not in missing], missing)
    return history(frame, arm, budgets, rules)


def _too_few(minima: Sequence[str], missing: Mapping[str, str]) -> Refusal:
    count = f"{counted_text(len(minima), 'budget')} with a minimum"
    named = f" ({', '.join(budget_label(budget) for budget in minima)})" if minima else ""
    reasons = "; ".join(
        f"{budget_label(budget)} has none: {sentence.rstrip('.')}" for budget, sentence in missing.items()
    )
    return Refusal(
        kind=RefusalKind.TOO_FEW_BUDGETS,
        sentence=f"{count}{named}, and a back-test needs {FEWEST_MINIMA}, two to fit and one to predict"
        f"{f'; {reasons}' if reasons else ''}.",
    )


def laws_of(backtests: Sequence[BackTest], quantity: str) -> tuple[str, ...]:
    """The laws that predicted a quantity, all of them combined last."""
    laws = {test.law for test in backtests if test.quantity == quantity}
    return tuple(law for law in LAWS if law in laws)


def by_reach(backtests: Sequence[BackTest]) -> dict[float, Fared]:
    """Upper end of a bin (`REACHES`) -> how the predictions within it did, for the bins that have any."""
    lower_ends = (0.0, *REACHES)
    bins = {
        high: [test for test in backtests if low < test.reach <= high]
        for low, high in zip(lower_ends, REACHES, strict=False)
    }
    return {high: fared(within) for high, within in bins.items() if within}


def self_prediction(past: History) -> str:
    """How well the next budget's loss was predicted each time, in a clause; empty where nothing could be."""
    ahead = [test for test in past.backtests if test.ahead and test.quantity == "loss"]
    law = COMBINED if past.over == "budgets" else SURFACE
    of_law = [test for test in ahead if test.law == law]
    if not of_law:
        return ""
    summary = fared(of_law)
    over, subject = OVER[past.over]
    # Where no surface was rolled, what is combined.
    mixed = law if any(test.law == SURFACE for test in ahead) else f"{law} laws through the minima"
    inside = f"{summary.covered} of {summary.count} inside the interval"
    return (
        f"rolled over {over}, {subject} of the next was off by {summary.size:.1%} in the median "
        f"(largest {abs(worst(of_law).error):.1%}, {inside}) by {mixed}{_left_out(past.past, ahead)}"
    )


def _left_out(past: Past, ahead: Sequence[BackTest]) -> str:
    """The laws that their record leaves out of the mixture, and what they missed."""
    laws = [law for law in laws_of(ahead, "loss") if law in past["loss"]]
    kept = kept_weights(past, "loss", laws) if laws else {}
    missed = {law: fared([test for test in ahead if test.law == law]) for law in laws if law not in kept}
    return "".join(f"; {law} left out: {summary.error:+.1%}" for law, summary in missed.items())
