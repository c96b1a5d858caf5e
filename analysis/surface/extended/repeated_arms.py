"""Does repeated text cost one arm more than another? Differences of what repetition costs, with intervals.

Two sources: the constants of the arms' laws (`analysis.surface.extended.repeated`), whose redrawn studies are paired;
and the excess of runs over the same runs on fresh text (`analysis.surface.extended.excess`), which needs no law of N
and D.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import interval
from analysis.surface.extended.excess import ArmExcess
from analysis.surface.extended.repeated import RepeatedFit
from analysis.surface.extended.repetition import CONSTANTS

WORDS = {
    "kappa": "κ of their laws",
    "R_D": "R_D* of their laws",
    "R_N": "R_N* of their laws",
    "excess kappa": "κ of the excess over fresh text, N the parameters that exist",
    "excess kappa unrolled": "κ of the excess over fresh text, N the parameters that a token goes through",
    "excess": "mean excess over fresh text",
}
"""By quantity, what it is called."""
WORTH = ("R_D", "R_N")
"""Quantities that are larger where repetition costs less."""


@dataclass(frozen=True, kw_only=True)
class RepetitionGap:
    """What repetition costs `arm` less what it costs `other`."""

    arm: str
    """The first arm."""
    other: str
    """The second arm."""
    quantity: str
    """By what it is measured, one of `WORDS`."""
    gap: Estimate | Refusal
    """The difference: units of loss for the excess, else of the constant."""
    places: int = 0
    """Of the excess, the sizes and corpora that both arms have; 0 for others."""

    @property
    def sentence(self) -> str:
        """The finding in words."""
        where = f" ({self.places} sizes and corpora)" if self.places else ""
        what = f"{WORDS[self.quantity]}{where}"
        if isinstance(self.gap, Refusal):
            return f"repetition of {self.arm} and {self.other}: not compared by {what}: {self.gap.sentence}"
        gap = self.gap
        numbers = f"{what}: {gap.value:+.4g} ({gap.level:.0%} interval {gap.low:+.4g} to {gap.high:+.4g})"
        if gap.holds_zero:
            return f"what repetition costs {self.arm} and {self.other} cannot be told apart; difference in {numbers}."
        more = (gap.value > 0) != (self.quantity in WORTH)
        return f"repetition costs {self.arm} {'more' if more else 'less'} than {self.other}; difference in {numbers}."


def compare_repetition(
    laws: dict[str, RepeatedFit | Refusal], excesses: dict[str, ArmExcess | Refusal], level: float
) -> tuple[RepetitionGap, ...]:
    """Every two arms: by the constants of their laws where both have one, and by their excess where both have any."""
    gaps: list[RepetitionGap] = []
    for arm, other in combinations(sorted({*laws, *excesses}), 2):
        law, of_other = laws.get(arm), laws.get(other)
        if isinstance(law, RepeatedFit) and isinstance(of_other, RepeatedFit):
            gaps += _by_law(law, of_other, level)
        excess, another = excesses.get(arm), excesses.get(other)
        if isinstance(excess, ArmExcess) and isinstance(another, ArmExcess):
            gaps += _by_excess(excess, another)
    return tuple(gaps)


def _by_law(one: RepeatedFit, other: RepeatedFit, level: float) -> Iterator[RepetitionGap]:
    for name in CONSTANTS[one.form]:
        if one.form == other.form:
            value = float((one.fitted.constant(name) - other.fitted.constant(name))[0])
            gap = interval(value, one.draws.constant(name) - other.draws.constant(name), level)
        else:
            gap = Refusal(
                kind=RefusalKind.NOT_IDENTIFIED,
                sentence=f"the law of {one.arm} has the form {one.form} and that of {other.arm} {other.form}, whose "
                "constants mean different things.",
            )
        yield RepetitionGap(arm=one.arm, other=other.arm, quantity=name, gap=gap)


def _by_excess(one: ArmExcess, other: ArmExcess) -> Iterator[RepetitionGap]:
    gaps: dict[str, Estimate | Refusal] = {"excess kappa": one.kappa.less(other.kappa).estimate(one.level)}
    if one.kappa_unrolled is not None and other.kappa_unrolled is not None:
        gaps["excess kappa unrolled"] = one.kappa_unrolled.less(other.kappa_unrolled).estimate(one.level)
    for quantity, gap in gaps.items():
        yield RepetitionGap(arm=one.arm, other=other.arm, quantity=quantity, gap=gap)
    shared = one.places & other.places
    yield RepetitionGap(
        arm=one.arm, other=other.arm, quantity="excess", gap=_mean_gap(one, other, shared), places=len(shared)
    )


def _mean_gap(one: ArmExcess, other: ArmExcess, places: set[tuple[str, str]]) -> Estimate | Refusal:
    if not places:
        return Refusal(kind=RefusalKind.TOO_FEW_POINTS, sentence="they repeat no corpus at a size that both have.")
    first, second = one.mean(places), other.mean(places)
    if isinstance(first, Refusal):
        return first
    return second if isinstance(second, Refusal) else first.less(second).estimate(one.level)
