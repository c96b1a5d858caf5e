"""Workers get the code of a user's own models from Ray, wherever they start and whatever they find."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.running.ray.connection import SUBMITTED_JOB, working_folder
from tests.helpers.paths import ROOT
from tests.helpers.ray_cluster import cluster
from tests.helpers.toy_sweep import MOR_SWEEP

SWEEP = f"""
base = "{ROOT / "tests/fixtures/eight.toml"}"
budgets = ["1e8"]
arms.architectures = []
data.corpus = "text.jsonl"

[arms.mine]
model = "package.ladders:ladder"
sizes = ["small"]
"""

MODULE = """
import os
from pathlib import Path

from parts import Ladder

WIDTH = int((Path(__file__).parent / "width.txt").read_text())
with open({log!r}, "a") as log:
    print(os.getpid(), os.getcwd(), __file__, *sorted(os.listdir(Path(__file__).parents[1])), sep="|", file=log)

ladder = Ladder(files=["width.txt"])
"""

PARTS = """
from tests.helpers.own_models import Right


class Ladder(Right):
    def __init__(self, files):
        self.files = files
"""


@pytest.fixture
def user(tmp_path: Path, toy_text: Path) -> Path:
    """A user's folder, and a library that only his Python path has."""
    library = tmp_path / "library"
    (library / "package").mkdir(parents=True)
    (library / "package" / "ladders.py").write_text(MODULE.format(log=str(tmp_path / "imported")))
    (library / "package" / "width.txt").write_text("8")
    (library / "package" / "large.bin").write_bytes(b"0" * 10**6)
    (library / "parts.py").write_text(PARTS)
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "sweep.toml").write_text(SWEEP)
    (folder / "text.jsonl").write_bytes(toy_text.read_bytes())
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Any]:
    """A cluster that was started in another folder, without the library on its path."""
    (tmp_path / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "elsewhere")
        patch.setenv("PYTHONPATH", str(ROOT))
        with cluster({"num_cpus": 2}) as nodes:
            yield nodes


def run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    library, cache = folder.parent / "library", folder.parent / "cache"
    environment = os.environ | {"PYTHONPATH": f"{library}{os.pathsep}{ROOT}", "MOR_SWEEP_CACHE": str(cache)}
    command = [*MOR_SWEEP, "isoflop", "--preset", "sweep.toml", "--yes", "--no-mlflow", "--no-probe", *flags]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )


def imports(folder: Path) -> list[list[str]]:
    """Process, working folder, file and what lies beside its package, of each process that imported the module."""
    return [line.split("|") for line in (folder.parent / "imported").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_elsewhere_import_what_only_the_driver_has(user: Path, elsewhere: Any) -> None:
    done = run(user, "--address", elsewhere.address)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 cells finished" in done.stderr
    of_workers = [place for place in imports(user) if not place[2].startswith(str(user.parent))]
    assert of_workers
    for _, start, file, *beside in of_workers:
        assert Path(file).is_relative_to(start), "the worker started in the copy"
        assert set(beside) - {"__pycache__"} == {"package", "parts.py"}, "nothing of the user's folders but code"
    again = run(user, "--address", elsewhere.address)
    assert again.returncode == 0, again.stderr
    assert "nothing to train" in again.stderr, "the copy has the sha256 of the user's own code"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_local_ray_has_the_code_as_it_was_when_the_command_began(user: Path) -> None:
    done = run(user, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 cells finished" in done.stderr
    assert [place for place in imports(user) if not place[2].startswith(str(user.parent))]


def test_a_job_that_was_submitted_with_a_working_folder_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("")
    with working_folder({"mine.py": file}) as settings:
        (copy,) = Path(settings["runtime_env"]["working_dir"]).rglob("*.py")
        assert copy.name == "mine.py"
    assert not copy.exists()
    monkeypatch.setenv(SUBMITTED_JOB, '{"runtime_env": {"working_dir": "gcs://package.zip"}}')
    with working_folder({"mine.py": file}) as settings:
        assert settings == {}
    monkeypatch.setenv(SUBMITTED_JOB, '{"runtime_env": null}')
    with working_folder({"mine.py": file}) as settings:
        assert "runtime_env" in settings
