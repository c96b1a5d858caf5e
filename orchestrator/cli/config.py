"""`mor-sweep config show` and `config init`: what a sweep file resolves to, and a file of one's own to begin with."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

import typer

from mor_core.files import replace_text
from orchestrator.cli.options import DEFAULT_PRESET, AsJson, Taken, options_from_dataclass, print_json, say, say_next
from orchestrator.cli.tables.help import Verbs
from orchestrator.cli.train.sweep_flags import SweepFlags, items_of
from orchestrator.planning.spec.sweep_file import Override, SpecError, own_text, read_sweep_file
from orchestrator.store.folder import writing

config = Verbs("Show what a sweep file resolves to, and what it may hold.")


AS_WITH_ISOFLOP = {field.name: "As with isoflop." for field in fields(SweepFlags)} | {
    "preset": "",
    "recipe": "As with isoflop; a file that `tune` wrote, for one.",
}
"""By flag of `isoflop`, what it does here."""


@config.verb("show", "mor-sweep config show --preset cpu --origin")
@options_from_dataclass
def show(
    *,
    flags: Annotated[SweepFlags, Taken(words=AS_WITH_ISOFLOP)],
    ablation: Annotated[str | None, typer.Option(help="The sweep of `ablate NAME`, at the scale of --preset.")] = None,
    paper: Annotated[bool, typer.Option("--paper", hidden=True, help="As --preset paper.")] = False,
    tokens: Annotated[str | None, typer.Option(help="As with ablate.")] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say beside each value where it came from.")] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only what differs from the preset, or from the lowest file under `base`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print every value of a sweep, defaults included.

    As a sweep file that asks for what these flags ask for.
    """
    from orchestrator.cli.train.ablate import ablation_file
    from orchestrator.planning.spec.origins import changed_settings, settings_of
    from orchestrator.planning.spec.sweep_spec import parse_spec
    from orchestrator.records.terminal import command_line

    laid = flags.overrides()
    laid += [] if tokens is None else [Override(flag="--tokens", path=("tokens",), value=items_of(tokens))]
    named, study = flags.preset, "isoflop"
    if ablation is not None:
        named, study = ablation_file(ablation, DEFAULT_PRESET if paper else flags.preset), "ablation"
    file = read_sweep_file(named, laid, study)
    settings = (changed_settings if changed else settings_of)(parse_spec(file), file)
    if as_json:
        rows = [{"key": setting.key, **asdict(setting)} for setting in settings]
        print_json("mor-sweep.config/1", {"source": file.source, "settings": rows})
        return
    width = max((len(setting.line()) for setting in settings if len(setting.line()) <= WIDE), default=0)
    for setting in settings:
        typer.echo(f"{setting.line():{width}s}  # {setting.origin}" if origin else setting.line())
    command = command_line(*(["isoflop"] if ablation is None else ["ablate", ablation]))
    say(f"next: {command} with the same flags and --dry-run")


WIDE = 70
"""Longer lines do not move the column of origins."""


@config.verb("init", "mor-sweep config init mine.toml --preset cpu")
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep file to write; it must not be there yet.")],
    preset: Annotated[str, typer.Option(help="The shipped sweep to begin with: paper, gpu or cpu.")] = DEFAULT_PRESET,
) -> None:
    """Write a preset with its comments as a file of your own.

    The sweep is named as the file is.
    """
    if file.suffix != ".toml":
        raise SpecError(f"{file}: a sweep file's name ends in .toml: write it to {file.with_suffix('.toml')}")
    if file.exists():
        raise SpecError(f"{file} is there already: name another file, or delete this one first")
    with writing(file):
        replace_text(file, own_text(preset, file.stem))
    say(f"sweep file written to {file}")
    say_next(["config", "show", "--preset", str(file)], ["isoflop", "--preset", str(file), "--dry-run"])
