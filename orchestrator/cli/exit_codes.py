"""The exit code that each class of error ends a command with; CONTRIBUTING.md lists all exit codes."""

from mor_core.errors import MorSweepError, Refused, Unreachable, UserError

EXIT_CODES: dict[type, int] = {MorSweepError: 1, UserError: 2, Refused: 4, Unreachable: 6}


def exit_code_of(error: BaseException) -> int | None:
    """By the nearest class of the table that the error inherits from; None for a defect, which shows its traceback."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), None)
