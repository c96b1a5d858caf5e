"""`mor-sweep data`: prepare the text that a sweep trains on, once, and say what it holds."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mor_core.data.spec import DataError
from orchestrator.cli.options import (
    DEFAULT_PRESET,
    AsJson,
    options_from_dataclass,
    print_json,
    say_next,
)
from orchestrator.cli.tables.help import Verbs

if TYPE_CHECKING:
    from mor_core.data.snapshot import DataSnapshot
    from orchestrator.planning.spec.sweep_spec import SweepSpec

SCHEMA = "mor-sweep.data/1"

COUNTED_TOKENS = 2**20
"""Training tokens of each of the two count models that `info` compares: seconds, whatever the vocabulary."""

FEWEST_WINDOWS = 100
"""Validation windows of which shares of a few per cent can be told."""

MUCH_OF_IT = 0.1
"""Share of the difference that one token must make to be named."""

data = Verbs("Prepare the text that a sweep trains on, and look into it.")

Preset = Annotated[str, typer.Option(help="The sweep whose [data] and vocabulary count: paper, cpu, gpu or a file.")]
Texts = Annotated[
    list[str] | None,
    typer.Argument(
        help="pinned-python, python-sources, fineweb-edu, hf:NAME[:CONFIG][@REVISION], or files and folders of text."
    ),
]
Corpus = Annotated[str | None, typer.Option("--data", help="The same as one value, with commas between several.")]
Tokenizer = Annotated[str | None, typer.Option(help="A tokenizer.json, a folder with one, or a model of the hub.")]
Megabytes = Annotated[float | None, typer.Option(help="Text enough, in 10^6 bytes.")]


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Keys of `[data]` beside the corpus; None for what the sweep file says."""

    tokenizer: Tokenizer = None
    """See mor_core.data.spec.DataSpec, also for the others."""
    max_megabytes: Megabytes = None
    """10^6 bytes of text."""

    def given(self) -> dict[str, Any]:
        """Those that a flag has set."""
        return {key: value for key, value in vars(self).items() if value is not None}


@data.verb("prepare", "mor-sweep data prepare --preset cpu")
@options_from_dataclass
def prepare(
    *,
    texts: Texts = None,
    preset: Preset = DEFAULT_PRESET,
    corpus: Corpus = None,
    settings: TextSettings,
    refresh: Annotated[bool, typer.Option("--refresh", help="Freeze the text anew; sweeps get new ids.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Parts at a time; one a core of this machine.")] = None,
    address: Annotated[str | None, typer.Option(help="host:port of a Ray cluster that shares the cache.")] = None,
    as_json: AsJson = False,
) -> None:
    """Freeze the text of a sweep and tokenise it, once.

    Does nothing where that has been done. Stopped at any moment, the same command goes on.
    """
    from mor_core.data import prepare as preparation
    from mor_core.data.large.corpus import one_after_another

    spread = one_after_another
    if address or (workers or os.cpu_count() or 1) > 1:
        from orchestrator.running.ray.executor import RayExecutor

        spread = RayExecutor(workers=workers or os.cpu_count() or 1, address=address).map
    spec = _sweep(preset, texts, corpus, settings)
    snapshot = preparation.prepare(
        spec.data_spec,
        refresh=refresh,
        report=lambda line: typer.echo(line, err=True),
        spread=spread,
    )
    if as_json:
        print_json(SCHEMA, _document(snapshot))
        return
    _print(snapshot)
    _say_next(preset, _named(texts, corpus), settings)


@data.verb("info", "mor-sweep data info --preset cpu")
@options_from_dataclass
def info(
    *,
    texts: Texts = None,
    preset: Preset = DEFAULT_PRESET,
    corpus: Corpus = None,
    settings: TextSettings,
    as_json: AsJson = False,
) -> None:
    """Say what prepared text holds and where it comes from.

    Also how often the sweep's cells would read it.
    """
    spec = _sweep(preset, texts, corpus, settings)
    snapshot = _prepared(spec)
    if as_json:
        from mor_core.data.snapshot import contents_of

        contents = {"contents": vars(contents_of(snapshot)), "concentration": _concentration(spec, snapshot)}
        print_json(SCHEMA, _document(snapshot) | contents | {"passes": _passes(spec, snapshot)})
        return
    _print(snapshot)
    _print_contents(snapshot)
    _print_concentration(spec, _concentration(spec, snapshot))
    _print_passes(spec, snapshot)
    _say_next(preset, _named(texts, corpus), settings)


@data.verb("publish", "mor-sweep data publish s3://bucket/text --preset cpu")
@options_from_dataclass
def publish(
    *,
    url: Annotated[str, typer.Argument(help="s3://bucket/prefix, or any URL that fsspec knows.")],
    preset: Preset = DEFAULT_PRESET,
    corpus: Corpus = None,
    settings: TextSettings,
    as_json: AsJson = False,
) -> None:
    """Copy prepared text to object storage.

    For machines that share no disk; prints the URL to train on.
    """
    from mor_core.data.remote import publish_folder

    if "://" not in url:
        raise DataError(f"{url} is no URL, expected one like s3://bucket/prefix: a shared folder needs no publishing")
    snapshot = _prepared(_sweep(preset, None, corpus, settings))
    published = publish_folder(snapshot.folder, url, report=lambda line: typer.echo(line, err=True))
    if as_json:
        print_json("mor-sweep.published-data/1", {"url": published, "name": snapshot.name})
        return
    typer.echo(published)
    _say_next(preset, published, TextSettings())


def _prepared(spec: "SweepSpec") -> "DataSnapshot":
    from mor_core.data.prepare import find, note_on

    snapshot = find(spec.data_spec)
    if snapshot is None:
        raise DataError(
            f"the data of {spec.data_spec.corpus} is not prepared: run `mor-sweep data prepare` with the same flags"
        )
    if note := note_on(spec.data_spec):
        typer.echo(note, err=True)
    return snapshot


def _sweep(preset: str, texts: list[str] | None, corpus: str | None, settings: TextSettings) -> "SweepSpec":
    from orchestrator.cli.options import corpus_override
    from orchestrator.planning.spec.sweep_file import Override
    from orchestrator.planning.spec.sweep_spec import load_spec

    overrides = [
        Override(flag=f"--{key.replace('_', '-')}", path=("data", key), value=value)
        for key, value in settings.given().items()
    ]
    return load_spec(preset, [*corpus_override(_named(texts, corpus)), *overrides])


def _named(texts: list[str] | None, corpus: str | None) -> str | None:
    """The corpus that the arguments name, or --data. Raises BadParameter for both."""
    if texts and corpus is not None:
        raise typer.BadParameter("the text is named twice: leave out --data or the arguments")
    return ",".join(texts) if texts else corpus


def _document(snapshot: "DataSnapshot") -> dict[str, Any]:
    return {**vars(snapshot), "folder": str(snapshot.folder)}


def _say_next(preset: str, corpus: str | None, settings: TextSettings) -> None:
    """The sweep on these data; what no flag of it says stands in its file."""
    if values := settings.given():
        keys = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
        typer.echo(f"a sweep trains on these data where its file says so: [data] {keys}", err=True)
    data_flags = ["--data", corpus] if corpus else []
    say_next(["isoflop", "--preset", preset, *data_flags, "--dry-run"])


def _print(snapshot: "DataSnapshot") -> None:
    folder: Path = snapshot.folder
    _lines(
        ("name", snapshot.name),
        ("fingerprint", snapshot.fingerprint),
        ("vocabulary", str(snapshot.vocab_size)),
        ("training", f"{snapshot.train_tokens:,} tokens, {snapshot.train_bytes:,} bytes"),
        ("validation", f"{snapshot.valid_tokens:,} tokens, {snapshot.valid_bytes:,} bytes"),
        ("folder", str(folder)),
    )


def _print_contents(snapshot: "DataSnapshot") -> None:
    from mor_core.data.snapshot import contents_of

    contents = contents_of(snapshot)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in contents.left_out.items()) or "nothing"
    rate = contents.near_duplicate_rate
    _lines(
        ("documents", f"{contents.train_documents:,} to train on, {contents.valid_documents:,} for validation"),
        ("bytes/token", f"{contents.bytes_per_token:.3f}"),
        ("left out", left_out),
        ("near dups", "not looked for" if rate is None else f"{rate:.2%} of the distinct documents, left out"),
        *((name, str(value)) for name, value in contents.provenance.items()),
    )


def _concentration(spec: "SweepSpec", snapshot: "DataSnapshot") -> dict[str, Any] | None:
    """On how few of the sweep's validation windows two models differ, as two count models show it that were counted on
    different training windows. None where there is too little text to tell."""
    from analysis.statistics.concentration import EVEN_CONCENTRATION, concentration, deciding_token
    from mor_core.data.prepare import open_tokens
    from mor_core.data.snapshot import TOKENIZER_FILE
    from mor_core.data.tokens.count_model import count_model
    from mor_core.data.tokens.tokenizer import load_tokenizer

    reader, length = open_tokens(snapshot), spec.model.context_length
    windows = min(spec.evaluation.num_sequences, reader.num_valid_sequences(length))
    counted = min(COUNTED_TOKENS // length, reader.num_train_sequences(length) // 2)
    if windows < FEWEST_WINDOWS or not counted:
        return None
    (valid_ST1,) = reader.valid_batches(windows, length, windows)
    # The order of training mixes the text, so that both saw the same kind; two steps have no window in common.
    models = [count_model(reader.train_batch(0, step, counted, length), snapshot.vocab_size) for step in (0, 1)]
    difference_ST = models[0].losses(valid_ST1) - models[1].losses(valid_ST1)
    share = concentration(difference_ST.mean(axis=1))
    if share is None:
        return None
    token, token_share = deciding_token(difference_ST, valid_ST1[:, 1:])
    text = load_tokenizer(snapshot.folder / TOKENIZER_FILE).decode([token], skip_special_tokens=False)
    return {
        "share": share,
        "even": EVEN_CONCENTRATION,
        "windows": windows,
        "token": {"id": token, "text": text, "share": token_share},
    }


def _print_concentration(spec: "SweepSpec", decided: dict[str, Any] | None) -> None:
    from analysis.statistics.concentration import FEW_WINDOWS

    if decided is None:
        _lines(("decided by", "too few windows of text to tell how few of them decide"))
        return
    token = decided["token"]
    _lines(
        (
            "decided by",
            f"{decided['share']:.1%} of the validation windows make half of the squared difference between two count "
            f"models ({decided['even']:.0%} if evenly spread)",
        )
    )
    if token["share"] >= MUCH_OF_IT:
        # A token of some of a character's bytes has no text of its own.
        text = "a part of a character" if "\ufffd" in token["text"] else ascii(token["text"])
        _lines(("", f"{token['share']:.0%} of it falls on one token, {token['id']} ({text})"))
    if decided["share"] < FEW_WINDOWS:
        remedy = "" if spec.data_spec.quality else "; quality = true in [data] leaves drawn tables and the like out"
        _lines(("", f"on so few windows models would be ranked otherwise by another text{remedy}"))


def _passes(spec: "SweepSpec", snapshot: "DataSnapshot") -> list[dict[str, Any]]:
    """How often the cells of the sweep read the training part, largest budgets first."""
    from orchestrator.planning.cells import MANY_EPOCHS
    from orchestrator.planning.plan import plan

    cells = plan(spec, None).cells  # Nothing of the data matters here but how much there is.
    budget_rows: list[dict[str, Any]] = []
    for budget in sorted({cell.budget for cell in cells}, reverse=True):
        tokens = [cell.tokens for cell in cells if cell.budget == budget]
        passes = [cell_tokens / snapshot.train_tokens for cell_tokens in tokens]
        budget_rows.append(
            {
                "budget": str(budget),
                "cells": len(tokens),
                "tokens": [min(tokens), max(tokens)],
                "passes": [min(passes), max(passes)],
                "repeating": sum(epochs > MANY_EPOCHS for epochs in passes),
            }
        )
    return budget_rows


def _print_passes(spec: "SweepSpec", snapshot: "DataSnapshot") -> None:
    from mor_core.units import amount_text, count_text, short_budget
    from orchestrator.planning.cells import MANY_EPOCHS

    rows = _passes(spec, snapshot)
    typer.echo(f"\n{spec.name}: passes over the training tokens, {sum(row['cells'] for row in rows)} cells")
    for row in rows:
        many = row["repeating"]
        flagged = f"; {many} repeat it more than {MANY_EPOCHS:g} times" if many else ""
        tokens = " to ".join(map(count_text, row["tokens"]))
        passes = " to ".join(map(amount_text, row["passes"]))
        typer.echo(f"  {short_budget(int(row['budget']))} FLOPs: {tokens} tokens, {passes} passes{flagged}")


def _lines(*rows: tuple[str, str]) -> None:
    for name, value in rows:
        typer.echo(f"{name:12s}{value}")
