"""What the run of a cell says."""

import math

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tracking.content import MOST_POINTS, isoflop_points, thinned

LENGTHS = st.integers(1, 60_000)


@given(LENGTHS, st.integers(1, 50), st.data())
def test_a_thinned_curve_keeps_its_ends_and_only_grows(steps: int, every: int, data):
    logged = [{"step": step} for step in range(1, steps + 1) if step % every == 0 or step in (1, steps)]
    kept = thinned(logged, steps)
    assert len(kept) <= MOST_POINTS
    assert (kept[0], kept[-1]) == (logged[0], logged[-1])
    so_far = thinned(logged[: data.draw(st.integers(1, len(logged)))], steps)
    assert kept[: len(so_far)] == so_far


@given(st.integers(1, MOST_POINTS - 1))
def test_a_short_curve_is_kept_whole(steps: int):
    logged = [{"step": step} for step in range(1, steps + 1)]
    assert thinned(logged, steps) == logged


def test_an_isoflop_curve_has_one_point_for_the_seeds_of_a_size():
    rows = [
        {"status": status, "arm": "mor-2", "budget": "2000000000", "unique_params": params, "loss": loss}
        for status, params, loss in (
            ("finished", 100, 2.0),
            ("finished", 100, 3.0),
            ("finished", 200, 1.5),
            ("finished", 200, math.inf),
            ("pending", 200, None),
        )
    ]
    assert list(isoflop_points(rows)) == [("isoflop/mor-2/2e9", 2.5, 100), ("isoflop/mor-2/2e9", 1.5, 200)]
