"""One arm against another: the gap between their lowest losses at equal FLOPs, and multipliers at equal loss.

Arms are never compared at equal N: a shared layer makes unique parameters mean different things in different arms.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analysis.frontier.multiplier import compute_multiplier, growth_of_multiplier, parameter_multiplier
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Sample, interval
from analysis.surface.fit import SurfaceFit
from mor_core.units import budget_label

REFERENCE = "vanilla"
"""The arm that people ask about first, where a study has it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The loss of `arm` less that of `other`, each at its own optimum, at one budget."""

    arm: str
    """The first arm."""
    other: str
    """The second arm."""
    budget: str
    """FLOPs, an exact decimal integer, in the convention of the study."""
    gap: Estimate | Refusal
    """L*(arm) - L*(other), in units of loss; negative where `arm` is better."""
    sentence: str
    """The finding in words."""
    compute: Estimate | Refusal
    """Compute multiplier: `other` reaches its loss at this budget with so many times the FLOPs that `arm` needs."""
    params: Estimate | Refusal | None = None
    """Parameter multiplier: how many of `other`'s parameters one of `arm`'s is worth at `arm`'s optimum, on the same
    tokens; None without surfaces."""

    @property
    def smallest_visible_gap(self) -> float | None:
        """Half the width of the interval: a smaller gap could not have been told from none. None where refused."""
        return None if isinstance(self.gap, Refusal) else (self.gap.high - self.gap.low) / 2


@dataclass(frozen=True, kw_only=True)
class OverBudgets:
    """Two arms over all budgets at which both have an optimum."""

    arm: str
    """The first arm."""
    other: str
    """The second arm."""
    budgets: tuple[str, ...]
    """Those budgets, FLOPs, exact decimal integers, ascending."""
    gap: Estimate | Refusal
    """The mean of L*(arm) - L*(other), in units of loss: what single budgets are too noisy to show."""
    growth: Estimate | Refusal
    """The factor of the compute multiplier for each factor of ten in C: above 1, what `arm` is worth grows."""
    unit: str
    """Of the loss."""

    @property
    def sentences(self) -> list[str]:
        """The findings in words, where there are any."""
        sentences = []
        if isinstance(self.gap, Estimate):
            mean = _finding(self.arm, self.other, self.gap, self.unit, "mean gap")
            sentences.append(f"{self.arm} against {self.other} over {len(self.budgets)} budgets: {mean}")
        if isinstance(self.growth, Estimate):
            sentences.append(f"compute multiplier of {self.arm} over {self.other} as C grows: {_growth(self.growth)}")
        return sentences


def compare_arms(
    losses: dict[str, dict[str, Sample | Refusal]],
    level: float,
    surfaces: dict[str, SurfaceFit] | None = None,
    *,
    unit: str,
) -> tuple[Comparison, ...]:
    """Compare every two arms at every budget they share; `losses` is arm -> budget -> L* in `unit`, `surfaces` arm ->
    surface.

    Redrawn studies are paired: cells of one size and seed move together in both arms (see
    `analysis.statistics.bootstrap`).
    """
    pairs = combinations(sorted(losses), 2)
    return tuple(
        _compare(arm, other, budget, losses, surfaces or {}, level, unit)
        for arm, other in pairs
        for budget in _shared_budgets(losses[arm], losses[other])
    )


def compare_over_budgets(
    losses: dict[str, dict[str, Sample | Refusal]], level: float, *, unit: str
) -> tuple[OverBudgets, ...]:
    """Every two arms over the budgets at which both have an optimum; `losses` is arm -> budget -> L* in `unit`."""
    return tuple(
        _over_budgets(arm, other, losses[arm], losses[other], level, unit)
        for arm, other in combinations(sorted(losses), 2)
    )


def _over_budgets(
    arm: str,
    other: str,
    losses: dict[str, Sample | Refusal],
    of_other: dict[str, Sample | Refusal],
    level: float,
    unit: str,
) -> OverBudgets:
    pairs = {
        budget: (loss, target)
        for budget in _shared_budgets(losses, of_other)
        if isinstance(loss := losses[budget], Sample) and isinstance(target := of_other[budget], Sample)
    }
    multipliers = {
        budget: multiplier
        for budget, (_, target) in pairs.items()
        if isinstance(multiplier := compute_multiplier(losses, target, budget, level), Sample)
    }
    return OverBudgets(
        arm=arm,
        other=other,
        budgets=tuple(pairs),
        gap=_mean_gap(tuple(pairs.values()), level),
        growth=growth_of_multiplier(multipliers, level),
        unit=unit,
    )


def _mean_gap(pairs: tuple[tuple[Sample, Sample], ...], level: float) -> Estimate | Refusal:
    """Of L* less the other's, one pair a budget."""
    if len(pairs) < 2:
        return Refusal(
            kind=RefusalKind.TOO_FEW_BUDGETS,
            sentence=f"{len(pairs)} budgets at which both have an optimum; a mean over budgets needs 2 or more.",
        )
    value = sum(loss.estimate.value - target.estimate.value for loss, target in pairs) / len(pairs)
    return interval(value, np.mean([loss.draws - target.draws for loss, target in pairs], axis=0), level)


def _shared_budgets(losses: dict[str, Sample | Refusal], others: dict[str, Sample | Refusal]) -> list[str]:
    return sorted(losses.keys() & others.keys(), key=int)


def _compare(
    arm: str,
    other: str,
    budget: str,
    losses: dict[str, dict[str, Sample | Refusal]],
    surfaces: dict[str, SurfaceFit],
    level: float,
    unit: str,
) -> Comparison:
    first, second = losses[arm][budget], losses[other][budget]
    place = f"{arm} against {other} at {budget_label(budget)} FLOPs"
    if isinstance(first, Refusal) or isinstance(second, Refusal):
        missing = " and ".join(name for name, side in ((arm, first), (other, second)) if isinstance(side, Refusal))
        refusal = Refusal(kind=RefusalKind.NO_OPTIMUM, sentence=f"no supported optimum for {missing}.")
        return Comparison(
            arm=arm,
            other=other,
            budget=budget,
            gap=refusal,
            sentence=f"{place}: not compared, {refusal.sentence}",
            compute=refusal,
        )
    value = first.estimate.value - second.estimate.value
    gap = interval(value, first.draws - second.draws, level)
    multiplier = compute_multiplier(losses[arm], second, budget, level)
    params = None
    if arm in surfaces and other in surfaces:
        params = parameter_multiplier(surfaces[arm], surfaces[other], budget, level)
    return Comparison(
        arm=arm,
        other=other,
        budget=budget,
        gap=gap,
        sentence=f"{place}: {_finding(arm, other, gap, unit)}",
        compute=multiplier.estimate if isinstance(multiplier, Sample) else multiplier,
        params=params,
    )


def _finding(arm: str, other: str, gap: Estimate, unit: str, noun: str = "gap") -> str:
    numbers = f"{noun} {gap.value:+.4f} {unit} ({gap.level:.0%} interval {gap.low:+.4f} to {gap.high:+.4f})"
    if gap.holds_zero:
        return f"no difference seen; {numbers}; a gap below {(gap.high - gap.low) / 2:.4f} could not have been seen."
    return f"{arm if gap.value < 0 else other} is better; {numbers}."


def _growth(growth: Estimate) -> str:
    factor = f"× {growth.value:.3f} [{growth.low:.3f}, {growth.high:.3f}] for each factor of ten in C."
    if growth.low <= 1 <= growth.high:
        return f"no trend seen; {factor}"
    return f"it {'grows' if growth.value > 1 else 'shrinks'}; {factor}"
