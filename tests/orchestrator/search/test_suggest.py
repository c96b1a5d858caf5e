"""`mor-sweep suggest` on a planned sweep: what it prints can be run, and running it helps."""

import json
import random
import shlex
import shutil

import pytest
from typer.testing import CliRunner

from analysis.frontier.study import fit_study
from analysis.statistics.answers import Estimate, RefusalKind
from mor_core.data.prepare import prepare
from mor_core.units import budget_text
from orchestrator.cli.main import app, exit_code_of
from orchestrator.planning.spec.sweep_file import SpecError, recipe_overrides
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.records.revisions import load_sweep
from orchestrator.records.table import table
from orchestrator.search.spec_of_sweep import NoAdvice
from orchestrator.store.store import Store
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides

SIZES = ["10k", "13k", "23k", "35k", "51k", "70k", "115k"]
BUDGETS = ["8e10", "1.6e11", "3.2e11"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Enough words for the validation sequences of the CPU preset."""
    generator = random.Random(0)
    documents = [
        " ".join(f"{generator.choice('abcdefgh')}{generator.randrange(10**5)}" for _ in range(250)) for _ in range(1800)
    ]
    path = tmp_path_factory.mktemp("text") / "words.jsonl"
    path.write_text("\n".join(json.dumps({"text": document}) for document in documents))
    return path


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Where the text is prepared, once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOR_SWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, text, cache):
    """The CPU preset on that text, trained by a planted law; the routed arm's minimum at 3.2e11 is at an end."""
    grid = overrides(budgets=BUDGETS, sizes={"names": SIZES}, data__corpus=str(text))
    data = prepare(load_spec("cpu", grid).data_spec)
    planted = PlantedSweep(store=Store(root=tmp_path_factory.mktemp("results")))
    planted.publish(planted.plan(data, grid))
    return planted


def ask(planted, *flags):
    return CliRunner().invoke(app, ["suggest", planted.name, "--results", str(planted.store.root), *map(str, flags)])


def optima(planted):
    study = fit_study(table(planted.store, load_sweep(planted.store, planted.name)))
    return {(frontier.arm, each.budget): each.params for frontier in study.frontiers for each in frontier.optima}


def test_a_sweep_by_a_recipe_is_advised_with_that_recipe(tmp_path, text):
    grid = [*overrides(budgets=BUDGETS[:1], sizes={"names": SIZES[2:]}, only=["vanilla"], data__corpus=str(text))]
    recipe = tmp_path / "laws.toml"
    laws = {"base": 9e-3, "reference_params": 50_000, "exponent": -0.3, "source": "'made up'"}
    recipe.write_text("[train.learning_rate.default]\n" + "".join(f"{key} = {value}\n" for key, value in laws.items()))
    grid += recipe_overrides(str(recipe))
    planted = PlantedSweep(store=Store(root=tmp_path / "results"))
    planted.publish(planted.plan(prepare(load_spec("cpu", grid).data_spec), grid))
    recipe.unlink()
    asked = ask(planted, "--json")
    assert asked.exit_code == 0, asked.output
    document = json.loads(asked.stdout)["data"]
    assert planned_by(document["commands"]) == named_in(document)
    shown = ask(planted).stdout
    for cell in (suggestion["candidate"] for suggestion in document["suggestions"]):
        assert f"{cell['arm']}/{cell['size']}/{budget_text(int(cell['budget']))}/{cell['seed']}" in shown


def named_in(document) -> set[tuple[str, str, str, int]]:
    """Arm, size, budget and seed of the cells that `suggest --json` names."""
    cells = [suggestion["candidate"] for suggestion in document["suggestions"]]
    return {(cell["arm"], cell["size"], cell["budget"], cell["seed"]) for cell in cells}


def planned_by(commands) -> set[tuple[str, str, str, int]]:
    """The cells that the commands would plan."""
    planned = set()
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "mor-sweep"
        dry = CliRunner().invoke(app, [*arguments, "--dry-run", "--json"])
        assert dry.exit_code == 0, dry.output
        cells = json.loads(dry.stdout)["data"]["cells"]
        planned |= {(cell["arm"], cell["size"], str(cell["budget"]), cell["seed"]) for cell in cells}
    return planned


@pytest.mark.slow
def test_the_commands_plan_just_the_cells_that_were_named_and_training_them_helps(sweep, text):
    asked = ask(sweep, "--json")
    assert asked.exit_code == 0, asked.output
    told = json.loads(asked.stdout)
    assert told["schema"] == "mor-sweep.suggest/1"
    document = told["data"]
    named = named_in(document)
    first = document["suggestions"][0]
    assert (first["need"], first["candidate"]["arm"], first["candidate"]["size"]) == ("edge", "mor-2", "170k")
    assert all(each["flops"] > 0 and each["seconds"] > 0 for each in document["suggestions"])

    assert planned_by(document["commands"]) == named

    before = optima(sweep)
    assert before["mor-2", "320000000000"].kind is RefusalKind.MINIMUM_AT_EDGE
    for arm, size, budget, seed in named:
        architecture = "mor" if arm == "mor-2" else arm
        grid = overrides(budgets=[budget], sizes={"names": [size]}, seeds=[seed], data__corpus=str(text))
        data = prepare(load_spec("cpu", grid).data_spec)
        sweep.publish(sweep.plan(data, [*grid, *overrides(arms__architectures=[architecture])]))
    assert len(load_sweep(sweep.store, sweep.name).cells) == 42 + len(named), "all joined the sweep's table"
    assert isinstance(optima(sweep)["mor-2", "320000000000"], Estimate)


def test_the_command_of_a_forecast_plans_its_shape_at_its_budget(sweep):
    flags = ["--budget", "1e12", "--arm", "vanilla", "--json", "--results", str(sweep.store.root)]
    done = CliRunner().invoke(app, ["forecast", sweep.name, *flags])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)["data"]
    shapes = {each["approach"]: each["shape"]["size"] for each in document["forecasts"]}
    assert planned_by(document["commands"].values()) == {("vanilla", shapes["combined"], "1000000000000", 0)}


@pytest.mark.slow
def test_after_a_plan_of_a_part_the_advice_is_still_about_the_whole_sweep(tmp_path, text):
    whole = overrides(budgets=BUDGETS[:2], sizes={"names": SIZES[2:5]}, data__corpus=str(text))
    planted = PlantedSweep(store=Store(root=tmp_path / "results"))
    data = prepare(load_spec("cpu", whole).data_spec)
    planted.publish(planted.plan(data, whole))
    part = overrides(budgets=BUDGETS[:1], sizes={"names": SIZES[2:3]}, arms__architectures=["vanilla"])
    before = json.loads(ask(planted, "--json").stdout)["data"]
    planted.plan(data, [*whole, *part, *overrides(only=["vanilla"])])
    after = json.loads(ask(planted, "--json").stdout)["data"]
    assert after["suggestions"] == before["suggestions"]
    assert planned_by(after["commands"]) == named_in(after)
    assert {arm for arm, _, _, _ in named_in(after)} == {"vanilla", "mor-2"}


def test_a_sweep_without_a_recorded_sweep_file_is_a_sentence_until_its_command_is_run_again(tmp_path, text):
    grid = overrides(budgets=BUDGETS[:1], sizes={"names": SIZES[2:5]}, only=["vanilla"], data__corpus=str(text))
    planted = PlantedSweep(store=Store(root=tmp_path / "results"))
    data = prepare(load_spec("cpu", grid).data_spec)
    planted.publish(planted.plan(data, grid))
    path = planted.store.sweep_folder(planted.name) / "sweep.json"
    document = json.loads(path.read_text())
    del document["revisions"][0]["spec"]
    path.write_text(json.dumps(document))
    refused = ask(planted)
    assert exit_code_of(refused.exception) == 2
    assert "run the sweep's command once more" in str(refused.exception)
    with pytest.raises(SpecError, match=r"holds no sweep file: .*run the sweep's command once more"):
        load_spec(str(path))
    planted.plan(data, grid)
    assert ask(planted).exit_code == 0


def test_fit_names_the_sizes_that_suggest_names_where_n_was_refused_for_its_sizes(tmp_path, text):
    grid = overrides(budgets=BUDGETS[:1], sizes={"names": SIZES[2:5]}, only=["vanilla"], data__corpus=str(text))
    planted = PlantedSweep(store=Store(root=tmp_path / "results"))
    planted.publish(planted.plan(prepare(load_spec("cpu", grid).data_spec), grid))
    document = json.loads(ask(planted, "--json").stdout)["data"]
    sizes = {suggestion["candidate"]["size"] for suggestion in document["suggestions"] if suggestion["need"] == "sizes"}
    assert sizes
    fit = ["fit", planted.name, "--results", str(planted.store.root)]
    (line,) = [line for line in CliRunner().invoke(app, fit).output.splitlines() if "next sizes to try" in line]
    assert line.startswith("vanilla at 8e10: next sizes to try: --sizes ")
    assert set(line.rpartition("--sizes ")[2].split(",")) == sizes
    path = planted.store.sweep_folder(planted.name) / "sweep.json"
    recorded = json.loads(path.read_text())
    del recorded["revisions"][0]["spec"]
    path.write_text(json.dumps(recorded))
    assert "next sizes to try" not in CliRunner().invoke(app, fit).output


def test_a_text_that_has_changed_is_a_sentence(tmp_path, text):
    copy = shutil.copy(text, tmp_path / "words.jsonl")
    grid = overrides(budgets=BUDGETS[:1], sizes={"names": SIZES[2:3]}, only=["vanilla"], data__corpus=str(copy))
    planted = PlantedSweep(store=Store(root=tmp_path / "results"))
    planted.plan(prepare(load_spec("cpu", grid).data_spec), grid)
    copy.write_text(copy.read_text() + json.dumps({"text": "one more"}))
    refused = ask(planted)
    assert exit_code_of(refused.exception) == 2
    assert "is not what the sweep trained on any more" in str(refused.exception)


def test_a_sweep_that_another_version_planned_is_a_sentence(tmp_path, text, monkeypatch):
    grid = overrides(budgets=BUDGETS[:1], sizes={"names": SIZES[2:3]}, only=["vanilla"], data__corpus=str(text))
    planted = PlantedSweep(store=Store(root=tmp_path / "results"))
    planted.plan(prepare(load_spec("cpu", grid).data_spec), grid)
    monkeypatch.setattr("orchestrator.planning.plan.NUMERICS_VERSION", 10**6)
    refused = ask(planted)
    assert isinstance(refused.exception, NoAdvice)
    assert "was planned by another version" in str(refused.exception)


def test_a_sweep_whose_data_are_gone_is_a_sentence(tmp_path):
    planted = PlantedSweep(store=Store(root=tmp_path))
    planted.plan(SNAPSHOT, overrides(budgets=["8e10"], sizes={"names": ["10k"]}))
    refused = ask(planted)
    assert isinstance(refused.exception, NoAdvice)
    assert "trained on is not at" in str(refused.exception)


def test_without_a_finished_cell_the_advice_is_to_train(text, tmp_path):
    planted = PlantedSweep(store=Store(root=tmp_path))
    grid = overrides(budgets=["8e10"], sizes={"names": ["10k"]}, data__corpus=str(text))
    planted.plan(prepare(load_spec("cpu", grid).data_spec), grid)
    refused = ask(planted)
    assert refused.exit_code == 5, refused.output
    assert "train the sweep as it is planned first" in refused.output
