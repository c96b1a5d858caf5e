"""`mor-sweep export` and `mor-sweep import`: sweeps and trained cells taken to where they are needed."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Results, SweepOption, open_results, open_sweep, say_next
from orchestrator.records.terminal import command_line
from orchestrator.store.folder import check_writable, writing

BUNDLE_SUFFIX = ".tar"
TABLE_SUFFIXES = (".csv", ".parquet")


def export(
    what: Annotated[str, typer.Argument(metavar="SWEEP|CELL", help="A sweep's name; or arm/size/budget of a cell.")],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE.tar|TABLE|FOLDER", help="A new .tar, .csv or .parquet file; or a new folder for a cell."
        ),
    ],
    sweep: SweepOption = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--with", help="Another sweep whose runs stand in the same TABLE; repeat for several."),
    ] = None,
    without_checkpoints: Annotated[
        bool, typer.Option("--without-checkpoints", help="A bundle for tables and fits only, far smaller.")
    ] = False,
    results: Results = Path("results"),
) -> None:
    """Write a sweep as one file, or a cell as a Hugging Face model.

    A sweep becomes a BUNDLE.tar for `mor-sweep import` on another machine, or, with others, one TABLE of runs (.csv or
    .parquet) that is fitted as a sweep is. A vanilla or recursive cell becomes a Llama FOLDER, which transformers
    loads.
    """
    if target.suffix in TABLE_SUFFIXES:
        if sweep is not None or without_checkpoints:
            raise typer.BadParameter("a table of runs takes neither --sweep nor --without-checkpoints")
        _export_table([what, *(others or ())], target, results)
        return
    if others:
        raise typer.BadParameter("--with is for a table of runs, whose name ends in .csv or .parquet")
    if target.suffix == BUNDLE_SUFFIX:
        if sweep is not None:
            raise typer.BadParameter("--sweep says whose CELL is meant: a bundle holds the sweep that it names")
        _export_sweep(what, target, results, checkpoints=not without_checkpoints)
        return
    if without_checkpoints:
        raise typer.BadParameter("--without-checkpoints is for a bundle, whose name ends in .tar")
    from orchestrator.maintenance.bundle import BundleError
    from orchestrator.store.sweep_document import sweep_names

    if what in sweep_names(open_results(results)):
        raise BundleError(f"{target}: {what} is a sweep, and the bundle of a sweep is a file whose name ends in .tar")
    _export_cell(what, target, sweep, results)


def _export_table(names: list[str], target: Path, results: Path) -> None:
    from analysis.runs.points import TableError
    from mor_core.files import replacing
    from orchestrator.records.fits.sweep_pair import join_sweeps
    from orchestrator.records.table import parquet_bytes

    if target.exists():
        raise TableError(f"{target} exists already: name a new file.")
    if not target.parent.is_dir():
        raise TableError(f"{target.parent} is not a folder: name a file in one that exists.")
    runs = join_sweeps(open_results(results), names)
    content = runs.write_csv().encode() if target.suffix == ".csv" else parquet_bytes(runs)
    with writing(target), replacing(target) as temporary:
        temporary.write_bytes(content)
    typer.echo(f"{target}: {runs.height} cells of {', '.join(names)}", err=True)
    typer.echo(f"next: {command_line('fit', '--table', str(target))}", err=True)


def _export_cell(cell: str, folder: Path, sweep: str | None, results: Path) -> None:
    from orchestrator.inference.trained_cell import export_cell
    from orchestrator.records.cell_names import find_cell

    store, loaded = open_sweep(results, sweep)
    exported = export_cell(store, loaded, find_cell(loaded, cell), folder)
    typer.echo(f"{exported.name} of sweep {loaded.name} written to {folder}", err=True)
    typer.echo(f'next, in Python: transformers.AutoModelForCausalLM.from_pretrained("{folder}")', err=True)


def _export_sweep(name: str, target: Path, results: Path, *, checkpoints: bool) -> None:
    from mor_core.units import bytes_text
    from orchestrator.maintenance.bundle import export_bundle

    bundle = export_bundle(open_results(results), name, target, checkpoints=checkpoints)
    omission = "" if checkpoints else " without checkpoints"
    typer.echo(
        f"{bundle.sweep}: {bundle.segments} segments{omission}, {bytes_text(bundle.num_bytes)} in {target}", err=True
    )
    typer.echo(f"next, where it is needed: {command_line('import', str(target))}", err=True)


def import_(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE.tar", help="What `mor-sweep export SWEEP` wrote.")],
    results: Results = Path("results"),
) -> None:
    """Add an exported sweep to the results, once it is verified.

    What is there already stays as it is.
    """
    from orchestrator.maintenance.bundle import BundleError
    from orchestrator.maintenance.bundle_import import import_bundle

    store = open_results(results)
    if address := store.upstream.address:
        raise BundleError(
            f"a bundle is not imported into {address}: import it into a folder, such as --results results"
        )
    check_writable(results)
    with writing(results):
        done = import_bundle(store, bundle)
    if done.left_out:
        typer.echo(
            f"left out: {done.left_out} pages and drawings (HTML, SVG), which can hold scripts: `mor-sweep report` and "
            "`mor-sweep plot` write them anew",
            err=True,
        )
    typer.echo(f"{done.sweep}: {done.added} segments added, {done.kept} were here already", err=True)
    say_next(["status", done.sweep], results=results)
