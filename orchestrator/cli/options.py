"""Options that several verbs have in common."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.sweep_file import Override


def _folder(results: Path) -> Path:
    """Raises ResultsError where the path is no folder."""
    from orchestrator.results_folder import check_is_folder

    check_is_folder(results)
    return results


PIPED_WIDTH = 140
"""Columns of a table where nothing says how wide the reader's window is."""

Results = Annotated[Path, typer.Option(help="The results folder.", callback=_folder)]


PART_MEGABYTES = 256.0
"""10^6 bytes of text in one part of a large corpus: a minute of one core, and what a kill can cost each worker."""


def corpus_override(corpus: str | None) -> "list[Override]":
    """What --data changes in a sweep. Raises SpecError where it is empty."""
    from orchestrator.sweep_file import Override, SpecError

    if corpus is None:
        return []
    if not corpus.strip():
        raise SpecError(
            f"--data: found {corpus!r}, expected python-sources, fineweb-edu, hf:NAME, or the path of a file or folder "
            "of text: leave the flag out for the preset's own"
        )
    return [Override(flag="--data", path=("data", "corpus"), value=corpus)]
