"""`mor-sweep data`: prepare the text that a sweep trains on, once, and say what it holds."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import AsJson, print_json, say_next

if TYPE_CHECKING:
    from mor_core.data.snapshot import DataSnapshot
    from mor_core.data.spec import DataSpec

data = typer.Typer(help="Prepare the text that a sweep trains on, and say what it holds.", no_args_is_help=True)

Preset = Annotated[str, typer.Option(help="The sweep whose [data] and vocabulary count: paper, cpu, gpu or a file.")]
Corpus = Annotated[str | None, typer.Option("--data", help="python-sources, or a file or folder of text.")]


@data.command("prepare")
def prepare(
    preset: Preset = "cpu",
    corpus: Corpus = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Freeze the text anew; sweeps get new ids.")] = False,
    as_json: AsJson = False,
) -> None:
    """Freeze the text and tokenise it; does nothing where that has been done."""
    from mor_core.data import shards

    snapshot = shards.prepare(
        _data_spec(preset, corpus), refresh=refresh, report=lambda line: typer.echo(line, err=True)
    )
    _print(snapshot, preset, corpus, as_json)


@data.command("info")
def info(preset: Preset = "cpu", corpus: Corpus = None, as_json: AsJson = False) -> None:
    """Tokens, bytes and fingerprints of prepared text."""
    from mor_core.data.shards import find
    from mor_core.data.spec import DataError

    spec = _data_spec(preset, corpus)
    snapshot = find(spec)
    if snapshot is None:
        raise DataError(f"the data of {spec.corpus} is not prepared: run `mor-sweep data prepare` with the same flags")
    _print(snapshot, preset, corpus, as_json)


def _data_spec(preset: str, corpus: str | None) -> "DataSpec":
    from orchestrator.cli.options import corpus_override
    from orchestrator.spec import load_spec

    return load_spec(preset, corpus_override(corpus)).data_spec


def _print(snapshot: "DataSnapshot", preset: str, corpus: str | None, as_json: bool) -> None:
    if as_json:
        print_json("mor-sweep.data/1", {**vars(snapshot), "folder": str(snapshot.folder)})
        return
    folder: Path = snapshot.folder
    for name, value in (
        ("name", snapshot.name),
        ("fingerprint", snapshot.fingerprint),
        ("vocabulary", str(snapshot.vocab_size)),
        ("training", f"{snapshot.train_tokens:,} tokens, {snapshot.train_bytes:,} bytes"),
        ("validation", f"{snapshot.valid_tokens:,} tokens, {snapshot.valid_bytes:,} bytes"),
        ("folder", str(folder)),
    ):
        typer.echo(f"{name:12s}{value}")
    given = f" --data {shlex.quote(corpus)}" if corpus else ""
    say_next(f"isoflop --preset {shlex.quote(preset)}{given} --dry-run")
