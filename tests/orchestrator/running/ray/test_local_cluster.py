"""Ray's folder ends with its owner, and by its reaper or the next one after a kill -9; others' are never touched."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.cli.main import exit_code_of
from orchestrator.maintenance import doctor
from orchestrator.running.ray import connection
from orchestrator.running.ray.connection import ClusterUnreachable, connected
from orchestrator.running.ray.local_cluster import REAPER, ray_folder
from orchestrator.store.store import Store
from tests.faults.disturbances import wait_for

OWNER = """
import sys, time
from orchestrator.running.ray.local_cluster import REAPER, ray_folder
with ray_folder() as folder:
    (folder / "ray").mkdir()
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for temporary files whose path is short enough for Ray."""
    tmp_path_factory.getbasetemp()  # Made before TMPDIR is another, where pytest would look for it.
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a folder of its own."""
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


@contextlib.contextmanager
def left_in(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the Ray in a folder, by its command line."""
    command = [sys.executable, "-c", "import time; time.sleep(600)", f"--temp-dir={folder}/ray"]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


def is_reaper_of(process: psutil.Process, folder: Path) -> bool:
    """Whether a process waits for the end of a folder's owner."""
    with contextlib.suppress(psutil.Error):
        return REAPER in process.cmdline() and str(folder) in process.cmdline()
    return False


def reaper_of(folder: Path) -> psutil.Process:
    """The process that waits for the end of a folder's owner."""
    (reaper,) = (process for process in psutil.process_iter() if is_reaper_of(process, folder))
    return reaper


@pytest.mark.faults("F1", invariants=("I8",))
def test_what_a_killed_process_left_is_ended_by_its_reaper_and_that_of_a_living_one_stays(parent: Path):
    with owner() as (killed, abandoned), owner() as (_, used), left_in(abandoned) as left, left_in(used) as at_work:
        killed.kill()
        killed.wait()
        assert left.wait(10) is not None
        wait_for(lambda: set(parent.iterdir()) == {used}, seconds=10)
        assert at_work.poll() is None
        wait_for(lambda: not any(is_reaper_of(process, abandoned) for process in psutil.process_iter()), seconds=10)


@pytest.mark.faults("F1", invariants=("I8",))
def test_where_the_reaper_was_killed_too_the_next_one_ends_what_is_left(parent: Path):
    with owner() as (killed, abandoned), owner() as (_, used), left_in(abandoned) as left:
        reaper_of(abandoned).kill()
        killed.kill()
        killed.wait()
        assert set(parent.iterdir()) == {abandoned, used}
        with ray_folder() as folder:
            assert left.wait(10) is not None
            assert set(parent.iterdir()) == {folder, used}
            assert (used / "ray").is_dir()
        assert set(parent.iterdir()) == {used}


def test_no_reaper_outlives_a_folder_that_was_removed(parent: Path):
    with ray_folder() as folder:
        reaper = reaper_of(folder)
    assert not reaper.is_running()


def test_a_folder_of_the_same_name_that_is_not_ours_stays(parent: Path):
    elsewhere = parent / "elsewhere"
    for folder in (parent / "mor-sweep-notes", elsewhere):
        folder.mkdir()
    (elsewhere / "owner").write_text("")
    (parent / "mor-sweep-link").symlink_to(elsewhere)
    with ray_folder():
        pass
    assert sorted(path.name for path in parent.iterdir()) == ["elsewhere", "mor-sweep-link", "mor-sweep-notes"]
    assert (elsewhere / "owner").exists()


def test_the_folder_is_this_users_alone(parent: Path):
    with ray_folder() as folder:
        assert folder.parent == parent
        assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_for_temporary_files_that_is_not_ascii_is_not_used(parent: Path, monkeypatch: pytest.MonkeyPatch):
    odd = parent / "für"
    odd.mkdir()
    monkeypatch.setenv("TMPDIR", str(odd))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with ray_folder() as folder:
        assert folder.parent == Path("/tmp")
    assert not list(odd.iterdir())


def test_a_read_only_dev_shm_is_named_before_ray_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "shm"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    monkeypatch.setattr(connection, "SHARED_MEMORY", folder)
    monkeypatch.setattr(doctor, "SHARED_MEMORY", folder)
    started = time.monotonic()
    try:
        with pytest.raises(ClusterUnreachable, match=f"write to {folder}, which is read-only") as caught:
            connected(None, 1).__enter__()
        lines = doctor.examine(Store(root=tmp_path / "results"), deep=False)
        line = next(line for line in lines if line.name == "shared memory")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    assert exit_code_of(caught.value) == 6
    assert "executor = in-process needs no Ray" in str(caught.value)
    assert (line.level, line.found) == ("bad", str(caught.value))
    assert time.monotonic() - started < 20
