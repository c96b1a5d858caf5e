"""Arms with shared exponents, fitted: what a parameter and a token of an arm are worth, and whether sharing is tenable.

The law (`analysis.surface.extended.shared_exponents.law`) lies between two others: one law for all arms alike, and a
law of its own for every arm. It is given only where the runs tell it from both (`ratio_test`): it is refused where one
law for all arms leaves no more than noise explains, and where laws of their own leave less than noise explains.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from analysis.runs.points import Points
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.approach import SampledOptimum
from analysis.statistics.bootstrap import Resampling, interval
from analysis.statistics.quadratic import Floats
from analysis.surface.approach import surface_optimum
from analysis.surface.draws import SurfaceDraws, redraw_surface
from analysis.surface.extended.shared_exponents.law import ArmPoints, SharedLaw
from analysis.surface.extended.shared_exponents.ratio_test import PartialFit, RatioTest, ratio_test, redrawn_noise
from analysis.surface.fit import (
    Residuals,
    SurfaceFit,
    contour_of_points,
    describe_residuals,
    parameters_of,
    points_of,
    refuse_few,
    refuse_unidentified,
)
from analysis.surface.identifiability import Doubt, HeldOut, doubts_of, hold_out
from analysis.surface.law import NUM_BASE, LossSurface
from analysis.surface.optimum import SurfaceOptimum, SurfaceRules, fit_from, fit_optimum, projected_starts
from analysis.surface.problem import huber
from analysis.surface.profile import Profile, profiles

REFERENCE = "vanilla"
"""The arm whose ρ are 1; the first by name where there is none of that name."""
MOST_DRAWS = 400
"""Redrawn studies behind the intervals, at most: each has as many parameters as two arms have more."""
TEST_STUDIES = 400
"""Redrawn studies behind a test, at most."""
SHARED = ("E", "alpha", "beta")
"""Constants common to all arms."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedExponentsFit:
    """The law over all arms that have runs enough."""

    arms: tuple[str, ...]
    """Those arms; the first is the reference."""
    law: LossSurface
    """The law of the reference."""
    rho_params: dict[str, Estimate]
    """By other arm: how many parameters of the reference one of its own is worth, at every size."""
    rho_tokens: dict[str, Estimate]
    """By other arm: how many tokens of the reference one of its own is worth."""
    parameters: dict[str, Estimate]
    """E, A, alpha, B, beta of the reference, and exponent, with intervals from redrawn studies."""
    profiles: tuple[Profile, ...]
    """Profile-likelihood intervals of E, alpha, beta and every ρ."""
    tenable: RatioTest
    """Against a law of its own for every arm."""
    apart: RatioTest
    """One law for all arms against this one."""
    best: SurfaceOptimum
    """Objective, gradient, conditioning and the share of starts that reached it."""
    residuals: Residuals
    """What the law leaves unexplained, over all arms."""
    held_out: tuple[HeldOut, ...]
    """One per budget left out in all arms; empty with fewer than three budgets."""
    drawn: SurfaceDraws
    """The law's parameters in every redrawn study, and how those were drawn."""
    resampling: Resampling
    """With which settings."""
    runs: pl.DataFrame
    """The points fitted (`analysis.runs.points.Points.frame`), arm by arm."""
    doubts: tuple[Doubt, ...]
    """Why it may not be the law of these runs: with any, it is not read beyond them."""
    left_out: dict[str, Refusal]
    """Arms without runs enough for a law of their own, which sharing could not be tested on."""

    @property
    def draws(self) -> SharedLaw:
        """The law in every redrawn study."""
        return SharedLaw(arms=self.arms, theta_kp=self.drawn.law.theta_kp, centre=self.drawn.law.centre)

    def surface(self, arm: str) -> SurfaceFit:
        """The law as the surface of one arm, in its own N and D."""
        frame = self.runs.filter(pl.col("arm") == arm)
        best = _optimum_of_arm(self.best, self.arms, arm, frame)
        drawn = replace(self.drawn, law=self.draws.of_arm(arm))
        return SurfaceFit(
            law=best.law,
            parameters=parameters_of(best, drawn, self.resampling.level),
            profiles=tuple(profile for profile in self.profiles if profile.name in SHARED),
            best=best,
            residuals=describe_residuals(best, tuple(frame["cell_id"].to_list())),
            held_out=self.held_out,
            contour=contour_of_points(frame),
            draws=drawn,
            resampling=self.resampling,
            arm=arm,
            largest_flops=float(frame["flops"].to_numpy().max()),
            warnings=(),
            doubts=self.doubts,
        )

    def optimum(self, arm: str, budget: str, *, forced: bool = False) -> SampledOptimum:
        """N*, D* and L* of an arm at `budget` (decimal FLOPs), or why none is given."""
        return surface_optimum(self.surface(arm), budget, forced=forced)


def fit_shared_exponents(points: Points, rules: SurfaceRules, resampling: Resampling) -> SharedExponentsFit | Refusal:
    """Fit the law to all arms of `points` together, or say why not."""
    frames, left_out = _arms_with_enough(points, rules)
    if len(frames) < 2:
        return _refuse_arms(points.arms, left_out)
    arms, runs = tuple(frames), pl.concat(frames.values())
    best = _fit(arms, runs, rules)
    bounds = profiles(best, resampling.level, (*SHARED, *best.problem.points.names_beyond))
    refusal = refuse_unidentified(bounds) or _refuse_open(bounds)
    if refusal:
        return refusal
    tests = _tests(arms, runs, best, rules, resampling)
    if isinstance(tests, Refusal):
        return tests
    tenable, apart = tests
    # By an arm's own trunks: ρ is a contrast between arms, and moving them together would understate its spread.
    trunks = tuple(f"{arm}/{trunk}" for arm, trunk in zip(runs["arm"], runs["trunk_id"], strict=True))
    # An arm's ρ is told by its own trunks, so that all arms together need as many more to be drawn by weights.
    drawing = replace(resampling, min_trunks=resampling.min_trunks * len(arms), draws=min(resampling.draws, MOST_DRAWS))
    drawn = redraw_surface(best, trunks, "every arm", drawing)
    held_out = hold_out(best, "every arm", runs["flops"].to_numpy(), runs["budget"].to_list(), trunks, drawing)
    fitted, draws = (
        SharedLaw(arms=arms, theta_kp=theta_kp, centre=best.problem.centre)
        for theta_kp in (best.theta[None], drawn.law.theta_kp)
    )
    level = resampling.level
    return SharedExponentsFit(
        arms=arms,
        law=best.law,
        rho_params={arm: interval(float(fitted.rho_params(arm)[0]), draws.rho_params(arm), level) for arm in arms[1:]},
        rho_tokens={arm: interval(float(fitted.rho_tokens(arm)[0]), draws.rho_tokens(arm), level) for arm in arms[1:]},
        parameters=parameters_of(best, drawn, level),
        profiles=bounds,
        tenable=tenable,
        apart=apart,
        best=best,
        residuals=describe_residuals(best, tuple(runs["cell_id"].to_list())),
        held_out=held_out,
        drawn=drawn,
        resampling=drawing,
        runs=runs,
        doubts=doubts_of(best, bounds, held_out, level),
        left_out=left_out,
    )


def _arms_with_enough(points: Points, rules: SurfaceRules) -> tuple[dict[str, pl.DataFrame], dict[str, Refusal]]:
    """The points of the arms that could have a law of their own, the reference first, and why the others could not."""
    frames, left_out = {}, {}
    for arm in sorted(points.arms, key=lambda arm: (arm != REFERENCE, arm)):
        frame = points.of_arm(arm)
        refusal = refuse_few(points_of(frame), rules)
        if refusal:
            left_out[arm] = refusal
        else:
            frames[arm] = frame
    return frames, left_out


def _refuse_arms(arms: tuple[str, ...], left_out: dict[str, Refusal]) -> Refusal:
    if len(arms) < 2:
        return Refusal(
            kind=RefusalKind.NOT_IDENTIFIED,
            sentence=f"{arms[0] if arms else 'no arm'} is all there is: exponents are shared by two arms or more.",
        )
    reasons = "; ".join(f"{arm}: {refusal.sentence.removesuffix('.')}" for arm, refusal in left_out.items())
    return Refusal(
        kind=RefusalKind.TOO_FEW_POINTS,
        sentence=f"fewer than two arms have runs enough to test whether they share exponents ({reasons}).",
    )


def _refuse_open(bounds: tuple[Profile, ...]) -> Refusal | None:
    loose = [profile for profile in bounds if profile.name not in SHARED and not profile.bounded]
    if not loose:
        return None
    names = " and ".join(profile.name for profile in loose)
    return Refusal(
        kind=RefusalKind.NOT_IDENTIFIED,
        sentence=f"the runs do not bound {names} ({loose[0].interval.level:.0%} profile likelihood); train more sizes "
        "and budgets of these arms.",
    )


def _fit(arms: tuple[str, ...], runs: pl.DataFrame, rules: SurfaceRules) -> SurfaceOptimum:
    plain = points_of(runs)
    points = ArmPoints(
        arms=arms,
        arm=np.array([arms.index(arm) for arm in runs["arm"]]),
        log_params=plain.log_params,
        log_tokens=plain.log_tokens,
        loss=plain.loss,
    )
    starts_kp = projected_starts(plain, points.centre, rules.tied)
    return fit_from(points, rules, _with_equal_arms(starts_kp, NUM_BASE + len(points.names_beyond)))


def _with_equal_arms(theta_kp: Floats, num_parameters: int) -> Floats:
    """(K, P) laws (K, 5) of one arm as those of arms that are all worth the same."""
    return np.pad(theta_kp, ((0, 0), (0, num_parameters - NUM_BASE)))


def _tests(
    arms: tuple[str, ...], runs: pl.DataFrame, best: SurfaceOptimum, rules: SurfaceRules, resampling: Resampling
) -> tuple[RatioTest, RatioTest] | Refusal:
    """That sharing is tenable and that the arms are told apart, or the refusal of what is not."""
    fitted = SharedLaw(arms=arms, theta_kp=best.seen_theta[None], centre=best.problem.centre)
    separate = {arm: _separate_law(fitted, arm, runs, rules) for arm in arms}
    few = replace(resampling, draws=min(resampling.draws, TEST_STUDIES))
    noise_kn = redrawn_noise(separate, tuple(runs["size"].to_list()), few)
    significant = 1 - resampling.level
    tenable = ratio_test(best, tuple(separate.values()), noise_kn)
    if tenable.p_value < significant:
        return _refuse_sharing(best, separate, tenable)
    one_law = fit_optimum(points_of(runs), rules)
    shared = PartialFit(
        best=best, rows=np.arange(runs.height), truth=_with_equal_arms(one_law.seen_theta[None], len(best.theta))[0]
    )
    apart = ratio_test(one_law, (shared,), noise_kn)
    if apart.p_value >= significant:
        return Refusal(
            kind=RefusalKind.NOT_IDENTIFIED,
            sentence=f"the arms are not told apart: one law for all of them leaves no more than noise explains "
            f"(p = {apart.p_value:.2g} over {apart.num_studies} redrawn studies).",
        )
    return tenable, apart


def _separate_law(fitted: SharedLaw, arm: str, runs: pl.DataFrame, rules: SurfaceRules) -> PartialFit:
    """The law of an arm alone; `fitted` is the law that is taken for true where studies are redrawn."""
    is_of_arm_n = (runs["arm"] == arm).to_numpy()
    alone = fit_optimum(points_of(runs.filter(pl.col("arm") == arm)), rules)
    truth = fitted.of_arm(arm).about(alone.problem.centre).theta_kp[0]
    return PartialFit(best=alone, rows=np.flatnonzero(is_of_arm_n), truth=truth)


def _refuse_sharing(best: SurfaceOptimum, separate: dict[str, PartialFit], test: RatioTest) -> Refusal:
    """The refusal, with the arm that gains most by exponents of its own."""
    left_n = huber(best.problem.residuals(best.theta[None])[0], best.problem.delta)
    gains = {arm: float(left_n[part.rows].sum()) - part.best.objective for arm, part in separate.items()}
    most = max(gains, key=lambda arm: gains[arm])
    law, shared = separate[most].best.law, best.law
    return Refusal(
        kind=RefusalKind.DOES_NOT_FIT,
        sentence=f"the arms do not share their exponents: laws of their own leave {test.gained:.0%} less, more than "
        f"noise explains (p = {test.p_value:.2g} over {test.num_studies} redrawn studies); most of it is of {most}, "
        f"with E {law.E:.3g}, α {law.alpha:.3g} and β {law.beta:.3g} in place of the common {shared.E:.3g}, "
        f"{shared.alpha:.3g} and {shared.beta:.3g}.",
    )


def _optimum_of_arm(best: SurfaceOptimum, arms: tuple[str, ...], arm: str, frame: pl.DataFrame) -> SurfaceOptimum:
    """The optimum of all arms as one of the runs of an arm alone."""
    points = points_of(frame)
    law = SharedLaw(arms=arms, theta_kp=best.theta[None], centre=best.problem.centre)
    problem = best.problem.at(points)
    theta = law.of_arm(arm).theta_kp[0]
    is_tied = best.free_pq.shape[1] < best.free_pq.shape[0]
    return replace(
        best,
        theta=theta,
        problem=problem,
        free_pq=points.free_directions(is_tied),
        objective=float(problem.objective(theta[None])[0]),
    )
