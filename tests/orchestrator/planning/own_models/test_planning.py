"""Sweeps with models of the user's own: what is asked, what is remembered, and what stops a plan."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mor_core.model.own import code as own_code
from mor_core.model.own.code import OwnModelError
from orchestrator.planning.own_models import questions
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_file import SpecError, SweepFile, read_sweep_file
from orchestrator.planning.spec.sweep_spec import load_spec, parse_spec
from tests.helpers.command_line import run_in
from tests.helpers.paths import ROOT

SWEEP = f"""
base = "{ROOT / "tests/fixtures/eight.toml"}"
budgets = ["1e8", "2e8"]

[arms]
architectures = ["vanilla"]

[sizes]
names = ["5.5k"]

[data]
corpus = "text.jsonl"

[arms.mine]
model = "mine:ladder"
"""

MODULE = """
from tests.helpers.own_models import Right

open("imported", "a").write("x")
ladder = Right()
"""


@pytest.fixture
def folder(tmp_path: Path, toy_text: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a sweep file, a module and text."""
    (tmp_path / "sweep.toml").write_text(SWEEP)
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "text.jsonl").write_bytes(toy_text.read_bytes())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "path", [*sys.path])
    questions._ladder.cache_clear()
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def planned(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    questions._ladder.cache_clear()
    return run_in(folder, "isoflop", "--preset", "sweep.toml", "--dry-run", "--no-probe", *flags)


@pytest.mark.slow
def test_a_plan_asks_once_in_a_process_of_its_own_and_again_when_the_code_changes(folder: Path) -> None:
    first = planned(folder, "--json")
    assert first.returncode == 0, first.stderr
    cells = json.loads(first.stdout)["data"]["cells"]
    assert {cell["size"] for cell in cells if cell["arm"] == "mine"} == {"small", "large"}
    assert "mine" not in sys.modules, "the planner itself imports nothing of the user's"
    assert planned(folder).returncode == 0
    assert (folder / "imported").read_text() == "x", "the answer is remembered"
    (folder / "mine.py").write_text(MODULE + "# changed\n")
    assert planned(folder).returncode == 0
    assert (folder / "imported").read_text() == "xx"


@pytest.mark.parametrize(
    ("module", "model", "sentence"),
    [
        (MODULE, "other:ladder", "there is no module other"),
        (MODULE, "mine:stairs", "mine has no stairs"),
        ("from tests.helpers.own_models import NoVersion as ladder", "mine:ladder", "version is missing"),
        ("from tests.helpers.own_models import Halved as ladder", "mine:ladder", "0.5 times what PyTorch's counter"),
        (MODULE, "mine", "expected package.module:object"),
    ],
)
def test_a_mistake_is_a_sentence_and_a_wrong_call(folder: Path, module: str, model: str, sentence: str) -> None:
    (folder / "mine.py").write_text(module)
    (folder / "sweep.toml").write_text(SWEEP.replace("mine:ladder", model))
    done = planned(folder)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_an_import_that_fails_leaves_out_that_arm_alone(folder: Path) -> None:
    (folder / "mine.py").write_text("raise RuntimeError('a library is broken')")
    done = planned(folder, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)["data"]
    assert {cell["arm"] for cell in document["cells"]} == {"vanilla"}
    assert "RuntimeError: a library is broken" in done.stdout
    (folder / "sweep.toml").write_text(SWEEP.replace('architectures = ["vanilla"]', "architectures = []"))
    alone = planned(folder)
    assert alone.returncode == 2
    assert "its import failed: RuntimeError: a library is broken" in alone.stderr


def test_a_sweep_that_was_read_from_results_runs_no_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MOR_SWEEP_CACHE", str(folder / "cache"))
    monkeypatch.setattr(own_code, "_allowed", set())
    recorded = parse_spec(SweepFile(source="sweep.json", document=read_sweep_file("sweep.toml").document))
    with pytest.raises(OwnModelError, match="give the sweep file"):
        plan(recorded, None)
    assert not (folder / "imported").exists()
    load_spec("sweep.toml")
    assert {cell.arm for cell in plan(recorded, None).cells} == {"vanilla", "mine"}, "the user has named it now"


@pytest.mark.slow
def test_training_asks_stops_at_changed_code_and_goes_on_where_the_user_says_so(folder: Path) -> None:
    flags = ("--preset", "sweep.toml", "--executor", "in-process", "--no-mlflow", "--yes", "--no-probe")
    first = run_in(folder, "isoflop", *flags)
    assert first.returncode == 0, first.stderr
    assert "6 of 6 cells finished" in first.stderr
    status = run_in(folder, "status", "--json")
    assert status.returncode == 0
    (folder / "mine.py").write_text(MODULE + "# changed\n")
    questions._ladder.cache_clear()
    stopped = run_in(folder, "isoflop", *flags)
    assert stopped.returncode == 4
    assert "its code changed since" in stopped.stderr
    assert "--same-model" in stopped.stderr
    questions._ladder.cache_clear()
    assert run_in(folder, "isoflop", *flags, "--same-model").returncode == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ('[arms.mine]\nmodel = "a:b"\nsize = ["small"]', "did you mean sizes?"),
        ('[arms.mor]\nmodel = "a:b"', "means something else"),
        ("[arms.mine]\nsizes = []", "arms.mine.model is missing"),
    ],
)
def test_a_mistake_in_the_table_names_the_key(folder: Path, change: str, sentence: str) -> None:
    (folder / "sweep.toml").write_text(SWEEP.replace('[arms.mine]\nmodel = "mine:ladder"', change))
    with pytest.raises(SpecError) as refused:
        load_spec(str(folder / "sweep.toml"))
    assert sentence in str(refused.value)
