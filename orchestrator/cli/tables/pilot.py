"""What a pilot found, as two tables on a terminal: its arms, and each two of them."""

from orchestrator.cli.tables.listing import Column, Listing, show, show_text
from orchestrator.records.console import Console
from orchestrator.search.pilot import Found
from orchestrator.search.pilot_file import (
    ARM_HEAD,
    ASSUMED,
    PAIR_HEAD,
    advice_line,
    arm_rows,
    pair_note,
    pair_rows,
    unknown_lines,
)

WORDS = ("arm", "arms")
"""Columns that hold names."""
SPARE = {"degrees of freedom": 3, "tokens/s": 2, "exponent": 1}
"""What a narrow window leaves out, the highest first."""


def print_pilot(findings: Found, console: Console) -> None:
    """What is advised, the tables, and what is not known."""
    show_text(console, advice_line(findings))
    for head, rows in ((ARM_HEAD, arm_rows(findings)), (PAIR_HEAD, pair_rows(findings))):
        columns = tuple(Column(name=name, is_text=name in WORDS, spare=SPARE.get(name, 0)) for name in head)
        if rows:
            show(console, "", Listing(columns=columns, rows=tuple(map(tuple, rows))))
    for line in (*([pair_note(findings.wanted)] if findings.advice else []), *unknown_lines(findings), ASSUMED):
        show_text(console, line)
