"""Tables fit the window: what matters least is left out and named, sentences are wrapped, no number is cut."""

import io
import math

import pytest

from orchestrator.cli.inference.text import show_rows
from orchestrator.cli.tables.listing import Column, Listing, output_console, show
from orchestrator.records.console import Console

LISTING = Listing(
    columns=(
        Column(name="arm", is_text=True),
        Column(name="peak rate", spare=1),
        Column(name="loss"),
        Column(name="memory", spare=2),
        Column(name="why", wraps=True),
    ),
    rows=(
        ("vanilla", "0.0123", "3.9876", "633 MB", "a sentence of many short words that has to go on in the next line"),
        ("mor-2", "0.01", "4.1", "7 GB", ""),
    ),
)
NUMBERS = {"0.0123", "3.9876", "0.01", "4.1"}


@pytest.mark.parametrize("width", [50, 60, 80, 100, math.inf])
def test_lines_fit_the_width_and_end_with_their_last_word(width: float):
    lines = LISTING.lines(width)
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    words = set(" ".join(lines).split())
    for row in LISTING.rows:
        assert set(row[4].split()) <= words
        assert row[2] in words


def test_the_least_needed_column_goes_first_and_the_rest_when_it_must():
    wide, narrow, narrower = (LISTING.lines(width) for width in (math.inf, 56, 40))
    assert not any("not shown" in line for line in wide)
    assert narrow[-1] == "not shown in 56 columns: memory"
    assert set(" ".join(narrow).split()) >= NUMBERS
    assert narrower[-1] == "not shown in 40 columns: peak rate, memory"


def test_where_even_what_must_stay_is_too_wide_nothing_is_cut():
    lines = LISTING.lines(20)
    assert any("vanilla" in line and "3.9876" in line for line in lines)
    console = Console(file=io.StringIO(), width=20)
    show(console, LISTING)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == lines


def test_headings_break_at_blanks_over_short_values_and_stand_at_the_bottom():
    head = LISTING.head_lines(math.inf)
    assert head[0].split() == ["peak"]
    assert head[1].split() == ["arm", "rate", "loss", "memory", "why"]


def test_the_windows_width_is_what_columns_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "97")
    assert output_console().width == 97
    monkeypatch.delenv("COLUMNS")
    assert output_console().width > 97


def test_speeds_of_arms_fit_eighty_columns_with_their_losses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "80")
    row = {"arm": "vanilla", "batch": "max", "sequences": 128, "tokens_per_second": 12_345.6, "ratio": 1.234}
    row |= {"lowest": 1.1, "highest": 1.3, "mean_depth": 1.98, "flops_per_token": 123_456.0, "flops_ratio": 1.21}
    row |= {"kv_bytes": 1_234_567, "preemptions": 3, "loss": 3.9123}
    show_rows("speeds", [row, row | {"arm": "mor-2"}])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert {"12,346", "1.234", "1.98", "3.912"} <= set(shown.split())
    assert not set("│┃…") & set(shown)
    assert "kv bytes" in shown.splitlines()[-1]


def test_control_characters_of_others_do_not_reach_the_terminal():
    listing = Listing(columns=(Column(name="arm", is_text=True),), rows=(("a\x1b[2Jb",),))
    console = Console(file=io.StringIO(), width=80)
    show(console, listing)
    assert isinstance(console.file, io.StringIO)
    assert "\x1b" not in console.file.getvalue()
