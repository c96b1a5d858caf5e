"""Labels, reasons and logs that somebody else wrote reach a terminal without control characters."""

import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.live import Live
from rich.table import Table
from typer import Context

from orchestrator.cli.options import complete_cell
from orchestrator.records.console import Console
from orchestrator.records.terminal import printable_label, printable_text
from tests.helpers.paths import FIRST_STUDY
from tests.helpers.toy_sweep import run_here

RENAMES_THE_WINDOW, CLEARS_THE_SCREEN, REVERSES = "\x1b]0;renamed\x07", "\x1b[2J", "\u202e"
HOSTILE = f"{RENAMES_THE_WINDOW}{CLEARS_THE_SCREEN}{REVERSES}\x9b2J\r\x08"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of which nothing is trained; one cell's labels, and what its first attempt left, are hostile."""
    folder = tmp_path_factory.mktemp("hostile") / "results"
    shutil.copytree(FIRST_STUDY / "results/sweeps", folder / "sweeps")
    path = folder / "sweeps/first/sweep.json"
    document = json.loads(path.read_text())
    plan = document["revisions"][0]
    plan["cells"][0] |= {"arm": f"{HOSTILE}mor-4", "size": f"5.5k\nproblem: all is lost{HOSTILE}"}
    path.write_text(json.dumps(document))
    needs = {segment["id"]: segment["needs"] for segment in plan["segments"]}
    first = plan["cells"][0]["evaluate_segment"]
    while needs[first]:
        first = needs[first][0]
    attempt = folder / "attempts" / first / "001-host-1"
    attempt.mkdir(parents=True)
    failure = {"class": "error", "reason": f"no luck{HOSTILE}", "traceback": f"line 1\nline 2{HOSTILE}"}
    (attempt / "failure.json").write_text(json.dumps(failure))
    (attempt / "log.txt").write_text(f"it says{HOSTILE} so\n")
    return folder


def _shown(results: Path, *arguments: str) -> str:
    done = run_here([*arguments, "--results", str(results)], dict(os.environ))
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    ["status first", "status first --cells", "fsck --no-mlflow", "fit first", "logs nosuch"],
)
def test_a_verb_shows_no_control_character_of_a_label_or_a_reason(arguments: str, results: Path) -> None:
    shown = _shown(results, *arguments.split())
    assert shown.replace("\n", "").isprintable()
    assert "\nproblem: all is lost" not in shown


def test_logs_of_a_cell_are_found_under_the_label_that_is_shown(results: Path) -> None:
    cells = json.loads((results / "sweeps/first/sweep.json").read_text())["revisions"][0]["cells"]
    budget = f"{cells[0]['budget']:.0e}".replace("e+0", "e")
    shown = _shown(results, "logs", f"mor-4/5.5k problem: all is lost/{budget}/{cells[0]['seed']}")
    assert shown.replace("\n", "").isprintable()
    assert "it says" in shown
    assert "no luck" in shown


def test_a_shell_is_offered_the_label_that_is_shown(results: Path) -> None:
    line = SimpleNamespace(params={"sweep": "first", "results": results})
    offered = [name for name, _ in complete_cell(cast("Context", line), "mor-4/5.5k p")]
    assert len(offered) == 1
    assert offered[0].startswith("mor-4/5.5k problem: all is lost")
    assert offered[0].isprintable()


def test_a_table_on_a_terminal_keeps_its_own_colours_and_no_command_of_a_cell() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=60, legacy_windows=False)
    table = Table(title=f"title{HOSTILE}")
    table.add_column(f"column{HOSTILE}", style="red")
    table.add_row(f"cell{HOSTILE}")
    console.print(table)
    rows = [line for line in printable_text(file.getvalue()).splitlines() if line[:1] in "┏┃┡│└"]
    assert len({len(row) for row in rows if row}) == 1, "what is dropped has no width, so that columns hold"
    with Live(console=console, auto_refresh=False) as live:
        live.update(table, refresh=True)
    console.print(f"line{HOSTILE}", markup=False)
    shown = file.getvalue()
    assert "\x1b[31m" in shown
    for command in ("\x1b]0", CLEARS_THE_SCREEN, REVERSES, "\x9b", "\x08"):
        assert command not in shown


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain\tand\nlines", "plain\tand\nlines"),
        (f"a{RENAMES_THE_WINDOW}b", "ab"),
        ("a\x1b]0;b\x1b\\c", "ac"),
        (f"a{CLEARS_THE_SCREEN}\x1b[1;31mb\x1b[0m", "ab"),
        ("a\x1bb\x90c\x00d\x7fe\r\x08", "abcde"),
        (f"a{REVERSES}b\u2066c", "abc"),
        ("größe 135M → 2e18", "größe 135M → 2e18"),
    ],
)
def test_control_characters_and_whole_sequences_are_left_out(text: str, clean: str) -> None:
    assert printable_text(text) == clean


def test_a_label_is_one_line() -> None:
    assert printable_label("5.5k\nproblem:\tlost\x1b[2J\u2028x") == "5.5k problem: lost x"
    assert printable_label("mor-4") == "mor-4"
