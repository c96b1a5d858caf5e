"""The flags that change settings of a sweep file. `isoflop` has all of them, other verbs some."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.options import DEFAULT_PRESET, corpus_override
from orchestrator.planning.spec.sweep_file import Override, SweepFile, read_sweep_file, recipe_overrides

if TYPE_CHECKING:
    from orchestrator.planning.spec.sweep_spec import SweepSpec


TrunksName = Literal["shared", "per-budget"]
"""Whether budgets branch from one trunk."""

WHAT = "What is trained"
"""The panel of these flags in the help of a verb."""


@dataclass(frozen=True, kw_only=True)
class SweepFlags:
    """A sweep file and what the user changes in it, as typed; None leaves what the file says."""

    preset: Annotated[
        str,
        typer.Option(
            help="A shipped sweep (paper, cpu, gpu), a TOML file, or a sweep's sweep.json.", rich_help_panel=WHAT
        ),
    ] = DEFAULT_PRESET
    """A shipped sweep, or a path."""
    budgets: Annotated[
        str | None, typer.Option(help="Training FLOPs, such as 2e18,5e18,16.5e18.", rich_help_panel=WHAT)
    ] = None
    """FLOPs."""
    sizes: Annotated[str | None, typer.Option(help="Base shapes, such as 135M,360M.", rich_help_panel=WHAT)] = None
    """Names of shapes."""
    arms: Annotated[
        str | None, typer.Option(help="Of vanilla, recursive and mor, such as vanilla,mor.", rich_help_panel=WHAT)
    ] = None
    """Architectures."""
    recursions: Annotated[
        str | None, typer.Option(help="Recursion counts, such as 2,3: each is an arm.", rich_help_panel=WHAT)
    ] = None
    """Recursion counts."""
    only: Annotated[
        str | None, typer.Option(help="Labels of the arms to train; all by default.", rich_help_panel=WHAT)
    ] = None
    """Labels of arms."""
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2.", rich_help_panel=WHAT)] = None
    """Seeds."""
    data: Annotated[
        str | None, typer.Option(help="pinned-python, python-sources, or a path of text.", rich_help_panel=WHAT)
    ] = None
    """A corpus."""
    name: Annotated[
        str | None, typer.Option(help="The sweep's name; the preset's by default.", rich_help_panel=WHAT)
    ] = None
    """What the sweep is called."""
    trunks: Annotated[TrunksName | None, typer.Option(help="Whether budgets share a trunk.", rich_help_panel=WHAT)] = (
        None
    )
    """Whether budgets share a trunk."""
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Laws of rate and batch: step-law, porian, or a file that `tune` wrote.", rich_help_panel=WHAT
        ),
    ] = None
    """Laws of rate and batch, by name or path."""

    def overrides(self) -> "list[Override]":
        """What the flags lay over the sweep file. Raises SpecError where the corpus is empty or the recipe unknown."""
        flags = [
            Override(flag="--budgets", path=("budgets",), value=items_of(self.budgets)),
            Override(
                flag="--sizes", path=("sizes",), value=None if self.sizes is None else {"names": items_of(self.sizes)}
            ),
            Override(flag="--arms", path=("arms", "architectures"), value=items_of(self.arms)),
            Override(flag="--recursions", path=("arms", "recursions"), value=whole_items_of(self.recursions)),
            Override(flag="--only", path=("only",), value=items_of(self.only)),
            Override(flag="--seeds", path=("seeds",), value=whole_items_of(self.seeds)),
            *corpus_override(self.data),
            Override(flag="--name", path=("name",), value=self.name),
            Override(flag="--trunks", path=("trunks",), value=self.trunks),
        ]
        laid = [flag for flag in flags if flag.value is not None]
        return laid if self.recipe is None else [*laid, *recipe_overrides(self.recipe, "--recipe")]

    def spec(self) -> "SweepSpec":
        """The sweep that is asked for. Raises SpecError."""
        from orchestrator.planning.spec.sweep_spec import load_spec

        return load_spec(self.preset, self.overrides())

    def file_to_search(self) -> "SweepFile":
        """The sweep file with its arms and its corpus chosen, for a verb that makes cells of its own. Raises
        SpecError."""
        chosen = replace(self, budgets=None, sizes=None, seeds=None, name=None)
        return read_sweep_file(self.preset, chosen.overrides())


def items_of(text: str | None) -> list[str] | None:
    """A list as typed; an empty item stays, to be refused with its flag."""
    return None if text is None else [item.strip() for item in text.split(",")]


def whole_items_of(text: str | None) -> list[Any] | None:
    """Whole numbers where the items are; anything else stays as typed, to be refused with its flag."""
    items = items_of(text)
    return items and [int(item) if item.removeprefix("-").isdecimal() else item for item in items]
