"""Text that others wrote, made fit for a terminal: nothing in it moves the cursor or hides a word."""

import re

_COMMANDS = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]")
"""Whole escape sequences: those that set something (OSC), and those of colour and cursor (CSI)."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that turn the direction of writing."""


def printable_text(text: str) -> str:
    """The text without control characters; its lines and tabs stay."""
    return _CONTROLS.sub("", _COMMANDS.sub("", text)) if _CONTROLS.search(text) else text


def printable_label(text: str) -> str:
    """The text as one line of characters that are seen."""
    return text if text.isprintable() else "".join(filter(str.isprintable, printable_text(text)))
