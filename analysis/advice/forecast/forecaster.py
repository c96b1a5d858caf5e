"""All approaches to one arm: the interval of each is widened by its past errors, and one answer is mixed from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.advice.forecast.law_error import PastError, law_error, weights
from analysis.advice.forecast.outlook import Outlook, law_name, optimum_at
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.approach import QUANTITIES
from analysis.statistics.bootstrap import Resampling, Sample, generator, sample

COMBINED = "combined"
"""The approaches mixed by their weights."""
LEAST_WEIGHT = 0.01
"""An approach with less is left out."""

Past = Mapping[str, Mapping[str, tuple[PastError, ...]]]
"""Quantity -> law (`outlook.law_name`) -> its errors one budget ahead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecaster:
    """What is said of an arm beyond its budgets."""

    arm: str
    """What it is about."""
    outlooks: Mapping[str, Outlook | Refusal]
    """Approach -> its law."""
    past: Past
    """What each missed when it was rolled over the budgets."""
    largest: float
    """The largest budget fitted, FLOPs."""
    resampling: Resampling
    """How intervals are drawn."""

    def at(self, budget: str, *, forced: bool = False) -> dict[str, dict[str, Sample | Refusal]]:
        """Approach, then `COMBINED` -> quantity -> N*, D* (tokens) and L* (nats/token) at `budget`, decimal FLOPs.

        `forced`: by a surface that is doubted too.
        """
        optima = {
            approach: outlook if isinstance(outlook, Refusal) else optimum_at(outlook, budget, forced=forced)
            for approach, outlook in self.outlooks.items()
        }
        flops = float(budget)
        answers = {
            approach: {
                quantity: self.widened(
                    optimum if isinstance(optimum, Refusal) else getattr(optimum, quantity), approach, quantity, flops
                )
                for quantity in QUANTITIES
            }
            for approach, optimum in optima.items()
        }
        combined = {
            quantity: self.combined({approach: answers[approach][quantity] for approach in answers}, quantity)
            for quantity in QUANTITIES
        }
        return answers | {COMBINED: combined}

    def widened(self, answer: Sample | Refusal, approach: str, quantity: str, flops: float) -> Sample | Refusal:
        """An approach's own answer, with what its law may miss at `flops`."""
        if isinstance(answer, Refusal):
            return answer
        step = float(np.log(flops / self.largest))
        if step <= 0:
            return answer
        error = law_error(quantity, self.past[quantity].get(law_name(approach, quantity), ()))
        # One stream for all approaches: laws that miss something mostly miss it alike.
        missed_k = error.draws(step, self.resampling, self.arm, quantity)
        draws = answer.draws * np.exp(missed_k)
        return sample(answer.estimate.value, draws, answer.estimate.level)

    def combined(self, answers: Mapping[str, Sample | Refusal], quantity: str) -> Sample | Refusal:
        """The mixture of the answers: a draw is that of one approach, chosen by weight."""
        samples = {
            law_name(approach, quantity): answer for approach, answer in answers.items() if isinstance(answer, Sample)
        }
        if not samples:
            refusals = [answer.sentence for answer in answers.values() if isinstance(answer, Refusal)]
            sentence = refusals[-1] if refusals else "no approach answers."
            return Refusal(kind=RefusalKind.NO_OPTIMUM, sentence=sentence)
        weight = kept_weights(self.past, quantity, list(samples))
        draws_ak = np.stack([samples[law].draws for law in weight])
        draws = draws_ak[self.owners(quantity, weight), np.arange(self.resampling.draws)]
        log_value = sum(share * float(np.log(samples[law].estimate.value)) for law, share in weight.items())
        return sample(float(np.exp(log_value)), draws, self.resampling.level)

    def owners(self, quantity: str, weight: Mapping[str, float]) -> NDArray[np.int64]:
        """(draws,) which law, by its place in `weight`, each draw of the mixture is of."""
        uniform_k = generator(self.resampling, "approach", self.arm, quantity).uniform(size=self.resampling.draws)
        edges = np.cumsum(list(weight.values()))
        return np.minimum(np.searchsorted(edges, uniform_k), len(edges) - 1)


def kept_weights(past: Past, quantity: str, laws: Sequence[str]) -> dict[str, float]:
    """Law -> its weight among `laws`, at least one, after their past errors; none for those that are left out."""
    raw = weights(quantity, {law: past[quantity].get(law, ()) for law in laws})
    kept = {law: weight for law, weight in raw.items() if weight >= LEAST_WEIGHT}
    total = sum(kept.values())
    return {law: weight / total for law, weight in kept.items()}
