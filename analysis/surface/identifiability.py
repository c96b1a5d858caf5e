"""Whether the runs tell the law that was fitted to them: doubts, each with the numbers that decided.

A fit always ends somewhere. Five sizes within a factor of 1.2 gave α = 4.5: some shapes are better than their size
says, and no law of N can tell that merit from size where all sizes are nearly one. A doubted law still says what was
measured; it is not read beyond (`analysis.surface.fit.SurfaceFit.refuse_beyond`).

How often doubts are right was measured on planted laws: `tests/analysis/surface/identifiability_study.py`.

E may go to nothing, and its logarithm then ends wherever a CPU's last bits send it. No doubt reads E: what decides is
searched for from an E that is seen (`SurfaceOptimum.seen_theta`), and the errors of exponents leave E free on both
sides of 0. With OpenBLAS's kernels for Nehalem and Haswell, and NumPy without AVX-512 or AVX2, profiles of exponents
then moved by 2e-7 and the interval of a budget left out by 5e-5, on 18 planted fits.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.answers import Estimate
from analysis.statistics.bootstrap import Resampling, interval, mixed_noise
from analysis.statistics.descent import descend
from analysis.statistics.quadratic import Floats
from analysis.statistics.trunk_noise import TrunkNoise, split_noise
from analysis.surface.draws import redraw_surface
from analysis.surface.optimum import SurfaceOptimum
from analysis.surface.profile import Profile
from mor_core.units import short_power

MOST_FOLDS = 12
HELD_OUT_DRAWS = 400
"""Redrawn studies behind the interval of the budget held out, at most."""
HELD_OUT_TAIL = 0.2
"""Its tails over those of the other intervals: at 95 % a doubt would be raised about one sound law in twenty."""
SMALLEST_MISS = 0.005
"""Relative miss of the budget held out below which no law is doubted, however narrow the interval."""
LARGEST_RATIO = 2.0
"""Upper over lower end of an exponent's interval beyond which the exponent is not known."""
SYMMETRIC_SHARE = (LARGEST_RATIO - 1) / (LARGEST_RATIO + 1)
"""Half of a symmetric interval of that ratio, over its middle."""
FEWEST_PLACES = 4
"""Fewest sizes and token counts: α, A and E take three, and leave nothing to see the merit of shapes in."""
NARROWEST_SPAN = 3.0
"""Least factor between the smallest and largest N, and D."""
SAME_SIZE = 0.01
"""Step of ln N and ln D within which two are one."""
PUBLISHED_EXPONENTS = (0.05, 1.0)
"""Published α and β lie within. Lowest: 0.076 and 0.095 (Kaplan et al. 2020, arXiv:2001.08361, a law without E). With
an E: 0.24 to 0.27 (Gadre et al. 2024, arXiv:2403.08540), 0.28 and 0.34 (Hoffmann et al. 2022, arXiv:2203.15556), 0.35
and 0.37 (Besiroglu et al. 2024, arXiv:2404.10102), 0.35 (Muennighoff et al. 2023, arXiv:2305.16264). The Mixture-of-
Recursions paper's own cells give up to 0.95 (`results/published/paper`)."""
SYMBOLS = {"alpha": "α", "beta": "β"}


class DoubtKind(StrEnum):
    """Why a fitted law may not be the law of these runs."""

    LOOSE_EXPONENT = "loose-exponent"
    NARROW_RANGE = "narrow-range"
    SIZE_OR_SHAPE = "size-or-shape"
    BUDGET_MISSED = "budget-missed"
    UNHEARD_EXPONENT = "unheard-exponent"


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """A reason to read a law no further than its runs."""

    kind: DoubtKind
    """Why, for programs."""
    sentence: str
    """Why, for people: one sentence with the numbers that decided."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What the law, fitted without a budget, says about the runs of that budget."""

    label: str
    """The budget, decimal FLOPs; or the lowest and highest of a group of budgets."""
    num_points: int
    """Runs held out."""
    mean_error: float
    """Mean of predicted over measured loss, less 1."""
    mean_size: float
    """Mean size of predicted over measured loss, less 1."""
    extrapolates: bool
    """True for the largest budgets."""
    interval: Estimate | None = None
    """Of the mean error, over redrawn studies without the budget and over the noise of its own runs; without zero in
    it the law misses the budget. None unless it extrapolates from enough runs."""


def neighbouring(budgets: Iterable[str]) -> list[list[str]]:
    """Distinct budgets (decimal FLOPs), ascending, each alone, or in `MOST_FOLDS` even groups where there are more."""
    ordered = np.array(sorted(set(budgets), key=int), dtype=object)
    return [list(group) for group in np.array_split(ordered, max(1, min(len(ordered), MOST_FOLDS)))]


def hold_out(
    best: SurfaceOptimum, arm: str, flops_n: Floats, budgets: list[str], trunk_keys: tuple[str, ...], draw: Resampling
) -> tuple[HeldOut, ...]:
    """Leave one budget out at a time (one group of neighbouring budgets where there are many)."""
    groups = neighbouring(budgets)
    if len(groups) < 3:
        return ()
    out_gn = np.array([[budget in group for budget in budgets] for group in groups])
    problem = replace(best.problem, weights_kn=(~out_gn).astype(np.float64))
    starts_kp = np.repeat(best.theta[None], len(groups), axis=0)
    refits = descend(problem, starts_kp, best.free_pq)
    relative_gn = _relative(best, problem.residuals(refits.theta_kp))
    held_out = []
    for group, out_n, relative_n, theta in zip(groups, out_gn, relative_gn, refits.theta_kp, strict=True):
        extrapolates = bool(flops_n[out_n].min() > flops_n[~out_n].max())
        fold = replace(best, theta=theta)
        held_out.append(
            HeldOut(
                label=group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}",
                num_points=int(out_n.sum()),
                mean_error=float(relative_n[out_n].mean()),
                mean_size=float(np.abs(relative_n[out_n]).mean()),
                extrapolates=extrapolates,
                interval=_bound_error(fold, arm, out_n, trunk_keys, draw) if extrapolates else None,
            )
        )
    return tuple(held_out)


def _relative(best: SurfaceOptimum, residual_kn: Floats) -> Floats:
    """(K, n) predicted over measured loss less 1, from residuals on the scale of the fit."""
    return np.expm1(residual_kn) if best.problem.residual == "log" else residual_kn / best.problem.points.loss


def _bound_error(
    fold: SurfaceOptimum, arm: str, out_n: NDArray[np.bool_], trunk_keys: tuple[str, ...], draw: Resampling
) -> Estimate | None:
    """The interval of the mean error on the runs `out_n`; `fold` is the optimum of the others."""
    few = replace(draw, draws=min(draw.draws, HELD_OUT_DRAWS), level=1 - HELD_OUT_TAIL * (1 - draw.level))
    points = fold.problem.points.subset(~out_n)
    kept = replace(fold, problem=fold.problem.at(points))
    if len(kept.problem.points) < kept.free_pq.shape[1] + 2:
        return None
    kept_keys = tuple(key for key, out in zip(trunk_keys, out_n, strict=True) if not out)
    law = redraw_surface(kept, kept_keys, arm, few, start_p=kept.seen_theta).law
    noise = split_noise(*residuals_around(kept), kept_keys)
    # The trunks of the runs held out are those that the law was redrawn from: what they share cancels.
    names = [("held out", arm, str(place)) for place in range(len(trunk_keys))]
    noise_kn = mixed_noise(noise, names, trunk_keys, arm, few)
    residual_kn = fold.problem.residuals(law.theta_kp) - noise_kn
    mean_error = float(_relative(fold, fold.problem.residuals(fold.theta[None]))[0, out_n].mean())
    return interval(mean_error, _relative(fold, residual_kn)[:, out_n].mean(axis=1), few.level)


def residuals_around(best: SurfaceOptimum) -> tuple[Floats, Floats]:
    """(n,) residuals of the law, and (n, Q) the directions along which its fit has absorbed noise, each of length 1."""
    return best.problem.residuals(best.theta[None])[0], _unit_slopes(best)[0]


def _unit_slopes(best: SurfaceOptimum) -> tuple[Floats, Floats]:
    """(n, Q) slopes of the residuals along the free directions, each of length 1, and the (Q,) lengths they had.

    Of length 1 the slope along ln E is that along E, whatever is left of E.
    """
    slopes_nq = best.problem.slopes(best.theta[None])[0] @ best.free_pq
    length_q = np.maximum(np.linalg.norm(slopes_nq, axis=0), np.finfo(float).tiny)
    return slopes_nq / length_q, length_q


def doubts_of(
    best: SurfaceOptimum, bounds: tuple[Profile, ...], held_out: tuple[HeldOut, ...], level: float
) -> tuple[Doubt, ...]:
    """Everything that speaks against reading the law beyond its runs; `bounds` are its profiles at `level`."""
    return (
        *_loose_exponents(best, bounds),
        *_narrow_ranges(best),
        *_size_or_shape(best, level),
        *_missed_budget(held_out),
        *_unheard_exponents(best),
    )


def _exponents(best: SurfaceOptimum) -> dict[str, str]:
    """Name -> symbol of the exponents that the fit was free in."""
    is_tied = best.free_pq.shape[1] < best.free_pq.shape[0]
    return {"alpha": "α = β"} if is_tied else SYMBOLS


def _loose_exponents(best: SurfaceOptimum, bounds: tuple[Profile, ...]) -> list[Doubt]:
    symbols = _exponents(best)
    return [
        Doubt(
            kind=DoubtKind.LOOSE_EXPONENT,
            sentence=f"the runs allow {symbols[profile.name]} from {profile.interval.low:.3g} to "
            f"{profile.interval.high:.3g} ({profile.interval.level:.0%} profile likelihood), more than a factor of "
            f"{LARGEST_RATIO:g}.",
        )
        for profile in bounds
        if profile.name in symbols and not _is_bound(profile.interval)
    ]


def _is_bound(exponent: Estimate) -> bool:
    return not (exponent.low_open or exponent.high_open) and 0 < exponent.high <= LARGEST_RATIO * exponent.low


def _narrow_ranges(best: SurfaceOptimum) -> Iterator[Doubt]:
    points = best.problem.points
    for log_x, letter, noun in ((points.log_params, "N", "sizes"), (points.log_tokens, "D", "token counts")):
        places, span = len(set(_places(log_x))), float(np.exp(np.ptp(log_x)))
        if places < FEWEST_PLACES or span < NARROWEST_SPAN:
            yield Doubt(
                kind=DoubtKind.NARROW_RANGE,
                sentence=f"{places} {noun} within a factor of {span:.3g} in {letter}: with fewer than "
                f"{FEWEST_PLACES}, or less than a factor of {NARROWEST_SPAN:g}, what else differs between the runs "
                f"passes for {letter}.",
            )


def _places(log_x: Floats) -> tuple[str, ...]:
    """(n,) a name for each distinct place."""
    return tuple(str(place) for place in np.round(log_x / SAME_SIZE).astype(np.int64))


def _size_or_shape(best: SurfaceOptimum, level: float) -> list[Doubt]:
    """Exponents that the runs do not tell once the runs of a size may have a merit of their own in common.

    The law's residuals are split into what a size has in common and what a run has alone (the sizes as trunks in
    `analysis.statistics.trunk_noise`); the errors of the exponents follow from both by the delta method.
    """
    sizes = _places(best.problem.points.log_params)
    merit = split_noise(*residuals_around(best), sizes)
    if merit.shared == 0:
        return []
    errors = _errors(best, sizes, merit)
    reach = float(stats.t.ppf(0.5 + level / 2, merit.dof))
    blurred = [
        f"{symbol} is {getattr(best.law, name):.3g} ± {reach * errors[name]:.2g}"
        for name, symbol in _exponents(best).items()
        if reach * errors[name] > SYMMETRIC_SHARE * abs(getattr(best.law, name))
    ]
    if not blurred:
        return []
    return [
        Doubt(
            kind=DoubtKind.SIZE_OR_SHAPE,
            sentence=f"size is not told from shape: over {len(set(sizes))} sizes A / N^α varies by "
            f"{_spread_of_term(best):.2%} of the loss, the runs of a size have {merit.sd * merit.shared**0.5:.2%} in "
            f"common that the law does not explain, and with it {' and '.join(blurred)} ({level:.0%}).",
        )
    ]


def _spread_of_term(best: SurfaceOptimum) -> float:
    """Largest less smallest A / N^α over the mean loss."""
    points, law = best.problem.points, best.law
    log_term_n = np.log(law.A) - law.alpha * points.log_params
    return float(np.ptp(np.exp(log_term_n)) / points.loss.mean())


def _errors(best: SurfaceOptimum, sizes: tuple[str, ...], merit: TrunkNoise) -> dict[str, float]:
    """Standard errors of the exponents, with `merit` as the noise of runs and of sizes."""
    unit_nq, length_q = _unit_slopes(best)
    solver_qn = np.linalg.pinv(unit_nq, rcond=1e-9) / length_q[:, None]
    size_n = np.unique(np.array(sizes), return_inverse=True)[1]
    by_size_qs = np.stack([np.bincount(size_n, weights=row) for row in solver_qn])
    constants = {constant.name: constant.direction for constant in best.problem.constants}
    errors = {}
    for name in SYMBOLS:
        along_q = constants[name] @ best.free_pq
        slope_n, slope_s = along_q @ solver_qn, along_q @ by_size_qs
        errors[name] = merit.sd * float(
            np.sqrt((1 - merit.shared) * slope_n @ slope_n + merit.shared * slope_s @ slope_s)
        )
    return errors


def _missed_budget(held_out: tuple[HeldOut, ...]) -> list[Doubt]:
    return [
        Doubt(
            kind=DoubtKind.BUDGET_MISSED,
            sentence=f"fitted without {budgets_text(fold)} FLOPs, the law is {fold.mean_error:+.2%} off there, and "
            f"{fold.interval.low:+.2%} to {fold.interval.high:+.2%} "
            f"({fold.interval.level:.0%}) does not reach zero.",
        )
        for fold in held_out
        if fold.interval is not None and not fold.interval.holds_zero and abs(fold.mean_error) > SMALLEST_MISS
    ]


def budgets_text(fold: HeldOut) -> str:
    """The budgets held out, in words."""
    return " to ".join(short_power(float(budget), 4) for budget in fold.label.split(" to "))


def _unheard_exponents(best: SurfaceOptimum) -> list[Doubt]:
    low, high = PUBLISHED_EXPONENTS
    values = {symbol: float(getattr(best.law, name)) for name, symbol in _exponents(best).items()}
    return [
        Doubt(
            kind=DoubtKind.UNHEARD_EXPONENT,
            sentence=f"{symbol} = {value:.3g} is beyond anything published ({low:g} to {high:g}).",
        )
        for symbol, value in values.items()
        if not low <= value <= high
    ]
