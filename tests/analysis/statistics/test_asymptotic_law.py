import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.statistics.answers import Estimate, RefusalKind
from analysis.statistics.asymptotic_law import AsymptoticLaw, fit_asymptotic_law
from analysis.statistics.bootstrap import Sample

BUDGETS = ("1000000000000", "3000000000000", "10000000000000", "30000000000000", "100000000000000")


def sample(value: float, sd: float = 0.0, draws: int = 200) -> Sample:
    noise = np.random.default_rng(round(value * 1e6)).normal(size=draws)
    return Sample(estimate=Estimate(value=value, low=value, high=value, level=0.95), draws=value + sd * noise)


def minima(floor: float, scale: float, decay: float, sd: float = 0.0, budgets: int = 5) -> dict[str, Sample]:
    return {budget: sample(floor + scale * float(budget) ** -decay, sd) for budget in BUDGETS[:budgets]}


@given(floor=st.floats(0.5, 2.5), decay=st.floats(0.05, 0.3), share=st.floats(0.2, 3.0))
def test_a_free_asymptote_is_found_and_read_a_hundredfold_beyond(floor, decay, share):
    scale = share * floor * 1e12**decay
    law = fit_asymptotic_law(minima(floor, scale, decay), "free", 0.95)
    assert isinstance(law, AsymptoticLaw)
    assert law.loss(1e16).estimate.value == pytest.approx(floor + scale * 1e16**-decay, rel=3e-3)


@pytest.mark.parametrize(("asymptote", "floor"), [("absent", 0.0), ("pinned", 1.7)])
def test_two_budgets_are_enough_where_the_asymptote_is_known(asymptote, floor):
    pinned = sample(floor) if asymptote == "pinned" else None
    law = fit_asymptotic_law(minima(floor, 60.0, 0.15, budgets=2), asymptote, 0.95, pinned)
    assert isinstance(law, AsymptoticLaw)
    assert law.loss(1e15).estimate.value == pytest.approx(floor + 60.0 * 1e15**-0.15, rel=1e-9)


def test_a_law_without_an_asymptote_falls_too_far_beyond_the_budgets_of_one_that_has_it():
    truth = minima(1.7, 60.0, 0.15)
    without = fit_asymptotic_law(truth, "absent", 0.95)
    assert isinstance(without, AsymptoticLaw)
    assert without.loss(1e17).estimate.value < 0.97 * (1.7 + 60.0 * 1e17**-0.15)


def test_losses_that_rise_with_compute_give_a_law_that_rises():
    rising = {budget: sample(2.0 + 0.01 * number) for number, budget in enumerate(BUDGETS)}
    law = fit_asymptotic_law(rising, "free", 0.95)
    assert isinstance(law, AsymptoticLaw)
    assert law.loss(1e15).estimate.value > 2.0


def test_too_few_minima_and_an_asymptote_above_them_are_refused():
    few = fit_asymptotic_law(minima(1.7, 60.0, 0.15, budgets=2), "free", 0.95)
    assert few.kind is RefusalKind.TOO_FEW_BUDGETS
    assert "2 budgets with a minimum" in few.sentence
    high = fit_asymptotic_law(minima(1.7, 60.0, 0.15), "pinned", 0.95, sample(3.0))
    assert high.kind is RefusalKind.DOES_NOT_FIT


def test_the_interval_widens_with_the_distance_and_with_a_free_asymptote():
    truth = minima(1.7, 60.0, 0.15, sd=0.004)
    widths = {}
    for asymptote in ("free", "absent"):
        law = fit_asymptotic_law(truth, asymptote, 0.95)
        assert isinstance(law, AsymptoticLaw)
        widths[asymptote] = [
            (estimate.high - estimate.low) for flops in (1e14, 1e15, 1e16) for estimate in [law.loss(flops).estimate]
        ]
        assert widths[asymptote] == sorted(widths[asymptote])
    assert widths["free"][2] > widths["absent"][2]
