"""The processes of a local Ray, known by its folder: none of them outlives the command that started it (I8).

Ray ends its workers itself, all but one that is just being started: that one finds nobody, and looks for seconds.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

LEAVE_SECONDS = 3.0
"""For processes that Ray has asked to leave."""


@contextlib.contextmanager
def ended_with(folder: Path) -> Iterator[None]:
    """The body ends Ray; what is still there of it after that is ended too."""
    found = _processes_of(folder)
    try:
        yield
    finally:
        _, left = psutil.wait_procs(found | _processes_of(folder), timeout=LEAVE_SECONDS)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=LEAVE_SECONDS)


def _processes_of(folder: Path) -> set[psutil.Process]:
    """Those that name the folder on their command lines, and those below them: workers that run have other names."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                found |= {process, *process.children(recursive=True)}
    return found
