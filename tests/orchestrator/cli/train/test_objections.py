"""Plans that should not start as they stand: data that are not prepared, text passed over too often, too little
memory."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mor_core.data.prepare import prepare
from mor_core.data.spec import DataSpec
from mor_core.data.tokens.expected_tokens import expected_train_tokens
from mor_core.training.memory import Device
from orchestrator.cli.train.objections import check, objections
from orchestrator.planning.costs.cost_plan import cost_of
from orchestrator.planning.costs.machine import assumed_throughput, machine_memory
from orchestrator.planning.plan import PlanError, plan
from orchestrator.planning.spec.sweep_file import Override
from orchestrator.planning.spec.sweep_spec import load_spec
from tests.helpers.command_line import run, run_in
from tests.helpers.paths import TOY_PRESET

BUDGETS = ("--budgets", "2e18,5e18,16.5e18")
WAYS_ON = ("`mor-sweep data prepare fineweb-edu`", "--preset cpu", "--data FILE")


def raised_by(spec, data=None, device: Device = "cpu", is_here=True):
    planned = plan(spec, data)
    machine = assumed_throughput(device, 2)
    cost = cost_of(planned, spec, {}, machine, measures=False, is_here=False, report=print).cost
    return objections(planned, cost, spec, is_here=is_here)


def toy_spec(text: Path, *budgets: str):
    laid = [
        Override(flag="--data", path=("data", "corpus"), value=str(text)),
        Override(flag="--budgets", path=("budgets",), value=list(budgets)),
    ]
    return load_spec(str(TOY_PRESET), laid)


@pytest.mark.parametrize("flags", [[], ["--yes"]])
def test_the_papers_study_is_not_started_without_its_corpus(tmp_path: Path, flags: list[str]):
    done = run_in(tmp_path, "isoflop", *BUDGETS, *flags)
    assert done.returncode == 4
    assert "isoflop-paper: 36 cells" in done.stderr, "the plan and its cost come first"
    assert "1,080 years" in done.stderr
    first, *_ = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(way in first for way in WAYS_ON)
    assert not (tmp_path / "cache").exists()
    assert not list(tmp_path.glob("results/segments/*"))


def test_a_dry_run_of_it_says_so_in_a_note_and_holds_the_36_cells(tmp_path: Path):
    done = run_in(tmp_path, "isoflop", *BUDGETS, "--dry-run", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)["data"]
    assert len(document["cells"]) == 36
    assert any(all(way in note for way in WAYS_ON) for note in document["notes"])


@pytest.mark.parametrize("verb", [["ablate", "kv"], ["tune"], ["pilot"]])
def test_other_verbs_that_train_on_it_say_the_same(tmp_path: Path, verb: list[str]):
    done = run_in(tmp_path, *verb, "--yes")
    assert done.returncode == 4
    assert all(way in done.stderr for way in WAYS_ON)


def test_little_text_is_refused_before_it_is_prepared_and_in_a_dry_run_noted(toy_text: Path, tmp_path: Path):
    flags = ["--preset", str(TOY_PRESET), "--data", str(toy_text), "--budgets", "1e13", "--sizes", "13k"]
    done = run_in(tmp_path, "isoflop", *flags, "--yes")
    assert done.returncode == 4
    assert "error: 2 of 2 cells would pass more than 4 times over the some" in done.stderr
    assert "--data FILE" in done.stderr
    assert "--yes all the same" not in done.stderr, "no fit would have a cell"
    assert not (tmp_path / "cache").exists()
    noted = run_in(tmp_path, "isoflop", *flags, "--dry-run")
    assert noted.returncode == 0
    assert "note: 2 of 2 cells would pass more than 4 times" in noted.stderr


def test_most_cells_that_no_fit_takes_need_a_yes_and_all_of_them_are_refused(toy_text: Path, toy_cache: Path):
    def raised(*budgets: str):
        spec = toy_spec(toy_text, *budgets)
        return raised_by(spec, prepare(spec.data_spec, toy_cache))

    assert raised("6e8", "1.2e9") == ()
    assert raised("6e8", "1e12") == (), "half of the cells is not most"
    (most,) = raised("6e8", "1e12", "2e12")
    with pytest.raises(PlanError, match="8 of 12 cells would pass more than 4 times over the training tokens"):
        check([most], yes=False)
    check([most], yes=True)
    (whole,) = raised("1e12", "2e12")
    with pytest.raises(PlanError, match="8 of 8 cells"):
        check([whole], yes=True)


def test_expected_tokens_are_within_a_factor_of_two_of_those_that_text_makes(toy_text: Path, toy_cache: Path):
    spec = DataSpec(corpus=str(toy_text), vocab_size=300)
    expected = expected_train_tokens(spec)
    assert expected is not None
    assert 0.5 < expected / prepare(spec, toy_cache).train_tokens < 2
    half = expected_train_tokens(replace(spec, max_megabytes=toy_text.stat().st_size / 2e6))
    assert half == pytest.approx(expected / 2, rel=0.01)
    assert expected_train_tokens(DataSpec(corpus="fineweb-edu", vocab_size=300)) is None


def test_a_plan_whose_largest_cell_does_not_fit_here_says_so():
    text = "".join(each.sentence for each in raised_by(load_spec("paper")))
    fits = machine_memory() > 120e9
    assert ("vanilla 1.7B needs about 120 GB of memory" in text) is not fits
    assert raised_by(load_spec("gpu"), is_here=False) == (), "nothing is known of another machine"


def test_a_gpu_that_is_too_small_by_its_stated_memory_is_named():
    laid = Override(flag="-", path=("execution", "gpu_memory_gigabytes"), value=8)
    _, memory = raised_by(load_spec("paper", [laid]), device="cuda", is_here=False)
    assert "of memory and a GPU has 8 GB" in memory.sentence
    check([memory], yes=True)
    with pytest.raises(PlanError, match=r"execution.micro_batch \(16\)"):
        check([memory], yes=False)


def test_workers_that_together_need_too_much_are_told_how_many_fit(monkeypatch: pytest.MonkeyPatch):
    spec = load_spec("gpu")
    (largest,) = [
        each for each in raised_by_with_memory(monkeypatch, spec, 3 * 10**9) if "--workers 1" in each.sentence
    ]
    assert not largest.is_final


def raised_by_with_memory(monkeypatch: pytest.MonkeyPatch, spec, memory: int):
    """On a machine of so many bytes."""
    monkeypatch.setattr("orchestrator.planning.costs.machine.machine_memory", lambda: memory)
    return raised_by(spec)


def test_a_sweep_that_is_trained_already_meets_no_objection(toy, monkeypatch: pytest.MonkeyPatch):
    """`run` is what the fixture's sweep is run by: a second call trains nothing, whatever the memory."""
    few = ("--sizes", "13k", "--arms", "vanilla", "--budgets", "6e8")
    assert toy.run(*few).returncode == 0
    monkeypatch.setattr("orchestrator.planning.costs.machine.machine_memory", lambda: 1)
    command = toy.command("--no-mlflow", "--executor", "in-process", *few)
    again = run(*[each for each in command[command.index("isoflop") :] if each != "--yes"], **toy.environment)
    assert again.returncode == 0, again.stderr
