"""What planning, scheduling, storing and sharing trunks cost, as shares of what they serve. See bench/README.md.

python -m bench.orchestration [SECTION ...] [--quick] [--workers N] [--budgets B,B,...]
"""

import argparse
import cProfile
import heapq
import itertools
import json
import os
import pstats
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from mor_core.config.model import ModelConfig
from mor_core.config.sizes import SMALL_LADDER
from mor_core.data.prepare import prepare
from mor_core.data.snapshot import DataSnapshot
from mor_core.model.transformer import build_model
from mor_core.training.checkpoint import save_checkpoint
from mor_core.training.loop import train_steps
from mor_core.training.optim import build_optimizer
from orchestrator.planning.cells import Cell
from orchestrator.planning.costs.estimate import estimate
from orchestrator.planning.costs.machine import assumed_throughput
from orchestrator.planning.identity import Segment
from orchestrator.planning.plan import Plan, flops_by_segment, plan
from orchestrator.planning.spec.sweep_file import Override
from orchestrator.planning.spec.sweep_spec import SweepSpec, load_spec
from orchestrator.records.revisions import record_revision
from orchestrator.running.ray.executor import RayExecutor
from orchestrator.running.schedule import chain_flops
from orchestrator.running.segment.job import Job
from orchestrator.store.published import RESULT_SCHEMA, result_content
from orchestrator.store.store import Store

SEGMENT_SECONDS = 60.0
"""The segment that overheads are compared with: a short one."""

MADE_UP_DATA = DataSnapshot(
    name="made-up",
    fingerprint="a" * 64,
    tokenizer_fingerprint="b" * 64,
    vocab_size=512,
    train_tokens=20_000_000,
    valid_tokens=1_000_000,
    train_bytes=48_000_000,
    valid_bytes=2_400_000,
    folder=Path("made-up"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line said."""

    quick: bool
    """Smaller grids: minutes become seconds, and small shares become noisy."""
    workers: int
    """Segments at a time in the sections that run any."""
    budgets: list[str] | None
    """FLOPs of each cell of the real sweep; None takes cells of seconds, as in the `cpu` preset."""


def spec_of(preset: str, **changes: Any) -> SweepSpec:
    """A shipped sweep with top-level keys, or section__key, replaced."""
    flags = [Override(flag=name, path=tuple(name.split("__")), value=value) for name, value in changes.items()]
    return load_spec(preset, flags)


def report(quantity: str, value: str, goal: str = "") -> None:
    print(f"  {quantity:<66} {value:>14}   {goal}", flush=True)


def dispatch(options: Options) -> None:
    """Ray tasks that find their segment published: everything around a segment, and nothing in it."""
    spec = spec_of("cpu", seeds=list(range(1 if options.quick else 6)))
    segments = plan(spec, MADE_UP_DATA).segments
    with tempfile.TemporaryDirectory(prefix="ms-") as folder:
        store = Store(root=Path(folder))
        publish_made_up(store, segments)
        job = Job(results=store.root, data_folder=Path(folder), checkpoint_every_steps=200)
        outcomes = RayExecutor(workers=options.workers).run(segments, job, {})
        arrivals = [time.monotonic() for outcome in outcomes if outcome is not None]
    # The first outcomes wait for worker processes to start.
    counted = arrivals[len(arrivals) // 4 :]
    seconds = options.workers * (counted[-1] - counted[0]) / (len(counted) - 1)
    report(f"worker seconds per segment that does nothing, {len(counted)} segments", f"{1000 * seconds:.1f} ms")
    report(f"share of a segment of {SEGMENT_SECONDS:.0f} s", f"{seconds / SEGMENT_SECONDS:.3%}", "< 2 %")


def publish_made_up(store: Store, segments: Sequence[Segment]) -> None:
    """A result for each segment, as short as results are."""
    evaluation = {"loss": 3.0, "loss_topk": 3.0, "bits_per_byte": 1.0, "tokens": 65536, "depth_mean": 1.0}
    evaluation |= {
        "depth_histogram": [1.0],
        "realised_capacity": [1.0],
        "planned_capacity": [1.0],
        "forward_flops_per_token": 1.0,
    }
    for segment in segments:
        folder = store.segment_folder(segment.id)
        folder.mkdir(parents=True)
        result = {"schema": RESULT_SCHEMA, "segment_id": segment.id, "status": "finished", "kind": segment.kind}
        result |= {"step": segment.stop_step, "wall_seconds": 1.0, "attempts": 1, "numerics": [{}], "hostname": "h"}
        result |= {"evaluation": evaluation} if segment.kind == "evaluate" else {"train_seconds": 1.0}
        (folder / "result.json").write_bytes(result_content(result))


def utilisation(options: Options) -> None:
    """A real sweep on Ray: which share of the workers' time is spent in steps, and where the rest goes.

    From the moment that Ray stands to the last outcome. Steps are a training segment's seconds between its first and
    its last, with the checkpoints that it keeps on the way; evaluations are whole, with data and model.
    """
    budgets = options.budgets or (["2e9", "4e9"] if options.quick else ["2e10", "4e10", "8e10"])
    with tempfile.TemporaryDirectory(prefix="ms-") as folder:
        corpus = made_up_text(Path(folder) / "text.jsonl")
        spec = spec_of(
            "cpu",
            budgets=budgets,
            sizes={"names": ["13k", "23k", "51k"]},
            schedule__warmup_budget=budgets[0],
            data__corpus=str(corpus),
        )
        data = prepare(spec.data_spec, Path(folder) / "cache")
        planned = plan(spec, data)
        store = Store(root=Path(folder) / "results")
        job = Job(results=store.root, data_folder=data.folder, checkpoint_every_steps=200)
        started = time.monotonic()
        ready = started
        events = RayExecutor(workers=options.workers).run(planned.segments, job, {})
        for place, _ in enumerate(events):
            ready = time.monotonic() if place == 0 else ready
        ended = time.monotonic()
        results = [result for segment in planned.segments if (result := store.result(segment.id))]
    available = options.workers * (ended - ready)
    training = sum(result.train_seconds for result in results)
    evaluating = sum(result.wall_seconds for result in results if result.kind == "evaluate")
    around = sum(result.wall_seconds for result in results) - training - evaluating
    report(f"{len(results)} segments on {options.workers} workers: in steps", f"{training / available:.1%}", "> 90 %")
    report("  in steps or in evaluations, which cells need as much", f"{(training + evaluating) / available:.1%}")
    report("  in evaluations", f"{evaluating / available:.1%}")
    report("  in a segment, around its steps: data, model, state, last checkpoint", f"{around / available:.1%}")
    report(
        "  in none: processes that start, dispatch, the tail", f"{1 - (training + evaluating + around) / available:.1%}"
    )
    report("  seconds before the first task: Ray itself", f"{ready - started:.1f} s")


def made_up_text(path: Path) -> Path:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnop", k=generator.randrange(2, 8))) for _ in range(2000)]
    lines = [json.dumps({"text": " ".join(generator.choices(words, k=400))}) for _ in range(2000)]
    path.write_text("\n".join(lines))
    return path


def order(options: Options) -> None:
    """How long sweeps take under two orders, with FLOPs for time: no clock, so no noise."""
    grids = {"paper": spec_of("paper"), "cpu": spec_of("cpu"), "cpu, 3 seeds": spec_of("cpu", seeds=[0, 1, 2])}
    for name, spec in grids.items():
        planned = plan(spec, MADE_UP_DATA if name != "paper" else replace_vocabulary(MADE_UP_DATA, 49152))
        costs, chains = flops_by_segment(planned.segments), chain_flops(planned.segments)
        plan_order = {segment.id: place for place, segment in enumerate(planned.segments)}
        longest_first = {segment.id: -chains[segment.id] for segment in planned.segments}
        for workers in (2, 4, 8, 16):
            ideal = max(sum(costs.values()) / workers, max(chains.values()))
            before, after = (makespan(planned.segments, costs, first, workers) for first in (plan_order, longest_first))
            report(
                f"{name} on {workers} workers: time over the least possible, plan order",
                f"{before / ideal:.3f}",
                f"longest chain first {after / ideal:.3f}",
            )


def replace_vocabulary(data: DataSnapshot, vocabulary: int) -> DataSnapshot:
    from dataclasses import replace

    return replace(data, vocab_size=vocabulary, valid_tokens=10**9, train_tokens=10**10)


def makespan(segments: Sequence[Segment], costs: Mapping[str, int], first: Mapping[str, int], workers: int) -> float:
    """When the last segment ends if each free worker takes the ready segment that comes first."""
    missing = {segment.id: len(segment.needs) for segment in segments}
    ready = [(first[segment.id], segment.id) for segment in segments if not segment.needs]
    heapq.heapify(ready)
    running: list[tuple[int, str]] = []
    now = 0
    while ready or running:
        while ready and len(running) < workers:
            name = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + costs[name], name))
        now, ended = heapq.heappop(running)
        for segment in segments:
            if ended in segment.needs:
                missing[segment.id] -= 1
                if not missing[segment.id]:
                    heapq.heappush(ready, (first[segment.id], segment.id))
    return now


def planning(options: Options) -> None:
    """Plan a grid of 100,000 cells; processor seconds, and what they go to."""
    cells = 10_000 if options.quick else 100_000
    spec = many_cells(cells)
    seconds, planned = cpu_seconds(lambda: plan(spec, MADE_UP_DATA))
    report(f"processor seconds to plan {len(planned.cells):,} cells", f"{seconds:.2f} s", "< 5 s for 100,000")
    profile = cProfile.Profile()
    profile.runcall(plan, spec, MADE_UP_DATA)
    for name, share in dominating(profile):
        report(f"  {name}", f"{share:.0%}")


def many_cells(cells: int) -> SweepSpec:
    """5 arms x 10 sizes x 20 budgets x as many seeds as it takes."""
    return spec_of(
        "cpu",
        budgets=[str(10**11 + 10**9 * place) for place in range(20)],
        seeds=list(range(cells // 1000)),
        sizes={"names": [size.name for size in SMALL_LADDER[2:12]]},
        arms__architectures=["vanilla", "recursive", "mor"],
        arms__recursions=[2, 3],
    )


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    value = work()
    return time.process_time() - started, value


def dominating(profile: cProfile.Profile) -> list[tuple[str, float]]:
    """The functions in which most of the time is spent, what they call left out."""
    statistics: Any = pstats.Stats(profile)
    shares = [
        (f"{name[2]} ({Path(name[0]).name})", row[2] / statistics.total_tt) for name, row in statistics.stats.items()
    ]
    return sorted(shares, key=lambda entry: -entry[1])[:6]


def status(options: Options) -> None:
    """`mor-sweep status` of a sweep of 10,000 cells, before and after its segments are published."""
    cells = 1_000 if options.quick else 10_000
    planned = plan(many_cells(cells), MADE_UP_DATA)
    with tempfile.TemporaryDirectory(prefix="ms-") as folder:
        store = Store(root=Path(folder) / "results")
        record_revision(store, planned, MADE_UP_DATA)
        for state in ("none is trained", "all are trained"):
            if state == "all are trained":
                publish_made_up(store, planned.segments)
            for flags in ([], ["--cells"]):
                seconds = min(status_seconds(store.root, flags) for _ in range(3))
                quantity = " ".join(["processor seconds of status", *flags])
                report(f"{quantity}, {len(planned.cells):,} cells, {state}", f"{seconds:.2f} s", "< 1 s")


def status_seconds(results: Path, flags: Sequence[str]) -> float:
    """Processor seconds of the command, its start included."""
    command = [
        sys.executable,
        "-c",
        "from orchestrator.cli.main import main; main()",
        "status",
        *flags,
        "--results",
        str(results),
    ]
    before = children_seconds()
    subprocess.run(command, check=True, capture_output=True)
    return children_seconds() - before


def children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def sharing(options: Options) -> None:
    """Compute executed over the sum of the cells' own, and what another budget adds."""
    paper = plan(spec_of("paper"), None)
    report("the paper's 36 cells: executed over the sum of the cells", f"{executed(paper):.3f}", "<= 0.77")
    for budget in ("9e18", "3.3e19"):
        grown = plan(spec_of("paper", budgets=["2e18", "5e18", "16.5e18", budget]), None)
        new = [cell for cell in grown.cells if cell.budget not in {paper_cell.budget for paper_cell in paper.cells}]
        added = total(grown) - total(paper)
        alone = sum(cell.flops["exact"] for cell in new)
        report(f"  and {budget} added: what is trained then, over the new cells alone", f"{added / alone:.3f}")


def executed(planned: Plan) -> float:
    return float(Fraction(total(planned), sum(cell.flops["exact"] for cell in planned.cells)))


def total(planned: Plan) -> int:
    return estimate(planned, assumed_throughput("cuda", 8), num_evaluation_sequences=500).flops


def durability(options: Options) -> None:
    """A checkpoint, and the publication of a segment, against the steps that they make safe."""
    spec = spec_of("cpu")
    planned = plan(spec, MADE_UP_DATA)
    every = spec.execution.checkpoint_every_steps
    middle = {cell.size: cell for cell in planned.cells if cell.arm == "vanilla"}
    for cell in [middle[size] for size in sorted(middle, key=lambda size: middle[size].total_params)][::3]:
        step, saved, published = durability_seconds(cell, planned, rounds=3 if options.quick else 10)
        size = f"{cell.arm} {cell.size}"
        report(f"{size}: a checkpoint every {every} steps, of training", f"{saved / (every * step):.2%}")
        share = (saved + published) / SEGMENT_SECONDS
        report(f"{size}: last checkpoint and publication of a segment of {SEGMENT_SECONDS:.0f} s", f"{share:.2%}")


def durability_seconds(cell: Cell, planned: Plan, rounds: int) -> tuple[float, float, float]:
    """Wall seconds of a step, of a checkpoint and of a publication, medians of rounds that alternate."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    of_model = [segment for segment in planned.segments if segment.trunk.model == cell.model]
    segment = next(segment for segment in of_model if segment.kind == "stable")
    assert isinstance(cell.model, ModelConfig)  # The preset has no model of one's own.
    model = build_model(cell.model, 0)
    optimizer = build_optimizer(model, cell.train)
    shape = (cell.train.batch_size, cell.model.context_length + 1)
    steps = train_steps(
        model,
        optimizer,
        cell.train,
        lambda step: np.random.default_rng(step).integers(0, cell.model.vocab_size, size=shape),
        steps=range(10**6),
        cooldown=None,
    )
    seconds: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="ms-", dir=Path.cwd()) as folder:  # /tmp may be memory.
        for place in range(rounds):
            store = Store(root=Path(folder) / str(place))
            attempt = store.new_attempt(segment)
            moments = [time.monotonic()]
            for _ in range(10):
                next(steps)
            moments.append(time.monotonic())
            save_checkpoint(attempt.final, model, optimizer, segment.stop_step)
            moments.append(time.monotonic())
            attempt.record_numerics([{}])
            store.publish(segment, attempt, attempt.final, {"status": "finished", "step": segment.stop_step})
            moments.append(time.monotonic())
            spent = [after - before for before, after in itertools.pairwise(moments)]
            seconds.append((spent[0] / 10, spent[1], spent[2]))
    step, saved, published = (sorted(durations)[rounds // 2] for durations in zip(*seconds, strict=True))
    return step, saved, published


SECTIONS: dict[str, Callable[[Options], None]] = {
    "sharing": sharing,
    "order": order,
    "planning": planning,
    "status": status,
    "durability": durability,
    "dispatch": dispatch,
    "utilisation": utilisation,
}


def main() -> None:
    """Run the sections that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="smaller grids")
    parser.add_argument("--workers", type=int, default=2, help="segments at a time")
    parser.add_argument("--budgets", help="of the real sweep, rising, with commas between (default 2e10,4e10,8e10)")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    for name in options.sections or SECTIONS:
        print(f"{name} (load {os.getloadavg()[0]:.1f})")
        budgets = options.budgets.split(",") if options.budgets else None
        SECTIONS[name](Options(quick=options.quick, workers=options.workers, budgets=budgets))


if __name__ == "__main__":
    main()
