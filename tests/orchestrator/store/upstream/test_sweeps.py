"""Sweeps whose results are on object storage, with the faults of a folder's and those of a server."""

import json
import resource
import shutil
import signal
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from mor_core.data.snapshot import DataSnapshot
from mor_core.files import file_sha256
from orchestrator.running.segment.worker import run_segment
from orchestrator.store.published import SMALL_FILES, StoreError, parse_result
from orchestrator.store.store import Store
from orchestrator.store.upstream import objects as object_store
from orchestrator.store.upstream import segments as remote_segment
from orchestrator.store.upstream.clone import make_clone
from orchestrator.store.upstream.objects import ObjectStore
from orchestrator.store.upstream.segments import BucketSegments
from tests.faults.faulty_server import FaultyServer
from tests.helpers.paths import TOY_PRESET
from tests.helpers.remote_machine import Machine, objects_of
from tests.helpers.single_segment import job_for, segment_on
from tests.helpers.toy_sweep import SCIENCE, ToySweep


def _results(url: str) -> dict[str, bytes]:
    return {name: data for name, data in objects_of(url, "segments").items() if name.endswith("result.json")}


def _sums(url: str) -> dict[str, str]:
    """Segment id -> sha256 of its published weights."""
    told = {name.split("/")[1]: json.loads(data)["files"] for name, data in _results(url).items()}
    weights = "checkpoint/weights.safetensors"
    return {name: files[weights]["sha256"] for name, files in told.items() if weights in files}


SMALL = ("--only", "vanilla", "--sizes", "13k")


@pytest.mark.slow
def test_a_sweep_in_a_bucket_goes_on_and_is_read_on_another_machine(
    machine: Machine, other: Machine, reference: ToySweep
) -> None:
    first = machine.run(*machine.sweep(*SMALL, "--budgets", "6e8"))
    assert first.returncode == 0, first.stderr
    before = _results(machine.url)
    second = other.run(*other.sweep(*SMALL, "--budgets", "6e8,1.2e9"))
    assert second.returncode == 0, second.stderr
    assert "3 of 6 segments to run" in second.stderr
    assert before.items() <= _results(machine.url).items()
    third = machine.run("status", "--json")
    rows = pl.DataFrame(json.loads(third.stdout)["data"]["runs"], infer_schema_length=None)
    small = (pl.col("arm") == "vanilla") & (pl.col("size") == "13k") & (pl.col("budget") != "2400000000")
    wanted = reference.science().filter(small)
    assert rows.sort("cell_id")["loss"].to_list() == wanted["loss"].to_list()
    theirs = pl.read_parquet(other.folder / "sweeps/toy/runs.parquet").select(SCIENCE).sort("cell_id")
    assert theirs.equals(wanted)
    assert not objects_of(machine.url, "attempts")
    checked = other.run("fsck", "--no-mlflow")
    assert checked.returncode == 0, checked.stdout
    refused = other.run("gc", "--dry-run")
    assert refused.returncode == 4
    assert "gc deletes nothing in s3://" in refused.stderr
    assert other.run("fit").returncode in (0, 5)  # So few sizes support no optimum; fits.json is written all the same.
    assert "sweeps/toy/files/fits.json" in objects_of(machine.url, "sweeps")
    assert machine.run("plot", "curves").returncode == 0
    assert (machine.folder / "sweeps/toy/fits.json").exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: DataSnapshot) -> dict[str, str]:
    """The sums of the segment's weights where nothing went wrong."""
    folder, segment = tmp_path_factory.mktemp("undisturbed"), segment_on(data)
    assert run_segment(segment, job_for(folder, data)).status == "finished"
    return {segment.id: file_sha256(folder / "segments" / segment.id / "checkpoint/weights.safetensors")}


@pytest.mark.slow
def test_a_kill_in_the_middle_of_an_upload_loses_less_than_an_interval(
    machine: Machine, other: Machine, data: DataSnapshot, faulty: FaultyServer, undisturbed: dict[str, str]
) -> None:
    """F1-F3: the machine dies while it uploads the second checkpoint; another goes on from the first."""
    process = machine.process(data)

    def kill_at_the_second(method: str, path: str) -> None:
        if method == "PUT" and "/attempts/" in path and process.poll() is None:
            lists = [each for _, each in faulty.requests if each.endswith("checkpoint-10.json")]
            if lists and "/files/" in path:
                process.kill()

    faulty.before = kill_at_the_second
    assert process.wait(120) == -signal.SIGKILL
    faulty.before = lambda _method, _path: None
    names = sorted(name.rsplit("/", 1)[1] for name in objects_of(machine.url, "attempts") if name.endswith(".json"))
    assert names == ["checkpoint-10.json"]
    assert other.attempt(segment_on(data), data).status == "finished"
    assert _sums(machine.url) == undisturbed
    (content,) = _results(machine.url).values()
    result = parse_result(content, segment_on(data).id)
    assert result.steps_executed == 30
    assert result.sha256, "compared with the bytes when it was parsed"
    assert {*SMALL_FILES, "checkpoint/weights.safetensors"} <= {*result.files}
    assert Store(root=other.folder).verified_result(segment_on(data).id) == result
    assert not objects_of(machine.url, "attempts")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("other bytes", marks=pytest.mark.slow),
        pytest.param("list torn", marks=pytest.mark.slow),
        pytest.param("cut short", marks=pytest.mark.slow),
        pytest.param("emptied", marks=pytest.mark.slow),
        pytest.param("gone", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_uploaded_checkpoint_is_passed_over_for_the_one_before(
    machine: Machine, other: Machine, data: DataSnapshot, undisturbed: dict[str, str], damage: str
) -> None:
    """F4: of the uploaded checkpoints 20 and 30 the later one is damaged in the bucket."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOR_SWEEP_REHEARSE", "raise step=37")
        assert machine.attempt(segment_on(data), data).status == "failed"
    objects = ObjectStore(url=machine.url)
    there = sorted(name for name in objects.etags("attempts") if "/checkpoint-" in name)
    assert [name.rsplit("/", 1)[1] for name in there] == ["checkpoint-20.json", "checkpoint-30.json"]
    latest = json.loads(objects.read(there[1]) or b"")
    weights = f"{there[1].rpartition('/')[0]}/files/{latest['files']['checkpoint-30/weights.safetensors']['sha256']}"
    whole = objects.read(weights) or b""
    match damage:
        case "other bytes":
            objects.replace(weights, whole[:-1] + bytes([whole[-1] ^ 1]))
        case "cut short":
            objects.replace(weights, whole[: len(whole) // 2])
        case "emptied":
            objects.replace(weights, b"")
        case "gone":
            objects.remove([weights])
        case "list torn":
            objects.replace(there[1], json.dumps(latest).encode()[:100])
    assert other.attempt(segment_on(data), data).status == "finished"
    assert _sums(machine.url) == undisturbed
    assert json.loads(next(iter(_results(machine.url).values())))["steps_executed"] == 20


@pytest.mark.slow
def test_a_late_attempt_changes_nothing_that_is_published(
    machine: Machine, other: Machine, data: DataSnapshot, faulty: FaultyServer
) -> None:
    """F8, F9: one machine is held at its last request, while another computes and publishes the segment."""
    arrived, go_on, held = threading.Event(), threading.Event(), []

    def hold_the_first(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/result.json") and not held:
            held.append(path)
            arrived.set()
            assert go_on.wait(120)

    faulty.before = hold_the_first
    process = machine.process(data)
    assert arrived.wait(120)
    assert other.attempt(segment_on(data), data).status == "finished"
    published = objects_of(machine.url, "segments")
    go_on.set()
    assert process.communicate(timeout=120)[0].strip().endswith("finished")
    assert objects_of(machine.url, "segments") == published
    theirs = (machine.folder / "segments" / segment_on(data).id / "result.json").read_bytes()
    assert theirs == next(iter(_results(machine.url).values()))


def test_wrong_bytes_of_a_published_segment_are_read_again_and_then_refused(
    machine: Machine, other: Machine, data: DataSnapshot, faulty: FaultyServer
) -> None:
    segment = segment_on(data)
    assert machine.attempt(segment, data).status == "finished"
    flipped: list[str] = []

    def flip(method: str, path: str, body: bytes) -> bytes:
        if method == "GET" and "/files/" in path and len(flipped) < 2 and len(body) > 10_000:
            flipped.append(path)
            return body[:-1] + bytes([body[-1] ^ 1])
        return body

    faulty.change = flip
    assert other.attempt(segment, data).status == "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOR_SWEEP_SCRATCH", str(other.scratch))
        segments = BucketSegments(clone=make_clone(other.url))
        segments.fetch_checkpoint(segment.id)  # Wrong at first, right at the next try.
        assert len(flipped) == 2
        shutil.rmtree(segments.clone.store.checkpoint_folder(segment.id))
        weights = f"segments/{segment.id}/files/{_sums(other.url)[segment.id]}"
        segments.clone.objects.replace(weights, b"something else")
        with pytest.raises(StoreError, match="has other bytes than its name says: delete"):
            segments.fetch_checkpoint(segment.id)
        assert not segments.clone.store.checkpoint_folder(segment.id).exists()
        found = other.run("fsck", "--no-mlflow")
        assert found.returncode == 1
        assert "has other bytes than its name says" in found.stdout


@pytest.mark.slow
def test_training_outlasts_a_server_that_is_out_of_order(
    machine: Machine, other: Machine, data: DataSnapshot, faulty: FaultyServer, undisturbed: dict[str, str]
) -> None:
    """Checkpoints are not uploaded meanwhile, which the result says; publication waits."""
    failed_at: list[float] = []

    def fail_from_the_first_checkpoint(method: str, path: str) -> None:
        if method == "PUT" and "/attempts/" in path and not failed_at:
            failed_at.append(time.monotonic())
            faulty.fail_for(8.0)

    faulty.before = fail_from_the_first_checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_segment, "KEEP_PATIENCE_SECONDS", 0.3)
        assert machine.attempt(segment_on(data), data).status == "finished"
    assert time.monotonic() - failed_at[0] > 8
    assert _sums(machine.url) == undisturbed
    notes = json.loads(next(iter(_results(machine.url).values())))["notes"]
    assert any("checkpoint-10 was not uploaded" in note for note in notes)


@pytest.mark.slow
def test_a_server_that_stays_away_fails_the_segment_which_the_same_command_finishes(
    machine: Machine, data: DataSnapshot, faulty: FaultyServer, undisturbed: dict[str, str]
) -> None:
    def fail_at_publication(method: str, path: str) -> None:
        faulty.failing = faulty.failing or (method == "PUT" and "/segments/" in path)

    faulty.before = fail_at_publication
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_segment, "PUBLISH_PATIENCE_SECONDS", 0.3)
        outcome = machine.attempt(segment_on(data), data)
    assert outcome.status == "failed"
    assert outcome.reason.startswith("store: s3://")
    assert "does not answer as it should" in outcome.reason
    faulty.before, faulty.failing = lambda _method, _path: None, False
    assert machine.attempt(segment_on(data), data).status == "finished"
    assert _sums(machine.url) == undisturbed
    assert json.loads(next(iter(_results(machine.url).values())))["steps_executed"] == 10


@pytest.mark.slow
def test_two_machines_that_plan_at_once_lose_no_revision(machine: Machine, other: Machine) -> None:
    small = ("--only", "vanilla", "--sizes", "13k")
    processes = [
        each.start(*each.sweep(*small, "--budgets", budget)) for each, budget in ((machine, "6e8"), (other, "1.2e9"))
    ]
    for process in processes:
        assert process.wait(200) == 0, process.communicate()[0]
    revisions = sorted(objects_of(machine.url, "sweeps/toy/revisions"))
    assert [name.rsplit("/", 1)[1] for name in revisions] == ["1.json", "2.json"]
    shown = json.loads(machine.run("status", "--json").stdout)["data"]["runs"]
    assert {row["budget"] for row in shown} == {"600000000", "1200000000"}
    assert {row["status"] for row in shown} == {"finished"}


def test_a_bucket_that_cannot_be_used_is_one_sentence(
    machine: Machine, faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = replace(machine, url="s3://no-such-bucket/study").run("status")
    assert (absent.returncode, len(absent.stderr.splitlines())) == (2, 1)
    assert "there is no bucket 'no-such-bucket'" in absent.stderr
    other_store = replace(machine, url="gs://bucket/study").run("status")
    assert other_store.returncode == 2
    assert "error: --results gs://bucket/study: expected a folder, or s3://BUCKET/PREFIX" in other_store.stderr
    monkeypatch.setattr(object_store, "PATIENCE_SECONDS", 0.1)
    empty = machine.run("status")
    assert (empty.returncode, "no sweep has been run" in empty.stderr) == (2, True)


def _check_credentials_after(server: FaultyServer, requests: str) -> None:
    """Have the S3 server look at signatures once it has answered so many requests."""
    address, plain = f"{server.address}/moto-api/reset-auth", {"Content-Type": "text/plain"}
    asked = urllib.request.Request(address, data=requests.encode(), headers=plain, method="POST")
    urllib.request.urlopen(asked).close()


def test_a_refusal_of_the_server_names_what_the_credentials_need(machine: Machine, faulty: FaultyServer) -> None:
    _check_credentials_after(faulty, "0")
    try:
        refused = machine.run(*machine.sweep(*SMALL))
    finally:
        _check_credentials_after(faulty, "1000000000")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "these credentials need s3:ListBucket" in refused.stderr


def test_a_server_that_ignores_conditional_writes_is_refused(machine: Machine, faulty: FaultyServer) -> None:
    faulty.dropped_headers = ("if-none-match",)
    refused = machine.run(*machine.sweep(*SMALL))
    assert refused.returncode == 2
    assert "ignores conditional writes (If-None-Match)" in refused.stderr
    assert not objects_of(machine.url, "sweeps")


def test_workers_of_one_segment_on_a_cluster_are_refused_a_bucket(machine: Machine, tmp_path: Path) -> None:
    preset = tmp_path / "shared.toml"
    preset.write_text(TOY_PRESET.read_text().replace("[execution]", "[execution]\nworkers_per_segment = 2"))
    refused = machine.run(
        "isoflop", "--preset", str(preset), "--data", str(machine.text), "--address", "127.0.0.1:9", "--yes"
    )
    assert refused.returncode == 2, refused.stderr
    assert "use a disk that all nodes share" in refused.stderr


def test_without_s3fs_one_sentence_says_what_to_install(machine: Machine) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] in ("s3fs", "fsspec", "aiobotocore")]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "s3fs", None)
        refused = machine.run("status")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: results on object storage need s3fs, which is not installed: pip install 'mor-sweep[s3]'\n"
    )


@pytest.mark.slow
def test_a_full_scratch_disk_fails_with_its_path_and_the_same_command_goes_on(
    machine: Machine, data: DataSnapshot, undisturbed: dict[str, str]
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))  # As on a full disk, a file cannot grow.
    try:
        outcome = machine.attempt(segment_on(data), data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert outcome.status == "failed"
    assert outcome.reason.startswith("store: ")
    assert str(machine.scratch) in outcome.reason
    assert machine.attempt(segment_on(data), data).status == "finished"
    assert _sums(machine.url) == undisturbed
