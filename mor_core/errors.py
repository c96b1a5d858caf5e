"""Errors that are explained to a user: one sentence that says what was found, what was expected and what to do.

They differ by what the user can do. The command line prints the sentence, without a traceback, and gives each class its
exit code; a worker sorts a failure by them. Any other exception is a defect.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fix:
    """What would help, as a value that whoever shows the error names in words of its own: a library as a setting, the
    command line as a flag or a command."""

    setting: str = ""
    """A setting's path, such as execution.gpus_per_segment."""
    value: str = ""
    """What to set it to, or what it was set to; empty where the setting alone says it."""
    verb: str = ""
    """What to call, such as "data prepare", with the setting where there is one."""
    words: str = ""
    """The end of the sentence, with {} for the name, such as "use {} to keep both apart". Without words the setting is
    what has to be another, and leads the sentence."""

    def __str__(self) -> str:
        setting = f"{self.setting} = {self.value}" if self.value else self.setting
        return " with ".join(part for part in (self.verb, setting) if part)


class MorSweepError(Exception):
    """A condition that this program explains, whose message is the explanation."""

    def __init__(self, message: str = "", *, fix: Fix | None = None) -> None:
        super().__init__(message)
        self.fix = fix

    def __str__(self) -> str:
        return self.explanation(str)

    @property
    def message(self) -> str:
        """The sentence without its fix."""
        return super().__str__()

    def explanation(self, name: Callable[[Fix], str]) -> str:
        """The sentence, with its fix called by `name`."""
        if self.fix is None:
            return self.message
        if not self.fix.words:
            return f"{name(self.fix)}: {self.message}"
        return f"{self.message}; {self.fix.words.format(name(self.fix))}"


class UserError(MorSweepError, ValueError):
    """What was asked for cannot be done as asked: a flag, a file or a name has to be another."""


class Refused(UserError):
    """What was asked for can be done, but must not, or not as things stand; nothing is started or changed."""


class Unreachable(MorSweepError):
    """A server or a folder that is needed does not answer, or is not there any more."""


def first_line(error: BaseException) -> str:
    """What somebody else's error says in its first line, for a sentence of ours; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
