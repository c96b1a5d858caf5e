"""What a sweep would see of a gap between two arms, and how many seeds show it. Pure.

L* of an arm at a budget is the lowest value of a parabola through n sizes with s seeds each. To first order its
variance is that of the fitted value at the vertex, sd² h / s, where h is the leverage of the middle of n evenly spaced
sizes (moving the vertex changes nothing to first order). The gap of two arms, whose noise is taken as independent, is
judged by a two-sided t-test whose noise is what both parabolas leave at that budget: 2 (n s - 3) degrees of freedom,
each arm's noise taken as equally well known. Power is that of the noncentral t-distribution, as a mean over quantiles
of the noise found: its tails are computed badly elsewhere.

Assumed: the minimum lies in the middle of the sizes, a parabola describes the losses there, and the standard deviation
of a cell is the pilot's at every budget. Larger models tend to vary less, so larger budgets see no less than is said.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from analysis.advice.pilot import Gap, PilotFit, SeedNoise
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.quadratic import NUM_COEFFICIENTS, quadratic_design
from mor_core.units import counted_text

MOST_SEEDS = 32
"""More than that is no advice."""

QUANTILES = (np.arange(1000) + 0.5) / 1000
"""Of the noise that a sweep will find for itself."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How surely a gap is to be seen, and by what sweep."""

    sizes: int
    """Sizes per arm and budget."""
    seeds: int
    """Of each."""
    budgets: tuple[str, ...]
    """Decimal FLOPs, ascending."""
    confidence: float = 0.95
    """One less the chance of seeing a gap where there is none."""
    power: float = 0.8
    """Chance of seeing a gap that is there."""


@dataclass(frozen=True, kw_only=True)
class PairAdvice:
    """What it takes to tell two arms apart."""

    gap: Gap
    """What the pilot saw."""
    detectable: Estimate | Refusal
    """Smallest gap that the sweep as it stands would see, by the interval of the noise; nats/token."""
    budget: str | Refusal
    """Smallest of the sweep's budgets at which its own seeds see the gap."""
    seeds: int | Refusal
    """Seeds with which it is seen at all of the sweep's budgets."""
    seeds_at_most_gap: int | None = None
    """Where the gap may be none: seeds that would see the largest one that the pilot leaves possible; None where no
    number of seeds up to MOST_SEEDS would, and where the gap is known."""


def middle_leverage(sizes: int) -> float:
    """Variance of a parabola's value in the middle of evenly spaced sizes, in units of that of one run."""
    design_n3 = quadratic_design(np.linspace(-1.0, 1.0, sizes))
    return float(np.linalg.inv(design_n3.T @ design_n3)[0, 0])


def detectable_gap(spread: float, seeds: int, sweep: Wanted) -> float:
    """Smallest gap that `seeds` of the sweep's sizes see as surely as wanted; inf where no noise is left to judge by.

    `spread` is the standard deviation of the difference of a cell of one arm and one of the other, nats/token.
    """
    dof = 2 * (sweep.sizes * seeds - NUM_COEFFICIENTS)
    if dof < 1 or sweep.sizes < NUM_COEFFICIENTS:
        return math.inf
    critical = float(stats.t.ppf(0.5 + sweep.confidence / 2, dof))
    threshold_q = critical * np.sqrt(stats.chi2.ppf(QUANTILES, dof) / dof)

    def missing(distance: float) -> float:
        seen = stats.norm.sf(threshold_q - distance) + stats.norm.cdf(-threshold_q - distance)
        return float(np.mean(seen)) - sweep.power

    if missing(0.0) >= 0:
        return 0.0
    distance = float(optimize.root_scalar(missing, bracket=(0.0, 10.0 * critical + 10.0)).root)
    return distance * spread * math.sqrt(middle_leverage(sweep.sizes) / seeds)


def seeds_needed(gap: float, spread: float, sweep: Wanted) -> int | None:
    """Fewest seeds with which the gap is seen at one budget; None beyond MOST_SEEDS."""
    for seeds in range(1, MOST_SEEDS + 1):
        if detectable_gap(spread, seeds, sweep) <= abs(gap):
            return seeds
    return None


def advise(fit: PilotFit, sweep: Wanted) -> tuple[PairAdvice, ...]:
    """For each pair of arms: the gap that would be seen, from which budget on, and with how many seeds."""
    return tuple(_pair(gap, fit.noise[gap.arm], fit.noise[gap.other], sweep) for gap in fit.gaps)


def _pair(gap: Gap, noise: SeedNoise | Refusal, other_noise: SeedNoise | Refusal, sweep: Wanted) -> PairAdvice:
    if isinstance(noise, Refusal):
        return _refused(gap, noise)
    if isinstance(other_noise, Refusal):
        return _refused(gap, other_noise)
    if sweep.sizes < NUM_COEFFICIENTS or sweep.sizes * sweep.seeds <= NUM_COEFFICIENTS:
        no_parabola = Refusal(
            kind=RefusalKind.TOO_FEW_SIZES,
            sentence=f"{sweep.sizes} sizes of {counted_text(sweep.seeds, 'seed')} per budget leave a parabola nothing "
            "to tell noise from shape: give the sweep four sizes or more.",
        )
        return _refused(gap, no_parabola)
    spreads = [math.hypot(one, two) for one, two in zip(_ends(noise), _ends(other_noise), strict=True)]
    low, value, high = (detectable_gap(spread, sweep.seeds, sweep) for spread in spreads)
    detectable = Estimate(value=value, low=low, high=high, level=noise.sd.level)
    if isinstance(gap.gap, Refusal):
        return PairAdvice(gap=gap, detectable=detectable, budget=gap.gap, seeds=gap.gap)
    if gap.gap.holds_zero:
        largest = max(abs(gap.gap.low), abs(gap.gap.high))
        least = seeds_needed(largest, spreads[1], sweep)
        refusal = _may_be_none(gap, gap.gap, largest, least)
        return PairAdvice(gap=gap, detectable=detectable, budget=refusal, seeds=refusal, seeds_at_most_gap=least)
    budgets = [budget for budget in sweep.budgets if abs(gap.at(budget)) >= value]
    return PairAdvice(
        gap=gap,
        detectable=detectable,
        budget=budgets[0] if budgets else _no_budget(gap, value, sweep),
        seeds=_seeds(gap, spreads[1], sweep),
    )


def _refused(gap: Gap, refusal: Refusal) -> PairAdvice:
    return PairAdvice(gap=gap, detectable=refusal, budget=refusal, seeds=refusal)


def _ends(noise: SeedNoise) -> tuple[float, float, float]:
    return noise.sd.low, noise.sd.value, noise.sd.high


def _may_be_none(gap: Gap, measured: Estimate, largest: float, seeds: int | None) -> Refusal:
    text = f"no number of seeds up to {MOST_SEEDS}" if seeds is None else counted_text(seeds, "seed")
    return Refusal(
        kind=RefusalKind.NOT_IDENTIFIED,
        sentence=f"the pilot cannot tell {gap.arm} from {gap.other}: gap {measured.value:+.4f} nats "
        f"[{measured.low:+.4f}, {measured.high:+.4f}], which may be none. Per cell {text} would show the largest gap "
        f"that is possible ({largest:.4f}); more replicates or a larger pilot budget would tell.",
    )


def _no_budget(gap: Gap, detectable: float, sweep: Wanted) -> Refusal:
    return Refusal(
        kind=RefusalKind.NOT_IDENTIFIED,
        sentence=f"{counted_text(sweep.seeds, 'seed')} of {sweep.sizes} sizes see a gap of "
        f"{detectable:.4f} nats; none of the sweep's budgets has one between {gap.arm} and {gap.other}.",
    )


def _seeds(gap: Gap, spread: float, sweep: Wanted) -> int | Refusal:
    smallest = min(abs(gap.at(budget)) for budget in sweep.budgets)
    seeds = seeds_needed(smallest, spread, sweep)
    if seeds is not None:
        return seeds
    return Refusal(
        kind=RefusalKind.NOT_IDENTIFIED,
        sentence=f"a gap of {smallest:.4f} nats between {gap.arm} and {gap.other} needs more than {MOST_SEEDS} seeds "
        "at one of the budgets.",
    )
