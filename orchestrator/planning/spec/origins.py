"""The settings of a sweep, each with the flag, file or default that it came from. Pure; it prints as a sweep file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mor_core.units import budget_text
from orchestrator.planning.spec.sweep_file import Layer, SweepFile, holds, is_bare_key
from orchestrator.planning.spec.sweep_spec import SweepSpec, parse_spec

DEFAULT = "default"
"""The origin of a value that neither the file nor a flag gives."""

EXACT_KEYS = frozenset({"budgets", "budget", "tokens", "warmup_budget", "reference_budget"})
"""Written in quotes, so that they stay exact."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value of a resolved sweep."""

    path: tuple[str, ...]
    """Its key within the tables."""
    value: Any
    """As a TOML file would hold it; None where it is not set."""
    origin: str
    """Such as "flag --budgets", "preset sweeps/isoflop_cpu.toml", "file mine.toml", or "default"."""

    @property
    def key(self) -> str:
        """Dotted, as TOML writes it."""
        return ".".join(part if is_bare_key(part) else json.dumps(part) for part in self.path)

    def line(self) -> str:
        """A line of a sweep file; a comment where nothing is set."""
        # Numbers, booleans, texts and lists of them are written in TOML as in JSON.
        return f"# {self.key} is not set" if self.value is None else f"{self.key} = {json.dumps(self.value)}"


def settings_of(spec: SweepSpec, file: SweepFile) -> list[Setting]:
    """Every value of a sweep, in the order of the tables."""
    return [
        Setting(path=path, value=_exact(path, value), origin=_origin(path, file))
        for path, value in _leaves((), spec.model_dump(mode="json"))
    ]


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves((*path, key), item)
    else:
        yield path, value


def _exact(path: tuple[str, ...], value: Any) -> Any:
    if path[-1] not in EXACT_KEYS or value is None:
        return value
    return [budget_text(budget) for budget in value] if isinstance(value, list) else budget_text(value)


def changed_settings(spec: SweepSpec, file: SweepFile) -> list[Setting]:
    """The values that differ from those of the lowest file, which is a preset or a whole file of the user's; what only
    that one has is not set."""
    lowest = SweepFile(source=file.layers[-1].source, document=file.layers[-1].document)
    before = {setting.path: setting.value for setting in settings_of(parse_spec(lowest), lowest)}
    now = settings_of(spec, file)
    gone = [path for path in before if path not in {setting.path for setting in now} and before[path] is not None]
    return [
        *(setting for setting in now if setting.value != before.get(setting.path)),
        *(Setting(path=path, value=None, origin=DEFAULT) for path in gone if not _is_replaced(path, now)),
    ]


def _is_replaced(path: tuple[str, ...], now: Sequence[Setting]) -> bool:
    """Whether a value stands where there was a table, or a table of other keys."""
    return any(setting.path == path[: len(setting.path)] for setting in now)


def _origin(path: tuple[str, ...], file: SweepFile) -> str:
    flag = next((override.flag for override in file.overrides if path[: len(override.path)] == override.path), None)
    if flag is not None:
        return f"flag {flag}"
    if not holds(file.document, path):
        return DEFAULT
    layers = (layer for layer in file.layers if holds(layer.document, path))
    layer = next(layers, Layer(source=file.source, document={}))
    return f"{'preset' if layer.is_preset else 'file'} {layer.source}"
