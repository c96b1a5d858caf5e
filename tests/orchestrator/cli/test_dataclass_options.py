"""Flags said once: the fields of a dataclass as options of a verb."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer.testing import CliRunner

from orchestrator.cli.options import Taken, options_from_dataclass


@dataclass(frozen=True, kw_only=True)
class Where:
    place: Annotated[str | None, typer.Argument()] = None
    folder: Annotated[Path, typer.Option(help="A folder.")] = Path("here")


@dataclass(frozen=True, kw_only=True)
class Wider(Where):
    wide: Annotated[bool, typer.Option("--wide")] = False


def made():
    app = typer.Typer()
    heard = []

    @app.command()
    @options_from_dataclass
    def verb(where: Wider, count: Annotated[int, typer.Option(min=1)] = 3) -> None:
        """What it does."""
        heard.append((where, count))

    return app, heard


def test_every_field_is_an_option_and_comes_back_in_its_value():
    app, heard = made()
    assert CliRunner().invoke(app, ["spot", "--folder", "there", "--wide", "--count", "4"]).exit_code == 0
    assert heard == [(Wider(place="spot", folder=Path("there"), wide=True), 4)]


def test_defaults_and_checks_are_those_of_the_fields_and_the_verb():
    app, heard = made()
    assert CliRunner().invoke(app, []).exit_code == 0
    assert heard == [(Wider(), 3)]
    assert CliRunner().invoke(app, ["--count", "0"]).exit_code == 2
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert "What it does." in shown
    assert "A folder." in shown


def test_a_verb_may_take_some_of_the_fields_in_its_own_words_order_and_defaults():
    app, heard = typer.Typer(), []
    taken = Taken(
        words={"folder": "", "wide": "How wide."}, after={"count": ("folder",)}, defaults={"folder": Path("elsewhere")}
    )

    @app.command()
    @options_from_dataclass
    def verb(where: Annotated[Wider, taken], count: int = 3) -> None:
        heard.append((where, count))

    assert CliRunner().invoke(app, ["--wide"]).exit_code == 0
    assert heard == [(Wider(folder=Path("elsewhere"), wide=True), 3)]
    assert CliRunner().invoke(app, ["spot"]).exit_code == 2
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert "How wide." in shown
    assert "A folder." in shown
    assert shown.index("--wide") < shown.index("--count") < shown.index("--folder")
