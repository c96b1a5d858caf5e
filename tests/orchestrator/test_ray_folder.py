"""Ray's folder ends with its owner, or with the next one after a kill -9; others' folders are never touched."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.fsck_processes import process_findings
from orchestrator.ray_folder import ray_folder
from orchestrator.store import Store

OWNER = """
import sys, time
from pathlib import Path
from orchestrator.ray_folder import ray_folder
with ray_folder(Path(sys.argv[1])) as folder:
    (folder / "ray").mkdir()
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files whose path is short enough for Ray."""
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
