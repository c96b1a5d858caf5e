"""What to train with a budget that nobody has trained with: the optimum, or why none is given."""

from dataclasses import dataclass

from analysis.frontier.study import Frontier, Study
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Sample
from analysis.surface.approach import surface_optimum
from analysis.surface.fit import FLAGGED_REACH, SurfaceFit, refuse_reach


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The optimum of one arm at one budget."""

    arm: str
    """The architecture."""
    approach: str
    """The fit that it comes from."""
    budget: str
    """FLOPs, an exact decimal integer."""
    reach: float
    """The budget over the largest one fitted; above 1 this extrapolates."""
    params: Estimate | Refusal
    """N*."""
    tokens: Estimate | Refusal
    """D*, tokens."""
    loss: Estimate | Refusal
    """L*, in units of loss."""

    @property
    def flagged(self) -> bool:
        """True more than ten times beyond the largest budget."""
        return self.reach > FLAGGED_REACH

    @property
    def refused(self) -> bool:
        """True where no number is supported."""
        return all(isinstance(each, Refusal) for each in (self.params, self.tokens, self.loss))


def predict_budget(study: Study, budget: str, *, forced: bool = False) -> tuple[Advice, ...]:
    """N*, D* and L* of every arm and approach of a study at `budget` (decimal FLOPs)."""
    return tuple(_advice(study, frontier, budget, forced) for frontier in study.frontiers)


def _advice(study: Study, frontier: Frontier, budget: str, forced: bool) -> Advice:
    mine = study.points.frame.filter(study.points.frame["arm"] == frontier.arm)
    largest = float(mine["flops"].to_numpy().max()) if mine.height else float("nan")
    reach = float(budget) / largest
    refusal = refuse_reach(float(budget), largest, forced=forced)
    if refusal is None and isinstance(frontier.surface, SurfaceFit):
        optimum = surface_optimum(frontier.surface, budget, forced=forced)
        params, tokens, loss = (
            each.estimate if isinstance(each, Sample) else each
            for each in (optimum.params, optimum.tokens, optimum.loss)
        )
    elif refusal is None:
        laws = frontier.predict(budget)
        params, tokens, loss = laws.params, laws.tokens, laws.loss
        if reach > 1 and not isinstance(loss, Refusal):
            loss = Refusal(
                kind=RefusalKind.EXTRAPOLATION,
                sentence="a power law without an asymptote is not read beyond its budgets; a surface has one.",
            )
    else:
        params = tokens = loss = refusal
    return Advice(
        arm=frontier.arm,
        approach=frontier.approach,
        budget=budget,
        reach=reach,
        params=params,
        tokens=tokens,
        loss=loss,
    )
