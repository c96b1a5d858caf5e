"""What `tune` asks for: settings inside their ranges, never twice, and cells like any other."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.tuning.response import Trial
from orchestrator.planning.plan import plan, plan_of_cells
from orchestrator.planning.spec.sweep_file import Override, SpecError, read_sweep_file, recipe_overrides
from orchestrator.planning.spec.sweep_spec import load_spec, parse_spec
from orchestrator.search.tuning.proposals import propose
from orchestrator.search.tuning.trials import Range, SearchSpace, rungs_of, trial_cells, tried, tune_spec
from tests.helpers.made_up_data import MADE_UP_DATA
from tests.helpers.paths import SMALL_PRESET

RECIPES = sorted(path.stem for path in Path(str(resources.files("sweeps"))).glob("recipes/*.toml"))
"""Those that ship."""

RATE = {"learning_rate": Range(low=1e-3, high=1e-1)}
BOTH = RATE | {"batch_size": Range(low=4, high=16, choices=(4, 8, 16))}


def answered(values: dict[str, float]) -> Trial:
    return Trial(values=values, losses=(4 + 0.05 * np.log(values["learning_rate"] / 0.012) ** 2,))


@settings(max_examples=12, deadline=None)
@given(count=st.integers(1, 12), chosen=st.integers(0, 4), seed=st.integers(0, 2**31), both=st.booleans())
def test_proposals_lie_in_their_ranges_differ_and_are_the_same_when_asked_again(
    count: int, chosen: int, seed: int, both: bool
):
    ranges = BOTH if both else RATE
    first = propose(ranges, [], count=count, spread=count, seed=seed)
    trials = [answered(values) for values in first]
    more = propose(ranges, trials, count=chosen, spread=count, seed=seed)
    assert more == propose(ranges, trials, count=chosen, spread=count, seed=seed)
    asked = [tuple(sorted(values.items())) for values in (*first, *more)]
    assert len(set(asked)) == len(asked)
    for values in (*first, *more):
        assert set(values) == set(ranges)
        assert 1e-3 <= values["learning_rate"] <= 1e-1
        assert values.get("batch_size", 4.0) in (4.0, 8.0, 16.0)


def test_later_proposals_gather_about_a_planted_optimum():
    trials = [answered(values) for values in propose(RATE, [], count=6, spread=6, seed=3)]
    later: list[float] = []
    while len(later) < 10:
        asked = propose(RATE, trials, count=2, spread=6, seed=3)
        trials += [answered(values) for values in asked]
        later += [values["learning_rate"] for values in asked]
    distance = np.abs(np.log(np.array(later) / 0.012))
    evenly = np.abs(np.log(np.geomspace(1e-3, 1e-1, 50) / 0.012))
    assert np.median(distance) < 0.5 * np.median(evenly)


def test_settings_that_diverged_are_told_and_not_asked_for_again():
    trials = [
        Trial(values=values, losses=(), diverged=1) if values["learning_rate"] > 0.02 else answered(values)
        for values in propose(RATE, [], count=8, spread=8, seed=1)
    ]
    asked = propose(RATE, trials, count=6, spread=8, seed=1)
    assert np.median([values["learning_rate"] for values in asked]) < 0.02
    nothing_finished = [Trial(values=each.values, losses=(), diverged=1) for each in trials]
    assert len(propose(RATE, nothing_finished, count=2, spread=8, seed=1)) == 2


def toy_file(small: Path):
    return read_sweep_file(str(small), [Override(flag="--only", path=("only",), value=["vanilla", "mor-2"])])


@pytest.fixture
def small() -> Path:
    return SMALL_PRESET


def test_trials_are_cells_of_one_table_whose_values_can_be_read_off(small: Path):
    file, data = toy_file(small), MADE_UP_DATA
    space = SearchSpace(batch_size=Range(low=4, high=16, choices=(4, 8, 16)), warmup=Range(low=0.01, high=0.1))
    rungs = rungs_of(parse_spec(file), ["35k"], space, 20.0)
    assert [rung.name for rung in rungs] == ["vanilla 35k", "mor-2 35k"]
    cells = []
    asked = []
    for rung in rungs:
        for values in propose(rung.ranges, [], count=5, spread=5, seed=0):
            own = trial_cells(file, "tuning", rung, values, seeds=(0, 1), multiples=(0.5, 1.0), data=data)
            assert {cell.seed for cell in own} == {0, 1}
            assert len({cell.trunk_id for cell in own}) == 2, "one trunk a seed, whatever the tokens"
            cells += own
            asked.append(values)
    planned = plan_of_cells(tune_spec(file, "tuning", (0, 1)), data, cells)
    assert len({cell.cell_id for cell in planned.cells}) == len(cells) == 40
    rows = {str(cell.cell_id): {"status": "finished", "loss": 4.0 + cell.seed} for cell in planned.cells}
    found = [each for rung in rungs for each in tried(rung, planned.cells, rows).trials]
    assert len(found) == len(asked) == 10
    for trial, values in zip(found, asked, strict=True):
        assert trial.losses == (4.0, 5.0)
        assert trial.values["learning_rate"] == values["learning_rate"]
        assert trial.values["batch_size"] == values["batch_size"]
        assert trial.values["warmup"] == pytest.approx(values["warmup"], rel=0.35)
    elsewhere = tried(rungs[0], planned.cells, rows).elsewhere
    assert sum(len(trials) for trials in elsewhere.values()) == 5


def test_a_recipe_lays_its_laws_over_a_sweep(small: Path, tmp_path: Path):
    written = tmp_path / "recipe.toml"
    written.write_text(
        "[train.learning_rate.default]\nbase = 5e-3\nreference_params = 100000\nexponent = -0.5\nsource = 'made up'\n"
        "[train.batch_law.default]\nbase = 8\nreference_params = 50000\nexponent = 1.0\nsource = 'made up'\n"
    )
    spec = load_spec(str(small), recipe_overrides(str(written)))
    cells = plan(spec, None).cells
    batches = {cell.unrolled_params: cell.train.batch_size for cell in cells}
    for params, batch in batches.items():
        assert batch == 2 ** round(np.log2(8 * params / 50_000))
    for cell in cells:
        assert cell.train.peak_learning_rate == pytest.approx(5e-3 * (cell.unrolled_params / 1e5) ** -0.5, rel=1e-3)
    assert len(set(batches.values())) > 1


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_give_rates_and_batches_that_a_large_model_can_use(name: str):
    spec = load_spec("paper", recipe_overrides(name))
    for cell in plan(spec, None).cells:
        assert 1e-4 < cell.train.peak_learning_rate < 1e-2
        assert 16 <= cell.train.batch_size <= 2048
    assert {"step-law", "porian"} <= set(RECIPES)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[train]\npeak_learning_rate = 1.0\n", "peak_learning_rate"),
        ("[model]\nvocab_size = 3\n", r"\[model\]"),
        ("", "it is empty"),
        ("[train", "is no valid TOML"),
    ],
)
def test_a_recipe_that_is_none_says_so(tmp_path: Path, content: str, said: str):
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(SpecError, match=said):
        recipe_overrides(str(path))
    with pytest.raises(SpecError, match="no shipped recipe"):
        recipe_overrides("step-lav")
