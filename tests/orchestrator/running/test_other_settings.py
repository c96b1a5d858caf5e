"""A sweep file that was edited: finished cells of other settings leave a table only where the user agrees, in sight."""

import hashlib
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.records.revisions import load_sweep
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import sweep_names
from tests.helpers.paths import TOY_PRESET
from tests.helpers.toy_sweep import ToySweep, run_here


class Terminal(io.StringIO):
    """Keys that somebody types."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.fixture
def copy(reference: ToySweep, tmp_path: Path) -> ToySweep:
    """The finished toy sweep, in a folder of its own."""
    sweep = replace(reference, results=tmp_path / "results")
    shutil.copytree(reference.results, sweep.results)
    return sweep


@pytest.fixture
def slower(tmp_path: Path) -> Path:
    """The toy sweep's file with another learning rate."""
    path = tmp_path / "slower.toml"
    path.write_text(TOY_PRESET.read_text().replace("base = 1e-2", "base = 5e-3"))
    return path


def edited(sweep: ToySweep, preset: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """One cell of an edited sweep file."""
    grid = ["--sizes", "13k", "--budgets", "6e8", "--arms", "vanilla", "--data", str(sweep.text)]
    how = ["--results", str(sweep.results), "--executor", "in-process", "--no-mlflow"]
    return run_here(["isoflop", "--preset", str(preset), *grid, *how, *flags], sweep.environment)


def contents(folder: Path) -> dict[str, str]:
    """Every file with the sha256 of its bytes."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def status(sweep: ToySweep, *flags: str) -> subprocess.CompletedProcess[str]:
    """What the verb says."""
    return run_here(["status", "--results", str(sweep.results), *flags], sweep.environment)


def test_without_a_terminal_or_yes_nothing_is_written_and_the_way_on_is_said(copy: ToySweep, slower: Path):
    before = contents(copy.results)
    refused = edited(copy, slower)
    assert refused.returncode == 4
    assert "12 finished cells would leave the table of `toy`" in refused.stderr
    assert "--name" in refused.stderr
    assert "--yes" in refused.stderr
    assert contents(copy.results) == before


def test_a_dry_run_says_so_and_writes_nothing(copy: ToySweep, slower: Path):
    before = contents(copy.results)
    planned = edited(copy, slower, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "note: 12 finished cells of other settings would leave the table of toy" in planned.stderr
    assert contents(copy.results) == before


def test_at_a_terminal_cancel_writes_nothing(copy: ToySweep, slower: Path, monkeypatch: pytest.MonkeyPatch):
    before = contents(copy.results)
    monkeypatch.setattr("sys.stdin", Terminal("cancel\n"))
    cancelled = edited(copy, slower)
    assert cancelled.returncode == 4
    assert "[n]ame the new one / replace / cancel" in cancelled.stderr + cancelled.stdout
    assert contents(copy.results) == before


def test_at_a_terminal_another_name_keeps_both(copy: ToySweep, slower: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", Terminal("n\n../other\nslow\n"))
    named = edited(copy, slower)
    assert named.returncode == 0, named.stderr
    assert "cannot name a folder" in named.stderr + named.stdout
    store = Store(root=copy.results)
    assert sweep_names(store) == ["slow", "toy"]
    assert len(load_sweep(store, "toy").cells) == 12
    assert len(load_sweep(store, "slow").cells) == 1


def test_replaced_cells_stay_in_sight_and_come_back(copy: ToySweep, slower: Path, monkeypatch: pytest.MonkeyPatch):
    assert "other settings" not in status(copy).stderr
    monkeypatch.setattr("sys.stdin", Terminal("replace\n"))
    replaced = edited(copy, slower)
    assert replaced.returncode == 0, replaced.stderr
    shown, everything = status(copy), status(copy, "--all", "--cells")
    assert "12 cells under other settings: mor-sweep status toy --all" in shown.stderr
    assert shown.stdout.count("finished") == 2  # In the title, and the new cell.
    assert everything.stdout.count("mor-2") == 6
    assert everything.stdout.count("vanilla") == 7
    data = json.loads(status(copy, "--json", "--all").stdout)["data"]
    assert data["num_under_other_settings"] == 12
    (other,) = data["under_other_settings"]
    assert len(other["cells"]) == 12
    assert {cell["status"] for cell in other["cells"]} == {"finished"}
    assert copy.run().returncode == 0
    assert json.loads(status(copy, "--json").stdout)["data"]["num_under_other_settings"] == 1
