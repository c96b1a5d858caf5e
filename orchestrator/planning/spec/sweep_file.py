"""Sweep files as tables: the shipped presets, a user's own TOML, those that sweeps were recorded with, recipe files
(laws of learning rate and batch; those of publications ship), and flags laid over any of them.

Sweep files come in layers: `base = "cpu"` takes from a preset, or from another file, what a file leaves out.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import reduce
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from mor_core.errors import Fix, UserError
from mor_core.files import UnreadableFileError, is_folder_name, read_json_object, why_unreadable

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


class SpecError(UserError):
    """A sweep file or a flag that cannot be used; one sentence a line."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The near names where there are any, else all of them; only one that differs in capitals alone."""
    names = list(names)
    near = [other for other in names if other.lower() == name.lower()]
    near = near or get_close_matches(name, names, n=2, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(names)}"


@dataclass(frozen=True, kw_only=True)
class Override:
    """A flag laid over the sweep file."""

    flag: str
    """What the user knows it by, such as a flag as typed: where an error points to."""
    path: tuple[str, ...]
    """The key it replaces."""
    value: Any
    """As a TOML file would hold it."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One sweep file as it was read."""

    source: str
    """What errors call it."""
    document: dict[str, Any]
    """Its tables, without `base`."""
    is_preset: bool = False
    """Whether it is a shipped one."""


@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """A sweep file that has been read, not yet checked."""

    source: str
    """What errors call it."""
    document: dict[str, Any]
    """Its tables, with the overrides laid over them."""
    overrides: tuple[Override, ...] = ()
    """The flags among its values."""
    layers: tuple[Layer, ...] = ()
    """The file and what lies under it by `base`, the file first; empty where none was read."""

    @property
    def is_written(self) -> bool:
        """Whether a user wrote it, or a preset is all there is: what was recorded may have come with a bundle."""
        return bool(self.layers) and not any(layer.source.endswith(".json") for layer in self.layers)


def read_sweep_file(preset: str, overrides: Sequence[Override] = (), study: str = "isoflop") -> SweepFile:
    """The tables of `preset` with flags over them: a shipped sweep of the study, or the path of a TOML file or of the
    sweep.json of a recorded sweep. A file that names a `base` lies over it, and is called by its own name where it
    gives none.

    Raises SpecError.
    """
    layers = _layers(preset, study)
    first, *under = layers
    if under:
        first = replace(first, document={"name": Path(preset).stem} | first.document)
    layers = (first, *under)
    file = SweepFile(source=first.source, document=laid_together(layers), layers=layers)
    return with_overrides(file, overrides)


def _layers(preset: str, study: str, above: tuple[str, ...] = ()) -> tuple[Layer, ...]:
    """A sweep file and those under it; `above` are the files that lie over it."""
    place = str(Path(preset).resolve()) if is_path(preset) else preset
    if place in above:
        circle = " -> ".join([*above[above.index(place) :], place])
        raise SpecError(f"{above[0]}: {BASE} goes in a circle, {circle}: end it with a preset")
    layer, base = _layer(preset, study)
    if base is None:
        return (layer,)
    if not isinstance(base, str):
        raise SpecError(f"{layer.source}: {BASE} = {base!r}: expected a preset's name or the path of a sweep file")
    # A path is meant from where its file lies.
    named = str(Path(preset).parent / Path(base).expanduser()) if is_path(base) else base
    return (layer, *_layers(named, study, (*above, place)))


def _layer(preset: str, study: str) -> tuple[Layer, object]:
    """One sweep file, and what it names as its base."""
    if preset.endswith(".json"):
        return Layer(source=preset, document=_read_recorded(preset)), None
    source, text = sweep_text(preset, study)
    document = parse_toml(text, source)
    base = document.pop(BASE, None)
    return Layer(source=source, document=document, is_preset=not is_path(preset)), base


def with_overrides(file: SweepFile, overrides: Sequence[Override]) -> SweepFile:
    """The file with more flags over it. Raises SpecError."""
    document = deepcopy(file.document)
    for override in overrides:
        _lay_over(document, override, file.source)
    return replace(file, document=document, overrides=(*file.overrides, *overrides))


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML text; `source` is what errors call it. Raises SpecError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source} is no valid TOML: {error}") from None
    except RecursionError:
        raise SpecError(f"{source} is nested too deeply: expected a table or two, one in the other") from None


def _shipped(folder: Traversable, prefix: str = "") -> dict[str, Traversable]:
    """By name, the TOML files of a folder of this program."""
    files = [file for file in folder.iterdir() if file.name.startswith(prefix) and file.name.endswith(".toml")]
    return {file.name.removeprefix(prefix).removesuffix(".toml"): file for file in files}


def _text(name: str, shipped: Mapping[str, Traversable], noun: str, setting: str) -> str:
    """Of a shipped file by its name, or of the user's by its path. Raises SpecError."""
    fix = Fix(setting=setting)
    if not is_path(name):
        if name not in shipped:
            raise SpecError(f"{name!r} is no shipped {noun}: {did_you_mean(name, sorted(shipped))}", fix=fix)
        return shipped[name].read_text(encoding="utf-8")
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = why_unreadable(error)
        raise SpecError(f"{name} cannot be read ({reason}): expected a TOML file or a name", fix=fix) from None


def preset_names(study: str = "isoflop") -> list[str]:
    """The shipped sweeps of a study: sweeps/STUDY_NAME.toml."""
    return sorted(_shipped(resources.files("sweeps"), f"{study}_"))


def sweep_text(preset: str, study: str = "isoflop") -> tuple[str, str]:
    """What to call a sweep file, shipped or by its path, and its text. Raises SpecError."""
    text = _text(preset, _shipped(resources.files("sweeps"), f"{study}_"), "sweep", "preset")
    return preset if is_path(preset) else f"sweeps/{study}_{preset}.toml", text


SCHEMA_FILE = "sweep.schema.json"
"""Ships with the sweeps: by its path in a first line, editors complete and check a sweep file."""


def own_text(preset: str, name: str) -> str:
    """A shipped sweep, with its comments, as the text of a file of one's own under another name. Raises SpecError."""
    source, text = sweep_text(preset)
    _, _, body = text.partition("\n")  # The first line names the schema that lies beside the shipped file.
    if is_folder_name(name):
        body = re.sub(r'(?m)^name = "[^"]*" *', f'name = "{name}" '.ljust(40), body, count=1)
    return f"#:schema {resources.files('sweeps') / SCHEMA_FILE}\n# As {source}, to be changed.\n{body}"


def _read_recorded(path: str) -> dict[str, Any]:
    """What a recorded sweep was last asked. Raises SpecError."""
    try:
        revisions = read_json_object(Path(path))["revisions"]
        document = recorded_document(revisions)
    except (FileNotFoundError, UnreadableFileError, LookupError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{path} cannot be read ({error!r:.200}): expected a TOML file, or the sweep.json of a sweep",
            fix=Fix(setting="preset"),
        ) from None
    if not isinstance(document, dict):
        raise SpecError(f"{path} holds no sweep file: {RECORD_IT}", fix=Fix(setting="preset"))
    return document


RECORDED = "spec"
"""Key of a plan revision in sweep.json: the resolved sweep file that it answers."""

RECORD_IT = (
    "it was recorded before sweep files were; run the sweep's command once more, which records it and trains nothing "
    "that is trained"
)


def recorded_document(revisions: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The newest sweep file among the plan revisions that have the settings of the last one; None where none is
    recorded."""
    settings_id = revisions[-1]["settings_id"]
    return next(
        (
            revision[RECORDED]
            for revision in reversed(revisions)
            if RECORDED in revision and revision["settings_id"] == settings_id
        ),
        None,
    )


def is_path(preset: str) -> bool:
    """Whether it names a file of the user's and not a shipped sweep."""
    return preset.endswith((".toml", ".json")) or "/" in preset


def is_bare_key(key: str) -> bool:
    """Whether TOML takes the key without quotes."""
    return re.fullmatch(r"[A-Za-z0-9_-]+", key) is not None


def _lay_over(document: dict[str, Any], override: Override, source: str) -> None:
    table = document
    for key in override.path[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise SpecError(f"{source}: {key} = {table!r}: expected a table")
    # A copy, since a later flag may lay a key into a table that this one brought, which is its caller's.
    table[override.path[-1]] = deepcopy(override.value)


KEYS = ("learning_rate", "batch_law")
"""Of [train]: what a recipe may hold."""


def recipe_overrides(recipe: str, flag: str = "recipe") -> list[Override]:
    """What a recipe, by name or path, changes in a sweep file, where errors call it `flag`. Raises SpecError."""
    shipped = _shipped(resources.files("sweeps") / "recipes")
    document = parse_toml(_text(recipe, shipped, "recipe", "recipe"), f"{flag}: {recipe}")
    laws = document.get("train", {})
    unknown = [*(f"[{key}]" for key in document if key != "train"), *(key for key in laws if key not in KEYS)]
    if unknown or not laws:
        problem = f"found {', '.join(unknown)}" if unknown else "it is empty"
        raise SpecError(
            f"{recipe}: {problem}: expected [train.learning_rate.ARM] and [train.batch_law.ARM] only",
            fix=Fix(setting="recipe"),
        )
    overrides = [Override(flag=flag, path=("train", "recipe"), value="small")]
    for key, replaced in (("learning_rate", "peak_learning_rate"), ("batch_law", "batch_size")):
        if key in laws:
            overrides.append(Override(flag=flag, path=("train", key), value=laws[key]))
            overrides.append(Override(flag=flag, path=("train", replaced), value=None))
    return overrides


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
