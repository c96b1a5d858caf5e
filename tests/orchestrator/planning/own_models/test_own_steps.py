"""Sweeps with models that have training steps of their own: which runs they get, and their losses to the end."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from orchestrator.tracking.content import run_content
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
model = "tests.helpers.own_models:momentum"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_text: Path) -> Iterator[Path]:
    """A user's folder: text, and the answers that planning remembers. Each test writes its own sweep file."""
    folder = tmp_path_factory.mktemp("own_steps")
    (folder / "text.jsonl").write_bytes(toy_text.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setattr(sys, "path", [*sys.path])
        yield folder


def planned(folder: Path, change: tuple[str, str] = ("", "")) -> dict[str, Any]:
    (folder / "sweep.toml").write_text(SWEEP.replace(*change) if change[0] else SWEEP)
    done = run_in(folder, "isoflop", "--preset", "sweep.toml", "--dry-run", "--no-probe", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["data"]


def test_a_model_that_supports_a_cooldown_shares_trunks_and_the_plan_says_so(folder: Path) -> None:
    plan = planned(folder)
    cells = [cell for cell in plan["cells"] if cell["arm"] == "mine"]
    assert {cell["model"]["training"] for cell in cells} == {"steps"}
    assert all(0 < cell["decay_start"] < cell["steps"] for cell in cells)
    assert len({json.dumps(cell["train"]) for cell in cells if cell["size"] == "small"}) == 1, "one trunk"
    assert "mine: trained by its own steps, on trunks that budgets share" in plan["notes"]


def test_a_model_that_does_not_gets_a_run_for_each_budget_and_the_plan_says_so(folder: Path) -> None:
    plan = planned(folder, ("own_models:momentum", "own_models:whole_runs"))
    cells = [cell for cell in plan["cells"] if cell["arm"] == "mine"]
    assert {cell["model"]["training"] for cell in cells} == {"whole-runs"}
    assert all(cell["decay_start"] == cell["steps"] == cell["train"]["cosine_steps"] for cell in cells)
    (note,) = (note for note in plan["notes"] if note.startswith("mine"))
    assert "do not say supports_cooldown = True, so each of its cells is a run of its own" in note
    vanilla = [cell for cell in plan["cells"] if cell["arm"] == "vanilla"]
    assert all(cell["decay_start"] < cell["steps"] for cell in vanilla), "other arms are as ever"


def test_several_workers_for_steps_that_one_takes_are_a_sentence(folder: Path) -> None:
    (folder / "sweep.toml").write_text(SWEEP + "\n[execution]\nworkers_per_segment = 2\n")
    done = run_in(folder, "isoflop", "--preset", "sweep.toml", "--dry-run", "--no-probe")
    assert done.returncode == 2
    assert "the training steps of arms.mine are its own, and one worker takes them" in done.stderr


@pytest.mark.slow
def test_the_ngram_under_lion_is_swept_and_fitted_by_the_loss_that_it_names(folder: Path) -> None:
    sweep = SWEEP.replace('["1e8", "2e8"]', '["1e8", "2e8", "4e8"]').replace(
        "tests.helpers.own_models:momentum", "examples.ngram_lion:ngram"
    )
    (folder / "sweep.toml").write_text(sweep)
    flags = ("--preset", "sweep.toml", "--executor", "in-process", "--no-mlflow", "--yes", "--no-probe")
    done = run_in(folder, "isoflop", *flags)
    assert done.returncode == 0, done.stderr
    runs = pl.read_parquet(folder / "results" / "sweeps" / "sweep" / "runs.parquet")
    own = runs.filter(pl.col("arm") == "mine")
    assert set(own["status"]) == {"finished"}
    assert own["own:whole_context"].null_count() == 0
    assert runs.filter(pl.col("arm") == "vanilla")["own:whole_context"].null_count() == 3
    shown = run_content(own.row(0, named=True), [], {}, None).final
    assert "own/whole_context" in {name for name, _, _ in shown}, "in MLflow"
    assert run_in(folder, "fsck").returncode == 0
    fitted = run_in(folder, "fit", "--loss", "own:whole_context")
    assert fitted.returncode in (0, 5), fitted.stderr
    fits = json.loads((folder / "results" / "sweeps" / "sweep" / "fits.json").read_text())
    assert fits["settings"]["loss_column"] == "own:whole_context"
    mistaken = run_in(folder, "fit", "--loss", "own:whole_contex")
    assert mistaken.returncode == 2
    assert "did you mean own:whole_context?" in mistaken.stderr
