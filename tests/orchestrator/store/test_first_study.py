"""A results folder of the first version is read, verified, fitted to the same numbers and continued."""

import json
import os
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from tests.helpers.paths import FIRST_STUDY
from tests.helpers.toy_sweep import run_here

"""See tests/fixtures/README.md."""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study as its author left it: the working folder of every command below."""
    folder = tmp_path / "study"
    shutil.copytree(FIRST_STUDY, folder)
    monkeypatch.chdir(folder)
    return folder


def run(study: Path, *arguments: str, expected: int = 0) -> str:
    """stdout of a command in the study's folder, which must end with the expected code."""
    done = run_here(list(arguments), os.environ | {"MOR_SWEEP_CACHE": str(study / "cache")})
    assert done.returncode == expected, done.stderr
    return done.stdout


def planned_ids(study: Path) -> set[str]:
    """Ids of all cells and segments that the study's sweep.json plans."""
    document = json.loads((study / "results/sweeps/first/sweep.json").read_text())
    rows = [row for revision in document["revisions"] for row in (*revision["cells"], *revision["segments"])]
    return {row.get("cell_id") or row["id"] for row in rows}


def test_its_cells_are_read_with_the_losses_that_were_written(study: Path) -> None:
    written = pl.read_parquet(study / "results/sweeps/first/runs.parquet")
    document = json.loads(run(study, "status", "first", "--json"))
    losses = {row["cell_id"]: row["loss"] for row in document["data"]["runs"] if row["status"] == "finished"}
    assert losses == dict(written.select("cell_id", "loss").iter_rows())
    assert len(losses) == 13


def test_it_verifies(study: Path) -> None:
    document = json.loads(run(study, "fsck", "--json"))
    assert [row for row in document["data"]["findings"] if not row["is_note"]] == []
    assert document["data"]["segments"] == 39


def test_its_files_are_those_that_the_first_version_wrote() -> None:
    """A fixture that a test or a tool had written to would prove nothing."""
    files = sorted(path for path in FIRST_STUDY.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) < 2**20
    results = [json.loads(path.read_text()) for path in files if path.name == "result.json"]
    assert {result["schema"] for result in results} == {"mor-sweep.result/1"}
    assert not any("sha256" in result for result in results)


LATER = {"doubts", "interval", "over_budgets", "repeated", "excess", "repetition", "shared_exponents"}
"""What later versions say besides: why a surface may not be the law, the interval of a budget left out, arms over all
budgets, laws of repeated text, what repetition costs run by run, that of arms beside each other, and arms with shared
exponents."""
NUMBER = re.compile(r"\d[\d.]*(?:e[+-]?\d+|[kMBT]\b)?")
"""In a sentence; the same stand in the document as numbers."""
UNDETERMINED = {"low", "high", "held_out", "relative_gradient", "share_reached"}
"""What the last bits of a CPU decide about a law of which E went to nothing: such fits end anywhere near 0, and so do
those to redrawn losses, to fewer budgets and with one parameter held."""


def leaves(document: object, *path: str | int) -> dict[tuple[str | int, ...], object]:
    """What a JSON document holds, by the keys and places that lead to it."""
    if isinstance(document, dict) and document:
        return {place: value for key in document for place, value in leaves(document[key], *path, key).items()}
    if isinstance(document, list) and document:
        rows = enumerate(document)
        return {place: value for index, row in rows for place, value in leaves(row, *path, index).items()}
    return {path: document}


def close(path: tuple[str | int, ...], now: object, before: object) -> bool:
    """Whether a number is the one that another CPU wrote; anything else must be equal."""
    if isinstance(before, str):
        # Sentences named the unit when a fit was of no other, and wrote sizes of thousands in full.
        return NUMBER.sub("#", now) == NUMBER.sub("#", before.replace(" nats", ""))
    if not isinstance(before, float):
        return now == before
    if path[:2] == ("frontiers", 0):
        return now == pytest.approx(before, rel=1e-12)  # No law of E, A and B.
    return not UNDETERMINED.isdisjoint(path) or now == pytest.approx(before, rel=1e-5, abs=1e-9)


def test_it_is_fitted_to_the_same_numbers(study: Path) -> None:
    """CPUs differ by 4e-7 in what the fits find, by 2e-15 where there is no surface; see UNDETERMINED for the rest."""
    before = leaves(json.loads((study / "results/sweeps/first/fits.json").read_text()))
    run(study, "fit", "first")
    now = leaves(json.loads((study / "results/sweeps/first/fits.json").read_text()))
    assert [path for path in now if LATER.isdisjoint(path)] == list(before)
    assert [(path, now[path], value) for path, value in before.items() if not close(path, now[path], value)] == []


TRAIN = ("isoflop", "--executor", "in-process", "--no-mlflow", "--yes", "--preset", "sweep.toml", "--only", "mor-4")
UNFINISHED = ("--sizes", "5.5k", "--budgets", "4e9", "--seeds", "1")
"""The cell whose trunk was interrupted at step 549 of 1383."""


def results_of(study: Path) -> dict[str, bytes]:
    """The bytes of every published result, by segment id."""
    return {path.parent.name: path.read_bytes() for path in study.glob("results/segments/*/result.json")}


def test_its_sweep_file_is_planned_to_the_ids_on_disk_and_its_unfinished_trunk_is_continued(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended soon by a rehearsed defect: the curve so far, with a mark in it, is what tells that it was continued."""
    ids, published = planned_ids(study), results_of(study)
    run(study, *TRAIN)
    (checkpoint,) = study.glob("results/attempts/*/*/checkpoint-549")
    before = checkpoint.parent / "metrics.jsonl"
    first, *rest = [json.loads(line) for line in before.read_text().splitlines()]
    marked = [first | {"loss": 123.0}, *rest]
    before.write_text("".join(json.dumps(row) + "\n" for row in marked))
    monkeypatch.setenv("MOR_SWEEP_REHEARSE", "raise step=571")
    run(study, *TRAIN, *UNFINISHED, expected=3)
    (curve,) = before.parent.parent.glob("002-*/metrics.jsonl")
    rows = [json.loads(line) for line in curve.read_text().splitlines()]
    assert rows[: len(marked)] == marked
    assert [row["step"] for row in rows[len(marked) :]] == [550, 560, 570]
    assert planned_ids(study) == ids
    assert results_of(study) == published, "nothing that was published is written again"


@pytest.mark.slow
def test_its_unfinished_trunk_is_trained_to_its_end(study: Path) -> None:
    published = results_of(study)
    run(study, *TRAIN, *UNFINISHED)
    now = results_of(study)
    assert now | published == now, "nothing that was published is written again"
    stable = [json.loads(content) for name, content in now.items() if name not in published]
    executed = next(result["steps_executed"] for result in stable if result["kind"] == "stable")
    assert executed == 1383 - 549, "the attempt's checkpoint is where the trunk goes on"
    runs = pl.read_parquet(study / "results/sweeps/first/runs.parquet")
    assert runs["status"].to_list() == ["finished"] * 14
