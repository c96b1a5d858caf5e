"""The law of an arm whose runs repeat their text: its form, its intervals, and the best N, D and passes for a corpus.

Every form of `analysis.surface.extended.repetition` is fitted to all runs, repeated or not. A form counts only where
the runs tell its constants from "no effect" (profile likelihood), and of those the one is taken that predicts whole
corpora, left out one at a time, best; it has to predict them better than the law of fresh text does.
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import polars as pl

from analysis.runs.points import SAME_CORPUS
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling, Sample, interval, sample
from analysis.statistics.quadratic import Floats
from analysis.surface.contour import Contour
from analysis.surface.draws import redraw_surface
from analysis.surface.extended.repeated_law import RepeatedLaw, RepeatedPoints
from analysis.surface.extended.repetition import CONSTANTS, Form
from analysis.surface.fit import (
    FLAGGED_REACH,
    Residuals,
    contour_of_points,
    describe_residuals,
    points_of,
    refuse_few,
    refuse_reach,
)
from analysis.surface.identifiability import HeldOut, hold_out
from analysis.surface.law import LossSurface
from analysis.surface.optimum import SurfaceOptimum, SurfaceRules, fit_from, fit_optimum, projected_starts
from analysis.surface.profile import Profile, profiles

MANY_PASSES = 4.0
"""Passes beyond which a table has something to say of repetition (Muennighoff et al. 2023, arXiv:2305.16264)."""
MOST_DRAWS = 400
"""Redrawn studies behind the intervals, at most: each has derivatives by differences."""
STARTS: dict[str, tuple[float, ...]] = {"kappa": (-5.0, -2.0), "R_D": (1.0, 3.0), "R_N": (1.0, 4.0)}
"""ln of each constant at which searches start, with every start of the law of fresh text."""
FRESH = "fresh"
"""The law of fresh text: no effect of repetition."""
THOUSANDTHS = 1000
"""Passes are named in thousandths, so that none is 0."""
NO_EFFECT = {"kappa": "κ = 0", "R_D": "R_D* = ∞", "R_N": "R_N* = ∞"}


@dataclass(frozen=True, kw_only=True)
class FormScore:
    """One form of the law beside the others."""

    form: str
    """A name of `repetition.CONSTANTS`, or fresh."""
    objective: float
    """What its fit left: sum of Huber's loss over the residuals."""
    constants: dict[str, Estimate]
    """What it has beyond the law of fresh text, with profile-likelihood intervals."""
    by_corpus: float | None
    """Mean size of predicted over measured loss, less 1, of runs whose corpus was left out; None under 3 corpora."""
    by_passes: float | None
    """The same where runs of about as many passes were left out together."""
    refused: str = ""
    """Why the runs do not tell it from a simpler law; empty where they do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RepeatedOptimum:
    """What to train with a budget and a corpus."""

    arm: str
    """The architecture."""
    budget: str
    """FLOPs, an exact decimal integer."""
    unique_tokens: float
    """Tokens of the corpus."""
    params: Sample
    """N*."""
    tokens: Sample
    """D*, tokens seen."""
    epochs: Sample
    """D* over the tokens of the corpus."""
    loss: Sample
    """L*, units of loss."""
    most_passes: float
    """The most that a run fitted made."""

    @property
    def beyond(self) -> bool:
        """True where it passes more often over its text than any run fitted."""
        return self.epochs.estimate.value > self.most_passes


@dataclass(frozen=True, kw_only=True, eq=False)
class RepeatedFit:
    """The law of one arm's runs, those that repeat their text included."""

    arm: str
    """The architecture."""
    form: Form
    """What repetition does: the form that predicts best."""
    law: LossSurface
    """The law of fresh text within it."""
    parameters: dict[str, Estimate]
    """E, A, alpha, B, beta and the form's own constants, with intervals from redrawn studies."""
    scores: tuple[FormScore, ...]
    """The law of fresh text and every form, as they compare."""
    best: SurfaceOptimum
    """Objective, gradient, conditioning and the share of starts that reached it."""
    residuals: Residuals
    """What the law leaves unexplained."""
    draws: RepeatedLaw
    """The law in every redrawn study."""
    contour: Contour
    """The arm's contour of equal FLOPs."""
    corpora: tuple[float, ...]
    """Sizes of the corpora that were repeated, tokens, ascending."""
    largest_flops: float
    """The largest run fitted."""
    resampling: Resampling
    """How studies were redrawn."""

    @property
    def most_passes(self) -> float:
        """The most passes of a run."""
        points = self.best.problem.points
        assert isinstance(points, RepeatedPoints)
        return float(np.exp((points.log_tokens - points.log_unique).max()))

    @property
    def fitted(self) -> RepeatedLaw:
        """The law itself, as one of K = 1."""
        return RepeatedLaw(form=self.form, theta_kp=self.best.theta[None], centre=self.best.problem.centre)

    def optimum(self, budget: str, unique_tokens: float, *, forced: bool = False) -> RepeatedOptimum | Refusal:
        """N*, D*, passes and L* at `budget` (decimal FLOPs) from a corpus of `unique_tokens`, or why none is given."""
        smallest, largest = self.corpora[0] / FLAGGED_REACH, self.corpora[-1] * FLAGGED_REACH
        if not forced and not smallest <= unique_tokens <= largest:
            return Refusal(
                kind=RefusalKind.EXTRAPOLATION,
                sentence=f"a corpus of {unique_tokens:.3g} tokens is more than {FLAGGED_REACH:g} times smaller or "
                f"larger than those that were repeated, {self.corpora[0]:.3g} to {self.corpora[-1]:.3g}.",
            )
        refusal = refuse_reach(float(budget), self.largest_flops, forced=forced)
        if refusal:
            return refusal
        value, drawn = (law.optimum(float(budget), self.contour, unique_tokens) for law in (self.fitted, self.draws))
        low, high = self.contour.lowest / FLAGGED_REACH, self.contour.highest * FLAGGED_REACH
        inside = self.draws.fresh.falls & (drawn.params_k > low) & (drawn.params_k < high)
        if np.mean(inside) < self.resampling.min_interior_share:
            return Refusal(
                kind=RefusalKind.UNSTABLE_MINIMUM,
                sentence=f"only {np.mean(inside):.0%} of {len(inside)} redrawn laws have their best size within a "
                f"factor of {FLAGGED_REACH:g} of the sizes trained.",
            )
        level = self.resampling.level
        return RepeatedOptimum(
            arm=self.arm,
            budget=budget,
            unique_tokens=unique_tokens,
            params=sample(float(value.params_k[0]), drawn.params_k, level),
            tokens=sample(float(value.tokens_k[0]), drawn.tokens_k, level),
            epochs=sample(float(value.tokens_k[0]) / unique_tokens, drawn.tokens_k / unique_tokens, level),
            loss=sample(float(value.loss_k[0]), drawn.loss_k, level),
            most_passes=self.most_passes,
        )


def fit_repeated(
    frame: pl.DataFrame, arm: str, rules: SurfaceRules, resampling: Resampling
) -> RepeatedFit | Refusal | None:
    """Fit one arm's points with their `epochs` (`analysis.runs.repeated.repeated_frame`), or say why not; None where
    no run saw its text more than `MANY_PASSES` times."""
    if not repeats_much(frame):
        return None
    few = replace(resampling, draws=min(resampling.draws, MOST_DRAWS))
    refusal = refuse_repeated(frame, rules)
    if refusal:
        return refusal
    fits: dict[Form, SurfaceOptimum] = {form: fit_form(frame, form, rules) for form in CONSTANTS}
    scores = [_fresh_score(frame, rules), *(_score(frame, form, best, few) for form, best in fits.items())]
    form = _chosen(scores)
    if isinstance(form, Refusal):
        return form
    best = fits[form]
    drawn = redraw_surface(best, tuple(frame["trunk_key"].to_list()), arm, few).law
    draws = RepeatedLaw(form=form, theta_kp=drawn.theta_kp, centre=drawn.centre)
    return RepeatedFit(
        arm=arm,
        form=form,
        law=best.law,
        parameters=_parameters(best, draws, few.level),
        scores=tuple(scores),
        best=best,
        residuals=describe_residuals(best, tuple(frame["cell_id"].to_list())),
        draws=draws,
        contour=contour_of_points(frame),
        corpora=tuple(_corpora(frame.filter(pl.col("epochs") > 1))),
        largest_flops=float(frame["flops"].to_numpy().max()),
        resampling=few,
    )


def repeats_much(frame: pl.DataFrame) -> bool:
    """Whether some run saw its text more than `MANY_PASSES` times."""
    return not frame.is_empty() and float(frame["epochs"].to_numpy().max()) > MANY_PASSES


def refuse_repeated(frame: pl.DataFrame, rules: SurfaceRules) -> Refusal | None:
    """The refusal of runs that are too few or too much alike for a law of repeated text, or None."""
    return refuse_few(_points(frame, "overfitting"), rules) or _refuse_one_corpus(frame)


def _points(frame: pl.DataFrame, form: Form) -> RepeatedPoints:
    log_tokens = np.log(frame["tokens"].to_numpy())
    return RepeatedPoints(
        form=form,
        log_params=np.log(frame["params"].to_numpy()),
        log_tokens=log_tokens,
        log_unique=log_tokens - np.log(np.maximum(frame["epochs"].to_numpy(), 1.0)),
        loss=frame["loss"].to_numpy(),
    )


def fit_form(frame: pl.DataFrame, form: Form, rules: SurfaceRules) -> SurfaceOptimum:
    """The optimum of one form over the runs of `frame`."""
    points = _points(frame, form)
    beyond = list(product(*(STARTS[name] for name in CONSTANTS[form])))
    starts = [
        [*start, *constants]
        for start in projected_starts(points_of(frame), points.centre, rules.tied)
        for constants in beyond
    ]
    return fit_from(points, rules, np.array(starts))


def _fresh_score(frame: pl.DataFrame, rules: SurfaceRules) -> FormScore:
    best = fit_optimum(points_of(frame), rules)
    by_corpus, by_passes = _held_out(frame, best)
    return FormScore(form=FRESH, objective=best.objective, constants={}, by_corpus=by_corpus, by_passes=by_passes)


def _score(frame: pl.DataFrame, form: Form, best: SurfaceOptimum, resampling: Resampling) -> FormScore:
    bounds = profiles(best, resampling.level, CONSTANTS[form])
    by_corpus, by_passes = _held_out(frame, best)
    loose = [NO_EFFECT[profile.name] for profile in bounds if _allows_no_effect(profile)]
    refused = f"the runs allow {' and '.join(loose)} ({resampling.level:.0%} profile likelihood)" if loose else ""
    return FormScore(
        form=form,
        objective=best.objective,
        constants={profile.name: profile.interval for profile in bounds},
        by_corpus=by_corpus,
        by_passes=by_passes,
        refused=refused,
    )


def _allows_no_effect(bound: Profile) -> bool:
    """Whether a constant may be where its form is a simpler law: κ at nothing, R* beyond all bounds."""
    return bound.interval.low_open if bound.name == "kappa" else bound.interval.high_open


def _held_out(frame: pl.DataFrame, best: SurfaceOptimum) -> tuple[float | None, float | None]:
    """Mean size of the relative error where corpora, and where numbers of passes, are left out in turn."""
    passes_n = np.maximum(frame["epochs"].to_numpy(), 1.0)
    unique_n = frame["tokens"].to_numpy() / passes_n
    # Whole numbers, by which `hold_out` puts groups in order; thousandths of a pass, so that none is 0.
    labels = [size_labels(unique_n), size_labels(passes_n * THOUSANDTHS)]
    keys = tuple(frame["trunk_key"].to_list())
    held_out = [hold_out(best, "", np.zeros(frame.height), names, keys, Resampling()) for names in labels]
    return _mean_size(held_out[0]), _mean_size(held_out[1])


def size_labels(value_n: Floats) -> list[str]:
    """A decimal integer for each run, the same within `SAME_CORPUS`."""
    return [f"{np.exp(place * SAME_CORPUS):.0f}" for place in np.round(np.log(value_n) / SAME_CORPUS)]


def _mean_size(groups: tuple[HeldOut, ...]) -> float | None:
    total = sum(group.num_points for group in groups)
    return sum(group.mean_size * group.num_points for group in groups) / total if groups else None


def _corpora(frame: pl.DataFrame) -> list[float]:
    unique_n = frame["tokens"].to_numpy() / np.maximum(frame["epochs"].to_numpy(), 1.0)
    return sorted({float(label) for label in size_labels(unique_n)})


def _refuse_one_corpus(frame: pl.DataFrame) -> Refusal | None:
    """With one corpus the passes follow from D: no run says what fresh text would have given."""
    again = pl.col("epochs") > 1
    corpora, fresh = _corpora(frame.filter(again)), frame.filter(~again)
    if len(corpora) > 1 or (fresh.height and float(fresh["tokens"].to_numpy().max()) > corpora[0] * (1 + SAME_CORPUS)):
        return None
    return Refusal(
        kind=RefusalKind.NOT_IDENTIFIED,
        sentence=f"all runs repeat one corpus of {corpora[0]:.3g} tokens: passes follow from D, and what a repeated "
        "token is worth needs a second corpus size, or fresh text beyond it.",
    )


def _chosen(scores: list[FormScore]) -> Form | Refusal:
    """The form that predicts best what was left out, of those that the runs tell from simpler laws."""
    fresh, *forms = scores
    candidates = [score for score in forms if not score.refused]
    if not candidates:
        reasons = "; ".join(f"{score.form}: {score.refused}" for score in forms)
        return Refusal(
            kind=RefusalKind.NOT_IDENTIFIED,
            sentence=f"no effect of repetition is told from none: {reasons}.",
        )
    winner = min(candidates, key=_error)
    if _error(winner) >= _error(fresh):
        return Refusal(
            kind=RefusalKind.DOES_NOT_FIT,
            sentence=f"the best law of repetition ({winner.form}) is {_error(winner):.2%} off on runs left out, the "
            f"law of fresh text {_error(fresh):.2%}: nothing is gained by it.",
        )
    return next(form for form in CONSTANTS if form == winner.form)


def _error(score: FormScore) -> float:
    """What forms are chosen by: corpora left out; passes left out where corpora are too few; else what the fit left."""
    if score.by_corpus is not None:
        return score.by_corpus
    return score.objective if score.by_passes is None else score.by_passes


def _parameters(best: SurfaceOptimum, draws: RepeatedLaw, level: float) -> dict[str, Estimate]:
    values = {name: (getattr(best.law, name), getattr(draws.fresh, name)) for name in ("E", "A", "alpha", "B", "beta")}
    fitted = RepeatedLaw(form=draws.form, theta_kp=best.theta[None], centre=draws.centre)
    values |= {name: (fitted.constant(name)[0], draws.constant(name)) for name in CONSTANTS[draws.form]}
    return {name: interval(float(value), drawn_k, level) for name, (value, drawn_k) in values.items()}
