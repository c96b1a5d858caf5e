"""The next cells worth training: first what a refused minimum lacks, then what narrows an interval most for its cost.

A budget whose parabola is refused for its shape gets what that refusal asks for: sizes beyond an end with the lowest
loss, more sizes, another seed beside an outlier. All other budgets compete by how much one more run would narrow the
interval of N*, by the delta method on least squares: with loss = c0 + c1 u + c2 u² and the vertex v = -c1 / 2 c2,

    Var v = s² gᵀ M⁻¹ g,    g = (0, -1 / 2 c2, c1 / 2 c2²),    M = Xᵀ X,

and a run at u adds x xᵀ to M with x = (1, u, u²). The score of a run is the decrease of the squared width of ln N* by
cost, so that a wide interval counts more than a narrow one. Runs are chosen one after the other, each as if those
before it had been trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import polars as pl
from scipy import stats

from analysis.isoflop.approach import curve_of, first_fit
from analysis.isoflop.parabola import LN10, ParabolaRules, choose_window, mean_by_place, noise_of
from analysis.runs.points import Points
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.quadratic import (
    Axis,
    Curve,
    Floats,
    Noise,
    Quadratic,
    least_squares,
    pool_noise,
    quadratic_design,
)
from mor_core.units import budget_label, counted_text

BEYOND_AN_END = 2
"""Sizes to add where the lowest loss is at the last one: a minimum wants two on either side."""
WANTED_SIZES = 6
"""Sizes a budget that give a parabola some room for noise."""
SAME_SIZE = 1e-6
"""Difference in ln N below which two sizes are one."""
LEAST_GAIN = 1e-3
"""Share of its width by which a run must narrow an interval to be worth naming."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cell that could be trained."""

    arm: str
    """The architecture."""
    size: str
    """Its base shape."""
    budget: str
    """FLOPs, an exact decimal integer."""
    seed: int
    """Its seed."""
    params: float
    """N, unique non-embedding parameters."""
    cost: float
    """What training it takes, positive, in one unit for all candidates: FLOPs, seconds or money."""


class Need(StrEnum):
    """Why a cell is worth training."""

    edge = "edge"
    sizes = "sizes"
    shape = "shape"
    outlier = "outlier"
    width = "width"


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A candidate with its reason."""

    candidate: Candidate
    """What to train."""
    need: Need
    """Why, for programs."""
    reason: str
    """Why, for people: one sentence."""
    narrower: float | None
    """Share of its width that the interval of N* at this budget is expected to lose; None where there is none yet."""
    known_to: float | None = None
    """The factor either way to which N* at this budget is known, with the runs named before; None where it is not."""
    expected_to: float | None = None
    """The same with this run too."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Minimum:
    """A budget with a parabola that has a minimum: what decides how well it is known."""

    arm: str
    budget: str
    quadratic: Quadratic
    noise: Noise
    information_33: Floats
    added: int = 0

    @property
    def bend(self) -> float:
        """c2, or its standard error where that is larger: a curve that may be straight has its minimum anywhere."""
        error = self.noise.sd * float(np.linalg.norm(self.quadratic.solver_3n[2]))
        return max(float(self.quadratic.coefficients[2]), error)

    def half_width(self, level: float) -> float:
        """Of the interval of ln N*."""
        slope, bend = float(self.quadratic.coefficients[1]), self.bend
        gradient_3 = np.array([0.0, -1 / (2 * bend), slope / (2 * bend**2)])
        variance = float(gradient_3 @ np.linalg.solve(self.information_33, gradient_3)) * self.noise.sd**2
        quantile = float(stats.t.ppf(0.5 + level / 2, self.noise.dof + self.added))
        return quantile * float(np.sqrt(variance)) * self.quadratic.scale

    def with_run(self, candidate: Candidate) -> "_Minimum":
        """The same as if the candidate had been trained."""
        u = (np.log(candidate.params) - self.quadratic.centre) / self.quadratic.scale
        row_3 = quadratic_design(np.array(u))
        return replace(self, information_33=self.information_33 + np.outer(row_3, row_3), added=self.added + 1)


def rank_candidates(
    points: Points,
    candidates: Sequence[Candidate],
    *,
    count: int = 8,
    rules: ParabolaRules | None = None,
    level: float = 0.95,
) -> tuple[Suggestion, ...] | Refusal:
    """At most `count` candidates, the most useful first, or why none is.

    A candidate at an arm or budget without any point is passed over: there is nothing to judge it by.
    """
    rules = rules or ParabolaRules()
    if points.frame.is_empty():
        return Refusal(
            kind=RefusalKind.TOO_FEW_POINTS, sentence="no run is finished yet: train the sweep as it is planned first."
        )
    trained = set(points.frame.select("arm", "budget", "seed", "size").rows())
    untrained = [cell for cell in candidates if (cell.arm, cell.budget, cell.seed, cell.size) not in trained]
    requests: list[list[Suggestion]] = []
    minima: list[_Minimum] = []
    for arm in points.arms:
        requests_of_arm, minima_of_arm = _judge_arm(points, arm, [cell for cell in untrained if cell.arm == arm], rules)
        requests += requests_of_arm
        minima += minima_of_arm
    # By need; within a need what each budget wants most, the cheapest budget first, then what it wants next.
    needs = list(Need)
    ordered = sorted(
        ((place, suggestion) for request in requests for place, suggestion in enumerate(request)),
        key=lambda pair: (needs.index(pair[1].need), pair[0], pair[1].candidate.cost),
    )
    suggestions = [suggestion for _, suggestion in ordered[:count]]
    chosen = [suggestion.candidate for suggestion in suggestions]
    suggestions += _narrow(
        minima, [cell for cell in untrained if cell not in chosen], count - len(suggestions), rules, level
    )
    if not suggestions:
        return Refusal(
            kind=RefusalKind.NO_CANDIDATE,
            sentence="no cell that could be trained would narrow an interval or show a minimum: try other budgets or "
            "a longer ladder of sizes.",
        )
    return tuple(suggestions)


def _judge_arm(
    points: Points, arm: str, candidates: Sequence[Candidate], rules: ParabolaRules
) -> tuple[list[list[Suggestion]], list[_Minimum]]:
    """What each budget without a minimum asks for, and the budgets with one."""
    frame = points.of_arm(arm)
    curves = {
        budget: curve_of(of_budget, Axis.PARAMS)
        for budget in points.budgets_of(arm)
        if not (of_budget := frame.filter(pl.col("budget") == budget)).is_empty()
    }
    fits = {budget: first_fit(curve, rules) for budget, curve in curves.items()}
    requests = [
        _request(curves[budget], budget, fit, [cell for cell in candidates if cell.budget == budget], rules)
        for budget, fit in fits.items()
        if isinstance(fit, Refusal)
    ]
    fitted = {budget: fit for budget, fit in fits.items() if isinstance(fit, Quadratic)}
    pooled = pool_noise(list(fitted.values())) if fitted else None
    minima = [
        _Minimum(
            arm=arm,
            budget=budget,
            quadratic=quadratic,
            noise=noise_of(quadratic, pooled),
            information_33=_information(quadratic),
        )
        for budget, quadratic in fitted.items()
        if pooled is not None and pooled.dof > 0
    ]
    return requests, minima


def _information(quadratic: Quadratic) -> Floats:
    design_n3 = quadratic_design((quadratic.curve.log_x - quadratic.centre) / quadratic.scale)
    return design_n3.T @ design_n3


def _request(
    curve: Curve, budget: str, refusal: Refusal, candidates: Sequence[Candidate], rules: ParabolaRules
) -> list[Suggestion]:
    """What a refused budget asks for."""
    places, mean_loss = mean_by_place(curve)
    best = int(np.argmin(mean_loss))
    new = [candidate for candidate in candidates if np.abs(np.log(candidate.params) - places).min() > SAME_SIZE]
    new = list(
        {
            candidate.size: candidate for candidate in sorted(new, key=lambda candidate: candidate.seed, reverse=True)
        }.values()
    )
    label = budget_label(budget)
    if refusal.kind is RefusalKind.OUTLIER:
        place = curve.log_x[curve.cell_ids.index(refusal.cell_id)]
        again = sorted(
            (candidate for candidate in candidates if abs(np.log(candidate.params) - place) < SAME_SIZE),
            key=lambda candidate: candidate.seed,
        )
        name = refusal.cell_id[:12]
        reason = f"cell {name} of this size at {label} lies off the curve of the others: another seed decides"
        return _suggested(again[:1], Need.outlier, reason)
    if refusal.kind is RefusalKind.TOO_FEW_SIZES:
        nearest = sorted(new, key=lambda candidate: abs(np.log(candidate.params) - places[best]))
        reason = f"{counted_text(len(places), 'size')} at {label} are too few for a parabola"
        return _suggested(nearest[: max(0, WANTED_SIZES - len(places))], Need.sizes, reason)
    if refusal.kind is RefusalKind.MINIMUM_AT_EDGE:
        # Where the lowest loss is inside, the vertex of the parabola is not: its side decides.
        is_above = least_squares(choose_window(curve, rules)).vertex_u > 0
        beyond = _beyond(new, places, up=is_above if 0 < best < len(places) - 1 else best > 0)
        end = "largest" if beyond and np.log(beyond[0].params) > places[-1] else "smallest"
        reason = f"the minimum at {label} is not inside the sizes tried: it lies beyond the {end} of them"
        return _suggested(beyond[:BEYOND_AN_END], Need.edge, reason)
    beyond_ends = [*_beyond(new, places, up=True)[:1], *_beyond(new, places, up=False)[:1]]
    return _suggested(
        beyond_ends, Need.shape, f"the curve at {label} does not open upwards: sizes beyond its ends can show it"
    )


def _beyond(candidates: Sequence[Candidate], places: Floats, *, up: bool) -> list[Candidate]:
    """Candidates beyond an end of the sizes tried, the nearest first."""
    if up:
        return sorted(
            (candidate for candidate in candidates if np.log(candidate.params) > places[-1]),
            key=lambda candidate: candidate.params,
        )
    return sorted(
        (candidate for candidate in candidates if np.log(candidate.params) < places[0]),
        key=lambda candidate: -candidate.params,
    )


def _suggested(candidates: Sequence[Candidate], need: Need, reason: str) -> list[Suggestion]:
    return [Suggestion(candidate=candidate, need=need, reason=reason, narrower=None) for candidate in candidates]


def _narrow(
    minima: Sequence[_Minimum], candidates: Sequence[Candidate], count: int, rules: ParabolaRules, level: float
) -> list[Suggestion]:
    """Greedily, the runs that take most off the squared widths by cost."""
    by_budget = {(minimum.arm, minimum.budget): minimum for minimum in minima}
    useful = [
        cell
        for cell in candidates
        if (minimum := by_budget.get((cell.arm, cell.budget))) and _in_window(minimum, cell, rules)
    ]
    suggestions: list[Suggestion] = []
    while useful and len(suggestions) < count:
        scored = [(_score(by_budget[cell.arm, cell.budget], cell, level), cell) for cell in useful]
        (_, narrower), best = max(scored, key=lambda pair: pair[0][0])
        if narrower < LEAST_GAIN:
            break
        minimum = by_budget[best.arm, best.budget]
        suggestions.append(_narrowing(minimum, best, narrower, level))
        by_budget[best.arm, best.budget] = minimum.with_run(best)
        useful.remove(best)
    return suggestions


def _in_window(minimum: _Minimum, candidate: Candidate, rules: ParabolaRules) -> bool:
    """Whether the parabola would use the run: it is fitted around its minimum only."""
    if rules.window_decades is None:
        return True
    quadratic = minimum.quadratic
    vertex = quadratic.centre + quadratic.scale * quadratic.vertex_u
    widest = max(rules.window_decades * LN10, float(np.abs(quadratic.curve.log_x - vertex).max()))
    return abs(np.log(candidate.params) - vertex) <= widest + SAME_SIZE


def _score(minimum: _Minimum, candidate: Candidate, level: float) -> tuple[float, float]:
    """(decrease of the squared half-width by cost, share of the width that goes)."""
    now, then = minimum.half_width(level), minimum.with_run(candidate).half_width(level)
    return (now**2 - then**2) / candidate.cost, 1 - then / now if now > 0 else 0.0


def _narrowing(minimum: _Minimum, candidate: Candidate, narrower: float, level: float) -> Suggestion:
    now = minimum.half_width(level)
    expected = "with the runs above, " if minimum.added else ""
    known_to, expected_to = float(np.exp(now)), float(np.exp(now * (1 - narrower)))
    return Suggestion(
        candidate=candidate,
        need=Need.width,
        reason=f"{expected}N* at {budget_label(minimum.budget)} is known to a factor of {known_to:.4g} either way; "
        f"this run is expected to make that {expected_to:.4g}",
        narrower=narrower,
        known_to=known_to,
        expected_to=expected_to,
    )
