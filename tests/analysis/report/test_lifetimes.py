"""How the cheapest models over their lifetimes are written."""

import numpy as np

from analysis.advice.lifetime import Lifetime
from analysis.report.lifetimes import lifetime_notes, tabulate_lifetime
from analysis.report.tables import Format
from analysis.statistics.answers import Estimate


def estimate(value: float) -> Estimate:
    """With an interval of a tenth either way."""
    return Estimate(value=value, low=0.9 * value, high=1.1 * value, level=0.95)


def lifetime(**changes) -> Lifetime:
    """One whose costs need powers of ten."""
    parts = {
        "arm": "vanilla", "params": estimate(1.3e4), "tokens": estimate(1.8e7),
        "training": estimate(8.0461e9), "serving": estimate(1.2214e11), "total": estimate(1.3021e11), "reach": 1234.5,
        "total_k": np.ones(3),
    }  # fmt: skip
    return Lifetime(**(parts | changes))


def test_costs_are_written_as_people_write_them():
    text = tabulate_lifetime({"vanilla": lifetime()}, 3.0, 1e7, Format.markdown)
    assert "| 8.05e9 [7.24e9, 8.85e9] | 1.22e11 [1.1e11, 1.34e11] |" in text
    assert "e+" not in text


def test_a_long_way_beyond_the_data_is_a_plain_number():
    (note,) = lifetime_notes({"vanilla": lifetime()})
    assert note.startswith("vanilla: its training is 1,230 times the largest budget fitted")
