"""What every approach to the frontier answers for one arm: an optimum at each budget, with its draws or a refusal."""

from dataclasses import dataclass

from analysis.statistics.answers import Refusal
from analysis.statistics.bootstrap import Sample

SYMBOLS = {"params": "N*", "tokens": "D*", "loss": "L*"}
"""What an optimum consists of, and how it is written."""
QUANTITIES = tuple(SYMBOLS)


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledOptimum:
    """The optimum at one budget, as any approach gives it: estimates with joint draws."""

    budget: str
    """FLOPs, an exact decimal integer."""
    params: Sample | Refusal
    """N*, unique non-embedding parameters."""
    tokens: Sample | Refusal
    """D*, tokens."""
    loss: Sample | Refusal
    """L*, in units of loss."""


def refused_optimum(budget: str, refusal: Refusal) -> SampledOptimum:
    """No optimum at `budget`, for one reason."""
    return SampledOptimum(budget=budget, params=refusal, tokens=refusal, loss=refusal)


@dataclass(frozen=True, kw_only=True, eq=False)
class ApproachFit:
    """What an approach says about one arm."""

    optima: tuple[SampledOptimum, ...]
    """One per budget, ascending."""

    def samples(self, quantity: str) -> dict[str, Sample]:
        """Budget -> "params", "tokens" or "loss" of its optimum, where that is supported."""
        answers = {optimum.budget: getattr(optimum, quantity) for optimum in self.optima}
        return {budget: answer for budget, answer in answers.items() if isinstance(answer, Sample)}
