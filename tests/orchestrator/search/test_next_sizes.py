"""Which sizes a refused fit asks for."""

import polars as pl
import pytest

from analysis.frontier.study import fit_study
from mor_core.sizes import SMALL_LADDER
from orchestrator.cli.fits.next_sizes import next_sizes
from orchestrator.records.revisions import load_sweep
from orchestrator.records.table import table
from orchestrator.store.store import Store
from tests.helpers.toy_sweep import ToySweep

LADDER = [size.name for size in SMALL_LADDER]


def test_too_few_sizes_ask_for_the_nearest_others(reference: ToySweep):
    store = Store(root=reference.results)
    runs = table(store, load_sweep(store))
    lines = next_sizes(fit_study(runs), runs)
    places = [LADDER.index(name) for name in ("13k", "23k")]
    assert [line.partition(":")[0] for line in lines] == [f"{arm} at 6e8, 1.2e9, 2.4e9" for arm in ("mor-2", "vanilla")]
    for line in lines:
        asked = line.rpartition("--sizes ")[2].split(",")
        assert len(asked) == 4
        assert not {"13k", "23k"} & set(asked)
        together = sorted([*places, *(LADDER.index(name) for name in asked)])
        assert together == list(range(together[0], together[0] + 6)), "a stretch of the ladder without a gap"


@pytest.mark.parametrize(
    ("best", "asked"), [(2, LADDER[0:2]), (7, LADDER[8:10]), (4, [])], ids=["smallest", "largest", "inside"]
)
def test_a_minimum_at_an_end_asks_for_the_rungs_beyond_it(reference: ToySweep, best: int, asked: list[str]):
    """Six made-up sizes of one arm and budget, the third rung to the eighth, with the lowest loss at rung `best`."""
    store = Store(root=reference.results)
    measured = table(store, load_sweep(store))
    template = measured.filter(pl.col("arm") == "vanilla").row(0, named=True)
    rows = [
        template
        | {"size": LADDER[place], "cell_id": str(place), "trunk_id": str(place), "evaluate_segment": str(place)}
        | {"unique_params": 1000 * 2**place, "tokens": 10**6 // 2**place, "loss": 3 + 0.1 * (place - best) ** 2}
        for place in range(2, 8)
    ]
    runs = pl.DataFrame(rows, schema=measured.schema)
    expected = [f"vanilla at 6e8: next sizes to try: --sizes {','.join(asked)}"] if asked else []
    assert next_sizes(fit_study(runs), runs) == expected
