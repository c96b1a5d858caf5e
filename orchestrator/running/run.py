"""From a plan to its results: run what is missing, mirror it, write the table. The same call again goes on where the
last one ended."""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import polars as pl

from mor_core.data.remote import origin_of
from mor_core.data.snapshot import DataSnapshot
from mor_core.units import short_budget
from orchestrator.planning.costs.limits import Allowance
from orchestrator.planning.identity import Segment
from orchestrator.planning.own_models.code_files import code_files
from orchestrator.planning.plan import Plan, lost_arm_lines
from orchestrator.planning.recipe import own_ladder_of
from orchestrator.planning.spec.sweep_spec import SweepSpec
from orchestrator.records.console import Console
from orchestrator.records.revisions import Sweep, share_revision
from orchestrator.records.table import table, write_tables
from orchestrator.records.terminal import command_line
from orchestrator.running.executor import Executor, InProcessExecutor
from orchestrator.running.outcomes import Outcome, published_outcome
from orchestrator.running.progress import Progress, settings_tried
from orchestrator.running.run_loop import run_segments
from orchestrator.running.segment.job import Job
from orchestrator.store.drivers import driving
from orchestrator.store.folder import holding
from orchestrator.store.pruned import steps_taken_again
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from orchestrator.tracking.cursor import is_current, tracking_uri
from orchestrator.tracking.process import following

EXIT_FAILED_CELLS = 3
SHOWN_FAILURES = 5


def run_sweep(
    store: Store,
    plan: Plan,
    spec: SweepSpec,
    data: DataSnapshot,
    executor: Executor,
    *,
    mlflow: bool = True,
    allowance: Allowance | None = None,
) -> int:
    """Compute every segment of a plan that is not published in `store`, or those that `allowance` lets start. Returns
    the exit code: 0, also where cells are left for later, or 3 with failed cells.

    Without `mlflow` nothing is mirrored: `mor-sweep mlflow sync` does that later.

    Raises ClusterUnreachable where a Ray address does not answer, StoreError where the results cannot be read, and
    ResultsGone where their folder was moved away meanwhile, TrackingUriError where MLflow could never be reached,
    OwnModelError where code of an own model cannot be shipped to Ray's workers.
    """
    uri = tracking_uri(store, plan.name) if mlflow else ""  # Said before anything is written, let alone trained.
    code = {} if isinstance(executor, InProcessExecutor) else _code_of_own_models(plan, spec)
    sweep = share_revision(store, plan, data)
    published = _published(store, plan.segments)
    allowance = allowance or Allowance(segments=frozenset(segment.id for segment in plan.segments))
    pending = _pending(plan.segments, published, allowance)
    console = Console(stderr=True)
    _say_what_is_to_do(console, store, sweep, plan, pending, allowance)
    if not pending:
        runs = write_own_tables(store, sweep, console)
        if not mlflow or is_current(store, sweep, uri):
            return _report(console, plan, runs, store, published)
    mirroring = following(store, sweep.name) if mlflow else nullcontext()
    with holding(store.root), driving(store, sweep.name), mirroring as mirror:
        if pending:
            job = _job(store, plan, spec, data, code, on_this_host=executor.on_this_host)
            published |= _run(executor, plan, store, pending, job, published, allowance)
        runs = write_own_tables(store, sweep, console)
        store.upstream.push()
    if mirror and mirror.warning:
        console.print(mirror.warning, highlight=False, markup=False, soft_wrap=True)
    return _report(console, plan, runs, store, published)


def _code_of_own_models(plan: Plan, spec: SweepSpec) -> dict[str, Path]:
    """The files of the user's own models that the plan has cells of. Raises OwnModelError where they cannot be
    shipped."""
    arms = {cell.arm for cell in plan.cells}
    own_arms = [arm for arm in spec.members if arm.label in arms and arm.own]
    return code_files({arm.own.model: own_ladder_of(spec, arm).files for arm in own_arms if arm.own})


def _job(
    store: Store, plan: Plan, spec: SweepSpec, data: DataSnapshot, code: Mapping[str, Path], *, on_this_host: bool
) -> Job:
    """How the plan's segments are executed."""
    return Job(
        results=store.location,
        data_folder=data.folder,
        data_url=origin_of(data.folder),
        checkpoint_every_steps=spec.execution.checkpoint_every_steps,
        micro_batch=spec.execution.micro_batch,
        init_folder=Path(spec.init_from.folder).absolute() if spec.init_from else None,
        import_from=Path.cwd() if any(arm.own for arm in spec.members) else None,
        code_files=code,
        compile=spec.execution.compile,
        checkpoint_activations=spec.execution.activation_checkpointing,
        deterministic=spec.execution.deterministic,
        stall_seconds=spec.execution.stall_seconds,
        stop=store.new_stop_file(plan.name, on_this_host=on_this_host),
        run=secrets.token_hex(4),
    )


def _say_what_is_to_do(
    console: Console, store: Store, sweep: Sweep, plan: Plan, pending: Sequence[Segment], allowance: Allowance
) -> None:
    """What this run starts, what it leaves out, and what it takes again."""
    if sweep.left_out:
        console.print(
            f"{sweep.left_out} cells that sweep {sweep.name} had under other settings are left out of its table; "
            "give this one another name to keep both apart",
            soft_wrap=True,
        )
    if not pending:
        console.print("nothing to train: every segment of this plan is published", highlight=False)
        return
    console.print(f"{len(pending)} of {len(plan.segments)} segments to run", highlight=False)
    if allowance.said:
        console.print(f"{allowance.said}; the same command goes on with them", highlight=False, soft_wrap=True)
    again = [steps for segment in pending if (steps := steps_taken_again(store, segment))]
    if again:
        console.print(
            f"note: {len(again)} of them start from states that gc pruned, and take at most {sum(again)} steps of "
            "their trunks again",
            highlight=False,
            soft_wrap=True,
        )


def write_own_tables(store: Store, sweep: Sweep, console: Console) -> pl.DataFrame:
    """Write the sweep's tables; the rows of its run table, or of the cells that this run began with where another
    command has left those out of the table meanwhile."""
    written = write_tables(store, sweep.name)
    if {str(cell.cell_id) for cell in sweep.cells} <= set(written["cell_id"]):
        return written
    console.print(
        f"another command has given sweep {sweep.name} other settings meanwhile: its table leaves out the cells of "
        "this one; give it another name to keep both apart",
        soft_wrap=True,
    )
    return table(store, sweep)


def _pending(
    segments: Sequence[Segment], published: Mapping[str, Outcome], allowance: Allowance
) -> tuple[Segment, ...]:
    """What this run starts, each segment after what it needs."""
    return tuple(segment for segment in segments if segment.id not in published and segment.id in allowance.segments)


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
    executor: Executor,
    plan: Plan,
    store: Store,
    pending: tuple[Segment, ...],
    job: Job,
    published: dict[str, Outcome],
    allowance: Allowance,
) -> dict[str, Outcome]:
    """The outcomes of the pending segments. Raises KeyboardInterrupt or SystemExit where it was told to stop, and
    ResultsGone."""
    progress = Progress(plan=plan, store=store, pending=pending)

    def report(line: str) -> None:
        progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def on_event(outcome: Outcome | None) -> None:
        if outcome is not None:
            progress.record(outcome)
        progress.refresh()

    with progress:
        run_segments(executor, store, pending, job, published, on_event, report, allowance.hours)
    return progress.outcomes


def _report(console: Console, plan: Plan, runs: pl.DataFrame, store: Store, outcomes: dict[str, Outcome]) -> int:
    """What became of this plan's cells, and what to do next."""
    planned = runs.filter(pl.col("cell_id").is_in([str(cell.cell_id) for cell in plan.cells]))
    unfinished = planned.filter(pl.col("status") != "finished")
    # Not started, or told to leave before the end: neither finished nor failed.
    later = (pl.col("status") == "pending") & ~pl.col("evaluate_segment").is_in(list(outcomes))
    failed = unfinished.filter(~later)
    folder = store.sweep_folder(plan.name)
    console.print(f"{planned.height - unfinished.height} of {planned.height} cells finished: {folder}", soft_wrap=True)
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
    changed = _changed(store, outcomes, failed)
    for outcome in changed[:SHOWN_FAILURES]:
        console.print(f"  segment {outcome.segment_id[:12]}: {outcome.reason}", soft_wrap=True, markup=False)
    if len(changed) > SHOWN_FAILURES:
        console.print(f"  and {len(changed) - SHOWN_FAILURES} more: mor-sweep fsck", highlight=False)
    for line in lost_arm_lines(plan):
        console.print(f"note: {line}", highlight=False, soft_wrap=True)
    if count := unfinished.height - failed.height:
        console.print(f"{count} cells are left for later: the same command goes on with them", highlight=False)
    if failed.height or changed:
        return EXIT_FAILED_CELLS
    if unfinished.height or settings_tried(plan.cells):  # A search goes on, and says itself what is next.
        return 0
    # Cells of equal tokens have no budget in common, so there is nothing to fit.
    verbs = (["ui"],) if plan.tokens else (["fit"], ["plot", "frontier"], ["ui"])
    commands = ", ".join(command_line(*verb, results=store.root) for verb in verbs)
    console.print(f"next: {commands}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _changed(store: Store, outcomes: Mapping[str, Outcome], failed: pl.DataFrame) -> list[Outcome]:
    """Published segments that were changed since, of which no failed cell speaks: a cell may be finished that rests on
    one."""
    reasons = failed["reason"].str.join(" ").item() if failed.height else ""
    return [
        outcome
        for outcome in outcomes.values()
        if outcome.status == "failed" and store.is_done(outcome.segment_id) and outcome.reason not in reasons
    ]
