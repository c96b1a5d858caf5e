"""`mor-sweep forecast` on a planned sweep: freeze, train the budget, score."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis.advice.forecast.forecaster import COMBINED
from analysis.advice.forecast.outlook import APPROACHES
from orchestrator.cli.main import app, exit_code_of
from orchestrator.planning.spec.sweep_file import Override
from orchestrator.store.store import Store
from tests.helpers.runs.forecast_sweep import AHEAD, BUDGETS, SIZES, copy_at, forecast_sweep, plan_only, train
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> PlantedSweep:
    """A sweep with its forecasts; nobody may change it."""
    sweep = forecast_sweep(tmp_path_factory.mktemp("frozen"))
    done = ask(sweep, "--budget", AHEAD)
    assert done.exit_code == 0, done.output
    return sweep


@pytest.fixture
def sweep(frozen: PlantedSweep, tmp_path: Path) -> PlantedSweep:
    """The same, to be changed."""
    shutil.copytree(frozen.store.root, tmp_path / "results")
    return copy_at(frozen, tmp_path / "results")


def ask(sweep: PlantedSweep, *flags: str, verb: str = "forecast"):
    return CliRunner().invoke(app, [*verb.split(), sweep.name, "--results", str(sweep.store.root), *flags])


def documents(sweep: PlantedSweep) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sweep.store.forecast_files(sweep.name)}


def scores(sweep: PlantedSweep) -> list[dict]:
    done = ask(sweep, "--score", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["schema"] == "mor-sweep.forecast-scores/1"
    return document["data"]["forecasts"]


def test_every_approach_is_frozen_and_scored_by_what_is_trained_afterwards(sweep: PlantedSweep):
    assert {each["approach"] for each in scores(sweep)} == {*APPROACHES, COMBINED}
    assert all(each["waiting"] for each in scores(sweep))
    train(sweep, [AHEAD], ["51k", "70k", "115k", "170k", "275k"])
    scored = {each["approach"]: each for each in scores(sweep)}
    assert all(len(each["cells"]) == 5 for each in scored.values())
    surface = scored["surface"]
    assert all(cell["of_run"] and cell["covered"] and abs(cell["error"]) < 0.01 for cell in surface["cells"])
    assert {minimum["quantity"] for minimum in surface["minima"]} == {"params", "tokens", "loss"}
    table = ask(sweep, "--score").stdout
    answer, *laws = [line.split() for line in table.splitlines() if line.startswith(("vanilla", *APPROACHES, COMBINED))]
    assert answer[0] == "vanilla"
    assert "L*" in answer
    assert {law[0] for law in laws} == {*APPROACHES, COMBINED}
    assert all(law[-2] == "5" for law in laws)
    assert "5 forecasts, " in table
    assert "0 waiting" in table


def test_one_more_run_without_a_minimum_is_scored_at_what_was_trained(sweep: PlantedSweep):
    train(sweep, [AHEAD], ["275k"])
    (cell,) = {each["approach"]: each for each in scores(sweep)}[COMBINED]["cells"]
    assert cell["predicted"]["value"] == pytest.approx(cell["measured"], rel=0.02)
    assert all(each["minima"] == [] for each in scores(sweep))
    (answer,) = [line for line in ask(sweep, "--score").stdout.splitlines() if line.startswith("vanilla")]
    assert f"{cell['measured']:.4f}" in answer
    assert "a run" in answer


def test_json_is_one_document_that_holds_no_draws(sweep: PlantedSweep):
    done = ask(sweep, "--budget", AHEAD, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["schema"] == "mor-sweep.forecast/1"
    assert len(done.stdout) < 30_000
    by_name = {each["approach"]: each for each in document["data"]["forecasts"]}
    assert by_name[COMBINED]["run_loss"]["low"] < by_name[COMBINED]["run_loss"]["value"]
    assert sum(by_name[approach]["weight"] for approach in APPROACHES) == pytest.approx(1)
    assert "--budgets 1e12" in document["data"]["commands"]["vanilla"]


def test_people_read_an_answer_and_the_laws_behind_it_in_a_window_of_eighty_columns(
    sweep: PlantedSweep, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    done = ask(sweep, "--budget", AHEAD)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("1e12 FLOPs (exact), 3.12 times the largest budget fitted")
    frozen = {entry["approach"]: entry for entry in scores(sweep)}
    answer, laws = (line.split() for line in lines if line.startswith("vanilla "))
    assert answer[1] == frozen[COMBINED]["shape"]["size"]
    assert answer[3] == f"{frozen[COMBINED]['run_loss']['value']:.4f}"
    assert laws[1::2] == [f"{frozen[approach]['loss']['value']:.4f}" for approach in APPROACHES]
    assert all(len(line) <= 80 for line in lines if "mor-sweep isoflop" not in line)
    assert len(lines) < 20


def test_the_same_again_prints_what_was_frozen_then(sweep: PlantedSweep):
    before = documents(sweep)
    first, second = (json.loads(ask(sweep, "--budget", AHEAD, "--json").stdout)["data"] for _ in range(2))
    assert first == second
    assert documents(sweep) == before
    created = {json.loads(content)["created"] for content in before.values()}
    assert {each["created"] for each in first["forecasts"]} == created


def test_other_inputs_make_other_forecasts_and_none_is_left_out(sweep: PlantedSweep):
    plan_only(sweep, [AHEAD], ["115k"])
    done = ask(sweep, "--budget", AHEAD, "--json")
    again = json.loads(done.stdout)["data"]["forecasts"]
    assert all(each["reach"] == pytest.approx(1e12 / 3.2e11) for each in again), "a plan is no data"
    assert len(scores(sweep)) == 10
    train(sweep, [AHEAD], ["115k"])
    assert not any(each["waiting"] for each in scores(sweep))


def test_a_pinned_asymptote_is_a_forecast_of_its_own(sweep: PlantedSweep):
    done = ask(sweep, "--budget", AHEAD, "--asymptote", "1.2", "--json")
    assert done.exit_code == 0, done.output
    assert {each["asymptote"] for each in scores(sweep)} == {None, 1.2}


def test_a_sweep_of_other_settings_does_not_score_a_forecast(sweep: PlantedSweep):
    grid = overrides(budgets=[AHEAD], sizes={"names": ["115k"]}, arms__architectures=["vanilla"])
    longer = Override(flag="context", path=("model", "context_length"), value=128)
    sweep.publish(sweep.plan(SNAPSHOT, [*grid, longer]))
    assert all(each["waiting"] and not each["comparable"] for each in scores(sweep))
    assert "the sweep has other settings now" in ask(sweep, "--score").stdout


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--budget", "3.2e11"), "it has a finished cell at 3.2e11 FLOPs"),
        (("--budget", "1e11", "--arm", "vanilla"), "name a larger budget, or ask `predict`"),
        (("--budget", AHEAD, "--arm", "mor-2"), "has no arm 'mor-2': it has vanilla"),
        (("--budget", "many"), "--budget: "),
        (("--score", "--budget", AHEAD), "name a budget"),
        ((), "name a budget"),
    ],
)
def test_what_is_no_forecast_is_a_sentence(frozen: PlantedSweep, flags: tuple[str, ...], sentence: str):
    before = documents(frozen)
    refused = ask(frozen, *flags)
    assert exit_code_of(refused.exception) == 2
    assert sentence in str(refused.exception)
    assert documents(frozen) == before


def test_beyond_ten_times_is_flagged_and_beyond_a_hundred_refused_unless_forced(sweep: PlantedSweep):
    assert "flagged: 12.5 times the largest budget fitted" in ask(sweep, "--budget", "4e12").stdout
    before = documents(sweep)
    refused = ask(sweep, "--budget", "4e13")
    assert refused.exit_code == 5
    assert refused.stderr.count("beyond 100 times nothing is predicted unless forced") == 1
    assert documents(sweep) == before
    assert ask(sweep, "--budget", "4e13", "--force").exit_code == 0


def test_a_sweep_without_a_finished_cell_is_refused_with_the_reason(tmp_path: Path):
    sweep = PlantedSweep(store=Store(root=tmp_path))
    plan_only(sweep, BUDGETS, SIZES)
    refused = ask(sweep, "--budget", AHEAD)
    assert refused.exit_code == 5
    assert "vanilla: no cell of it that a fit can use is finished" in refused.stderr
    assert documents(sweep) == {}


def test_one_budget_is_refused_with_the_reason_of_every_approach(tmp_path: Path):
    sweep = PlantedSweep(store=Store(root=tmp_path))
    train(sweep, BUDGETS[:1], SIZES[:4])
    refused = ask(sweep, "--budget", AHEAD)
    assert refused.exit_code == 5
    assert all(name in refused.stderr for name in (*APPROACHES, COMBINED))


def test_a_forecast_of_fresh_text_is_not_frozen_where_the_sweep_would_repeat_its_text(tmp_path: Path):
    sweep = PlantedSweep(store=Store(root=tmp_path))
    train(sweep, BUDGETS, SIZES, data__unique_tokens=250_000)
    refused = ask(sweep, "--budget", "3e12")
    assert refused.exit_code == 5
    assert "passes over the 250.0k of this sweep, and what is frozen holds for fresh text" in refused.stderr
    assert documents(sweep) == {}


def test_without_a_second_seed_the_interval_is_the_means_under_that_name(tmp_path: Path):
    sweep = PlantedSweep(store=Store(root=tmp_path))
    train(sweep, BUDGETS, SIZES)
    done = ask(sweep, "--budget", AHEAD)
    assert done.exit_code == 0, done.output
    assert "one more run: no cell has a second seed" in done.stderr
    assert "* the mean over seeds, and not the loss of one run" in done.stdout
    train(sweep, [AHEAD], ["115k"])
    assert not any(cell["of_run"] for each in scores(sweep) for cell in each["cells"])


def test_report_and_figure_show_every_forecast(sweep: PlantedSweep):
    train(sweep, [AHEAD], ["115k"])
    assert ask(sweep, verb="report").exit_code == 0
    page = (sweep.store.sweep_folder(sweep.name) / "report.html").read_text()
    assert "Forecasts and how they fared" in page
    assert all(f"<td>{name}</td>" in page for name in (*APPROACHES, COMBINED))
    drawn = ask(sweep, verb="plot forecasts")
    assert drawn.exit_code == 0, drawn.output
    data = json.loads((sweep.store.sweep_folder(sweep.name) / "figures" / "forecasts.json").read_text())["data"]
    assert len(data) == 5


def test_a_folder_without_forecasts_is_read_as_before(tmp_path: Path):
    sweep = PlantedSweep(store=Store(root=tmp_path))
    train(sweep, BUDGETS[:1], SIZES[:4])
    done = ask(sweep, "--score")
    assert done.exit_code == 0
    assert "has no forecast yet" in done.stdout
    assert ask(sweep, verb="plot forecasts").exit_code == 5


FREEZE = "import sys; from orchestrator.cli.main import main; sys.argv[0] = 'mor-sweep'; main()"


@pytest.mark.slow
def test_two_that_freeze_at_once_print_one_forecast(frozen: PlantedSweep, sweep: PlantedSweep):
    for path in sweep.store.forecast_files(sweep.name):
        path.unlink()
    flags = ["forecast", sweep.name, "--results", str(sweep.store.root), "--budget", AHEAD, "--json"]
    started = [
        subprocess.Popen([sys.executable, "-c", FREEZE, *flags], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    one, other = (json.loads(process.communicate(timeout=120)[0])["data"] for process in started)
    assert one["forecasts"] == other["forecasts"]
    assert documents(sweep).keys() == documents(frozen).keys()
