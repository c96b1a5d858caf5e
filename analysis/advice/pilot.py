"""What a pilot says before a sweep is paid for: seed noise, N*(C), gaps between arms. Pure: a run table in, values out.

**Noise.** Runs of one arm, size and budget that differ by their seed alone are compared with their own mean, so no law
is assumed. The runs of a trunk share a part of it, which `analysis.statistics.trunk_noise` estimates; the degrees of
freedom are Satterthwaite's, and the interval of the standard deviation is that of chi-squared.

**N*(C).** A parabola at each budget (`analysis.isoflop.approach`). Through two budgets or more a line in logarithms
whose exponent comes from the redrawn studies; where its interval is wider than WIDEST_EXPONENT, ASSUMED_EXPONENT stands
in. N* is given at the geometric mean of the budgets, where the exponent hardly matters.

**Gaps.** L* of one arm less that of another at equal FLOPs. A gap that does not surely grow or shrink between the
pilot's budgets is taken to be the same at all of them. `analysis.advice.power` says what a sweep would see of it.
"""

import math
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations

import numpy as np
import polars as pl
from scipy import stats

from analysis.isoflop.approach import IsoflopFit, fit_isoflops
from analysis.isoflop.parabola import ParabolaRules
from analysis.runs.points import Points, read_points
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling, Sample, interval
from analysis.statistics.power_law import FittedPowerLaw, fit_power_law
from analysis.statistics.quadratic import Floats
from analysis.statistics.trunk_noise import split_noise
from mor_core.units import budget_label

ASSUMED_EXPONENT = 0.5
"""Growth of N* with C where the pilot does not say: Hoffmann et al. 2022 (arXiv:2203.15556) find 0.46 to 0.50."""

WIDEST_EXPONENT = 0.4
"""An interval of the exponent from its low to its high end that still says more than that assumption."""


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """How far two runs of one arm differ by their seed alone."""

    arm: str
    """The arm."""
    sd: Estimate
    """Standard deviation of a cell's loss, nats/token."""
    dof: float
    """Degrees of freedom with which it is known."""
    shared: float
    """Share of the variance that is common to the budgets of a trunk."""
    cells: int
    """Cells that have another seed beside them."""


@dataclass(frozen=True, kw_only=True)
class FoundOptimum:
    """N*(C) = params * (C / flops) ** exponent of one arm."""

    arm: str
    """The arm."""
    flops: int
    """C at which `params` holds: the geometric mean of the budgets with a minimum."""
    params: Estimate
    """N* there, unique non-embedding parameters."""
    exponent: Estimate | Refusal
    """Growth with C; where it is refused, ASSUMED_EXPONENT is meant."""
    budgets: tuple[str, ...]
    """Budgets with a minimum, ascending, decimal FLOPs."""

    @property
    def growth(self) -> float:
        """The exponent to use."""
        return self.exponent.value if isinstance(self.exponent, Estimate) else ASSUMED_EXPONENT


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How much better one arm is than another at equal FLOPs."""

    arm: str
    """The arm."""
    other: str
    """What it is compared with."""
    gap: Estimate | Refusal
    """L* of the other less L* of the arm, mean over the pilot's budgets, nats/token."""
    flops: float
    """Geometric mean of those budgets; nan where there is none."""
    slope: Estimate | None
    """Growth of the gap with ln C where it is surely not zero, nats/token; None where the gap is taken as constant."""

    def at(self, budget: str) -> float:
        """The gap expected at a budget. Only where there is one."""
        assert isinstance(self.gap, Estimate)
        return self.gap.value + (self.slope.value * math.log(float(budget) / self.flops) if self.slope else 0.0)


@dataclass(frozen=True, kw_only=True)
class PilotFit:
    """Everything that a pilot's runs say."""

    noise: dict[str, SeedNoise | Refusal]
    """By arm."""
    optima: dict[str, FoundOptimum | Refusal]
    """By arm."""
    gaps: tuple[Gap, ...]
    """One for each pair of arms."""


def fit_pilot(table: pl.DataFrame, *, level: float = 0.95, resampling: Resampling | None = None) -> PilotFit:
    """Fit a pilot's run table (`analysis.runs.points.REQUIRED_COLUMNS` and the loss). Raises TableError."""
    resampling = resampling or Resampling(level=level)
    points = read_points(table, leave_out_flags=("repeated-data",))
    fits = {arm: _fit_arm(points, arm, resampling) for arm in points.arms}
    losses = {arm: fit.samples("loss") for arm, fit in fits.items()}
    return PilotFit(
        noise={arm: seed_noise(points.of_arm(arm), arm, level) for arm in points.arms},
        optima={arm: _found_optimum(arm, fits[arm], level) for arm in points.arms},
        gaps=tuple(_gap(arm, other, losses[arm], losses[other], level) for arm, other in combinations(points.arms, 2)),
    )


def seed_noise(frame: pl.DataFrame, arm: str, level: float) -> SeedNoise | Refusal:
    """The noise of one arm's points (`analysis.runs.points.Points.frame`) around the means of their sizes and
    budgets."""
    repeated = frame.filter(pl.len().over("size", "budget") > 1)
    if repeated.is_empty():
        return Refusal(
            kind=RefusalKind.NOISE_UNKNOWN,
            sentence=f"no size of {arm} has two finished seeds at one budget, so nothing tells noise from shape.",
        )
    group_n = repeated.select(pl.struct("size", "budget").rank("dense")).to_series().to_numpy() - 1
    indicator_ng = np.eye(int(group_n.max()) + 1)[group_n]
    loss_n = repeated["loss"].to_numpy()
    residual_n = loss_n - (indicator_ng @ ((indicator_ng.T @ loss_n) / indicator_ng.sum(axis=0)))
    noise = split_noise(residual_n, indicator_ng, tuple(repeated["trunk_key"].to_list()))
    tail = (1 - level) / 2
    high, low = (math.sqrt(noise.dof / float(stats.chi2.ppf(share, noise.dof))) for share in (tail, 1 - tail))
    return SeedNoise(
        arm=arm,
        sd=Estimate(value=noise.sd, low=noise.sd * low, high=noise.sd * high, level=level),
        dof=noise.dof,
        shared=noise.shared,
        cells=repeated.height,
    )


def _fit_arm(points: Points, arm: str, resampling: Resampling) -> IsoflopFit:
    rules = ParabolaRules(level=resampling.level)
    return fit_isoflops(points.of_arm(arm), arm, points.budgets_of(arm), rules, resampling)


def _found_optimum(arm: str, fit: IsoflopFit, level: float) -> FoundOptimum | Refusal:
    samples = fit.samples("params")
    if not samples:
        reasons = [
            f"{budget_label(optimum.budget)}: {optimum.params.sentence}"
            for optimum in fit.optima
            if isinstance(optimum.params, Refusal)
        ]
        return Refusal(kind=RefusalKind.NO_OPTIMUM, sentence=f"no budget of {arm} has a minimum; {' '.join(reasons)}")
    fitted = fit_power_law(samples, level, fewest=1)
    assert isinstance(fitted, FittedPowerLaw)
    middle = math.exp(fitted.centre)
    return FoundOptimum(
        arm=arm,
        flops=round(middle),
        params=interval(float(fitted.law(np.array(middle))), np.exp(fitted.draws_k2[:, 0]), level),
        exponent=_believed_exponent(fitted),
        budgets=fitted.budgets,
    )


def _believed_exponent(fitted: FittedPowerLaw) -> Estimate | Refusal:
    exponent = fitted.exponent
    if len(fitted.budgets) < 2:
        return Refusal(kind=RefusalKind.TOO_FEW_BUDGETS, sentence="one budget has a minimum; an exponent needs two.")
    if exponent.high - exponent.low <= WIDEST_EXPONENT:
        return exponent
    return Refusal(
        kind=RefusalKind.NOT_IDENTIFIED,
        sentence=f"the pilot's exponent of N*, {exponent.value:.2f} [{exponent.low:.2f}, {exponent.high:.2f}], says "
        f"less than assuming {ASSUMED_EXPONENT}.",
    )


def _gap(arm: str, other: str, losses: dict[str, Sample], of_other: dict[str, Sample], level: float) -> Gap:
    pairs = {budget: (loss, of_other[budget]) for budget, loss in losses.items() if budget in of_other}
    if not pairs:
        refusal = Refusal(
            kind=RefusalKind.NO_OPTIMUM, sentence=f"{arm} and {other} have no budget at which both have a minimum."
        )
        return Gap(arm=arm, other=other, gap=refusal, flops=math.nan, slope=None)
    log_c_b = np.array([float(Decimal(budget).ln()) for budget in pairs])
    offset_b = log_c_b - log_c_b.mean()
    value_b = np.array([loss_of_other.estimate.value - loss.estimate.value for loss, loss_of_other in pairs.values()])
    drawn_kb = np.stack([loss_of_other.draws - loss.draws for loss, loss_of_other in pairs.values()], axis=1)
    return Gap(
        arm=arm,
        other=other,
        gap=interval(float(value_b.mean()), drawn_kb.mean(axis=1), level),
        flops=math.exp(float(log_c_b.mean())),
        slope=_slope(value_b, drawn_kb, offset_b, level),
    )


def _slope(value_b: Floats, drawn_kb: Floats, offset_b: Floats, level: float) -> Estimate | None:
    if len(value_b) < 2:
        return None
    spread = float(offset_b @ offset_b)
    slope = interval(float(value_b @ offset_b) / spread, drawn_kb @ offset_b / spread, level)
    return None if slope.holds_zero else slope
