"""Tables on a terminal and in a pipe: columns of plain text that fit the window. Where it is too narrow, columns that
matter least are left out, and a line says which: no number is ever cut."""

import os
import shutil
import sys
import textwrap
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style

from orchestrator.records.console import Console

PIPED_WIDTH = 140
"""Columns where nothing says how wide the reader's window is."""

GAP = "  "
"""Between columns."""

NARROWEST_WORDS = 24
"""Columns that a sentence takes at least."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column."""

    name: str
    """Its heading; it breaks at blanks where the values are shorter."""
    is_text: bool = False
    """Whether values stand at the left, as words do; else at the right."""
    spare: int = 0
    """The highest is left out first where the window is too narrow; 0 for one that always stays."""
    wraps: bool = False
    """Whether values are sentences, which go on in the next line."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table; rich renders it at any width."""

    columns: tuple[Column, ...]
    """From the left."""
    rows: tuple[tuple[str, ...], ...]
    """A value for each column."""
    title: str = ""
    """Lines above it."""
    has_head: bool = True
    """Whether columns are named."""
    footer: str = ""
    """A line below it."""

    def head_lines(self, width: float) -> list[str]:
        """The names of the columns that fit."""
        columns = self._fitting(width)
        heads = [_head(self.columns[place].name, size) for place, size in columns.items()]
        height = max(map(len, heads), default=0)
        padded = [[""] * (height - len(head)) + head for head in heads]
        return self._lines(columns, list(zip(*padded, strict=True))) if self.has_head else []

    def body_lines(self, width: float) -> list[str]:
        """The rows, sentences wrapped, and what was left out."""
        columns = self._fitting(width)
        lines = [line for row in self.rows for line in self._lines(columns, _parts(row, columns, self.columns))]
        missing = [column.name for place, column in enumerate(self.columns) if place not in columns]
        note = f"not shown in {width:.0f} columns: {', '.join(missing)}" if missing else ""
        return [*lines, *filter(None, (self.footer, note))]

    def lines(self, width: float) -> list[str]:
        """All of it as text; `width` may be infinite."""
        return [*self.title.splitlines(), *self.head_lines(width), *self.body_lines(width)]

    def __rich_console__(self, console: object, options: ConsoleOptions) -> Iterator[RenderableType | Segment]:
        """The lines, their headings bold."""
        heads = [*self.title.splitlines(), *self.head_lines(options.max_width)]
        for style, lines in ((Style(bold=True), heads), (None, self.body_lines(options.max_width))):
            for line in lines:
                yield Segment(line, style)
                yield Segment.line()

    def _fitting(self, width: float) -> dict[int, int]:
        """Place -> columns of text, for what fits."""
        sizes = {place: self._size(place) for place in range(len(self.columns))}
        while _total(sizes) > width and (spare := [place for place in sizes if self.columns[place].spare]):
            del sizes[max(spare, key=lambda place: (self.columns[place].spare, place))]
        room = width - _total(sizes)
        for place in sizes:
            if self.columns[place].wraps:
                longest = max((len(row[place]) for row in self.rows), default=0)
                sizes[place] = int(min(max(longest, sizes[place]), sizes[place] + max(room, 0)))
        return sizes

    def _size(self, place: int) -> int:
        column = self.columns[place]
        head = max(map(len, column.name.split()), default=0) if self.has_head else 0
        longest = max((len(row[place]) for row in self.rows), default=0)
        return max(head, min(longest, NARROWEST_WORDS) if column.wraps else longest)

    def _lines(self, columns: dict[int, int], rows: list[tuple[str, ...]]) -> list[str]:
        """Values of the columns shown, beside each other, with nothing after the last."""
        sides = ["<" if self.columns[place].is_text or self.columns[place].wraps else ">" for place in columns]
        layout = list(zip(sides, columns.values(), strict=True))
        return [
            GAP.join(f"{value:{side}{size}}" for value, (side, size) in zip(row, layout, strict=True)).rstrip()
            for row in rows
        ]


def listing_of(
    names: Iterable[str],
    rows: Iterable[Iterable[str]],
    *,
    words: Container[str] = (),
    spare: Mapping[str, int] = MappingProxyType({}),
    title: str = "",
) -> Listing:
    """A table of columns of these names, of which those of `words` hold words; `spare` as in Column."""
    columns = tuple(Column(name=name, is_text=name in words, spare=spare.get(name, 0)) for name in names)
    return Listing(columns=columns, rows=tuple(map(tuple, rows)), title=title)


def output_width() -> int:
    """Of the reader's window: the terminal's, or what COLUMNS says."""
    is_width_known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return shutil.get_terminal_size().columns if is_width_known else PIPED_WIDTH


def output_console(*, stderr: bool = False) -> Console:
    """stdout or stderr as wide as the reader's window. Names are names: nothing in them is markup, and looking for it
    in thousands of rows takes seconds."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=output_width())


def show_text(console: Console, text: str) -> None:
    """A sentence, wrapped at the window with nothing after the last word of a line; later lines are indented."""
    lines = textwrap.wrap(text, console.width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    console.print("\n".join(lines), soft_wrap=True)


def show(console: Console, *parts: RenderableType) -> None:
    """Listings and texts; a line that is still too long goes on at the left, as a terminal shows it."""
    for part in parts:
        console.print(part, crop=False, overflow="ignore")


def _total(sizes: dict[int, int]) -> int:
    return sum(sizes.values()) + len(GAP) * max(len(sizes) - 1, 0)


def _head(name: str, size: int) -> list[str]:
    return textwrap.wrap(name, max(size, 1), break_long_words=False) or [""]


def _parts(row: tuple[str, ...], sizes: dict[int, int], columns: tuple[Column, ...]) -> list[tuple[str, ...]]:
    """A row as lines: one, or more where a sentence is wrapped."""
    if not any(columns[place].wraps for place in sizes):
        return [tuple(row[place] for place in sizes)]
    wrapped = [_sentence(row[place], size) if columns[place].wraps else [row[place]] for place, size in sizes.items()]
    height = max(map(len, wrapped))
    return list(zip(*([*lines, *[""] * (height - len(lines))] for lines in wrapped), strict=True))


def _sentence(text: str, size: int) -> list[str]:
    return textwrap.wrap(text, max(size, 1), break_long_words=False, break_on_hyphens=False) or [""]
