"""`isoflop --refine` on real small models, in one process."""

from pathlib import Path

import pytest

from orchestrator.records.revisions import load_sweep
from orchestrator.store.store import Store
from tests.helpers.toy_sweep import ToySweep

RECIPE = '[train.learning_rate.default]\nbase = 2e-2\nreference_params = 23000\nexponent = -0.3\nsource = "made up"\n'


@pytest.mark.slow
def test_a_sweep_by_a_recipe_refines_itself_with_cells_by_that_recipe(toy: ToySweep, tmp_path: Path):
    """Two sizes are too few for a minimum, so it goes on to others; the target is wide, so it soon ends."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    asked = ("--only", "vanilla", "--budgets", "6e8", "--recipe", str(recipe))
    refined = ("--refine", "--max-gpu-hours", "1", "--target-ci", "1000")
    done = toy.run(*asked, *refined)
    assert done.returncode == 0, done.stderr
    assert "refined: " in done.stderr
    cells = load_sweep(Store(root=toy.results), "toy").cells
    assert {"13k", "23k"} < {cell.size for cell in cells}
    for cell in cells:
        assert cell.train.peak_learning_rate == float(f"{2e-2 * (cell.unrolled_params / 23000) ** -0.3:.3e}")
    before = toy.published()
    assert toy.run(*asked, *refined).returncode == 0
    assert toy.published() == before
