"""`mor-sweep generate`, `throughput`, `depth` and `routing`: what trained cells do with text. Parse, call, print."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.figures import figure_paths
from orchestrator.cli.options import (
    AsJson,
    CellArgument,
    Results,
    SweepArgument,
    SweepOption,
    open_sweep,
    print_json,
    say_next,
)

if TYPE_CHECKING:
    from orchestrator.inference.trained_cell import TrainedCell
    from orchestrator.records.revisions import Sweep
    from orchestrator.store.store import Store


HEADINGS = {
    "tokens_per_second": "tokens/s",
    "flops_per_token": "FLOPs/token",
    "flops_ratio": "by FLOPs",
    "mean_depth": "depth",
    "preemptions": "restarts",
    "next_loss": "loss of the next token",
    "standard_error": "± s.e.",
}
"""Columns whose heading is not their name."""


SPARE = (
    "cut",
    "longest",
    "chance",
    "lowest",
    "highest",
    "flops_per_token",
    "kv_bytes",
    "preemptions",
)
"""Columns that a narrow window leaves out, the last first."""


Rule = Literal["threshold", "half"]
"""How expert-choice tokens go on."""

InferencePrecision = Literal["fp32", "bf16"]
"""What a cell computes in."""

RuleChoice = Annotated[
    Rule, typer.Option(help="When expert-choice tokens go on: calibrated threshold, or sigmoid 0.5.")
]
PrecisionChoice = Annotated[
    InferencePrecision, typer.Option(help="Of weights, keys and values: fp32, or bf16 at half the memory.")
]
Threads = Annotated[int | None, typer.Option(help="Threads of a CPU; all cores by default.", min=1)]


def generate(
    cell: CellArgument,
    prompt: Annotated[str, typer.Argument(help="Text to go on with; a new document where it is empty.")] = "",
    sweep: SweepOption = None,
    results: Results = Path("results"),
    tokens: Annotated[
        int | None, typer.Option(help="Tokens at most; what the context holds by default.", min=1)
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw among the k most likely tokens.")] = None,
    top_p: Annotated[float, typer.Option(help="Draw among the most likely tokens of this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    depth: Annotated[
        int | None, typer.Option(help="The deepest recursion of any token; the model's by default.")
    ] = None,
    rule: RuleChoice = "threshold",
    precision: PrecisionChoice = "fp32",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt with a trained cell."""
    from mor_core.inference.request import Sampling
    from orchestrator.inference.generate import Generation, generate_text

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    _, loaded, trained = _trained(results, sweep, cell, threads, precision)
    generation = Generation()
    for number, piece in enumerate(generation.of(generate_text(trained, prompt, sampling, tokens, rule, depth))):
        # The prompt comes with the first piece: a request that is refused prints nothing.
        if not as_json:
            typer.echo(piece.text if number else prompt + piece.text, nl=False)
            sys.stdout.flush()
    if as_json:
        written = {"sweep": loaded.name, "cell": trained.name, "prompt": prompt, "text": generation.text}
        depths = generation.depths
        counts = {"tokens": len(depths), "depths": depths, "seconds": generation.seconds}
        print_json("mor-sweep.generate/1", written | counts)
        return
    typer.echo()
    if generation.pieces:
        typer.echo(generation.speed_text, err=True)
    say_next(["routing", trained.name, "--sweep", loaded.name], results=results)


def throughput(
    sweep: SweepArgument = None,
    results: Results = Path("results"),
    size: Annotated[str | None, typer.Option(help="The base shape; the largest that all arms finished.")] = None,
    batches: Annotated[str, typer.Option(help="Batch sizes; max is what --kv-budget allows.")] = "1,32,max",
    texts: Annotated[int, typer.Option(help="Texts to generate per place in a batch.", min=1)] = 8,
    mean_length: Annotated[
        int | None, typer.Option(help="Mean tokens of a text; 256, or half of a short context.")
    ] = None,
    kv_budget: Annotated[int | None, typer.Option(help="Bytes for keys and values at batch max.", min=1)] = None,
    in_flight: Annotated[
        float | None, typer.Option(help="Sequences in memory per place in a batch; 2, and 3 on a GPU.", min=1.0)
    ] = None,
    rounds: Annotated[int, typer.Option(help="Timed repetitions.", min=1)] = 3,
    rule: RuleChoice = "threshold",
    precision: PrecisionChoice = "fp32",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast the arms generate, each against vanilla.

    Also draws speed against loss.
    """
    from analysis.figures.cells.inference import plot_throughput
    from analysis.figures.layout import Sheet
    from mor_core.model.device import keep_freed_memory
    from orchestrator.inference.throughput import (
        Load,
        arms_to_measure,
        default_kv_budget,
        default_mean_length,
        measure,
        parse_batches,
        with_losses,
    )

    keep_freed_memory()
    store, loaded = open_sweep(results, sweep)
    say_own_arms(loaded)
    sizes = parse_batches(batches)
    cells = [load_cell(store, loaded, cell, threads, precision) for cell in arms_to_measure(store, loaded, size)]
    load = Load(
        texts_per_place=texts,
        mean_length=mean_length or default_mean_length(cells),
        rounds=rounds,
        in_flight=in_flight,
        rule=rule,
    )
    budget = kv_budget or default_kv_budget(cells[0], load)
    speeds = with_losses(store, cells, measure(cells, sizes, load, budget, progress))
    path = figure_paths(store, loaded.name, "throughput")
    plot_throughput(speeds, Sheet(out_paths=path))
    title = (
        f"{loaded.name} {cells[0].cell.size}: texts of about {load.mean_length} tokens, {budget:,} bytes at batch max"
    )
    if as_json:
        print_json("mor-sweep.throughput/1", {"sweep": loaded.name, "title": title, "rows": speeds.to_dicts()})
        return
    show_rows(title, speeds.to_dicts())
    say_next(["compare", loaded.name], results=results)


def depth(
    cell: CellArgument,
    sweep: SweepOption = None,
    results: Results = Path("results"),
    sequences: Annotated[int, typer.Option(help="Validation sequences.", min=1)] = 64,
    rule: RuleChoice = "threshold",
    precision: PrecisionChoice = "fp32",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure loss and speed as the deepest recursion is lowered.

    Draws both.
    """
    import polars as pl

    from analysis.figures.cells.inference import plot_depth
    from analysis.figures.layout import Sheet
    from orchestrator.inference.depth import losses_by_depth

    store, loaded, trained = _trained(results, sweep, cell, threads, precision)
    rows = [asdict(row) for row in losses_by_depth(trained, sequences, rule, progress)]
    path = figure_paths(store, loaded.name, figure_name("depth", trained))
    plot_depth(pl.DataFrame(rows), trained.name, Sheet(out_paths=path))
    if as_json:
        print_json("mor-sweep.depth/1", {"sweep": loaded.name, "cell": trained.name, "rows": rows})
        return
    show_rows(f"{trained.name}: tokens kept to a depth", rows)
    say_next(["routing", trained.name, "--sweep", loaded.name], results=results)


def routing(
    cell: CellArgument,
    sweep: SweepOption = None,
    results: Results = Path("results"),
    text: Annotated[
        Path | None,
        typer.Option(help="A text file to colour; validation text by default.", exists=True, dir_okay=False),
    ] = None,
    sequences: Annotated[int, typer.Option(help="Validation sequences for the tables.", min=1)] = 64,
    rule: RuleChoice = "threshold",
    precision: PrecisionChoice = "fp32",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Show where a cell spends its recursions, token by token.

    As tables by position and by kind of token, and as a page of coloured text.
    """
    from analysis.figures.cells.inference import plot_routing
    from analysis.figures.layout import Sheet
    from orchestrator.inference import routing as view
    from orchestrator.inference.routing_page import routing_page

    passage = None if text is None else text.read_text(encoding="utf-8", errors="replace")
    store, loaded, trained = _trained(results, sweep, cell, threads, precision)
    seen = view.seen_validation(trained, sequences, rule, progress) if passage is None else []
    seen = seen if passage is None else view.seen_text(trained, passage, rule)
    frame = view.frame_of(seen)
    classes, positions = view.by_class(frame), view.by_position(frame)
    path = figure_paths(store, loaded.name, figure_name("routing", trained))
    plot_routing(positions, classes, view.histograms(seen), trained.name, Sheet(out_paths=path))
    page = path[0].with_suffix(".html")
    shown = seen[: 4 * trained.cell.model.context_length] if passage is None else seen
    page.write_text(routing_page(f"{trained.name} in sweep {loaded.name}", shown, trained.cell.recursions), "utf-8")
    typer.echo(f"every token in its colour: {page}", err=True)
    tables = {"class": classes, "depth": view.by_depth(frame), "position": positions}
    if as_json:
        rows = {key: table.to_dicts() for key, table in tables.items()}
        print_json("mor-sweep.routing/1", {"sweep": loaded.name, "cell": trained.name, "page": str(page), **rows})
        return
    for key, table in tables.items():
        show_rows(f"{trained.name}: depth by {key}" if key != "depth" else f"{trained.name}: depths", table.to_dicts())
    say_next(["depth", trained.name, "--sweep", loaded.name], results=results)


def _trained(
    results: Path, sweep: str | None, cell: str, threads: int | None, precision: InferencePrecision
) -> "tuple[Store, Sweep, TrainedCell]":
    from orchestrator.records.cell_names import find_cell

    store, loaded = open_sweep(results, sweep)
    return store, loaded, load_cell(store, loaded, find_cell(loaded, cell), threads, precision)


def load_cell(
    store: "Store",
    sweep: "Sweep",
    cell: Any,
    threads: int | None,
    precision: InferencePrecision = "fp32",
) -> "TrainedCell":
    """A trained cell for inference on so many threads. Raises NotTrained and CheckpointError."""
    import torch

    from orchestrator.inference.trained_cell import load_trained_cell

    if threads:
        torch.set_num_threads(threads)
    return load_trained_cell(store, sweep, cell, precision)


def say_own_arms(sweep: "Sweep") -> None:
    """That arms which are models of the user's own are left out, where there are any beside others."""
    from orchestrator.inference.trained_cell import own_arms

    arms = own_arms(sweep)
    if arms and any(cell.arm not in arms for cell in sweep.cells):
        typer.echo(f"left out, since this is for vanilla, recursive and mor: {', '.join(arms)}", err=True)


def figure_name(figure: str, trained: "TrainedCell") -> str:
    return f"{figure}-{trained.name.replace('/', '-')}"


def progress(text: str) -> None:
    """On stderr where someone watches."""
    if sys.stderr.isatty():
        typer.echo(text, err=True)


def show_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """A table of what was measured."""
    from orchestrator.cli.tables.listing import Column, Listing, output_console, show

    columns = tuple(
        Column(
            name=HEADINGS.get(column, column.replace("_", " ")),
            is_text=isinstance(value, str),
            spare=SPARE.index(column) + 1 if column in SPARE else 0,
        )
        for column, value in rows[0].items()
    )
    values = tuple(tuple(_cell_text(value) for value in row.values()) for row in rows)
    show(output_console(), Listing(columns=columns, rows=values, title=title))


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
