"""F3, F5 and F6: kills inside a commit, a full disk, a folder that turns read-only."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mor_core.data.snapshot import DataSnapshot
from mor_core.files import remove_folder
from mor_core.model.transformer import build_model
from mor_core.training.checkpoint import load_checkpoint, save_checkpoint
from mor_core.training.manifest import verify_checkpoint
from mor_core.training.optim import build_optimizer
from orchestrator.running.outcomes import FailureClass
from orchestrator.running.segment.worker import run_segment
from orchestrator.store.store import Store
from tests.faults.disturbances import assert_as_undisturbed, busy_seconds, wait_for
from tests.helpers import single_segment
from tests.helpers.single_segment import job_for, segment_on
from tests.helpers.toy_sweep import ToySweep

FILE_SYSTEM_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


@pytest.mark.faults("F3", invariants=("I6",))
def test_a_kill_at_any_point_of_a_commit_leaves_a_whole_checkpoint(data: DataSnapshot, tmp_path: Path, figures):
    """A child commits checkpoint 2 and removes checkpoint 1, and is killed at its first, second, ... file event."""
    segment = segment_on(data)
    model = build_model(segment.trunk.model, seed=0)
    optimizer = build_optimizer(model, segment.trunk.train)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    points = newest = 0
    while newest < 2 or points < 20:
        folder = tmp_path / str(points)
        folder.mkdir()
        save_checkpoint(folder / "checkpoint-1", model, optimizer, 1)
        child = os.fork()
        if child == 0:
            _die_at_event(points)
            save_checkpoint(folder / "checkpoint-2", model, optimizer, 2)
            remove_folder(folder / "checkpoint-1")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        whole = []
        for path in folder.glob("checkpoint-[12]"):  # What a reader sees; others carry a suffix.
            verify_checkpoint(path)
            whole.append(path)
        assert whole
        newest = load_checkpoint(max(whole), model, optimizer)
        if os.waitstatus_to_exitcode(status) == 0:
            break
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        points += 1
    assert newest == 2
    assert points > 10
    figures("F3", f"killed at each of {points} file events: a whole checkpoint every time")


def _die_at_event(number: int) -> None:
    seen = -1

    def watch(event: str, _arguments: tuple) -> None:
        nonlocal seen
        if event in FILE_SYSTEM_EVENTS:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.faults("F4", invariants=("I4", "I6"))
@pytest.mark.parametrize(
    ("damage", "name"),
    [
        pytest.param(emptied, "manifest.json", id="manifest emptied"),
        pytest.param(flipped, "weights.safetensors", id="a bit of the weights", marks=pytest.mark.slow),
        pytest.param(flipped, "optimizer.safetensors", id="a bit of the optimiser"),
        pytest.param(Path.unlink, "optimizer.safetensors", id="optimiser missing", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_newest_checkpoint_falls_back_one(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage, name: str
):
    segment, store = segment_on(data), Store(root=tmp_path / "results")
    monkeypatch.setenv("MOR_SWEEP_REHEARSE", "raise step=25 attempts=1")
    assert run_segment(segment, job_for(store.root, data)).status == "failed"
    step, newest = store.attempts(segment.id).checkpoints()[0]
    assert step == 20
    damage(newest / name)
    assert run_segment(segment, job_for(store.root, data)).status == "finished"
    result = store.result(segment.id)
    assert result
    assert result.steps_executed == 30, "from checkpoint 10"
    assert newest.with_name("checkpoint-20.corrupt").exists()
    assert any("checkpoint-20 was set aside" in note for note in result.notes)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own; the test is left out where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.faults("F5", invariants=("I4", "I6"))
def test_a_full_disk_is_named_with_the_bytes_needed_and_once_freed_the_segment_finishes(
    data: DataSnapshot, small_disk: Path, tmp_path: Path, figures
):
    segment, store, other = segment_on(data), Store(root=small_disk), Store(root=tmp_path / "other")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 300_000))
    outcome = run_segment(segment, job_for(small_disk, data))
    assert outcome.failure is FailureClass.store
    assert "bytes, and no space is left for it: free some and run the same command again" in outcome.reason
    assert str(small_disk) in outcome.reason
    kept = store.attempts(segment.id).checkpoints()
    for _, path in kept:
        verify_checkpoint(path)
    assert not list(small_disk.rglob("*.writing*"))
    ballast.unlink()
    assert run_segment(segment, job_for(small_disk, data)).status == "finished"
    assert run_segment(segment, job_for(other.root, data)).status == "finished"
    files = [each.checkpoint_folder(segment.id) / "weights.safetensors" for each in (store, other)]
    assert files[0].read_bytes() == files[1].read_bytes()
    figures("F5", f"300 kB free: {len(kept)} whole checkpoints kept, finished once space was freed")


@pytest.mark.faults("F5", invariants=("I6",))
@pytest.mark.parametrize(
    "free", [120_000, *(pytest.param(free, marks=pytest.mark.slow) for free in (0, 240_000, 360_000))]
)
def test_wherever_a_disk_fills_up_nothing_torn_is_read(data: DataSnapshot, small_disk: Path, free: int):
    """Metrics, progress, the log of a failure, each file of a checkpoint: whatever is the first that does not fit."""
    segment, store = segment_on(data), Store(root=small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - free))
    outcome = run_segment(segment, job_for(small_disk, data))
    assert outcome.failure is FailureClass.store, outcome
    assert str(small_disk) in outcome.reason
    for _, path in store.attempts(segment.id).checkpoints():
        verify_checkpoint(path)
    ballast.unlink()
    assert run_segment(segment, job_for(small_disk, data)).status == "finished"


@pytest.mark.slow
@pytest.mark.faults("F5", invariants=("I1", "I4"))
def test_a_sweep_on_a_full_disk_says_so_and_finishes_once_there_is_space(
    toy: ToySweep, reference: ToySweep, tmp_path: Path, figures
):
    toy.results.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(toy.results)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        ballast = toy.results / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(toy.results).free - 400_000))
        done = toy.run(mlflow=True)
        assert done.returncode in (1, 3)
        assert "Traceback" not in done.stderr
        assert "no space" in done.stderr.lower() or "No space left on device" in done.stderr
        ballast.unlink()
        again = toy.run(mlflow=True)
        assert again.returncode == 0, again.stderr
        assert_as_undisturbed(toy, reference)
    finally:
        subprocess.run(["umount", "--lazy", str(toy.results)], check=True)
    figures("F5", f"sweep: exit {done.returncode} with a sentence, then finished with the reference's hashes")


@pytest.mark.slow
@pytest.mark.faults("F6", invariants=("I6",))
def test_a_folder_that_turns_read_only_is_said_within_seconds(data: DataSnapshot, tmp_path: Path, figures):
    """Made immutable below a running attempt: by its file attribute for root, by its mode for anybody else."""
    segment, store = segment_on(data, stop_step=5000), Store(root=tmp_path / "results")
    command = [sys.executable, single_segment.__file__, *map(str, [store.root, data.folder, 4, 5000, 600, 0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        wait_for(lambda: store.attempts(segment.id).checkpoints())
        (attempt,) = (path for path in store.attempts_folder(segment.id).iterdir() if path.is_dir())
        if not _set_read_only(attempt, True):
            process.kill()
            pytest.skip("this file system has no immutable folders")
        started = time.monotonic()
        try:
            output, _ = process.communicate(timeout=60)
            seconds = time.monotonic() - started
        finally:
            _set_read_only(attempt, False)
    reason = json.loads(output)["reason"]
    assert reason.startswith(f"store: {attempt}")
    assert seconds < busy_seconds(5) + 2
    for _, path in store.attempts(segment.id).checkpoints():
        verify_checkpoint(path)
    figures("F6", f"said {seconds:.1f} s after it turned read-only")


def _set_read_only(folder: Path, on: bool) -> bool:
    if os.geteuid():
        folder.chmod(0o555 if on else 0o755)
        return True
    flag = "+i" if on else "-i"
    return subprocess.run(["chattr", flag, str(folder)], capture_output=True, check=False).returncode == 0
