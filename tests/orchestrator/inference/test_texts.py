"""`mor-sweep eval --text NAME=FILE` on the toy sweep: each loss is a segment, measured once, that any fit can be of."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from mor_core.data.snapshot import TOKENIZER_FILE
from mor_core.data.tokens.text_tokens import read_tokens
from mor_core.training.rehearsal import VARIABLE
from orchestrator.inference import evaluations
from orchestrator.inference.text_loss import text_loss
from orchestrator.maintenance.bundle import export_bundle
from orchestrator.maintenance.bundle_import import import_bundle
from orchestrator.maintenance.fsck import check_results
from orchestrator.maintenance.gc import collect, find_garbage
from orchestrator.records.revisions import load_sweep
from orchestrator.records.table import table
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import sweep_texts
from orchestrator.tracking.content import run_content
from tests.faults.disturbances import wait_for
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep, rewrite_result, run_here
from tests.orchestrator.inference.test_tasks import CELLS, load

NUM_CELLS = 12
COLUMN = "text:wiki"


@pytest.fixture(scope="module")
def text(toy_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "some.txt"
    path.write_text(toy_text.read_text()[:3000])
    return path


@pytest.fixture(autouse=True)
def unmirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test the start of MLflow, which has no part in what it is about."""
    mirror = nullcontext(SimpleNamespace(warning=""))
    monkeypatch.setattr(evaluations, "following", lambda *_: mirror)


@pytest.fixture
def copy(reference: ToySweep, tmp_path: Path) -> ToySweep:
    """The undisturbed toy sweep in a folder of its own."""
    return copied(reference, tmp_path / "results")


def copied(sweep: ToySweep, folder: Path) -> ToySweep:
    shutil.copytree(sweep.results, folder, ignore=shutil.ignore_patterns("attempts"))
    (folder / "attempts").mkdir(exist_ok=True)
    return replace(sweep, results=folder)


@pytest.fixture(scope="module")
def measured(
    reference: ToySweep, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ToySweep, subprocess.CompletedProcess[str]]:
    """The toy sweep whose cells were all measured on a text."""
    sweep = copied(reference, tmp_path_factory.mktemp("measured") / "results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluations, "following", lambda *_: nullcontext(SimpleNamespace(warning="")))
        return sweep, measure(sweep, text)


def words(sweep: ToySweep, text: Path | str, *flags: str, name: str = "wiki") -> list[str]:
    return ["eval", "--text", f"{name}={text}", "--executor", "in-process", "--results", str(sweep.results), *flags]


def measure(sweep: ToySweep, text: Path | str, *flags: str, name: str = "wiki") -> subprocess.CompletedProcess[str]:
    return run_here(words(sweep, text, "--json", *flags, name=name), sweep.environment)


def runs_of(sweep: ToySweep) -> pl.DataFrame:
    return pl.read_parquet(sweep.results / "sweeps/toy/runs.parquet")


def new_results(sweep: ToySweep, before: ToySweep) -> dict[str, bytes]:
    """Published results that another folder does not have."""
    return {name: content for name, content in sweep.published().items() if name not in before.published()}


def test_every_cell_is_measured_as_the_cell_itself_measures_the_text(measured, reference: ToySweep, text: Path):
    sweep, done = measured
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "mor-sweep.eval/1"
    rows = {row["cell"]: row for row in document["data"]["rows"]}
    assert len(rows) == NUM_CELLS
    for name in CELLS:
        trained, row = load(sweep, name), rows[f"{name}/0"]
        tokens = read_tokens(text, trained.data.folder / TOKENIZER_FILE, trained.cell.model.vocab_size)
        expected = text_loss(trained, tokens).losses.row(0, named=True)
        assert expected["rule"] in ("threshold", "causal")
        for number in ("loss", "standard_error", "bits_per_byte"):
            assert row[number] == pytest.approx(expected[number], abs=1e-6)
        assert row["tokens"] == expected["tokens"] == len(tokens) - 1
    runs, before = runs_of(sweep), runs_of(reference)
    assert runs.columns == [*before.columns, COLUMN]
    assert runs.drop(COLUMN).equals(before), "what was there has not moved"
    assert sorted(runs[COLUMN]) == sorted(row["loss"] for row in rows.values())
    assert sweep.published().items() >= reference.published().items()


def test_nothing_is_measured_twice_whatever_the_text_is_called(measured, text: Path, tmp_path: Path):
    sweep = copied(measured[0], tmp_path / "results")
    before = sweep.published()
    again = measure(sweep, text)
    assert again.stdout == measured[1].stdout
    shutil.copyfile(text, tmp_path / "elsewhere.txt")
    other = measure(sweep, tmp_path / "elsewhere.txt", name="the-same")
    assert other.returncode == 0, other.stderr
    assert sweep.published() == before
    assert list((sweep.results / "attempts").iterdir()) == []
    runs = runs_of(sweep)
    assert runs["text:the-same"].to_list() == runs[COLUMN].to_list()


def test_the_text_stands_in_mlflow_and_the_folder_is_whole(measured):
    sweep, _ = measured
    store = Store(root=sweep.results)
    row = table(store, load_sweep(store, "toy")).row(0, named=True)
    final = {name: value for name, value, _ in run_content(row, [], {}, None).final}
    assert final["text/wiki"] == row[COLUMN]
    assert check_results(store, ask_mlflow=False).problems == ()


def test_a_false_loss_of_a_text_is_found(measured, reference: ToySweep, tmp_path: Path):
    sweep = copied(measured[0], tmp_path / "results")
    one, other = sorted(new_results(sweep, reference))[:2]
    rewrite_result(sweep.results / f"segments/{one}/result.json", lambda result: result["text"].update(loss="low"))
    rewrite_result(sweep.results / f"segments/{other}/result.json", lambda result: result["text"].update(loss=0.5))
    found = [finding.line() for finding in check_results(Store(root=sweep.results), ask_mlflow=False).problems]
    assert any("text.loss: input should be a valid number, not 'low'" in line for line in found)
    assert any("runs.parquet" in line for line in found)


def test_a_run_that_is_killed_goes_on_with_what_is_missing(copy: ToySweep, reference: ToySweep, text: Path):
    command = [*MOR_SWEEP, *words(copy, text)]
    process = subprocess.Popen(
        command, env=copy.environment | {VARIABLE: "slow kind=evaluate"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(lambda: len(new_results(copy, reference)) >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = new_results(copy, reference)
    assert 2 <= len(kept) < NUM_CELLS
    done = measure(copy, text)
    assert done.returncode == 0, done.stderr
    after = new_results(copy, reference)
    assert len(after) == NUM_CELLS
    assert {name: after[name] for name in kept} == kept
    assert all(len(list((copy.results / "attempts" / name).glob("*/log.txt"))) == 1 for name in kept)
    assert runs_of(copy)[COLUMN].null_count() == 0


def test_cells_whose_weights_are_gone_are_named_and_null_and_what_was_measured_stays(
    copy: ToySweep, text: Path, tmp_path: Path
):
    assert measure(copy, text, CELLS[0]).returncode == 0
    store = Store(root=copy.results)
    collect(store, find_garbage(store, weights=True))
    done = measure(copy, text)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert [row["cell"] for row in data["rows"]] == [f"{CELLS[0]}/0"]
    assert len(data["left_out"]) == NUM_CELLS - 1
    assert f"{CELLS[1]}/0" in data["left_out"]
    assert f"{CELLS[1]}/0" in done.stderr
    assert runs_of(copy)[COLUMN].null_count() == NUM_CELLS - 1
    refused = measure(copy, text, CELLS[1])
    assert refused.returncode == 2
    assert "were removed by `mor-sweep gc`" in " ".join(refused.stderr.split())


def test_a_fit_is_of_the_text_that_was_measured(measured):
    sweep, _ = measured
    shown = run_here(
        ["fit", "--loss", COLUMN, "--approach", "parabola", "--json", "--results", str(sweep.results)],
        sweep.environment,
    )
    assert shown.returncode in (0, 5), shown.stderr
    data = json.loads(shown.stdout)["data"]
    assert (data["loss_column"], data["loss_unit"]) == (COLUMN, "nats/token")
    drawn = run_here(["plot", "curves", "--loss", COLUMN, "--results", str(sweep.results)], sweep.environment)
    assert drawn.returncode == 0, drawn.stderr


def test_a_bundle_carries_the_losses_of_texts_and_what_they_are_called(measured, tmp_path: Path):
    sweep, _ = measured
    export_bundle(Store(root=sweep.results), "toy", tmp_path / "toy.tar", checkpoints=False)
    store = Store(root=tmp_path / "there")
    store.root.mkdir()
    import_bundle(store, tmp_path / "toy.tar")
    assert table(store, load_sweep(store, "toy"))[COLUMN].to_list() == runs_of(sweep)[COLUMN].to_list()


def test_what_a_bundle_calls_its_texts_is_known_beside_what_is_here(
    measured, copy: ToySweep, text: Path, tmp_path: Path
):
    export_bundle(Store(root=measured[0].results), "toy", tmp_path / "toy.tar", checkpoints=False)
    (tmp_path / "mine.txt").write_text(text.read_text()[:500])
    assert measure(copy, tmp_path / "mine.txt", CELLS[0], name="mine").returncode == 0
    import_bundle(Store(root=copy.results), tmp_path / "toy.tar")
    assert {COLUMN, "text:mine"} <= set(runs_of(copy).columns)


def test_two_texts_of_one_name_are_refused_and_a_name_that_measured_nothing_is_free(
    copy: ToySweep, text: Path, tmp_path: Path
):
    other = tmp_path / "other.txt"
    other.write_text(text.read_text()[:500])
    assert measure(copy, text, CELLS[0]).returncode == 0
    before = copy.published()
    refused = measure(copy, other)
    assert refused.returncode == 2
    said = " ".join(refused.stderr.split())
    assert "text 'wiki' of sweep toy is another one" in said
    assert "give this one another name" in said
    assert copy.published() == before
    assert measure(copy, other, CELLS[0], name="short").returncode == 0
    for name in new_names(copy, before):
        shutil.rmtree(copy.results / "segments" / name)
    assert measure(copy, text, CELLS[0], name="short").returncode == 0
    texts = sweep_texts(Store(root=copy.results), "toy")
    assert texts["short"].sha256 == texts["wiki"].sha256


def new_names(sweep: ToySweep, before: dict[str, bytes]) -> list[str]:
    return [name for name in sweep.published() if name not in before]


@pytest.mark.parametrize(
    ("name", "content", "flags", "said"),
    [
        ("wi ki", "some text", (), "expected a name of up to 100 letters, digits, dots, dashes and underscores"),
        ("", "some text", (), "expected a name"),
        ("wiki", None, (), "there is no file"),
        ("wiki", "", (), "some.txt"),
        ("wiki", "some text", ("--rule", "half"), "is measured under the rule of `loss`"),
        ("wiki", "some text", ("no-arm/23k/2.4e9",), "no-arm/23k/2.4e9"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    reference: ToySweep, tmp_path: Path, name: str, content: str | None, flags: tuple[str, ...], said: str
):
    path = tmp_path / "some.txt"
    if content is not None:
        path.write_text(content)
    done = measure(reference, path, *flags, name=name)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (reference.results / "sweeps/toy/texts.json").exists()


def test_tokens_that_cannot_be_measured_are_refused_before_anything_is_named(reference: ToySweep, tmp_path: Path):
    np.save(tmp_path / "one.npy", np.array([1]))
    for path, said in ((tmp_path / "one.npy", "at least 2"), (tmp_path / "none.npy", "there is no file")):
        done = measure(reference, path)
        assert done.returncode == 2
        assert said in done.stderr
    assert not (reference.results / "sweeps/toy/texts.json").exists()


def test_a_text_without_a_name_asks_for_a_cell(reference: ToySweep, text: Path):
    done = run_here(["eval", "--text", str(text), "--results", str(reference.results)], reference.environment)
    assert done.returncode == 2
    assert "--text NAME=FILE measures all cells on it" in " ".join(done.stderr.split())


def test_a_file_of_names_that_cannot_be_read_is_one_sentence(measured, tmp_path: Path):
    sweep = copied(measured[0], tmp_path / "results")
    path = sweep.results / "sweeps/toy/texts.json"
    for content in ("{", '{"schema": "other"}', '{"schema": "mor-sweep.texts/1", "texts": {"../x": {}}}'):
        path.write_text(content)
        shown = run_here(["fit", "--results", str(sweep.results)], sweep.environment)
        assert shown.returncode in (1, 2)
        assert "texts.json cannot be read" in " ".join(shown.stderr.split())
        assert "Traceback" not in shown.stderr
