"""`mor-sweep pilot`: a few small cells of a sweep's own arms, trained before it, and what they say of it.

The pilot's cells are cells of the sweep at smaller budgets, on the same trunks: those at its smallest budget are not
trained again by the sweep itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.advice.pilot import PilotFit, fit_pilot
from analysis.advice.power import PairAdvice, Wanted, advise
from analysis.statistics.answers import Refusal
from mor_core.data.snapshot import DataSnapshot
from orchestrator.planning.cells import Cell
from orchestrator.planning.plan import Plan, PlanError, plan, plan_of_cells
from orchestrator.planning.spec.sections import SizesSection
from orchestrator.planning.spec.sweep_file import Override, SpecError, SweepFile
from orchestrator.planning.spec.sweep_spec import SweepSpec, parse_spec
from orchestrator.records.revisions import load_sweep
from orchestrator.records.table import table
from orchestrator.store.store import Store

SIZES = 5
"""Sizes per arm and budget: the fewest that leave a parabola room for noise with a size to spare."""

REPLICATED = 3
"""Of these, the middle ones that more seeds are trained of."""


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """What is asked for."""

    file: SweepFile
    """The sweep that is to be advised, as a file."""
    spec: SweepSpec
    """The same, checked."""
    name: str
    """Of the sweep that holds the pilot's cells."""
    budgets: tuple[int, ...]
    """FLOPs in the sweep's convention, ascending."""
    sizes: tuple[str, ...] | None
    """Base shapes, or sizes of own models; None for the SIZES rungs around each expected optimum, or those that the
    sweep names."""
    replicates: int
    """Seeds of the middle sizes, at least 2."""
    wanted: Wanted
    """What the sweep is to see."""

    @property
    def pilot_spec(self) -> SweepSpec:
        """The sweep with the pilot's grid: the same settings, so that segments are shared."""
        assert self.spec.sizes is not None
        sizes = self.spec.sizes
        if self.sizes is not None:  # They are checked: a section made anew would know no sizes of own models.
            sizes = sizes.model_copy(update={"names": self.sizes, "auto": None})
        elif sizes.auto is not None:
            sizes = SizesSection(auto=sizes.auto.model_copy(update={"count": SIZES}))
        grid = {"name": self.name, "budgets": self.budgets, "seeds": tuple(range(self.replicates)), "sizes": sizes}
        return self.spec.model_copy(update=grid)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a pilot says."""

    name: str
    """The sweep of its cells."""
    fit: PilotFit
    """Noise, optima and gaps."""
    tokens_per_second: Mapping[str, float]
    """Training tokens per second of one worker by arm, of those with a finished segment; over all sizes."""
    wanted: Wanted
    """What the sweep is to see."""
    advice: tuple[PairAdvice, ...]
    """One for each pair of arms."""

    @property
    def seeds(self) -> int:
        """Seeds that show every gap for which a number could be advised; no fewer than the sweep has."""
        return max([self.wanted.seeds, *(pair.seeds for pair in self.advice if isinstance(pair.seeds, int))])

    @property
    def says_something(self) -> bool:
        """Whether any noise or any optimum is known."""
        answers = [*self.fit.noise.values(), *self.fit.optima.values()]
        return any(not isinstance(answer, Refusal) for answer in answers)


def read_pilot(
    file: SweepFile,
    *,
    name: str | None,
    budgets: Sequence[int] | None,
    sizes: Sequence[str] | None,
    replicates: int,
    sizes_flag: str = "sizes",
) -> Pilot:
    """A pilot of a sweep file. Errors call the sizes `sizes_flag`.

    Raises SpecError where a size is unknown, or the sweep has nothing that a pilot could find.
    """
    spec = parse_spec(file)
    if spec.budgets is None:
        raise SpecError("pilot finds N*(C): this sweep asks for tokens, not for budgets")
    if spec.sizes is None:
        raise SpecError("pilot finds the best size: this sweep starts from pretrained weights, which have one")
    count = spec.sizes.auto.count if spec.sizes.auto else len(spec.sizes.names or ())
    return Pilot(
        file=file,
        spec=spec,
        name=name or f"pilot-{spec.name}",
        budgets=tuple(sorted(set(budgets or (spec.budgets[0] // 2, spec.budgets[0])))),
        sizes=None if sizes is None else _known_names(file, sizes, sizes_flag),
        replicates=replicates,
        wanted=Wanted(
            sizes=count,
            seeds=len(spec.seeds),
            budgets=tuple(str(budget) for budget in spec.budgets),
        ),
    )


def _known_names(file: SweepFile, sizes: Sequence[str], flag: str) -> tuple[str, ...]:
    """The sizes as the sweep would take them. Raises SpecError."""
    override = Override(flag=flag, path=("sizes",), value={"names": list(sizes)})
    document = file.document | {"sizes": override.value}
    named = parse_spec(replace(file, document=document, overrides=(*file.overrides, override))).sizes
    assert named is not None
    return named.names or ()


def pilot_plan(pilot: Pilot, data: DataSnapshot | None) -> Plan:
    """The pilot's cells: every size once, the middle ones with every seed. Raises PlanError, SpecError."""
    spec = pilot.pilot_spec
    planned = plan(spec, data)
    middle = _middle(planned.cells)
    cells = [cell for cell in planned.cells if not cell.seed or (cell.arm, cell.budget, cell.size) in middle]
    if len(cells) < 2:
        raise PlanError("a pilot needs two cells or more: give it more sizes or budgets")
    return plan_of_cells(spec, data, cells) if data is not None else replace(planned, cells=tuple(cells))


def _middle(cells: Iterable[Cell]) -> set[tuple[str, int, str]]:
    """(arm, budget, size) of the middle sizes, by parameters."""
    sizes: dict[tuple[str, int], dict[str, int]] = {}
    for cell in cells:
        sizes.setdefault((cell.arm, cell.budget), {})[cell.size] = cell.unique_params
    middle = set()
    for (arm, budget), params in sizes.items():
        ordered = sorted(params, key=params.__getitem__)
        first = max(0, (len(ordered) - REPLICATED) // 2)
        middle |= {(arm, budget, size) for size in ordered[first : first + REPLICATED]}
    return middle


def result(store: Store, pilot: Pilot, planned: Plan) -> Found:
    """What the finished cells of the pilot say. Raises NoSuchSweep where none has been planned."""
    fit = fit_pilot(table(store, load_sweep(store, pilot.name)), level=pilot.wanted.confidence)
    return Found(
        name=pilot.name,
        fit=fit,
        tokens_per_second=_speeds(store, planned),
        wanted=pilot.wanted,
        advice=advise(fit, pilot.wanted),
    )


def _speeds(store: Store, planned: Plan) -> dict[str, float]:
    results = store.readable_results(segment.id for segment in planned.segments)
    arms = {cell.model: cell.arm for cell in planned.cells}
    tokens: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for segment in planned.segments:
        result = results.get(segment.id)
        if result is not None and result.steps_executed:
            arm = arms[segment.trunk.model]
            tokens_per_step = segment.trunk.train.batch_size * segment.trunk.model.context_length
            tokens[arm] = tokens.get(arm, 0) + result.steps_executed * tokens_per_step
            seconds[arm] = seconds.get(arm, 0.0) + result.train_seconds
    return {arm: count / seconds[arm] for arm, count in tokens.items() if seconds[arm] > 0}
