"""`mor-sweep fsck` finds every kind of damage, names it, and finds nothing in a folder that is whole."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from mor_core.files import write_json
from orchestrator.cli.main import app
from orchestrator.maintenance.fsck import check_results
from orchestrator.records.fits.forecasts import keep_forecast
from orchestrator.records.revisions import load_sweep
from orchestrator.store.attempts import LOCK
from orchestrator.store.drivers import driving
from orchestrator.store.store import Store
from orchestrator.tracking.cursor import is_current, sqlite_uri
from tests.helpers.runs.forecast_sweep import made_up_forecast
from tests.helpers.toy_sweep import ToySweep, rewrite_result


@pytest.fixture
def store(reference: ToySweep, tmp_path: Path) -> Store:
    """A copy of the undisturbed toy sweep's results, to be damaged."""
    shutil.copytree(reference.results, tmp_path / "results")
    return Store(root=tmp_path / "results")


def problems(store: Store) -> list[str]:
    """Lines of what is wrong, MLflow aside."""
    return [finding.line() for finding in check_results(store, ask_mlflow=False).problems]


def segment(store: Store, kind: str) -> Path:
    """A published segment of a kind, always the same one."""
    paths = sorted(store.root.glob("segments/*/spec.json"))
    return next(path.parent for path in paths if json.loads(path.read_text())["kind"] == kind)


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def flip_a_bit(store: Store) -> None:
    path = segment(store, "decay") / "checkpoint" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(store: Store) -> None:
    path = segment(store, "stable") / "checkpoint" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def lose_the_checkpoint(store: Store) -> None:
    shutil.rmtree(segment(store, "decay") / "checkpoint")


def lose_the_optimizer(store: Store) -> None:
    checkpoint = segment(store, "stable") / "checkpoint"
    (checkpoint / "optimizer.safetensors").unlink()
    rewrite(checkpoint / "manifest.json", lambda manifest: manifest["files"].pop("optimizer.safetensors"))


def link_the_weights(store: Store) -> None:
    path = segment(store, "decay") / "checkpoint" / "weights.safetensors"
    path.rename(store.root / "elsewhere")
    path.symlink_to(store.root / "elsewhere")


def name_a_parent(store: Store) -> None:
    manifest = segment(store, "decay") / "checkpoint" / "manifest.json"
    rewrite(manifest, lambda document: document["files"].update({"../spec.json": "0" * 64}))


def name_another_step(store: Store) -> None:
    rewrite(segment(store, "decay") / "checkpoint" / "manifest.json", lambda manifest: manifest.update(step=1))


def add_a_file(store: Store) -> None:
    (segment(store, "decay") / "checkpoint" / "payload.pkl").write_bytes(b"\x80\x04.")


def empty_the_result(store: Store) -> None:
    (segment(store, "evaluate") / "result.json").write_text("")


def lose_the_result(store: Store) -> None:
    (segment(store, "evaluate") / "result.json").unlink()


def swap_the_result(store: Store) -> None:
    rewrite_result(segment(store, "evaluate") / "result.json", lambda result: result.update(segment_id="0" * 64))


def lose_the_loss(store: Store) -> None:
    rewrite_result(segment(store, "evaluate") / "result.json", lambda result: result["evaluation"].update(loss=None))


def change_the_seed(store: Store) -> None:
    rewrite(segment(store, "stable") / "spec.json", lambda spec: spec["trunk"].update(seed=7))


def write_another_version(store: Store) -> None:
    rewrite(segment(store, "stable") / "spec.json", lambda spec: spec["trunk"].update(flavour="vanilla"))


def tear_the_curve(store: Store) -> None:
    path = segment(store, "decay") / "metrics.jsonl"
    path.write_text(path.read_text()[:-5])


def double_a_line(store: Store) -> None:
    path = segment(store, "decay") / "metrics.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


def shorten_the_curve(store: Store) -> None:
    path = segment(store, "decay") / "metrics.jsonl"
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines()[:-1]))


def lose_the_weights_of_a_cell(store: Store) -> None:
    needed = json.loads((segment(store, "evaluate") / "spec.json").read_text())["needs"][0]
    shutil.rmtree(store.segment_folder(needed))


def lose_a_branch_point(store: Store) -> None:
    spec = json.loads((segment(store, "decay") / "spec.json").read_text())
    for path in store.root.glob("segments/*/spec.json"):
        if spec["id"] in (path.parent.name, *json.loads(path.read_text())["needs"]):
            shutil.rmtree(path.parent)
    shutil.rmtree(store.checkpoint_folder(spec["needs"][0]))


def prune_weights_that_are_to_be_measured(store: Store) -> None:
    evaluation = segment(store, "evaluate")
    (weights,) = json.loads((evaluation / "spec.json").read_text())["needs"]
    shutil.rmtree(evaluation)
    shutil.rmtree(store.checkpoint_folder(weights))
    pruned = {"schema": "mor-sweep.pruned/1", "segment_id": weights}
    write_json(store.segment_folder(weights) / "pruned.json", pruned)


def rename_an_arm(store: Store) -> None:
    path = store.sweep_folder("toy") / "sweep.json"
    rewrite(path, lambda document: document["revisions"][-1]["cells"][0].update(arm="mor-9"))


def tear_the_sweep(store: Store) -> None:
    path = store.sweep_folder("toy") / "sweep.json"
    path.write_text(path.read_text()[:-20])


def improve_a_loss(store: Store) -> None:
    path = store.sweep_folder("toy") / "runs.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(loss=pl.when(pl.arange(frame.height) == 3).then(0.5).otherwise("loss")).write_parquet(path)


def tear_the_table(store: Store) -> None:
    path = store.sweep_folder("toy") / "segments.parquet"
    path.write_bytes(path.read_bytes()[:-30])


def fit_other_numbers(store: Store) -> None:
    CliRunner().invoke(app, ["fit", "toy", "--results", str(store.root)])
    assert problems(store) == []
    evaluation = segment(store, "evaluate") / "result.json"
    rewrite_result(evaluation, lambda result: result["evaluation"].update(loss=0.5))
    for name in ("runs", "segments"):
        (store.sweep_folder("toy") / f"{name}.parquet").unlink()


def point_a_hint_elsewhere(store: Store) -> None:
    first, second, *_ = sorted(store.root.glob("trunks/*/*"))
    first.write_text(second.read_text())


DAMAGE = {
    flip_a_bit: "sha256 is not the manifest's",
    truncate: "sha256 is not the manifest's",
    lose_the_checkpoint: "is missing, and no pruned.json accounts for it",
    lose_the_optimizer: "does not name optimizer.safetensors",
    link_the_weights: "a link",
    name_a_parent: "is not a plain file name",
    name_another_step: "is of step 1, its segment ends at",
    add_a_file: "is not in the checkpoint's manifest",
    empty_the_result: "result.json cannot be read",
    lose_the_result: "holds no result.json",
    swap_the_result: "is not the result of its segment",
    lose_the_loss: "evaluation.loss: input should be a valid number, not None",
    change_the_seed: "describes another segment than the folder's name says",
    write_another_version: "made by an earlier version",
    tear_the_curve: "is not whole lines of JSON",
    double_a_line: "has steps that do not ascend",
    shorten_the_curve: "metrics.jsonl: ends at step",
    lose_the_weights_of_a_cell: "which rests on it, is finished",
    lose_a_branch_point: "is gone, and a planned decay to step",
    prune_weights_that_are_to_be_measured: "is gone, and a planned evaluate to step",
    rename_an_arm: "is not what its id says",
    tear_the_sweep: "sweep.json cannot be read",
    improve_a_loss: "1 finished rows are not what the store says",
    tear_the_table: "segments.parquet: cannot be read",
    fit_other_numbers: "was made from other cells or losses than the store's finished ones",
    point_a_hint_elsewhere: "names a segment of another trunk or step",
}


def test_an_undisturbed_sweep_is_clean_and_every_checkpoint_was_hashed(store: Store):
    report = check_results(store, ask_mlflow=False)
    assert report.findings == ()
    assert (report.num_sweeps, report.num_segments) == (1, 36)
    on_disk = sum(path.stat().st_size for path in store.root.glob("segments/*/checkpoint/*"))
    assert report.num_bytes == on_disk > 0


SLOW_TO_FIND = {fit_other_numbers}
"""What is found by fitting again."""


@pytest.mark.parametrize(
    "damage",
    [pytest.param(damage, marks=[pytest.mark.slow] * (damage in SLOW_TO_FIND)) for damage in DAMAGE],
    ids=lambda damage: damage.__name__,
)
def test_damage_is_found_and_named(store: Store, damage: Callable[[Store], None]):
    damage(store)
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    found = problems(store)
    assert any(DAMAGE[damage] in line for line in found), found
    assert all(line.count(": ") >= 3 for line in found)  # problem: path: what: what to do
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_the_command_says_so_in_lines_and_in_json_and_exits_1(store: Store):
    flip_a_bit(store)
    result = CliRunner().invoke(app, ["fsck", "--no-mlflow", "--results", str(store.root)])
    assert result.exit_code == 1
    assert "36 segments" in result.output
    assert "2 problems" in result.output  # the segment, and the cell that rests on it
    result = CliRunner().invoke(app, ["fsck", "--no-mlflow", "--json", "--results", str(store.root)])
    document = json.loads(result.output)
    data = document["data"]
    assert document["schema"] == "mor-sweep.fsck/1"
    assert (result.exit_code, data["clean"], len(data["findings"])) == (1, False, 2)


def test_leftovers_and_old_tables_are_notes_that_only_strict_counts(store: Store):
    attempt = next(path for path in store.root.glob("attempts/*/*") if path.is_dir())
    (attempt / "checkpoint-20.corrupt").mkdir()
    (store.sweep_folder("toy") / "runs.parquet").unlink()
    command = ["fsck", "--no-mlflow", "--results", str(store.root)]
    plain = CliRunner().invoke(app, command)
    assert plain.exit_code == 0, plain.output
    assert plain.output.count("note: ") == 2
    assert CliRunner().invoke(app, [*command, "--strict"]).exit_code == 1


def test_a_process_that_holds_a_segment_without_a_driver_is_a_problem(store: Store):
    name = sorted(path.name for path in (store.root / "attempts").iterdir())[0]
    with FileLock(store.attempts_folder(name) / LOCK):
        assert "though no driver of this host runs a sweep here" in "".join(problems(store))
        with driving(store, "toy"):
            assert problems(store) == []
    assert problems(store) == []


def test_a_mirror_that_outlived_its_sweep_is_a_problem(store: Store):
    command = [sys.executable, "-m", "orchestrator.tracking.follower", "--results", str(store.root), "--sweep", "toy"]
    mirror = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert f"process {mirror.pid} mirrors a sweep that no driver runs" in "".join(problems(store))
    finally:
        mirror.kill()
        mirror.wait()
    assert problems(store) == []


def test_mlflow_is_compared_with_the_store(store: Store, schema: Path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = ["fsck", "--results", str(store.root)]
    assert "is behind the store" not in CliRunner().invoke(app, [*command, "--no-mlflow"]).output
    shutil.copyfile(schema, store.sweep_folder("toy") / "mlflow.db")
    CliRunner().invoke(app, ["mlflow", "sync", "--results", str(store.root)])
    assert CliRunner().invoke(app, [*command, "--strict"]).exit_code == 0
    evaluation = segment(store, "evaluate") / "result.json"
    rewrite_result(evaluation, lambda result: result["evaluation"].update(loss=0.5))
    behind = CliRunner().invoke(app, command)
    assert "mlflow.db: is behind the store" in behind.output


def test_fsck_loads_no_torch_and_no_ray(store: Store):
    code = (
        "import sys; from pathlib import Path; from orchestrator.maintenance.fsck import check_results; "
        "from orchestrator.store.store import Store; check_results(Store(root=Path(sys.argv[1])), ask_mlflow=False); "
        "sys.exit(bool({'torch', 'ray', 'mlflow'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.root)], check=False).returncode == 0


def test_hints_that_nobody_here_wrote_are_said(store: Store):
    folder = next(path for path in (store.root / "trunks").iterdir())
    (folder / "99999").write_bytes(b"\xff\xfe")
    (folder / "\N{SUPERSCRIPT TWO}").write_text("x")
    report = check_results(store, ask_mlflow=False)
    assert [finding.line() for finding in report.problems] == [
        f"problem: {folder / '99999'}: does not name a segment: delete it"
    ]
    assert f"note: {folder / chr(178)}: is no hint: its name is no step: delete it" in [
        finding.line() for finding in report.findings
    ]


def test_remedies_can_be_copied_from_a_folder_whose_name_a_shell_would_cut(store: Store):
    spaced = Store(root=store.root.with_name("my results"))
    store.root.rename(spaced.root)
    (segment(spaced, "stable") / "stray").write_text("")
    command = f"mor-sweep gc --results '{spaced.root}', or move it elsewhere"
    assert command in [finding.remedy for finding in check_results(spaced, ask_mlflow=False).findings]


@pytest.mark.parametrize("damage", ["[]", '{"schema": "mor-sweep.mirror/1", "stores": []}', "[" * 100_000])
def test_a_memory_of_mlflow_that_makes_no_sense_is_no_memory(store: Store, damage: str, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = store.sweep_folder("toy")
    (folder / "mirror.json").write_text(damage)
    assert not is_current(store, load_sweep(store, "toy"), sqlite_uri(folder / "mlflow.db"))


def test_a_damaged_mlflow_store_is_a_problem_with_its_remedy(store: Store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = store.sweep_folder("toy") / "mlflow.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(5000))
    found = [finding for finding in check_results(store).problems if finding.path == str(path)]
    assert len(found) == 1
    assert "is damaged" in found[0].what
    assert "move it away, and `mor-sweep mlflow sync` builds it anew" in found[0].what


def test_a_forecast_that_was_changed_is_a_problem_and_one_that_was_not_is_none(store: Store):
    kept = keep_forecast(store, "toy", made_up_forecast())
    assert problems(store) == []
    path = store.forecasts_folder("toy") / f"{kept.key.sha256}.json"
    path.write_text(path.read_text().replace("vanilla", "mor-2"))
    (line,) = problems(store)
    assert "was changed after it was frozen" in line
