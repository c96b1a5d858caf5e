"""MLflow equals the results store after a sync, whatever it held before."""

import json
import math
import os
import shutil
import socket
import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mor_core.files import file_sha256
from mor_core.units import budget_text
from orchestrator.cli.main import app, exit_code_of
from orchestrator.maintenance.fsck import check_results
from orchestrator.records.curves import curve
from orchestrator.records.fits.forecasts import keep_forecast
from orchestrator.records.status.verified_cells import VerifiedCells, shown_lines
from orchestrator.records.table import table
from orchestrator.store.losses import LOG_EVERY_STEPS
from orchestrator.store.store import Store
from orchestrator.tracking import cursor
from orchestrator.tracking.check import differences
from orchestrator.tracking.cursor import is_current, is_sent
from orchestrator.tracking.follower import follow
from orchestrator.tracking.mirror import MirrorError, sync
from tests.helpers.mirror_samples import (
    NAME,
    Sample,
    active_runs,
    change,
    fail,
    history,
    publish,
    query,
    rewrite_curve,
    sample,
    status,
    tags,
)
from tests.helpers.runs.forecast_sweep import made_up_forecast

STORED = ("runs", "metrics", "latest_metrics", "params", "tags")


def contents(database: Path) -> dict[str, list[tuple]]:
    return {name: sorted(query(database, f"SELECT * FROM {name}"), key=repr) for name in STORED}


def assert_equal_to_the_store(made: Sample) -> None:
    """Every cell has one run, each step of its curve stands once, and status and losses are the store's."""
    runs, rows = active_runs(made.database), table(made.store, made.sweep)
    assert set(runs) == set(rows["cell_id"])
    for cell, row in zip(made.sweep.cells, rows.iter_rows(named=True), strict=True):
        run = runs[row["cell_id"]]
        stored = curve(made.store, made.sweep, cell)
        for name in ("loss", "gradient_norm", "learning_rate", "tokens"):
            assert history(made.database, run, f"train/{name}") == [(each["step"], each[name]) for each in stored]
        expected = [(row["steps"], row["loss"])] if row["loss"] is not None else []
        assert history(made.database, run, "loss") == expected
        assert tags(made.database, run)["mor.status"] == row["status"]


def send(made: Sample, **options: bool):
    return sync(made.store, made.sweep, made.uri, **options)


def test_every_cell_is_a_flat_run_with_its_tags_parameters_and_losses(small: Sample):
    small.publish_all()
    send(small)
    assert_equal_to_the_store(small)
    for row in table(small.store, small.sweep).iter_rows(named=True):
        run = active_runs(small.database)[row["cell_id"]]
        shown = tags(small.database, run)
        assert "mlflow.parentRunId" not in shown
        for name in ("arm", "size", "budget_convention", "recursions", "seed", "trunk_id"):
            assert shown[f"mor.{name}"] == str(row[name])
        assert shown["mor.budget"] == budget_text(int(row["budget"])) == shown["mlflow.runName"].split()[2]
        assert shown["mor.sweep"] == NAME
        assert shown["mlflow.runName"] == f"{row['arm']} 70k {row['budget'][0]}e11 seed 0".replace("1e11", "1.5e11")
        params = dict(query(small.database, "SELECT key, value FROM params WHERE run_uuid = ?", run))
        assert params["unique_params"] == str(row["unique_params"])
        assert len(params) <= 40
        assert history(small.database, run, "flops_exact") == [(row["steps"], float(row["flops_exact"]))]
        for name, column in {"N": "unique_params", "D": "tokens", "C": "flops_exact"}.items():
            assert history(small.database, run, name) == [(0, float(row[column]))]
        assert status(small.database, run) == "FINISHED"


def test_a_curve_begins_at_step_1_and_ends_with_the_last_step(small: Sample):
    small.publish_all()
    send(small)
    for cell in small.sweep.cells:
        points = history(small.database, active_runs(small.database)[str(cell.cell_id)], "train/loss")
        assert (points[0][0], points[-1][0]) == (1, cell.steps)


def test_syncing_twice_adds_nothing(small: Sample):
    small.publish_all()
    send(small)
    before = contents(small.database)
    assert send(small).points == 0
    assert contents(small.database) == before
    send(small, thorough=True)
    assert contents(small.database) == before


def test_a_growing_sweep_shows_each_step_once(small: Sample):
    stable = [segment for segment in small.plan.segments if segment.kind == "stable"]
    for segment in stable[:2]:
        publish(small.store, segment)
        send(small)
        assert_equal_to_the_store(small)
    small.publish_all()
    send(small)
    for budgets in (["1e12"], ["2.5e11"]):  # a longer trunk, then one whose end lies inside what was sent
        grown = sample(small.store.root, *budgets, sizes=("70k",))
        grown.publish_all()
        send(grown)
        assert_equal_to_the_store(grown)
    assert len(grown.sweep.cells) == 8


def test_the_cells_status_is_the_stores(small: Sample):
    first, second = [segment for segment in small.plan.segments if segment.kind == "evaluate"][:2]
    diverging = next(segment for segment in small.plan.segments if segment.id in second.needs)
    for segment in small.plan.segments:
        if segment.kind == "stable" or segment.id in first.needs:
            publish(small.store, segment)
    publish(small.store, diverging, status="diverged", reason="loss nan at step 80")
    fail(small.store, first, "out of memory: 3 GB")
    send(small)
    assert_equal_to_the_store(small)
    runs = {tags(small.database, run)["mor.evaluate_segment"]: run for run in active_runs(small.database).values()}
    assert sorted(status(small.database, run) for run in runs.values()) == [
        "FAILED",
        "FAILED",
        "SCHEDULED",
        "SCHEDULED",
    ]
    assert "out of memory: 3 GB" in tags(small.database, runs[first.id])["mor.reason"]
    assert "loss nan at step 80" in tags(small.database, runs[second.id])["mor.reason"]

    publish(small.store, first)
    send(small)
    assert status(small.database, runs[first.id]) == "FINISHED"
    assert tags(small.database, runs[first.id])["mor.reason"] == ""


@pytest.mark.parametrize(
    "forgotten", [pytest.param(True, id="cursor-lost"), pytest.param(False, id="cursor-kept", marks=pytest.mark.slow)]
)
def test_a_wiped_database_is_rebuilt(small: Sample, schema: Path, forgotten: bool):
    small.publish_all()
    send(small)
    shutil.copyfile(schema, small.database)
    if forgotten:
        (small.folder / "mirror.json").unlink()
    assert not is_current(small.store, small.sweep, small.uri)
    assert send(small).created == 4
    assert_equal_to_the_store(small)
    assert is_current(small.store, small.sweep, small.uri)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("", id="lost", marks=pytest.mark.slow),
        pytest.param("{", id="torn"),
        pytest.param('{"schema": "other"}', id="foreign", marks=pytest.mark.slow),
    ],
)
def test_without_its_cursor_the_mirror_finds_its_runs_again(small: Sample, damage: str):
    small.publish_all()
    send(small)
    before = active_runs(small.database)
    cursor = small.folder / "mirror.json"
    cursor.write_text(damage) if damage else cursor.unlink()
    assert send(small).created == 0
    assert active_runs(small.database) == before
    assert_equal_to_the_store(small)


def test_a_run_that_contradicts_the_store_is_replaced(small: Sample):
    small.publish_all()
    send(small)
    first, second, third, _ = active_runs(small.database).values()
    change(
        small.database, "UPDATE metrics SET value = 99 WHERE run_uuid = ? AND key = 'train/loss' AND step = 10", first
    )
    change(small.database, "UPDATE params SET value = '7' WHERE run_uuid = ? AND key = 'unique_params'", second)
    change(small.database, "UPDATE latest_metrics SET value = 99 WHERE run_uuid = ? AND key = 'loss'", third)
    assert send(small, thorough=True).created == 3
    assert_equal_to_the_store(small)
    assert not {first, second, third} & set(active_runs(small.database).values())


def test_what_was_deleted_in_mlflow_comes_back(small: Sample):
    small.publish_all()
    send(small)
    change(
        small.database,
        "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid IN (SELECT run_uuid FROM runs LIMIT 1)",
    )
    assert not is_current(small.store, small.sweep, small.uri)
    assert send(small).created == 1
    change(small.database, "UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = ?", NAME)
    send(small)
    assert query(small.database, "SELECT lifecycle_stage FROM experiments WHERE name = ?", NAME) == [("active",)]
    assert_equal_to_the_store(small)


def test_cells_that_a_sweep_leaves_out_leave_mlflow(small: Sample):
    small.publish_all()
    send(small)
    changed = sample(small.store.root, "1.5e11", sizes=("70k",), batch_size=8)
    assert changed.sweep.left_out == 4
    assert not is_current(changed.store, changed.sweep, changed.uri)
    send(changed)
    assert_equal_to_the_store(changed)
    assert is_current(changed.store, changed.sweep, changed.uri)


def test_infinite_and_undefined_numbers_are_not_sent(small: Sample):
    segment = small.plan.segments[0]
    publish(small.store, segment)
    path = small.store.segment_folder(segment.id) / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["gradient_norm"], rows[2]["loss"] = float("inf"), float("nan")
    rewrite_curve(small.store, segment, "".join(json.dumps(row) + "\n" for row in rows))
    send(small)
    # The stretch ends off the step grid, at a step that depends on the budgets: no point of any cell's curve.
    steps = {row["step"] for row in rows if row["step"] == 1 or row["step"] % LOG_EVERY_STEPS == 0}
    assert steps == {row["step"] for row in rows} - {segment.stop_step}
    run = next(run for run in active_runs(small.database).values() if history(small.database, run, "train/loss"))
    assert {step for step, _ in history(small.database, run, "train/gradient_norm")} == steps - {rows[1]["step"]}
    assert {step for step, _ in history(small.database, run, "train/loss")} == steps - {rows[2]["step"]}
    assert send(small).points == 0


def test_a_curve_that_cannot_be_read_is_reported_and_the_others_are_sent(small: Sample):
    small.publish_all()
    decay = next(segment for segment in small.plan.segments if segment.kind == "decay")
    rewrite_curve(small.store, decay, '{"step": 1}\ngarbage\n{"step": 2}\n')
    report = send(small)
    assert len(report.problems) == 1
    assert "line 2" in report.problems[0]
    assert report.created == 3
    assert not is_current(small.store, small.sweep, small.uri)


def test_forecasts_are_tags_of_the_summary_run_with_the_sums_of_their_files(small: Sample):
    small.publish_all()
    send(small)
    kept = keep_forecast(small.store, NAME, made_up_forecast())
    assert not is_current(small.store, small.sweep, small.uri)
    send(small)
    assert is_current(small.store, small.sweep, small.uri)
    assert differences(small.store, small.sweep, small.uri) == []
    (path,) = small.store.forecast_files(NAME)
    ((said,),) = query(small.database, f"SELECT value FROM tags WHERE key = 'mor.forecast.{kept.key.sha256[:12]}'")
    assert said.startswith("vanilla at 1e12 by surface: N* 120.0k")
    assert said.endswith(f"frozen {kept.created}, sha256 {file_sha256(path)}")


def test_figures_and_fits_are_artifacts_of_one_summary_run(small: Sample):
    small.publish_all()
    (small.folder / "figures").mkdir()
    (small.folder / "figures" / "frontier.svg").write_text("<svg/>")
    (small.folder / "figures" / "routing-mor-2.html").write_text("<pre>coloured</pre>")
    (small.folder / "fits.json").write_text("{}")
    send(small)
    (small.folder / "fits.json").write_text('{"exponent": 0.5}')
    assert not is_current(small.store, small.sweep, small.uri)
    send(small)
    assert is_current(small.store, small.sweep, small.uri)
    kept = {path.name: path.read_text() for path in (small.folder / "artifacts").rglob("*") if path.is_file()}
    assert kept.pop("sweep.json") == (small.folder / "sweep.json").read_text()
    page = {"routing-mor-2.html": "<pre>coloured</pre>"}
    assert kept == {"frontier.svg": "<svg/>", "fits.json": '{"exponent": 0.5}'} | page
    assert query(small.database, "SELECT COUNT(*) FROM tags WHERE key = 'mor.kind' AND value = 'summary'") == [(1,)]


def write_fit(made: Sample, curvature: float) -> dict[str, float]:
    """A fit by one parabola at each arm and budget, around its cell's N / 2, 0.1 below its loss; cell -> residual."""
    rows = table(made.store, made.sweep).to_dicts()
    isoflops = [
        {
            "budget": row["budget"],
            "params": {
                "optimum": row["unique_params"] / 2,
                "minimum_loss": row["loss"] - 0.1,
                "curvature": curvature,
                "cell_ids": [row["cell_id"]],
            },
        }
        for row in rows
    ]
    refused = {"budget": rows[0]["budget"], "params": {"kind": "too-few-sizes", "sentence": "refused."}}
    fits = {"loss_column": "loss", "frontiers": [{"isoflops": [*isoflops, refused]}]}
    (made.folder / "fits.json").write_text(json.dumps(fits))
    return {row["cell_id"]: pytest.approx(0.1 - curvature * math.log(2) ** 2) for row in rows}


def gaps(made: Sample) -> dict[str, float]:
    """cell -> the residual that MLflow shows."""
    shown = dict(query(made.database, "SELECT run_uuid, value FROM latest_metrics WHERE key = 'parabola_gap'"))
    return {cell: shown[run] for cell, run in active_runs(made.database).items() if run in shown}


def test_a_fit_gives_each_run_its_gap_to_the_parabola_and_a_later_fit_changes_it_in_the_same_run(small: Sample):
    small.publish_all()
    send(small)
    runs = active_runs(small.database)
    assert gaps(small) == {}
    for curvature in (0.05, 0.3):
        expected = write_fit(small, curvature)
        assert not is_current(small.store, small.sweep, small.uri)
        assert send(small).created == 0
        assert gaps(small) == expected
        assert differences(small.store, small.sweep, small.uri) == []
    before = contents(small.database)
    send(small, thorough=True)
    assert contents(small.database) == before
    (small.folder / "fits.json").write_text("{}")  # Of another version.
    assert send(small).created == 0
    assert active_runs(small.database) == runs
    assert differences(small.store, small.sweep, small.uri) == []


def test_a_mirror_of_an_earlier_version_gets_what_is_new_in_the_runs_that_it_has(small: Sample, monkeypatch):
    """The former code had neither N, D and C nor mor.order, and wrote budgets out."""
    monkeypatch.setattr(cursor, "LAYOUT", 2)
    small.publish_all()
    write_fit(small, 0.05)
    send(small)
    for stored in ("metrics", "latest_metrics"):
        change(small.database, f"DELETE FROM {stored} WHERE key IN ('N', 'D', 'C', 'parabola_gap')")
    change(small.database, "DELETE FROM tags WHERE key = 'mor.order'")
    change(small.database, "DELETE FROM experiment_tags WHERE key IN ('mor.note', 'mlflow.note.content')")
    budgets = "SELECT value FROM params WHERE params.run_uuid = tags.run_uuid AND params.key = 'budget'"
    change(small.database, f"UPDATE tags SET value = ({budgets}) WHERE key = 'mor.budget'")
    monkeypatch.undo()
    runs = active_runs(small.database)
    assert not is_current(small.store, small.sweep, small.uri)
    report = send(small)
    assert (report.created, report.updated) == (0, 4)
    assert active_runs(small.database) == runs
    assert_equal_to_the_store(small)
    assert differences(small.store, small.sweep, small.uri) == []
    assert len(gaps(small)) == 4
    assert {value for (value,) in query(small.database, "SELECT value FROM tags WHERE key = 'mor.budget'")} == {
        "1.5e11",
        "5e11",
    }


def test_runs_are_sorted_by_arm_size_budget_and_seed_after_the_run_with_the_figures(small: Sample):
    small.publish_all()
    write_fit(small, 0.05)
    send(small)
    ordered = query(
        small.database,
        "SELECT names.value FROM tags JOIN tags names ON tags.run_uuid = names.run_uuid "
        "WHERE tags.key = 'mor.order' AND names.key = 'mlflow.runName' ORDER BY tags.value",
    )
    cells = [f"{arm} 70k {budget} seed 0" for arm in ("mor-2", "vanilla") for budget in ("1.5e11", "5e11")]
    assert [name for (name,) in ordered] == ["frontier", *cells]


def note(made: Sample) -> str:
    """The description of the experiment."""
    shown = query(made.database, "SELECT value FROM experiment_tags WHERE key = 'mlflow.note.content'")
    return shown[0][0] if shown else ""


def test_the_experiment_links_to_its_figures_and_report_until_somebody_describes_it(small: Sample):
    small.publish_all()
    write_fit(small, 0.05)
    send(small)
    assert "fits.json](#/experiments/" in note(small)
    (small.folder / "report.html").write_text("<p>")
    send(small)
    assert "/artifacts/report.html?" in note(small)
    change(small.database, "UPDATE experiment_tags SET value = 'mine' WHERE key = 'mlflow.note.content'")
    (small.folder / "report.html").write_text("<p>more")
    send(small)
    assert note(small) == "mine"


def test_what_a_tuning_or_a_pilot_found_is_sent_with_its_figures(small: Sample):
    small.publish_all()
    send(small)
    (small.folder / "figures").mkdir()
    (small.folder / "figures" / "response.svg").write_text("<svg/>")
    found = {"tuned.json": "{}", "recipe.toml": "# laws", "advised.toml": "# a sweep"}
    for name, text in found.items():
        (small.folder / name).write_text(text)
    assert not is_current(small.store, small.sweep, small.uri)
    send(small)
    assert is_current(small.store, small.sweep, small.uri)
    kept = {path.name: path.read_text() for path in (small.folder / "artifacts").rglob("*") if path.is_file()}
    assert kept == found | {"response.svg": "<svg/>", "sweep.json": (small.folder / "sweep.json").read_text()}


def test_a_server_that_cannot_be_reached_is_said_within_seconds_and_harms_nothing(small: Sample):
    small.publish_all()
    before = {path: path.read_bytes() for path in (small.store.root / "segments").rglob("*") if path.is_file()}
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        uri = f"http://someone:secret@127.0.0.1:{unused.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(MirrorError, match="did not take the sweep") as caught:
            sync(small.store, small.sweep, uri)
        assert time.monotonic() - started < 15
    assert exit_code_of(caught.value) == 6
    assert "secret" not in str(caught.value) + (small.folder / "mirror.json").read_text()
    assert {path: path.read_bytes() for path in before} == before
    assert not is_current(small.store, small.sweep, uri)


def test_a_file_that_is_no_database_is_named_at_once(small: Sample):
    small.database.write_text("not a database at all")
    with pytest.raises(MirrorError, match="is not an SQLite database"):
        send(small)


def test_a_database_whose_making_was_cut_short_is_made_anew(planned_store: Sample):
    """It is the one that all tests here copy, since the making takes seconds."""
    assert_equal_to_the_store(planned_store)
    assert not (planned_store.folder / "mlflow.db.creating").exists()


def test_a_truncated_database_is_named_with_its_remedy(small: Sample, schema: Path):
    small.publish_all()
    send(small)
    small.database.write_bytes(small.database.read_bytes()[:-100_000])
    for command in (["mlflow", "sync", NAME], ["ui", NAME]):
        result = CliRunner().invoke(app, [*command, "--results", str(small.store.root)])
        assert str(result.exception).startswith(f"{small.database} is damaged (")
        assert "move it away, and `mor-sweep mlflow sync` builds it anew from the results" in str(result.exception)
        assert exit_code_of(result.exception) == 6
    assert not is_current(small.store, small.sweep, small.uri)
    shutil.copyfile(schema, small.database)  # In its place: this process holds the damaged one open.
    assert send(small).created == 4
    assert_equal_to_the_store(small)


def test_a_store_that_somebody_wrote_to_is_asked_again_and_then_counts_as_current(small: Sample):
    small.publish_all()
    send(small)
    assert is_current(small.store, small.sweep, small.uri)
    change(small.database, "CREATE TABLE other (x)")
    assert not is_current(small.store, small.sweep, small.uri)
    assert is_sent(small.store, small.sweep, small.uri)
    report = send(small)
    assert (report.created, report.updated, report.points) == (0, 0, 0)
    assert is_current(small.store, small.sweep, small.uri)


def test_a_results_folder_that_was_moved_is_mirrored_where_it_is_now(small: Sample):
    small.publish_all()
    (small.folder / "fits.json").write_text("{}")
    send(small)
    old, new = small.store.root, small.store.root.with_name("moved")
    old.rename(new)
    moved = Sample(store=Store(root=new), plan=small.plan)
    assert not is_current(moved.store, moved.sweep, moved.uri)
    send(moved)
    assert not old.exists()
    assert_equal_to_the_store(moved)
    assert differences(moved.store, moved.sweep, moved.uri) == []
    kept = [path for path in (moved.folder / "artifacts").rglob("fits.json") if path.is_file()]
    assert len(kept) == 2, "what was sent before it was moved, and what was sent after"
    (moved.folder / "fits.json").write_text("[]")
    send(moved)
    assert not old.exists()


def test_a_mirror_whose_results_are_gone_leaves_and_makes_nothing(small: Sample, capfd):
    small.publish_all()
    small.store.root.rename(small.store.root.with_name("moved"))
    assert follow(small.store, NAME, small.uri, os.getppid()) == 6
    assert "the results folder is gone" in capfd.readouterr().out
    assert not small.store.root.exists()


@pytest.mark.parametrize("file", ["result.json", "metrics.jsonl"])
def test_what_mlflow_has_of_a_cell_whose_results_were_edited_stays_and_no_advice_would_change_it(
    small: Sample, file: str
):
    """MLflow is then the only witness of what was measured."""
    small.publish_all()
    (small.folder / "fits.json").write_text("{}")
    send(small)
    before, runs = contents(small.database), active_runs(small.database)
    kind = "evaluate" if file == "result.json" else "decay"
    segment = next(segment for segment in small.plan.segments if segment.kind == kind)
    path = small.store.segment_folder(segment.id) / file
    path.write_text(path.read_text().replace('"loss": ', '"loss": 0', 1))
    (small.folder / "fits.json").write_text('{"made": "without the cell"}')
    for thorough in (False, True):
        report = sync(small.store, small.sweep, small.uri, thorough=thorough)
        if thorough or file == "result.json":  # A pass that is not thorough does not look at what has been sent.
            (problem,) = report.problems
            assert problem.startswith(("vanilla/", "mor-2/"))
            assert str(path) in problem
        assert report.created == 0
    assert active_runs(small.database) == runs
    if file == "result.json":
        assert contents(small.database) == before
    assert len(VerifiedCells(small.store, small.sweep).faults()) == 1
    notes = [finding for finding in check_results(small.store).findings if finding.path == str(small.database)]
    assert [(finding.what[:25], finding.remedy) for finding in notes][:1] == [
        ("1 cells are not compared ", "as said of the segments")
    ]
    if file == "result.json":
        assert len(notes) == 1, "mlflow sync is not advised"


def test_many_cells_that_are_left_out_are_counted():
    lines = shown_lines([f"cell {number}" for number in range(12)])
    assert lines[4:] == ["cell 4", "and 7 more"]
