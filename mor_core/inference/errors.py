"""What a caller may ask wrongly."""

from mor_core.errors import UserError


class RequestError(UserError):
    """Something that the engine cannot do; the message says what was found, what is expected and what to change."""
