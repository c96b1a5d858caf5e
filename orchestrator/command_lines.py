"""Commands for a reader to copy, as a shell takes them: the one place where their arguments are quoted."""

import shlex
from pathlib import Path

from orchestrator.store.folder import ADDRESS

USUAL = Path("results")
"""The results folder of a command that names none."""


def command_line(*arguments: str, results: Path = USUAL) -> str:
    """`mor-sweep` with these arguments, and --results where the folder is not the usual one."""
    usual = results == USUAL or results == USUAL.absolute()
    where = [] if usual else ["--results", shown_results(results)]
    return shlex.join(["mor-sweep", *arguments, *where])


def shown_results(results: Path) -> str:
    """The folder, or the s3:// address that it stands for; not quoted yet."""
    if not (results / ADDRESS).exists():
        return str(results)
    from orchestrator.store.store import Store
    from orchestrator.store.upstream.address import address_of

    return address_of(Store(root=results))
