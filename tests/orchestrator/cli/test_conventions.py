"""What all verbs have in common: names of flags, where sweeps and cells stand, JSON with a schema."""

import dataclasses
import re
import subprocess
import sys
from typing import Any

import pytest

from orchestrator.cli.options import DOCUMENTS
from orchestrator.cli.train.launch import Launch
from tests.helpers.paths import ROOT
from tests.helpers.verbs import VERBS

CONFIG_VERBS = {"config show", "config init"}
WITHOUT_RESULTS = {"data prepare", "data info", "data publish", *CONFIG_VERBS, "mlflow export"}
"""Verbs that look at no results folder."""

WITHOUT_DATA = {
    **{
        f"plot {figure}": "draws; the numbers go into a JSON file beside the figure"
        for figure in (
            "isoflop",
            "frontier",
            "surface",
            "repeated",
            "residuals",
            "backtest",
            "compare",
            "forecasts",
            "lifetime",
            "curves",
            "task",
        )
    },
    "report": "writes a page",
    "export": "writes a bundle or a folder",
    "import": "adds to the results",
    "mlflow export": "writes a table",
    "config init": "writes a sweep file",
}
"""Verbs without --json: what they do instead of printing data."""


def parameter(verb: str, name: str) -> Any:
    return next((each for each in VERBS[verb].params if each.name == name), None)


def test_every_verb_and_every_flag_says_what_it_does():
    for verb, command in VERBS.items():
        assert command.help, verb
        for each in command.params:
            assert each.help, f"{verb} {each.name}"


@pytest.mark.parametrize("verb", sorted(set(VERBS) - WITHOUT_RESULTS))
def test_the_results_folder_is_named_alike(verb: str):
    results = parameter(verb, "results")
    assert results.opts == ["--results"]
    assert str(results.default) == "results"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_sweep_is_the_argument_of_verbs_about_sweeps_and_a_flag_of_those_about_cells(verb: str):
    sweep = parameter(verb, "sweep")
    if sweep is None:
        return
    about_cells = parameter(verb, "cell") or parameter(verb, "cells") or parameter(verb, "what")
    is_argument = sweep.param_type_name == "argument"
    if about_cells is not None and about_cells.param_type_name == "argument":
        assert sweep.opts == ["--sweep"], verb
    else:
        assert is_argument, verb
    assert sweep.help == "The sweep; the last one used by default.", verb


@pytest.mark.parametrize(
    ("name", "flag"),
    [("as_json", "--json"), ("yes", "--yes"), ("out", "--out"), ("dry_run", "--dry-run"), ("follow", "--follow")],
)
def test_equal_things_have_equal_flags(name: str, flag: str):
    for verb in VERBS:
        each = parameter(verb, name)
        if each is not None and verb != "status":  # `status --watch` draws anew, `logs --follow` goes on.
            assert flag in each.opts, verb


def test_every_verb_that_prints_data_can_print_it_as_json():
    """A new verb has --json, or stands among those without data, with the reason."""
    without = {verb for verb in VERBS if parameter(verb, "as_json") is None}
    assert without == WITHOUT_DATA.keys()


def test_every_json_document_is_in_the_table_with_its_version():
    sources = [
        *(path for path in (ROOT / "orchestrator/cli").rglob("*.py") if path.name != "options.py"),
        *(ROOT / "analysis/report" / f"{name}.py" for name in ("tables", "tasks", "lifetimes")),
    ]
    printed = set(re.findall(r'"(mor-sweep\.[a-z-]+/\d+)"', "".join(path.read_text() for path in sources)))
    named = re.findall(r"`(mor-sweep\.[a-z-]+/\d+)`", (ROOT / "docs" / "guides" / "scripts.md").read_text())
    assert DOCUMENTS.keys() == printed
    assert set(named) <= printed


@pytest.mark.parametrize("verb", ["isoflop", "ablate", "tune", "pilot"])
def test_verbs_that_train_are_run_alike(verb: str):
    for field in dataclasses.fields(Launch):
        here, there = parameter(verb, field.name), parameter("isoflop", field.name)
        assert (here.opts, here.secondary_opts, here.help) == (there.opts, there.secondary_opts, there.help), field.name
    assert parameter(verb, "price").opts == ["--price-per-gpu-hour"]


def test_a_library_that_does_not_fit_into_memory_is_one_sentence():
    """The kernel's own limit, set once the command line is loaded and before torch is."""
    code = (
        "import resource; from pathlib import Path; from orchestrator.cli import main\n"
        "held = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (held + 2**27, held + 2**27))\n"
        "main.app = lambda **_: __import__('torch'); main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is not enough memory to load a library (")
    assert "raise the limit (ulimit -v)" in done.stderr
    assert "Traceback" not in done.stderr
