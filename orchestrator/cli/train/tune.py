"""`mor-sweep tune`: the best rate, batch, weight decay and warm-up of each arm at some sizes, and their laws."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import AsJson, Taken, options_from_dataclass, print_json, say, say_next
from orchestrator.cli.train.launch import Launch, prepared
from orchestrator.cli.train.search import NOTHING_FOUND, open_search
from orchestrator.cli.train.spending import Priced
from orchestrator.cli.train.sweep_flags import SweepFlags, items_of, whole_items_of
from orchestrator.planning.spec.sweep_file import SpecError

if TYPE_CHECKING:
    from orchestrator.search.tuning.trials import Range, SearchSpace
    from orchestrator.search.tuning.tune import Tuned, Tuning
    from orchestrator.store.store import Store

SCHEMA = "mor-sweep.tune/1"
RATE_FIGURE = "response"


Flags = Annotated[
    SweepFlags,
    Taken(
        words={
            "preset": "The sweep to tune for: a shipped one (paper, gpu, cpu) or a file.",
            "sizes": "Base shapes; the ends and the middle of the sweep's.",
            "only": "Labels of the arms to tune; all by default.",
            "seeds": "Each trains every setting once more.",
            "data": "",
            "name": "The sweep that holds the trials; tune-PRESET.",
        },
        after={"trials": ("seeds",), "multiples": ("data", "name")},
        defaults={"seeds": "0"},
    ),
]


@options_from_dataclass
def tune(
    *,
    flags: Flags,
    trials: Annotated[int, typer.Option(help="Settings to try for each arm and size.", min=1)] = 8,
    learning_rate: Annotated[
        str | None, typer.Option(help="LOW:HIGH of the peak rate; 4 times either way of the sweep's own.")
    ] = None,
    batch_size: Annotated[str | None, typer.Option(help="Sequences per step to choose from, such as 4,8,16.")] = None,
    weight_decay: Annotated[str | None, typer.Option(help="LOW:HIGH; the sweep's own by default.")] = None,
    warmup: Annotated[str | None, typer.Option(help="LOW:HIGH of the share of steps; the sweep's by default.")] = None,
    tokens_per_param: Annotated[
        float, typer.Option(help="Training tokens of a trial over unique parameters.", min=0.01)
    ] = 20.0,
    multiples: Annotated[
        str, typer.Option(help="Also measure at these multiples of those tokens, such as 0.5,2.")
    ] = "",
    how: Launch,
    money: Priced,
    as_json: AsJson = False,
) -> None:
    """Find the best hyper-parameters at some sizes, and their laws.

    Of each arm. The same command goes on where it stopped.
    """
    from orchestrator.cli.tables.listing import output_console
    from orchestrator.cli.tables.search import print_tuned
    from orchestrator.search.tuning.tune import document, first_plan, result
    from orchestrator.search.tuning.tune import tune as run_trials

    space = _space(learning_rate, batch_size, weight_decay, warmup)
    tuning = _tuning(flags, space, trials, multiples, tokens_per_param)
    spec = tuning.spec
    search = open_search(spec, how)
    store = search.store
    snapshot = prepared(spec)
    first = first_plan(store, tuning, snapshot)
    note = f"that is the first {len(first.cells)} cells; the losses choose the settings of the others"
    search.begin(first, spec, money, note=note, as_json=as_json)
    code = run_trials(store, tuning, snapshot, lambda planned: search.train(planned, spec, snapshot), say)
    tuned = result(store, tuning, snapshot)
    _write(store, tuned)
    search.mirror(tuned.name)
    if as_json:
        print_json(SCHEMA, document(tuned))
    else:
        print_tuned(tuned, output_console())
    if tuned.found:
        recipe = str(store.sweep_folder(tuned.name) / "recipe.toml")
        say_next(["isoflop", "--preset", flags.preset, "--recipe", recipe], ["ui"], results=how.results)
    raise typer.Exit(code or (0 if tuned.found else NOTHING_FOUND))


def _tuning(flags: SweepFlags, space: "SearchSpace", trials: int, multiples: str, tokens_per_param: float) -> "Tuning":
    from orchestrator.planning.spec.sweep_spec import parse_spec
    from orchestrator.search.tuning.trials import rungs_of
    from orchestrator.search.tuning.tune import Tuning

    file = flags.file_to_search()
    spec = parse_spec(file)
    if spec.schedule.kind == "cosine" and multiples:
        raise SpecError("--multiples: a cosine ends with its run, so no trial can be measured at other tokens")
    whole = whole_items_of(flags.seeds) or []
    if not whole or any(not isinstance(seed, int) or seed < 0 for seed in whole):
        raise SpecError(f"--seeds: found {flags.seeds!r}, expected whole numbers from 0, such as 0,1")
    return Tuning(
        file=file,
        name=flags.name or f"tune-{spec.name}",
        rungs=rungs_of(spec, items_of(flags.sizes), space, tokens_per_param),
        trials=trials,
        seeds=tuple(whole),
        multiples=tuple(sorted({1.0, *_numbers("--multiples", multiples)})),
    )


def _space(learning_rate: str | None, batch_size: str | None, weight_decay: str | None, warmup: str | None):
    from orchestrator.search.tuning.trials import Range, SearchSpace

    batches = None
    if batch_size is not None:
        choices = tuple(sorted({round(number) for number in _numbers("--batch-size", batch_size)}))
        if len(choices) < 2:
            raise SpecError(f"--batch-size: found {batch_size!r}, expected two numbers or more, such as 4,8,16")
        batches = Range(low=choices[0], high=choices[-1], choices=choices)
    return SearchSpace(
        learning_rate=_range("--learning-rate", learning_rate),
        batch_size=batches,
        weight_decay=_range("--weight-decay", weight_decay),
        warmup=_range("--warmup", warmup, below=1.0),
    )


def _range(flag: str, text: str | None, below: float | None = None) -> "Range | None":
    from orchestrator.search.tuning.trials import Range

    if text is None:
        return None
    ends = _numbers(flag, text.replace(":", ","))
    if len(ends) != 2 or not ends[0] < ends[1] or (below is not None and ends[1] >= below):
        limit = "" if below is None else f", both below {below:g}"
        raise SpecError(f"{flag}: found {text!r}, expected LOW:HIGH with 0 < LOW < HIGH{limit}, such as 0.01:0.1")
    return Range(low=ends[0], high=ends[1])


def _numbers(flag: str, text: str) -> list[float]:
    """Positive numbers. Raises SpecError."""
    import math

    numbers: list[float] = []
    for number in (items_of(text) if text else None) or []:
        try:
            numbers.append(float(number))
        except ValueError:
            raise SpecError(f"{flag}: found {number!r}, expected a number above 0") from None
        if not 0 < numbers[-1] < math.inf:
            raise SpecError(f"{flag}: found {number!r}, expected a number above 0")
    return numbers


def _write(store: "Store", tuned: "Tuned") -> None:
    """The figures, what was found, and the recipe, in the sweep's folder."""
    from analysis.figures.cells.tuning import Panel, plot_response, plot_response_surface
    from analysis.figures.layout import Sheet
    from mor_core.files import replace_text
    from orchestrator.cli.figures import figure_paths, write_figure_data
    from orchestrator.search.tuning.trials import LEARNING_RATE
    from orchestrator.search.tuning.tune import document, provenance, recipe_text

    folder = store.sweep_folder(tuned.name)
    panels = [
        Panel(rung=rung, trials=tried_rung.trials) for rung, tried_rung in zip(tuned.rungs, tuned.tried, strict=True)
    ]
    origin, content = provenance(store, tuned), document(tuned)
    paths = figure_paths(store, tuned.name, RATE_FIGURE)
    plot_response(panels, LEARNING_RATE, Sheet(out_paths=paths, provenance=origin))
    write_figure_data(RATE_FIGURE, paths, origin, content["rungs"])
    for name in tuned.varied:
        if name != LEARNING_RATE:
            figure = f"{RATE_FIGURE}_{name}"
            paths = figure_paths(store, tuned.name, figure)
            plot_response_surface(panels, (LEARNING_RATE, name), Sheet(out_paths=paths, provenance=origin))
            write_figure_data(figure, paths, origin, content["rungs"])
    replace_text(folder / "tuned.json", json.dumps({"schema": SCHEMA, "data": content}, indent=1))
    if tuned.found:
        replace_text(folder / "recipe.toml", recipe_text(tuned))
