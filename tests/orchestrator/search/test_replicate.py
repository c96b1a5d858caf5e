"""`isoflop --replicate-near-optimum` on real small models, in one process."""

import pytest

from tests.helpers.toy_sweep import ToySweep

SMALL = ("--only", "vanilla", "--budgets", "6e8", "--replicate-near-optimum", "2")


@pytest.mark.slow
def test_replicates_join_the_sweep_after_its_planned_cells_and_are_trained_once(toy: ToySweep):
    done = toy.run(*SMALL)
    assert done.returncode == 0, done.stderr
    assert "replicates: 4 cells" in done.stderr
    runs = toy.science()
    assert runs.select("size", "seed").sort("size", "seed").rows() == [
        (size, seed) for size in ("13k", "23k") for seed in range(3)
    ]
    assert set(runs["status"]) == {"finished"}
    before = toy.published()
    assert toy.run(*SMALL).returncode == 0
    assert toy.published() == before
