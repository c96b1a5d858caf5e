"""A fitted surface and how far to trust it: intervals, identifiability, residuals, errors on runs left out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling, interval, normals
from analysis.statistics.quadratic import Floats
from analysis.surface.contour import Contour, contour_of_runs
from analysis.surface.draws import SurfaceDraws, redraw_surface
from analysis.surface.identifiability import Doubt, HeldOut, doubts_of, hold_out
from analysis.surface.law import LossSurface
from analysis.surface.optimum import SurfaceOptimum, SurfaceRules, fit_optimum
from analysis.surface.problem import SurfacePoints, plain_points
from analysis.surface.profile import Profile, profiles
from mor_core.units import counted_text, short_count, short_power

PARAMETERS = ("E", "A", "alpha", "B", "beta", "exponent")
"""What a fit gives intervals for."""
MIN_PLACES = 3
"""Fewest distinct sizes and distinct token counts for two exponents."""
MIN_EXPLAINED = 0.5
"""Least share of the spread of ln L that the law must explain."""
FLAGGED_REACH = 10.0
LARGEST_REACH = 100.0
LARGE_CONDITION = 1e5
MEASURED_MARGIN = 1.02
"""Factor beyond the runs' own ends that still counts as measured: budgets buy whole steps."""


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """Predicted less measured, in ln L (about relative error), or units of loss where the fit was of L itself."""

    sd: float
    """Root of their sum of squares over the degrees of freedom."""
    median_size: float
    """Median of their absolute values."""
    largest: float
    """The one farthest from zero."""
    largest_cell: str
    """Its cell."""
    explained: float
    """1 - variance of the residuals over that of ln L (of L where the fit was of L itself)."""
    trend_params: float
    """Spearman's correlation with N: far from zero, the law bends wrongly along N."""
    trend_tokens: float
    """The same with D."""
    trend_flops: float
    """The same with N D."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceFit:
    """A surface with everything that is known about its reliability."""

    law: LossSurface
    """The best fit."""
    parameters: dict[str, Estimate]
    """E, A, alpha, B, beta and exponent (β / (α + β)) with intervals from redrawn studies."""
    profiles: tuple[Profile, ...]
    """Profile-likelihood intervals, runs taken as independent."""
    best: SurfaceOptimum
    """Objective, gradient, conditioning and the share of starts that reached it."""
    residuals: Residuals
    """What the law leaves unexplained."""
    held_out: tuple[HeldOut, ...]
    """One per budget left out, ascending; empty with fewer than three budgets."""
    contour: Contour
    """The arm's contour of equal FLOPs."""
    draws: SurfaceDraws
    """The law in every redrawn study."""
    resampling: Resampling
    """How those were drawn."""
    arm: str
    """What was fitted, a name."""
    largest_flops: float
    """The largest budget fitted."""
    warnings: tuple[str, ...]
    """What to know before leaning on this fit."""
    doubts: tuple[Doubt, ...]
    """Why it may not be the law of these runs: with any, it is not read beyond them."""

    def refuse_beyond(self, params: float, tokens: float) -> Refusal | None:
        """The refusal of a doubted law at an N, a D or FLOPs that none of its runs reached, or None."""
        if not self.doubts:
            return None
        points = self.best.problem.points
        flops = float(self.contour.flops_per_token(np.array([params]))[0]) * tokens
        measured = (
            ("FLOPs", flops, 0.0, self.largest_flops),
            ("parameters", params, *_ends(points.log_params)),
            ("tokens", tokens, *_ends(points.log_tokens)),
        )
        for noun, value, low, high in measured:
            if not low / MEASURED_MARGIN <= value <= high * MEASURED_MARGIN:
                amount = short_power(value, 4) if noun == "FLOPs" else short_count(value)
                side = "above" if value > high else "below"
                first, *others = self.doubts
                more = f" ({counted_text(len(others), 'more reason')} with the fit)" if others else ""
                return Refusal(
                    kind=RefusalKind.EXTRAPOLATION,
                    sentence=f"the surface is doubted and not read at {amount} {noun}, {side} all of its runs, unless "
                    f"forced: {first.sentence}{more}",
                )
        return None

    def loss_draws(self, params: float, tokens: float) -> tuple[Floats, Floats]:
        """(draws,) twice: the loss of the law and of one more run at `params` and `tokens` in every redrawn study."""
        drawn_k = self.draws.law.loss(params, tokens)
        noise_k = self.draws.noise * normals(self.resampling, "one more run", self.arm)
        return drawn_k, drawn_k * np.exp(noise_k) if self.best.problem.residual == "log" else drawn_k + noise_k


def _ends(log_x: Floats) -> tuple[float, float]:
    return float(np.exp(log_x.min())), float(np.exp(log_x.max()))


def refuse_reach(flops: float, largest_flops: float, *, forced: bool) -> Refusal | None:
    """The refusal of a prediction more than 100 times beyond the largest budget, or None."""
    reach = flops / largest_flops
    if forced or reach <= LARGEST_REACH:
        return None
    return Refusal(
        kind=RefusalKind.EXTRAPOLATION,
        sentence=f"{short_power(flops, 4)} FLOPs are {reach:.0f} times the largest budget fitted, "
        f"{short_power(largest_flops, 4)}; beyond {LARGEST_REACH:.0f} times nothing is predicted unless forced.",
    )


def points_of(frame: pl.DataFrame) -> SurfacePoints:
    """Rows of `analysis.runs.points.Points.frame` as plain points."""
    params, tokens, loss = (frame[name].to_numpy() for name in ("params", "tokens", "loss"))
    return plain_points(params, tokens, loss)


def contour_of_points(frame: pl.DataFrame) -> Contour:
    """The contour of equal FLOPs of an arm's points."""
    params, tokens, flops = (frame[name].to_numpy() for name in ("params", "tokens", "flops"))
    return contour_of_runs(params, tokens, flops)


def fit_surface(
    frame: pl.DataFrame, arm: str, contour: Contour, rules: SurfaceRules, resampling: Resampling
) -> SurfaceFit | Refusal:
    """Fit one arm's points (see `analysis.runs.points.Points.frame`), or say why not."""
    points = points_of(frame)
    refusal = refuse_few(points, rules)
    if refusal:
        return refusal
    best = fit_optimum(points, rules)
    bounds = profiles(best, resampling.level)
    residuals = describe_residuals(best, tuple(frame["cell_id"].to_list()))
    refusal = _refuse_misfit(residuals) or refuse_unidentified(bounds)
    if refusal:
        return refusal
    trunk_keys = tuple(frame["trunk_key"].to_list())
    draws = redraw_surface(best, trunk_keys, arm, resampling)
    flops_n, budgets = frame["flops"].to_numpy(), frame["budget"].to_list()
    held_out = hold_out(best, arm, flops_n, budgets, trunk_keys, resampling)
    return SurfaceFit(
        law=best.law,
        parameters=parameters_of(best, draws, resampling.level),
        profiles=bounds,
        best=best,
        residuals=residuals,
        held_out=held_out,
        contour=contour,
        draws=draws,
        resampling=resampling,
        arm=arm,
        largest_flops=float(flops_n.max()),
        warnings=tuple(_warnings(best, bounds, residuals)),
        doubts=doubts_of(best, bounds, held_out, resampling.level),
    )


def refuse_few(points: SurfacePoints, rules: SurfaceRules) -> Refusal | None:
    """The refusal of runs that are too few, or too much alike, for the law that they are to obey; or None."""
    num_free = points.free_directions(rules.tied).shape[1]
    least = num_free + rules.min_spare
    if len(points) < least:
        return Refusal(
            kind=RefusalKind.TOO_FEW_POINTS,
            sentence=f"{counted_text(len(points), 'run')} finished; a surface of "
            f"{num_free} parameters needs at least {least}.",
        )
    for log_x, noun in ((points.log_params, "size"), (points.log_tokens, "token count")):
        places = len(np.unique(np.round(log_x, 6)))
        if places < MIN_PLACES:
            return Refusal(
                kind=RefusalKind.NOT_IDENTIFIED,
                sentence=f"{counted_text(places, f'distinct {noun}')}: an exponent needs {MIN_PLACES}.",
            )
    places_n2 = np.stack([points.log_params, points.log_tokens], axis=1)
    spread = np.linalg.svd(places_n2 - places_n2.mean(axis=0), compute_uv=False)
    if spread[-1] < 0.05 * spread[0]:
        return Refusal(
            kind=RefusalKind.NOT_IDENTIFIED,
            sentence="N and D move together in all runs (one budget, or one ratio of tokens to parameters): their two "
            "terms cannot be told apart.",
        )
    return None


def _refuse_misfit(residuals: Residuals) -> Refusal | None:
    if residuals.explained >= MIN_EXPLAINED:
        return None
    return Refusal(
        kind=RefusalKind.DOES_NOT_FIT,
        sentence=f"the law explains {max(residuals.explained, 0):.0%} of the spread of the losses, less than "
        f"{MIN_EXPLAINED:.0%}: they do not fall with N and D as it says.",
    )


def refuse_unidentified(bounds: tuple[Profile, ...]) -> Refusal | None:
    """The refusal of a fit whose exponents the runs do not bound away from zero, or None."""
    symbols = {"alpha": "α", "beta": "β"}
    loose = [
        profile
        for profile in bounds
        if profile.name in symbols and (profile.interval.high_open or profile.interval.low <= 0)
    ]
    if not loose:
        return None
    ranges = " and ".join(
        f"{symbols[profile.name]} {profile.interval.low:.3g} to "
        f"{'any larger value' if profile.interval.high_open else f'{profile.interval.high:.3g}'}"
        for profile in loose
    )
    return Refusal(
        kind=RefusalKind.NOT_IDENTIFIED,
        sentence=f"the runs allow {ranges} ({loose[0].interval.level:.0%} profile likelihood): an exponent must be "
        "bounded and above zero; train a wider range of sizes and budgets, or fit tied exponents.",
    )


def parameters_of(best: SurfaceOptimum, draws: SurfaceDraws, level: float) -> dict[str, Estimate]:
    """`PARAMETERS` with their intervals."""
    return {name: interval(float(getattr(best.law, name)), getattr(draws.law, name), level) for name in PARAMETERS}


def describe_residuals(best: SurfaceOptimum, cell_ids: tuple[str, ...]) -> Residuals:
    """What the law leaves, and whether it leaves it in some direction."""
    problem, points = best.problem, best.problem.points
    residual_n = problem.residuals(best.theta[None])[0]
    measured_n = np.log(points.loss) if problem.residual == "log" else points.loss
    worst = int(np.argmax(np.abs(residual_n)))
    spare = max(len(points) - best.free_pq.shape[1], 1)
    total = float(np.var(measured_n))
    trends = [
        _rank_correlation(x_n, residual_n)
        for x_n in (points.log_params, points.log_tokens, points.log_params + points.log_tokens)
    ]
    return Residuals(
        sd=float(np.sqrt(residual_n @ residual_n / spare)),
        median_size=float(np.median(np.abs(residual_n))),
        largest=float(residual_n[worst]),
        largest_cell=cell_ids[worst],
        explained=1 - float(np.var(residual_n)) / total if total > 0 else 0.0,
        trend_params=trends[0],
        trend_tokens=trends[1],
        trend_flops=trends[2],
    )


def _rank_correlation(x_n: Floats, y_n: Floats) -> float:
    """Spearman's; 0 where one of them does not vary."""
    if np.ptp(x_n) == 0 or np.ptp(y_n) == 0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(x_n), stats.rankdata(y_n))[0, 1])


def _warnings(best: SurfaceOptimum, bounds: tuple[Profile, ...], residuals: Residuals) -> Iterator[str]:
    if best.share_reached < 0.5:
        yield f"only {best.share_reached:.0%} of {best.num_starts} starts reached the optimum"
    if best.condition > LARGE_CONDITION:
        yield f"badly conditioned ({best.condition:.1e}): several sets of parameters fit about as well"
    for profile in bounds:
        if not profile.bounded:
            yield f"{profile.name} is not bounded by these runs"
    trends = {"N": residuals.trend_params, "D": residuals.trend_tokens, "N D": residuals.trend_flops}
    # Under no trend the correlation has a standard deviation of about 1 / sqrt(n - 1).
    limit = max(0.3, 3 / np.sqrt(max(len(best.problem.points) - 1, 1)))
    for name, value in trends.items():
        if abs(value) > limit:
            yield f"residuals follow {name} (rank correlation {value:+.2f})"
