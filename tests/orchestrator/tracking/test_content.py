"""What the run of a cell says."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tracking.content import MOST_POINTS, thinned

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
