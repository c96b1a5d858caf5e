"""From a plan to its results: run what is missing, mirror it, write the table. The same call again is the resume."""

import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import polars as pl
from rich.console import Console

from mor_core.data.remote import origin_of
from mor_core.data.snapshot import DataSnapshot
from orchestrator.allowance import Allowance
from orchestrator.display import lost_arm_lines
from orchestrator.drivers import driving
from orchestrator.estimate import HOUR_SECONDS
from orchestrator.executor import Executor
from orchestrator.failures import RULES
from orchestrator.identity import Segment
from orchestrator.mirror_cursor import is_current, tracking_uri
from orchestrator.mirror_process import following
from orchestrator.plan import Plan
from orchestrator.progress import Progress
from orchestrator.pruned import steps_taken_again
from orchestrator.quantities import short_budget
from orchestrator.records import write_tables
from orchestrator.remote_results import address_of, push
from orchestrator.remote_stop import SharedStop
from orchestrator.remote_work import fetch_outcome, share_revision, stop_of
from orchestrator.resources import fixed_gpus
from orchestrator.segment_run import Job
from orchestrator.spec import ExecutionSection, SweepSpec
from orchestrator.stopping import GRACE_SECONDS, StopFile, Stopping, stoppable
from orchestrator.store import Store, StoreError, remove_scratch
from orchestrator.worker import Outcome, published_outcome

EXIT_FAILED_CELLS = 3
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
    mlflow: bool = True,
    allowance: Allowance | None = None,
) -> int:
    """Compute every segment of a plan that is not published yet, or those that `allowance` lets start. Returns the exit
    code: 0, also where cells are left for later, or 3 with failed cells.

    Without `mlflow` nothing is mirrored: `mor-sweep mlflow sync` does that later.

    Raises ClusterUnreachable where a Ray address does not answer, StoreError where the results cannot be read.
    """
    store = Store(root=results.absolute())
    sweep = share_revision(store, plan, data)
    published = _published(store, plan.segments)
    allowance = allowance or Allowance(segments=frozenset(segment.id for segment in plan.segments))
    pending = _pending(plan.segments, published, allowance)
    job = Job(
        results=store.root,
        data_folder=data.folder,
        data_url=origin_of(data.folder),
        checkpoint_every_steps=spec.execution.checkpoint_every_steps,
        micro_batch=spec.execution.micro_batch,
        init_folder=Path(spec.init_from.folder).absolute() if spec.init_from else None,
        compile=spec.execution.compile,
        checkpoint_activations=spec.execution.activation_checkpointing,
        deterministic=spec.execution.deterministic,
        stall_seconds=spec.execution.stall_seconds,
        stop=stop_of(store, plan.name, on_this_host=address is None),
        run=secrets.token_hex(4),
        remote=address_of(store),
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
        if not mlflow or is_current(store, sweep, tracking_uri(store, sweep.name)):
            return _report(console, plan, table, store, published)
    mirroring = following(store, sweep.name) if mlflow else nullcontext()
    with driving(store, sweep.name), mirroring as mirror:
        if pending:
            console.print(f"{len(pending)} of {len(plan.segments)} segments to run", highlight=False)
            if allowance.said:
                console.print(f"{allowance.said}; the same command goes on with them", highlight=False, soft_wrap=True)
            again = {segment.id: steps for segment in pending if (steps := steps_taken_again(store, segment))}
            if again:
                console.print(
                    f"note: {len(again)} of them start from states that gc pruned, and take at most "
                    f"{sum(again.values())} steps of their trunks again",
                    highlight=False,
                    soft_wrap=True,
                )
            published |= _run(
                _executor(executor, workers, address, spec.execution, allowance),
                plan,
                store,
                pending,
                job,
                published,
                on_this_host=address is None,
                allowance=allowance,
            )
        table = write_tables(store, sweep)
        push(store)
    if mirror and mirror.warning:
        console.print(mirror.warning, highlight=False, soft_wrap=True)
    return _report(console, plan, table, store, published)


def _pending(
    segments: Sequence[Segment], published: Mapping[str, Outcome], allowance: Allowance
) -> tuple[Segment, ...]:
    """What this run starts, each segment after what it needs; those of canaries first."""
    first = {name for chain in allowance.canaries for name in chain}
    wanted = [each for each in segments if each.id not in published and each.id in allowance.segments]
    return tuple(sorted(wanted, key=lambda segment: segment.id not in first))


def _executor(
    name: str, workers: int, address: str | None, execution: ExecutionSection, allowance: Allowance
) -> Executor:
    if name == "in-process":
        from orchestrator.executor import InProcessExecutor

        return InProcessExecutor()
    from orchestrator.ray_executor import RayExecutor

    return RayExecutor(
        workers=workers,
        address=address,
        gpus_per_segment=fixed_gpus(execution.gpus_per_segment),
        gpu_shares=allowance.gpu_shares,
        workers_per_segment=execution.workers_per_segment,
        canaries=allowance.canaries,
    )


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
    *,
    on_this_host: bool,
    allowance: Allowance,
) -> dict[str, Outcome]:
    """The outcomes of the pending segments. Raises KeyboardInterrupt or SystemExit where it was told to stop."""
    assert job.stop is not None
    progress = Progress(plan=plan, store=store, pending=pending)
    evaluations = {str(cell.evaluate_segment) for cell in plan.cells}
    if allowance.canaries:
        progress.console.print(
            f"first {_canary_text(plan, allowance)} alone: the other cells start when it has finished",
            highlight=False,
            soft_wrap=True,
        )
    try:
        with stoppable(job.stop) as stopping, progress, closing(executor.run(pending, job, published)) as events:
            failures: list[Outcome] = []
            has_finished, hours = False, 0.0
            for outcome in events:
                if outcome is not None:
                    fetch_outcome(store, outcome.segment_id)
                    progress.record(outcome)
                    has_finished |= outcome.status == "finished" and outcome.segment_id in evaluations
                    if outcome.failure is not None and RULES[outcome.failure].shared:
                        failures.append(outcome)
                        if len(failures) == 2 and not has_finished and fail_alike(*failures):
                            said = f"the first two segments failed alike, so no other is started: {outcome.reason}"
                            _launch_no_more(job.stop, progress, said)
                    more = _hours(store, outcome, allowance)
                    if allowance.max_hours is not None and hours < allowance.max_hours <= hours + more:
                        said = (
                            f"{hours + more:.3g} {allowance.hours_unit} are used, --max-gpu-hours "
                            f"{allowance.max_hours:g} allows no more: what runs goes on to its end, nothing else starts"
                        )
                        _launch_no_more(job.stop, progress, said)
                    hours += more
                progress.refresh()
                if isinstance(job.stop, SharedStop):
                    job.stop.announce()
                if stopping.number is not None and _may_leave(stopping, store, pending, on_this_host):
                    break
    except (KeyboardInterrupt, SystemExit):
        progress.console.print("stopped: the same command goes on from the last checkpoints", highlight=False)
        raise
    finally:
        remove_scratch(store, job.run)
    return progress.outcomes


def _may_leave(stopping: Stopping, store: Store, pending: tuple[Segment, ...], on_this_host: bool) -> bool:
    """Whether no worker is left that keeps a checkpoint, as far as locks tell, or one takes too long."""
    if stopping.seconds() > GRACE_SECONDS:
        return True
    return on_this_host and not any(store.is_locked(segment.id) for segment in pending)


def fail_alike(first: Outcome, second: Outcome) -> bool:
    """Whether two segments failed for what looks like one cause that all the others share."""
    if first.failure is None or first.failure is not second.failure or not RULES[first.failure].shared:
        return False
    texts = {_ID_OR_NUMBER.sub("#", outcome.reason) for outcome in (first, second)}
    return len(texts) == 1


_ID_OR_NUMBER = re.compile(r"[0-9a-f]{8,}|\d+")


def _launch_no_more(stop: StopFile, progress: Progress, said: str) -> None:
    progress.console.print(said, highlight=False, markup=False, soft_wrap=True)
    stop.ask("launch no more")


def _hours(store: Store, outcome: Outcome, allowance: Allowance) -> float:
    """Device-hours that a segment took which this run has published; of a failed one nothing is known."""
    if outcome.status not in ("finished", "diverged"):
        return 0.0
    result = store.readable_results([outcome.segment_id]).get(outcome.segment_id, {})
    devices = allowance.gpu_shares.get(outcome.segment_id, allowance.devices_per_segment)
    return result.get("wall_seconds", 0.0) * devices / HOUR_SECONDS


def _canary_text(plan: Plan, allowance: Allowance) -> str:
    """Such as "vanilla 10k at 8e10"."""
    last = allowance.canaries[0][-1]
    cell = next(cell for cell in plan.cells if cell.evaluate_segment == last)
    return f"{cell.arm} {cell.size} at {short_budget(cell.budget)}"


def _report(console: Console, plan: Plan, table: pl.DataFrame, store: Store, outcomes: dict[str, Outcome]) -> int:
    """What became of this plan's cells, and what to do next."""
    planned = table.filter(pl.col("cell_id").is_in([str(cell.cell_id) for cell in plan.cells]))
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
    for line in lost_arm_lines(plan):
        console.print(f"note: {line}", highlight=False, soft_wrap=True)
    if count := unfinished.height - failed.height:
        console.print(f"{count} cells are left for later: the same command goes on with them", highlight=False)
    if failed.height:
        return EXIT_FAILED_CELLS
    if unfinished.height:
        return 0
    where = "" if store.root == Path("results").absolute() else f" --results {address_of(store) or store.root}"
    # Cells of equal tokens have no budget in common, so there is nothing to fit.
    verbs = ("ui",) if plan.tokens else ("fit", "plot frontier", "ui")
    console.print("next: " + ", ".join(f"mor-sweep {verb}{where}" for verb in verbs), highlight=False, soft_wrap=True)
    return 0
