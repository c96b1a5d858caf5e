"""What to train next, of models of the user's own: by their own ladders, with commands that plan just that."""

import json
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mor_core.config.own_model import OwnModel
from mor_core.data.prepare import prepare
from mor_core.data.spec import cache_folder
from orchestrator.cli.main import app
from orchestrator.planning.plan import plan_of_cells
from orchestrator.planning.spec.sweep_file import Override, SpecError, read_sweep_file
from orchestrator.planning.spec.sweep_spec import load_spec, parse_spec
from orchestrator.records.revisions import load_sweep
from orchestrator.records.table import table
from orchestrator.search.candidates import wide_plan
from orchestrator.search.pilot import pilot_plan, read_pilot
from orchestrator.search.replicate import replicate_plan
from orchestrator.search.spec_of_sweep import NoAdvice, spec_of_sweep
from orchestrator.search.tuning.trials import SearchSpace, rungs_of, trial_cells, tune_spec
from orchestrator.store.store import Store
from tests.helpers.made_up_data import MADE_UP_DATA
from tests.helpers.own_answers import asked_here, forget
from tests.helpers.runs.planted_sweep import PlantedSweep, overrides

SWEEP = """
base = "cpu"
seeds = [0]

[arms]
architectures = ["vanilla"]

[arms.ngram]
model = "examples.ngram_mlp:ngram"
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    with asked_here(tmp_path_factory.mktemp("cache")) as patch:
        yield patch


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's sweep file."""
    path = tmp_path_factory.mktemp("study") / "sweep.toml"
    path.write_text(SWEEP)
    return path


def grid_on(text: Path) -> list[Override]:
    return overrides(
        budgets=["2e10", "1e11"],
        sizes={"names": ["w8", "w12", "w16", "w24"]},
        only=["ngram"],
        data__corpus=str(text),
        evaluation__num_sequences=16,
    )


@pytest.fixture
def sweep(own: pytest.MonkeyPatch, file: Path, toy_text: Path, tmp_path: Path) -> PlantedSweep:
    """Small sizes of the n-gram alone, whose losses a law gives: at 1e11 FLOPs the largest of them is the best."""
    grid = grid_on(toy_text)
    data = prepare(load_spec(str(file), grid).data_spec)
    planted = PlantedSweep(store=Store(root=tmp_path / "results"))
    planted.publish(planted.plan(data, grid, preset=str(file)))
    return planted


def suggested(planted: PlantedSweep) -> Any:
    return CliRunner().invoke(app, ["suggest", planted.name, "--json", "--results", str(planted.store.root)])


def named_in(document: dict[str, Any]) -> set[tuple[str, str, str, int]]:
    cells = [suggestion["candidate"] for suggestion in document["suggestions"]]
    return {(cell["arm"], cell["size"], cell["budget"], cell["seed"]) for cell in cells}


def planned_by(commands: Sequence[str]) -> set[tuple[str, str, str, int]]:
    planned = set()
    for command in commands:
        dry = CliRunner().invoke(app, [*shlex.split(command)[1:], "--dry-run", "--json"])
        assert dry.exit_code == 0, dry.output
        cells = json.loads(dry.stdout)["data"]["cells"]
        planned |= {(cell["arm"], cell["size"], str(cell["budget"]), cell["seed"]) for cell in cells}
    return planned


def test_suggest_names_sizes_of_the_own_ladder_and_runs_none_of_its_code(sweep: PlantedSweep) -> None:
    with pytest.MonkeyPatch.context() as patch:
        forget(patch)
        done = suggested(sweep)
        assert done.exit_code == 0, done.output
        document = json.loads(done.stdout)["data"]
        named = named_in(document)
        assert {arm for arm, *_ in named} == {"ngram"}
        assert {size for _, size, *_ in named} & {"w32", "w48"}, "beyond the edge"
        assert planned_by(document["commands"]) == named


def test_where_no_answer_is_remembered_suggest_says_how_to_ask(sweep: PlantedSweep, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shutil.copytree(cache_folder(), tmp_path / "cache")
        shutil.rmtree(tmp_path / "cache" / "own_models")
        patch.setenv("MOR_SWEEP_CACHE", str(tmp_path / "cache"))
        forget(patch)
        loaded = load_sweep(sweep.store, sweep.name)
        with pytest.raises(NoAdvice, match=r"arm ngram, a model of your own, are not known .*--dry-run` asks for them"):
            wide_plan(loaded, spec_of_sweep(loaded)[0], MADE_UP_DATA)
        done = suggested(sweep)
    assert done.exit_code != 0
    assert isinstance(done.exception, NoAdvice)


def test_replicates_are_of_the_own_sizes_nearest_to_the_minimum(
    sweep: PlantedSweep, file: Path, toy_text: Path
) -> None:
    spec = load_spec(str(file), grid_on(toy_text))
    runs = table(sweep.store, load_sweep(sweep.store, sweep.name))
    planned = replicate_plan(spec, prepare(spec.data_spec), runs, 2)
    assert planned is not None
    assert {cell.seed for cell in planned.cells} == {1, 2}
    assert {cell.size for cell in planned.cells if cell.budget == 2 * 10**10} == {"w12", "w16", "w24"}


def test_a_pilot_of_own_sizes_is_one_of_cells_of_the_sweep(own: pytest.MonkeyPatch, file: Path) -> None:
    asked = {"name": None, "budgets": None, "replicates": 2}
    sizes = ["12k-4L", "17k-4L", "w8", "w12", "w16", "w24"]
    cells = pilot_plan(read_pilot(read_sweep_file(str(file)), sizes=sizes, **asked), MADE_UP_DATA).cells
    assert {(cell.arm, cell.size) for cell in cells} >= {("ngram", "w8"), ("vanilla", "12k-4L")}
    assert {cell.size for cell in cells if cell.arm == "ngram"} == {"w8", "w12", "w16", "w24"}


def test_tuning_tries_settings_of_own_sizes_as_of_ours(own: pytest.MonkeyPatch, file: Path) -> None:
    written = read_sweep_file(str(file))
    rungs = rungs_of(parse_spec(written), ["12k-4L", "w8", "w16"], SearchSpace(), 20.0)
    assert [rung.name for rung in rungs] == ["vanilla 12k-4L", "ngram w8", "ngram w16"]
    rung = rungs[1]
    assert isinstance(rung.model, OwnModel)
    assert rung.params == rung.model.unrolled_params
    values = {"learning_rate": 0.01}
    cells = trial_cells(written, "tuning", rung, values, seeds=(0,), multiples=(1.0,), data=MADE_UP_DATA)
    assert [(cell.arm, cell.size, cell.train.peak_learning_rate) for cell in cells] == [("ngram", "w8", 0.01)]
    planned = plan_of_cells(tune_spec(written, "tuning", (0,)), MADE_UP_DATA, cells)
    assert planned.segments


def test_an_own_model_of_which_no_size_is_named_is_tuned_at_its_ends_and_middle(
    own: pytest.MonkeyPatch, file: Path
) -> None:
    rungs = rungs_of(parse_spec(read_sweep_file(str(file))), ["12k-4L"], SearchSpace(), 20.0)
    assert [rung.arm.label for rung in rungs] == ["vanilla", "ngram", "ngram", "ngram"]
    with pytest.raises(SpecError, match="size 'w9' is unknown"):
        rungs_of(parse_spec(read_sweep_file(str(file))), ["w9"], SearchSpace(), 20.0)
