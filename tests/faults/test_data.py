"""F22 and F26: shards that are missing, cut or changed are named and never trained on; torn curves do no harm."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mor_core.data.snapshot import DataSnapshot
from mor_core.data.verified import VERIFIED
from mor_core.training.rehearsal import VARIABLE
from orchestrator.running.outcomes import FailureClass
from orchestrator.running.segment.worker import run_segment
from orchestrator.store.losses import read_metrics
from orchestrator.store.store import Store
from tests.faults.disturbances import wait_for
from tests.helpers import single_segment
from tests.helpers.single_segment import job_for, segment_on


@pytest.fixture
def own(data: DataSnapshot, tmp_path: Path) -> DataSnapshot:
    """A copy of the data that a test may damage."""
    shutil.copytree(data.folder, tmp_path / "data")
    return replace(data, folder=tmp_path / "data")


@pytest.fixture(scope="module")
def undisturbed(data: DataSnapshot, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The segment, trained without a fault."""
    store = Store(root=tmp_path_factory.mktemp("undisturbed"))
    assert run_segment(segment_on(data), job_for(store.root, data)).status == "finished"
    return store


def weights(store: Store, segment_id: str) -> bytes:
    """A published segment's weights."""
    return (store.checkpoint_folder(segment_id) / "weights.safetensors").read_bytes()


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-2])


def change(shard: Path) -> None:
    """One bit, in place."""
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    with shard.open("r+b") as file:
        file.write(content)


@pytest.mark.faults("F22", invariants=("I4", "I6"))
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(Path.unlink, id="missing", marks=pytest.mark.slow),
        pytest.param(cut, id="cut", marks=pytest.mark.slow),
        pytest.param(change, id="changed"),
    ],
)
def test_a_damaged_shard_is_named_and_once_mended_the_weights_are_the_same(
    data: DataSnapshot, own: DataSnapshot, tmp_path: Path, undisturbed: Store, damage
):
    segment, store = segment_on(data), Store(root=tmp_path / "results")
    shard = own.folder / "train-00000.bin"
    good = shard.read_bytes()
    damage(shard)
    outcome = run_segment(segment, job_for(store.root, own))
    assert outcome.failure is FailureClass.data
    assert str(shard) in outcome.reason
    shard.write_bytes(good)
    assert run_segment(segment, job_for(store.root, own)).status == "finished"
    assert weights(store, segment.id) == weights(undisturbed, segment.id)


@pytest.mark.slow
@pytest.mark.faults("F22", invariants=("I4",))
def test_nothing_that_a_shard_changed_in_mid_run_led_to_is_kept(
    data: DataSnapshot, own: DataSnapshot, tmp_path: Path, figures
):
    """A bit of the file that is being read; the steps since the last checkpoint are taken again."""
    segment, store, other = (
        segment_on(data, stop_step=200),
        Store(root=tmp_path / "results"),
        Store(root=tmp_path / "o"),
    )
    shard = own.folder / "train-00000.bin"
    good = shard.read_bytes()
    arguments = map(str, [store.root, own.folder, 4, 200, 600, 0])
    with subprocess.Popen([sys.executable, single_segment.__file__, *arguments], stdout=subprocess.PIPE) as process:
        wait_for(lambda: list(store.attempts_folder(segment.id).glob("*/checkpoint-??")))
        change(shard)
        output, _ = process.communicate(timeout=200)
    reason = json.loads(output)["reason"]
    assert reason.startswith(f"data: The token shard {shard} is not the one that was prepared")
    with shard.open("r+b") as file:
        file.write(good)
    kept = store.attempts(segment.id).checkpoints()[0][0]
    assert run_segment(segment, job_for(store.root, own)).status == "finished"
    assert run_segment(segment, job_for(other.root, data)).status == "finished"
    assert weights(store, segment.id) == weights(other, segment.id)
    figures("F22", f"changed in mid-run: failed: data, named; went on from step {kept}, weights as undisturbed")


@pytest.mark.faults("F22")
def test_what_was_verified_is_read_again_only_where_its_file_was_touched(own: DataSnapshot, tmp_path: Path):
    def verified() -> int:
        return (own.folder / VERIFIED).stat().st_mtime_ns

    segment = segment_on(own, stop_step=1)
    assert run_segment(segment, job_for(tmp_path / "a", own)).status == "finished"
    first = verified()
    assert run_segment(segment, job_for(tmp_path / "b", own)).status == "finished"
    assert verified() == first
    (own.folder / "train-00000.bin").touch()
    assert run_segment(segment, job_for(tmp_path / "c", own)).status == "finished"
    assert verified() != first


def disturbed_curve(data: DataSnapshot, results: Path, monkeypatch: pytest.MonkeyPatch, damage) -> tuple[Store, str]:
    """A segment that failed before step 25, had its attempt's curve damaged, and was tried again."""
    segment, store = segment_on(data), Store(root=results)
    monkeypatch.setenv(VARIABLE, "raise step=25 attempts=1")
    assert run_segment(segment, job_for(results, data)).failure is FailureClass.error
    (path,) = store.attempts_folder(segment.id).glob("*/metrics.jsonl")
    path.write_text(damage(path.read_text()))
    assert run_segment(segment, job_for(results, data)).status == "finished"
    return store, segment.id


def torn_tail(text: str) -> str:
    return text + '{"step": 25, "lo'


def doubled_line(text: str) -> str:
    return text + text.splitlines(keepends=True)[-1]


def torn_middle(text: str) -> str:
    first, second, *rest = text.splitlines(keepends=True)
    return "".join([first, second[:20] + "\n", *rest])


def lost_line(text: str) -> str:
    first, _, *rest = text.splitlines(keepends=True)
    return "".join([first, *rest])


@pytest.mark.faults("F26", invariants=("I4", "I6"))
@pytest.mark.parametrize(
    ("damage", "note", "steps"),
    [
        (torn_tail, "which was dropped", 20),
        pytest.param(doubled_line, None, 20, marks=pytest.mark.slow),
        (torn_middle, "metrics.jsonl line 2 is not JSON", 40),
        pytest.param(lost_line, "has no line of step 10", 40, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_curve_is_reported_and_the_published_one_is_whole(
    data: DataSnapshot,
    tmp_path: Path,
    undisturbed: Store,
    monkeypatch: pytest.MonkeyPatch,
    damage,
    note: str | None,
    steps: int,
):
    """Where its middle is lost, the steps that would bring it back are taken again."""
    store, segment_id = disturbed_curve(data, tmp_path / "results", monkeypatch, damage)
    result = store.result(segment_id)
    assert result
    assert bool(result.notes) == bool(note)
    assert all(note in each for each in result.notes if note)
    assert result.steps_executed == steps
    rows = read_metrics(store.segment_folder(segment_id) / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 10, 20, 30, 40]
    assert rows == read_metrics(undisturbed.segment_folder(segment_id) / "metrics.jsonl")


@pytest.mark.faults("F22")
def test_a_machine_without_the_data_folder_fetches_it_from_where_it_was_published(data: DataSnapshot, tmp_path: Path):
    segment, published = segment_on(data, stop_step=10), tmp_path / "published"
    shutil.copytree(data.folder, published)
    job = replace(job_for(tmp_path / "results", data), data_folder=tmp_path / "node" / "tokens" / data.folder.name)
    shard = published / "train-00000.bin"
    good = shard.read_bytes()
    change(shard)
    outcome = run_segment(segment, replace(job, data_url=f"file://{published}"))
    assert outcome.failure is FailureClass.data
    assert f"{published}/train-00000.bin is not the file that was prepared" in outcome.reason
    shard.write_bytes(good)
    assert run_segment(segment, replace(job, data_url=f"file://{published}")).status == "finished"
    other = Store(root=tmp_path / "other")
    assert run_segment(segment, job_for(other.root, data)).status == "finished"
    assert weights(Store(root=tmp_path / "results"), segment.id) == weights(other, segment.id)
