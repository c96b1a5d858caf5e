"""Flags that several verbs have in common, said once: a dataclass whose fields become options of a verb."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def spread(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with an option for every field of the dataclasses among its parameters, in their place.

    Typer reads options from a signature: this is `verb` with another one, called with the values put together again.
    """
    groups: dict[str, type] = {}
    options: list[inspect.Parameter] = []
    hints = get_type_hints(verb, include_extras=True)
    for name, parameter in inspect.signature(verb).parameters.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            groups[name] = hint
            options += _options_of(hint)
        else:
            options.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))

    def called(**given: Any) -> None:
        own = dict(given)
        for name, group in groups.items():
            own[name] = group(**{field.name: own.pop(field.name) for field in dataclasses.fields(group)})
        verb(**own)

    called.__name__, called.__doc__, called.__module__ = verb.__name__, verb.__doc__, verb.__module__
    called.__annotations__ = {option.name: option.annotation for option in options}
    called.__signature__ = inspect.Signature(options)
    return called


def _options_of(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(group).parameters.values()
    ]
