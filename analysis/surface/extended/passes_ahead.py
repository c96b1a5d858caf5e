"""The back-test of laws of repeated text: fitted to the runs of few passes, asked for those of more.

Every form is fitted beside the law of fresh text, whether or not the runs tell it from that one: what is shown is how
each would have fared. The runs of the fewest passes and all fresh ones come first.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.quadratic import Floats
from analysis.surface.extended.repeated import (
    FRESH,
    THOUSANDTHS,
    fit_form,
    refuse_repeated,
    repeats_much,
    size_labels,
)
from analysis.surface.extended.repeated_law import RepeatedLaw
from analysis.surface.extended.repetition import CONSTANTS
from analysis.surface.fit import points_of
from analysis.surface.identifiability import neighbouring
from analysis.surface.optimum import SurfaceRules, fit_optimum


@dataclass(frozen=True, kw_only=True)
class PassesAhead:
    """What laws fitted up to a number of passes said of the next runs."""

    fitted: int
    """Runs fitted."""
    most_passes: float
    """The most passes of those."""
    predicted: int
    """Runs predicted."""
    passes: tuple[float, float]
    """The fewest and the most passes of those."""
    errors: dict[str, tuple[float, float]]
    """By form, fresh included: the mean of predicted over measured loss less 1, and the mean of its size."""

    @property
    def best(self) -> str:
        """The form that was least off."""
        return min(self.errors, key=lambda form: self.errors[form][1])


NOTHING_AHEAD = Refusal(
    kind=RefusalKind.TOO_FEW_POINTS,
    sentence="its runs that repeat their text all pass over it about as often: none are left to predict.",
)


def roll_passes(frame: pl.DataFrame, rules: SurfaceRules) -> dict[str, tuple[PassesAhead, ...] | Refusal]:
    """By arm that saw some text more than four times, its runs rolled over their passes, or why they cannot be;
    `frame` is that of `analysis.runs.repeated.repeated_frame`."""
    arms = {arm: frame.filter(pl.col("arm") == arm) for arm in sorted(set(frame["arm"].to_list()))}
    return {arm: _roll(runs, rules) for arm, runs in arms.items() if repeats_much(runs)}


def _roll(runs: pl.DataFrame, rules: SurfaceRules) -> tuple[PassesAhead, ...] | Refusal:
    passes_n = np.maximum(runs["epochs"].to_numpy(), 1.0)
    names = size_labels(passes_n * THOUSANDTHS)
    groups = neighbouring(names)
    rolled, refusal = [], NOTHING_AHEAD
    for number in range(1, len(groups)):
        earlier = runs.filter(np.isin(names, [name for group in groups[:number] for name in group]))
        if float(earlier["epochs"].to_numpy().max()) <= 1:
            continue
        refused = refuse_repeated(earlier, rules)
        if refused:
            refusal = refused
        else:
            rolled.append(_ahead(earlier, runs.filter(np.isin(names, groups[number])), rules))
    return tuple(rolled) or refusal


def _ahead(earlier: pl.DataFrame, later: pl.DataFrame, rules: SurfaceRules) -> PassesAhead:
    params, tokens, loss = (later[name].to_numpy() for name in ("params", "tokens", "loss"))
    passes = np.maximum(later["epochs"].to_numpy(), 1.0)
    fresh = fit_optimum(points_of(earlier), rules)
    errors = {FRESH: _errors(fresh.law.loss(params, tokens), loss)}
    for form in CONSTANTS:
        best = fit_form(earlier, form, rules)
        law = RepeatedLaw(form=form, theta_kp=best.theta[None], centre=best.problem.centre)
        errors[form] = _errors(law.loss(params, tokens, tokens / passes)[0], loss)
    return PassesAhead(
        fitted=earlier.height,
        most_passes=max(float(earlier["epochs"].to_numpy().max()), 1.0),
        predicted=later.height,
        passes=(float(passes.min()), float(passes.max())),
        errors=errors,
    )


def _errors(predicted_n: Floats, measured_n: Floats) -> tuple[float, float]:
    relative_n = predicted_n / measured_n - 1
    return float(relative_n.mean()), float(np.abs(relative_n).mean())
