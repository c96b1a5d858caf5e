"""A sweep while it runs: one live table on a terminal. Elsewhere one line per finished cell, and one on how far the run
is where no cell has ended for long: trunks come first, so the first cell of a large sweep ends late. Messages go to
stderr."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.live import Live
from rich.table import Table

from mor_core.units import count_text, duration_text, short_budget
from orchestrator.planning.cells import Cell
from orchestrator.planning.identity import Segment
from orchestrator.planning.plan import Plan, first_steps, flops_by_segment
from orchestrator.records.console import Console
from orchestrator.running.outcomes import Outcome
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store

TRIED = {
    "peak_learning_rate": "learning rate",
    "batch_size": "batch",
    "weight_decay": "weight decay",
    "warmup_steps": "warm-up",
}
"""What a search tries at one place of a sweep, and how a line says it."""

QUIET_SECONDS = 300.0
"""Most time without a line where there is no terminal."""


def settings_tried(cells: Sequence[Cell]) -> dict[str, str]:
    """Cell id -> such as ", learning rate 0.0121", for cells that differ from others of their place in that alone;
    empty for a sweep that has one setting everywhere."""
    places: dict[tuple[str, str, int, int], list[Cell]] = {}
    for cell in cells:
        places.setdefault((cell.arm, cell.size, cell.budget, cell.seed), []).append(cell)
    tried: dict[str, str] = {}
    for trials in places.values():
        varied = [name for name in TRIED if len({getattr(cell.train, name) for cell in trials}) > 1]
        for cell in trials if varied else ():
            tried[str(cell.cell_id)] = "".join(f", {TRIED[name]} {getattr(cell.train, name):.3g}" for name in varied)
    return tried


@dataclass(kw_only=True)
class Progress:
    """Follows a run of `pending` segments; changes only by `record` and what it reads from the store."""

    plan: Plan
    store: Store
    pending: tuple[Segment, ...]
    console: Console = field(default_factory=lambda: Console(stderr=True))
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._started = self._last_line = time.monotonic()
        self._flops = flops_by_segment(self.plan.segments)
        self._first_steps = first_steps(self.plan.segments)
        self._cells: dict[str, list[Cell]] = {}
        for cell in self.plan.cells:
            self._cells.setdefault(str(cell.evaluate_segment), []).append(cell)
        waiting = {segment.id for segment in self.pending}
        self._left_out = {
            name for name in self._cells if name not in waiting and not self.store.is_done(name)
        }  # By a limit, for a later run.
        self._tried = settings_tried(self.plan.cells)
        self._trunks = {cell.trunk_key: f"{cell.arm} {cell.size}" for cell in self.plan.cells}
        self._initial = {segment.id: self._fraction(segment) for segment in self.pending}
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def record(self, outcome: Outcome) -> None:
        """A segment has ended; its cells are told about if it was their last. One that was stopped is still to do."""
        if outcome.status == "interrupted":
            return
        self.outcomes[outcome.segment_id] = outcome
        for cell in self._cells.get(outcome.segment_id, []):
            self._print(self._line(cell, outcome))

    def refresh(self) -> None:
        """Draw the live table anew, on a terminal; elsewhere say how far the run is where nothing was said for long."""
        if self.console.is_terminal:
            self._live.update(self.table(), refresh=True)
        elif time.monotonic() - self._last_line >= QUIET_SECONDS:
            self._print(self.standing())

    def standing(self) -> str:
        """How far the run is, in a line."""
        running = [segment for segment in self.pending if self._is_running(segment)]
        done, left = self._flops_done(running), self._flops_left(running)
        share = f"{done / (done + left):.0%} of this run's FLOPs" if done + left else "no training left"
        rate = done / max(time.monotonic() - self._started, 1e-9)
        time_left = f"; about {duration_text(left / rate)} left" if rate else ""
        place = f"[{self._done_cells()}/{len(self.plan.cells)}]"
        return f"{place} {share}, {len(self.outcomes)} of {len(self.pending)} segments{time_left}"

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def table(self) -> Table:
        """Cells by state, and how fast the running segments go."""
        running = [segment for segment in self.pending if self._is_running(segment)]
        rate = self._flops_done(running) / max(time.monotonic() - self._started, 1e-9)
        states = Counter(
            self.outcomes[name].status for name, cells in self._cells.items() if name in self.outcomes for _ in cells
        )
        table = Table(
            title=f"{self.plan.name}: {self._done_cells()} of {len(self.plan.cells)} cells done", min_width=60
        )
        for column in ("running segment", "step", "of"):
            table.add_column(column, justify="left" if column.startswith("running") else "right")
        for segment in running:
            table.add_row(self._name(segment), str(self._step(segment) or "starting"), str(segment.stop_step))
        left = self._flops_left(running)
        table.caption = "  ".join(
            [
                f"{count_text(rate)}FLOP/s",
                f"{count_text(self._tokens_per_second(running))} tokens/s",
                f"about {duration_text(left / rate)} left" if rate else "starting",
                *(f"{count} {state}" for state, count in states.items() if state != "finished"),
            ]
        )
        return table

    def _line(self, cell: Cell, outcome: Outcome) -> str:
        place = f"[{self._done_cells()}/{len(self.plan.cells)}] {cell.arm} {cell.size} at {short_budget(cell.budget)}"
        seed = _seed_text(cell.seed) + self._tried.get(str(cell.cell_id), "")
        if outcome.status != "finished":
            return f"{place}{seed}: {outcome.status}, {outcome.reason}"
        best = ", the best so far" if self._tried and self._is_best(cell) else ""
        return f"{place}{seed}: loss {self._loss(outcome.segment_id)}{best}"

    def _loss(self, segment_id: str) -> str:
        try:
            result = self.store.result(segment_id)
        except StoreError as error:
            return str(error)
        return f"{result.evaluation.loss:.4f}" if result and result.evaluation else "not found"

    def _is_best(self, cell: Cell) -> bool:
        """Whether no finished setting of the same arm, size and budget has a lower loss."""
        place = (cell.arm, cell.size, cell.budget)
        rivals = [rival for rival in self.plan.cells if (rival.arm, rival.size, rival.budget) == place]
        results = self.store.readable_results(str(rival.evaluate_segment) for rival in rivals)
        losses = {name: result.evaluation.loss for name, result in results.items() if result.evaluation is not None}
        loss = losses.get(str(cell.evaluate_segment))
        return loss is not None and loss <= min(losses.values())

    def _done_cells(self) -> int:
        waiting = ({segment.id for segment in self.pending} | self._left_out) - set(self.outcomes)
        return sum(str(cell.evaluate_segment) not in waiting for cell in self.plan.cells)

    def _is_running(self, segment: Segment) -> bool:
        """Started and not ended: it has an attempt, and what it needs is done."""
        if segment.id in self.outcomes or not all(self.store.is_done(need) for need in segment.needs):
            return False
        return any(self.store.attempts(segment.id))

    def _step(self, segment: Segment) -> int | None:
        """The step that the newest attempt has reached."""
        reached = self.store.attempts(segment.id).progress()
        return reached.step if reached else None

    def _fraction(self, segment: Segment) -> float:
        """Share of a segment's steps that have been taken."""
        first = self._first_steps[segment.id]
        step = self._step(segment)
        if step is None or segment.stop_step == first:
            return 0.0
        return max(0.0, (step - first) / (segment.stop_step - first))

    def _flops_done(self, running: list[Segment]) -> float:
        ended = sum(self._flops[name] for name, outcome in self.outcomes.items() if outcome.status == "finished")
        before = sum(self._flops[name] * share for name, share in self._initial.items())
        return max(0.0, ended + sum(self._flops[s.id] * self._fraction(s) for s in running) - before)

    def _flops_left(self, running: list[Segment]) -> float:
        left = sum(self._flops[segment.id] for segment in self.pending if segment.id not in self.outcomes)
        return left - sum(self._flops[s.id] * self._fraction(s) for s in running)

    def _tokens_per_second(self, running: list[Segment]) -> float:
        ended = [s for s in self.pending if s.id in self.outcomes and self.outcomes[s.id].status == "finished"]
        tokens = sum(self._tokens(s) * (1 - self._initial[s.id]) for s in ended)
        tokens += sum(self._tokens(s) * (self._fraction(s) - self._initial[s.id]) for s in running)
        return max(0.0, tokens) / max(time.monotonic() - self._started, 1e-9)

    def _tokens(self, segment: Segment) -> int:
        per_step = segment.trunk.train.batch_size * segment.trunk.model.context_length
        return (segment.stop_step - self._first_steps[segment.id]) * per_step

    def _name(self, segment: Segment) -> str:
        """Such as "stable mor-2 135M", with the seed where it is not 0."""
        trunk = segment.trunk
        return f"{segment.kind} {self._trunks[trunk.model, trunk.train, trunk.seed]}{_seed_text(trunk.seed)}"


def _seed_text(seed: int) -> str:
    return f" seed {seed}" if seed else ""
