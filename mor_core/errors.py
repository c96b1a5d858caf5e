"""Errors that are explained to a user: one sentence that says what was found, what was expected and what to do.

They differ by what the user can do. The command line prints the sentence, without a traceback, and gives each class its
exit code; a worker sorts a failure by them. Any other exception is a defect.
"""


class MorSweepError(Exception):
    """A condition that this program explains, whose message is the explanation."""


class UserError(MorSweepError, ValueError):
    """What was asked for cannot be done as asked: a flag, a file or a name has to be another."""


class Refused(UserError):
    """What was asked for can be done, but must not, or not as things stand; nothing is started or changed."""


class Unreachable(MorSweepError):
    """A server or a folder that is needed does not answer, or is not there any more."""
