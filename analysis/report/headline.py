"""What a study answers, in a few lines: the exponent, N* and L* of each arm at the largest budget, which arm is best
there, and what the answer rests on. The rest of a report is below it."""

from collections.abc import Callable

from analysis.frontier.compare import Comparison
from analysis.frontier.coverage import coverage_span
from analysis.frontier.study import Frontier, Optimum, Study
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.power_law import FittedPowerLaw
from analysis.surface.fit import SurfaceFit
from mor_core.units import budget_label, count_text, listed

NO_NUMBER = "**No number is supported by these runs.** What each arm lacks is said below."
REFUSED = "refused"


def headline(study: Study, *, small: bool) -> str:
    """The answer as Markdown; `small` where every budget is too small to speak of larger models."""
    if study.refused:
        return NO_NUMBER
    chosen = [_preferred(study, arm) for arm in study.points.arms]
    sentences = [*_best_lines(study), *surface_misses(study), _trust(study, chosen, small=small)]
    return "\n\n".join([_arms_table(chosen, study), *sentences])


def surface_misses(study: Study) -> list[str]:
    """A sentence for the arms whose surface and parabolas do not agree on L* at the same budgets."""
    missed: dict[tuple[str, ...], dict[str, float]] = {}
    for arm in study.points.arms:
        if gaps := _surface_gaps(study, arm):
            missed.setdefault(tuple(gaps), {})[arm] = max(gaps.values(), key=abs)
    return [
        f"The surface misses the measured minima of {listed(worst)} at {listed(budgets)} FLOPs, L* by up to "
        f"{max(worst.values(), key=abs):+.3f} {study.points.loss_unit}: use the rows of the parabola there."
        for budgets, worst in missed.items()
    ]


def _surface_gaps(study: Study, arm: str) -> dict[str, float]:
    """Budget -> L* by the surface less that by the parabola, where their intervals do not overlap."""
    measured, fitted = _of(study, arm, "parabola"), _of(study, arm, "surface")
    if measured is None or fitted is None:
        return {}
    by_budget = {optimum.budget: optimum.loss for optimum in fitted.optima}
    gaps: dict[str, float] = {}
    for optimum in measured.optima:
        surface = by_budget.get(optimum.budget)
        if isinstance(optimum.loss, Estimate) and isinstance(surface, Estimate) and _apart(optimum.loss, surface):
            gaps[budget_label(optimum.budget)] = surface.value - optimum.loss.value
    return gaps


def _apart(one: Estimate, other: Estimate) -> bool:
    return one.high < other.low or other.high < one.low


def _of(study: Study, arm: str, approach: str) -> Frontier | None:
    return next(
        (frontier for frontier in study.frontiers if (frontier.arm, frontier.approach) == (arm, approach)), None
    )


def _preferred(study: Study, arm: str) -> Frontier:
    """By the first approach that was asked for and answers; by the first where none does."""
    fitted = [frontier for name in study.settings.approaches if (frontier := _of(study, arm, name)) is not None]
    return next((frontier for frontier in fitted if not frontier.refused), fitted[0])


def _arms_table(chosen: list[Frontier], study: Study) -> str:
    """A row an arm: a, and N* and L* at the largest budget where they are supported."""
    usual = study.settings.approaches[0]
    supported = [optimum.budget for frontier in chosen if (optimum := _largest_supported(frontier)) is not None]
    budget = max(supported or (optimum.budget for frontier in chosen for optimum in frontier.optima), key=int)
    head = [f"| by {usual} | a in N* ∝ C^a | N* at {budget_label(budget)} | L* ({study.points.loss_unit}) |"]
    return "\n".join([*head, "|---|---|---|---|", *(_arm_row(frontier, budget, usual) for frontier in chosen)])


def _arm_row(frontier: Frontier, budget: str, usual: str) -> str:
    name = frontier.arm if frontier.approach == usual else f"{frontier.arm} (by {frontier.approach})"
    law = frontier.params_law
    exponent = _number(law.exponent) if isinstance(law, FittedPowerLaw) else REFUSED
    optimum = _largest_supported(frontier)
    if optimum is None:
        return f"| {name} | {exponent} | {REFUSED} | {REFUSED} |"
    elsewhere = "" if optimum.budget == budget else f" (at {budget_label(optimum.budget)})"
    return f"| {name} | {exponent} | {in_cell(optimum.params, _count)}{elsewhere} | {in_cell(optimum.loss, _number)} |"


def _largest_supported(frontier: Frontier) -> Optimum | None:
    supported = [optimum for optimum in frontier.optima if isinstance(optimum.params, Estimate)]
    return max(supported, key=lambda optimum: int(optimum.budget), default=None)


def _best_lines(study: Study) -> list[str]:
    """Which arm has the lowest loss at the largest budget at which arms were compared; nothing of a single arm."""
    if len(study.points.arms) < 2:
        return []
    compared = [comparison for comparison in study.comparisons if isinstance(comparison.gap, Estimate)]
    if not compared:
        return ["Which arm is better is not known: at no budget have two of them a supported optimum."]
    budget = max((comparison.budget for comparison in compared), key=int)
    at_budget = [comparison for comparison in compared if comparison.budget == budget]
    losses = _losses(study, budget)
    best, second = sorted(
        {arm for comparison in at_budget for arm in (comparison.arm, comparison.other)}, key=lambda arm: losses[arm]
    )[:2]
    pair = next(comparison for comparison in at_budget if {comparison.arm, comparison.other} == {best, second})
    sentences = [f"At {budget_label(budget)} FLOPs {_finding(pair, best, second, study.points.loss_unit)}"]
    sentences += [
        f"Over {len(whole.budgets)} budgets {_mean_finding(whole.gap, whole.arm, whole.other, whole.unit)}"
        for whole in study.over_budgets
        if {whole.arm, whole.other} == {best, second} and isinstance(whole.gap, Estimate)
    ]
    return [" ".join(sentences)]


def _losses(study: Study, budget: str) -> dict[str, float]:
    """Arm -> L* by the approach that arms are compared by."""
    return {
        frontier.arm: optimum.loss.value
        for frontier in study.frontiers
        if frontier.approach == study.settings.approaches[0]
        for optimum in frontier.optima
        if optimum.budget == budget and isinstance(optimum.loss, Estimate)
    }


def _finding(pair: Comparison, best: str, second: str, unit: str) -> str:
    gap = pair.gap
    assert isinstance(gap, Estimate)
    if gap.holds_zero:
        return (
            f"{pair.arm} and {pair.other} cannot be told apart: a gap below {pair.smallest_visible_gap:.3f} {unit} "
            "could not have been seen."
        )
    low, high = sorted((abs(gap.low), abs(gap.high)))
    worth = ""
    if pair.arm == best and isinstance(pair.compute, Estimate):
        worth = f"; {second} needs {pair.compute.shown('{:.2f}'.format)} times the compute"
    return f"{best} is best: {abs(gap.value):.3f} [{low:.3f}, {high:.3f}] {unit} below {second}{worth}."


def _mean_finding(gap: Estimate, arm: str, other: str, unit: str) -> str:
    if gap.holds_zero:
        return f"{arm} and {other} cannot be told apart in the mean, to {(gap.high - gap.low) / 2:.3f} {unit}."
    better, worse = (arm, other) if gap.value < 0 else (other, arm)
    low, high = sorted((abs(gap.low), abs(gap.high)))
    return f"{better} is better in the mean: {abs(gap.value):.3f} [{low:.3f}, {high:.3f}] {unit} below {worse}."


def _trust(study: Study, chosen: list[Frontier], *, small: bool) -> str:
    """What one has to know before one relies on it."""
    optima = [optimum for frontier in chosen for optimum in frontier.optima]
    answers = [(optimum.params, optimum.tokens, optimum.loss) for optimum in optima]
    refused = sum(any(isinstance(answer, Refusal) for answer in triple) for triple in answers)
    doubted = [
        frontier.arm
        for frontier in study.frontiers
        if isinstance(frontier.surface, SurfaceFit) and frontier.surface.doubts
    ]
    span = coverage_span(study)
    reasons = [
        f"refused {refused} of {len(optima)} optima, for reasons below" if refused else "",
        f"such intervals held the truth in only {span} of simulated studies" if span else "",
        f"the surface is doubted for {listed(doubted)}, and believed within its runs only" if doubted else "",
        "all budgets are below 1e17 FLOPs" if small else "",
    ]
    caution = "; ".join(reason for reason in reasons if reason)
    return (
        f"Trust it with care: {caution}." if caution else "Nothing speaks against it: every optimum has its interval."
    )


def in_cell(answer: Estimate | Refusal, text: Callable[[Estimate], str]) -> str:
    """As `text` writes it, or a word: why a number is refused is said below the table."""
    return REFUSED if isinstance(answer, Refusal) else text(answer)


def _number(estimate: Estimate) -> str:
    return estimate.shown("{:.3f}".format)


def _count(estimate: Estimate) -> str:
    return estimate.shown(count_text)
