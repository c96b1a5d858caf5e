"""How figures are laid out and written: panels for a screen or for the column of a paper, one legend below them all,
and files that say where they come from."""

import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.drawing import FAINT, STYLE, WARN, plain_text, shortened
from analysis.report.provenance import Provenance

CHARACTERS_PER_INCH = 21.0
"""Of the smallest print."""
TITLE_CHARACTERS_PER_INCH = 11.0
LEAST_PANEL_INCHES = 2.2
"""Width below which the words of a panel have no room."""
LEAST_PANEL_HEIGHT = 1.7
"""In inches."""
PAPER_RATIO = 0.8
"""Largest height of a panel on paper, of its width."""


SMALL_PRINT: dict[Any, Any] = {
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.title_fontsize": 6.5,
}


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a figure is drawn on: files for a screen, or for the column of a paper."""

    out_paths: Iterable[Path]
    """Files, each written as its suffix says."""
    provenance: Provenance | None = None
    """Where the figure comes from, which is written at its foot."""
    width: float | None = None
    """Of the paper's column or page, inches; None for a screen."""

    def style(self) -> AbstractContextManager[None]:
        """The look of all figures; on paper with print as small as its own."""
        return matplotlib.rc_context(STYLE if self.width is None else STYLE | SMALL_PRINT)

    def panels(
        self,
        number: int,
        beside: int,
        inches: tuple[float, float],
        least_inches: float = LEAST_PANEL_INCHES,
        **shared: Any,
    ) -> tuple[Figure, list[Axes]]:
        """At least `number` panels, row by row, `beside` each other where there is room, each of so many inches; on
        paper they are as wide as it lets them be. What is left over is hidden."""
        columns, wide, high = self.grid(beside, inches, least_inches)
        rows = max(1, -(-number // columns))
        figure = Figure(figsize=(wide * columns, high * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
        for axes in panels[max(1, number) :]:
            axes.set_visible(False)
        return figure, panels

    def grid(
        self, beside: int, inches: tuple[float, float], least_inches: float = LEAST_PANEL_INCHES
    ) -> tuple[int, float, float]:
        """Panels in a row, and the inches of each: as asked on a screen; on paper whole shares of a row of them."""
        if self.width is None:
            return beside, *inches
        room = max(1, int(self.width // least_inches))
        columns = max(count for count in range(1, beside + 1) if beside % count == 0 and count <= room)
        wide = self.width / columns
        return columns, wide, max(LEAST_PANEL_HEIGHT, wide * min(PAPER_RATIO, inches[1] / inches[0]))

    def save(self, figure: Figure) -> None:
        """Write with the provenance at the foot, without dates, so that equal studies give equal files."""
        _settle(figure)
        if self.provenance is not None:
            characters = int(figure.get_size_inches()[0] * CHARACTERS_PER_INCH)
            lines = [line for sentence in self.provenance.lines() for line in textwrap.wrap(sentence, characters)]
            write_below(figure, plain_text("\n".join(lines)), fontsize=6.5, color=FAINT, linespacing=1.3)
        for path in self.out_paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
            metadata = dates.get(path.suffix, {"Software": None})
            figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.08, metadata=metadata)


def width_of(axes: Axes) -> float:
    """Of a panel before the layout makes it wider, in inches: what has room now has room then."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return axes.get_window_extent().width / figure.dpi


def name_arm(axes: Axes, arm: str, pad: float | None = None) -> None:
    """The title of a panel, shortened to its width."""
    most = int(TITLE_CHARACTERS_PER_INCH * width_of(axes))
    axes.set_title(plain_text(shortened(arm, most)), loc="left", fontweight="bold", pad=pad)


def legend_below(figure: Figure, handles: Sequence[Artist], title: str = "") -> None:
    """One legend below all panels, in as few rows as the figure is wide for. The figure grows by its height."""
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles=list(handles), loc="outside lower center", ncols=columns, title=title or None, columnspacing=1.4
        )
        box = legend.get_window_extent()
        if columns == 1 or box.width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)
            return
        legend.remove()


def say_instead(figure: Figure, words: str) -> None:
    """Words in the place of all panels."""
    for axes in figure.axes:
        axes.set_visible(False)
    figure.text(0.5, 0.5, words, ha="center", color=WARN)


def say(axes: Axes, words: str, *, framed: bool = True) -> None:
    """Words in the place of what a panel would show."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=WARN, fontsize=8)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    if not framed:
        axes.spines[:].set_visible(False)


def write_below(figure: Figure, text: str, **look: Any) -> None:
    """Lines below everything that is drawn so far, which includes legends outside the axes."""
    _settle(figure)
    foot = figure.get_tightbbox().y0 - 0.08  # inches
    figure.text(0.005, foot / figure.get_size_inches()[1], text, va="top", **look)


def _settle(figure: Figure) -> None:
    """Lay the figure out for good. A legend outside the panels else moves with the foot that the picture is cut to."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0.0, 0.0, 1.0, 1.0), figure.transFigure)
