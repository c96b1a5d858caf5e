"""Where figures go, which is said before they are drawn, and the JSON beside each."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from analysis.report.provenance import Provenance
    from orchestrator.store.store import Store


def figure_paths(store: "Store", name: str, figure: str) -> list[Path]:
    """Where a figure of a sweep goes, which can be written; says so on stderr."""
    return announced_paths(f"sweep {name}", store.sweep_folder(name) / "figures", figure)


def announced_paths(whose: str, folder: Path, figure: str) -> list[Path]:
    """A PNG and a vector file in a folder, which is made where it is not there. Raises ResultsError."""
    from orchestrator.store.folder import writing

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    paths = [folder / f"{figure}.png", folder / f"{figure}.svg"]
    typer.echo(f"{whose}: {paths[0]} and {paths[1].name}", err=True)
    return paths


def write_figure_data(figure: str, paths: list[Path], provenance: "Provenance", data: Any) -> None:
    """The JSON beside a figure."""
    from analysis.figures.figure_data import figure_document
    from mor_core.files import write_json

    write_json(paths[0].with_suffix(".json"), figure_document(figure, provenance, data))
