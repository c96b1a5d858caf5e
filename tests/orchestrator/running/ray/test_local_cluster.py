"""Ray's folder ends with its owner, or with the next one after a kill -9; others' folders are never touched."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.main import exit_code_of
from orchestrator.maintenance import doctor
from orchestrator.maintenance.findings import process_findings
from orchestrator.running.ray import connection
from orchestrator.running.ray.connection import ClusterUnreachable, connected
from orchestrator.running.ray.local_cluster import ray_folder
from orchestrator.store.store import Store

OWNER = """
import sys, time
from pathlib import Path
from orchestrator.running.ray.local_cluster import ray_folder
with ray_folder(Path(sys.argv[1])) as folder:
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
def owner(results: str = "results") -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a folder of its own, for a run in a results folder."""
    with subprocess.Popen([sys.executable, "-c", OWNER, results], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_the_folder_of_a_killed_process_goes_and_that_of_a_living_one_stays(parent: Path):
    with owner() as (killed, abandoned), owner() as (_, used):
        killed.kill()
        killed.wait()
        assert {abandoned, used} == set(parent.iterdir())
        with ray_folder() as mine:
            assert {mine, used} == set(parent.iterdir())
            assert (used / "ray").is_dir()
        assert set(parent.iterdir()) == {used}


@pytest.mark.faults("F13", invariants=("I8",))
def test_what_a_killed_process_left_running_is_found_by_fsck_and_ended_by_the_next_one(parent: Path, tmp_path: Path):
    with owner(str(tmp_path)) as (killed, abandoned):
        command = [sys.executable, "-c", "import time; time.sleep(600)", f"--temp-dir={abandoned}/ray"]
        with subprocess.Popen(command) as left:
            assert not list(process_findings(Store(root=tmp_path))), "its owner lives"
            killed.kill()
            killed.wait()
            (finding,) = process_findings(Store(root=tmp_path))
            assert f"problem: {abandoned}: process {left.pid} (" in finding.line()
            assert f"kill {left.pid}, or run a sweep" in finding.line()
            assert not list(process_findings(Store(root=tmp_path / "other"))), "of another results folder"
            with ray_folder():
                assert left.wait(10) is not None
            assert not list(process_findings(Store(root=tmp_path)))


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
