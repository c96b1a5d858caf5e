"""`mor-sweep eval --tasks` on the toy sweep: scores are segments, computed once, resumed, shown everywhere."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from mor_core.data.snapshot import DataSnapshot
from mor_core.interop.scoring import length_batches
from mor_core.interop.tasks import read_task
from mor_core.interop.text_model import TextModel
from orchestrator.cli.main import app, exit_code_of
from orchestrator.inference.trained_cell import TrainedCell, finished_weights, load_trained_cell
from orchestrator.maintenance.fsck import check_results
from orchestrator.records.cell_names import find_cell
from orchestrator.records.revisions import load_sweep
from orchestrator.running.segment.worker import run_segment
from orchestrator.store.published import SegmentResult
from orchestrator.store.store import Store
from tests.helpers.paths import ROOT
from tests.helpers.single_segment import job_for
from tests.helpers.task_segment import task_segment
from tests.helpers.toy_sweep import ToySweep, rewrite_result

CELLS = ("mor-2/23k/2.4e9", "vanilla/23k/2.4e9")
SCRIPT = ROOT / "tests/helpers/task_segment.py"


def run(sweep: ToySweep, *words: str) -> Result:
    return CliRunner().invoke(
        app, [*words, "--results", str(sweep.results)], env=sweep.environment | {"MOR_SWEEP_TASKS": None}
    )


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task that a toy model can learn, one of last words, and one of many batches."""
    folder, generator = tmp_path_factory.mktemp("tasks"), random.Random(1)
    verbs = ["reads", "keeps", "drops", "repeats"]
    subjects = ["the model", "a token", "the router", "one layer"]
    numbers = [f" {generator.randrange(100)}. {generator.choice(subjects)}" for _ in range(4000)]
    verb_rows = [
        {
            "context": f"{numbers[2 * i].strip()} {verbs[i % 4]}{numbers[2 * i + 1]}",
            "choices": [f" {verbs[(i + 1) % 4]}", " oeldrm krrstyx", f" {i % 7}!"],
            "label": 0,
        }
        for i in range(30)
    ]
    words = [{"context": subject[:-2], "choices": [subject[-2:]], "label": 0} for subject in subjects]
    many = [
        {"context": numbers[i], "choices": [numbers[i - 1], numbers[i - 2]], "label": i % 2} for i in range(2, 4000)
    ]
    for name, rows in (("verbs", verb_rows), ("words", words), ("many", many)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def scored(
    reference: ToySweep, tasks: Path, schema: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ToySweep, Result]:
    """A copy of the toy sweep of which two cells were scored on two tasks."""
    sweep = replace(reference, results=tmp_path_factory.mktemp("scored") / "results")
    shutil.copytree(reference.results, sweep.results)
    shutil.copyfile(schema, sweep.results / "sweeps/toy/mlflow.db")
    return sweep, ask(sweep, tasks, "--json")


def ask(sweep: ToySweep, tasks: Path, *flags: str, names: str = "verbs,words") -> Result:
    common = ["--tasks", names, "--task-files", str(tasks), "--executor", "in-process"]
    return run(sweep, "eval", *CELLS, *common, *flags)


def load(sweep: ToySweep, name: str) -> TrainedCell:
    store = Store(root=sweep.results)
    loaded = load_sweep(store, "toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOR_SWEEP_CACHE", str(sweep.cache))
        return load_trained_cell(store, loaded, find_cell(loaded, name))


def test_a_score_is_published_with_its_error_and_baselines_and_is_that_of_the_model(
    scored: tuple[ToySweep, Result], tasks: Path
):
    sweep, done = scored
    assert done.exit_code == 0, done.output
    rows = {(row["cell"], row["task"]): row for row in json.loads(done.stdout)["data"]["rows"]}
    assert len(rows) == 4
    for name in CELLS:
        trained, row = load(sweep, name), rows[f"{name}/0", "verbs"]
        model = TextModel(model=trained.model, tokenizer=trained.tokenizer, end_of_text=trained.end_of_text)
        task = read_task("verbs", tasks)
        found = [score.log_likelihood for score in model.log_likelihoods(task.pairs)]
        right = sum(max(found[i : i + 3]) == found[i] for i in range(0, 90, 3))
        assert row["score"] == pytest.approx(right / 30)
        nats = [-found[3 * place] / len(item.choices[0].encode()) for place, item in enumerate(task.items)]
        assert row["bits_per_byte"] == pytest.approx(sum(nats) / 30 / math.log(2), rel=1e-4)
        assert row["items"] == 30
        assert row["chance"] == pytest.approx(1 / 3)
        assert row["longest"] == 0.0
        assert row["standard_error"] == pytest.approx((row["score"] * (1 - row["score"]) / 29) ** 0.5)
        assert row["score"] > 0.5  # It has learned that sentences have verbs.
        assert rows[f"{name}/0", "words"]["longest"] is None


def test_the_scores_stand_in_the_table_and_in_mlflow_and_the_folder_is_whole(scored: tuple[ToySweep, Result]):
    sweep, done = scored
    rows = {(row["cell"], row["task"]): row for row in json.loads(done.stdout)["data"]["rows"]}
    runs = pl.read_parquet(sweep.results / "sweeps/toy/runs.parquet")
    assert runs["tasks"].null_count() == 10
    cell = runs.filter(arm="mor-2", size="23k", budget="2400000000").row(0, named=True)
    said = json.loads(cell["tasks"])
    assert said.keys() == {"verbs", "words"}
    assert said["verbs"]["score"] == rows["mor-2/23k/2.4e9/0", "verbs"]["score"]
    assert cell["task_average"] is None
    assert "MLflow mirror incomplete" not in done.stderr
    report = check_results(Store(root=sweep.results))
    assert report.problems == ()
    assert not any("differs" in finding.line() or "behind" in finding.line() for finding in report.findings)


def test_the_table_of_tasks_is_what_was_published(scored: tuple[ToySweep, Result]):
    sweep, done = scored
    rows = {(row["cell"], row["task"]): row for row in json.loads(done.stdout)["data"]["rows"]}
    assert json.loads(done.stdout)["schema"] == "mor-sweep.eval/1"
    table = json.loads(run(sweep, "table", "--tasks", "--json").stdout)
    assert table["schema"] == "mor-sweep.task-table/1"
    cells = table["data"]["rows"]
    assert [row["arm"] for row in cells] == ["mor-2", "vanilla"]
    for cell, name in zip(cells, CELLS, strict=True):
        assert cell["verbs"] == rows[f"{name}/0", "verbs"]["score"]
        assert cell["words_standard_error"] == rows[f"{name}/0", "words"]["standard_error"]
    shown = run(sweep, "table", "--tasks").stdout
    assert shown.splitlines()[0] == "| arm | size | budget | seed | loss | verbs | words | average |"
    assert shown.splitlines()[-1] == "| chance |  |  |  |  | 33.3 | 0.0 |  |"


def test_what_is_scored_already_is_not_scored_again(scored: tuple[ToySweep, Result], tasks: Path):
    sweep, done = scored
    before, attempts = sweep.published(), sorted(sweep.results.glob("attempts/*/*"))
    again = ask(sweep, tasks, "--json")
    assert again.exit_code == 0, again.output
    assert again.stdout == done.stdout
    assert sweep.published() == before
    assert sorted(sweep.results.glob("attempts/*/*")) == attempts
    shown = ask(sweep, tasks)
    assert "standard" not in shown.stdout
    assert "longest" in shown.stdout


def test_a_lost_or_false_score_is_found(scored: tuple[ToySweep, Result], tmp_path: Path):
    shutil.copytree(scored[0].results, tmp_path / "results")
    hints = sorted((tmp_path / "results" / "tasks").glob("*/*"))
    hints[0].unlink()
    path = tmp_path / "results" / "segments" / hints[1].name / "result.json"
    rewrite_result(path, lambda result: result["task"].update(score="all"))
    found = [finding.line() for finding in check_results(Store(root=tmp_path / "results"), ask_mlflow=False).problems]
    assert any(f"{hints[0].name}: is missing" in line for line in found)
    assert any("task.score: input should be a valid number, not 'all'" in line for line in found)
    assert any("runs.parquet" in line for line in found)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--tasks", "hellaswag"), "--tasks needs the task files"),
        (("--tasks", "x", "--text", "y"), "give --tasks or --text"),
        ((), "give --tasks or --text"),
        (("--tasks", "verbz", "--task-files", "TASKS"), "expected one of lambada"),
        (("--text", "NOTHING"), "there is no file"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    reference: ToySweep, tasks: Path, tmp_path: Path, flags: tuple[str, ...], said: str
):
    places = {"TASKS": str(tasks), "NOTHING": str(tmp_path / "nothing.txt")}
    done = run(reference, "eval", CELLS[0], *(places.get(flag, flag) for flag in flags))
    assert (exit_code_of(done.exception) or done.exit_code) == 2, done.output
    assert said in f"{done.exception} {done.stderr}"
    assert done.stdout == ""


def start(sweep: ToySweep, data: DataSnapshot, tasks: Path, weights: str, fault: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(SCRIPT), str(sweep.results), str(data.folder), str(tasks), weights, "many", "half"]
    return subprocess.Popen(command, env=sweep.environment | {"MOR_SWEEP_REHEARSE": fault})


@pytest.mark.slow
def test_an_evaluation_that_is_killed_goes_on_and_ends_with_the_same_bits(
    reference: ToySweep, data: DataSnapshot, tasks: Path, tmp_path: Path
):
    results: dict[str, SegmentResult] = {}
    scores: dict[str, list] = {}
    for name in ("undisturbed", "killed"):
        sweep = replace(reference, results=tmp_path / name)
        shutil.copytree(reference.results, sweep.results)
        store = Store(root=sweep.results)
        weights = finished_weights(store, load_sweep(store, "toy"), find_cell(load_sweep(store, "toy"), CELLS[0]))
        segment = task_segment(store, weights, tasks, "many", "half")
        if name == "killed":
            process = start(sweep, data, tasks, weights, "hang step=4 kind=evaluate")
            deadline = time.monotonic() + 120
            while (said := store.attempts(segment.id).progress()) is None or said.step < 3:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert run_segment(segment, job_for(sweep.results, data, task_folder=tasks)).status == "finished"
        result = store.result(segment.id)
        assert result
        results[name] = result
        lines = (store.segment_folder(segment.id) / "metrics.jsonl").read_text().splitlines()
        scores[name] = sorted(map(json.loads, lines), key=lambda row: row["step"])
    assert results["undisturbed"].batches == results["undisturbed"].batches_executed > 6
    assert results["killed"].batches_executed == results["killed"].batches - 3
    assert results["killed"].attempts == 2
    assert results["killed"].task == results["undisturbed"].task
    assert scores["killed"] == scores["undisturbed"]


def test_the_batches_of_a_task_do_not_depend_on_who_forms_them(reference: ToySweep, tasks: Path):
    trained = load(reference, CELLS[0])
    model = TextModel(model=trained.model, tokenizer=trained.tokenizer, end_of_text=trained.end_of_text)
    pairs = read_task("many", tasks).pairs
    once, twice = ([span for each in model.spans_of(pairs) for span in each.spans] for _ in range(2))
    assert length_batches(once) == length_batches(twice)
