"""What every verb prints: one JSON document with --json, and without it data to stdout and the next step to stderr."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.cli.options import DOCUMENTS
from orchestrator.store.store import Store
from tests.helpers.paths import ROOT
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides
from tests.helpers.verbs import VERBS

CELL = "mor-2/23k/8e10"

CALLS: dict[str, tuple[str, ...]] = {
    "isoflop": ("--preset", "cpu", "--dry-run"),
    "ablate": ("kv", "--dry-run"),
    "pilot": ("--preset", "cpu", "--dry-run"),
    "status": (),
    "logs": (CELL,),
    "cancel": (),
    "retry": (),
    "fit": (),
    "table": (),
    "predict": ("--budget", "1e12"),
    "backtest": (),
    "compare": (),
    "lifetime": ("--target-loss", "3.4", "--served-tokens", "1e7"),
    "gc": ("--dry-run",),
    "config show": (),
}
"""Verbs that a planted sweep answers, with what they are asked."""

ELSEWHERE = {
    "suggest": ("orchestrator/search/test_suggest.py", "suggest"),
    "forecast": ("orchestrator/cli/fits/test_forecast.py", "forecast"),
    "fsck": ("orchestrator/maintenance/test_fsck.py", "fsck"),
    "doctor": ("orchestrator/maintenance/test_doctor.py", "doctor"),
    "tune": ("orchestrator/search/tuning/test_tune.py", "tune"),
    "generate": ("orchestrator/inference/test_verbs.py", "generate"),
    "throughput": ("orchestrator/inference/test_verbs.py", "throughput"),
    "depth": ("orchestrator/inference/test_verbs.py", "depth"),
    "routing": ("orchestrator/inference/test_verbs.py", "routing"),
    "eval": ("orchestrator/inference/test_tasks.py", "eval"),
    "data prepare": ("orchestrator/cli/test_data.py", "data"),
    "data info": ("orchestrator/cli/test_data.py", "data"),
    "data publish": ("orchestrator/cli/test_data.py", "published-data"),
    "mlflow sync": ("orchestrator/tracking/test_ui.py", "mlflow-sync"),
    "ui": ("orchestrator/tracking/test_ui.py", "ui"),
}
"""Verbs that need more than a plan and losses: the test file that reads their document, and the document's name."""

FITS = {"fit", "table", "predict", "backtest", "compare", "lifetime"}
"""Verbs that take seconds."""

READ_ELSEWHERE = {"compare", "predict", "backtest"}
"""Those whose documents default tests of their own read: of sweep pairs, of the nearest shape, of a table."""


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Two arms of seven sizes at three budgets, and a way to ask about them."""
    sweep = PlantedSweep(store=Store(root=tmp_path_factory.mktemp("results")))
    sizes = ["13k", "23k", "35k", "51k", "70k", "115k", "170k"]
    sweep.publish(sweep.plan(SNAPSHOT, overrides(budgets=["8e10", "1.6e11", "3.2e11"], sizes={"names": sizes})))

    def asked(verb: str, *flags: str) -> Any:
        results = ("--results", str(sweep.store.root)) if _has(verb, "results") else ()
        return CliRunner().invoke(app, [*verb.split(), *CALLS[verb], *results, *flags])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOR_SWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield asked


def _has(verb: str, name: str) -> bool:
    return any(each.name == name for each in VERBS[verb].params)


def _refused(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_every_verb_with_a_document_is_asked_for_it_here_or_elsewhere():
    assert {verb for verb in VERBS if _has(verb, "as_json")} == CALLS.keys() | ELSEWHERE.keys()
    for verb, (file, name) in ELSEWHERE.items():
        assert f'"mor-sweep.{name}/1"' in (ROOT / "tests" / file).read_text(), verb
        assert f"`{verb}" in DOCUMENTS[f"mor-sweep.{name}/1"]


@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=[pytest.mark.slow] * (verb in READ_ELSEWHERE)) for verb in sorted(CALLS)]
)
def test_json_is_one_document_with_a_schema_and_nothing_else(ask: Callable[..., Any], verb: str):
    done = ask(verb, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout, parse_constant=_refused)
    assert document.keys() == {"schema", "data"}
    assert f"`{verb}`" in DOCUMENTS[document["schema"]]
    assert document["data"]


@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=[pytest.mark.slow] * (verb in FITS - {"table"})) for verb in sorted(CALLS)]
)
def test_without_json_data_goes_to_stdout_and_the_next_step_is_the_last_line_of_stderr(
    ask: Callable[..., Any], verb: str
):
    done = ask(verb)
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-1].startswith("next")
    assert "next:" not in done.stdout


@pytest.mark.slow
def test_where_nothing_is_routed_the_loss_of_top_k_is_not_compared_a_second_time(tmp_path: Path):
    sweep = PlantedSweep(store=Store(root=tmp_path))
    sizes = ["13k", "23k", "35k", "51k", "70k", "115k", "170k"]
    arms = {"architectures": ["vanilla", "recursive"], "recursions": [2]}
    budgets = ["8e10", "1.6e11", "3.2e11"]
    sweep.publish(sweep.plan(SNAPSHOT, overrides(budgets=budgets, sizes={"names": sizes}, arms=arms)))
    said = CliRunner().invoke(app, ["compare", "--results", str(tmp_path)])
    assert said.exit_code == 0, said.output
    assert said.stdout.count("recursive-2 against vanilla at 8e10") == 1
    assert said.stdout.endswith("loss_topk: the same, since nothing is routed\n")
