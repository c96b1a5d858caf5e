"""`mor-sweep ablate`: the paper's ablations, each variant an arm. Plans, runs, and lists the variants by their loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mor_core.errors import Fix
from orchestrator.cli.options import DEFAULT_PRESET, AsJson, open_results, options_from_dataclass, print_json, say_next
from orchestrator.cli.train.launch import Launch, machine_of, print_plan, run
from orchestrator.cli.train.spending import Spending
from orchestrator.cli.train.sweep_flags import SweepFlags, items_of
from orchestrator.planning.spec.sweep_file import Override, SpecError, did_you_mean, is_path, preset_names

if TYPE_CHECKING:
    from orchestrator.cli.tables.listing import Listing
    from orchestrator.planning.spec.sweep_spec import SweepSpec

COLUMNS = ("variant", "size", "N", "tokens", "loss", "half", "top-k", "depth", "last capacity", "status")
TEXT_COLUMNS = ("variant", "size", "status")
SPARE = {"last capacity": 4, "tokens": 3, "N": 2, "half": 1}
"""What is left out where the window is too narrow, the highest first."""


@options_from_dataclass
def ablate(
    *,
    name: Annotated[str, typer.Argument(help="sharing, expert-router, token-router, kv, or the path of a TOML file.")],
    preset: Annotated[str, typer.Option(help="Scale of a shipped ablation: paper or cpu.")] = DEFAULT_PRESET,
    paper: Annotated[bool, typer.Option("--paper", hidden=True, help="As --preset paper.")] = False,
    tokens: Annotated[str | None, typer.Option(help="Training tokens of a cell, such as 10e9.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Base shapes, such as 135M,360M.")] = None,
    only: Annotated[str | None, typer.Option(help="Labels of the variants to train; all by default.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2.")] = None,
    data: Annotated[str | None, typer.Option(help="pinned-python, python-sources, or a path of text.")] = None,
    sweep_name: Annotated[str | None, typer.Option("--name", help="The sweep's name; the file's by default.")] = None,
    how: Launch,
    spending: Spending,
    as_json: AsJson = False,
) -> None:
    """Train the variants of an ablation and list them by loss.

    All variants are trained on the same number of tokens.
    """
    from orchestrator.planning.spec.sweep_spec import load_spec

    flags = SweepFlags(sizes=sizes, only=only, seeds=seeds, data=data, name=sweep_name).overrides()
    if tokens is not None:
        flags.append(Override(flag="--tokens", path=("tokens",), value=items_of(tokens)))
    spec = load_spec(ablation_file(name, DEFAULT_PRESET if paper else preset), flags, study="ablation")
    machine = machine_of(how, spec.execution)
    if how.dry_run:
        print_plan(spec, how, machine, spending, as_json=as_json)
        return
    code, spec = run(spec, how, machine, spending)
    rows = _variant_rows(spec, how.results)
    if as_json:
        print_json("mor-sweep.ablation/1", {"sweep": spec.name, "variants": rows})
    else:
        _print_variants(spec, rows)
        say_next(["status", spec.name], ["ui", spec.name], results=how.results)
    raise typer.Exit(code)


def ablation_file(name: str, preset: str) -> str:
    """The shipped sweep of an ablation at the scale of a preset, paper or cpu, or the path as given. Raises SpecError
    for an unknown name."""
    if is_path(name):
        if preset != DEFAULT_PRESET:
            raise typer.BadParameter("--preset chooses between shipped ablations: leave it out with a path")
        return name
    shipped = preset_names("ablation")
    names = [preset_name.replace("_", "-") for preset_name in shipped if f"{preset_name}_cpu" in shipped]
    if name not in names:
        raise SpecError(
            f"{name!r} is no shipped ablation: {did_you_mean(name, names)} The path of a TOML file will do too"
        )
    if preset not in (DEFAULT_PRESET, "cpu"):
        raise SpecError(f"found {preset!r}, expected paper or cpu for a shipped ablation", fix=Fix(setting="preset"))
    return name.replace("-", "_") + ("_cpu" if preset == "cpu" else "")


def _variant_rows(spec: "SweepSpec", results: Path) -> list[dict[str, Any]]:
    """The rows of this sweep file's arms, whatever else the sweep of that name has had; the lowest loss first."""
    import polars as pl

    from orchestrator.records.revisions import load_sweep
    from orchestrator.records.table import table

    store = open_results(results)
    rows = table(store, load_sweep(store, spec.name)).filter(pl.col("arm").is_in([arm.label for arm in spec.members]))
    return rows.sort("loss", nulls_last=True).to_dicts()


def _by_loss(row: Mapping[str, Any]) -> tuple[bool, float]:
    """Rows without a loss come last."""
    return row["loss"] is None, row["loss"] or 0.0


def _print_variants(spec: "SweepSpec", rows: Sequence[Mapping[str, Any]]) -> None:
    from orchestrator.cli.tables.listing import output_console, show

    paper_nll = {label: variant.paper_nll or {} for label, variant in spec.variants.items()}
    show(output_console(), variants_table(rows, paper_nll))


def variants_table(rows: Sequence[Mapping[str, Any]], paper_nll: Mapping[str, Mapping[str, float | str]]) -> "Listing":
    """Rows of the run table, the lowest loss first and those without one last, beside the losses that the paper prints.

    `paper_nll` is by label and size. A row at a size of the paper's shows the paper's loss at that size alone; a row at
    another size shows them all.
    """
    from orchestrator.cli.tables.listing import Column, Listing

    sizes = list(dict.fromkeys(size for losses in paper_nll.values() for size in losses))
    names = (*COLUMNS[:-1], *(f"paper {size}" for size in sizes), COLUMNS[-1])
    columns = tuple(
        Column(name=name, is_text=name in TEXT_COLUMNS, wraps=name == "status", spare=SPARE.get(name, 0))
        for name in names
    )
    lines: list[tuple[str, ...]] = []
    for row in sorted(rows, key=_by_loss):
        printed = paper_nll.get(row["arm"], {})
        row_sizes = [row["size"]] if row["size"] in sizes else sizes
        paper_losses = [printed.get(size) if size in row_sizes else None for size in sizes]
        state = row["status"] if not row["reason"] else f"{row['status']}: {row['reason']}"
        lines.append((*_cells(row), *(_number(value, 4) for value in paper_losses), state))
    return Listing(columns=columns, rows=tuple(lines))


def _cells(row: Mapping[str, Any]) -> list[str]:
    from mor_core.units import count_text

    losses = [_number(row[name], 4) for name in ("loss", "loss_half", "loss_topk")]
    depths = [_number(row["depth_mean"], 2), _number(row["last_capacity"], 3)]
    return [row["arm"], row["size"], count_text(row["unique_params"]), count_text(row["tokens"]), *losses, *depths]


def _number(value: float | str | None, digits: int) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.{digits}f}"
