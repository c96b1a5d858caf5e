"""What all verbs have in common: names of flags, where sweeps and cells stand, JSON with a schema."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator.cli.launch import Launch
from orchestrator.cli.main import app

ROOT = Path(__file__).parents[2]
WITHOUT_RESULTS = {"data prepare", "data info", "data publish", "config show", "config schema", "mlflow export"}
"""Verbs that look at no results folder."""


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every verb with its command."""
    for name, each in getattr(command, "commands", {}).items():
        yield from leaves(each, f"{path} {name}".strip())
    if not hasattr(command, "commands"):
        yield path, command


VERBS = dict(leaves(typer.main.get_command(app)))


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


@pytest.mark.parametrize("verb", ["isoflop", "ablate", "tune", "pilot"])
def test_verbs_that_train_are_run_alike(verb: str):
    for field in dataclasses.fields(Launch):
        here, there = parameter(verb, field.name), parameter("isoflop", field.name)
        assert (here.opts, here.secondary_opts, here.help) == (there.opts, there.secondary_opts, there.help), field.name
    assert parameter(verb, "price").opts == ["--price-per-gpu-hour"]


def test_every_json_document_has_a_schema_of_its_own_with_a_version():
    """Every schema that a verb prints is in the README's list."""
    sources = [*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "analysis").glob("*.py")]
    printed = set()
    for path in sources:
        text = path.read_text()
        printed |= set(re.findall(r'print_json\(\s*"(mor-sweep\.[a-z-]+/\d+)"', text))
    assert printed
    assert all(re.fullmatch(r"mor-sweep\.[a-z-]+/\d+", schema) for schema in printed)
    listed = set(re.findall(r"`(mor-sweep\.[a-z-]+/\d+)`", (ROOT / "README.md").read_text()))
    assert printed <= listed
