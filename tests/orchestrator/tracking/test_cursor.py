"""What is remembered of what an MLflow store was sent."""

import json
from pathlib import Path

import pytest

from orchestrator.store.store import Store
from orchestrator.tracking.cursor import Cursor, SentRun, read_cursor, write_cursor

URI = "http://localhost:5000"
SENT = Cursor(
    experiment_id="3",
    runs={"cell": SentRun(run_id="run", state="finished", rows=7, rows_sha256="digits")},
    files="sums",
    summary="figures",
    database="as it was",
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "sweeps/sweep").mkdir(parents=True)
    return Store(root=tmp_path)


def test_a_cursor_is_read_as_it_was_written_and_others_beside_it_stay(store: Store):
    write_cursor(store, "sweep", URI, SENT)
    write_cursor(store, "sweep", "http://elsewhere:5000", Cursor(experiment_id="4"))
    assert read_cursor(store, "sweep", URI) == SENT
    assert read_cursor(store, "sweep", "http://elsewhere:5000") == Cursor(experiment_id="4")
    assert read_cursor(store, "sweep", "http://nowhere:5000") == Cursor()


@pytest.mark.parametrize("damage", [{"runs": {"cell": {"run_id": 3}}}, {"runs": None}, {"experiment_id": 3}, []])
def test_what_this_program_did_not_write_counts_as_nothing_sent(store: Store, damage: object):
    write_cursor(store, "sweep", URI, SENT)
    path = store.sweep_folder("sweep") / "mirror.json"
    document = json.loads(path.read_text())
    assert list(document["stores"]) == [URI]
    path.write_text(json.dumps(document | {"stores": {URI: damage}}))
    assert read_cursor(store, "sweep", URI) == Cursor()
