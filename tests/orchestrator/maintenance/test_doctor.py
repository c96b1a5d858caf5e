"""`mor-sweep doctor` says what a machine lacks, and stays light itself."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.maintenance.doctor import Line, _presets_here_line, examine
from orchestrator.store.store import Store
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep

LINES = {
    "machine",
    "disk of results",
    "disk of cache",
    "open files",
    "python",
    "packages",
    "torch",
    "presets",
    "compiler",
    "mlflow",
    "data",
}


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch, tmp_path: Path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MOR_SWEEP_CACHE", str(tmp_path / "cache"))


def lines(results: Path, *names: str) -> dict[str, Line]:
    """What is said of these things. Stops looking once all are known: torch takes seconds."""
    found = {}
    for line in examine(Store(root=results), deep=False):
        found[line.name] = line
        if set(names) <= found.keys():
            break
    return found


def test_this_machine_is_fit_and_the_command_loads_nothing_heavy(tmp_path: Path):
    code = (
        "import sys; from typer.testing import CliRunner; from orchestrator.cli.main import app\n"
        "result = CliRunner().invoke(app, ['doctor', '--json', '--results', sys.argv[1]])\n"
        "print(result.output); assert not {'torch', 'ray', 'mlflow'} & sys.modules.keys(); sys.exit(result.exit_code)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    told = json.loads(done.stdout)
    document = told["data"]
    assert told["schema"] == "mor-sweep.doctor/1"
    assert document["healthy"]
    assert {line["name"] for line in document["lines"]} >= LINES
    assert not (tmp_path / "results").exists()


def test_a_results_folder_that_cannot_be_made_is_bad_and_exits_1(tmp_path: Path):
    (tmp_path / "file").write_text("")
    found = lines(tmp_path / "file" / "results", "disk of results")["disk of results"]
    assert found.level == "bad"
    assert "is not a folder" in found.found


@pytest.mark.slow
def test_a_changed_or_missing_shard_is_bad_and_named(reference: ToySweep, tmp_path: Path):
    shutil.copytree(reference.results, tmp_path / "results")
    document = json.loads((tmp_path / "results/sweeps/toy/sweep.json").read_text())
    data = tmp_path / "data"
    shutil.copytree(document["revisions"][-1]["data_folder"], data)
    document["revisions"][-1]["data_folder"] = str(data)
    (tmp_path / "results/sweeps/toy/sweep.json").write_text(json.dumps(document))
    (shard,) = data.glob("train-*")
    command = [*MOR_SWEEP, "doctor", "--results", str(tmp_path / "results")]
    assert lines(tmp_path / "results", "data")["data"].level == "ok"
    content = bytearray(shard.read_bytes())
    content[7] ^= 1
    shard.write_bytes(content)
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ, check=False)
    assert done.returncode == 1
    assert f"{shard} was changed" in done.stdout
    shard.unlink()
    assert str(shard) in lines(tmp_path / "results", "data")["data"].found


def test_the_next_step_is_the_preset_that_this_machine_can_train():
    assert _presets_here_line([]).next == ("isoflop", "--preset", "cpu")
    assert _presets_here_line(["NVIDIA H100"]).next == ("isoflop", "--preset", "gpu")


def test_a_tracking_server_that_is_down_is_a_warning_without_its_password(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:pa55word@127.0.0.1:9")
    found = lines(tmp_path / "results", "mlflow")["mlflow"]
    assert found.level == "warn"
    assert "no MLflow server answers at http://127.0.0.1:9" in found.found
    assert "pa55word" not in found.found


def test_no_compiler_is_a_warning(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = lines(tmp_path / "results", "compiler")["compiler"]
    assert (found.level, "compile = true" in found.found) == ("warn", True)


@pytest.mark.slow
def test_a_deep_look_starts_and_ends_ray(tmp_path: Path):
    found = {line.name: line for line in examine(Store(root=tmp_path / "results"), deep=True)}
    assert found["ray"].level == "ok", found["ray"].found
