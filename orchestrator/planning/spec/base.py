"""Sweep files in layers: `base = "cpu"` takes from a preset, or from another file, what a file leaves out. Pure."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from typing import Any

BASE = "base"
"""The key of a sweep file that names what lies under it."""

ALTERNATIVES = (
    (("budgets",), ("tokens",)),
    (("sizes",), ("init_from",)),
    (("sizes", "names"), ("sizes", "auto")),
    (("schedule", "warmup_steps"), ("schedule", "warmup_budget")),
    (("train", "batch_size"), ("train", "batch_law")),
    (("train", "peak_learning_rate"), ("train", "learning_rate")),
)
"""Keys of which a sweep file has one: what a file gives takes the place of the other one under it."""

WHOLE = (("data", "corpus"), ("routing", "choice"))
"""Keys that say what the rest of their table is about: a file that gives one gives the table anew."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One sweep file as it was read."""

    source: str
    """What errors call it."""
    document: dict[str, Any]
    """Its tables, without `base`."""
    is_preset: bool = False
    """Whether it is a shipped one."""


def laid_together(layers: Sequence[Layer]) -> dict[str, Any]:
    """The tables of all, the first on top."""
    under = [layer.document for layer in reversed(layers)]
    return deepcopy(reduce(laid_over, under))


def laid_over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Tables over tables, key by key; a list takes the place of a list."""
    dropped = [
        alternative for pair in ALTERNATIVES for chosen, alternative in (pair, pair[::-1]) if holds(upper, chosen)
    ]
    dropped += [path[:1] for path in WHOLE if holds(upper, path)]
    return _merged(reduce(_without, dropped, dict(lower)), upper)


def holds(document: Any, path: Sequence[str]) -> bool:
    """Whether tables have a value at a path."""
    for key in path:
        if not isinstance(document, Mapping) or key not in document:
            return False
        document = document[key]
    return True


def _without(document: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    if not holds(document, path):
        return dict(document)
    first, *rest = path
    if rest:
        return {**document, first: _without(document[first], rest)}
    return {key: value for key, value in document.items() if key != first}


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = {key: _merged_value(lower[key], value) if key in lower else value for key, value in upper.items()}
    return {**lower, **merged}


def _merged_value(lower: Any, upper: Any) -> Any:
    return _merged(lower, upper) if isinstance(lower, Mapping) and isinstance(upper, Mapping) else upper
