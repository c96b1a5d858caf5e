"""The pages of reference/, made from the code whenever the site is built, so that none can go stale.

.venv/bin/python docs/make_reference.py verbs.md     # prints one of them
"""

import html
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from orchestrator.cli.main import EXIT_MEANINGS, app
from orchestrator.cli.options import DOCUMENTS
from orchestrator.planning.spec.schema import sweep_schema

ROOT = Path(__file__).parents[1]


def verbs_page() -> str:
    """Every verb by the panel of `mor-sweep --help` that it is in: how it is called, what it does, what it takes."""
    verbs = list(_verbs(typer.main.get_command(app)))
    parts = ["# Verbs", "What `mor-sweep VERB --help` says, for all verbs."]
    for panel in dict.fromkeys(verb.panel for verb in verbs):
        parts += [f"## {panel}", *(_verb_text(verb) for verb in verbs if verb.panel == panel)]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A command that has none below it."""

    name: str
    """What one types, such as "data info"."""
    panel: str
    """The heading that it stands under in the help."""
    command: Any
    """Click's."""


def _verbs(command: Any, name: str = "", panel: str = "Commands") -> Iterator[Verb]:
    """Panels are given to verbs, or to the group that they are in."""
    named = getattr(command, "rich_help_panel", None)
    panel = named if isinstance(named, str) else panel
    for word, child in getattr(command, "commands", {}).items():
        yield from _verbs(child, f"{name} {word}".strip(), panel)
    if not hasattr(command, "commands"):
        yield Verb(name=name, panel=panel, command=command)


def _verb_text(verb: Verb) -> str:
    context = verb.command.context_class(verb.command, info_name=f"mor-sweep {verb.name}")
    usage = " ".join(["mor-sweep", verb.name, *verb.command.collect_usage_pieces(context)])
    records = [parameter.get_help_record(context) for parameter in verb.command.params]
    options = _table(("Option", "What"), [_option(record) for record in records if record is not None])
    return "\n\n".join([f"### {verb.name}", f"    {usage}", _help(verb.command.help or ""), options])


def _option(record: tuple[str, str]) -> tuple[str, str]:
    names, help_text = record
    return f"<code>{html.escape(names)}</code>", _words(help_text)


def _help(text: str) -> str:
    """A verb's help as Markdown: lines that are set in are examples."""
    blocks = [block.strip("\n") for block in text.replace("\b", "").split("\n\n")]
    return "\n\n".join(
        "\n".join(f"    {line.strip()}" for line in block.splitlines())
        if all(line.startswith("  ") for line in block.splitlines())
        else _words(" ".join(block.split()))
        for block in blocks
        if block.strip()
    )


def sweep_file_page() -> str:
    """Every key of a sweep file by its table: type, default, meaning."""
    schema = sweep_schema()
    parts = [
        "# Keys of a sweep file",
        "A sweep file is TOML. `mor-sweep config show --origin` prints what one resolves to, and where each value came "
        "from. `sweeps/sweep.schema.json` is the JSON Schema by which editors check one.",
        "## Top level",
        _keys(schema),
    ]
    for name, places in _places(schema).items():
        section = schema["$defs"][name]
        headline = ", ".join(f"`[{place}]`" for place in places)
        if choice := section.get("properties", {}).get("choice", {}).get("const"):
            headline += f' with `choice = "{choice}"`'
        parts += [f"## {headline} {{#{name.lower()}}}", _words(section.get("description", "")), _keys(section)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _places(schema: dict[str, Any]) -> dict[str, list[str]]:
    """By the schema's name of a table, where it stands in a sweep file, such as "sizes.auto.optimum.NAME"."""
    places: dict[str, list[str]] = {}

    def look(value: Any, place: str) -> None:
        match value:
            case {"$ref": str(target)}:
                name = target.rpartition("/")[2]
                places.setdefault(name, []).append(place)
                for key, inner in schema["$defs"][name].get("properties", {}).items():
                    look(inner, f"{place}.{key}")
            case {"anyOf": list(kinds)}:
                for kind in kinds:
                    look(kind, place)
            case {"additionalProperties": dict(inner)}:
                look(inner, f"{place}.NAME")

    for key, value in schema["properties"].items():
        look(value, key)
    return places


def _keys(section: dict[str, Any]) -> str:
    required = section.get("required", [])
    rows = [
        (f"`{key}`", _type(value), _default(value, key in required), _words(value.get("description", "")))
        for key, value in section.get("properties", {}).items()
    ]
    return _table(("Key", "Type", "Default", "What"), rows)


def _type(value: dict[str, Any]) -> str:
    """Such as "list of integer", or a link to the table that it is."""
    match value:
        case {"$ref": str(target)}:
            return f"[table](#{target.rpartition('/')[2].lower()})"
        case {"anyOf": list(kinds)}:
            return " or ".join(dict.fromkeys(_type(kind) for kind in kinds if kind.get("type") != "null"))
        case {"const": constant}:
            return f"`{constant}`"
        case {"enum": list(names)}:
            return ", ".join(f"`{name}`" for name in names)
        case {"type": "array", "items": dict(items)}:
            return f"list of {_type(items)}"
        case {"type": "object", "additionalProperties": {"$ref": str(target)}}:
            return f"[tables](#{target.rpartition('/')[2].lower()}) by name"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"table of {_type(values)}"
    return str(value.get("type", "any"))


def _default(value: dict[str, Any], is_required: bool) -> str:
    """The default as TOML has it; a table's own keys say theirs."""
    match value.get("default"):
        case bool(switch):
            return f"`{str(switch).lower()}`"
        case None | dict():
            return "must be given" if is_required else ""
        case default:
            return f"`{default}`"


def json_page() -> str:
    """Every document of `--json`."""
    intro = (
        'With `--json` a verb prints one document `{"schema": NAME/VERSION, "data": {...}}` to stdout, also where its '
        "exit code is not 0. A key may be added to `data` under the same version. One that goes, or changes its "
        "meaning, makes a new version."
    )
    rows = [(f"`{name}`", _words(verb)) for name, verb in sorted(DOCUMENTS.items())]
    return f"# JSON documents\n\n{intro}\n\n{_table(('Document', 'Printed by'), rows)}\n"


def exit_codes_page() -> str:
    """Every exit code of the command."""
    rows = [(str(code), _words(meaning)) for code, meaning in EXIT_MEANINGS.items()]
    return f"# Exit codes\n\nThe same for all verbs.\n\n{_table(('Code', 'Meaning'), rows)}\n"


def results_page() -> str:
    """results/README.md, where the columns of the run table are described, as links read from here."""
    text = (ROOT / "results" / "README.md").read_text()
    return re.sub(r"\]\((?!#|\w+://)", "](../../results/", text)


def python_page() -> str:
    """What mkdocstrings makes of the docstrings."""
    return "# Python\n\n::: mor_sweep\n\n::: orchestrator.notebook\n\n::: orchestrator.records.display.values\n"


REFERENCE: dict[str, Callable[[], str]] = {
    "verbs.md": verbs_page,
    "sweep_file.md": sweep_file_page,
    "json.md": json_page,
    "results.md": results_page,
    "exit_codes.md": exit_codes_page,
    "python.md": python_page,
}
"""By file in reference/, what makes it."""


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [" | ".join(cell.replace("|", "&#124;") for cell in row) for row in (head, ("---",) * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in cells)


def _words(text: str) -> str:
    """Plain text as Markdown: what stands between backticks stays, and no sign elsewhere means anything."""
    quoted = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\]{}])", r"\\\1", part) for part in quoted)


if __name__ == "__main__":
    sys.stdout.write(REFERENCE[sys.argv[1]]())
