"""Which sizes a refused fit asks for."""

from toy_sweep import ToySweep

from analysis.frontier import fit_study
from mor_core.sizes import SMALL_LADDER
from orchestrator.next_sizes import next_sizes
from orchestrator.records import table
from orchestrator.revisions import load_sweep
from orchestrator.store import Store

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
