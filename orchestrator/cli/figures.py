"""Where figures go, which is said before they are drawn, and the JSON beside each."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from analysis.report.provenance import Provenance
    from orchestrator.store.store import Store


class FigureFormat(StrEnum):
    """A kind of file; every figure is a PNG and an SVG."""

    PDF = "pdf"
    PNG = "png"
    SVG = "svg"


FigureWidth = Literal["single", "double"]
"""The widths of a paper of two columns."""

INCHES: dict[FigureWidth, float] = {"single": 3.25, "double": 6.75}
"""As the style of ICML has them: a column, and the whole text."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a figure is written."""

    formats: Annotated[
        list[FigureFormat] | None, typer.Option("--format", help="Write this beside the PNG, the SVG and the JSON.")
    ] = None
    """Kinds of files beside those that are always written."""
    width: Annotated[
        FigureWidth | None,
        typer.Option(help="Draw it as wide as a column of a paper (3.25 in) or its text (6.75 in), with small print."),
    ] = None
    """Of the picture; None for a screen."""

    @property
    def inches(self) -> float | None:
        """Its width on paper."""
        return None if self.width is None else INCHES[self.width]

    def names(self, figure: str) -> list[str]:
        """The files of a figure, the PNG first; those of a paper's width have names of their own."""
        stem = figure if self.width is None else f"{figure}-{self.width}"
        return [f"{stem}.{kind}" for kind in dict.fromkeys(("png", "svg", *(self.formats or ())))]


PLAIN = Look()
"""A PNG and an SVG for a screen."""


def figure_paths(store: "Store", name: str, figure: str, look: Look = PLAIN) -> list[Path]:
    """Where a figure of a sweep goes, which can be written; says so on stderr."""
    return announced_paths(f"sweep {name}", store.sweep_folder(name) / "figures", look.names(figure))


def announced_paths(whose: str, folder: Path, names: Sequence[str]) -> list[Path]:
    """Files in a folder, which is made where it is not there. Raises ResultsError."""
    from orchestrator.store.folder import writing

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    first, *others = names
    typer.echo(
        f"{whose}: {folder / first}{', ' if others[1:] else ''}{', '.join(others[:-1])} and {others[-1]}", err=True
    )
    return [folder / name for name in names]


def write_figure_data(figure: str, paths: list[Path], provenance: "Provenance", data: Any) -> None:
    """The JSON beside a figure."""
    from analysis.figures.figure_data import figure_document
    from mor_core.files import write_json

    write_json(paths[0].with_suffix(".json"), figure_document(figure, provenance, data))
