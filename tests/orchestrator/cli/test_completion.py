"""What a shell offers, asked as bash does: by the command itself with its completion variables set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep

HEAVY = ("torch", "ray", "mlflow", "polars", "numpy", "pandas", "scipy", "matplotlib", "rich")


def offered(line: str, folder: Path, command: tuple[str, ...] = tuple(MOR_SWEEP)) -> list[str]:
    """What bash is told for a line whose last word is being typed."""
    asked = {"_MOR_SWEEP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | asked, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr
    return done.stdout.split()


@pytest.fixture
def mor_sweep(tmp_path: Path) -> tuple[str, ...]:
    """The command under its own name: the variables are named after it."""
    program = tmp_path / "mor-sweep"
    program.write_text(f"#!{sys.executable}\nfrom orchestrator.cli.main import main\nmain()\n")
    program.chmod(0o755)
    return (str(program),)


@pytest.mark.parametrize("verb", ["status", "fit", "cancel", "plot frontier", "report", "ui", "mlflow sync", "suggest"])
def test_verbs_about_a_sweep_offer_its_name(reference: ToySweep, mor_sweep: tuple[str, ...], verb: str):
    assert offered(f"mor-sweep {verb} --results {reference.results} t", reference.results, mor_sweep) == ["toy"]


@pytest.mark.parametrize("verb", ["logs", "generate", "depth", "routing", "eval", "retry"])
def test_verbs_about_cells_offer_them_by_name_and_by_id(reference: ToySweep, mor_sweep: tuple[str, ...], verb: str):
    results = f"--results {reference.results}"
    found = offered(f"mor-sweep {verb} {results} vanilla/13k/", reference.results, mor_sweep)
    assert found == ["vanilla/13k/6e8/0", "vanilla/13k/1.2e9/0", "vanilla/13k/2.4e9/0"]
    identity = reference.science()["cell_id"][0]
    assert offered(f"mor-sweep {verb} {results} {identity[:10]}", reference.results, mor_sweep) == [identity]


def test_without_a_sweep_or_with_a_damaged_one_nothing_is_offered(tmp_path: Path, mor_sweep: tuple[str, ...]):
    assert offered("mor-sweep status ", tmp_path, mor_sweep) == []
    assert offered("mor-sweep logs ", tmp_path, mor_sweep) == []
    (tmp_path / "results/sweeps/torn").mkdir(parents=True)
    (tmp_path / "results/sweeps/torn/sweep.json").write_text("{")
    (tmp_path / "results/sweeps/.last").write_text("torn")
    assert offered("mor-sweep status ", tmp_path, mor_sweep) == ["torn"]
    assert offered("mor-sweep logs ", tmp_path, mor_sweep) == []


def test_completion_loads_nothing_heavy_but_what_typer_needs(reference: ToySweep):
    script = (
        "import os, sys, atexit\n"
        f"atexit.register(lambda: print(*sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr))\n"
        "sys.argv = ['mor-sweep']\n"
        "from orchestrator.cli.main import main\nmain()"
    )
    line = f"mor-sweep logs --results {reference.results} van"
    asked = {"_MOR_SWEEP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "4"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert "vanilla/23k/2.4e9/0" in done.stdout
    assert done.stderr.split() == []
