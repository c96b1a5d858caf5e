"""How fast this machine trains, kept in the cache: what a probe measured, and what earlier sweeps reached.

    <cache>/probes/<sha256 of shape and numerics>.json    measured by a few real training steps of some shapes of a
                                                          plan, each in a process of its own
    <cache>/speeds/<sha256 of the setting>.json           of sweeps in whichever results folder; by exact FLOPs of a
                                                          step: exact FLOPs per second of one worker

A probe measures one worker that has the machine to itself; a sweep's other workers ran beside it, so that a worker
alone may be faster. This module loads no torch, and reading the cache starts no process.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from mor_core.config.training import NUMERICS_VERSION, TrainConfig
from mor_core.data.spec import cache_folder
from mor_core.files import write_json
from mor_core.flops import training_flops_per_token
from mor_core.training.memory import Device, training_memory_bytes
from orchestrator.planning.canonical import content_id, to_jsonable
from orchestrator.planning.costs.machine import ASSUMED_FLOPS_PER_SECOND, asked_of_driver, machine_memory
from orchestrator.planning.costs.speeds import Basis, FinishedTraining, Measured, rates_of, shapes_of, step_flops
from orchestrator.planning.costs.work import Shape, family_of, shape_of
from orchestrator.planning.plan import Plan

Value = TypeVar("Value")

SCHEMA = "mor-sweep.probe/1"
SPEEDS_SCHEMA = "mor-sweep.speeds/1"

MOST_SPEEDS = 200
"""In one file; sweeps have some tens of shapes. The oldest go first."""

SHAPES_PER_FAMILY = 3
"""Measured of the shapes with equal recursions and routing: the smallest, the largest, and one between."""

STEP_SECONDS = 10.0
"""Longest step, at the assumed speed, that a probe takes; of larger ones it takes fewer sequences, or none."""

TIMEOUT_SECONDS = 180.0
"""For one shape, libraries and compilation included."""

MEMORY_SHARE = 0.8
"""Of this machine's memory that a probe may fill, as computed."""


@dataclass(frozen=True, kw_only=True)
class ProbeSetting:
    """What a measured speed depends on beside the shape."""

    device: Device
    """What trains."""
    device_name: str
    """The processor's or the GPU's own name."""
    torch: str
    """Version of torch."""
    threads: int
    """torch threads of a CPU worker."""
    micro_batch: int | None
    """Sequences of a forward pass; None takes the whole batch."""
    compile: bool
    """See ExecutionSection."""
    activation_checkpointing: bool
    """See ExecutionSection."""
    deterministic: bool
    """See ExecutionSection."""
    numerics_version: int = NUMERICS_VERSION
    """Of the program."""


def this_setting(
    device: Device, *, micro_batch: int | None, compiled: bool, activation_checkpointing: bool, deterministic: bool
) -> ProbeSetting:
    """How this machine would train; it is taken to have equal GPUs."""
    return ProbeSetting(
        device=device,
        device_name=(asked_of_driver("name") or ["unknown GPU"])[0] if device == "cuda" else _processor_name(),
        torch=importlib.metadata.version("torch"),
        threads=1 if device == "cpu" else 0,
        micro_batch=micro_batch,
        compile=compiled,
        activation_checkpointing=activation_checkpointing,
        deterministic=deterministic,
    )


def cached_probes(plan: Plan, setting: ProbeSetting, report: Callable[[str], None]) -> dict[Shape, Measured]:
    """What has been measured of a plan's shapes. A file that cannot be read is reported and counts as none."""
    measurements = {}
    consequence = "not measured: another probe measures it again"
    for shape in shapes_of(plan):
        measurement = _cached(probe_file(shape, setting), SCHEMA, _measurement, report, consequence)
        if measurement is not None:
            measurements[shape] = measurement
    return measurements


def _measurement(document: dict[str, Any]) -> Measured:
    speed = _positive(document["tokens_per_second"])
    return Measured(tokens_per_second=speed, memory_bytes=document["memory_bytes"])


def _cached(
    path: Path, schema: str, decode: Callable[[dict[str, Any]], Value], report: Callable[[str], None], consequence: str
) -> Value | None:
    """What a file of the cache holds; None where there is none. One that cannot be read is reported, and counts as what
    `consequence` says."""
    try:
        document = json.loads(path.read_text())
        if document["schema"] != schema:
            raise ValueError(f"schema {document['schema']!r}, expected {schema!r}")
        return decode(document)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        report(f"note: {path} cannot be read ({error}) and counts as {consequence}")
        return None


def _keep(path: Path, document: dict[str, Any], report: Callable[[str], None], consequence: str) -> None:
    """Write a file of the cache; what cannot be written is reported with what follows."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, document)
    except OSError as error:
        report(f"note: {path} cannot be written ({error.strerror}): {consequence}")


def to_probe(plan: Plan, setting: ProbeSetting, measurements: Mapping[Shape, Measured]) -> list[Shape]:
    """The shapes that a probe would measure: few of each family, that fit here, and are not known."""
    families: dict[object, list[Shape]] = defaultdict(list)
    for shape in shapes_of(plan):
        if _sequences(shape, setting) > 0:
            families[family_of(shape)].append(shape)
    chosen = [shape for members in families.values() for shape in _spread(members)]
    return [shape for shape in shapes_of(plan) if shape in chosen and shape not in measurements]


def probe(plan: Plan, setting: ProbeSetting, report: Callable[[str], None]) -> dict[Shape, Measured]:
    """Measure what `to_probe` names and remember each at once; returns all that is known then.

    A shape whose process fails, is killed or takes too long is reported and stays unknown.
    """
    measurements = cached_probes(plan, setting, report)
    shapes = to_probe(plan, setting, measurements)
    names = {shape_of(cell): f"{cell.arm} {cell.size}" for cell in plan.cells}
    for number, shape in enumerate(shapes, start=1):
        measurement, sentence = _measured(shape, setting)
        report(f"probe {number} of {len(shapes)}: {names[shape]}, {sentence}")
        if measurement is None:
            continue
        measurements[shape] = measurement
        document = {"schema": SCHEMA, **asdict(measurement), "shape": to_jsonable(shape), "setting": asdict(setting)}
        _keep(probe_file(shape, setting), document, report, "the next command measures this again")
    return measurements


def _measured(shape: Shape, setting: ProbeSetting) -> tuple[Measured | None, str]:
    """What a process of its own measured, with a sentence."""
    sequences = _sequences(shape, setting)
    micro_batch = shape.batch_size if setting.micro_batch is None else min(setting.micro_batch, shape.batch_size)
    request = {
        "model": to_jsonable(shape.model),
        "train": to_jsonable(
            TrainConfig(batch_size=sequences, peak_learning_rate=1e-4, warmup_steps=0, precision=shape.precision)
        ),
        "micro_batch": min(sequences, micro_batch),
        "threads": setting.threads,
        "device": setting.device,
        "compile": setting.compile,
        "activation_checkpointing": setting.activation_checkpointing,
        "deterministic": setting.deterministic,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.planning.costs.probe_steps"],
            input=json.dumps(request),
            env=os.environ | ({"OMP_NUM_THREADS": "1"} if setting.device == "cpu" else {}),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"not measured: no answer within {TIMEOUT_SECONDS:g} s"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return None, f"not measured: its process ended with {ended} ({last})"
    reply = json.loads(done.stdout.strip().splitlines()[-1])
    whole = sequences >= micro_batch
    measurement = Measured(
        tokens_per_second=reply["tokens_per_second"], memory_bytes=reply["peak_memory_bytes"] if whole else None
    )
    speed = f"{measurement.tokens_per_second:,.0f} tokens/s over {reply['steps']} steps"
    return measurement, speed if whole else f"{speed} on {sequences} of {micro_batch} sequences at a time"


def _sequences(shape: Shape, setting: ProbeSetting) -> int:
    """Sequences of a probe's batch: of one forward pass, or fewer where those take too long or too much memory; 0 where
    even one does. Whole batches of small models, so that the optimiser's share of a step is theirs."""
    per_sequence = float(training_flops_per_token(shape.model, "exact")) * shape.model.context_length
    affordable = int(ASSUMED_FLOPS_PER_SECOND[setting.device][0] * STEP_SECONDS / per_sequence)
    at_a_time = min(setting.micro_batch or shape.batch_size, shape.batch_size)
    sequences = min(affordable, shape.batch_size)
    sequences -= sequences % at_a_time if sequences > at_a_time else 0
    # Of this machine's memory also where a GPU trains: what its own does not hold its allocator refuses.
    while sequences and _memory_bytes(shape, setting, min(sequences, at_a_time)) > MEMORY_SHARE * machine_memory():
        sequences //= 2
    return sequences


def _memory_bytes(shape: Shape, setting: ProbeSetting, sequences: int) -> int:
    """Computed peak of a step on so many sequences at a time."""
    train = TrainConfig(batch_size=shape.batch_size, peak_learning_rate=1e-4, warmup_steps=0, precision=shape.precision)
    return training_memory_bytes(
        shape.model,
        train,
        setting.device,
        micro_batch=sequences,
        checkpoint_activations=setting.activation_checkpointing,
    )


def _spread(members: Sequence[Shape]) -> list[Shape]:
    """The first, the last and what lies between, evenly."""
    if len(members) <= SHAPES_PER_FAMILY:
        return list(members)
    last = len(members) - 1
    return [members[round(place * last / (SHAPES_PER_FAMILY - 1))] for place in range(SHAPES_PER_FAMILY)]


def probe_file(shape: Shape, setting: ProbeSetting) -> Path:
    """Where the measurement of a shape is kept."""
    key = content_id({"shape": shape, "setting": setting})
    return cache_folder() / "probes" / f"{key[:32]}.json"


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{value!r} is no speed")
    return number


def remember(
    plan: Plan, setting: ProbeSetting, results: Mapping[str, FinishedTraining], report: Callable[[str], None]
) -> None:
    """Keep the speeds of the shapes of which segments are finished. What cannot be written is reported."""
    rates = rates_of(plan, setting.device, results, {})
    speeds = {
        step_flops(shape): rate.flops_per_second for shape, rate in rates.items() if rate.basis is Basis.earlier_runs
    }
    earlier = remembered(setting, report)
    if not speeds or speeds.items() <= earlier.items():
        return
    kept = list(({speed: earlier[speed] for speed in earlier if speed not in speeds} | speeds).items())[-MOST_SPEEDS:]
    document = {"schema": SPEEDS_SCHEMA, "speeds": kept}
    _keep(speeds_file(setting), document, report, "the speeds of this sweep are not remembered")


def remembered(setting: ProbeSetting, report: Callable[[str], None]) -> dict[float, float]:
    """Exact FLOPs of a step -> exact FLOPs per second of one worker. A file that cannot be read is reported and counts
    as empty."""
    consequence = "empty: the next sweep writes it again"
    return _cached(speeds_file(setting), SPEEDS_SCHEMA, _speeds, report, consequence) or {}


def _speeds(document: dict[str, Any]) -> dict[float, float]:
    return {_positive(flops): _positive(speed) for flops, speed in document["speeds"]}


def speeds_file(setting: ProbeSetting) -> Path:
    """Where the speeds of a machine are kept. What is computed at a time is told by the FLOPs."""
    return cache_folder() / "speeds" / f"{content_id(replace(setting, micro_batch=None))[:32]}.json"


def _processor_name() -> str:
    """Such as "Intel(R) Xeon(R) Processor @ 2.60GHz"; the architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
