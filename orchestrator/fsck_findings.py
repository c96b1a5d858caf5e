"""One thing that `mor-sweep fsck` found."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.records.terminal import printable_label


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A path, what is wrong with it, what to do."""

    path: str
    """What it is about."""
    what: str
    """What is wrong, or could be tidier."""
    remedy: str
    """What to do."""
    is_note: bool
    """Whether nothing is wrong."""

    def line(self) -> str:
        """One line for people."""
        return printable_label(f"{'note' if self.is_note else 'problem'}: {self.path}: {self.what}: {self.remedy}")


def problem(path: Path, what: str, remedy: str) -> Finding:
    """Something is wrong."""
    return Finding(path=str(path), what=what, remedy=remedy, is_note=False)


def note(path: Path, what: str, remedy: str) -> Finding:
    """Nothing is wrong."""
    return Finding(path=str(path), what=what, remedy=remedy, is_note=True)
