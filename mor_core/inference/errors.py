"""What a caller may ask wrongly."""


class RequestError(ValueError):
    """Something that the engine cannot do; the message says what was found, what is expected and what to change."""

    exit_code = 2
