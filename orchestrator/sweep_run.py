"""From a plan to its results: run what is missing, mirror it, write the table. The same call again is the resume."""

import signal
import types
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import polars as pl
from rich.console import Console

from mor_core.data.snapshot import DataSnapshot
from orchestrator.display import lost_arm_lines, short_budget
from orchestrator.executor import Executor
from orchestrator.identity import Segment
from orchestrator.mirror_cursor import is_current, tracking_uri
from orchestrator.mirror_process import following
from orchestrator.plan import Plan
from orchestrator.progress import Progress
from orchestrator.records import write_tables
from orchestrator.revisions import record_revision
from orchestrator.segment_run import Job
from orchestrator.spec import SweepSpec
from orchestrator.store import Store, StoreError
from orchestrator.worker import Outcome, published_outcome

EXIT_FAILED_CELLS = 3
EXIT_TERMINATED = 143
SHOWN_FAILURES = 5


def run_sweep(
    plan: Plan,
    spec: SweepSpec,
    data: DataSnapshot,
    results: Path,
    *,
    executor: str,
    workers: int,
    address: str | None,
) -> int:
    """Compute every segment of a plan that is not published yet. Returns the exit code: 0, or 3 with failed cells.

    Raises ClusterUnreachable where a Ray address does not answer, StoreError where the results cannot be read.
    """
    store = Store(root=results.absolute())
    sweep = record_revision(store, plan, data)
    published = _published(store, plan.segments)
    pending = tuple(segment for segment in plan.segments if segment.id not in published)
    job = Job(
        results=store.root,
        data_folder=data.folder,
        checkpoint_every_steps=spec.execution.checkpoint_every_steps,
        micro_batch=spec.execution.micro_batch,
        init_folder=Path(spec.init_from.folder).absolute() if spec.init_from else None,
        compile=spec.execution.compile,
        checkpoint_activations=spec.execution.activation_checkpointing,
        deterministic=spec.execution.deterministic,
    )
    console = Console(stderr=True)
    if sweep.left_out:
        console.print(
            f"{sweep.left_out} cells that sweep {sweep.name} had under other settings are left out of its table; "
            "use --name to keep both apart",
            soft_wrap=True,
        )
    if not pending:
        console.print("nothing to train: every segment of this plan is published", highlight=False)
        table = write_tables(store, sweep)
        if is_current(store, sweep, tracking_uri(store, sweep.name)):
            return _report(console, plan, table, store, published)
    with following(store, sweep.name) as mirror:
        if pending:
            console.print(f"{len(pending)} of {len(plan.segments)} segments to run", highlight=False)
            published |= _run(_executor(executor, workers, address), plan, store, pending, job, published)
        table = write_tables(store, sweep)
    if mirror.warning:
        console.print(mirror.warning, highlight=False, soft_wrap=True)
    return _report(console, plan, table, store, published)


def _executor(name: str, workers: int, address: str | None) -> Executor:
    if name == "in-process":
        from orchestrator.executor import InProcessExecutor

        return InProcessExecutor()
    from orchestrator.ray_executor import RayExecutor

    return RayExecutor(workers=workers, address=address)


def _published(store: Store, segments: Sequence[Segment]) -> dict[str, Outcome]:
    """Outcomes of what is done already; a result that cannot be read counts as not finished, with its reason."""
    outcomes: dict[str, Outcome] = {}
    for segment in segments:
        if store.is_done(segment.id):
            try:
                outcomes[segment.id] = published_outcome(store, segment.id)
            except StoreError as error:
                outcomes[segment.id] = Outcome(segment_id=segment.id, status="failed", reason=str(error))
    return outcomes


def _run(
    executor: Executor, plan: Plan, store: Store, pending: tuple[Segment, ...], job: Job, published: dict[str, Outcome]
) -> dict[str, Outcome]:
    """The outcomes of the pending segments."""
    progress = Progress(plan=plan, store=store, pending=pending)
    try:
        with _terminable(), progress, closing(executor.run(pending, job, published)) as events:
            for outcome in events:
                if outcome is not None:
                    progress.record(outcome)
                progress.refresh()
    except (KeyboardInterrupt, SystemExit):
        progress.console.print("stopped: the same command goes on from the last checkpoints", highlight=False)
        raise
    return progress.outcomes


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C does, so that nothing is left running."""

    asked = False

    def leave(_signal: int, _frame: types.FrameType | None) -> None:
        nonlocal asked
        asked = True
        raise SystemExit(EXIT_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit as error:  # Ray replaces the code of one that is raised while it waits.
        raise SystemExit(EXIT_TERMINATED if asked else error.code) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _report(console: Console, plan: Plan, table: pl.DataFrame, store: Store, outcomes: dict[str, Outcome]) -> int:
    """What became of this plan's cells, and what to do next."""
    planned = table.filter(pl.col("cell_id").is_in([str(cell.cell_id) for cell in plan.cells]))
    failed = planned.filter(pl.col("status") != "finished")
    folder = store.sweep_folder(plan.name)
    console.print(f"{planned.height - failed.height} of {planned.height} cells finished: {folder}", soft_wrap=True)
    for row in failed.head(SHOWN_FAILURES).iter_rows(named=True):
        # A process that Ray lost wrote no reason of its own.
        lost = outcomes.get(row["evaluate_segment"])
        why = row["reason"] or (lost.reason if lost else "not run")
        # A reason to have diverged says so itself.
        state = why if row["status"] == "diverged" else f"{row['status']}, {why}"
        reason = f"  {row['arm']} {row['size']} at {short_budget(int(row['budget']))}: {state}"
        console.print(reason, soft_wrap=True, markup=False, highlight=False)
    if failed.height > SHOWN_FAILURES:
        console.print(f"  and {failed.height - SHOWN_FAILURES} more: mor-sweep status", highlight=False)
    if (failed["status"] != "diverged").any():
        console.print(
            "the same command tries what failed again, once what its reason names is mended",
            highlight=False,
            soft_wrap=True,
        )
    for line in lost_arm_lines(plan):
        console.print(f"note: {line}", highlight=False, soft_wrap=True)
    if failed.height:
        return EXIT_FAILED_CELLS
    where = "" if store.root == Path("results").absolute() else f" --results {store.root}"
    # Cells of equal tokens have no budget in common, so there is nothing to fit.
    verbs = ("ui",) if plan.tokens else ("fit", "plot frontier", "ui")
    console.print("next: " + ", ".join(f"mor-sweep {verb}{where}" for verb in verbs), highlight=False, soft_wrap=True)
    return 0
