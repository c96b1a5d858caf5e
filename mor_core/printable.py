"""Text that others wrote, made fit for a terminal: nothing in it moves the cursor or hides a word."""

import re

_SEQUENCES = re.compile(r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")
"""Whole escape sequences: those that set something, such as a window's name, and those of colour and cursor."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that turn the direction of writing."""


def without_controls(text: str) -> str:
    """The text without control characters; its lines and tabs stay. Nothing that is seen goes, so widths hold."""
    return _CONTROLS.sub("", text)


def printable_text(text: str) -> str:
    """The text without escape sequences and control characters; its lines and tabs stay."""
    return without_controls(_SEQUENCES.sub("", text)) if _CONTROLS.search(text) else text


def printable_label(text: str) -> str:
    """The text as one line of characters that are seen."""
    if text.isprintable():
        return text
    spaced = " ".join(printable_text(text).split())
    return "".join(filter(str.isprintable, spaced))
