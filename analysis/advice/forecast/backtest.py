"""How well a study would have predicted itself: every approach is fitted to the first k budgets and predicts the rest.

What is predicted are the minima of the later budgets, as their own parabolas give them once all is measured. The error
of a prediction is judged against the noise of both sides; draws are joint, so that what a trunk passes on to all of its
budgets drops out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from analysis.advice.forecast.forecaster import Forecaster, Past
from analysis.advice.forecast.law_error import PastError
from analysis.advice.forecast.outlook import Outlook, OutlookRules, law_name, optimum_at, outlooks, samples_of
from analysis.isoflop.approach import fit_isoflops
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.approach import QUANTITIES
from analysis.statistics.bootstrap import Sample

FEWEST_BUDGETS = 2
"""Minima that the first prediction is made from."""
ROLLING_DRAWS = 300
"""Redrawn studies behind a past error, of which only the standard deviation is used."""

NO_PAST: Past = {quantity: {} for quantity in QUANTITIES}

Minima = Mapping[str, Mapping[str, Sample]]
"""Quantity -> budget -> its minimum."""


@dataclass(frozen=True, kw_only=True)
class BackTest:
    """One prediction of a later budget, and what was measured there."""

    arm: str
    """The architecture."""
    law: str
    """What it is called (`outlook.law_name`), or combined."""
    quantity: str
    """"params", "tokens" or "loss"."""
    fitted: int
    """How many budgets the prediction was made from, the smallest ones."""
    budget: str
    """The budget predicted, decimal FLOPs."""
    reach: float
    """That budget over the largest one fitted."""
    predicted: Estimate
    """What was said, with what was known of the law's error by then."""
    measured: Estimate
    """The minimum of that budget's own runs."""
    ahead: bool
    """True for the first budget after those fitted."""
    error: float
    """predicted / measured, less 1."""
    covered: bool
    """Whether the measured minimum is as the interval says, its own noise considered."""

    @property
    def half_width(self) -> float:
        """Half the width of the interval over the prediction."""
        return (self.predicted.high - self.predicted.low) / 2 / self.predicted.value


@dataclass(frozen=True, kw_only=True)
class Fared:
    """How one law did with one quantity over predictions of about one reach."""

    count: int
    """Predictions."""
    size: float
    """Median of |predicted / measured - 1|."""
    error: float
    """Median of predicted / measured - 1."""
    half_width: float
    """Median of half the width of the interval over the prediction."""
    covered: int
    """Of the predictions, those whose interval held what was measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """What the laws of an arm said of budgets before they had seen them."""

    past: Past
    """What each missed one budget ahead."""
    backtests: tuple[BackTest, ...]
    """Every prediction, by the number of budgets fitted."""
    over: Literal["budgets", "groups"] = "budgets"
    """What was rolled over: budgets and their minima, or groups of neighbouring FLOPs and the mean loss of their runs
    (`analysis.advice.forecast.groups`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rolled:
    """An arm rolled over its budgets."""

    forecaster: Forecaster
    """What all budgets say, with what it missed on the way."""
    backtests: tuple[BackTest, ...]
    """Every prediction on the way, by the number of budgets fitted."""


def roll(frame: pl.DataFrame, arm: str, budgets: tuple[str, ...], rules: OutlookRules) -> Rolled:
    """Fit `arm`, whose points are `frame`, to the first 2, 3, ... and at last all of `budgets` (decimal, ascending)."""
    before = history(frame, arm, budgets, rules)
    last = budgets[-1] if budgets else ""
    forecaster = _forecaster(frame, arm, budgets, last, before.past, rules)
    return Rolled(forecaster=forecaster, backtests=before.backtests)


def history(frame: pl.DataFrame, arm: str, budgets: tuple[str, ...], rules: OutlookRules) -> History:
    """The same without the fit to all budgets: what was predicted on the way."""
    quick = quickly(rules)
    measured = samples_of(fit_isoflops(frame, arm, budgets, quick.parabola, quick.resampling))
    targets = tuple(budget for budget in budgets if budget in measured["loss"])
    past = NO_PAST
    backtests: list[BackTest] = []
    for number in range(FEWEST_BUDGETS, len(targets)):
        forecaster = _forecaster(frame, arm, budgets, targets[number - 1], past, quick)
        backtests += _backtests(forecaster, targets, number, measured)
        past = _longer(past, forecaster, targets[number], measured)
    return History(past=past, backtests=tuple(backtests))


def quickly(rules: OutlookRules) -> OutlookRules:
    """The rules with no more redrawn studies than past errors need."""
    return replace(rules, resampling=replace(rules.resampling, draws=min(ROLLING_DRAWS, rules.resampling.draws)))


def _forecaster(
    frame: pl.DataFrame,
    arm: str,
    budgets: tuple[str, ...],
    largest: str,
    past: Past,
    rules: OutlookRules,
) -> Forecaster:
    """From the budgets up to `largest`."""
    within = tuple(budget for budget in budgets if int(budget) <= int(largest))
    laws: Mapping[str, Outlook | Refusal] = outlooks(frame.filter(pl.col("budget").is_in(within)), arm, within, rules)
    return Forecaster(arm=arm, outlooks=laws, past=past, largest=float(largest or "nan"), resampling=rules.resampling)


def _backtests(forecaster: Forecaster, targets: tuple[str, ...], fitted: int, measured: Minima) -> Iterator[BackTest]:
    for number in range(fitted, len(targets)):
        budget = targets[number]
        answers = {
            (law_name(approach, quantity), quantity): answer
            for approach, of_approach in forecaster.at(budget).items()
            for quantity, answer in of_approach.items()
        }
        for (law, quantity), answer in answers.items():
            truth = measured[quantity].get(budget)
            if not isinstance(answer, Refusal) and truth is not None:
                yield BackTest(
                    arm=forecaster.arm,
                    law=law,
                    quantity=quantity,
                    fitted=fitted,
                    budget=budget,
                    reach=float(budget) / forecaster.largest,
                    predicted=answer.estimate,
                    measured=truth.estimate,
                    ahead=number == fitted,
                    error=answer.estimate.value / truth.estimate.value - 1,
                    covered=_is_covered(answer, truth),
                )


def _is_covered(answer: Sample, truth: Sample) -> bool:
    """Whether the measured value lies within the interval of what one would measure: the draws of the prediction, with
    the noise of the measurement, which moves with them where both come from one trunk."""
    noise_k = np.log(truth.draws / truth.estimate.value)
    tail = 50 * (1 - answer.estimate.level)
    low, high = np.percentile(np.log(answer.draws) - noise_k, [tail, 100 - tail])
    return bool(low <= np.log(truth.estimate.value) <= high)


def _longer(past: Past, forecaster: Forecaster, budget: str, measured: Minima) -> Past:
    """The past with what each law, not widened, missed at `budget`."""
    step = float(np.log(float(budget) / forecaster.largest))
    missed = {quantity: _missed(forecaster, budget, step, quantity, measured[quantity]) for quantity in QUANTITIES}
    return {
        quantity: {
            law: (*past[quantity].get(law, ()), *([missed[quantity][law]] if law in missed[quantity] else []))
            for law in {**past[quantity], **missed[quantity]}
        }
        for quantity in QUANTITIES
    }


def _missed(
    forecaster: Forecaster, budget: str, step: float, quantity: str, measured: Mapping[str, Sample]
) -> dict[str, PastError]:
    """Law -> its error at `budget`, where both it and the runs give a number."""
    answers = {
        law_name(approach, quantity): getattr(optimum_at(outlook, budget), quantity)
        for approach, outlook in forecaster.outlooks.items()
        if not isinstance(outlook, Refusal)
    }
    truth = measured.get(budget)
    return {
        law: PastError(
            budget=budget,
            step=step,
            error=float(np.log(answer.estimate.value / truth.estimate.value)),
            noise=float(np.std(np.log(answer.draws / truth.draws))),
        )
        for law, answer in answers.items()
        if truth is not None and isinstance(answer, Sample)
    }


def fared(backtests: Sequence[BackTest]) -> Fared:
    """Over predictions of one law and quantity, at least one."""
    errors = np.array([test.error for test in backtests])
    return Fared(
        count=len(backtests),
        size=float(np.median(np.abs(errors))),
        error=float(np.median(errors)),
        half_width=float(np.median([test.half_width for test in backtests])),
        covered=sum(test.covered for test in backtests),
    )


def worst(backtests: Sequence[BackTest]) -> BackTest:
    """The prediction farthest off, of at least one."""
    return max(backtests, key=lambda test: abs(test.error))
