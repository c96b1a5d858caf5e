"""A call that Typer does not understand, in the words of all other errors: one sentence with what was found, what was
expected and what to do."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import typer

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What Click raises for a wrong call; Typer exports it by its subclass alone."""

NUMBERS = {
    "valid integer": "a whole number",
    "valid number": "a number",
    "greater than or equal to": "a number of at least",
    "less than or equal to": "a number of at most",
    "greater than": "a number above",
    "less than": "a number below",
}
"""How pydantic says which number it wants, and how this program says it."""


def usage_sentence(error: Any, words: Sequence[str]) -> str:
    """`words` is the call, without the name of the program."""
    kind = type(error).__name__
    context = getattr(error, "ctx", None)
    verb = context.command_path if context is not None else "mor-sweep"
    if kind == "NoSuchOption":
        return _no_option(error.option_name, context, verb)
    if kind == "MissingParameter":
        return f"{verb} needs {_name(error.param)}: {error.param.help}"
    if match := re.match(r"No such command '(.*?)'", error.message):
        return _no_verb(match[1], context, verb)
    if match := re.match(r"Got unexpected extra arguments? ?\(?s?\)? ?\((.*)\)", error.message):
        return _extra(match[1], words, verb)
    if match := re.match(r"Option '(.*)' requires an argument", error.message):
        return f"{match[1]} needs a value after it"
    if match := re.match(r"Option '(.*)' does not take a value", error.message):
        return f"{match[1]} takes no value: leave the = and what follows out"
    if getattr(error, "param", None) is not None:
        return f"{_name(error.param)}: {_value_sentence(error, words)}"
    return error.message


def _name(parameter: Any) -> str:
    """An option by its flag, an argument as the help calls it."""
    return parameter.opts[0] if parameter.param_type_name == "option" else (parameter.metavar or parameter.name.upper())


def _no_option(name: str, context: Any, verb: str) -> str:
    flags = [
        flag
        for parameter in context.command.get_params(context)
        for flag in (*parameter.opts, *parameter.secondary_opts)
    ]
    near = get_close_matches(name, [flag for flag in flags if flag.startswith("--")], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"`{verb} --help` lists its options"
    return f"{verb} has no option {name}: {hint}"


def _no_verb(name: str, context: Any, verb: str) -> str:
    near = get_close_matches(name, list(context.command.commands), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"`{verb} --help` lists its verbs"
    return f"{verb} has no verb {name!r}: {hint}"


def _extra(extra: str, words: Sequence[str], verb: str) -> str:
    """A list that a blank has torn is put together again."""
    first = extra.split(" ")[0]
    for before, after in pairwise(words):
        if before.endswith(",") and after == first:
            return f"found {before!r} and {after!r}: remove the blank after the comma, {before}{after}"
    return f"found {extra!r}, which {verb} does not take; a value with blanks needs quotes"


def _value_sentence(error: Any, words: Sequence[str]) -> str:
    """What is wrong with the value of an option or argument."""
    message = error.message.removeprefix("Value error, ").rstrip(".")
    if match := re.match(r"'(.*)' is not one of (.*)$", message):
        choices = re.findall(r"'([^']*)'", match[2])
        near = get_close_matches(match[1].lower(), choices, n=1, cutoff=0.5)
        hint = f": did you mean {near[0]}?" if near else ""
        return f"found {match[1]!r}, expected {_one_of(choices)}{hint}"
    for theirs, ours in NUMBERS.items():
        if theirs in message:
            limit = message.rpartition(" ")[2] if theirs.endswith(("to", "than")) else ""
            return f"found {_typed(error.param, words)!r}, expected {f'{ours} {limit}'.strip()}"
    return message


def _typed(parameter: Any, words: Sequence[str]) -> str:
    """The value as it was typed after a flag; the last one, as Click takes it."""
    values = [after for before, after in pairwise(words) if before in parameter.opts]
    values += [word.partition("=")[2] for word in words if word.partition("=")[0] in parameter.opts and "=" in word]
    return values[-1] if values else ""


def _one_of(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
