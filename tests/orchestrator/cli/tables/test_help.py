"""What `--help` says: verbs by what one wants, one whole sentence each, and an example that the verb takes."""

import os
import pty
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from orchestrator.cli.main import PANELS, app
from orchestrator.cli.tables.help import Verbs
from tests.helpers.command_line import run
from tests.helpers.toy_sweep import MOR_SWEEP
from tests.helpers.verbs import VERBS

ROOT = typer.main.get_command(app)
GROUPS = {name: each for name, each in ROOT.commands.items() if hasattr(each, "commands")}
AT_80 = os.environ | {"COLUMNS": "80", "TERM": "xterm-256color"}


def help_of(*verb: str, **variables: str) -> str:
    done = subprocess.run(
        [*MOR_SWEEP, *verb, "--help"], env=AT_80 | variables, capture_output=True, text=True, check=True
    )
    return done.stdout


def help_on_a_terminal(*verb: str) -> str:
    """As `help_of`, of a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen([*MOR_SWEEP, *verb, "--help"], env=AT_80, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # What Linux says of a terminal whose other end is closed.
            break
        if not part:
            break
        shown += part
    assert child.wait(timeout=60) == 0
    os.close(ours)
    return shown.decode()


def test_every_verb_stands_in_one_panel_with_a_sentence_that_is_not_cut_off():
    shown = help_of()
    assert {name for verbs in PANELS.values() for name in verbs} == ROOT.commands.keys()
    for panel, verbs in PANELS.items():
        assert f"\n{panel}:\n" in shown
        for name in verbs:
            sentence = ROOT.commands[name].help.split("\n\n")[0]
            assert sentence.endswith(".")
            assert f"  {name} " in shown
            assert f"  {sentence}\n" in shown, name
    assert "..." not in shown.replace("[ARGS]...", "")


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_verbs_of_a_group_are_told_in_one_line_each(group: str):
    lines = help_of(group).splitlines()
    for verb in GROUPS[group].commands.values():
        assert any(line.endswith(verb.help.split("\n\n")[0]) for line in lines), verb.name


@pytest.mark.parametrize("path", sorted(VERBS))
def test_the_example_of_a_verb_is_a_call_of_that_verb_that_its_options_allow(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    verb = VERBS[path]
    start, mark, example = verb.epilog.partition("mor-sweep ")
    assert start == "Example: "
    assert len(mark + example) <= 76
    words = shlex.split(example)
    assert words[: len(path.split())] == path.split()
    verb.make_context(path, words[len(path.split()) :])


def test_the_options_of_isoflop_are_grouped_by_what_one_asks():
    shown = help_of("isoflop")
    headings = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        "What is trained:",
        "How much it may cost:",
        "Where it runs:",
        "What follows the sweep:",
        "Options:",
    ]


@pytest.mark.parametrize("path", sorted(VERBS))
def test_no_word_of_an_options_help_is_too_long_for_its_column(path: str):
    for option in VERBS[path].params:
        assert max(map(len, option.help.split())) <= 44, option.name


def test_help_is_plain_text_in_a_pipe_and_laid_out_on_a_terminal():
    plain, laid_out = help_of("logs"), help_on_a_terminal("logs")
    assert not set("╭│\x1b") & set(plain)
    assert {"╭", "│", "\x1b"} <= set(laid_out)
    assert "arm/size/budget[/seed]" in laid_out
    for text in ("Print what the attempts at a cell wrote", "--follow", "--results", "Example: mor-sweep logs"):
        assert text in plain
        assert text in laid_out


def test_help_uses_wider_windows_up_to_a_hundred_columns():
    widest = max(map(len, help_of("isoflop", COLUMNS="200").splitlines()))
    assert 80 < widest <= 100


def test_help_has_a_short_flag_and_the_version_is_printed():
    assert run("-h").stdout == run("--help").stdout
    assert run("isoflop", "-h").stdout == run("isoflop", "--help").stdout
    assert run("--version").stdout.startswith("mor-sweep 0.")


@pytest.mark.parametrize("group", [(), ("plot",), ("config",)])
def test_a_command_without_a_verb_answers_with_the_help_and_code_2(group: tuple[str, ...]):
    done = run(*group)
    assert done.returncode == 2
    assert done.stderr == run(*group, "--help").stdout


def test_a_verb_is_registered_with_its_example_and_its_panel():
    verbs = Verbs("About.")
    verbs.verb("go", "mor-sweep go there", "Moves")(lambda: None)
    verbs.verb("stay", "mor-sweep stay", "Moves")(lambda: None)
    made = typer.main.get_command(verbs)
    assert made.commands["go"].epilog == "Example: mor-sweep go there"
    assert made.commands["go"].rich_help_panel == "Moves"
