"""Sweep files as tables: the shipped presets, a user's own TOML, those that sweeps were recorded with, recipe files
(laws of learning rate and batch; those of publications ship), and flags laid over any of them."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from mor_core.errors import Fix, UserError
from mor_core.files import UnreadableFileError, read_json_object, why_unreadable


class SpecError(UserError):
    """A sweep file or a flag that cannot be used; one sentence a line."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The near names where there are any, else all of them; only one that differs in capitals alone."""
    known = list(known)
    near = [other for other in known if other.lower() == name.lower()]
    near = near or get_close_matches(name, known, n=2, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}"


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
class SweepFile:
    """A sweep file that has been read, not yet checked."""

    source: str
    """What errors call it."""
    document: dict[str, Any]
    """Its tables, with the overrides laid over them."""
    overrides: tuple[Override, ...] = ()
    """The flags among its values."""


def read_sweep_file(preset: str, overrides: Sequence[Override] = (), study: str = "isoflop") -> SweepFile:
    """The tables of `preset` with flags over them: a shipped sweep of the study, or the path of a TOML file or of the
    sweep.json of a recorded sweep.

    Raises SpecError.
    """
    if preset.endswith(".json"):
        source, document = preset, _read_recorded(preset)
    else:
        source, text = _read(preset, study)
        document = parse_toml(text, source)
    return with_overrides(SweepFile(source=source, document=document), overrides)


def with_overrides(file: SweepFile, overrides: Sequence[Override]) -> SweepFile:
    """The file with more flags over it. Raises SpecError."""
    document = deepcopy(file.document)
    for override in overrides:
        _lay_over(document, override, file.source)
    return SweepFile(source=file.source, document=document, overrides=(*file.overrides, *overrides))


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML text; `source` is what errors call it. Raises SpecError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source} is no valid TOML: {error}") from None
    except RecursionError:
        raise SpecError(f"{source} is nested too deeply: expected a table or two, one in the other") from None


def preset_names(study: str = "isoflop") -> list[str]:
    """The shipped sweeps of a study: sweeps/STUDY_NAME.toml."""
    names = [entry.name for entry in resources.files("sweeps").iterdir()]
    return sorted(name[len(study) + 1 : -len(".toml")] for name in names if name.startswith(f"{study}_"))


def _read(preset: str, study: str) -> tuple[str, str]:
    """What to call the sweep file, and its text."""
    if is_path(preset):
        try:
            return preset, Path(preset).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(
                f"{preset} cannot be read ({why_unreadable(error)}): expected a TOML file or a name",
                fix=Fix(setting="preset"),
            ) from None
    if preset not in preset_names(study):
        raise SpecError(
            f"{preset!r} is no shipped sweep: {did_you_mean(preset, preset_names(study))}", fix=Fix(setting="preset")
        )
    name = f"{study}_{preset}.toml"
    return f"sweeps/{name}", (resources.files("sweeps") / name).read_text(encoding="utf-8")


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
        (each[RECORDED] for each in reversed(revisions) if RECORDED in each and each["settings_id"] == settings_id),
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


def recipe_names() -> list[str]:
    """The recipes that ship: sweeps/recipes/NAME.toml."""
    return sorted(entry.name.removesuffix(".toml") for entry in (resources.files("sweeps") / "recipes").iterdir())


def recipe_overrides(recipe: str, flag: str = "recipe") -> list[Override]:
    """What a recipe, by name or path, changes in a sweep file, where errors call it `flag`. Raises SpecError."""
    document = parse_toml(_text(recipe), f"{flag}: {recipe}")
    laws = document.get("train", {})
    unknown = [*(f"[{key}]" for key in document if key != "train"), *(key for key in laws if key not in KEYS)]
    if unknown or not laws:
        found = f"found {', '.join(unknown)}" if unknown else "it is empty"
        raise SpecError(
            f"{recipe}: {found}: expected [train.learning_rate.ARM] and [train.batch_law.ARM] only",
            fix=Fix(setting="recipe"),
        )
    overrides = [Override(flag=flag, path=("train", "recipe"), value="small")]
    for key, replaced in (("learning_rate", "peak_learning_rate"), ("batch_law", "batch_size")):
        if key in laws:
            overrides.append(Override(flag=flag, path=("train", key), value=laws[key]))
            overrides.append(Override(flag=flag, path=("train", replaced), value=None))
    return overrides


def _text(recipe: str) -> str:
    if is_path(recipe):
        try:
            return Path(recipe).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(
                f"{recipe} cannot be read ({why_unreadable(error)}): expected a TOML file or a name",
                fix=Fix(setting="recipe"),
            ) from None
    if recipe not in recipe_names():
        raise SpecError(
            f"{recipe!r} is no shipped recipe: {did_you_mean(recipe, recipe_names())}", fix=Fix(setting="recipe")
        )
    return (resources.files("sweeps") / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8")
