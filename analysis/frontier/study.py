"""Per arm: N*(C), D*(C) and L*(C) with intervals and power laws. `fit_study` is the one door for callers.

Every approach answers with the same `ApproachFit`; what follows from it (laws, sums, comparisons) is common to all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import polars as pl

from analysis.frontier.compare import Comparison, OverBudgets, compare_arms, compare_over_budgets
from analysis.isoflop.akima import fit_akima
from analysis.isoflop.approach import Isoflop, IsoflopFit, fit_isoflops, parabola_residuals
from analysis.isoflop.envelope import fit_envelope
from analysis.isoflop.parabola import ParabolaRules
from analysis.runs.column_map import Reading
from analysis.runs.points import Exclusion, Points, read_points
from analysis.runs.repeated import repeated_frame
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.approach import QUANTITIES, ApproachFit, SampledOptimum
from analysis.statistics.bootstrap import Resampling, estimate_of, interval
from analysis.statistics.pairing import shared_between_arms
from analysis.statistics.power_law import FittedPowerLaw, fit_power_law
from analysis.surface.approach import SurfaceApproachFit, fit_surface_approach
from analysis.surface.extended.excess import ArmExcess, fit_excess
from analysis.surface.extended.passes_ahead import PassesAhead, roll_passes
from analysis.surface.extended.recursion import RecursionFit, fit_recursion
from analysis.surface.extended.repeated import RepeatedFit, fit_repeated
from analysis.surface.extended.repeated_arms import RepetitionGap, compare_repetition
from analysis.surface.extended.shared_exponents.fit import SharedExponentsFit, fit_shared_exponents
from analysis.surface.fit import SurfaceFit
from analysis.surface.optimum import SurfaceRules


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Everything a study depends on besides its table."""

    loss_column: str = "loss"
    """A name of `analysis.runs.losses`: a column of the table, or a task in its column `tasks`."""
    leave_out_flags: tuple[str, ...] = ("repeated-data",)
    """Cells with one of these flags enter no fit: a repeated token is worth less than a fresh one."""
    leave_out_cells: tuple[str, ...] = ()
    """Cells that enter no fit by request."""
    approaches: tuple[str, ...] = ("parabola",)
    """Names in `APPROACHES`."""
    parabola: ParabolaRules = field(default_factory=ParabolaRules)
    """When a parabola is believed."""
    surface: SurfaceRules = field(default_factory=SurfaceRules)
    """How a surface is fitted."""
    resampling: Resampling = field(default_factory=Resampling)
    """How intervals are drawn."""
    optima_at: tuple[str, ...] = ()
    """Budgets at which a surface answers, decimal FLOPs; empty for those of the table. For tables whose runs are not
    on budgets."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.approaches if name not in APPROACHES]
        if unknown or not self.approaches:
            raise ValueError(f"Unknown fitting approaches {unknown}: choose from {', '.join(APPROACHES)}.")


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The compute-optimal point of one arm at one budget."""

    budget: str
    """FLOPs, an exact decimal integer."""
    params: Estimate | Refusal
    """N*, unique non-embedding parameters."""
    tokens: Estimate | Refusal
    """D*, tokens."""
    loss: Estimate | Refusal
    """L*, in units of loss."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frontier:
    """What one approach says about one arm."""

    arm: str
    """The architecture."""
    approach: str
    """A name in `APPROACHES`."""
    optima: tuple[Optimum, ...]
    """One per budget of the table, ascending."""
    params_law: FittedPowerLaw | Refusal
    """N* = k·C^a."""
    tokens_law: FittedPowerLaw | Refusal
    """D* = k·C^b."""
    loss_law: FittedPowerLaw | Refusal
    """L* = k·C^c without an asymptote: c is the local slope d ln L / d ln C over these budgets, nothing to
    extrapolate."""
    exponent_sum: Estimate | Refusal
    """a + b. Parabolas in N and in D are separate fits, so it need not be one."""
    isoflops: tuple[Isoflop, ...]
    """The parabolas behind the optima; empty for an approach without any."""
    surface: SurfaceFit | Refusal | None = None
    """The surface behind the optima; None for an approach without one."""

    def predict(self, budget: str) -> Optimum:
        """The laws at `budget` (decimal FLOPs), with intervals; beyond the budgets fitted this extrapolates."""
        params, tokens, loss = (
            law if isinstance(law, Refusal) else law.predict(float(budget))
            for law in (self.params_law, self.tokens_law, self.loss_law)
        )
        return Optimum(budget=budget, params=params, tokens=tokens, loss=loss)

    def estimates(self, quantity: str) -> dict[str, Estimate]:
        """Budget -> "params", "tokens" or "loss" of its optimum, where that is supported."""
        answers = {optimum.budget: getattr(optimum, quantity) for optimum in self.optima}
        return {budget: answer for budget, answer in answers.items() if isinstance(answer, Estimate)}

    @property
    def refused(self) -> bool:
        """True where no number of this arm is supported."""
        return not any(self.estimates(quantity) for quantity in QUANTITIES)


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """The fitted study: every number with its interval, every refusal with its reason, every row left out."""

    settings: FitSettings
    """What was asked, with the share of noise that arms have in common as estimated."""
    points: Points
    """What was fitted, and what was left out."""
    frontiers: tuple[Frontier, ...]
    """One per arm and approach, arms in alphabetical order."""
    comparisons: tuple[Comparison, ...]
    """Arms against each other at equal FLOPs, by the first approach of the settings."""
    over_budgets: tuple[OverBudgets, ...]
    """The same over all budgets: the mean gap, and whether what an arm is worth grows with compute."""
    recursion: RecursionFit | Refusal | None = None
    """What a recursion is worth, over all arms; None without the surface approach or without recursive arms."""
    repeated: dict[str, RepeatedFit | Refusal] = field(default_factory=dict)
    """By arm that saw some text more than four times, the law of all its runs, those that repeat their text included;
    empty without the surface approach."""
    excess: dict[str, ArmExcess | Refusal] = field(default_factory=dict)
    """By arm with runs that repeat their text beside the same runs on fresh text, what repetition costs it; empty
    without the surface approach."""
    repetition: tuple[RepetitionGap, ...] = ()
    """Arms against each other: what repetition costs them."""
    on_small_corpus: bool = False
    """Whether this tool trained the runs on a small corpus; nothing is known of the corpus of a foreign table."""
    reading: Reading | None = None
    """What a foreign table calls N, D, C and the loss; None for runs of this tool, whose counts are known."""

    @cached_property
    def shared_exponents(self) -> SharedExponentsFit | Refusal | None:
        """The law of arms with shared exponents; None without the surface approach. Fitted when first asked for, since
        few questions need it."""
        if "surface" not in self.settings.approaches:
            return None
        return fit_shared_exponents(self.points, self.settings.surface, self.settings.resampling)

    @property
    def refused(self) -> bool:
        """True where not one number is supported in any arm."""
        return all(frontier.refused for frontier in self.frontiers)

    @property
    def says_of_repetition(self) -> bool:
        """True where a number of what repetition costs is supported in some arm."""
        return any(not isinstance(answer, Refusal) for answer in (*self.repeated.values(), *self.excess.values()))

    @property
    def exclusions(self) -> tuple[Exclusion, ...]:
        """Rows of the table that no fit used."""
        return self.points.exclusions


Approach = Callable[[pl.DataFrame, str, tuple[str, ...], FitSettings], ApproachFit]
"""(points of one arm, arm, its budgets ascending, settings) -> optima with joint draws."""


def _by_budget(fit: Callable[..., ApproachFit]) -> Approach:
    """An approach that looks at one budget at a time, by the rules of parabolas."""
    return lambda frame, arm, budgets, settings: fit(frame, arm, budgets, settings.parabola, settings.resampling)


def _surface_approach(frame: pl.DataFrame, arm: str, budgets: tuple[str, ...], settings: FitSettings) -> ApproachFit:
    return fit_surface_approach(frame, arm, settings.optima_at or budgets, settings.surface, settings.resampling)


APPROACHES: dict[str, Approach] = {
    "parabola": _by_budget(fit_isoflops),
    "surface": _surface_approach,
    "akima": _by_budget(fit_akima),
    "envelope": _by_budget(fit_envelope),
}
"""The one list of fitting approaches."""


def fit_study(
    table: pl.DataFrame,
    settings: FitSettings | None = None,
    *,
    on_small_corpus: bool = False,
    reading: Reading | None = None,
) -> Study:
    """Fit a run table (one row a cell; required columns: `analysis.runs.points.REQUIRED_COLUMNS` and the loss).

    What the data do not support comes back as a `Refusal` in the place of its number.

    Raises:
        TableError: the table is malformed (see `analysis.runs.points.read_points`).
        LossError: no cell has the loss.
    """
    settings = settings or FitSettings()
    points = read_points(
        table,
        loss_column=settings.loss_column,
        leave_out_flags=settings.leave_out_flags,
        leave_out_cells=settings.leave_out_cells,
    )
    settings = _paired(points, settings)
    fits = {
        (arm, name): APPROACHES[name](points.of_arm(arm), arm, points.budgets_of(arm), settings)
        for arm in points.arms
        for name in settings.approaches
    }
    first = settings.approaches[0]
    losses = {arm: {optimum.budget: optimum.loss for optimum in fits[arm, first].optima} for arm in points.arms}
    has_surface = "surface" in settings.approaches
    runs = _runs_with_repeats(table, settings) if has_surface else None
    repeated = {} if runs is None else _repeated(runs, points, settings)
    excess = {} if runs is None else fit_excess(runs, settings.resampling.level)
    return Study(
        settings=settings,
        points=points,
        frontiers=tuple(_frontier(arm, name, fit, settings) for (arm, name), fit in fits.items()),
        comparisons=compare_arms(losses, settings.resampling.level, _surfaces(fits), unit=points.loss_unit),
        over_budgets=compare_over_budgets(losses, settings.resampling.level, unit=points.loss_unit),
        recursion=fit_recursion(table, points, settings.surface, settings.resampling) if has_surface else None,
        repeated=repeated,
        excess=excess,
        repetition=compare_repetition(repeated, excess, settings.resampling.level),
        on_small_corpus=on_small_corpus,
        reading=reading,
    )


def _paired(points: Points, settings: FitSettings) -> FitSettings:
    """The settings with the share of noise that arms have in common, where it was left to be estimated."""
    if settings.resampling.paired is not None:
        return settings
    residuals = [parabola_residuals(points.of_arm(arm), settings.parabola) for arm in points.arms]
    paired = shared_between_arms([arm_residuals for arm_residuals in residuals if arm_residuals is not None])
    return replace(settings, resampling=replace(settings.resampling, paired=paired))


def _surfaces(fits: dict[tuple[str, str], ApproachFit]) -> dict[str, SurfaceFit]:
    """Arm -> its surface, where one is supported."""
    return {
        arm: fit.surface
        for (arm, _), fit in fits.items()
        if isinstance(fit, SurfaceApproachFit) and isinstance(fit.surface, SurfaceFit)
    }


def _runs_with_repeats(table: pl.DataFrame, settings: FitSettings) -> pl.DataFrame | None:
    """The points with those that repeat their text; None where nothing is said of passes."""
    return repeated_frame(
        table,
        loss_column=settings.loss_column,
        leave_out_flags=settings.leave_out_flags,
        leave_out_cells=settings.leave_out_cells,
    )


def backtest_repeats(table: pl.DataFrame, settings: FitSettings) -> dict[str, tuple[PassesAhead, ...] | Refusal]:
    """By arm that saw some text more than four times, how laws fitted to its runs of few passes would have predicted
    those of more. Raises as `fit_study` does."""
    runs = _runs_with_repeats(table, settings)
    return {} if runs is None else roll_passes(runs, settings.surface)


def _repeated(runs: pl.DataFrame, points: Points, settings: FitSettings) -> dict[str, RepeatedFit | Refusal]:
    fits = {
        arm: fit_repeated(runs.filter(pl.col("arm") == arm), arm, settings.surface, settings.resampling)
        for arm in points.arms
    }
    return {arm: fit for arm, fit in fits.items() if fit is not None}


def _frontier(arm: str, approach: str, fit: ApproachFit, settings: FitSettings) -> Frontier:
    level = settings.resampling.level
    params_law, tokens_law, loss_law = (fit_power_law(fit.samples(quantity), level) for quantity in QUANTITIES)
    return Frontier(
        arm=arm,
        approach=approach,
        optima=tuple(_without_draws(optimum) for optimum in fit.optima),
        params_law=params_law,
        tokens_law=tokens_law,
        loss_law=loss_law,
        exponent_sum=_exponent_sum(params_law, tokens_law, level),
        isoflops=fit.isoflops if isinstance(fit, IsoflopFit) else (),
        surface=fit.surface if isinstance(fit, SurfaceApproachFit) else None,
    )


def _without_draws(optimum: SampledOptimum) -> Optimum:
    return Optimum(
        budget=optimum.budget,
        params=estimate_of(optimum.params),
        tokens=estimate_of(optimum.tokens),
        loss=estimate_of(optimum.loss),
    )


def _exponent_sum(
    params: FittedPowerLaw | Refusal, tokens: FittedPowerLaw | Refusal, level: float
) -> Estimate | Refusal:
    if isinstance(params, Refusal):
        return params
    if isinstance(tokens, Refusal):
        return tokens
    draws = params.draws_k2[:, 1] + tokens.draws_k2[:, 1]
    return interval(params.law.exponent + tokens.law.exponent, draws, level)
