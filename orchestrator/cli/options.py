"""Options that several verbs have in common."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.sweep_file import Override


_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(.*)")
"""Such as s3://bucket/prefix, of which a path keeps one slash."""


def _folder(context: typer.Context, results: Path) -> Path:
    """The folder, or the local folder that stands for an s3:// address: up to date, and uploaded when the verb ends.

    Raises ResultsError where the path is no folder, RemoteRefused and RemoteUnreachable where an address is of no use.
    """
    from orchestrator.results_folder import check_is_folder

    address = _ADDRESS.fullmatch(str(results))
    if address is None:
        check_is_folder(results)
        return results
    from orchestrator.remote_results import open_remote

    remote = open_remote(f"{address[1]}://{address[2]}")
    remote.pull()
    context.call_on_close(remote.push)
    return remote.store.root


PIPED_WIDTH = 140
"""Columns of a table where nothing says how wide the reader's window is."""

Results = Annotated[Path, typer.Option(help="The results folder, or s3://BUCKET/PREFIX.", callback=_folder)]


def corpus_override(corpus: str | None) -> "list[Override]":
    """What --data changes in a sweep. Raises SpecError where it is empty."""
    from orchestrator.sweep_file import Override, SpecError

    if corpus is None:
        return []
    if not corpus.strip():
        raise SpecError(
            f"--data: found {corpus!r}, expected python-sources or the path of a file or folder of text: "
            "leave the flag out for the preset's own"
        )
    return [Override(flag="--data", path=("data", "corpus"), value=corpus)]
